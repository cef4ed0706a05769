"""From a METHOD event to its answer: rights, shape, handler, error, in that order, from one table of rows.

Law of this file: it knows rows and connections, not what a method does. Every request is answered exactly once, a
notification never; whatever a handler raises becomes an error map here and nowhere else. How many methods run at once is
bounded; those beyond it are told to come again.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships none
import trio

from scheduler.control.schema import read_map
from scheduler.errors import BadRequest, Internal, SchedulerError, Throttled, Unauthorized
from scheduler.messages import Right, connection_close, respond

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduler.control.access import Connection, Connections
    from scheduler.control.schema import Field
    from scheduler.log import Log
    from scheduler.messages import MethodCall

__all__ = ["METHODS_AT_ONCE_MAX", "Call", "Dispatcher", "Method"]

METHODS_AT_ONCE_MAX = 512
METHODS_OF_ONE_MAX = 64  # of one connection
RETRY_AFTER_MS = 100


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets. values: the request's map, checked."""

    connection: Connection
    values: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


@dataclass(frozen=True, slots=True)
class Method:
    """A row. handler gets a Call (raw: the MethodCall besides, and reads its params itself). waits: it is pointless once the
    connection has closed, and is cancelled then."""

    name: str
    right: Right
    fields: Sequence[Field]
    handler: Callable[[Call], Awaitable[Any]] | None = None
    raw: Callable[[Connection, MethodCall], Awaitable[Any]] | None = None
    waits: bool = False


class Dispatcher:
    """post: hands commands to the engine. Methods run in the nursery."""

    def __init__(
        self,
        *,
        methods: Sequence[Method],
        connections: Connections,
        post: Callable[..., Awaitable[None]],
        nursery: trio.Nursery,
        log: Log,
    ) -> None:
        self._methods = {method.name: method for method in methods}
        self._connections = connections
        self._post = post
        self._nursery = nursery
        self._log = log
        self._running: Counter[int] = Counter()
        self.results: Counter[tuple[str, str]] = Counter()  # (method, "ok" or the error's type)

    async def method(self, call: MethodCall) -> None:
        """Takes a METHOD event. Refusals are answered here, the rest in a task of its own."""
        connection = self._connections.get(call.connection)
        if connection is not None and Right.OWN in call.rights:
            connection.rights = Right.ALL  # the service's own, which says no hello
        if connection is None:
            return  # it closed before its request was looked at
        full = self._running.total() >= METHODS_AT_ONCE_MAX
        if full or self._running[connection.id] >= METHODS_OF_ONE_MAX:
            limit = METHODS_AT_ONCE_MAX if full else METHODS_OF_ONE_MAX
            error = Throttled(
                f"{limit} control methods run already", account="node", resource="methods",
                current=limit, limit=limit, retry_after_ms=RETRY_AFTER_MS,
            )  # fmt: skip
            await self._refuse(call, error)
            return
        self._running[connection.id] += 1
        self._nursery.start_soon(self._run, connection, call)

    async def _run(self, connection: Connection, call: MethodCall) -> None:
        row = self._methods.get(call.method)
        scope = trio.CancelScope()
        if row is not None and row.waits:
            connection.waits.add(scope)
        try:
            with scope:
                await self._answer(connection, row, call)
        finally:
            connection.waits.discard(scope)
            self._running[connection.id] -= 1
            if not self._running[connection.id]:
                del self._running[connection.id]

    async def _answer(self, connection: Connection, row: Method | None, call: MethodCall) -> None:
        try:
            body = msgpack.packb(await self._handle(connection, row, call))
        except SchedulerError as error:
            await self._refuse(call, error)
        except Exception as error:  # supervision: a bug in one method must not end the service
            request_id = secrets.token_hex(8)
            self._log.error("method failed", method=call.method, request_id=request_id, error=repr(error))
            await self._refuse(call, Internal(f"{call.method} failed: see the log", request_id=request_id))
        else:
            self.results[call.method, "ok"] += 1
            if not call.notification:
                await self._post(respond(call.connection, call.msgid, body, ok=True))
        if self._connections.exhausted(connection):
            self._log.warning("bad tokens", connection=connection.id, peer_uid=connection.peer_uid)
            await self._post(connection_close(connection.id))

    async def _handle(self, connection: Connection, row: Method | None, call: MethodCall) -> Any:
        if row is None:
            raise BadRequest(f"method: {call.method[:64]!r} is unknown; there are: {', '.join(sorted(self._methods))}")
        if row.right & ~connection.rights:
            missing = ", ".join(r.name.lower() for r in Right if r in row.right and r not in connection.rights and r.name)
            raise Unauthorized(f"{row.name}: needs the right {missing}{_hint(connection)}")
        if row.raw is not None:
            return await row.raw(connection, call)
        assert row.handler is not None, row.name
        return await row.handler(Call(connection, read_map(call.params, row.fields)))

    async def _refuse(self, call: MethodCall, error: SchedulerError) -> None:
        # Only names of the table become labels of a metric: strangers choose the others.
        name = call.method if call.method in self._methods else "unknown"
        self.results[name, error.type] += 1
        if not call.notification:
            await self._post(respond(call.connection, call.msgid, msgpack.packb(error.to_wire()), ok=False))


def _hint(connection: Connection) -> str:
    return "; say hello first" if connection.tcp and connection.rights == Right.NONE else ""
