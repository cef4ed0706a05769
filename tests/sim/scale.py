"""How many sandboxes a load makes: arrivals that are given, starts that take turns, no faults, virtual time. And what an oracle
would have made, who knows all that comes and starts at no cost."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.model.core_binding import (
    Act,
    Core,
    Ev,
    Event,
    Outcome,
    Reply,
    Resource,
    Tier,
    Why,
    account_put,
    function_put,
    invoke,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Arrival", "Kind", "Result", "least_cost_by_lru", "peak", "play"]

MS, S = 1_000_000, 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A function: what a call takes, what of that is CPU, what its init takes, and its memory."""

    run_ns: int
    cpu: float = 0.01
    init_ns: int = 5 * MS
    memory_mb: int = 128
    provisioned: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    at_ns: int
    function: int


@dataclass(slots=True)
class Result:
    made: list[int]  # (when, function) of each start, in order
    made_of: list[int]
    waits: list[int]  # from arrival to the handler's start
    ended_ns: int = 0
    refused: int = 0
    kills: dict[Why, int] = field(default_factory=dict)

    def starts(self, after_ns: int = 0, function: int | None = None) -> int:
        return sum(at >= after_ns and function in (None, of) for at, of in zip(self.made, self.made_of, strict=True))

    def wait(self, part: float) -> int:
        return sorted(self.waits)[min(len(self.waits) - 1, int(part * len(self.waits)))]


@dataclass(slots=True, eq=False)
class _Box:
    function: int
    inbox: deque[tuple[int, int, int]] = field(default_factory=deque)
    busy: bool = False
    claimed: int = 0
    cpu_ns: int = 0
    alive: bool = True


def peak(kinds: Sequence[Kind], arrivals: Sequence[Arrival]) -> int:
    """Most calls that overlap when each starts as it arrives: the sandboxes of an oracle that lets nobody wait."""
    edges = sorted([(a.at_ns, 1) for a in arrivals] + [(a.at_ns + kinds[a.function].run_ns, -1) for a in arrivals])
    most = now = 0
    for _, by in edges:
        now += by
        most = max(most, now)
    return most


def least_cost_by_lru(kinds: Sequence[Kind], arrivals: Sequence[Arrival], memory_mb: int) -> int:
    """ns of starts that a cache of so much memory pays which evicts what was not used for longest; calls do not overlap."""
    held: OrderedDict[int, int] = OrderedDict()
    cost = 0
    for arrival in arrivals:
        kind = kinds[arrival.function]
        if arrival.function in held:
            held.move_to_end(arrival.function)
            continue
        while sum(held.values()) + kind.memory_mb > memory_mb:
            held.popitem(last=False)
        held[arrival.function] = kind.memory_mb
        cost += kind.init_ns
    return cost


def play(
    kinds: Sequence[Kind],
    arrivals: Sequence[Arrival],
    *,
    birth_ns: int = 3 * MS,
    memory_mb: int = 1 << 20,
    cpus: int = 2,
    **settings: int,
) -> Result:
    """One tenant. A start is a birth, of which there is one at a time, and the function's init beside others'."""
    core = Core(
        cpus=cpus, actions_max=4096, calls_max=16384, functions_max=512, sandboxes_max=1024, accounts_max=600, **settings
    )
    setup = [account_put(0, 0xFFFF, limits={Resource.MEMORY: memory_mb}), account_put(1, 0)]
    for index, kind in enumerate(kinds):
        setup.append(account_put(2 + index, 1))
        setup.append(
            function_put(
                1 << 32 | index,
                2 + index,
                memory_mb=kind.memory_mb,
                timeout_ns=900 * S,
                queue_timeout_ns=60 * S,
                provisioned=kind.provisioned,
            )
        )
    heap: list[tuple[int, int, str, int, int, int]] = []
    count = 0
    now = S
    free_at = now  # of the one who makes births
    result = Result([], [], [])
    boxes: dict[int, _Box] = {}
    born: dict[int, int] = {}
    inbox = setup

    def later(when: int, what: str, handle: int, seq: int = 0, since: int = 0) -> None:
        nonlocal count
        count += 1
        heapq.heappush(heap, (when, count, what, handle, seq, since))

    def proceed(handle: int) -> None:
        box = boxes[handle]
        while box.inbox and not box.busy:
            seq, cookie, valid_until_ns = box.inbox.popleft()
            box.claimed = seq
            if valid_until_ns and now > valid_until_ns:
                inbox.append(Event.of(Ev.REPLY, sandbox=handle, seq=seq, status=int(Reply.HANDBACK)))
                continue
            box.busy = True
            result.waits.append(now - arrivals[cookie - 1].at_ns - S)
            later(now + kinds[box.function].run_ns, "done", handle, seq, now)

    for cookie, arrival in enumerate(arrivals, 1):
        later(S + arrival.at_ns, "call", arrival.function, cookie)
    left = len(arrivals)
    while left or inbox:
        events, inbox = inbox, []
        for action in core.step(now, events):
            match action.kind:
                case Act.NEED:
                    boxes[action.sandbox] = _Box(action.function & 0xFFFFFFFF)
                    result.made.append(now - S)
                    result.made_of.append(action.function & 0xFFFFFFFF)
                    free_at = max(free_at, now) + birth_ns
                    born[action.sandbox] = free_at
                    later(free_at + kinds[action.function & 0xFFFFFFFF].init_ns, "ready", action.sandbox)
                case Act.SEND:
                    boxes[action.sandbox].inbox.append((action.seq, action.cookie, action.valid_until_ns))
                    proceed(action.sandbox)
                case Act.KILL:
                    boxes[action.sandbox].alive = False
                    result.kills[Why(action.why)] = result.kills.get(Why(action.why), 0) + 1
                    later(now + MS, "reaped", action.sandbox)
                case Act.PROBE:
                    inbox.append(Event.of(Ev.PROGRESS, sandbox=action.sandbox, seq=boxes[action.sandbox].claimed))
                case Act.ANSWER:
                    left -= 1
                    result.refused += action.outcome != Outcome.OK
                    result.ended_ns = now - S
                case _:
                    pass
        if inbox or not left:
            continue
        now = max(now, min(core.next_ns(), heap[0][0] if heap else core.next_ns()))
        while heap and heap[0][0] <= now:
            _, _, what, handle, seq, since = heapq.heappop(heap)
            if what == "call":
                inbox.append(invoke(1 << 32 | handle, seq))
                continue
            box = boxes[handle]
            if what == "reaped":
                inbox.append(Event.of(Ev.REAPED, handle=handle, cpu_ns=box.cpu_ns))
                del boxes[handle]
            elif not box.alive:
                continue
            elif what == "ready":
                inbox.append(Event.of(Ev.READY, handle=handle, init_ns=kinds[box.function].init_ns, tier=Tier.SHELL))
                inbox.append(Event.of(Ev.USAGE, handle=handle, cpu_ns=MS))
                box.cpu_ns = MS
            else:
                box.busy = False
                box.cpu_ns += int((now - since) * kinds[box.function].cpu)
                inbox.append(Event.of(Ev.USAGE, handle=handle, cpu_ns=box.cpu_ns))
                inbox.append(Event.of(Ev.REPLY, sandbox=handle, start_ns=since, end_ns=now, seq=seq, status=int(Reply.OK)))
                proceed(handle)
    broken = core.check()
    assert broken is None, broken
    return result
