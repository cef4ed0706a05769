"""Tenant ids of tenant-isolated functions (TenancyConfig PER_TENANT): who may call, and how long each is kept.

Law of this file: each tenant id of a version is a function of its own in the engine, with sandboxes of its own, made when its
first call comes and let go when it has had no sandbox for a while; the engine then finds it by itself. Its figures are counted
with its version's. A tenant id is a stranger's text, and no more than that: who owns a function is another matter.
"""

from __future__ import annotations

import random
import re
from array import array
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.catalog import CatalogFull
from scheduler.errors import BadRequest, NotFound
from scheduler.functions import names
from scheduler.functions.model import Tenancy
from scheduler.messages import FunctionStats, Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.catalog import Catalog
    from scheduler.errors import SchedulerError
    from scheduler.functions.model import FunctionVersion
    from scheduler.functions.registry import FunctionRegistry
    from scheduler.messages import Command, Snapshot

__all__ = ["Guests", "check_guest", "fold"]

TENANT_ID: Final = re.compile(r"[a-zA-Z0-9._:/=+\-@ ]{1,256}")
SWEEP_PERIOD_S: Final = 10.0
IDLE_SWEEPS: Final = 6  # without a sandbox, before it is let go
HIGHEST: Final = frozenset({"oldest_ns", "expected_run_ns", "expected_start_ns", "keep_ns"})
THE_VERSIONS: Final = frozenset({"handle", "account", "revision", "provisioned_failure", "provisioned_account"})


def check_guest(version: FunctionVersion, guest: object) -> None:
    """BadRequest: a tenant id is missing, or given where there is to be none, or none at all."""
    if version.config.tenancy == Tenancy.NONE.value:
        if guest is not None:
            raise BadRequest(f"The function {version.name} isn't enabled for tenant isolation. Remove the tenant ID.")
    elif guest is None:
        raise BadRequest(f"The function {version.name} is enabled for tenant isolation. Add a valid tenant ID to the request.")
    elif not isinstance(guest, str) or not TENANT_ID.fullmatch(guest):
        raise BadRequest("tenant_id: must be 1 to 256 letters, digits, blanks and ._:/=+-@")


class Guests:
    """alive: whether a handle has sandboxes. ask: the protocol's `invoke` on the service's own connection."""

    def __init__(
        self,
        *,
        registry: FunctionRegistry,
        catalog: Catalog,
        post: Callable[..., Awaitable[None]],
        alive: Callable[[int], bool],
        ask: Callable[[str, object, Mapping[str, object]], Awaitable[tuple[SchedulerError | None, Any]]],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._post = post
        self._alive = alive
        self._ask = ask
        self._idle: dict[int, int] = {}  # by handle, sweeps without a sandbox

    async def invoke(self, function: str, payload: object, options: Mapping[str, Any], tenant: str | None) -> object:
        """A call that the engine could not place: its tenant id is admitted, and it is made again. tenant: whose functions the
        caller may call, None: all. The protocol's result; SchedulerError."""
        version, name = self._chosen(function)
        if tenant not in (None, version.config.tenant):
            raise NotFound(f"Function not found: {function}")
        await self._admit(version, options.get("tenant_id"))
        rest = {key: value for key, value in options.items() if key not in ("type", "stream")}  # it is answered in one
        error, result = await self._ask(name, payload, rest)
        if error is not None:
            raise error
        return result

    async def place(self, function: str, guest: str) -> str:
        """A name by which the engine finds the calls of this tenant id. BadRequest, NotFound, CatalogFull."""
        version, name = self._chosen(function)
        await self._admit(version, guest)
        return name

    def _chosen(self, function: str) -> tuple[FunctionVersion, str]:
        """The version that is called by this name, and a name that means it: an alias' version is thrown for."""
        reference = names.parse(function, self._registry.identity)
        alias = self._registry.attachments.of(reference.name).aliases.get(reference.effective)
        if alias is None:
            return self._registry.get(reference.name, reference.effective), str(reference)
        dice, number = random.random(), alias.version
        for other, weight in alias.weights.items():
            number = other if dice < weight else number
        return self._registry.get(reference.name, number), f"{reference.name}:{number}"

    async def _admit(self, version: FunctionVersion, guest: object) -> None:
        """Its calls find their function from now on."""
        check_guest(version, guest)
        if self._catalog.handle(version.name, version.version) is None:
            raise NotFound(f"Function not found: {version.display_name}: it is about to be there, or has just gone")
        try:
            commands = self._catalog.admit(version.name, version.version, str(guest))
        except CatalogFull:
            await self._make_room()
            raise
        if not commands:  # it may have been about to be let go
            commands = self._catalog.name_guest(version.name, version.version, str(guest))
        await self._post(*commands)

    async def _make_room(self) -> None:
        """Those that had no sandbox when they were last looked at go at once: who comes again finds the room."""
        gone = [guest for guest in self._catalog.guests() if guest[3] in self._idle and not self._alive(guest[3])]
        commands: list[Command] = []
        for function, version, guest, handle in gone:
            self._idle.pop(handle)
            commands += self._catalog.dismiss(function, version, guest)
        if commands:
            await self._post(*commands)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(SWEEP_PERIOD_S)
            await self.sweep()

    async def sweep(self) -> None:
        """One who has had no sandbox for long is called by nobody, or its call would have one. Its names go a sweep earlier, so
        that a call meanwhile comes here first."""
        guests = self._catalog.guests()
        before, self._idle = self._idle, {}
        commands: list[Command] = []  # posted together: what is decided must not change meanwhile
        for function, version, guest, handle in guests:
            if self._alive(handle):
                if before.get(handle, 0) >= IDLE_SWEEPS - 1:
                    commands += self._catalog.name_guest(function, version, guest)
                continue
            idle = before.get(handle, 0) + 1
            if idle > IDLE_SWEEPS:
                commands += self._catalog.dismiss(function, version, guest)
                continue
            self._idle[handle] = idle
            if idle == IDLE_SWEEPS:
                commands += self._catalog.unname_guest(function, version, guest)
        if commands:
            await self._post(*commands)


def fold(snapshot: Snapshot, catalog: Catalog) -> Snapshot:
    """With what each tenant id did counted to its version."""
    guests = {handle: catalog.base(handle) for _, _, _, handle in catalog.guests()}
    if not guests:
        return snapshot
    functions = {handle: stats for handle, stats in snapshot.functions.items() if handle not in guests}
    for handle, base in guests.items():
        more = snapshot.functions.get(handle)
        if more is not None and base in functions:
            functions[base] = _sum(functions[base], more)
    return replace(snapshot, functions=functions)


def _sum(one: FunctionStats, other: FunctionStats) -> FunctionStats:
    return FunctionStats(
        **{
            field.name: _both(field.name, getattr(one, field.name), getattr(other, field.name))
            for field in fields(FunctionStats)
        }
    )


def _both(name: str, one: Any, other: Any) -> Any:
    if name in THE_VERSIONS:
        return one
    if name in HIGHEST:
        return max(one, other)
    if isinstance(one, tuple):
        return tuple(a + b for a, b in zip(one, other, strict=True))
    if isinstance(one, Histogram):
        buckets = array(one.buckets.format, (a + b for a, b in zip(one.buckets, other.buckets, strict=True)))
        return Histogram(one.count + other.count, one.sum_ns + other.sum_ns, memoryview(buckets))
    return one + other
