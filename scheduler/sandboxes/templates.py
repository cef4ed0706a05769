"""Images of initialised processes: made ahead, kept within a bound, handed to the sandboxes that are restored from them.

Law of this file: it owns the descriptors of all images and the one task that has them made, one after the other. Which version
gets one and which goes is the ledger's to decide, how a maker is dealt with is maker.py's. No call waits for anything here: a
version without an image starts from a shell, and an image that does not fit costs its sandbox a plain init.

Images are made when the service is calm, or at the latest CALM_MAX_S after they were wished for: a service that never is calm
starts much, and is helped the most.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from scheduler.errors import Unavailable
from scheduler.sandboxes.ledger import Entry, Ledger, State, Version
from scheduler.sandboxes.maker import Bounds, Made, Outcome, make

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from scheduler.sandboxes.doors import Doors
    from scheduler.sandboxes.launcher import Exited, Launcher, Shell, Specialisation
    from scheduler.sandboxes.maker import Aside
    from scheduler.sandboxes.pool import ShellPool

__all__ = ["ImageUse", "MakeOrder", "Orders", "Status", "Templates", "TemplatesStats"]

MB: Final = 1 << 20
CALM_POLL_S: Final = 0.02
CALM_MAX_S: Final = 2.0
HEEDING: Final = frozenset({State.NONE, State.FAILED, State.EVICTED})  # of what sandboxes' inits tell
SHELL_S: Final = 10.0  # a runtime's process may have to be started first; others wait meanwhile
SETTLED: Final = frozenset({State.READY, State.UNSUITABLE, State.FAILED, State.EVICTED, State.NONE})


@dataclass(frozen=True, slots=True)
class MakeOrder:
    """What a maker is to run. start: START's body; it holds the function's secrets, so it is in no repr. doors: who answers at
    the specialisation's ports. init_s: longest init; 0: the keeper's own bound."""

    name: str
    tenant: str
    runtime: str
    memory_mb: int
    specialisation: Specialisation
    start: bytes
    doors: Doors | None = None
    init_s: float = 0.0

    def __repr__(self) -> str:
        return f"MakeOrder({self.name!r})"


class Orders(Protocol):
    """Who knows what a maker of a version runs. None: the version is no more, or is to have no image."""

    def __call__(self, version: Version) -> MakeOrder | None: ...


@dataclass(frozen=True, slots=True)
class ImageUse:
    """One image, for one sandbox. fd: read-only; stays the keeper's, so it is to be passed on at once. number: see Ledger."""

    fd: int
    number: int


@dataclass(frozen=True, slots=True)
class Status:
    """Of one version's image, for people. age_s: since it came into this state."""

    state: State
    reason: str
    bytes: int
    age_s: float
    restores: int
    function_failed: bool


@dataclass(frozen=True, slots=True)
class TemplatesStats:
    by_state: dict[str, int]
    bytes: int
    bytes_max: int
    made: dict[str, int]  # by outcome
    restored: int
    fell_back: int
    evicted: int
    make_s: float  # time spent with makers, all of it


class Sandboxes(Protocol):
    """The part of the supervisor that making images needs. launcher: the one alive, or None. calm: no start is under way.
    watch: of a shell that is no sandbox of the core, what waits for its end; None: the launcher died with it."""

    @property
    def launcher(self) -> Launcher | None: ...

    @property
    def calm(self) -> bool: ...

    def watch(self, shell_id: int) -> Callable[[], Awaitable[Exited | None]]: ...


