"""MessagePack, strictly: what a value of the public specification is, and nothing that it is not.

Values are None, bool, int, float, str, bytes, list and dict. Written too: tuple as an array, bytearray and memoryview as bin,
Decimal as the nearest number. Extension types are refused in both directions: nothing in an event has a use for them.
"""

from collections.abc import Callable
from decimal import Decimal
from struct import Struct
from struct import error as StructError
from typing import Any

__all__ = ["DEPTH_MAX", "pack", "unpack"]

DEPTH_MAX = 256  # of containers: two Python calls each, and the interpreter allows 1,000

_f32, _f64 = Struct(">f"), Struct(">d")
_u8, _u16, _u32, _u64 = Struct(">B"), Struct(">H"), Struct(">I"), Struct(">Q")
_i8, _i16, _i32, _i64 = Struct(">b"), Struct(">h"), Struct(">i"), Struct(">q")

_NUMBERS = {
    0xCA: _f32, 0xCB: _f64,
    0xCC: _u8, 0xCD: _u16, 0xCE: _u32, 0xCF: _u64,
    0xD0: _i8, 0xD1: _i16, 0xD2: _i32, 0xD3: _i64,
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_BYTES = {0xC4: _u8, 0xC5: _u16, 0xC6: _u32}
_TEXTS = {0xD9: _u8, 0xDA: _u16, 0xDB: _u32}
_ARRAYS = {0xDC: _u16, 0xDD: _u32}
_MAPS = {0xDE: _u16, 0xDF: _u32}
_EXTENSIONS = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))


# -- reading


def unpack(data: bytes) -> Any:
    """The one value that `data` is. ValueError says what is wrong and at which byte."""
    try:
        value, at = _read(data, 0, DEPTH_MAX)
    except (IndexError, StructError):
        raise ValueError(f"MessagePack value is cut short, at byte {len(data)}") from None
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the MessagePack value, at byte {at}")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag >= 0xE0:
        return tag - 0x100, at
    if tag < 0x90:
        return _read_map(data, at, tag & 0x0F, depth)
    if tag < 0xA0:
        return _read_array(data, at, tag & 0x0F, depth)
    if tag < 0xC0:
        return _read_text(data, at, tag & 0x1F)
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if (layout := _NUMBERS.get(tag)) is not None:
        return layout.unpack_from(data, at)[0], at + layout.size
    for layouts, read in ((_TEXTS, _read_text), (_BYTES, _read_bytes)):
        if (layout := layouts.get(tag)) is not None:
            return read(data, at + layout.size, layout.unpack_from(data, at)[0])
    if (layout := _MAPS.get(tag)) is not None:
        return _read_map(data, at + layout.size, layout.unpack_from(data, at)[0], depth)
    if (layout := _ARRAYS.get(tag)) is not None:
        return _read_array(data, at + layout.size, layout.unpack_from(data, at)[0], depth)
    what = "extension type" if tag in _EXTENSIONS else "no MessagePack value"
    raise ValueError(f"{what} (0x{tag:02x}) at byte {at - 1}")


