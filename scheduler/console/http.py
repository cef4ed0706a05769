"""A small HTTP/1.1 server for operators' tools: h11 on trio, GET and HEAD only, no bodies taken.

Law of this file: requests in, answers out, limits on everything a peer can do. What is answered is the routes'; this file
knows no page.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import trio

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.config import Address

__all__ = ["Reply", "Request", "listen", "serve"]

CONNECTIONS_MAX = 64
HEAD_BYTES_MAX = 8 * 1024
IDLE_S = 30.0  # from one request to the next; scrapers keep their connection
ANSWER_S = 30.0
RECEIVE_BYTES = 16 * 1024
BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


_PLAIN = {400: b"bad request\n", 404: b"no such page\n", 405: b"GET or HEAD only\n", 500: b"internal error\n", 503: b"busy\n"}


async def listen(address: Address) -> list[trio.SocketListener]:
    """OSError: the address cannot be bound."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return [trio.SocketListener(sock)]


async def serve(
    listeners: list[trio.SocketListener],
    routes: Mapping[str, Callable[[Request], Awaitable[Reply]]],
    *,
    report: Callable[[str], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled. A route that raises SchedulerError is answered 503 with its text."""
    places = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            places.acquire_on_behalf_of_nowait(stream)
        except trio.WouldBlock:
            await stream.aclose()
            return
        try:
            await _Conversation(stream, routes, report).run()
        finally:
            places.release_on_behalf_of(stream)

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started()


class _Conversation:
    def __init__(
        self,
        stream: trio.SocketStream,
        routes: Mapping[str, Callable[[Request], Awaitable[Reply]]],
        report: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._routes = routes
        self._report = report
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def run(self) -> None:
        async with self._stream:
            # A peer that resets, stalls or talks rubbish has lost its own connection and nothing else.
            try:
                while await self._exchange():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _exchange(self) -> bool:
        """One request and its answer. False: the connection is over."""
        with trio.move_on_after(IDLE_S) as idle:
            try:
                request = await self._read()
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._send(Reply(error.error_status_hint, _PLAIN[400]), head=False, close=True)
                return False
        if idle.cancelled_caught or request is None:
            return False
        with trio.move_on_after(ANSWER_S) as slow:
            await self._send(await self._answer(request), head=request.method == b"HEAD")
        if slow.cancelled_caught or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _read(self) -> h11.Request | None:
        request: h11.Request | None = None
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                self._http.receive_data(bytes(data))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.Data):
                raise h11.RemoteProtocolError("a body is not taken here", error_status_hint=413)
            else:
                return None

    async def _answer(self, request: h11.Request) -> Reply:
        if request.method not in (b"GET", b"HEAD"):
            return Reply(405, _PLAIN[405])
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        route = self._routes.get(path)
        if route is None:
            return Reply(404, _PLAIN[404])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        try:
            return await route(Request(path, query, headers))
        except SchedulerError as error:
            self._report(f"{path}: {error}")
            return Reply(503, f"{error}\n".encode())

    async def _send(self, reply: Reply, *, head: bool, close: bool = False) -> None:
        headers = [
            ("content-type", reply.content_type),
            ("content-length", str(len(reply.body))),
            ("cache-control", "no-store"),
        ]
        if close:
            headers.append(("connection", "close"))
        parts = [self._http.send(h11.Response(status_code=reply.status, headers=headers))]
        if not head:
            parts.append(self._http.send(h11.Data(data=reply.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        await self._stream.send_all(b"".join(part for part in parts if part))