class Templates:
    """bytes_max: of all images together; 0: none are made. init_s: longest init. report: text for the log. aside: runs what
    would block."""

    def __init__(
        self,
        *,
        pool: ShellPool,
        orders: Orders,
        bytes_max: int,
        init_s: float,
        report: Callable[[str], None],
        aside: Aside = trio.to_thread.run_sync,
    ) -> None:
        self._pool = pool
        self._orders = orders
        self._init_s = init_s
        self._report = report
        self._aside = aside
        self._ledger = Ledger(bytes_max)
        self._fds: dict[int, int] = {}  # by image
        self._poked = trio.Event()
        self._changed = trio.Event()
        self._made = dict.fromkeys(Outcome, 0)
        self._restored = 0
        self._fell_back = 0
        self._evicted = 0
        self._make_s = 0.0

    # ---- looking in ----

    def status(self, function: int, revision: int) -> Status | None:
        """None: nothing is known of it."""
        entry = self._ledger.get(Version(function, revision))
        if entry is None:
            return None
        age_s = trio.current_time() - entry.since_s
        return Status(entry.state, entry.reason, entry.bytes, age_s, entry.restores, entry.function_failed and entry.deployed)

    def stats(self) -> TemplatesStats:
        by_state = {state.value: 0 for state in State}
        for entry in self._ledger.entries():
            by_state[entry.state.value] += 1
        return TemplatesStats(
            by_state=by_state,
            bytes=self._ledger.bytes(),
            bytes_max=self._ledger.bytes_max,
            made={outcome.value: count for outcome, count in self._made.items()},
            restored=self._restored,
            fell_back=self._fell_back,
            evicted=self._evicted,
            make_s=self._make_s,
        )

    # ---- a cold call's side: no waiting here ----

    def image(self, function: int, revision: int) -> ImageUse | None:
        """To be used at once."""
        entry = self._ledger.get(Version(function, revision))
        if entry is None or not entry.image:
            return None
        return ImageUse(self._fds[entry.image], entry.image)

    def initialised(self, function: int, revision: int) -> None:
        """A sandbox of the version went through its init by itself."""
        entry = self._ledger.get(Version(function, revision))
        if entry is None or entry.state in HEEDING:
            self._want(Version(function, revision), deployed=False)

    def restored(self, function: int, revision: int, image: int) -> None:
        self._restored += 1
        self._ledger.restored(Version(function, revision), image, trio.current_time())

    def fell_back(self, function: int, revision: int, image: int, reason: str) -> None:
        """A sandbox could not be restored from the image, or died of it."""
        self._fell_back += 1
        version = Version(function, revision)
        if self._ledger.fell_back(version, image, trio.current_time(), reason):
            entry = self._ledger.get(version)
            assert entry is not None
            self._report(f"function {entry.name}: a sandbox could not be restored from its image: {reason}")
            self._let_go()

    # ---- what changes around it ----

    def lost(self, runtime: str | None = None) -> None:
        """The processes that sandboxes of the runtime (None: of all) are forked from have ended."""
        if self._ledger.lost(trio.current_time(), runtime):
            self._let_go()

    def keep(self, serving: Iterable[tuple[int, int]]) -> None:
        """These (function, revision) serve, or are about to, and may have images; all others' go."""
        self._ledger.drop(Version(*pair) for pair in serving)
        self._let_go()

    def resize(self, bytes_max: int) -> None:
        """A smaller bound is kept to from the next image on."""
        self._ledger.bytes_max = bytes_max

    def _let_go(self) -> None:
        """Closes what no version has any more; those who wait look again."""
        used = {entry.image for entry in self._ledger.entries()}
        for image in [image for image in self._fds if image not in used]:
            os.close(self._fds.pop(image))
        self._tell()

    def _tell(self) -> None:
        self._poked.set()
        self._changed.set()
        self._changed = trio.Event()

    # ---- making ----

    def _want(self, version: Version, *, deployed: bool) -> Entry | None:
        """None: it is to have none."""
        order = self._orders(version) if self._ledger.bytes_max else None
        if order is None:
            return None
        now_s = trio.current_time()
        entry = self._ledger.wanted(
            version, now_s, name=order.name, runtime=order.runtime, tenant=order.tenant, deployed=deployed
        )
        if entry.state is State.WANTED:
            self._poked.set()
        return entry

    async def make_now(self, function: int, revision: int, within_s: float) -> Status | None:
        """Before others, and whether the service is calm or not. Returns how it stands once it is made, cannot be, or the time
        is over; None: it is to have none."""
        version = Version(function, revision)
        if self._want(version, deployed=True) is None:
            return None
        with trio.move_on_after(within_s):
            while (entry := self._ledger.get(version)) is not None and entry.state not in SETTLED:
                await self._changed.wait()
        return self.status(function, revision)

    async def run(self, sandboxes: Sandboxes) -> None:
        """Makes what is wanted until cancelled; then lets all go."""
        try:
            while True:
                self._poked = trio.Event()
                due_s = self._ledger.next_due_s()
                if due_s is None:
                    await self._poked.wait()
                    continue
                if due_s > trio.current_time():
                    with trio.move_on_at(due_s):
                        await self._poked.wait()
                    continue
                await self._until_calm(sandboxes)
                entry = self._ledger.next(trio.current_time())
                if entry is not None:
                    await self._make(entry, sandboxes)
        finally:
            self._ledger.drop(())
            self._let_go()

    async def _until_calm(self, sandboxes: Sandboxes) -> None:
        with trio.move_on_after(CALM_MAX_S):
            while not sandboxes.calm:
                entry = self._ledger.next(trio.current_time())
                if entry is None or entry.deployed:
                    return
                await trio.sleep(CALM_POLL_S)

    async def _make(self, entry: Entry, sandboxes: Sandboxes) -> None:
        begun_s = trio.current_time()
        self._ledger.begun(entry, begun_s)
        made = await self._try(entry.version, sandboxes)
        now_s = trio.current_time()
        self._made[made.outcome] += 1
        self._make_s += now_s - begun_s
        if made.image is not None:
            image = self._ledger.made(entry, now_s, size=made.image.bytes, init_ns=made.image.init_ns)
            if image:
                self._fds[image] = made.image.fd
            else:
                os.close(made.image.fd)  # it was changed, removed or lost meanwhile
        elif made.outcome is Outcome.CANNOT:
            self._ledger.cannot(entry, now_s, made.reason)
            self._report(f"function {entry.name}: no image can be made of it: {made.reason}")
        elif made.outcome is Outcome.NOT_NOW:
            self._ledger.not_now(entry, now_s, made.reason)
        else:
            failed = made.outcome is Outcome.FUNCTION_FAILED
            self._ledger.broke(entry, now_s, made.reason, function_failed=failed)
            self._report(f"function {entry.name}: its image could not be made: {made.reason}")
        self._let_go()

    async def _try(self, version: Version, sandboxes: Sandboxes) -> Made:
        if sandboxes.launcher is None:
            return Made(Outcome.NOT_NOW, "the launcher is being started again")
        order = self._orders(version)
        if order is None:
            return Made(Outcome.BROKE, "the function was changed or removed meanwhile")
        try:
            shell = await self._shell(order.runtime)
        except Unavailable as error:
            return Made(Outcome.NOT_NOW, str(error))
        launcher = sandboxes.launcher
        if launcher is None or shell is None:
            if shell is not None:
                shell.close()  # it died with its launcher while it was handed over
            return Made(Outcome.NOT_NOW, "no shell can be had at the moment")
        return await make(
            launcher,
            shell,
            order.specialisation,
            order.start,
            bounds=self._bounds(order),
            room=lambda size: self._room(size, order.tenant),
            dead=sandboxes.watch(shell.id),
            aside=self._aside,
            doors=order.doors,
        )

    async def _shell(self, runtime: str) -> Shell | None:
        with trio.move_on_after(SHELL_S):
            return await self._pool.take(runtime)
        return None

    def _bounds(self, order: MakeOrder) -> Bounds:
        of_function, of_all = order.memory_mb * MB, self._ledger.bytes_max
        which = "its memory" if of_function <= of_all else "room for all images (images_mb_max)"
        return Bounds(order.init_s or self._init_s, min(of_function, of_all), which)

    def _room(self, size: int, tenant: str) -> bool:
        going = self._ledger.reserve(size, tenant)
        if going is None:
            return False
        for entry in going:
            self._ledger.evicted(entry, trio.current_time())
            self._evicted += 1
        self._let_go()
        return True
