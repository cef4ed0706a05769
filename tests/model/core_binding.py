"""The core alone under Python: builds native/core out of line (API mode) and wraps its one door.

The service's module needs the reactor too; the judges of the core must not wait for it, and want variants with sanitizers.

SCHED_TEST_SANITIZE=address,undefined builds that variant; run the tests then with LD_PRELOAD of the sanitizers' libraries.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from tests.native_build import NATIVE, built

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "NO_ACCOUNT",
    "NO_EVENT",
    "NO_LIMIT",
    "Act",
    "Action",
    "Cause",
    "Core",
    "Ev",
    "Event",
    "Outcome",
    "Reply",
    "Resource",
    "State",
    "Tier",
    "Why",
    "account_put",
    "ffi",
    "function_put",
    "invoke",
    "lib",
]


def _declarations() -> str:
    text = (NATIVE / "include" / "core.h").read_text()
    (part,) = re.findall(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", text, re.S)
    return str(part)


_module = built(
    "sched_test_core",
    header=NATIVE / "include" / "core.h",
    declarations=_declarations(),
    sources=sorted((NATIVE / "core").glob("*.c")),
    headers=[*sorted((NATIVE / "core").glob("*.h")), NATIVE / "include" / "core.h"],
    sanitize=os.environ.get("SCHED_TEST_SANITIZE", ""),
)
ffi = _module.ffi
lib = _module.lib

NO_LIMIT: int = lib.CORE_NO_LIMIT
NO_ACCOUNT: int = lib.CORE_NO_ACCOUNT
NO_EVENT: int = lib.CORE_NO_EVENT
AHEAD_MAX: int = lib.CORE_AHEAD_MAX
ROOM = 64 + AHEAD_MAX  # what core_step() wants at least


class Ev(IntEnum):
    TICK = lib.CORE_EV_TICK
    ACCOUNT_PUT = lib.CORE_EV_ACCOUNT_PUT
    ACCOUNT_REMOVE = lib.CORE_EV_ACCOUNT_REMOVE
    FUNCTION_PUT = lib.CORE_EV_FUNCTION_PUT
    FUNCTION_SWITCH = lib.CORE_EV_FUNCTION_SWITCH
    FUNCTION_REMOVE = lib.CORE_EV_FUNCTION_REMOVE
    INVOKE = lib.CORE_EV_INVOKE
    CANCEL = lib.CORE_EV_CANCEL
    REPLY = lib.CORE_EV_REPLY
    WANT = lib.CORE_EV_SANDBOX_WANT
    READY = lib.CORE_EV_SANDBOX_READY
    INIT_FAILED = lib.CORE_EV_SANDBOX_INIT_FAILED
    GONE = lib.CORE_EV_SANDBOX_GONE
    REAPED = lib.CORE_EV_SANDBOX_REAPED
    USAGE = lib.CORE_EV_SANDBOX_USAGE
    PROGRESS = lib.CORE_EV_PROGRESS
    DRAIN = lib.CORE_EV_DRAIN
    RETIRE = lib.CORE_EV_SANDBOX_RETIRE


class Act(IntEnum):
    SEND = lib.CORE_ACT_SEND
    ANSWER = lib.CORE_ACT_ANSWER
    NEED = lib.CORE_ACT_NEED
    KILL = lib.CORE_ACT_KILL
    FREED = lib.CORE_ACT_FREED
    FUNCTION_FREED = lib.CORE_ACT_FUNCTION_FREED
    PROBE = lib.CORE_ACT_PROBE
    DRAINED = lib.CORE_ACT_DRAINED
    QUEUED = lib.CORE_ACT_QUEUED


class Outcome(IntEnum):
    OK = lib.CORE_OK
    FUNCTION_ERROR = lib.CORE_FUNCTION_ERROR
    TIMEOUT = lib.CORE_TIMEOUT
    SANDBOX_DIED = lib.CORE_SANDBOX_DIED
    INIT_FAILED = lib.CORE_INIT_FAILED
    THROTTLED = lib.CORE_THROTTLED
    DEADLINE = lib.CORE_DEADLINE
    NOT_FOUND = lib.CORE_NOT_FOUND
    TOO_LARGE = lib.CORE_TOO_LARGE
    UNAVAILABLE = lib.CORE_UNAVAILABLE
    CANCELLED = lib.CORE_CANCELLED
    INTERNAL = lib.CORE_INTERNAL


class Why(IntEnum):
    NONE = lib.CORE_WHY_NONE
    TIMEOUT = lib.CORE_WHY_TIMEOUT
    INIT_TIMEOUT = lib.CORE_WHY_INIT_TIMEOUT
    IDLE = lib.CORE_WHY_IDLE
    EVICTED = lib.CORE_WHY_EVICTED
    REVISION = lib.CORE_WHY_REVISION
    REMOVED = lib.CORE_WHY_REMOVED
    PROTOCOL = lib.CORE_WHY_PROTOCOL
    INIT_FAILED = lib.CORE_WHY_INIT_FAILED
    RETIRED = lib.CORE_WHY_RETIRED
    RECYCLED = lib.CORE_WHY_RECYCLED


class Resource(IntEnum):
    CONCURRENCY = lib.CORE_CONCURRENCY
    MEMORY = lib.CORE_MEMORY
    QUEUED_CALLS = lib.CORE_QUEUED_CALLS
    QUEUED_BYTES = lib.CORE_QUEUED_BYTES
    RATE = lib.CORE_RATE
    CPU = lib.CORE_CPU


class State(IntEnum):
    FREE = lib.CORE_SB_FREE
    STARTING = lib.CORE_SB_STARTING
    IDLE = lib.CORE_SB_IDLE
    BUSY = lib.CORE_SB_BUSY
    DRAINING = lib.CORE_SB_DRAINING
    DYING = lib.CORE_SB_DYING


class Reply(IntEnum):
    OK = lib.CORE_REPLY_OK
    FUNCTION_ERROR = lib.CORE_REPLY_FUNCTION_ERROR
    TOO_LARGE = lib.CORE_REPLY_TOO_LARGE
    HANDBACK = lib.CORE_REPLY_HANDBACK


class Cause(IntEnum):
    NONE = lib.CORE_CAUSE_NONE
    EXIT = lib.CORE_CAUSE_EXIT
    SIGNAL = lib.CORE_CAUSE_SIGNAL
    OOM = lib.CORE_CAUSE_OOM
    KILLED = lib.CORE_CAUSE_KILLED
    LAUNCH_FAILED = lib.CORE_CAUSE_LAUNCH_FAILED
    PROTOCOL = lib.CORE_CAUSE_PROTOCOL


class Tier(IntEnum):
    WARM = lib.CORE_TIER_WARM
    SNAPSHOT = lib.CORE_TIER_SNAPSHOT
    SHELL = lib.CORE_TIER_SHELL
    FRESH = lib.CORE_TIER_FRESH


# Which member of the event's union a kind reads.
_MEMBER = {
    Ev.ACCOUNT_PUT: "account",
    Ev.ACCOUNT_REMOVE: "account",
    Ev.FUNCTION_PUT: "function",
    Ev.FUNCTION_SWITCH: "function",
    Ev.FUNCTION_REMOVE: "function",
    Ev.INVOKE: "invoke",
    Ev.CANCEL: "cancel",
    Ev.REPLY: "reply",
    Ev.PROGRESS: "reply",
    Ev.DRAIN: "drain",
}


@dataclass(slots=True)
class Event:
    """One core_event: its kind and the fields of the union's member that this kind reads."""

    kind: Ev
    fields: dict[str, Any]

    @classmethod
    def of(cls, kind: Ev, **fields: Any) -> Event:
        return cls(kind, fields)

    def to_json(self) -> list[Any]:
        return [self.kind.name, self.fields]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> Event:
        return cls(Ev[value[0]], dict(value[1]))


