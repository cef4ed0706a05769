"""`functions.concurrency`: what is reserved for a function and provisioned of its versions and aliases, shown and changed.

Law of this file: the shapes of docs/internals/service.md; the rules are functions.provisioned's and the registry's. Figures are
those of the engine at this moment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from scheduler.control.dispatch import Call, Method
from scheduler.control.schema import Field, Kind
from scheduler.errors import BadRequest, NotFound
from scheduler.functions import names, provisioned
from scheduler.functions.names import LATEST
from scheduler.messages import FloorFailure, Right

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from scheduler.catalog import Catalog, FunctionSpec
    from scheduler.control.access import Connection
    from scheduler.deployments import Deployments
    from scheduler.functions.registry import FunctionRegistry
    from scheduler.messages import FunctionStats, Snapshot

__all__ = ["Concurrency", "allocation"]

REASONS = {
    FloorFailure.INIT: "FUNCTION_ERROR: the function's init fails; it is tried again after a pause",
    FloorFailure.MEMORY: "the memory of {account} is used up; more are made when some comes back",
    FloorFailure.SANDBOXES: "the node has as many sandboxes as sandboxes_max allows; more are made when one ends",
}


def allocation(stats: Iterable[FunctionStats], requested: int, account_name: Callable[[int], str]) -> dict[str, Any]:
    """Requested, allocated (starting or ready) and available (ready), and in one word how it stands, over the versions that an
    alias names. reason: why it is FAILED."""
    found = list(stats)
    available = sum(f.provisioned_available for f in found)
    failed = next((f for f in found if f.provisioned_failure), None)
    status = "READY" if available >= requested else "IN_PROGRESS" if failed is None else "FAILED"
    reason = None
    if status == "FAILED" and failed is not None:
        reason = REASONS[FloorFailure(failed.provisioned_failure)].format(account=account_name(failed.provisioned_account))
    return {
        "requested": requested,
        "allocated": sum(f.provisioned_allocated for f in found),
        "available": available,
        "status": status,
        "reason": reason,
    }


class Concurrency:
    """find: the version that a call's `name` says, if its connection may know of it. spec: a function as it is now."""

    def __init__(
        self,
        *,
        registry: FunctionRegistry,
        catalog: Catalog,
        deployments: Deployments,
        stats: Callable[[], Awaitable[Snapshot]],
        spec: Callable[[str], FunctionSpec],
    ) -> None:
        self._registry = registry
        self._catalog = catalog
        self._deployments = deployments
        self._stats = stats
        self._spec = spec

    def rows(self) -> tuple[Method, ...]:
        name = Field("name", Kind.TEXT, required=True, minimum=1, maximum=140)
        return (
            Method("functions.concurrency", Right.INVOKE, (name,), self._show),
            Method(
                "functions.provision",
                Right.DEPLOY,
                (name, Field("provisioned", Kind.ANY), Field("windows", Kind.ANY)),
                self._provision,
            ),
        )

    def _place(self, call: Call) -> tuple[str, str]:
        """(function, qualifier) of what exists and this connection may know of."""
        reference = names.parse(call.values["name"], self._registry.identity)
        self._visible(call.connection, reference.name)
        self._registry.get(reference.name, reference.effective)
        return reference.name, reference.effective

    def _visible(self, connection: Connection, name: str) -> None:
        if connection.tenant not in (None, self._registry.get(name).config.tenant):
            raise NotFound(f"Function not found: {self._registry.identity.arn(name, names.LATEST)}")

    async def _show(self, call: Call) -> dict[str, Any]:
        name, _ = self._place(call)
        return await self.view(name)

    async def _provision(self, call: Call) -> dict[str, Any]:
        name, qualifier = self._place(call)
        count, windows = call.get("provisioned"), call.get("windows")
        if count is None and windows is not None:
            raise BadRequest("provisioned: is required beside windows: what holds while none is open")
        config = None if count is None else provisioned.read(count, windows or [], time.time())
        async with self._deployments.turn(name):
            self._place(call)  # it may have gone while this waited, and its name be another's
            await self._registry.provision(name, qualifier, config)
            await self._deployments.apply(self._spec(name))
        return await self.view(name)

    async def view(self, name: str) -> dict[str, Any]:
        """NotFound."""
        config = self._registry.get(name).config
        attached = self._registry.attachments.of(name)
        functions = (await self._stats()).functions
        floors = self._registry.floors(name)

        def of(qualifier: str) -> list[FunctionStats]:
            alias = attached.aliases.get(qualifier)
            versions = [alias.version, *alias.weights] if alias is not None else [qualifier]
            handles = [self._catalog.handle(name, version) for version in versions]
            return [functions[handle] for handle in handles if handle is not None and handle in functions]

        def requested(qualifier: str) -> int:
            alias = attached.aliases.get(qualifier)
            versions = [alias.version, *alias.weights] if alias is not None else [qualifier]
            return sum(floors.get(version, 0) for version in versions)

        return {
            "name": name,
            "reserved": config.reserved_concurrency,
            "provisioned": [
                {
                    "qualifier": qualifier,
                    **allocation(of(qualifier), requested(qualifier), self._account_name),
                    "count": held.count,
                    "windows": provisioned.shown(held),
                    "modified_s": held.modified_s,
                }
                for qualifier, held in sorted(attached.provisioned.items(), key=lambda pair: (pair[0] != LATEST, pair[0]))
            ],
        }

    def _account_name(self, index: int) -> str:
        info = self._catalog.account_info(index)
        return info.name if info is not None else "an account"
