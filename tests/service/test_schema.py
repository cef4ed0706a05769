"""Shapes of control methods: any bytes give a checked map or a BadRequest that names the field."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.control.schema import Field, Kind, read_map
from scheduler.errors import BadRequest

FIELDS = (
    Field("name", Kind.TEXT, required=True, minimum=1, maximum=5),
    Field("count", Kind.WHOLE, minimum=1, maximum=10),
    Field("data", Kind.BINARY, maximum=4),
    Field("flag", Kind.FLAG),
    Field("kind", Kind.TEXT, choices=("a", "b")),
    Field("any", Kind.ANY),
)


def pack(*values):
    return msgpack.packb(list(values))


def test_what_is_right_is_taken():
    whole = {"name": "x", "count": 10, "data": b"1234", "flag": True, "kind": "a", "any": [1, {"x": None}]}
    assert read_map(pack(whole), FIELDS) == whole
    assert read_map(pack(), ()) == {}
    assert read_map(pack({}), ()) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "name: has 0 characters, must have 1 to 5"),
        ({"name": "123456"}, "name: has 6 characters"),
        ({"name": b"x"}, "name: is bytes"),
        ({"name": "x", "count": 11}, "count: 11 is not within 1 to 10"),
        ({"name": "x", "count": True}, "count: is bool"),
        ({"name": "x", "count": 1.0}, "count: is float"),
        ({"name": "x", "data": b"12345"}, "data: has 5 bytes"),
        ({"name": "x", "flag": 1}, "flag: is int"),
        ({"name": "x", "kind": "c"}, "kind: 'c' is not one of a, b"),
        ({"name": "x", "nmae": 1}, "'nmae': no such field"),
    ],
)
def test_what_is_wrong_is_named(given, says):
    with pytest.raises(BadRequest) as caught:
        read_map(pack(given), FIELDS)
    assert says in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(BadRequest) as caught:
        read_map(pack({"count": 0, "more": 1}), FIELDS)
    assert all(word in str(caught.value) for word in ("count", "more", "name: is required"))


@pytest.mark.parametrize("params", [pack(1), pack({}, {}), pack([]), msgpack.packb({}), b"\xc1", pack({1: 2}), b""])
def test_params_of_another_shape(params):
    with pytest.raises(BadRequest, match="params"):
        read_map(params, FIELDS)


@given(st.binary(max_size=60))
def test_any_bytes(data):
    try:
        taken = read_map(data, FIELDS)
    except BadRequest as error:
        said = str(error)
    else:
        said = ""
        assert set(taken) <= {field.name for field in FIELDS}
    assert "\n" not in said
