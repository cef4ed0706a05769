"""The Lambda API in the running service: its access keys, its rooms, and the HTTP connections that the engine hands over.

Law of this file: it joins the rooms that the API needs, as the composition root joins all of them. It decides nothing.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.accesskeys import AccessKeys, AccessKeysBroken
from scheduler.client.streaming import stream_over
from scheduler.engine import json_problem
from scheduler.errors import Unavailable
from scheduler.guests import check_guest
from scheduler.keyring import Keyring
from scheduler.lambda_api.access import OpenAccess, SignedAccess, rights_of
from scheduler.lambda_api.app import Api
from scheduler.lambda_api.rooms import Invoker, Rooms
from scheduler.lambda_api.server import Front
from scheduler.lambda_api.url_calls import engine_urls
from scheduler.messages import Right, connection_adopt, http_adopt, key_put, key_remove, url_remove
from scheduler.queueing.dispatcher import AcceptedEvent
from scheduler.targets.app import TARGET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from scheduler.accesskeys import AccessKey
    from scheduler.lambda_api.access import Access
    from scheduler.lambda_api.app import Reply
    from scheduler.lambda_api.streamed import Streamed
    from scheduler.lambda_api.wire import Request
    from scheduler.messages import Command, HttpHanded
    from scheduler.queueing.caller import Caller
    from scheduler.service import Service

__all__ = ["Gateway"]

KEYS_PERIOD_S: Final = 1.0


class Gateway:
    """open() once the service's rooms are there. Before that, the keys alone."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self.keyring = Keyring.open(settings.keyring_file)
        self.access_keys = AccessKeys(settings.access_key_file, self.keyring)
        self._known: dict[str, AccessKey] = {}  # that the engine knows
        self._urls: dict[str, dict[str, Command]] = {}  # that it knows: by function, then by id
        self._access: Access = OpenAccess()
        self._api: Api | None = None
        self._front: Front | None = None

    @property
    def api(self) -> Api:
        assert self._api is not None, "the gateway is not open yet"
        return self._api

    def open(self, nursery: trio.Nursery, caller: Caller) -> None:
        """Requests are answered from here on. caller: the service's own connection to the engine."""
        service = self._service
        rooms = Rooms(
            settings=lambda: service.settings,
            registry=service.registry,
            code=service.code,
            layers=service.layers,
            deployments=service.deployments,
            runtimes=service.offers.compilers,
            absent_runtimes=service.offers.absent,
            invoker=Invoker(sync=caller.ask, event=self._event, stream=self._stream, json_problem=json_problem),
            concurrency=service.methods.concurrency.view,
            check_guest=check_guest,
            place_guest=service.guests.place,
            publish_image=service.snapshots.publish,
            has_image=service.snapshots.optimized,
        )
        open_to_all = service.settings.http_auth == "none"
        self._access = OpenAccess() if open_to_all else SignedAccess(self.access_keys.find)
        self._api = Api(rooms, self._access, service.log)
        self._front = Front(
            self._answer,
            give_back=lambda fd: service.post(http_adopt(fd)),
            nursery=nursery,
            known=lambda request: self._access.may_be_known(request),
        )
        nursery.start_soon(self._watch_keys)

    async def _answer(self, request: Request, host: str) -> Reply:
        """The other services' requests name their operation in a header; Lambda's in their path."""
        if TARGET in request.headers:
            return await self._service.keyroom.answer(request, self._access)
        return await self.api.answer(request, host)

    async def connection(self, event: HttpHanded) -> None:
        """One that the engine hands over."""
        assert self._front is not None, "the gateway is not open yet"
        self._front.take(event.fd, event.data, event.owed)

    async def operation(
        self, operation: str, values: Mapping[str, Any], *, rights: Right, tenant: str | None, package: Path | None
    ) -> dict[str, Any]:
        """An operation that came by the protocol."""
        port = self._service.http_port
        host = "localhost" if port is None else f"localhost:{port}"
        return await self.api.run(operation, values, rights=rights, tenant=tenant, package=package, host=host)

    async def _event(self, function: str, payload: bytes, trace: str | None, tenant_id: str | None = None) -> str:
        if self._service.draining:
            raise Unavailable("the service is shutting down")
        return await self._service.events.accept(
            AcceptedEvent(function, payload, "json", trace=trace, key=None, tenant_id=tenant_id)
        )

    @asynccontextmanager
    async def _stream(self, function: str, payload: bytes, options: Mapping[str, object]) -> AsyncIterator[Streamed]:
        """A connection to the engine for each stream: one whose reader is slow shares it with no call."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await self._service.post(connection_adopt(theirs.detach(), Right.INVOKE))
        async with stream_over(ours, [function, payload, dict(options)]) as stream:
            yield stream

    # ---- function URLs ----

    def url_commands(self, name: str) -> list[Command]:
        """What the engine is to know of a function's URLs, beside what it knows already."""
        registry = self._service.registry
        before = self._urls.pop(name, {})
        now = engine_urls(name, registry.attachments.of(name), registry.identity.account_id)
        if now:
            self._urls[name] = now
        gone = [url_remove(url_id) for url_id in before if url_id not in now]
        return gone + [put for url_id, put in now.items() if before.get(url_id) != put]

    def watch_urls(self) -> list[Command]:
        """From now on the engine is told of every change; all that it is to know first."""
        attachments = self._service.registry.attachments
        attachments.watch(lambda name: self._service.post(*self.url_commands(name)))
        return [command for name, _ in attachments.all() for command in self.url_commands(name)]

    # ---- access keys ----

    def key_commands(self) -> list[Command]:
        """What the engine is to know of access keys, beside what it knows already."""
        before, self._known = self._known, {key.id: key for key in self.access_keys.all()}
        gone = [key_remove(key_id) for key_id in before if key_id not in self._known]
        return gone + [
            key_put(key.id, key.secret, rights_of(key), tenant_number=self._tenant_number(key.tenant))
            for key in self._known.values()
            if before.get(key.id) != key
        ]

    def _tenant_number(self, tenant: str | None) -> int:
        return 0 if tenant is None else self._service.catalog.tenant_number(tenant)

    async def _watch_keys(self) -> None:
        log, told = self._service.log, ""
        while True:
            await trio.sleep(KEYS_PERIOD_S)
            try:
                if self.access_keys.refresh():
                    await self._service.post(*self.key_commands())
                    log.info("access keys read", keys=len(self.access_keys))
            except AccessKeysBroken as error:
                if error.message != told:
                    log.error("access keys", text=f"{error.message}; the keys read before stay in use")
                told = error.message
            else:
                told = ""
