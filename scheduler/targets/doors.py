"""Doors in a sandbox: two listeners in its own network, answered by the service for as long as the sandbox lives.

Law of this file: who connects there is, by that, this sandbox; nobody else can. Whatever comes is a stranger's bytes: few
connections, small heads and bodies, and the reader of the HTTP API. One port speaks the Parameters and Secrets extension's API,
the other AWS's JSON 1.1 for KMS, Secrets Manager and SSM; signatures are not looked at.

    doors = Doors(targets, nursery, who, variables, token)
    door = doors.open(listeners)        once for each sandbox; door.ready() when its init is over, door.close() at its end
"""

from __future__ import annotations

import hashlib
import hmac
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

__all__ = ["EXTENSION_PORT", "SERVICES_PORT", "Door", "Doors", "Tokens", "ports", "variables"]

EXTENSION_PORT: Final = 2773
SERVICES_PORT: Final = 2774
CONNECTIONS_MAX: Final = 16  # of one sandbox, at each port; further ones wait in the kernel
HEAD_BYTES_MAX: Final = 16 * 1024
BODIES_BYTES_MAX: Final = 256 * 1024  # of one sandbox at once: a secret is 64 KiB
_RUNTIME_API_PORT: Final = 9001


class Tokens:
    """What AWS_SESSION_TOKEN is: for each version of a function another, and in each life of the service."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, version: str) -> str:
        return hmac.digest(self._key, version.encode(), hashlib.sha256).hex()


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
    """Of all sandboxes of one version. given: the function's variables."""

    targets: Targets
    nursery: trio.Nursery
    who: Who
    given: Mapping[str, str] = field(repr=False)
    token: str = field(repr=False)

    def open(self, listeners: Sequence[int]) -> Door:
        """Takes the descriptors of the two listeners, in the order of ports()."""
        door = Door()
        self.nursery.start_soon(self._serve, door, tuple(socket.socket(fileno=fd) for fd in listeners))
        return door

    async def _serve(self, door: Door, listeners: tuple[socket.socket, ...]) -> None:
        extension = Extension(self.targets, self.who, Options.of(self.given), token=self.token, ready=door._ready)
        budget = Budget(BODIES_BYTES_MAX)

        async def services(request: Request, host: str) -> Reply:
            reply = await self.targets.answer(request, lambda request: (self.who, request))
            if not door._ready.is_set():
                # A connection that outlives the init cannot be in an image of the initialised process.
                reply.headers.append(("Connection", "close"))
            return reply

        try:
            with door._scope:
                async with trio.open_nursery() as nursery:
                    for listener, handler in zip(listeners, (extension.answer, services), strict=True):
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
        places = trio.CapacityLimiter(CONNECTIONS_MAX)
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:
                return  # no descriptors are left, or its network is gone
            sock.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            await places.acquire_on_behalf_of(stream)
            nursery.start_soon(self._converse, stream, handler, budget, places)

    async def _converse(
        self,
        stream: trio.SocketStream,
        handler: Callable[[Request, str], Awaitable[Reply]],
        budget: Budget,
        places: trio.CapacityLimiter,
    ) -> None:
        try:
            while await converse(stream, handler, budget, head_bytes_max=HEAD_BYTES_MAX):
                pass
        finally:
            stream.socket.close()
            places.release_on_behalf_of(stream)
