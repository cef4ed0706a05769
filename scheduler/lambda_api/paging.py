"""Markers of lists: opaque texts that hold where the next page begins.

Law of this file: pure.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, TypeVar

from scheduler import limits
from scheduler.lambda_api.rooms import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["mark", "page", "unmark"]

T = TypeVar("T")


def mark(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode()


def unmark(marker: str | None) -> str | None:
    """LambdaError: it is none of ours."""
    if not marker:
        return None
    try:
        return base64.urlsafe_b64decode(marker.encode()).decode()
    except ValueError:
        raise refuse(f"Marker: {marker[:80]!r} is none that a list gave") from None


def page(key: str, found: Sequence[T], marker: str | None, most: int | None, show: Callable[[T], Any]) -> dict[str, Any]:
    """The answer of a list: one page of `found` under `key`, with NextMarker where there are more."""
    text = unmark(marker) or "0"
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > len(found):
        raise refuse(f"Marker: {str(marker)[:80]!r} is none that this list gave")
    first = int(text)
    last = first + min(most or limits.LIST_PAGE_MAX, limits.LIST_PAGE_MAX)
    body: dict[str, Any] = {key: [show(value) for value in found[first:last]]}
    if last < len(found):
        body["NextMarker"] = mark(str(last))
    return body
