"""JSON both ways against the standard library's own front door."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.runtime.payloads import JsonWriter, from_json, scan_json, to_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.booleans() | st.none(), inner, max_size=8)
    ),
    max_leaves=40,
)


def fast(value: object) -> bytes:
    return "".join(JsonWriter().encode(value, 0)).encode("utf-8", "surrogatepass")


@pytest.mark.slow
@given(values)
def test_fast_and_slow_write_what_the_library_writes(value):
    text = json.dumps(value, ensure_ascii=False)
    assert fast(value) == text.encode("utf-8", "surrogatepass")
    try:
        expected = text.encode()
    except UnicodeEncodeError:
        expected = json.dumps(value).encode()
    assert to_json(value) == expected


@pytest.mark.slow
@given(values)
def test_fast_reading_is_the_library_s(value):
    text = json.dumps(value)
    event, stop = scan_json(text, 0)
    assert stop == len(text)
    assert repr(event) == repr(json.loads(text)) == repr(from_json(text))


@given(st.decimals() | st.decimals(allow_nan=False))
def test_decimals_are_numbers_as_they_print(value):
    text = to_json({"d": [value]}).decode()
    assert text == f'{{"d": [{"NaN" if value.is_nan() else value}]}}'
    if value.is_finite():
        assert json.loads(text, parse_float=Decimal, parse_int=Decimal)["d"] == [value]


def test_a_writer_forgets_what_failed():
    """The containers that were open when it failed must not look like a circle to the next result."""
    writer = JsonWriter()
    value = {"a": [{1}]}
    for _ in range(3):
        with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
            writer.encode(value, 0)
        writer.reset()
    value["a"] = [1]
    assert "".join(writer.encode(value, 0)) == '{"a": [1]}'


def test_floats_in_the_slow_way():
    assert to_json([0.1, 1e300, -0.0, math.inf, -math.inf, math.nan]) == b"[0.1, 1e+300, -0.0, Infinity, -Infinity, NaN]"