_ACTION_FIELDS = (
    "kind",
    "event",
    "call",
    "cookie",
    "sandbox",
    "function",
    "seq",
    "outcome",
    "why",
    "revision",
    "valid_until_ns",
    "arrive_ns",
    "start_ns",
    "end_ns",
    "init_ns",
    "cpu_ns",
    "tier",
    "account",
    "resource",
    "cause",
    "provisioned",
    "status",
    "cancelled",
    "again",
    "current",
    "max",
    "retry_after_ns",
)


@dataclass(slots=True)
class Action:
    """One core_action, copied out. Times in ns."""

    kind: int
    event: int
    call: int
    cookie: int
    sandbox: int
    function: int
    seq: int
    outcome: int
    why: int
    revision: int
    valid_until_ns: int
    arrive_ns: int
    start_ns: int
    end_ns: int
    init_ns: int
    cpu_ns: int
    tier: int
    account: int
    resource: int
    cause: int
    provisioned: int
    status: int
    cancelled: int
    again: int
    current: int
    max: int
    retry_after_ns: int


@dataclass(slots=True)
class AccountStats:
    current: list[int]
    max: list[int]
    min: list[int]
    peak: list[int]
    refused: list[int]


def account_put(
    index: int,
    parent: int,
    *,
    weight: int = 100,
    limits: Mapping[Resource, int] | None = None,
    guarantee: int = 0,
    burst: int = 1,
) -> Event:
    """ACCOUNT_PUT; `limits` names what is bounded, everything else is not."""
    maxima = [NO_LIMIT, NO_LIMIT, NO_LIMIT, 1 << 62, NO_LIMIT, 1 << 62]
    for resource, value in (limits or {}).items():
        maxima[resource] = value
    return Event.of(
        Ev.ACCOUNT_PUT,
        index=index,
        parent=parent,
        weight=weight,
        max=maxima,
        min=[guarantee, 0, 0, 0, 0, 0],
        burst=burst,
    )


