"""Doors in a sandbox: two listeners in its own network, answered by the service for as long as the sandbox lives.

Law of this file: who connects there is, by that, this sandbox; nobody else can. Whatever comes is a stranger's bytes: few
connections, small heads and bodies, and the reader of the HTTP API. One port speaks the Parameters and Secrets extension's API,
the other AWS's JSON 1.1 for KMS, Secrets Manager and SSM; signatures are not looked at. All of a tenant's sandboxes share a
pace and places, so that they cannot take the control plane's time from everybody: who asks faster waits longer. A connection is
for one request: those that a program would keep could not be in an image of it, and would hold places.

    doors = Doors(targets, nursery, who, variables, token, share)
    door = doors.open(listeners)        once for each sandbox; door.ready() when its init is over, door.close() at its end
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import math
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from scheduler.lambda_api.server import Budget, converse
from scheduler.targets.extension import PORT_VARIABLE, Extension, Options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduler.lambda_api.app import Reply
    from scheduler.lambda_api.wire import Request
    from scheduler.targets.app import Targets
    from scheduler.targets.who import Who

__all__ = [
    "CONNECTIONS_TOTAL_MAX",
    "EXTENSION_PORT",
    "SERVICES_PORT",
    "Door",
    "Doors",
    "Share",
    "Tokens",
    "ports",
    "variables",
]

EXTENSION_PORT: Final = 2773
SERVICES_PORT: Final = 2774
CONNECTIONS_MAX: Final = 16  # of one sandbox, at each port; further ones wait in the kernel
HEAD_BYTES_MAX: Final = 16 * 1024
CONNECTIONS_TENANT_MAX: Final = 64  # of all sandboxes of a tenant; each connection is for one request
CONNECTIONS_TOTAL_MAX: Final = 512
IDLE_S: Final = 5.0  # until a request begins
REQUESTS_EACH_S: Final = 500.0  # of a tenant's, connections counted too; a request takes about 0.3 ms
BURST: Final = 250.0
FULL_S: Final = 0.1  # no descriptors are left
BODIES_BYTES_MAX: Final = 256 * 1024  # of one sandbox at once: a secret is 64 KiB
_RUNTIME_API_PORT: Final = 9001


class Tokens:
    """What AWS_SESSION_TOKEN is: for each version of a function another, and in each life of the service."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, version: str) -> str:
        return hmac.digest(self._key, version.encode(), hashlib.sha256).hex()


class Share:
    """Of a tenant's sandboxes together: so many turns a second, after a burst, and so many connections at once, which count
    among those of all."""

    def __init__(self, total: trio.CapacityLimiter, each_s: float = REQUESTS_EACH_S, burst: float = BURST) -> None:
        self._places = (trio.CapacityLimiter(CONNECTIONS_TENANT_MAX), total)
        self._gap_s = 1 / each_s
        self._ahead_s = burst / each_s
        self._due_s = -math.inf  # when the turns that were taken would be over at that pace

    async def turn(self) -> None:
        """Waits where others, or the same one, had too many."""
        now_s = trio.current_time()
        self._due_s = max(self._due_s, now_s) + self._gap_s
        await trio.sleep(max(0.0, self._due_s - self._ahead_s - now_s))

    async def take(self, place: object) -> None:
        """A connection's place; waits for one."""
        taken: list[trio.CapacityLimiter] = []
        try:
            for limiter in self._places:  # always in this order: nobody waits for another in a circle
                await limiter.acquire_on_behalf_of(place)
                taken.append(limiter)
        except BaseException:
            for limiter in taken:
                limiter.release_on_behalf_of(place)
            raise

    def give(self, place: object) -> None:
        for limiter in self._places:
            limiter.release_on_behalf_of(place)


