"""The dispatcher's own connection to the engine: a client like any other, through a socket pair instead of a listener.

Law of this file: requests out, answers in, by message id. What an answer means is the dispatcher's to say.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships none
import trio

from scheduler.errors import SchedulerError, Unavailable, from_wire

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Caller"]

RECEIVE_BYTES = 256 * 1024
BUFFER_BYTES_MAX = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Waiting:
    answered: trio.Event = field(default_factory=trio.Event)
    error: SchedulerError | None = None
    result: Any = None


class Caller:
    """run() reads answers until the engine closes; then every call gets Unavailable."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._ids = itertools.cycle(range(1, 2**32))
        self._waiting: dict[int, _Waiting] = {}
        self._sending = trio.Lock()
        self._closed = False

    async def run(self) -> None:
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=BUFFER_BYTES_MAX)
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                unpacker.feed(bytes(data))
                for message in unpacker:
                    self._take(message)
        finally:
            self._closed = True
            for waiting in self._waiting.values():
                waiting.error = Unavailable("the engine has closed")
                waiting.answered.set()
            await trio.aclose_forcefully(self._stream)

    def _take(self, message: list[Any]) -> None:
        _, msgid, error, result = message
        waiting = self._waiting.get(msgid)
        if waiting is not None:
            waiting.error = None if error is None else from_wire(error)
            waiting.result = result
            waiting.answered.set()

    async def invoke(self, function: str, payload: object, options: Mapping[str, object]) -> SchedulerError | None:
        """What went wrong, or None. The function's answer is nobody's."""
        return (await self.ask(function, payload, options))[0]

    async def ask(self, function: str, payload: object, options: Mapping[str, object]) -> tuple[SchedulerError | None, Any]:
        """(what went wrong, None) or (None, the result of the protocol's `invoke`)."""
        if self._closed:
            return Unavailable("the engine has closed"), None
        msgid = next(self._ids)
        waiting = self._waiting[msgid] = _Waiting()
        try:
            async with self._sending:
                await self._stream.send_all(msgpack.packb([0, msgid, "invoke", [function, payload, dict(options)]]))
            await waiting.answered.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return Unavailable("the engine has closed"), None
        finally:
            del self._waiting[msgid]
        return waiting.error, waiting.result
