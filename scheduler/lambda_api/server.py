"""The API's HTTP/1.1 on the control plane's side: h11 on trio.

Law of this file: bytes in, requests out, limits on everything a peer can do. What is answered is the app's. Connections come
from the engine, whose own reader takes the plain invocations and hands over everything else with the bytes it had read; they go
back there as soon as they can.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO, Final

import h11
import trio

from scheduler.bulk import in_bulk
from scheduler.errors import SchedulerError
from scheduler.lambda_api.app import Reply
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.url_reply import url_reply
from scheduler.lambda_api.wire import BODY_BYTES_MAX, Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.lambda_api.streamed import BodyStream
    from scheduler.messages import UrlAnswered

__all__ = ["Budget", "Front", "converse", "request_of", "wire_of"]

CONNECTIONS_MAX: Final = 1024
HEAD_BYTES_MAX: Final = 1024 * 1024  # Lambda's own limit for request line and headers
HEAD_S: Final = 30.0
IDLE_S: Final = 120.0  # from one request to the next
BODY_S: Final = 30.0
BODY_BYTES_EACH_S: Final = 64 * 1024  # and a second more for each of these
RECEIVE_BYTES: Final = 256 * 1024
LARGE_BYTES: Final = 1024 * 1024  # bodies from here on are read in a thread that stands back
STEP_BYTES: Final = 4 * 1024 * 1024  # of them, and of the budget, at a time
LINGER_MS: Final = 20
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024  # of all requests that are being read
SEND_BYTES: Final = 256 * 1024
SEND_S: Final = 30.0  # for each of these: whoever reads slower gives up its place
NO_BODY: Final = (204, 304)
# As the engine words them (native/reactor/urlreply.c).
PHRASES: Final = {
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    204: b"No Content",
    206: b"Partial Content",
    301: b"Moved Permanently",
    302: b"Found",
    303: b"See Other",
    304: b"Not Modified",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    410: b"Gone",
    412: b"Precondition Failed",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Budget:
    """Bytes of all bodies that are held at once. Strangers, who have not even named a key, have a quarter of it among them."""

    def __init__(self, most: int = BODIES_BYTES_MAX) -> None:
        self._left = most
        self._strangers_left = most // 4

    def take(self, count: int, *, stranger: bool = False) -> bool:
        if count > (min(self._left, self._strangers_left) if stranger else self._left):
            return False
        self.give(-count, stranger=stranger)
        return True

    def give(self, count: int, *, stranger: bool = False) -> None:
        self._left += count
        if stranger:
            self._strangers_left += count


class Guest:
    """A connection's place. waits_since: when it began to owe us bytes; None: it is we who work."""

    __slots__ = ("peer", "scope", "waits_since")

    def __init__(self, peer: str = "") -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.waits_since: float | None = None

    def waits(self, waits: bool) -> None:
        self.waits_since = trio.current_time() if waits else None


class Front:
    """Answers connections that the engine hands over, and gives each back once it is owed nothing and has said nothing more.

    Where all places are taken, who has said half a request and nothing more makes room: the one that has waited longest, of the
    address that has most. So those who stall shut out nobody, wherever they come from, and a request that comes whole is in no
    danger.

    give_back: takes the descriptor. nursery: where connections are answered. known: whether a head may be somebody's.
    """

    def __init__(
        self,
        handler: Callable[[Request, str], Awaitable[Reply]],
        *,
        give_back: Callable[[int], Awaitable[None]],
        nursery: trio.Nursery,
        known: Callable[[Request], bool] = lambda request: True,
        places: int = CONNECTIONS_MAX,
    ) -> None:
        self._handler = handler
        self._give_back = give_back
        self._nursery = nursery
        self._known = known
        self._budget = Budget()
        self._places = places
        self._guests: dict[Guest, None] = {}

    def take(self, fd: int, begun: bytes, owed: UrlAnswered | None = None) -> None:
        """The descriptor is ours from here on. owed: what it is to be told first."""
        plain = socket.socket(fileno=fd)
        sock = trio.socket.from_stdlib_socket(plain)
        if len(self._guests) >= self._places and not self._make_room():
            with contextlib.suppress(OSError):
                plain.send(FULL, socket.MSG_DONTWAIT)
            sock.close()
            return
        guest = Guest(_peer_of(plain))
        self._guests[guest] = None
        self._nursery.start_soon(self._converse, trio.SocketStream(sock), begun, owed, guest)

    def _make_room(self) -> bool:
        places = Counter(guest.peer for guest in self._guests)
        waiting = [(-places[guest.peer], guest.waits_since, guest) for guest in self._guests if guest.waits_since is not None]
        if not waiting:
            return False
        _, _, chosen = min(waiting, key=lambda found: found[:2])
        chosen.scope.cancel()
        del self._guests[chosen]
        return True

    async def _converse(self, stream: trio.SocketStream, begun: bytes, owed: UrlAnswered | None, guest: Guest) -> None:
        try:
            with guest.scope:
                again = await converse(stream, self._handler, self._budget, begun, owed, waits=guest.waits, known=self._known)
            if not guest.scope.cancelled_caught and again:
                fd = stream.socket.detach()
                with trio.CancelScope(shield=True):
                    await self._give_back(fd)
        finally:
            stream.socket.close()
            self._guests.pop(guest, None)


