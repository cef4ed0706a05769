"""Timers through the door: never early, at most two ticks of 65.536 µs late, at any age of the clock, any number at once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.core_binding import Act, Ev, Event, Outcome, Resource, account_put, function_put
from tests.model.machine import MS, SETTINGS, Node, S

F = 1 << 32
TICK = 1 << 16
DAY = 86_400 * S


@dataclass(slots=True)
class Timer:
    handle: int
    due_ns: int


class WheelMachine(RuleBasedStateMachine):
    """Each queued call is one timer, armed by its deadline. Nobody serves, so nothing else ends it but a cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.timers: dict[int, Timer] = {}

    @initialize(now=st.sampled_from([1, S, 2**52 - 5 * S, 2**52 - 1, 2**58 - MS, 2**63 - 1]), digit=st.integers(0, 63))
    def start(self, now: int, digit: int) -> None:
        self.node = Node(now_ns=now + (digit << 16), calls_max=200)
        self.node.give(
            account_put(1, 0),
            account_put(2, 1, limits={Resource.MEMORY: 0}),
            function_put(F, 2, queue_timeout_ns=400 * DAY),
        )

    @rule(level=st.integers(0, 7), factor=st.integers(1, 64), off=st.integers(-2, 2))
    def arm(self, level: int, factor: int, off: int) -> None:
        """Around the edges of each level's slots; the longest are years ahead."""
        due = self.node.now + max(1, min(factor << (16 + 6 * min(level, 5)), 300 * DAY) + off)
        told = [a for a in self.node.invoke(F, deadline_ns=due) if a.kind == Act.QUEUED]
        if told:  # else the slab is full
            self.timers[self.node.cookie] = Timer(told[0].call, due)

    @rule(data=st.data())
    def disarm(self, data: st.DataObject) -> None:
        if self.timers:
            cookie = data.draw(st.sampled_from(sorted(self.timers)))
            timer = self.timers.pop(cookie)
            self.node.give(Event.of(Ev.CANCEL, call=timer.handle))

    @rule(level=st.integers(0, 5), factor=st.integers(0, 64), late=st.booleans())
    def advance(self, level: int, factor: int, late: bool) -> None:
        ns = factor << (16 + 6 * level)
        if late:  # nobody called for a long time: everything that is due fires now
            self.node.now += ns
            self.fired(self.node.give(), slack=ns)
        else:
            until = self.node.now + ns
            while (due := self.node.core.next_ns()) <= until:
                self.node.now = max(self.node.now, due)
                self.fired(self.node.give(), slack=0)
            self.node.now = until
            self.fired(self.node.give(), slack=0)

    def fired(self, actions: list, slack: int) -> None:
        now = self.node.now
        for action in actions:
            assert (action.kind, action.outcome) == (Act.ANSWER, Outcome.DEADLINE)
            timer = self.timers.pop(action.cookie)
            assert timer.due_ns <= now, "early"
            assert now < timer.due_ns + 2 * TICK + slack, f"{now - timer.due_ns} ns late"

    @invariant()
    def nothing_forgotten(self) -> None:
        if self.timers:
            due = min(timer.due_ns for timer in self.timers.values())
            assert self.node.now < due + 2 * TICK
            assert self.node.core.next_ns() < due + 2 * TICK, "core_next_ns() is too late"


WheelMachine.TestCase.settings = SETTINGS
TestWheelMachine = pytest.mark.slow(WheelMachine.TestCase)


@pytest.mark.parametrize("timeout_ns", [MS, 20 * MS, 3 * S, 900 * S])
@pytest.mark.parametrize("now_ns", [S, 2**52 - 10 * MS])
def test_a_function_times_out_within_its_bounds(timeout_ns: int, now_ns: int) -> None:
    node = Node(now_ns=now_ns)
    node.give(account_put(1, 0), account_put(2, 1), function_put(F, 2, timeout_ns=timeout_ns))
    node.invoke(F)
    (sandbox,) = node.judge.sandboxes.values()
    node.ready(sandbox)
    begun = node.now
    while sandbox.state.name == "BUSY":
        node.now = node.core.next_ns()
        node.give()
    assert timeout_ns <= node.now - begun <= timeout_ns + max(20 * MS, timeout_ns // 100)
    assert node.now - begun < timeout_ns + 2 * TICK


def test_a_deadline_at_the_end_of_time_is_no_deadline() -> None:
    node = Node()
    node.give(
        account_put(1, 0),
        account_put(2, 1, limits={Resource.MEMORY: 0}),
        function_put(F, 2, queue_timeout_ns=2**64 - 1, timeout_ns=2**64 - 1),
        Event.of(Ev.DRAIN, deadline_ns=2**64 - 1),
    )
    assert node.core.next_ns() > node.now
    assert not [a for a in node.pass_time(DAY) if a.kind == Act.ANSWER]
