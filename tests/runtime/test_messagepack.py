"""Our MessagePack against the msgpack library, and against any bytes at all."""

from __future__ import annotations

import enum
import struct
from collections import OrderedDict, namedtuple
from decimal import Decimal

import msgpack
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from scheduler.runtime.messagepack import DEPTH_MAX, pack, unpack

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(scalars, inner, max_size=20),
    max_leaves=60,
)


def reference(data: bytes) -> object:
    return msgpack.unpackb(data, strict_map_key=False)


@pytest.mark.slow
@given(values)
def test_the_library_reads_what_we_write(value):
    data = pack(value)
    assert reference(data) == value
    assert data == msgpack.packb(value)  # and both choose the shortest form


@pytest.mark.slow
@given(values, st.booleans())
def test_we_read_what_the_library_writes(value, single):
    try:
        data = msgpack.packb(value, use_single_float=single)
    except OverflowError:
        reject()
    assert unpack(data) == reference(data)
    assert repr(unpack(data)) == repr(reference(data))  # 1, 1.0 and True are equal


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_value_error(data):
    try:
        value = unpack(data)
    except ValueError:
        return
    assert repr(reference(data)) == repr(value)


@pytest.mark.slow
@given(values, st.data())
def test_no_part_of_a_value_is_a_value(value, data):
    whole = pack(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match="cut short"):
        unpack(whole[:cut])
    with pytest.raises(ValueError, match="1 bytes after the MessagePack value"):
        unpack(whole + b"\xc0")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("make", [lambda n: "x" * n, bytes, lambda n: [None] * n, lambda n: dict.fromkeys(range(n))])
def test_every_length_form(make, size):
    value = make(size)
    data = pack(value)
    assert data == msgpack.packb(value)
    assert unpack(data) == value


@pytest.mark.parametrize("bits", [5, 7, 8, 15, 16, 31, 32, 63, 64])
def test_every_integer_form(bits):
    for value in {(1 << bits) - 1, (1 << bits) - 2, -(1 << bits), -(1 << bits) - 1, -(1 << bits) + 1}:
        if -(1 << 63) <= value < 1 << 64:
            assert pack(value) == msgpack.packb(value)
            assert unpack(pack(value)) == value
        else:
            with pytest.raises(ValueError, match="64"):
                pack(value)
    assert unpack(pack(1 << 63)) == 1 << 63
    with pytest.raises(ValueError, match="65 bits"):
        pack(1 << 64)


class Colour(enum.IntEnum):
    RED = 3


class Word(str):
    __slots__ = ()


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (Point(1, 2), [1, 2]),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (Colour.RED, 3),
        (Word("w"), "w"),
        (bytearray(b"b"), b"b"),
        (memoryview(b"b"), b"b"),
        (Decimal("3"), 3),
        (Decimal("3.5"), 3.5),
        (Decimal("1E+30"), 1e30),
        (Decimal("-0.0"), 0),
        (Decimal("Infinity"), float("inf")),
    ],
)
def test_what_derives_from_a_known_type(value, same_as):
    assert pack(value) == msgpack.packb(same_as)


def test_not_a_number():
    data = pack([float("nan"), Decimal("NaN"), Decimal("sNaN")])
    assert [value != value for value in unpack(data)] == [True, True, True]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({1}, TypeError, "Object of type set is not MessagePack serializable"),
        (object(), TypeError, "Object of type object is not"),
        ({(1,): 2}, TypeError, "keys must not be containers, not tuple"),
        ("\ud800", ValueError, "surrogates not allowed"),
        (1j, TypeError, "complex"),
    ],
)
def test_what_cannot_be_written(value, error, message):
    with pytest.raises(error, match=message):
        pack([value])


def test_circles_and_depth():
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="nested deeper than 256, or a circular reference"):
        pack(circle)
    deepest = b"\x91" * DEPTH_MAX + b"\xc0"
    assert pack(unpack(deepest)) == deepest
    with pytest.raises(ValueError, match="nested deeper than 256 at byte 257"):
        unpack(b"\x91" + deepest)
    with pytest.raises(ValueError, match="nested deeper than 256"):
        unpack(b"\x81\xc0" * (DEPTH_MAX + 1) + b"\xc0")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short, at byte 0"),
        (b"\xc1", "no MessagePack value \\(0xc1\\) at byte 0"),
        (b"\x91\xd4\x00\x00", "extension type \\(0xd4\\) at byte 1"),
        (b"\xc7\x00\x00", "extension type \\(0xc7\\) at byte 0"),
        (b"\xa1\xff", "str is not UTF-8 at byte 1"),
        (b"\xa3\xed\xa0\x80", "str is not UTF-8 at byte 1"),
        (b"\x81\x90\xc0", "key of a map is a container at byte 1"),
        (b"\xdd\xff\xff\xff\xff", "cut short"),  # a length is no promise: nothing is set aside for it
        (b"\xdf\xff\xff\xff\xff", "cut short"),
        (b"\xc6\xff\xff\xff\xff" + bytes(10), "cut short"),
    ],
)
def test_what_cannot_be_read(data, message):
    with pytest.raises(ValueError, match=message):
        unpack(data)


def test_single_precision():
    assert unpack(b"\xca" + struct.pack(">f", 0.1)) == struct.unpack(">f", struct.pack(">f", 0.1))[0]
