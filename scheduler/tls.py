"""TLS on the TCP address: a front that decrypts, relays to the engine and back.

Law of this file: it owns certificates, handshakes and the bytes between two sockets, and knows nothing of what they say. The
engine speaks plain streams only; each connection here is a TLS stream of trio's and one end of a socket pair, whose other end
the engine adopts as a client like any other: without rights until its hello.

What a stranger can make us hold is bounded: handshakes under way by HANDSHAKES_MAX and HANDSHAKE_S (where there are too many
the oldest makes room, so that those who stall cannot shut out those who do not), connections by `connections_max`, bytes by
one chunk in each direction: who reads no more is not read for any more, and the engine's own bounds then apply. Whoever takes
nothing of what waits for STALL_S is cut off.

The engine reads from the pair as it reads from TCP: a client that ends its side has ended the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgpack  # type: ignore[import-untyped]  # it ships none
import trio

from scheduler.errors import BadRequest, SchedulerError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from scheduler.config import Address

__all__ = ["Certificate", "Figures", "TlsBroken", "TlsFront", "listen"]

HANDSHAKE_S: Final = 10.0
HANDSHAKES_MAX: Final = 256
STALL_S: Final = 30.0  # as long as the engine waits for a reader
END_S: Final = 2.0  # for the last words, once the engine has closed or the service ends
OVER_S: Final = 5.0  # the engine flushes for 2 s at most
GOODBYE_S: Final = 0.25  # for the peers to close too, when the service ends
LINGER_S: Final = 1.0
LINGER_READS: Final = 16
CHUNK_BYTES: Final = 64 * 1024
BACKLOG: Final = 1024
ACCEPT_PAUSE_S: Final = 0.1
HANDSHAKE_RECORD: Final = 0x16  # the first byte of every TLS connection
OUT_OF_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
NOT_TLS: Final = BadRequest("this address speaks TLS: connect to tls://HOST:PORT, or with --tls")


class TlsBroken(SchedulerError):
    """Certificate or key cannot be used; the message names the file and says why."""

    type = "BadRequest"


# ---- certificate and key -------------------------------------------------------------------------------------------------


class Certificate:
    """The two files, read anew when one of them changes, so that a renewed certificate needs no restart."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next handshake. TlsBroken, once for each change: the new files cannot be used; those before stay in use."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._context = self._load()
        return self._context

    def last_context(self) -> ssl.SSLContext:
        """The one that could be used last."""
        return self._context

    def _look(self) -> tuple[object, ...]:
        found: list[object] = []
        for path in (self._cert_file, self._key_file):
            try:
                info = path.stat()
            except OSError as error:
                found.append(error.errno)
            else:
                found.append((info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size, info.st_mode))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0  # nothing to write after the handshake to who may not read it
        for name, path, hidden in (("tls_cert_file", self._cert_file, False), ("tls_key_file", self._key_file, True)):
            _check_file(name, path, hidden=hidden)
        try:
            # Also accepts nothing but certificates: so what load_cert_chain complains of below is the key.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self._cert_file)
        except (ssl.SSLError, ValueError):
            raise TlsBroken(f"tls_cert_file {self._cert_file}: holds no certificate in PEM") from None

        def refuse() -> str:
            raise TlsBroken(f"tls_key_file {self._key_file}: has a passphrase, which nobody would be there to type")

        try:
            context.load_cert_chain(self._cert_file, self._key_file, password=refuse)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise TlsBroken(
                    f"tls_key_file {self._key_file}: is not the key of the certificate in {self._cert_file}"
                ) from None
            reason = (error.reason or "").replace("_", " ").lower()
            if "key" in reason and "small" in reason:
                raise TlsBroken(f"tls_cert_file {self._cert_file}: its key is too small to be safe") from None
            raise TlsBroken(f"tls_key_file {self._key_file}: holds no private key in PEM") from None
        return context


def _check_file(name: str, path: Path, *, hidden: bool) -> None:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
    except OSError as error:
        raise TlsBroken(f"{name} {path}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise TlsBroken(f"{name} {path}: is no file")
    if hidden and info.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise TlsBroken(
            f"{name} {path}: has mode {stat.S_IMODE(info.st_mode):04o}, so others could use or replace the key; chmod 600"
        )


# ---- the front -----------------------------------------------------------------------------------------------------------


async def listen(address: Address) -> list[trio.SocketListener]:
    """Bound and listening. OSError: the address is taken, or is not this machine's."""
    return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)


