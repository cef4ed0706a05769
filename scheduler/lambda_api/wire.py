"""Requests and answers of the API, without a socket: what a server hands in, what it gets back.

Law of this file: data, and how a request becomes the members of a shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.shapes import Place, Type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.lambda_api.shapes import Member, Shape
    from scheduler.lambda_api.streamed import BodyStream

__all__ = ["BODY_BYTES_MAX", "Answer", "Request", "gather", "load"]

BODY_BYTES_MAX: Final = 70_167_211  # what Lambda takes of a CreateFunction; the zip is base64 in it
QUERY_FIELDS_MAX: Final = 64
TRACE_CHARS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is still percent-encoded; names of headers are lower case; `peer`: where it came from, for logs and events."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    peer: str = ""

    def trace(self) -> str | None:
        """The trace header, where it is one that calls may carry: another is none. A call that was accepted with it would be
        refused when its turn comes."""
        found = self.headers.get("x-amzn-trace-id", "")
        good = found and found.isascii() and found.isprintable() and len(found) <= TRACE_CHARS_MAX
        return found if good else None

    def fields(self) -> dict[str, list[str]]:
        """The query. LambdaError: it cannot be read."""
        try:
            return parse_qs(self.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError:
            raise LambdaError("ValidationException", f"query: has more than {QUERY_FIELDS_MAX} fields") from None


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: that of the operation. A dict is sent as JSON; a stream as it comes."""

    body: dict[str, Any] | bytes | BodyStream | None = None
    status: int = 0
    headers: Sequence[tuple[str, str]] = ()


def load(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; an empty one is an empty object. LambdaError."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LambdaError("SerializationException", f"Could not parse request body into json: {error}") from None
    if not isinstance(value, dict):
        raise LambdaError("SerializationException", f"the body is {type(value).__name__}, must be a JSON object")
    return value


def _of_query(row: Member, values: list[str] | None) -> Any:
    """A signature does not tell the order of the values of one key: what a request means must not depend on it."""
    if not values or row.shape.type is Type.LIST:
        return values or None
    if len(values) > 1:
        raise LambdaError("ValidationException", f"query: {row.key} stands {len(values)} times, must stand once")
    return values[0]


def gather(shape: Shape, request: Request, in_path: Mapping[str, str], query: Mapping[str, list[str]]) -> dict[str, Any]:
    """The members of a request by name, from wherever each stands; not checked yet."""
    body = load(request.body) if any(row.place is Place.BODY for row in shape.members) else {}
    found: dict[str, Any] = {}
    for row in shape.members:
        value: Any = None
        if row.place is Place.BODY:
            value = body.get(row.name)
        elif row.place is Place.PATH:
            value = in_path.get(row.name)  # the router has decoded it, once
        elif row.place is Place.QUERY:
            value = _of_query(row, query.get(row.key))
        elif row.place is Place.HEADER:
            value = request.headers.get(row.key.lower())
        else:
            value = request.body
        if value is not None:
            found[row.name] = value
    return found