def ports(given: Mapping[str, str]) -> tuple[int, int]:
    """Where the doors are. The function's variables may move that of the extension, as they may AWS's."""
    text = given.get(PORT_VARIABLE, "")
    wanted = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else EXTENSION_PORT
    free = 1 <= wanted <= 65535 and wanted not in (SERVICES_PORT, _RUNTIME_API_PORT)
    return (wanted if free else EXTENSION_PORT), SERVICES_PORT


def variables(token: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a function with doors finds in its environment: what it may say otherwise, and what it may not."""
    url = f"http://127.0.0.1:{SERVICES_PORT}"
    services = ("KMS", "SECRETS_MANAGER", "SSM")
    credentials = {
        # Clients do not start without some. They open nothing: who connects is known by the connection.
        "AWS_ACCESS_KEY_ID": "ASIASANDBOXSANDBOX00",
        "AWS_SECRET_ACCESS_KEY": token,
        "AWS_SESSION_TOKEN": token,
    }
    return {f"AWS_ENDPOINT_URL_{service}": url for service in services}, credentials


class Door:
    """Of one sandbox."""

    def __init__(self) -> None:
        self._ready = trio.Event()
        self._scope = trio.CancelScope()

    def ready(self) -> None:
        """Its init is over."""
        self._ready.set()

    def close(self) -> None:
        """It is no more."""
        self._scope.cancel()


@dataclass(frozen=True, slots=True)
class Doors:
    """Of all sandboxes of one version. given: the function's variables. share: of all of a tenant."""

    targets: Targets
    nursery: trio.Nursery
    who: Who
    given: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)
    share: Share

    def open(self, listeners: Sequence[int]) -> Door:
        """Takes the descriptors of the two listeners, in the order of ports()."""
        door = Door()
        self.nursery.start_soon(self._serve, door, tuple(socket.socket(fileno=fd) for fd in listeners))
        return door

    async def _serve(self, door: Door, listeners: tuple[socket.socket, ...]) -> None:
        extension = Extension(self.targets, self.who, Options.of(self.given), token=self.token, ready=door._ready)
        budget = Budget(BODIES_BYTES_MAX)

        async def secrets_of(request: Request, host: str) -> Reply:
            await self.share.turn()
            return _last(await extension.answer(request, host))

        async def services(request: Request, host: str) -> Reply:
            await self.share.turn()
            return _last(await self.targets.answer(request, lambda request: (self.who, request)))

        try:
            with door._scope:
                async with trio.open_nursery() as nursery:
                    for listener, handler in zip(listeners, (secrets_of, services), strict=True):
                        nursery.start_soon(self._accept, listener, handler, budget, nursery)
        finally:
            for listener in listeners:
                listener.close()

    async def _accept(
        self,
        listener: socket.socket,
        handler: Callable[[Request, str], Awaitable[Reply]],
        budget: Budget,
        nursery: trio.Nursery,
    ) -> None:
        own = trio.CapacityLimiter(CONNECTIONS_MAX)
        while True:
            await trio.lowlevel.wait_readable(listener)
            await self.share.turn()
            place = object()
            await own.acquire_on_behalf_of(place)
            await self.share.take(place)
            try:
                sock, _ = listener.accept()
            except OSError as error:
                self._give(place, own)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await trio.sleep(FULL_S)
                elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                    return
                continue
            sock.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            nursery.start_soon(self._converse, stream, handler, budget, place, own)

    def _give(self, place: object, own: trio.CapacityLimiter) -> None:
        own.release_on_behalf_of(place)
        self.share.give(place)

    async def _converse(
        self,
        stream: trio.SocketStream,
        handler: Callable[[Request, str], Awaitable[Reply]],
        budget: Budget,
        place: object,
        own: trio.CapacityLimiter,
    ) -> None:
        try:
            await converse(stream, handler, budget, head_bytes_max=HEAD_BYTES_MAX, idle_s=IDLE_S)
        finally:
            stream.socket.close()
            self._give(place, own)


def _last(reply: Reply) -> Reply:
    """The connection ends with it."""
    reply.headers.append(("Connection", "close"))
    return reply
