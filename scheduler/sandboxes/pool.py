"""Shells kept ahead of demand: a warm process is ready before a function asks for one.

Law of this file: it counts, decides how many shells to keep, and refills; it never specialises one, and knows no function.
The launcher makes shells, scheduler/sandboxes/supervisor.py uses them up. The decision (Demand) is pure and reads no clock.

How many: as many as will be asked for while one is being born, doubled, and never fewer than `ahead`; and where many were asked
for at once and had to wait, as many as would have spared them that, for the next time: bursts come back. Those are born when
the burst is over, or they would take the processors from its calls. Births of a runtime run one after the other, since one
zygote makes them, and two at once on a busy machine only hurt the calls that run.

Only runtimes in use (use()) are kept warm. Any other starts when it is asked for, and REST_AFTER_S after its last use its
shells and its process are ended.
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
BURST_HALF_LIFE_S = 120.0
BURST_OVER_S = 1.0  # nobody had to wait for so long
BURST_MIN = 4
BIRTH_GUESS_S = 0.010
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 5.0
SAFETY = 2.0
CALM_S = 10.0  # without a failure or a death for this long, trouble is forgotten
START_PAUSE_S = 0.010  # about what a start takes
SHED_PERIOD_S = 5.0  # a surplus of shells shrinks by one in this time
REST_AFTER_S = 300.0  # a runtime that no function uses any more is let go after this


class ShellSource(Protocol):
    """The part of the launcher that a pool needs."""

    async def shell(self, runtime: str) -> Shell: ...

    def kill(self, shell_id: int) -> None: ...

    def rest(self, runtime: str) -> None: ...


@dataclass(slots=True)
class Demand:
    """How many shells of a runtime are asked for, an average that halves every DEMAND_HALF_LIFE_S; how long a birth takes; how
    many the largest burst of late would have needed ready, which halves every BURST_HALF_LIFE_S."""

    rate_per_s: float = 0.0
    birth_s: float = BIRTH_GUESS_S
    at_s: float = 0.0
    burst: float = 0.0
    short_s: float = -math.inf  # when somebody last had to wait

    def _decay(self, now_s: float) -> None:
        elapsed = max(0.0, now_s - self.at_s)
        self.rate_per_s *= 0.5 ** (elapsed / DEMAND_HALF_LIFE_S)
        self.burst *= 0.5 ** (elapsed / BURST_HALF_LIFE_S)
        self.at_s = now_s

    def asked(self, now_s: float) -> None:
        # Exponential average of a point process: each point adds ln 2 / half-life.
        self._decay(now_s)
        self.rate_per_s += math.log(2) / DEMAND_HALF_LIFE_S

    def short(self, now_s: float, *, waiting: int, kept: int) -> None:
        """So many wait now, for want of more than the `kept` ones, which were taken before."""
        self._decay(now_s)
        # One or two that wait are arrivals' ups and downs, which the rate covers.
        if waiting >= BURST_MIN:
            self.burst = max(self.burst, kept + waiting)
        self.short_s = now_s

    def born(self, took_s: float) -> None:
        self.birth_s += (took_s - self.birth_s) / 4

    def target(self, now_s: float, *, ahead: int, most: int) -> int:
        """Shells to keep, `ahead` .. `most`."""
        self._decay(now_s)
        steady = max(ahead, math.ceil(self.rate_per_s * self.birth_s * SAFETY))
        burst = math.floor(self.burst) if now_s - self.short_s >= BURST_OVER_S else 0
        return min(most, max(steady, burst))


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
    in_use: bool = False
    able: bool = False  # the last birth of this launcher's life went well
    last_used_s: float = -math.inf  # it was in use, or asked for
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

    def asked(self, now_s: float) -> None:
        """Somebody takes a shell, or waits for one."""
        self.last_used_s = now_s
        self.demand.asked(now_s)
        self.poke()

    def idle(self, now_s: float) -> bool:
        return not self.in_use and not self.waiters and now_s - self.last_used_s >= REST_AFTER_S

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


@dataclass(slots=True)
class _Trouble:
    """How long to wait after each failure or death: doubled while they follow one another."""

    last_s: float = -math.inf
    pause_s: float = BACKOFF_FIRST_S

    def again(self, now_s: float) -> float:
        if now_s - self.last_s - self.pause_s >= CALM_S:
            self.pause_s = BACKOFF_FIRST_S
        else:
            self.pause_s = min(self.pause_s * 2, BACKOFF_MAX_S)
        self.last_s = now_s
        return self.pause_s


class ShellPool:
    """At least `ahead` and at most `most` shells of each runtime in use. refill() works for one launcher's life; between two
    lives those who ask wait. report: text for the log."""

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
        """A cold call of any runtime in use would run: its shells are there, or are being born without trouble."""
        return not self.lacking()

    def lacking(self) -> list[str]:
        """Runtimes in use of which no shell can be had: none was born yet, or the last birth failed."""
        return [shelf.runtime for shelf in self._shelves.values() if shelf.in_use and not (shelf.able or shelf.ready)]

    def use(self, runtimes: Iterable[str]) -> None:
        """Exactly these are in use from now on; names that are not offered here are passed over."""
        names = set(runtimes)
        now_s = trio.current_time()
        for shelf in self._shelves.values():
            if shelf.in_use and shelf.runtime not in names:
                shelf.last_used_s = now_s
            shelf.in_use = shelf.runtime in names
            shelf.poke()

    async def wake(self, runtime: str, within_s: float) -> None:
        """Returns once a shell of the runtime was born, or its birth failed, or the time is over, so that its first call need
        not wait for the runtime's process. It counts as used now; use() makes it stay."""
        shelf = self._shelves.get(runtime)
        if shelf is None:
            return
        shelf.last_used_s = trio.current_time()
        failed = shelf.failed
        shelf.poke()
        with trio.move_on_after(within_s):
            while not (shelf.able or shelf.ready) and shelf.failed == failed:
                await self.wait_changed()

    def resize(self, *, ahead: int, most: int) -> None:
        """New bounds; shelves follow at their own pace."""
        self._ahead, self._most = ahead, most
        for shelf in self._shelves.values():
            shelf.poke()

    async def wait_changed(self) -> None:
        """Until a shell was born or died."""
        await self._changed.wait()

    def stats(self) -> list[PoolStats]:
        now = trio.current_time()
        return [
            PoolStats(
                runtime=shelf.runtime,
                ready=len(shelf.ready),
                target=self._target(shelf, now),
                waiting=len(shelf.waiters),
                born=shelf.born,
                died=shelf.died,
                failed=shelf.failed,
                birth_s=shelf.demand.birth_s,
            )
            for shelf in self._shelves.values()
        ]

    def _target(self, shelf: _Shelf, now_s: float) -> int:
        if shelf.idle(now_s):
            return 0
        target = shelf.demand.target(now_s, ahead=self._ahead, most=self._most)
        # Whether a shell can be had is only known by having one.
        return target if shelf.able else max(1, target)

    def take_nowait(self, runtime: str) -> Shell | None:
        """As take(), if a shell is there."""
        shelf = self._shelves.get(runtime)
        if shelf is None or not shelf.ready:
            return None
        shelf.asked(trio.current_time())
        return shelf.ready.popleft()

    async def take(self, runtime: str) -> Shell:
        """The oldest shell, or the next one to be born. Its descriptors are the caller's. Unavailable: no such runtime here."""
        if (shell := self.take_nowait(runtime)) is not None:
            return shell
        shelf = self._shelves.get(runtime)
        if shelf is None:
            known = ", ".join(sorted(self._shelves)) or "none"
            raise Unavailable(f"runtime {runtime} is not available here; there are: {known}")
        shelf.asked(trio.current_time())
        waiter = _Waiter()
        shelf.waiters.append(waiter)
        now_s = trio.current_time()
        shelf.demand.short(now_s, waiting=len(shelf.waiters), kept=self._target(shelf, now_s))
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
            shelf.able = False
            for shell_id in [*shelf.handed, *(shell.id for shell in shelf.ready)]:
                shelf.drop(shell_id)

    async def refill(self, source: ShellSource) -> None:
        """Keeps the shelves full until cancelled. The caller calls lost() when the source is dead."""
        async with trio.open_nursery() as nursery:
            for shelf in self._shelves.values():
                nursery.start_soon(self._refill, shelf, source)

    async def _refill(self, shelf: _Shelf, source: ShellSource) -> None:
        trouble = _Trouble()
        died = shelf.died
        awake = False  # the runtime's process was started in this launcher's life
        while True:
            now_s = trio.current_time()
            if shelf.died != died:
                # Whoever kills them, a machine short of memory for one, would be fed by making them again at once.
                died = shelf.died
                pause_s = trouble.again(now_s)
                self._report(f"a shell of {shelf.runtime} died unused, next one in {pause_s:g} s")
                await trio.sleep(pause_s)
                continue
            if shelf.waiters or len(shelf.ready) < self._target(shelf, now_s):
                awake = True
                try:
                    shell = await source.shell(shelf.runtime)
                except LaunchFailed as error:
                    shelf.failed += 1
                    shelf.able = False
                    self._tell()
                    pause_s = trouble.again(trio.current_time())
                    self._report(f"a shell of {shelf.runtime} could not be made, next try in {pause_s:g} s: {error}")
                    await trio.sleep(pause_s)
                    continue
                shelf.able = True
                shelf.born += 1
                shelf.demand.born(trio.current_time() - now_s)
                shelf.deliver(shell)
                self._tell()
                continue
            shelf.poked = trio.Event()
            if shelf.idle(now_s):
                if awake:
                    self._rest(shelf, source)
                    awake = False
                await shelf.poked.wait()
                continue
            with trio.move_on_after(SHED_PERIOD_S) as quiet:
                await shelf.poked.wait()
            if not quiet.cancelled_caught:
                await self._let_start(shelf)
            elif len(shelf.ready) > self._target(shelf, trio.current_time()):
                self._shed(shelf, source)

    async def _let_start(self, shelf: _Shelf) -> None:
        """A shell was just taken, so a call waits for a start, from which a birth would take a processor. Births wait for that,
        unless shells run short. Under a steady demand this is not come by: there is always one to be born."""
        with trio.move_on_after(START_PAUSE_S):
            while shelf.ready and not shelf.waiters:
                shelf.poked = trio.Event()
                await shelf.poked.wait()

    def _shed(self, shelf: _Shelf, source: ShellSource) -> None:
        surplus = shelf.ready.popleft()
        source.kill(surplus.id)
        surplus.close()

    def _rest(self, shelf: _Shelf, source: ShellSource) -> None:
        """Nothing of the runtime stays but its sandboxes at work."""
        shelf.able = False
        while shelf.ready:
            self._shed(shelf, source)
        source.rest(shelf.runtime)