def _read_bytes(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if size > len(data) - at:
        raise IndexError
    return data[at : at + size], at + size


def _read_text(data: bytes, at: int, size: int) -> tuple[str, int]:
    raw, end = _read_bytes(data, at, size)
    try:
        return raw.decode(), end
    except UnicodeDecodeError as error:
        raise ValueError(f"str is not UTF-8 at byte {at + error.start}") from None


def _read_array(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    if not depth:
        raise ValueError(f"nested deeper than {DEPTH_MAX} at byte {at}")
    items = []
    for _ in range(count):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    return items, at


def _read_map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
    if not depth:
        raise ValueError(f"nested deeper than {DEPTH_MAX} at byte {at}")
    pairs = {}
    for _ in range(count):
        key_at = at
        key, at = _read(data, at, depth - 1)
        if isinstance(key, (list, dict)):
            raise ValueError(f"key of a map is a container at byte {key_at}")
        pairs[key], at = _read(data, at, depth - 1)
    return pairs, at


# -- writing


def pack(value: object) -> bytes:
    """TypeError: a type that MessagePack has not. ValueError: too deep, a circle, a number or a length out of range."""
    pieces: list[bytes] = []
    _write(value, pieces.append, DEPTH_MAX)
    return b"".join(pieces)


def _write(value: Any, out: Callable[[bytes], None], depth: int) -> None:
    # Exact types first, then what derives from them: an enum, a namedtuple, an OrderedDict.
    write = _WRITERS.get(type(value))
    if write is None:
        write = next((_WRITERS[kind] for kind in _WRITERS if isinstance(value, kind)), None)
        if write is None:
            raise TypeError(f"Object of type {type(value).__name__} is not MessagePack serializable")
    write(value, out, depth)


def _write_none(value: None, out: Callable[[bytes], None], depth: int) -> None:
    out(b"\xc0")


def _write_bool(value: bool, out: Callable[[bytes], None], depth: int) -> None:
    out(b"\xc3" if value else b"\xc2")


def _write_int(value: int, out: Callable[[bytes], None], depth: int) -> None:
    if value >= 0:
        if value < 0x80:
            out(_u8.pack(value))
        elif value < 0x100:
            out(b"\xcc" + _u8.pack(value))
        elif value < 0x10000:
            out(b"\xcd" + _u16.pack(value))
        elif value < 0x100000000:
            out(b"\xce" + _u32.pack(value))
        elif value < 0x10000000000000000:
            out(b"\xcf" + _u64.pack(value))
        else:
            raise ValueError(f"int of {value.bit_length()} bits, MessagePack has at most 64")
    elif value >= -0x20:
        out(_i8.pack(value))
    elif value >= -0x80:
        out(b"\xd0" + _i8.pack(value))
    elif value >= -0x8000:
        out(b"\xd1" + _i16.pack(value))
    elif value >= -0x80000000:
        out(b"\xd2" + _i32.pack(value))
    elif value >= -0x8000000000000000:
        out(b"\xd3" + _i64.pack(value))
    else:
        raise ValueError(f"int of {value.bit_length()} bits and a sign, MessagePack has at most 64")


def _write_float(value: float, out: Callable[[bytes], None], depth: int) -> None:
    out(b"\xcb" + _f64.pack(value))


def _write_decimal(value: Decimal, out: Callable[[bytes], None], depth: int) -> None:
    if value.is_finite() and value == value.to_integral_value() and abs(value) < 1 << 63:
        _write_int(int(value), out, depth)
    else:
        _write_float(float("nan") if value.is_nan() else float(value), out, depth)


def _head(size: int, small: int, small_max: int, tags: bytes, what: str) -> bytes:
    """tags: for 8, 16 and 32 bits of length; 0 where there is no such form."""
    if size <= small_max:
        return _u8.pack(small | size)
    if size < 0x100 and tags[0]:
        return tags[:1] + _u8.pack(size)
    if size < 0x10000:
        return tags[1:2] + _u16.pack(size)
    if size < 0x100000000:
        return tags[2:] + _u32.pack(size)
    raise ValueError(f"{what} of length {size}, MessagePack has at most 4294967295")


def _write_text(value: str, out: Callable[[bytes], None], depth: int) -> None:
    raw = value.encode()  # UnicodeEncodeError, a ValueError, for lone surrogates
    out(_head(len(raw), 0xA0, 31, b"\xd9\xda\xdb", "str"))
    out(raw)


def _write_bytes(value: bytes | bytearray | memoryview, out: Callable[[bytes], None], depth: int) -> None:
    raw = bytes(value)
    out(_head(len(raw), 0, -1, b"\xc4\xc5\xc6", "bytes"))
    out(raw)


def _write_array(value: list[Any] | tuple[Any, ...], out: Callable[[bytes], None], depth: int) -> None:
    if not depth:
        raise ValueError(f"nested deeper than {DEPTH_MAX}, or a circular reference")
    out(_head(len(value), 0x90, 15, b"\x00\xdc\xdd", "list"))
    for item in value:
        _write(item, out, depth - 1)


def _write_map(value: dict[Any, Any], out: Callable[[bytes], None], depth: int) -> None:
    if not depth:
        raise ValueError(f"nested deeper than {DEPTH_MAX}, or a circular reference")
    out(_head(len(value), 0x80, 15, b"\x00\xde\xdf", "dict"))
    for key, item in value.items():
        if isinstance(key, (list, tuple, dict)):
            raise TypeError(f"keys must not be containers, not {type(key).__name__}")
        _write(key, out, depth - 1)
        _write(item, out, depth - 1)


_WRITERS: dict[type, Callable[[Any, Callable[[bytes], None], int], None]] = {
    dict: _write_map,
    str: _write_text,
    list: _write_array,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    type(None): _write_none,
    bytes: _write_bytes,
    tuple: _write_array,
    bytearray: _write_bytes,
    memoryview: _write_bytes,
    Decimal: _write_decimal,
}
