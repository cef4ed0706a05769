"""Events from bytes and results to bytes: JSON as Lambda's runtime has it, and MessagePack.

The fast way is the C scanner and the C encoder of the standard library, held once instead of being set up for each call
as json.loads() and json.dumps() do. Whatever it cannot do (Decimal, lone surrogates, white space around the event, errors with
the right words) goes the slow way, through the same library.

Differences from Lambda: bytes are no result (Lambda hands them through as "application/unknown", an answer here is JSON), and a
namedtuple is an array (Lambda has simplejson, which makes it an object).
"""

import json
import json.encoder
import json.scanner
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

__all__ = ["JsonWriter", "from_json", "scan_json", "to_json"]

_decoder = json.JSONDecoder()
scan_json: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]
from_json = _decoder.decode


class _Number(float):
    """Stands for a Decimal inside the slow encoder, which asks _number_text() how to write a float."""

    __slots__ = ("text",)
    text: str


def _number(value: Decimal) -> _Number:
    number = _Number(0.0)
    number.text = "NaN" if value.is_nan() else str(value)
    return number


def _number_text(value: float) -> str:
    if isinstance(value, _Number):
        return value.text
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return float.__repr__(value)


def _refuse(value: object) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _default(value: object) -> Any:
    return _number(value) if isinstance(value, Decimal) else _refuse(value)


def to_json(value: object) -> bytes:
    """The slow, complete way. TypeError, ValueError, RecursionError: cannot be written as JSON.

    Characters are written as they are; with a lone surrogate somewhere everything outside ASCII is escaped.
    """
    text = "".join(_iterate(value, json.encoder.encode_basestring))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join(_iterate(value, json.encoder.encode_basestring_ascii)).encode()


def _iterate(value: object, encode_text: Callable[[str], str]) -> Iterator[str]:
    make = json.encoder._make_iterencode  # type: ignore[attr-defined]
    steps = make({}, _default, encode_text, None, _number_text, ": ", ", ", False, False, False)
    return steps(value, 0)  # type: ignore[no-any-return]


class JsonWriter:
    """Result to JSON in one C call. `encode(value, 0)` gives pieces of text; after any exception call `reset()`."""

    __slots__ = ("_open", "encode")

    def __init__(self) -> None:
        self._open: dict[int, object] = {}  # containers being written, to find circles
        make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
        self.encode: Callable[[object, int], Any]
        if make is None:  # an interpreter without the C part
            self.encode = lambda value, _level: (to_json(value).decode(),)
        else:
            escape = json.encoder.encode_basestring
            self.encode = make(self._open, _refuse, escape, None, ": ", ", ", False, False, True)

    def reset(self) -> None:
        self._open.clear()
