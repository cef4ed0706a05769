"""Deployments in the running service: from what the registry holds to what the engine serves, without losing a call.

Law of this file: the order of things. What a deployment means for the engine is the catalog's to say, whether a sandbox
lives is the supervisor's; here is who waits for whom. Changes of one function happen one after the other, those of
different functions do not wait for each other.

A function that has sandboxes gets one of the new revision first, while the old ones serve; the traffic moves when that one
is ready, has failed, or STAGE_NEED_S passed without the core even asking for it (no memory left beside the old ones). So
the first call of the new code is no cold start. Likewise a runtime that no function used before is started first. A new
revision whose init fails takes the traffic all the same, as in Lambda: callers must learn of it.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from scheduler.functions.names import LATEST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from scheduler.catalog import Catalog, FunctionSpec
    from scheduler.functions.model import FunctionVersion

__all__ = ["Deployments"]

STAGE_NEED_S = 1.0
WAKE_S_MAX = 5.0


@dataclass(slots=True)
class _Stage:
    needed: trio.Event = field(default_factory=trio.Event)
    settled: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class _Turn:
    lock: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0
    updating: bool = False


class Deployments:
    """alive: whether a function has sandboxes. stage_max_s: how long a staged sandbox may take. wake: starts a runtime's
    process and waits for it, that many seconds at most. use: told after each change that other runtimes may be in use."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        post: Callable[..., Awaitable[None]],
        alive: Callable[[int], bool],
        stage_max_s: float,
        wake: Callable[[FunctionVersion, float], Awaitable[None]],
        use: Callable[[], None],
    ) -> None:
        self._catalog = catalog
        self._post = post
        self._alive = alive
        self._stage_max_s = stage_max_s
        self._wake = wake
        self._use = use
        self._stages: dict[tuple[int, int], _Stage] = {}
        self._turns: defaultdict[str, _Turn] = defaultdict(_Turn)

    @asynccontextmanager
    async def turn(self, name: str, *, update: bool = False) -> AsyncIterator[None]:
        """Whoever changes a function does so inside, registry and engine alike. update: until it ends, updating() says so."""
        turn = self._turns[name]
        turn.users += 1
        turn.updating |= update
        try:
            async with turn.lock:
                yield
        finally:
            turn.updating &= not update
            turn.users -= 1
            if not turn.users:
                del self._turns[name]

    def updating(self, name: str) -> bool:
        """An update of its code or configuration, or its creation, is under way: its turn waits or runs."""
        turn = self._turns.get(name)
        return turn is not None and turn.updating

    async def apply(self, spec: FunctionSpec) -> None:
        """Returns when calls that arrive now run the new code. Inside turn(). Raises what Catalog.put() raises."""
        latest = spec.latest
        await self._wake(latest, WAKE_S_MAX)
        handle = self._catalog.handle(latest.name)
        serving = self._catalog.serving(handle) if handle is not None else None
        if handle is not None and serving is not None and serving.revision != latest.revision and self._alive(handle):
            await self._stage(handle, spec)
        await self._post(*self._catalog.put(spec))
        self._use()

    async def remove(self, name: str) -> None:
        """Calls that arrive now find nothing. Inside turn()."""
        if self._catalog.handle(name, LATEST) is not None:
            await self._post(*self._catalog.remove(name))
            self._use()

    async def _stage(self, handle: int, spec: FunctionSpec) -> None:
        key = (handle, spec.latest.revision)
        stage = self._stages[key] = _Stage()
        try:
            with trio.move_on_after(self._stage_max_s):
                await self._post(*self._catalog.stage(spec))
                with trio.move_on_after(STAGE_NEED_S):
                    await stage.needed.wait()
                if stage.needed.is_set():
                    await stage.settled.wait()
        finally:
            del self._stages[key]

    def needed(self, function: int, revision: int) -> None:
        """The core has asked for a sandbox of this revision."""
        stage = self._stages.get((function, revision))
        if stage is not None:
            stage.needed.set()

    def settled(self, function: int, revision: int) -> None:
        """A sandbox of this revision is ready, or has failed."""
        stage = self._stages.get((function, revision))
        if stage is not None:
            stage.settled.set()
