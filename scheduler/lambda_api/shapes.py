"""Shapes of requests: what a member may hold, and the reader that refuses everything else in Lambda's words.

Law of this file: pure. All that is wrong is told at once: "2 validation errors detected: Value '1' at 'memorySize' failed to
satisfy constraint: Member must have value greater than or equal to 128; …". Unknown members are ignored, as Lambda does, for
clients may be newer than the service.

    NAME = text(1, 140, pattern="…")
    shape = struct(member("FunctionName", NAME, required=True), member("MemorySize", whole(128, 10240)))
    values = read(shape, {"FunctionName": "hello"})         -> {"FunctionName": "hello"}
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from scheduler.lambda_api.errors import LambdaError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Member",
    "Place",
    "Shape",
    "blob",
    "flag",
    "items",
    "mapping",
    "member",
    "number",
    "read",
    "struct",
    "text",
    "whole",
]

SHOWN_CHARS_MAX: Final = 128
PROBLEMS_MAX: Final = 20
DEPTH_MAX: Final = 8
NUMBER_MAX: Final = 1 << 53  # beyond it, JSON's numbers are not exact


class Type(Enum):
    """What a value is in JSON."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    FLAG = "flag"
    BLOB = "blob"
    LIST = "list"
    MAP = "map"
    STRUCT = "struct"


class Place(Enum):
    """Where a member of a request stands."""

    BODY = "body"
    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    PAYLOAD = "payload"  # the whole body, as it is


@dataclass(frozen=True, slots=True)
class Shape:
    """minimum and maximum bound a number, or the length of anything else. `hidden`: values are secrets, and stand in no
    message."""

    type: Type
    minimum: float | None = None
    maximum: float | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[str, ...] = ()
    inner: Shape | None = None
    members: tuple[Member, ...] = ()
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """`wire`: its name on the wire, where that is another (headers, query)."""

    name: str
    shape: Shape
    required: bool = False
    place: Place = Place.BODY
    wire: str = ""

    @property
    def key(self) -> str:
        return self.wire or self.name


def text(minimum: int = 0, maximum: int | None = None, *, pattern: str | None = None, choices: tuple[str, ...] = ()) -> Shape:
    return Shape(Type.TEXT, minimum or None, maximum, re.compile(pattern) if pattern else None, choices)


def whole(minimum: int | None = None, maximum: int | None = None) -> Shape:
    return Shape(Type.WHOLE, minimum, maximum)


def number(minimum: float | None = None, maximum: float | None = None) -> Shape:
    return Shape(Type.NUMBER, minimum, maximum)


def flag() -> Shape:
    return Shape(Type.FLAG)


def blob(maximum: int | None = None) -> Shape:
    """Base64 in JSON, bytes once read."""
    return Shape(Type.BLOB, None, maximum)


def items(inner: Shape, minimum: int = 0, maximum: int | None = None) -> Shape:
    return Shape(Type.LIST, minimum or None, maximum, inner=inner)


def mapping(inner: Shape, maximum: int | None = None, *, pattern: str | None = None, hidden: bool = False) -> Shape:
    """A map of texts; `pattern` is that of its keys."""
    return Shape(Type.MAP, None, maximum, re.compile(pattern) if pattern else None, inner=inner, hidden=hidden)


def struct(*members: Member) -> Shape:
    return Shape(Type.STRUCT, members=members)


def member(name: str, shape: Shape, *, required: bool = False, place: Place = Place.BODY, wire: str = "") -> Member:
    return Member(name, shape, required, place, wire)


def read(shape: Shape, given: dict[str, Any]) -> dict[str, Any]:
    """The known members, checked: texts of path, query and headers are turned into what they stand for. LambdaError:
    ValidationException with all that is wrong; SerializationException where the JSON's types are not the shape's."""
    problems: list[str] = []
    values = _struct(shape, given, "", problems, 0, False)
    if problems:
        many = len(problems)
        shown = "; ".join(problems[:PROBLEMS_MAX])
        raise LambdaError("ValidationException", f"{many} validation error{'s' if many > 1 else ''} detected: {shown}")
    return values


