"""Counting words, apart from the handler so that it can be tested without one."""

import re
from collections import Counter

WORD = re.compile(r"\w+")


def count(text, *, top):
    """The `top` commonest words and how often each stands in `text`."""
    words = Counter(word.lower() for word in WORD.findall(text))
    return {"words": sum(words.values()), "top": dict(words.most_common(top))}