async def converse(
    stream: trio.SocketStream,
    handler: Callable[[Request, str], Awaitable[Reply]],
    budget: Budget,
    begun: bytes = b"",
    owed: UrlAnswered | None = None,
    *,
    head_bytes_max: int = HEAD_BYTES_MAX,
    waits: Callable[[bool], None] = lambda waits: None,
    known: Callable[[Request], bool] = lambda request: True,
    idle_s: float = IDLE_S,
) -> bool:
    """Answers what is there. `begun`: what was read of it already. `owed`: an answer that goes before. `waits`: told when the
    peer owes bytes, and when it no longer does. `known`: whether a head may be somebody's. True: the connection goes on, and
    nothing of its next request has been read. False: it is over."""
    # A peer that resets, stalls or talks rubbish has lost its own connection and nothing else.
    try:
        if owed is not None:
            await _write(stream, await in_bulk(wire_of, owed))
            if owed.close:
                return False
            if not begun:
                return True
        conversation = _Conversation(stream, handler, budget, begun, head_bytes_max, waits, known, idle_s)
        while await conversation.exchange():
            if not conversation.ahead:
                return True
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.LocalProtocolError):
        return False
    return False


def _peer_of(sock: socket.socket | trio.socket.SocketType) -> str:
    try:
        address = sock.getpeername()
    except OSError:  # it has gone already
        return ""
    return str(address[0]) if isinstance(address, tuple) else ""


def request_of(head: h11.Request, body: bytes, peer: str) -> tuple[Request, str]:
    """The request, and the host that it was sent to. LambdaError: a header that may stand once stands twice."""
    path, _, query = head.target.decode("ascii", "replace").partition("?")
    headers: dict[str, str] = {}
    for raw, value in head.headers:
        name = raw.decode("ascii")
        if name in headers and (name.startswith("x-amz") or name == "authorization"):
            raise LambdaError("SerializationException", f"{name}: stands twice in the request")
        text = value.decode("latin-1")
        joint = "; " if name == "cookie" else ","
        headers[name] = f"{headers[name]}{joint}{text}" if name in headers else text
    host = headers.get("host", "localhost")
    return Request(head.method.decode("ascii"), path, query, headers, body, peer), host


def wire_of(owed: UrlAnswered) -> bytes:
    """The bytes of the answer, as they would be had the request come here."""
    reply = url_reply(owed.result)
    if not any(key.lower() == "x-amzn-requestid" for key, _ in reply.headers):
        reply.headers.append(("x-amzn-RequestId", owed.request_id))
    http = h11.Connection(h11.SERVER)
    http.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"Connection: close\r\n" * owed.close + b"\r\n")
    http.next_event(), http.next_event()  # the request, and its end
    return _rendered(http, Reply(reply.status, reply.headers, reply.body))


def _rendered(http: h11.Connection, reply: Reply) -> bytes:
    """All of an answer that is no file."""
    data = http.send(_head(reply)) or b""
    if reply.body and reply.status not in NO_BODY:
        data += http.send(h11.Data(data=reply.body)) or b""
    return data + (http.send(h11.EndOfMessage()) or b"")