@dataclass(slots=True)
class Figures:
    """Counters since the start."""

    accepted: int = 0  # handshakes that were done
    failed: int = 0  # refused by either side: another protocol, a version or certificate that does not suit
    timed_out: int = 0
    crowded_out: int = 0  # ended to make room for newer ones
    refused: int = 0  # beyond connections_max
    stalled: int = 0  # cut off, since they took nothing of what waited for them


class TlsFront:
    """run() serves until cancelled.

    Args:
        adopt: hands one end of a pair to the engine, which owns the descriptor from there on, whatever happens.
        over: returns once the engine has written its last. Connections are kept that long, so that no answer is lost
            at the end.
        report: a line for the log.
    """

    def __init__(
        self,
        listeners: list[trio.SocketListener],
        certificate: Certificate,
        *,
        adopt: Callable[[int], Awaitable[None]],
        over: Callable[[], Awaitable[object]],
        connections_max: int,
        report: Callable[[str], None],
    ) -> None:
        self.figures = Figures()
        self._listeners = listeners
        self._certificate = certificate
        self._adopt = adopt
        self._over = over
        self._connections_max = connections_max
        self._report = report
        self._accepting = trio.CancelScope()
        self._under_way: dict[trio.CancelScope, None] = {}  # handshakes, the oldest first
        self._pairs: set[socket.socket] = set()  # our ends
        self._served = 0
        self._fewer = trio.Event()  # pairs or connections

    def stop_listening(self) -> None:
        """New connections are refused from now on; those that are open go on."""
        self._accepting.cancel()
        for listener in self._listeners:
            listener.socket.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then what the engine still has to say is passed on, for END_S at most."""
        async with trio.open_nursery() as nursery:
            relays: trio.Nursery = await nursery.start(self._hold)
            try:
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in self._listeners:
                            accepting.start_soon(self._accept, listener, relays)
                        task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await self._end()
                relays.cancel_scope.cancel()

    async def _hold(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """The nursery of the connections: whoever cancels the front does not cancel them, _end() does."""
        async with trio.open_nursery() as relays:
            relays.cancel_scope.shield = True
            task_status.started(relays)
            await trio.sleep_forever()

    async def _end(self) -> None:
        self.stop_listening()
        for scope in list(self._under_way):
            scope.cancel()
        with trio.move_on_after(OVER_S):
            await self._over()
        for pair in self._pairs:
            pair.shutdown(socket.SHUT_RD)  # what is in it can still be read; then its end is seen
        with trio.move_on_after(END_S):
            while self._pairs:
                await self._fewer.wait()
        with trio.move_on_after(GOODBYE_S):
            while self._served:
                await self._fewer.wait()

    async def _accept(self, listener: trio.SocketListener, relays: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_ROOM:
                    raise
                self._report(f"connections cannot be accepted: {error.strerror}")
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            if self.open >= self._connections_max:
                self.figures.refused += 1
                stream.socket.close()
                continue
            if len(self._under_way) >= HANDSHAKES_MAX:
                oldest = next(iter(self._under_way))
                del self._under_way[oldest]
                oldest.cancel()
                self.figures.crowded_out += 1
            relays.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close. Whatever a peer does ends here."""
        self._served += 1
        try:
            tls = await self._shake_hands(stream)
            if tls is not None:
                self.figures.accepted += 1
                await self._relay(tls)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            return  # the peer has gone, or there was no descriptor for a pair
        finally:
            self._served -= 1
            self._tell_fewer()
            stream.socket.close()

    async def _shake_hands(self, stream: trio.SocketStream) -> trio.SSLStream[_Transport] | None:
        """A stream of a peer that has shown that it speaks TLS; None: it has not, in time."""
        with trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_S) as scope:
            self._under_way[scope] = None
            try:
                first = await stream.socket.recv(1, socket.MSG_PEEK)
                if first and first[0] != HANDSHAKE_RECORD:
                    # A client of the plain protocol, most likely: it is told in its own language.
                    self.figures.failed += 1
                    await stream.send_all(msgpack.packb([1, 0, NOT_TLS.to_wire(), None]))
                    await _Transport(stream).aclose()
                    return None
                tls = trio.SSLStream(_Transport(stream), self._context(), server_side=True)
                await tls.do_handshake()
            except (trio.BrokenResourceError, OSError):
                self.figures.failed += 1
                return None
            finally:
                self._under_way.pop(scope, None)
            return tls
        self.figures.timed_out += trio.current_time() >= scope.deadline
        return None

    def _context(self) -> ssl.SSLContext:
        try:
            return self._certificate.context()
        except TlsBroken as error:
            self._report(f"{error.message}; the certificate read before stays in use")
            return self._certificate.last_context()

    async def _relay(self, tls: trio.SSLStream[_Transport]) -> None:
        ours, theirs = socket.socketpair()
        self._pairs.add(ours)
        try:
            engine = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            await self._adopt(theirs.detach())
            async with trio.open_nursery() as both:
                both.start_soon(_up, tls, engine, both.cancel_scope)
                if await _down(engine, tls):
                    with trio.move_on_after(END_S):
                        await tls.transport_stream.finish_reading()
                else:
                    self.figures.stalled += 1
                both.cancel_scope.cancel()
        finally:
            ours.close()
            self._pairs.discard(ours)
            self._tell_fewer()
        with trio.move_on_after(END_S):
            await tls.aclose()

    def _tell_fewer(self) -> None:
        self._fewer.set()
        self._fewer = trio.Event()

    @property
    def open(self) -> int:
        """Connections past their handshake now."""
        return self._served - len(self._under_way)

    @property
    def handshakes(self) -> int:
        """Those under way now."""
        return len(self._under_way)


