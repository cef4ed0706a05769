"""Sandboxes: the state table row by row, and a machine that walks it at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.model.core_binding import Act, Cause, Ev, Event, Outcome, Reply, State, Why, account_put, function_put
from tests.model.machine import MS, SETTINGS, US, Node, NodeMachine, S

if TYPE_CHECKING:
    from tests.sim.judge import Sandbox

F = 1 << 32


def node_with(state: State, **changes: int) -> tuple[Node, Sandbox]:
    """A node whose only sandbox is in this state."""
    node = Node(**changes)
    node.give(account_put(1, 0), account_put(2, 1), function_put(F, 2, timeout_ns=100 * MS, queue_timeout_ns=S))
    node.invoke(F)
    (sandbox,) = node.sandboxes(State.STARTING)
    if state is State.STARTING:
        return node, sandbox
    node.ready(sandbox)
    assert sandbox.state is State.BUSY
    if state is State.IDLE:
        node.pass_time(20 * US)
        node.reply(sandbox, run_ns=20 * US)
    elif state is State.DRAINING:
        node.give(Event.of(Ev.RETIRE, handle=sandbox.handle))
    elif state is State.DYING:
        node.reply(sandbox)
        node.give(Event.of(Ev.RETIRE, handle=sandbox.handle))
    assert node.core.sandbox_state(sandbox.handle) is state
    return node, sandbox


# What becomes of a sandbox: (state, event) -> (next state, why it is killed). FREE: the handle is dead.
TABLE = {
    (State.STARTING, "ready"): (State.BUSY, None),
    (State.STARTING, "init failed"): (State.DYING, Why.INIT_FAILED),
    (State.STARTING, "gone"): (State.DYING, Why.PROTOCOL),
    (State.STARTING, "reaped"): (State.FREE, Why.PROTOCOL),
    (State.STARTING, "retire"): (State.DYING, Why.RETIRED),
    (State.STARTING, "reply"): (State.DYING, Why.PROTOCOL),
    (State.IDLE, "ready"): (State.DYING, Why.PROTOCOL),
    (State.IDLE, "init failed"): (State.DYING, Why.PROTOCOL),
    (State.IDLE, "gone"): (State.DYING, Why.PROTOCOL),
    (State.IDLE, "reaped"): (State.FREE, Why.PROTOCOL),
    (State.IDLE, "retire"): (State.DYING, Why.RETIRED),
    (State.IDLE, "reply"): (State.DYING, Why.PROTOCOL),
    (State.BUSY, "ready"): (State.DYING, Why.PROTOCOL),
    (State.BUSY, "init failed"): (State.DYING, Why.PROTOCOL),
    (State.BUSY, "gone"): (State.DYING, Why.PROTOCOL),
    (State.BUSY, "reaped"): (State.FREE, Why.PROTOCOL),
    (State.BUSY, "retire"): (State.DRAINING, None),
    (State.BUSY, "reply"): (State.IDLE, None),
    (State.DRAINING, "ready"): (State.DYING, Why.PROTOCOL),
    (State.DRAINING, "init failed"): (State.DYING, Why.PROTOCOL),
    (State.DRAINING, "gone"): (State.DYING, Why.PROTOCOL),
    (State.DRAINING, "reaped"): (State.FREE, Why.PROTOCOL),
    (State.DRAINING, "retire"): (State.DRAINING, None),
    (State.DRAINING, "reply"): (State.DYING, Why.RETIRED),
    (State.DYING, "ready"): (State.DYING, None),
    (State.DYING, "init failed"): (State.DYING, None),
    (State.DYING, "gone"): (State.DYING, None),
    (State.DYING, "reaped"): (State.FREE, None),
    (State.DYING, "retire"): (State.DYING, None),
    (State.DYING, "reply"): (State.DYING, None),
}
EVENTS = {
    "ready": Ev.READY,
    "init failed": Ev.INIT_FAILED,
    "gone": Ev.GONE,
    "reaped": Ev.REAPED,
    "retire": Ev.RETIRE,
}


@pytest.mark.parametrize(("state", "event"), TABLE, ids=lambda value: getattr(value, "name", value))
def test_state_table(state: State, event: str) -> None:
    node, sandbox = node_with(state)
    actions = node.reply(sandbox) if event == "reply" else node.give(Event.of(EVENTS[event], handle=sandbox.handle))
    after, why = TABLE[state, event]
    assert (node.core.sandbox_state(sandbox.handle) or State.FREE) is after
    kills = [Why(a.why) for a in actions if a.kind == Act.KILL and a.sandbox == sandbox.handle]
    assert kills == ([] if why is None else [why])
    assert (Act.FREED in [a.kind for a in actions]) == (after is State.FREE)


@pytest.mark.parametrize("state", [State.STARTING, State.IDLE, State.BUSY, State.DRAINING, State.DYING])
def test_a_handle_of_another_generation_is_stale_in_every_state(state: State) -> None:
    node, sandbox = node_with(state)
    before = node.core.totals().stale_events
    for kind in (*EVENTS.values(), Ev.USAGE):
        assert node.give(Event.of(kind, handle=sandbox.handle + (1 << 32))) == []
    for kind in (Ev.REPLY, Ev.PROGRESS):
        assert node.give(Event.of(kind, sandbox=sandbox.handle + (1 << 32), seq=1)) == []
    assert node.core.totals().stale_events == before + 8
    assert node.core.sandbox_state(sandbox.handle) is state


def test_the_first_call_of_a_dead_sandbox_fails_and_those_behind_run_elsewhere() -> None:
    node, sandbox = node_with(State.IDLE)
    for _ in range(3):
        node.invoke(F)
    assert len(sandbox.ring) == 3
    cookies = [call.cookie for _, call in sandbox.ring if call is not None]
    actions = node.give(Event.of(Ev.GONE, handle=sandbox.handle))
    assert not [a for a in actions if a.kind == Act.ANSWER], "the cause is not known yet"
    actions = node.reap(sandbox, Cause.SIGNAL, 11)
    (answer,) = [a for a in actions if a.kind == Act.ANSWER]
    assert (answer.cookie, answer.outcome) == (cookies[0], Outcome.SANDBOX_DIED)
    assert (answer.cause, answer.status) == (Cause.SIGNAL, 11)
    other, *_ = node.sandboxes(State.STARTING)
    sends = [a for a in node.ready(other) if a.kind == Act.SEND]
    assert [a.cookie for a in sends] == cookies[1:]


def test_calls_that_may_have_run_are_not_run_again() -> None:
    """Their answers were buffered in the sandbox when it died: progress says 2, so two of three share its fate."""
    node, sandbox = node_with(State.IDLE)
    for _ in range(3):
        node.invoke(F)
    second = sandbox.ring[1][0]
    node.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=second), Event.of(Ev.GONE, handle=sandbox.handle))
    answers = [a for a in node.reap(sandbox) if a.kind == Act.ANSWER]
    assert [a.outcome for a in answers] == [Outcome.SANDBOX_DIED] * 2


def test_a_death_nobody_explains_is_answered_after_the_reap_timeout() -> None:
    node, sandbox = node_with(State.BUSY)
    node.give(Event.of(Ev.GONE, handle=sandbox.handle))
    assert not [a for a in node.pass_time(99 * MS) if a.kind == Act.ANSWER]
    (answer,) = [a for a in node.pass_time(2 * MS) if a.kind == Act.ANSWER]
    assert (answer.outcome, answer.cause) == (Outcome.SANDBOX_DIED, Cause.NONE)
    stats = node.core.account(2)
    assert stats is not None
    assert stats.current[:2] == [0, 128], "memory stays charged until it is really gone"


def test_timeout_kills_names_the_call_and_leaves_the_next_one_alone() -> None:
    node, sandbox = node_with(State.BUSY)
    assert not [a for a in node.pass_time(100 * MS - 1) if a.kind == Act.KILL]
    actions = node.pass_time(20 * MS)
    assert [Why(a.why) for a in actions if a.kind == Act.KILL] == [Why.TIMEOUT]
    (answer,) = [a for a in actions if a.kind == Act.ANSWER]
    assert answer.outcome == Outcome.TIMEOUT
    assert answer.end_ns - answer.start_ns >= 100 * MS
    assert sandbox.state is State.DYING
    assert [a.kind for a in node.invoke(F) if a.kind == Act.NEED], "the next call starts at once elsewhere"


def test_a_timed_out_call_whose_answer_is_on_the_way_gets_it() -> None:
    """The word is past the first call when its time is up: its answer is in the channel, the second has only begun."""
    node, sandbox = node_with(State.IDLE, ahead_window_ns=S)
    node.invoke(F)
    node.invoke(F)
    first, second = (seq for seq, _ in sandbox.ring)
    # The second is handed to the sandbox again and again late enough never to be recalled: step just before the time is up.
    while not [a for a in node.give() if a.kind == Act.PROBE] and node.now < sandbox.first_since_ns + 100 * MS:
        node.now = max(node.now + 1, node.core.next_ns())
    actions = node.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=second))
    assert not [a for a in actions if a.kind == Act.KILL]
    actions = node.reply(sandbox, seq=first)
    assert [Outcome(a.outcome) for a in actions if a.kind == Act.ANSWER] == [Outcome.OK]
    assert not [a for a in node.pass_time(90 * MS) if a.kind == Act.KILL], "the second has its own time"


def test_an_idle_sandbox_is_ended_after_its_time() -> None:
    node, sandbox = node_with(State.IDLE)
    assert not [a for a in node.pass_time(2 * S - MS) if a.kind == Act.KILL]
    assert [Why(a.why) for a in node.pass_time(2 * MS) if a.kind == Act.KILL] == [Why.IDLE]
    assert sandbox.state is State.DYING


def test_a_revision_takes_over_without_losing_a_call() -> None:
    node, old = node_with(State.IDLE)
    for _ in range(2):
        node.invoke(F)
    node.give(function_put(F, 2, revision=2), Event.of(Ev.WANT, function=F, revision=2))
    (new,) = node.sandboxes(State.STARTING)
    node.ready(new)
    assert node.core.sandbox_state(new.handle) is State.STARTING, "staged: it does not serve yet"
    node.give(Event.of(Ev.FUNCTION_SWITCH, handle=F, revision=2))
    assert node.core.sandbox_state(new.handle) is State.IDLE
    assert node.core.sandbox_state(old.handle) is State.DRAINING
    (send,) = [a for a in node.invoke(F) if a.kind == Act.SEND]
    assert send.sandbox == new.handle
    assert [Outcome(a.outcome) for _ in range(2) for a in node.reply(old) if a.kind == Act.ANSWER] == [Outcome.OK] * 2
    assert old.state is State.DYING


class PoolMachine(NodeMachine):
    """Everything a sandbox can do wrong, in any order; the judge compares every state after every step."""

    @initialize(ahead=st.sampled_from([1, 2, 8]), sandboxes=st.sampled_from([1, 3, 8]))
    def start(self, ahead: int, sandboxes: int) -> None:
        self.build(
            node={},
            tenants=[{}, {}],
            leaves=[{}, {}, {}],
            guarantees=[0, 0, 0],
            ahead_max=ahead,
            sandboxes_max=sandboxes,
        )

    @rule(data=st.data(), kind=st.sampled_from([Ev.READY, Ev.INIT_FAILED, Ev.GONE, Ev.REAPED, Ev.RETIRE]))
    def happens(self, data: st.DataObject, kind: Ev) -> None:
        sandbox = self.pick(data, *State)
        if sandbox is not None:
            self.node.give(Event.of(kind, handle=sandbox.handle))

    @rule(data=st.data(), off=st.sampled_from([-1, 1, 2, 1 << 31]), status=st.sampled_from([0, 3, 4, 99]))
    def forge(self, data: st.DataObject, off: int, status: int) -> None:
        sandbox = self.pick(data, *State)
        if sandbox is not None:
            first = sandbox.ring[0][0] if sandbox.ring else sandbox.next_seq
            self.node.reply(sandbox, seq=(first + off) & 0xFFFFFFFF, status=status)

    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        sandbox = self.pick(data, State.BUSY)
        if sandbox is not None:
            self.node.reply(sandbox, status=Reply.HANDBACK)

    @rule(data=st.data(), behind=st.integers(0, 9))
    def progress(self, data: st.DataObject, behind: int) -> None:
        sandbox = self.pick(data, *State)
        if sandbox is not None:
            self.node.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=max(0, sandbox.next_seq - behind)))

    @rule(which=st.integers(0, 2), revision=st.integers(1, 3))
    def want(self, which: int, revision: int) -> None:
        self.node.give(Event.of(Ev.WANT, function=self.FUNCTIONS[which], revision=revision))

    @rule(which=st.integers(0, 2), revision=st.integers(1, 3))
    def switch(self, which: int, revision: int) -> None:
        known = self.node.judge.functions.get(self.FUNCTIONS[which])
        if known is not None and revision <= known.revision:
            return  # revisions only rise
        self.node.give(Event.of(Ev.FUNCTION_SWITCH, handle=self.FUNCTIONS[which], revision=revision))


PoolMachine.TestCase.settings = SETTINGS
TestPoolMachine = pytest.mark.slow(PoolMachine.TestCase)