def _head(reply: Reply, *, close: bool = False) -> h11.Response:
    headers = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in reply.headers]
    if reply.status not in NO_BODY and reply.stream is None:
        headers.append((b"Content-Length", str(reply.size).encode()))
    if close:
        headers.append((b"Connection", b"close"))
    return h11.Response(status_code=reply.status, headers=headers, reason=PHRASES.get(reply.status, b""))


async def _write(stream: trio.SocketStream, data: bytes) -> None:
    """BrokenResourceError: the peer is gone, or reads too slowly."""
    view = memoryview(data)
    for at in range(0, len(data), SEND_BYTES):
        with trio.move_on_after(SEND_S) as slow:
            await stream.send_all(view[at : at + SEND_BYTES])
        if slow.cancelled_caught:
            raise trio.BrokenResourceError


class _Conversation:
    def __init__(
        self,
        stream: trio.SocketStream,
        handler: Callable[[Request, str], Awaitable[Reply]],
        budget: Budget,
        begun: bytes,
        head_bytes_max: int,
        waits: Callable[[bool], None],
        known: Callable[[Request], bool],
        idle_s: float,
    ) -> None:
        self._stream = stream
        self._handler = handler
        self._budget = budget
        self._waits = waits
        self._known = known
        self._stranger = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=head_bytes_max)
        self._held = 0
        self._idle_s = idle_s
        if begun:
            self._http.receive_data(begun)
        self._peer = _peer_of(stream.socket)

    @property
    def ahead(self) -> bool:
        """Something of the next request has been read."""
        data, closed = self._http.trailing_data
        return bool(data) or closed

    async def exchange(self) -> bool:
        """One request and its answer. False: the connection is over."""
        try:
            return await self._exchange()
        finally:
            self._budget.give(self._held, stranger=self._stranger)
            self._held = 0

    async def _exchange(self) -> bool:
        head: h11.Request | None = None
        self._waits(True)
        try:
            head = await self._head()
            if head is None:
                return False
            self._stranger = not self._known(request_of(head, b"", self._peer)[0])
            body = await self._body(head)
            if body is None:
                return False
            self._waits(False)
            request, host = request_of(head, body, self._peer)
        except h11.RemoteProtocolError as error:
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                refusal = LambdaError("SerializationException", f"not HTTP/1.1 as it should be: {error}")
                await self._send(Reply(error.error_status_hint, refusal.headers(), refusal.body()), b"GET", close=True)
            return False
        except LambdaError as error:
            method = head.method if head is not None else b"GET"
            await self._send(Reply(error.kind.status, error.headers(), error.body()), method, close=True)
            return False
        await self._send(await self._handler(request, host), head.method)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _head(self) -> h11.Request | None:
        with trio.move_on_after(self._idle_s) as patience:
            begun = False
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if not begun and self._http.trailing_data[0]:
                        begun = True
                        patience.deadline = trio.current_time() + HEAD_S  # for all of it: not from byte to byte
                    self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
                elif isinstance(event, h11.Request):
                    return event
                else:
                    return None
        return None

    async def _body(self, head: h11.Request) -> bytes | None:
        """None: it came too slowly."""
        if head.http_version not in (b"1.0", b"1.1"):
            raise LambdaError("SerializationException", f"HTTP/{head.http_version.decode('ascii')} is not spoken here")
        if head.method == b"CONNECT":  # to the library another protocol begins with any answer but a refusal
            raise LambdaError("SerializationException", "CONNECT: this is no proxy")
        framing = {name for name, _ in head.headers}
        if b"content-length" in framing and b"transfer-encoding" in framing:
            # RFC 9112 lets the one win; whoever is on the way may have let the other.
            raise LambdaError("SerializationException", "a request has Content-Length or Transfer-Encoding, not both")
        announced = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
        if announced > BODY_BYTES_MAX:
            raise _too_large()
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        begun = self._http.trailing_data[0]
        if announced > LARGE_BYTES and len(begun) < announced:
            return await self._large_body(head, begun, announced)
        parts: list[bytes] = []
        deadline = trio.current_time() + BODY_S
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                with trio.move_on_at(deadline) as slow:
                    self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
                if slow.cancelled_caught:
                    return None
            elif isinstance(event, h11.Data):
                count = len(event.data)
                if self._held + count > BODY_BYTES_MAX or not self._budget.take(count, stranger=self._stranger):
                    raise _too_large() if self._held + count > BODY_BYTES_MAX else _busy()
                self._held += count
                deadline += count / BODY_BYTES_EACH_S
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(parts)
            else:
                return None

    async def _large_body(self, head: h11.Request, begun: bytes, size: int) -> bytes | None:
        """One of a known length, beside the library: it copies each byte several times, in everybody's thread. None: it came
        too slowly, or not at all."""
        body = memoryview(mmap.mmap(-1, size))  # a page is memory once something is in it
        body[: len(begun)] = begun
        have, deadline = len(begun), trio.current_time() + BODY_S
        while have < size:
            step = min(STEP_BYTES, size - have)
            if not self._budget.take(have + step - self._held, stranger=self._stranger):
                raise _busy()
            self._held = have + step
            deadline += step / BODY_BYTES_EACH_S
            for _ in range(step):  # at most: each time there is a byte at least
                with trio.move_on_at(deadline) as slow:
                    await trio.lowlevel.wait_readable(self._stream.socket)
                got = 0 if slow.cancelled_caught else await in_bulk(_receive, self._stream.socket, body[have : self._held])
                if got == 0:
                    return None
                have += got
                if have == self._held:
                    break
        self._http = _after(head)
        return await in_bulk(bytes, body)

    async def _send(self, reply: Reply, method: bytes, *, close: bool = False) -> None:
        try:
            data = self._http.send(_head(reply, close=close)) or b""
            if method != b"HEAD" and reply.status not in NO_BODY:
                if reply.body:
                    data += self._http.send(h11.Data(data=reply.body)) or b""
                elif reply.file is not None:
                    data = await self._send_file(reply.file, data)
                elif reply.stream is not None:
                    data = await self._send_stream(reply.stream, data)
            data += self._http.send(h11.EndOfMessage()) or b""
            await self._write(data)
        finally:
            if reply.file is not None:
                reply.file.close()
            if reply.stream is not None:
                await reply.stream.aclose()

    async def _send_file(self, file: BinaryIO, data: bytes) -> bytes:
        """All of it after `data`, a part at a time: no peer makes us hold a whole package. The last part is given back."""
        while part := await trio.to_thread.run_sync(file.read, SEND_BYTES):
            await self._write(data)
            data = self._http.send(h11.Data(data=part)) or b""
        return data

    async def _send_stream(self, stream: BodyStream, data: bytes) -> bytes:
        """Each part as it comes: a peer that reads slowly slows the function. A part that never comes leaves the answer without
        its end, which every client takes for a failure."""
        await self._write(data)
        try:
            async for part in stream.parts:
                await self._write(self._http.send(h11.Data(data=part)) or b"")
        except SchedulerError:
            raise trio.BrokenResourceError from None
        return b""

    async def _write(self, data: bytes) -> None:
        await _write(self._stream, data)


