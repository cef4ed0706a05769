"""Tenants that always have more to do than the node can: who gets how much of it? No faults, closed loops, virtual time."""

from __future__ import annotations

import heapq
from collections import deque
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
    account_put,
    function_put,
    invoke,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Load", "Result", "saturate"]

S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One tenant with `functions` alike, each with `clients` calls in flight, each call `run_ns` of CPU."""

    weight: int
    run_ns: int
    clients: int = 256
    functions: int = 1


@dataclass(slots=True)
class Result:
    cpu_ns: list[int]
    calls: list[int]
    refused: int
    steps: int

    def shares(self) -> list[float]:
        return [cpu / sum(self.cpu_ns) for cpu in self.cpu_ns]


@dataclass(slots=True, eq=False)
class _Sandbox:
    function: int
    inbox: deque[tuple[int, int, int]] = field(default_factory=deque)
    busy: bool = False
    claimed: int = 0
    alive: bool = True


def saturate(
    loads: Sequence[Load], *, units: int, seconds: float, warm_up: float = 0.2, start_ns: int = 4_000_000, cpus: int = 2
) -> Result:
    """CPU per tenant after the warm-up. `units`: the node's concurrency; each executing sandbox has a CPU to itself."""
    core = Core(cpus=cpus, actions_max=2048, calls_max=8192, functions_max=64, sandboxes_max=256, accounts_max=128)
    setup = [account_put(0, 0xFFFF, limits={Resource.CONCURRENCY: units})]
    owner: list[tuple[int, int]] = []  # by function index: tenant's place, run_ns
    account = 1
    for place, load in enumerate(loads):
        tenant = account
        setup.append(account_put(tenant, 0, weight=load.weight))
        account += 1
        for _ in range(load.functions):
            setup.append(account_put(account, tenant))
            setup.append(function_put(1 << 32 | len(owner), account, queue_timeout_ns=60 * S, timeout_ns=900 * S))
            owner.append((place, load.run_ns))
            account += 1
    heap: list[tuple[int, int, str, int, int, int]] = []
    count = cookie = 0
    now = S
    begun = now + int(warm_up * S)
    end = begun + int(seconds * S)
    result = Result([0] * len(loads), [0] * len(loads), 0, 0)
    sandboxes: dict[int, _Sandbox] = {}
    inbox = setup
    for index, (place, _) in enumerate(owner):
        for _ in range(loads[place].clients):
            cookie += 1
            inbox.append(invoke(1 << 32 | index, cookie << 8 | index))

    def later(when: int, what: str, sandbox: int, seq: int = 0, since: int = 0) -> None:
        nonlocal count
        count += 1
        heapq.heappush(heap, (when, count, what, sandbox, seq, since))

    def proceed(handle: int) -> None:
        box = sandboxes[handle]
        while box.inbox and not box.busy:
            seq, _, valid_until_ns = box.inbox.popleft()
            box.claimed = seq
            if valid_until_ns and now > valid_until_ns:
                inbox.append(Event.of(Ev.REPLY, sandbox=handle, seq=seq, status=int(Reply.HANDBACK)))
                continue
            box.busy = True
            later(now + owner[box.function][1], "done", handle, seq, now)

    while now < end:
        events, inbox = inbox, []
        for action in core.step(now, events):
            match action.kind:
                case Act.NEED:
                    sandboxes[action.sandbox] = _Sandbox(action.function & 0xFFFFFFFF)
                    later(now + start_ns, "ready", action.sandbox)
                case Act.SEND:
                    sandboxes[action.sandbox].inbox.append((action.seq, action.cookie, action.valid_until_ns))
                    proceed(action.sandbox)
                case Act.KILL:
                    sandboxes[action.sandbox].alive = False
                    later(now + 1_000_000, "reaped", action.sandbox)
                case Act.PROBE:
                    inbox.append(Event.of(Ev.PROGRESS, sandbox=action.sandbox, seq=sandboxes[action.sandbox].claimed))
                case Act.ANSWER:
                    if action.outcome != Outcome.OK:
                        result.refused += 1
                    cookie += 1
                    inbox.append(invoke(action.function, cookie << 8 | (action.function & 0xFF)))
                case _:
                    pass
        result.steps += 1
        if inbox:
            continue
        now = max(now, min(core.next_ns(), heap[0][0] if heap else core.next_ns()))
        while heap and heap[0][0] <= now:
            _, _, what, handle, seq, since = heapq.heappop(heap)
            box = sandboxes[handle]
            if what == "ready":
                inbox.append(Event.of(Ev.READY, handle=handle, init_ns=start_ns, tier=Tier.SHELL))
            elif what == "reaped":
                inbox.append(Event.of(Ev.REAPED, handle=handle))
                del sandboxes[handle]
            elif box.alive:
                box.busy = False
                inbox.append(Event.of(Ev.REPLY, sandbox=handle, start_ns=since, end_ns=now, seq=seq, status=int(Reply.OK)))
                if now > begun:
                    place, run_ns = owner[box.function]
                    result.cpu_ns[place] += run_ns
                    result.calls[place] += 1
                proceed(handle)
    return result
