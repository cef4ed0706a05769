"""Images of initialised processes as users meet them: what a description says of one, and those a deployment waits for.

Law of this file: it knows versions by name and asks the keeper of images by handle; it decides nothing about images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from scheduler.functions.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scheduler.catalog import Catalog
    from scheduler.functions.model import FunctionVersion
    from scheduler.sandboxes.templates import Status, Templates

__all__ = ["Snapshots"]

QUEUE_S = 20.0  # a deployment waits for its images this much longer than for their inits: others' may come first


class Snapshots:
    """describe: a version as the registry describes it. init_s: longest init."""

    def __init__(
        self, *, catalog: Catalog, templates: Templates, describe: Callable[[FunctionVersion], dict[str, Any]], init_s: float
    ) -> None:
        self._catalog = catalog
        self._templates = templates
        self._describe = describe
        self._init_s = init_s

    def _status(self, version: FunctionVersion) -> Status | None:
        handle = self._catalog.handle(version.name, version.version)
        return None if handle is None else self._templates.status(handle, version.revision)

    def describe(self, version: FunctionVersion) -> dict[str, Any]:
        """The description with `image` in it. As in Lambda, a version whose init failed when its deployment had it initialised
        is Failed, and says why; calls try again all the same."""
        description = self._describe(version)
        status = self._status(version) if version.has_image else None
        if status is not None and status.function_failed:
            description.update(state=State.FAILED.value, state_reason=status.reason)
        return {**description, "image": _view(version, status)}

    async def make(self, versions: Iterable[FunctionVersion]) -> None:
        """Returns when each has its image, or cannot have one now, or the patience is over."""
        async with trio.open_nursery() as nursery:
            for version in versions:
                handle = self._catalog.handle(version.name, version.version)
                if handle is not None:
                    nursery.start_soon(self._templates.make_now, handle, version.revision, self._init_s + QUEUE_S)


def _view(version: FunctionVersion, status: Status | None) -> dict[str, Any]:
    if not version.has_image:
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