def _receive(sock: trio.socket.SocketType, room: memoryview) -> int:
    """What is there, and what comes while it is taken; 0: the peer is gone. Blocks for a moment at most."""
    have, ready = 0, select.poll()
    ready.register(sock.fileno(), select.POLLIN)
    with socket.socket(fileno=os.dup(sock.fileno())) as plain:
        while have < len(room):
            try:
                got = plain.recv_into(room[have:], 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not ready.poll(LINGER_MS):
                    break
                continue
            except OSError:
                return 0
            if got == 0:
                return 0
            have += got
    return have


def _after(head: h11.Request) -> h11.Connection:
    """A connection in the state of one that has read this request with its body."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    kept = [(name, value) for name, value in head.headers if name not in (b"content-length", b"expect")]
    lines = [b"%s %s HTTP/%s" % (head.method, head.target, head.http_version), *(b"%s: %s" % pair for pair in kept)]
    http.receive_data(b"\r\n".join((*lines, b"content-length: 0", b"", b"")))
    http.next_event(), http.next_event()  # the request, and its end
    return http


def _too_large() -> LambdaError:
    return LambdaError("RequestTooLargeException", f"Request must be smaller than {BODY_BYTES_MAX} bytes")


def _busy() -> LambdaError:
    return LambdaError("ServiceUnavailableException", "too many bytes of requests are being read at once; try again")
