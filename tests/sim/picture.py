"""What the judge knows of calls, sandboxes and functions: plain records, made of events and actions alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from tests.model.core_binding import State, Why

if TYPE_CHECKING:
    from tests.model import keep as model

__all__ = ["Call", "Function", "Sandbox", "Where"]


class Where(Enum):
    WAITS = 0
    SENT = 1
    ORPHAN = 2


@dataclass(slots=True, eq=False)
class Call:
    cookie: int
    function: int
    order: int
    arrive_ns: int
    deadline_ns: int
    size: int
    where: Where = Where.WAITS
    handle: int = 0
    sandbox: int = 0
    seq: int = 0
    valid_until_ns: int = 0
    waits_since_ns: int = 0
    cancelled: bool = False
    bereft: bool = False  # its first sandbox ended before it began


@dataclass(slots=True, eq=False)
class Sandbox:
    handle: int
    function: int
    revision: int
    memory_mb: int
    requested_ns: int
    init_max_ns: int
    again: bool  # its start is a second attempt: its first call's time runs since it began
    state: State = State.STARTING
    ring: deque[tuple[int, Call | None]] = field(default_factory=deque)  # None: called back
    next_seq: int = 1
    progress: int = 0
    ready_ns: int = 0
    first_since_ns: int = 0
    idle_since_ns: int = 0
    dead_since_ns: int = 0
    why: Why = Why.NONE
    last_word: bool = False  # its progress is final
    probed: bool = False
    retiring: bool = False
    served: int = 0
    clock: int = 0  # the judge's own when it became idle
    kept_until_ns: int = 0  # latest of what its function's window said while it was idle
    orphans: list[Call] = field(default_factory=list)

    def running_seq(self) -> int:
        """The call that runs now as far as anybody knows; one before the ring if it is empty."""
        if not self.ring:
            return self.next_seq - 1
        first = self.ring[0][0]
        return self.progress if first <= self.progress < self.next_seq else first

    def begun_seq(self) -> int:
        """Once it is gone, the last call that may have run: the first is run elsewhere if it did not begin, but once only."""
        if not self.ring or not self.last_word or self.progress + 1 != self.ring[0][0]:
            return self.running_seq()
        call = self.ring[0][1]
        if call is None or call.bereft:
            return self.ring[0][0]
        call.bereft = True
        return self.progress


@dataclass(slots=True, eq=False)
class Function:
    handle: int
    account: int
    revision: int
    memory_mb: int
    timeout_ns: int
    queue_timeout_ns: int
    ahead_max: int
    keep: model.Keep
    start_ns: int
    floor: int = 0
    held: bool = False  # floor_holds() when the step before ended: a timer may have looked before this one changed it
    waiting: list[tuple[int, Call]] = field(default_factory=list)  # by order of arrival
    sandboxes: dict[int, Sandbox] = field(default_factory=dict)
    removing: bool = False
    failed_start_ns: int = -1
    late_start_ns: int = -1  # when a second attempt took too long
    failures: int = 0  # starts that failed since one went well
    most_failures: int = 0  # of this revision: what failed before a start went well may be told after it

    def floor_holds(self) -> bool:
        """None of those that are ready may be ended for being idle or for its memory."""
        return 0 < self.floor >= len(self.ready())

    def ready(self) -> list[Sandbox]:
        """Of the serving revision, and not ending."""
        current = [s for s in self.sandboxes.values() if s.revision == self.revision and not s.retiring]
        return [s for s in current if s.state in (State.IDLE, State.BUSY)]

    def count(self, *states: State) -> int:
        return sum(1 for sandbox in self.sandboxes.values() if sandbox.state in states)