async def _up(tls: trio.SSLStream[_Transport], engine: trio.SocketStream, both: trio.CancelScope) -> None:
    """What the client says, to the engine. Where the client has gone nobody waits for the engine's answers."""
    hears = True  # the engine; what comes later is only taken out of the way
    try:
        while data := await tls.receive_some():
            if hears:
                hears = await _told(engine.send_all(data))
        await _told(engine.send_eof())
    except trio.BrokenResourceError:
        both.cancel()
    finally:
        tls.transport_stream.starved.set()


async def _told(sending: Awaitable[None]) -> bool:
    """False: the engine has closed. What it said before is still to be passed on."""
    try:
        await sending
    except trio.BrokenResourceError:
        return False
    return True


async def _down(engine: trio.SocketStream, tls: trio.SSLStream[_Transport]) -> bool:
    """What the engine says, to the client, until the engine closes. False: the client took nothing for STALL_S."""
    while True:
        try:
            data = await engine.receive_some(CHUNK_BYTES)
        except trio.BrokenResourceError:
            return True  # closed with something unread, which is an end too
        if not data:
            return True
        try:
            with trio.move_on_after(STALL_S) as patience:
                await tls.send_all(data)
        except trio.BrokenResourceError:
            return True  # the client has gone
        if patience.cancelled_caught:
            return False


class _Transport(trio.abc.Stream):
    """A TCP stream that is closed gently.

    A plain close with something unread resets the connection, and the peer would lose what was sent to it last: why it is
    closed. And TLS cannot say its own goodbye while decrypted data waits to be taken: see finish_reading().
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._finished = False
        self._waiting = trio.CancelScope()
        self.starved = trio.Event()  # whoever decrypts has taken all there is

    async def finish_reading(self) -> None:
        """Nothing more is given to whoever decrypts; returns once it has worked off what it has."""
        self._finished = True
        self._waiting.cancel()
        await self.starved.wait()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._waiting = trio.CancelScope()  # one serves for a single wait
        if not self._finished:
            with self._waiting:
                return await self._stream.receive_some(max_bytes)
        self.starved.set()
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        try:
            with trio.move_on_after(LINGER_S):
                await self._stream.send_eof()
                for _ in range(LINGER_READS):
                    if not await self._stream.receive_some():
                        break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has gone already
        finally:
            await self._stream.aclose()
