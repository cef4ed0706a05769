"""Control methods on the keys that everything is sealed under.

Law of this file: rows. What a rotation does is the key room's, which comes in as functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from scheduler import limits
from scheduler.config import DEFAULT_TENANT
from scheduler.control.dispatch import Call, Method
from scheduler.control.schema import Field, Kind
from scheduler.errors import BadRequest, Unauthorized
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["KeyMethods"]


class Rotate(Protocol):
    async def __call__(self, *, retire: bool) -> dict[str, Any]: ...


class Run(Protocol):
    """An operation of KMS, Secrets Manager or SSM: {"body"} or {"error", "message"}."""

    async def __call__(
        self, target: str, operation: str, values: Mapping[str, Any], *, rights: Right, tenant: str
    ) -> dict[str, Any]: ...


class KeyMethods:
    def __init__(self, *, view: Callable[[], Awaitable[dict[str, Any]]], rotate: Rotate, run: Run) -> None:
        self._view = view
        self._rotate = rotate
        self._run = run

    def rows(self) -> tuple[Method, ...]:
        return (
            Method("keys.list", Right.ADMIN, (), self._list),
            Method("keys.rotate", Right.ADMIN, (Field("retire", Kind.FLAG),), self._turn),
            Method(
                "aws.call",
                Right.DEPLOY,
                (
                    Field("target", Kind.TEXT, required=True, choices=("TrentService", "secretsmanager", "AmazonSSM")),
                    Field("operation", Kind.TEXT, required=True, minimum=1, maximum=64),
                    Field("input", Kind.ANY),
                    Field("tenant", Kind.TEXT, minimum=1, maximum=limits.TENANT_NAME_CHARS_MAX),
                ),
                self._call,
            ),
        )

    async def _list(self, call: Call) -> dict[str, Any]:
        return await self._view()

    async def _turn(self, call: Call) -> dict[str, Any]:
        return await self._rotate(retire=call.get("retire", False))

    async def _call(self, call: Call) -> dict[str, Any]:
        """`input`: the operation's members by name. `tenant`: whose keys or secrets, for who is bound to none."""
        values, connection = call.get("input", {}), call.connection
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise BadRequest("input: is not a map of members")
        wanted = call.get("tenant")
        if connection.tenant is not None and wanted not in (None, connection.tenant):
            raise Unauthorized(f"tenant: {wanted!r} is not that of this connection")
        tenant = connection.tenant or wanted or DEFAULT_TENANT
        return await self._run(call.values["target"], call.values["operation"], values, rights=connection.rights, tenant=tenant)
