"""Shells kept ahead of demand: a warm process is ready before a function asks for one.

Law of this file: it counts, decides how many shells to keep, and refills; it never specialises one, and knows no function.
The launcher makes shells, scheduler/sandboxes/supervisor.py uses them up. The decision (Demand) is pure and reads no clock.

How many: as many as will be asked for while one is being born, doubled, and never fewer than `ahead`. Births of a runtime run
one after the other, since one zygote makes them, and two at once on a busy machine only hurt the calls that run.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from scheduler.errors import Unavailable
from scheduler.sandboxes.launcher import LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scheduler.sandboxes.launcher import Shell

__all__ = ["Demand", "PoolStats", "ShellPool", "ShellSource"]

DEMAND_HALF_LIFE_S = 10.0
BIRTH_GUESS_S = 0.010
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0
SAFETY = 2.0
SHED_PERIOD_S = 5.0  # a surplus of shells shrinks by one in this time


class ShellSource(Protocol):
    """The part of the launcher that a pool needs."""

    async def shell(self, runtime: str) -> Shell: ...

    def kill(self, shell_id: int) -> None: ...


@dataclass(slots=True)
class Demand:
    """How many shells of a runtime are asked for, an average that halves every DEMAND_HALF_LIFE_S; how long a birth takes."""

    rate_per_s: float = 0.0
    birth_s: float = BIRTH_GUESS_S
    at_s: float = 0.0

    def _decay(self, now_s: float) -> None:
        elapsed = max(0.0, now_s - self.at_s)
        self.rate_per_s *= 0.5 ** (elapsed / DEMAND_HALF_LIFE_S)
        self.at_s = now_s

    def asked(self, now_s: float) -> None:
        # Exponential average of a point process: each point adds ln 2 / half-life.
        self._decay(now_s)
        self.rate_per_s += math.log(2) / DEMAND_HALF_LIFE_S

    def born(self, took_s: float) -> None:
        self.birth_s += (took_s - self.birth_s) / 4

    def target(self, now_s: float, *, ahead: int, most: int) -> int:
        """Shells to keep, `ahead` .. `most`."""
        self._decay(now_s)
        return min(most, max(ahead, math.ceil(self.rate_per_s * self.birth_s * SAFETY)))


@dataclass(frozen=True, slots=True)
class PoolStats:
    runtime: str
    ready: int
    target: int
    waiting: int
    born: int
    died: int
    failed: int
    birth_s: float


@dataclass(slots=True, eq=False)
class _Waiter:
    given: trio.Event = field(default_factory=trio.Event)
    shell: Shell | None = None


@dataclass(slots=True)
class _Shelf:
    runtime: str
    ready: deque[Shell] = field(default_factory=deque)
    waiters: deque[_Waiter] = field(default_factory=deque)
    handed: dict[int, _Waiter] = field(default_factory=dict)  # by shell: given, but its taker has not run yet
    demand: Demand = field(default_factory=Demand)
    born: int = 0
    died: int = 0
    failed: int = 0
    poked: trio.Event = field(default_factory=trio.Event)  # the refiller has something to look at

    def poke(self) -> None:
        self.poked.set()

    def deliver(self, shell: Shell) -> None:
        if self.waiters:
            waiter = self.waiters.popleft()
            waiter.shell = shell
            waiter.given.set()
            self.handed[shell.id] = waiter
        else:
            self.ready.append(shell)

    def drop(self, shell_id: int) -> bool:
        """The shell is dead. False: it is not here."""
        waiter = self.handed.pop(shell_id, None)
        if waiter is not None:
            # Its taker was woken but has not run yet: it goes on waiting, first in the row.
            assert waiter.shell is not None
            waiter.shell.close()
            waiter.shell = None
            waiter.given = trio.Event()
            self.waiters.appendleft(waiter)
        else:
            found = next((shell for shell in self.ready if shell.id == shell_id), None)
            if found is None:
                return False
            self.ready.remove(found)
            found.close()
        self.died += 1
        self.poke()
        return True


class ShellPool:
    """At least `ahead` and at most `most` shells of each runtime. refill() works for one launcher's life; between two lives
    those who ask wait. report: text for the log."""

    def __init__(self, runtimes: Iterable[str], *, ahead: int, most: int, report: Callable[[str], None]) -> None:
        self._shelves = {runtime: _Shelf(runtime) for runtime in runtimes}
        self._ahead = ahead
        self._most = most
        self._report = report
        self._changed = trio.Event()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def ready(self) -> bool:
        """A cold call of any runtime would find a shell."""
        return bool(self._shelves) and all(shelf.ready for shelf in self._shelves.values())

    async def wait_changed(self) -> None:
        """Until a shell was born or died."""
        await self._changed.wait()

    def stats(self) -> list[PoolStats]:
        now = trio.current_time()
        return [
            PoolStats(
                runtime=shelf.runtime,
                ready=len(shelf.ready),
                target=shelf.demand.target(now, ahead=self._ahead, most=self._most),
                waiting=len(shelf.waiters),
                born=shelf.born,
                died=shelf.died,
                failed=shelf.failed,
                birth_s=shelf.demand.birth_s,
            )
            for shelf in self._shelves.values()
        ]

    async def take(self, runtime: str) -> Shell:
        """The oldest shell, or the next one to be born. Its descriptors are the caller's. Unavailable: no such runtime here."""
        shelf = self._shelves.get(runtime)
        if shelf is None:
            known = ", ".join(sorted(self._shelves)) or "none"
            raise Unavailable(f"runtime {runtime} is not available here; there are: {known}")
        shelf.demand.asked(trio.current_time())
        shelf.poke()
        if shelf.ready:
            return shelf.ready.popleft()
        waiter = _Waiter()
        shelf.waiters.append(waiter)
        try:
            while waiter.shell is None:
                await waiter.given.wait()
        except trio.Cancelled:
            if waiter.shell is None:
                shelf.waiters.remove(waiter)
            else:
                del shelf.handed[waiter.shell.id]
                shelf.deliver(waiter.shell)
            raise
        del shelf.handed[waiter.shell.id]
        return waiter.shell

    def exited(self, shell_id: int) -> bool:
        """A shell died. True: it was waiting here and is replaced; False: not one of these."""
        found = any(shelf.drop(shell_id) for shelf in self._shelves.values())
        self._tell()
        return found

    def lost(self) -> None:
        """The launcher died and every shell with it."""
        for shelf in self._shelves.values():
            for shell_id in [*shelf.handed, *(shell.id for shell in shelf.ready)]:
                shelf.drop(shell_id)

    async def refill(self, source: ShellSource) -> None:
        """Keeps the shelves full until cancelled. The caller calls lost() when the source is dead."""
        async with trio.open_nursery() as nursery:
            for shelf in self._shelves.values():
                nursery.start_soon(self._refill, shelf, source)

    async def _refill(self, shelf: _Shelf, source: ShellSource) -> None:
        backoff_s = BACKOFF_FIRST_S
        while True:
            target = shelf.demand.target(trio.current_time(), ahead=self._ahead, most=self._most)
            if shelf.waiters or len(shelf.ready) < target:
                begun = trio.current_time()
                try:
                    shell = await source.shell(shelf.runtime)
                except LaunchFailed as error:
                    shelf.failed += 1
                    self._report(f"a shell of {shelf.runtime} could not be made, next try in {backoff_s:g} s: {error}")
                    await trio.sleep(backoff_s)
                    backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                    continue
                backoff_s = BACKOFF_FIRST_S
                shelf.born += 1
                shelf.demand.born(trio.current_time() - begun)
                shelf.deliver(shell)
                self._tell()
                continue
            shelf.poked = trio.Event()
            with trio.move_on_after(SHED_PERIOD_S) as quiet:
                await shelf.poked.wait()
            if quiet.cancelled_caught and len(shelf.ready) > target:
                surplus = shelf.ready.popleft()
                source.kill(surplus.id)
                surplus.close()