def _struct(shape: Shape, given: Any, at: str, problems: list[str], depth: int, hidden: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for row in shape.members:
        value = given.get(row.name)
        where = f"{at}.{_lower(row.name)}" if at else _lower(row.name)
        if value is None:
            if row.required:
                problems.append(_problem("null", where, "Member must not be null", quoted=False))
            continue
        if row.place in (Place.PATH, Place.QUERY, Place.HEADER):
            value = _from_text(row.shape, value, where, problems)
            if value is None:
                continue
        values[row.name] = _value(row.shape, value, where, problems, depth + 1, hidden or row.shape.hidden)
    return values


def _value(shape: Shape, value: Any, at: str, problems: list[str], depth: int, hidden: bool) -> Any:
    if depth > DEPTH_MAX:
        raise LambdaError("SerializationException", f"{at}: is nested deeper than {DEPTH_MAX}")
    _check_type(shape, value, at)
    if shape.type is Type.BLOB:
        value = _decoded(value, at)
    elif shape.type is Type.WHOLE:
        value = int(value)  # 7.0 is one
    elif shape.type is Type.TEXT:
        _check_text(value, at)
    shown = "***" if hidden else value
    problems.extend(_problem(shown, at, text) for text in _bounds(shape, value))
    if shape.type is Type.LIST and shape.inner is not None:
        return [_value(shape.inner, v, f"{at}.{i + 1}.member", problems, depth + 1, hidden) for i, v in enumerate(value)]
    if shape.type is Type.MAP and shape.inner is not None:
        for key in value:
            _check_text(key, f"{at}.key")
        if shape.pattern is not None:
            problems.extend(
                _problem(key, f"{at}.key", f"Map keys must satisfy constraint: [{_pattern(shape)}]")
                for key in value
                if not shape.pattern.fullmatch(key)
            )
        return {key: _value(shape.inner, v, f"{at}.{key}.member", problems, depth + 1, hidden) for key, v in value.items()}
    if shape.type is Type.STRUCT:
        return _struct(shape, value, at, problems, depth, hidden)
    return value


_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_JSON_TYPES: Final[dict[Type, tuple[type, ...]]] = {
    Type.TEXT: (str,),
    Type.WHOLE: (int, float),
    Type.NUMBER: (int, float),
    Type.FLAG: (bool,),
    Type.BLOB: (str, bytes),
    Type.LIST: (list,),
    Type.MAP: (dict,),
    Type.STRUCT: (dict,),
}
_NAMES: Final[dict[Type, str]] = {
    Type.TEXT: "a string", Type.WHOLE: "an integer", Type.NUMBER: "a number", Type.FLAG: "a boolean", Type.BLOB: "base64 text",
    Type.LIST: "a list", Type.MAP: "a map", Type.STRUCT: "a structure",
}  # fmt: skip


def _check_type(shape: Shape, value: Any, at: str) -> None:
    wrong = not isinstance(value, _JSON_TYPES[shape.type]) or (isinstance(value, bool) and shape.type is not Type.FLAG)
    if not wrong and shape.type is Type.WHOLE and isinstance(value, float):
        wrong = not value.is_integer()
    if not wrong and shape.type is Type.NUMBER:
        wrong = abs(value) > NUMBER_MAX or not math.isfinite(value)
    if wrong:
        raise LambdaError("SerializationException", f"{at}: is {type(value).__name__}, must be {_NAMES[shape.type]}")


def _check_text(value: str, at: str) -> None:
    """JSON's escapes can say half of a pair of surrogates, which is no character and has no form in UTF-8."""
    if not value.isascii() and _SURROGATE.search(value):
        raise LambdaError("SerializationException", f"{at}: has half of a surrogate pair, which is no character")


def _bounds(shape: Shape, value: Any) -> Iterator[str]:
    sized = shape.type not in (Type.WHOLE, Type.NUMBER)
    amount = len(value) if sized and hasattr(value, "__len__") else value
    noun = "length" if sized else "value"
    if shape.minimum is not None and amount < shape.minimum:
        yield f"Member must have {noun} greater than or equal to {shape.minimum:g}"
    if shape.maximum is not None and amount > shape.maximum:
        yield f"Member must have {noun} less than or equal to {_plain(shape.maximum)}"
    if shape.type is Type.TEXT:
        if shape.choices and value not in shape.choices:
            yield f"Member must satisfy enum value set: [{', '.join(shape.choices)}]"
        if shape.pattern is not None and not shape.pattern.fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {_pattern(shape)}"


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _pattern(shape: Shape) -> str:
    assert shape.pattern is not None
    return shape.pattern.pattern


def _decoded(value: str | bytes, at: str) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise LambdaError("SerializationException", f"{at}: is not base64") from None


def _from_text(shape: Shape, value: Any, at: str, problems: list[str]) -> Any:
    """A value of path, query or header as what it stands for; None: told as a problem."""
    if not isinstance(value, str):
        return value  # a list of the query's values
    if shape.type in (Type.WHOLE, Type.NUMBER):
        if re.fullmatch(r"-?[0-9]{1,18}", value):
            return int(value)
        problems.append(_problem(value, at, "Member must be a number"))
        return None
    if shape.type is Type.FLAG:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        problems.append(_problem(value, at, "Member must be true or false"))
        return None
    if shape.type is Type.LIST:
        return [value]
    return value


def _problem(value: Any, at: str, constraint: str, *, quoted: bool = True) -> str:
    shown = value if isinstance(value, str) else str(value)
    if len(shown) > SHOWN_CHARS_MAX:
        shown = shown[: SHOWN_CHARS_MAX - 1] + "…"
    shown = "".join(c if c.isprintable() else "?" for c in shown)
    told = f"'{shown}'" if quoted else shown
    return f"Value {told} at '{at}' failed to satisfy constraint: {constraint}"


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]
