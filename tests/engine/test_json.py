"""The engine's judge of JSON against Python's, over texts made and damaged at random."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.engine import json_problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def refuse(text: str) -> None:
    raise ValueError(text)


def is_json(data: bytes) -> bool:
    """By RFC 8259: UTF-8 only, no NaN."""
    try:
        text = data.decode("utf-8", "strict")
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return not text.startswith("\ufeff")


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_python_writes_is_json(value, plain, indent):
    assert json_problem(json.dumps(value, ensure_ascii=plain, indent=indent).encode("utf-8", "surrogatepass")) in (
        (None,) if plain else (None, *range(1 << 16))
    )


@given(VALUES, st.data())
@example({"a": "\ud800"}, None)
def test_damage_is_judged_alike(value, data):
    text = bytearray(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if data is not None and text:
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert (json_problem(bytes(text)) is None) == is_json(bytes(text))


@given(st.binary(max_size=40))
def test_any_bytes_are_judged_alike(data):
    assert (json_problem(data) is None) == is_json(data)
