"""Control methods on the keys that everything is sealed under.

Law of this file: rows. What a rotation does is the key room's, which comes in as functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from scheduler.control.dispatch import Call, Method
from scheduler.control.schema import Field, Kind
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["KeyMethods"]


class Rotate(Protocol):
    async def __call__(self, *, retire: bool) -> dict[str, Any]: ...


class KeyMethods:
    def __init__(self, *, view: Callable[[], Awaitable[dict[str, Any]]], rotate: Rotate) -> None:
        self._view = view
        self._rotate = rotate

    def rows(self) -> tuple[Method, ...]:
        return (
            Method("keys.list", Right.ADMIN, (), self._list),
            Method("keys.rotate", Right.ADMIN, (Field("retire", Kind.FLAG),), self._turn),
        )

    async def _list(self, call: Call) -> dict[str, Any]:
        return await self._view()

    async def _turn(self, call: Call) -> dict[str, Any]:
        return await self._rotate(retire=call.get("retire", False))
