"""A function with a module of its own beside it, and work worth measuring.

scheduler deploy examples/wordcount
scheduler invoke wordcount '{"text": "a rose is a rose is a rose"}'
scheduler bench wordcount --payload '{"text": "a rose is a rose is a rose"}'
"""

from words import count


def handler(event, context):
    text = event.get("text", "")
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {type(text).__name__}")
    return count(text, top=int(event.get("top", 10)))
