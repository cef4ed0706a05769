"""Which versions of functions have an image of their initialised process, which are to get one, and which cannot.

Law of this file: pure; it reads no clock and holds no descriptor. Who makes images and where they lie is templates.py's.

A version's image, and what each thing that happens does to it (TABLE below is the law, this is its picture):

                 wanted    begun    made    cannot       broke     not now   restored  fell back     lost      evicted
    NONE         WANTED    -        -       -            -         -         -         -             -         -
    WANTED       -         MAKING   -       -            -         -         -         -             -         -
    MAKING       -         -        READY   UNSUITABLE   FAILED    WANTED    -         -             WANTED    -
    READY        -         -        -       -            -         -         READY     WANTED or     WANTED    EVICTED
                                                                                       UNSUITABLE
    UNSUITABLE   -         -        -       -            -         -         -         -             -         -
    FAILED       WANTED    -        -       -            -         -         -         -             -         -
    EVICTED      WANTED    -        -       -            -         -         -         -             -         -

What is not in the table does nothing: news of an image may come when that image is gone. A FAILED or EVICTED one is heeded
again when its pause is over, and then only if a sandbox of the version was initialised, or somebody asks. FAILS_MAX restores
that failed in a row make a version UNSUITABLE, which is for good: the next deployment is another version.

Room is made as GreedyDual-Size-Frequency does: the image goes that saves the least time for its bytes and is used the least,
and what goes raises the bar that all later ones start from, so that the unused grow old. Among tenants it is shared out: an
image goes for another tenant's only if its own tenant holds at least as much as that one then would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["FAILS_MAX", "Entry", "Ledger", "State", "Version"]

FAILS_MAX: Final = 3
PAUSE_FIRST_S: Final = 10.0
PAUSE_MAX_S: Final = 600.0
NOT_NOW_SHARE: Final = 10  # of those pauses, where it was nobody's fault
EVICTED_PAUSE_S: Final = 60.0
REMAKE_PAUSE_S: Final = 2.0  # before an image that could not be restored is made again


class State(Enum):
    NONE = "none"
    WANTED = "wanted"
    MAKING = "making"
    READY = "ready"
    UNSUITABLE = "unsuitable"
    FAILED = "failed"
    EVICTED = "evicted"


class News(Enum):
    WANTED = "wanted"
    BEGUN = "begun"
    MADE = "made"
    CANNOT = "cannot"
    BROKE = "broke"
    NOT_NOW = "not now"
    RESTORED = "restored"
    FELL_BACK = "fell back"
    FELL_BACK_OFTEN = "fell back for the last time"
    LOST = "lost"
    EVICTED = "evicted"


TABLE: Final[Mapping[tuple[State, News], State]] = {
    (State.NONE, News.WANTED): State.WANTED,
    (State.FAILED, News.WANTED): State.WANTED,
    (State.EVICTED, News.WANTED): State.WANTED,
    (State.WANTED, News.BEGUN): State.MAKING,
    (State.MAKING, News.MADE): State.READY,
    (State.MAKING, News.CANNOT): State.UNSUITABLE,
    (State.MAKING, News.BROKE): State.FAILED,
    (State.MAKING, News.NOT_NOW): State.WANTED,
    (State.MAKING, News.LOST): State.WANTED,
    (State.READY, News.RESTORED): State.READY,
    (State.READY, News.FELL_BACK): State.WANTED,
    (State.READY, News.FELL_BACK_OFTEN): State.UNSUITABLE,
    (State.READY, News.LOST): State.WANTED,
    (State.READY, News.EVICTED): State.EVICTED,
}


@dataclass(frozen=True, slots=True)
class Version:
    """function: handle of the core, of one version; revision: of its code and configuration."""

    function: int
    revision: int


@dataclass(slots=True, eq=False)
class Entry:
    """reason: why there is none, for people. image: number of the image, that of no other; 0: there is none. init_ns: what a
    restore saves. deployed: somebody waits for it, or waited. function_failed: its own init did."""

    version: Version
    name: str
    runtime: str
    tenant: str
    state: State = State.NONE
    reason: str = ""
    since_s: float = 0.0
    due_s: float = 0.0  # WANTED: not before this; FAILED, EVICTED: wishes are not heeded before this
    pause_s: float = PAUSE_FIRST_S
    deployed: bool = False
    function_failed: bool = False
    image: int = 0
    bytes: int = 0
    init_ns: int = 0
    restores: int = 0
    fails: int = 0  # restores that failed in a row, whatever the image
    worth: float = field(default=0.0, repr=False)


class Ledger:
    """bytes_max: of all images together. Entries are by version; drop() what serves no more."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._entries: dict[Version, Entry] = {}
        self._bar = 0.0
        self._images = 0
        self._reserved = 0
        self._served_s: dict[str, float] = {}  # when a tenant's image was last begun

    # ---- looking in ----

    def get(self, version: Version) -> Entry | None:
        return self._entries.get(version)

    def entries(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def bytes(self) -> int:
        """Of all images, and of the one that is being made."""
        return self._reserved + sum(entry.bytes for entry in self._entries.values())

    def next(self, now_s: float) -> Entry | None:
        """The one to be made now: those that a deployment waits for first, then the tenant that has waited longest."""
        due = [entry for entry in self._entries.values() if entry.state is State.WANTED and entry.due_s <= now_s]
        if not due:
            return None
        return min(due, key=lambda e: (not e.deployed, self._served_s.get(e.tenant, 0.0), e.since_s))

    def next_due_s(self) -> float | None:
        """When the earliest of the wanted is due; None: none is wanted."""
        return min((entry.due_s for entry in self._entries.values() if entry.state is State.WANTED), default=None)

    # ---- what happens ----

    def _turn(self, entry: Entry, news: News, now_s: float, reason: str = "") -> bool:
        state = TABLE.get((entry.state, news))
        if state is None:
            return False
        if state is not entry.state:
            entry.since_s = now_s
        entry.state, entry.reason = state, reason
        if state is not State.READY:
            entry.image = entry.bytes = 0
        return True

    def wanted(self, version: Version, now_s: float, *, name: str, runtime: str, tenant: str, deployed: bool = False) -> Entry:
        """A sandbox of the version was initialised, or (deployed) somebody waits for its image."""
        entry = self._entries.get(version)
        if entry is None:
            entry = self._entries[version] = Entry(version, name, runtime, tenant)
        entry.deployed = entry.deployed or deployed
        paused = entry.state in (State.FAILED, State.EVICTED) and now_s < entry.due_s
        if (deployed or not paused) and self._turn(entry, News.WANTED, now_s):
            entry.due_s = now_s
            entry.function_failed = False
        return entry

    def begun(self, entry: Entry, now_s: float) -> None:
        self._turn(entry, News.BEGUN, now_s)
        self._served_s[entry.tenant] = now_s

    def reserve(self, size: int, tenant: str) -> list[Entry] | None:
        """Room for an image of the tenant's that is being made: which others have to go; None: there is none that is its to
        take. The least worth goes first, among those of tenants that hold at least as much as this one would: so nobody's
        images go for those of one who has more. The caller ends those by evicted(); the room is held until made() or
        release()."""
        self.release()
        left = [e for e in self._entries.values() if e.state is State.READY]
        held = {tenant: size}
        for entry in left:
            held[entry.tenant] = held.get(entry.tenant, 0) + entry.bytes
        going: list[Entry] = []
        room = self.bytes_max - self.bytes()
        while room < size:
            theirs = [e for e in left if e.tenant == tenant or held[e.tenant] >= held[tenant]]
            if not theirs:
                return None
            entry = min(theirs, key=lambda e: e.worth)
            left.remove(entry)
            going.append(entry)
            held[entry.tenant] -= entry.bytes
            room += entry.bytes
        self._reserved = size
        return going

    def release(self) -> None:
        self._reserved = 0

    def evicted(self, entry: Entry, now_s: float) -> None:
        if self._turn(entry, News.EVICTED, now_s, "others' images needed the room"):
            self._bar = max(self._bar, entry.worth)
            entry.due_s = now_s + EVICTED_PAUSE_S

    def made(self, entry: Entry, now_s: float, *, size: int, init_ns: int) -> int:
        """The image's number; 0: it is not wanted any more."""
        self.release()
        if self._entries.get(entry.version) is not entry or not self._turn(entry, News.MADE, now_s):
            return 0
        self._images += 1
        entry.image, entry.bytes, entry.init_ns = self._images, size, init_ns
        entry.pause_s = PAUSE_FIRST_S
        self._value(entry)
        return entry.image

    def cannot(self, entry: Entry, now_s: float, reason: str) -> None:
        self.release()
        self._turn(entry, News.CANNOT, now_s, reason)

    def broke(self, entry: Entry, now_s: float, reason: str, *, function_failed: bool = False) -> None:
        self.release()
        if self._turn(entry, News.BROKE, now_s, reason):
            entry.function_failed = function_failed
            entry.due_s = now_s + entry.pause_s
            entry.pause_s = min(entry.pause_s * 2, PAUSE_MAX_S)

    def not_now(self, entry: Entry, now_s: float, reason: str) -> None:
        """There was nobody to make it, which is not its fault: it is tried again by itself."""
        self.release()
        if self._turn(entry, News.NOT_NOW, now_s, reason):
            entry.due_s = now_s + entry.pause_s / NOT_NOW_SHARE
            entry.pause_s = min(entry.pause_s * 2, PAUSE_MAX_S)

    def restored(self, version: Version, image: int, now_s: float) -> None:
        entry = self._of_image(version, image)
        if entry is not None and self._turn(entry, News.RESTORED, now_s):
            entry.restores += 1
            entry.fails = 0
            self._value(entry)

    def fell_back(self, version: Version, image: int, now_s: float, reason: str) -> bool:
        """A sandbox could not be restored from that image, or did not live through it. True: the image is to be let go. One
        image counts once, however many try it at the same time."""
        entry = self._of_image(version, image)
        if entry is None:
            return False
        entry.fails += 1
        often = entry.fails >= FAILS_MAX
        told = f"{FAILS_MAX} restores in a row failed, the last one: {reason}" if often else reason
        self._turn(entry, News.FELL_BACK_OFTEN if often else News.FELL_BACK, now_s, told)
        entry.due_s = now_s + REMAKE_PAUSE_S
        return True

    def lost(self, now_s: float, runtime: str | None = None) -> list[Entry]:
        """The processes that sandboxes of the runtime (None: of all) are forked from have ended: no image fits the next ones.
        Those that had one; they are wanted again."""
        found = [e for e in self._entries.values() if runtime in (None, e.runtime) and e.state in (State.READY, State.MAKING)]
        for entry in found:
            self._turn(entry, News.LOST, now_s, "the process that its sandboxes are forked from has ended")
            entry.due_s = now_s
        return found

    def drop(self, serving: Iterable[Version]) -> list[Entry]:
        """Forgets all but these; gives what was forgotten."""
        keep = set(serving)
        gone = [entry for version, entry in self._entries.items() if version not in keep]
        for entry in gone:
            del self._entries[entry.version]
        tenants = {entry.tenant for entry in self._entries.values()}
        self._served_s = {tenant: at_s for tenant, at_s in self._served_s.items() if tenant in tenants}
        return gone

    def _of_image(self, version: Version, image: int) -> Entry | None:
        entry = self._entries.get(version)
        return entry if entry is not None and image and entry.image == image else None

    def _value(self, entry: Entry) -> None:
        entry.worth = self._bar + entry.init_ns * (1 + entry.restores) / max(1, entry.bytes)
