"""Names: every form Lambda accepts, nothing else, and each text means one thing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import BadRequest, NotFound
from scheduler.functions.names import LATEST, Identity, Reference, is_version, parse

HERE = Identity("local", "000000000000")
ARN = "arn:aws:lambda:local:000000000000:function:"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", Reference("hello")),
        ("a" * 64, Reference("a" * 64)),
        ("A-b_9", Reference("A-b_9")),
        ("hello:$LATEST", Reference("hello", LATEST)),
        ("hello:7", Reference("hello", "7")),
        ("hello:prod", Reference("hello", "prod")),
        ("000000000000:function:hello", Reference("hello")),
        ("000000000000:function:hello:7", Reference("hello", "7")),
        (ARN + "hello", Reference("hello")),
        (ARN + "hello:$LATEST", Reference("hello", LATEST)),
        (ARN + "function:7", Reference("function", "7")),
    ],
)
def test_accepted(text, expected):
    assert parse(text, HERE) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has 0 characters, the limit is 1 to 140"),
        ("a" * 141, "has 141 characters"),
        ("a" * 65, "does not match [a-zA-Z0-9-_]+ with 1 to 64 characters"),
        ("he llo", "'he llo' does not match"),
        ("hello\n", "does not match"),
        ("héllo", "does not match"),
        ("hello:", "qualifier: '' is not $LATEST"),
        ("hello:$latest", "qualifier: '$latest' is not $LATEST"),
        ("hello:0", "qualifier: '0'"),
        ("hello:1:2", "more parts than name and qualifier"),
        ("123:function:hello", "'123' in '123:function:hello' is no account id"),
        ("arn:aws:s3:::bucket", "more parts"),
        ("arn:aws:lambda:local:000000000000:layer:x", "is no ARN of a function"),
        (ARN, "name: '' does not match"),
        (ARN + "a:b:c", "is no ARN of a function"),
        (7, "expected text, got int"),
        (None, "expected text, got NoneType"),
    ],
)
def test_refused_with_a_sentence(text, sentence):
    with pytest.raises(BadRequest) as caught:
        parse(text, HERE)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", ["arn:aws:lambda:mars:000000000000:function:a", "111111111111:function:a"])
def test_elsewhere_is_not_found(text):
    with pytest.raises(NotFound, match="this is region local, account 000000000000"):
        parse(text, HERE)


def test_a_qualifier_beside_the_name_must_agree():
    assert parse("a", HERE, "7") == Reference("a", "7")
    assert parse("a:7", HERE, "7") == Reference("a", "7")
    with pytest.raises(BadRequest, match="derived qualifier"):
        parse("a:7", HERE, "8")


def test_versions_are_numbers():
    assert [is_version(q) for q in ("1", "9999999999", "0", "01", "$LATEST", "prod", "1a", "")] == [True, True] + [False] * 6


names = st.from_regex(r"\A[a-zA-Z0-9_-]{1,64}\Z")
qualifiers = st.just(LATEST) | st.integers(1, 10**9).map(str) | st.from_regex(r"\A[a-zA-Z_-][a-zA-Z0-9_-]{0,20}\Z")


@settings(deadline=None)
@given(names, qualifiers)
def test_every_spelling_leads_back_and_is_its_own(name, qualifier):
    spellings = HERE.spellings(name, qualifier)
    assert len(set(spellings)) == (6 if qualifier == LATEST else 3)
    for text in spellings:
        reference = parse(text, HERE)
        assert (reference.name, reference.effective) == (name, qualifier)


@settings(deadline=None)
@given(st.text(max_size=150) | st.text(alphabet="ab:function0$LATEST.-_ arnlmwds\n", max_size=150))
def test_any_text_is_read_or_refused(text):
    try:
        reference = parse(text, HERE)
    except (BadRequest, NotFound) as error:
        refusal = error
    else:
        assert text in HERE.spellings(reference.name, reference.effective)
        return
    assert str(refusal).isprintable()