def function_put(
    handle: int,
    account: int,
    *,
    revision: int = 1,
    memory_mb: int = 128,
    timeout_ns: int = 3_000_000_000,
    queue_timeout_ns: int = 1_000_000_000,
    ahead_max: int = 0,
    weight: int = 100,
    provisioned: int = 0,
) -> Event:
    return Event.of(
        Ev.FUNCTION_PUT,
        handle=handle,
        account=account,
        weight=weight,
        revision=revision,
        memory_mb=memory_mb,
        ahead_max=ahead_max,
        provisioned=provisioned,
        timeout_ns=timeout_ns,
        queue_timeout_ns=queue_timeout_ns,
    )


def invoke(function: int, cookie: int, *, deadline_ns: int = 0, size: int = 100) -> Event:
    """INVOKE with an absolute deadline (0: none) and a payload of `size` bytes."""
    return Event.of(Ev.INVOKE, function=function, cookie=cookie, deadline_ns=deadline_ns, bytes=size)


class Core:
    """Owner of one core. Settings not given are the core's defaults."""

    def __init__(self, *, actions_max: int = 512, **settings: int) -> None:
        if actions_max < ROOM:
            raise ValueError(f"actions_max: {actions_max}, at least {ROOM}")
        config = ffi.new("struct core_config *")
        lib.core_config_default(config)
        for name, value in settings.items():
            setattr(config, name, value)
        pointer = lib.core_new(config)
        if pointer == ffi.NULL:
            raise ValueError(f"core_new refused: {settings}")
        self._core = ffi.gc(pointer, lib.core_free)
        self._events_max = 256
        self._events = ffi.new("struct core_event[]", self._events_max)
        self._actions_max = actions_max
        self._actions = ffi.new("struct core_action[]", actions_max)
        self._consumed = ffi.new("size_t *")
        self._account = ffi.new("struct core_account_stats *")
        self._function = ffi.new("struct core_function_stats *")
        self._totals = ffi.new("struct core_totals *")
        self._state = ffi.new("uint32_t *")
        self._of = ffi.new("uint64_t *")

    def _fill(self, index: int, event: Event) -> None:
        slot = self._events[index]
        ffi.memmove(self._events + index, self._blank, len(self._blank))
        slot.kind = event.kind
        if event.kind == Ev.TICK:
            return
        member = getattr(slot.u, _MEMBER.get(event.kind, "sandbox"))
        for name, value in event.fields.items():
            setattr(member, name, value)

    _blank = bytes(ffi.sizeof("struct core_event"))

    def turns(self, now_ns: int, events: Sequence[Event]) -> Iterator[tuple[list[Event], list[Action]]]:
        """Steps until all events are taken and nothing is left to do at this time; each step's share in turn."""
        offset = 0
        while True:
            batch = events[offset : offset + self._events_max]
            for i, event in enumerate(batch):
                self._fill(i, event)
            count = lib.core_step(
                self._core, now_ns, self._events, len(batch), self._consumed, self._actions, self._actions_max
            )
            taken = self._consumed[0]
            yield list(batch[:taken]), [self._copy(self._actions[i]) for i in range(count)]
            offset += taken
            if offset >= len(events) and lib.core_next_ns(self._core) > now_ns:
                return
            assert taken or count, "core_step did nothing, and yet wants to be called again"

    def step(self, now_ns: int, events: Iterable[Event] = ()) -> list[Action]:
        """All turns at this time as one list. `event` of the actions then counts from the first event given."""
        done: list[Action] = []
        offset = 0
        for taken, actions in self.turns(now_ns, list(events)):
            for action in actions:
                if action.event != NO_EVENT:
                    action.event += offset
            done += actions
            offset += len(taken)
        return done

    @staticmethod
    def _copy(a: Any) -> Action:
        return Action(*[getattr(a, name) for name in _ACTION_FIELDS])

    def next_ns(self) -> int:
        """When the next timer is due; 2**64 - 1: none."""
        return int(lib.core_next_ns(self._core))

    def check(self) -> str | None:
        broken = lib.core_check(self._core)
        return None if broken == ffi.NULL else ffi.string(broken).decode()

    def account(self, index: int) -> AccountStats | None:
        if not lib.core_account_stats(self._core, index, self._account):
            return None
        stats = self._account
        return AccountStats(list(stats.current), list(stats.max), list(stats.min), list(stats.peak), list(stats.refused))

    def function(self, index: int, now_ns: int) -> Any | None:
        """The C struct core_function_stats, valid until the next call; None: the slot is empty."""
        return self._function if lib.core_function_stats(self._core, index, now_ns, self._function) else None

    def totals(self) -> Any:
        """The C struct core_totals, valid until the next call."""
        lib.core_totals(self._core, self._totals)
        return self._totals

    def sandbox_state(self, handle: int) -> State | None:
        if not lib.core_sandbox_state(self._core, handle, self._state, self._of):
            return None
        return State(self._state[0])
