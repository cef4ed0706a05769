"""Images of initialised processes as users meet them: what a description says of one, those a deployment waits for, and those
that versions wait for (SnapStart).

Law of this file: it knows versions by name and asks the keeper of images by handle; it decides nothing about images.

A version with SnapStart is Pending from its publication until its image is made or cannot be, and is not to be called before.
One that can have no image is Active all the same, and starts as others do; one whose init fails is Failed. After a restart of
the service such versions are Active at once, and their images are made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from scheduler.catalog import spec_of
from scheduler.functions.model import State
from scheduler.sandboxes.ledger import State as ImageState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scheduler.catalog import Catalog
    from scheduler.deployments import Deployments
    from scheduler.functions.model import FunctionVersion
    from scheduler.functions.registry import FunctionRegistry
    from scheduler.sandboxes.templates import Status, Templates

__all__ = ["Snapshots"]

QUEUE_S = 20.0  # a deployment waits for its images this much longer than for their inits: others' may come first


class Snapshots:
    """has_image: whether a version may have one. init_s: longest init."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        templates: Templates,
        registry: FunctionRegistry,
        deployments: Deployments,
        nursery: trio.Nursery,
        has_image: Callable[[FunctionVersion], bool],
        init_s: float,
    ) -> None:
        self._catalog = catalog
        self._templates = templates
        self._registry = registry
        self._deployments = deployments
        self._nursery = nursery
        self._has_image = has_image
        self._init_s = init_s

    def _status(self, version: FunctionVersion) -> Status | None:
        handle = self._catalog.handle(version.name, version.version)
        return None if handle is None else self._templates.status(handle, version.revision)

    def describe(self, version: FunctionVersion) -> dict[str, Any]:
        """The description with `image` in it. As in Lambda, a version whose init failed when its deployment had it initialised
        is Failed, and says why; calls try again all the same."""
        description = self._registry.describe(version)
        possible = self._has_image(version)
        status = self._status(version) if possible else None
        if status is not None and status.function_failed:
            description.update(state=State.FAILED.value, state_reason=status.reason)
        return {**description, "image": _view(possible, status)}

    async def make(self, versions: Iterable[FunctionVersion]) -> None:
        """Returns when each has its image, or cannot have one now, or the patience is over."""
        async with trio.open_nursery() as nursery:
            for version in versions:
                handle = self._catalog.handle(version.name, version.version)
                if handle is not None and self._has_image(version):
                    nursery.start_soon(self._templates.make_now, handle, version.revision, self._init_s + QUEUE_S)

    def publish(self, version: FunctionVersion) -> None:
        """It is Pending from now on, until its image is there; before the engine is told of it."""
        self._registry.stand(version, State.PENDING, "The version's image is being made.")
        self._nursery.start_soon(self._publish, version)

    async def _publish(self, version: FunctionVersion) -> None:
        name, number = version.name, version.version
        async with self._deployments.turn(name):
            handle = self._catalog.handle(name, number)  # by now the engine was told
        status = None
        if handle is not None and self._has_image(version):
            status = await self._templates.make_now(handle, version.revision, version.snap_start_init_s + QUEUE_S)
        async with self._deployments.turn(name):
            if self._catalog.handle(name, number) != handle or handle is None:
                return  # it was removed meanwhile
            failed = status is not None and status.function_failed
            self._registry.stand(version, State.FAILED if failed else State.ACTIVE, status.reason if failed and status else "")
            await self._deployments.apply(spec_of(self._registry, name))

    def restart(self) -> None:
        """The service has: what was made before is gone."""
        wanted = [version for version in self._registry.all() if version.snap_started]
        self._nursery.start_soon(self.make, wanted)

    def optimized(self, version: FunctionVersion) -> bool:
        """It has its image now."""
        status = self._status(version)
        return status is not None and status.state is ImageState.READY


def _view(possible: bool, status: Status | None) -> dict[str, Any]:
    if not possible:
        return {"state": "off", "tier": "shell", "reason": None, "bytes": 0, "age_s": 0.0, "restores": 0}
    if status is None:
        return {"state": "none", "tier": "shell", "reason": None, "bytes": 0, "age_s": 0.0, "restores": 0}
    return {
        "state": status.state.value,
        "tier": "snapshot" if status.bytes else "shell",
        "reason": status.reason or None,
        "bytes": status.bytes,
        "age_s": round(status.age_s, 3),
        "restores": status.restores,
    }
