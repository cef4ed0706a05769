"""Answers in pieces: one call on a connection of its own.

A caller that reads slowly is to slow its function, and nobody else: so a streamed call shares its connection with no other,
and nothing of it is read before it is asked for.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import msgpack  # type: ignore[import-untyped]
import trio

from scheduler.client.session import FRAME_BYTES_MAX, ConnectionLost
from scheduler.errors import ProtocolFault, SchedulerError, from_wire

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from scheduler.client.tls import TlsSocket

__all__ = ["ResponseStream", "stream_over"]

RECEIVE_BYTES = 64 * 1024
MSGID = 1


class ResponseStream:
    """The pieces of one answer, in order: `async for piece in stream`.

    content_type: what the function says its answer is; None where it does not stream: then there is one piece, all of it.
    report: the call's, if it was asked for; known at the end.

    Iterating raises the typed error of the call where it fails, after the pieces that came before.
    """

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=FRAME_BYTES_MAX)
        self._pieces: deque[bytes] = deque()
        self._begun = False
        self.content_type: str | None = None
        self.report: Mapping[str, Any] | None = None
        self.error: SchedulerError | None = None
        self.ended = False

    async def begin(self) -> Self:
        """Until the function has begun to answer, or the call is over."""
        while not self._begun:
            await self._more()
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self.error is not None:
                raise self.error
            if self.ended:
                raise StopAsyncIteration
            await self._more()
        return self._pieces.popleft()

    async def _more(self) -> None:
        try:
            data = await self._receive()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"the connection broke: {error}") from error
        if not data:
            raise ConnectionLost("the service closed the connection")
        self._unpacker.feed(data)
        for frame in self._unpacker:
            self._take(frame)

    def _take(self, frame: Any) -> None:
        match frame:
            case [2, "stream", [int(), str(kind)]]:
                self.content_type = kind
            case [2, "chunk", [int(), bytes(piece)]]:
                self._pieces.append(piece)
            case [1, int(), None, [payload, report]]:
                self.ended = True
                self.report = report
                if payload is not None:
                    self._pieces.append(payload if isinstance(payload, bytes) else str(payload).encode())
            case [1, int(), dict() as error, None]:
                self.ended = True
                self.error = from_wire(error)
                self.report = self.error.report
            case _:
                raise ProtocolFault("not what a streamed call is answered with")
        self._begun = True


@asynccontextmanager
async def stream_over(
    sock: socket.socket | TlsSocket, params: list[Any], *, hello: Mapping[str, Any] | None = None
) -> AsyncIterator[ResponseStream]:
    """One streamed call over a connection that is its own and does not block; closed at the end. params: of `invoke`, with
    options. hello: what has to be said first."""

    async def receive() -> bytes:
        while True:
            try:
                return sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)

    async def send(frame: list[Any]) -> None:
        left = memoryview(msgpack.packb(frame))
        while left:
            try:
                left = left[sock.send(left) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sock)
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {error.strerror or error}") from error

    name, payload, options = (*params, {})[:3]
    try:
        if hello is not None:
            await send([0, MSGID, "hello", [dict(hello)]])
            await _greeted(receive)
        await send([0, MSGID, "invoke", [name, payload, {**options, "stream": True}]])
        yield ResponseStream(receive)
    finally:
        sock.close()


async def _greeted(receive: Callable[[], Awaitable[bytes]]) -> None:
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=FRAME_BYTES_MAX)
    while True:
        data = await receive()
        if not data:
            raise ConnectionLost("the service closed the connection")
        unpacker.feed(data)
        for frame in unpacker:
            match frame:
                case [1, int(), None, _]:
                    return
                case [1, int(), dict() as error, _]:
                    raise from_wire(error)
            raise ProtocolFault("not what hello is answered with")
