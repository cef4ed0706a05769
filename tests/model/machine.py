"""What the state machines of this folder share: a core, the judge over every step, and rules for one small node.

The judge (tests/sim/judge.py) is the model of what the core owes; a machine adds the questions it is named after. Hypothesis
draws the order of things and shrinks a failure to the few steps that matter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.model.core_binding import (
    Act,
    Cause,
    Core,
    Ev,
    Event,
    Reply,
    Resource,
    State,
    account_put,
    function_put,
    invoke,
)
from tests.sim.judge import Judge, Settings

if TYPE_CHECKING:
    from tests.model.core_binding import Action
    from tests.sim.judge import Sandbox

__all__ = ["MS", "SETTINGS", "US", "Node", "NodeMachine", "S"]

US, MS, S = 1_000, 1_000_000, 1_000_000_000

# Reproducible in CI; SCHED_HYPOTHESIS=<examples> searches anew and longer.
LONG = int(os.environ.get("SCHED_HYPOTHESIS", "0"))
SETTINGS = settings(
    max_examples=LONG or 100,
    stateful_step_count=60,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


class Node:
    """A core of known settings under the judge. Time moves only by at() and pass_time()."""

    def __init__(self, *, now_ns: int = S, actions_max: int = 512, **changes: int) -> None:
        values = {
            "calls_max": 64,
            "sandboxes_max": 8,
            "ahead_max": 4,
            "starting_max": 4,
            "ahead_window_ns": 2 * MS,
            "init_timeout_ns": 500 * MS,
            "idle_timeout_ns": 2 * S,
            "reap_timeout_ns": 100 * MS,
            "idle_min_ns": 2 * S,
            "idle_max_ns": 3600 * S,
            "idle_grain_ns": S,
            "age_max_ns": 0,
            "sandbox_calls_max": 0,
            "cold_start_guess_ns": 15 * MS,
            "cpus": 2,
        }
        values |= {name: value for name, value in changes.items() if name in values}
        rest = {name: value for name, value in changes.items() if name not in values}
        self.core = Core(actions_max=actions_max, functions_max=8, accounts_max=16, **values, **rest)
        self.judge = Judge(self.core, Settings(**values))
        self.now = now_ns
        self.cookie = 0

    def give(self, *events: Event) -> list[Action]:
        """One step now; every action in order."""
        turns = list(self.core.turns(self.now, list(events)))
        self.judge.observe(self.now, turns)
        return [action for _, actions in turns for action in actions]

    def pass_time(self, ns: int) -> list[Action]:
        """To now + ns, stopping wherever the core wants to be called, answering its probes at once."""
        until = self.now + ns
        done: list[Action] = []
        while (due := self.core.next_ns()) <= until:
            self.now = max(self.now, due)
            done += self.give(*self._probed(done))
        self.now = until
        return done + self.give(*self._probed(done))

    def _probed(self, actions: list[Action]) -> list[Event]:
        sandboxes = [
            self.judge.sandboxes[a.sandbox] for a in actions if a.kind == Act.PROBE and a.sandbox in self.judge.sandboxes
        ]
        return [
            Event.of(Ev.PROGRESS, sandbox=s.handle, seq=max(s.progress, s.ring[0][0]))
            for s in {s.handle: s for s in sandboxes}.values()
            if s.probed and s.ring
        ]

    def invoke(self, function: int, *, deadline_ns: int = 0, size: int = 100) -> list[Action]:
        self.cookie += 1
        return self.give(invoke(function, self.cookie, deadline_ns=deadline_ns, size=size))

    def ready(self, sandbox: Sandbox) -> list[Action]:
        return self.give(Event.of(Ev.READY, handle=sandbox.handle, init_ns=1000, tier=2))

    def reply(self, sandbox: Sandbox, *, status: int = Reply.OK, seq: int | None = None, run_ns: int = 0) -> list[Action]:
        first = sandbox.ring[0][0] if sandbox.ring else sandbox.next_seq
        return self.give(
            Event.of(
                Ev.REPLY,
                sandbox=sandbox.handle,
                seq=first if seq is None else seq,
                status=int(status),
                start_ns=max(0, self.now - run_ns),
                end_ns=self.now,
            )
        )

    def reap(self, sandbox: Sandbox, cause: Cause = Cause.EXIT, status: int = 1) -> list[Action]:
        return self.give(Event.of(Ev.REAPED, handle=sandbox.handle, cause=int(cause), status=status))

    def sandboxes(self, *states: State) -> list[Sandbox]:
        return [s for s in self.judge.sandboxes.values() if s.state in states]


class NodeMachine(RuleBasedStateMachine):
    """Two tenants, three functions, limits drawn by each subclass' start()."""

    FUNCTIONS: ClassVar = [1 << 32 | 0, 1 << 32 | 1, 1 << 32 | 2]
    ACCOUNTS: ClassVar = {0: 3, 1: 4, 2: 5}  # function index -> account

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()

    def build(
        self,
        *,
        node: dict[Resource, int],
        tenants: list[dict[Resource, int]],
        leaves: list[dict[Resource, int]],
        guarantees: list[int],
        queue_timeout_ns: int = S,
        **changes: int,
    ) -> None:
        self.node = Node(**changes)
        self.node.give(
            account_put(0, 0xFFFF, limits=node),
            account_put(1, 0, limits=tenants[0]),
            account_put(2, 0, limits=tenants[1], weight=300),
            account_put(3, 1, limits=leaves[0], guarantee=guarantees[0]),
            account_put(4, 1, limits=leaves[1], guarantee=guarantees[1]),
            account_put(5, 2, limits=leaves[2], guarantee=guarantees[2]),
            *[
                function_put(handle, self.ACCOUNTS[index], queue_timeout_ns=queue_timeout_ns, timeout_ns=300 * MS)
                for index, handle in enumerate(self.FUNCTIONS)
            ],
        )

    def pick(self, data: st.DataObject, *states: State) -> Sandbox | None:
        found = self.node.sandboxes(*states)
        return data.draw(st.sampled_from(found)) if found else None

    @rule(which=st.integers(0, 2), size=st.sampled_from([0, 100, 900]), deadline=st.sampled_from([0, 0, 1, 5 * MS]))
    def invoke(self, which: int, size: int, deadline: int) -> None:
        self.node.invoke(self.FUNCTIONS[which], size=size, deadline_ns=deadline and self.node.now + deadline)

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        sandbox = self.pick(data, State.STARTING)
        if sandbox is not None and not sandbox.ready_ns:
            self.node.ready(sandbox)

    @rule(data=st.data(), run=st.sampled_from([10 * US, 10 * US, 4 * MS]))
    def reply(self, data: st.DataObject, run: int) -> None:
        sandbox = self.pick(data, State.BUSY)
        if sandbox is not None:
            if sandbox.ring[0][1] is None:
                self.node.reply(sandbox, status=Reply.HANDBACK)
            else:
                self.node.reply(sandbox, run_ns=run)

    @rule(data=st.data())
    def reap(self, data: st.DataObject) -> None:
        sandbox = self.pick(data, State.DYING)
        if sandbox is not None:
            self.node.reap(sandbox)

    @rule(ns=st.sampled_from([0, 30 * US, 3 * MS, 15 * MS, 400 * MS]))
    def pass_time(self, ns: int) -> None:
        self.node.pass_time(ns)

    def teardown(self) -> None:
        """Whatever happened, all of it comes to an end when time goes by and the dead are reaped."""
        for handle in self.FUNCTIONS:
            if handle in self.node.judge.functions:
                self.node.give(Event.of(Ev.FUNCTION_REMOVE, handle=handle))
        for _ in range(40):
            self.node.pass_time(300 * MS)
            for sandbox in self.node.sandboxes(State.DYING):
                self.node.reap(sandbox)
        assert not self.node.judge.calls
        assert not self.node.judge.functions
        for index in self.node.judge.accounts.indices():
            stats = self.node.core.account(index)
            assert stats is not None
            assert stats.current[:4] == [0, 0, 0, 0], f"account {index} keeps {stats.current}"
