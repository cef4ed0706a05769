"""Shapes of control methods: rows that say what a request's map may hold, and one reader that refuses everything else.

Law of this file: bytes in, checked values out, or BadRequest naming field, value and limit. It knows no method.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships none

from scheduler.errors import BadRequest, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Field", "Kind", "read_map", "read_params"]

SHOWN_CHARS_MAX = 80


class Kind(Enum):
    """What a value is. bounds count: characters, bytes, entries, or the number itself."""

    TEXT = "text"
    WHOLE = "whole number"
    BINARY = "binary"
    FLAG = "true or false"
    ANY = "any value"  # judged by the room that knows what it means


_TYPES: dict[Kind, tuple[type, ...]] = {
    Kind.TEXT: (str,),
    Kind.WHOLE: (int,),
    Kind.BINARY: (bytes,),
    Kind.FLAG: (bool,),
    Kind.ANY: (object,),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a request's map. minimum and maximum are inclusive; choices: the only texts allowed."""

    name: str
    kind: Kind
    required: bool = False
    minimum: int = 0
    maximum: int = 0xFFFF_FFFF
    choices: tuple[str, ...] = ()

    def problem(self, value: object) -> str | None:
        """What is wrong with the value, or None."""
        if not isinstance(value, _TYPES[self.kind]) or (self.kind is Kind.WHOLE and isinstance(value, bool)):
            return f"{self.name}: is {type(value).__name__} {_shown(value)}, must be {self.kind.value}"
        if self.choices and value not in self.choices:
            return f"{self.name}: {_shown(value)} is not one of {', '.join(self.choices)}"
        if self.kind is Kind.WHOLE and isinstance(value, int) and not self.minimum <= value <= self.maximum:
            return f"{self.name}: {value} is not within {self.minimum} to {self.maximum}"
        if isinstance(value, str | bytes) and self.kind is not Kind.ANY and not self.minimum <= len(value) <= self.maximum:
            unit = "bytes" if isinstance(value, bytes) else "characters"
            return f"{self.name}: has {len(value)} {unit}, must have {self.minimum} to {self.maximum}"
        return None


def _shown(value: object) -> str:
    text = one_line(repr(value))
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def read_params(params: bytes) -> list[Any]:
    """The params array of a request. The reactor has looked at its framing; what it holds is still a stranger's."""
    try:
        values = msgpack.unpackb(params, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRequest(f"params: cannot be read: {one_line(str(error)) or type(error).__name__}") from None
    if not isinstance(values, list):
        raise BadRequest(f"params: is {type(values).__name__}, must be an array")
    return values


def read_map(params: bytes, fields: Sequence[Field]) -> dict[str, Any]:
    """The one map a control method takes; an empty array is an empty map. BadRequest tells everything that is wrong at once."""
    values = read_params(params)
    if len(values) > 1:
        raise BadRequest(f"params: has {len(values)} values, must have one map or none")
    given = values[0] if values else {}
    if not isinstance(given, dict):
        raise BadRequest(f"params: holds {type(given).__name__}, must hold one map")
    known = {field.name: field for field in fields}
    problems = [f"{_shown(key)}: no such field; there are: {', '.join(known) or 'none'}" for key in given if key not in known]
    problems += [text for name, field in known.items() if name in given and (text := field.problem(given[name]))]
    problems += [f"{name}: is required" for name, field in known.items() if field.required and name not in given]
    if problems:
        raise BadRequest("; ".join(problems))
    return given
