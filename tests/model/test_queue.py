"""A function's queue against a list: order, bounds in calls and bytes, deadlines, cancels, returns to the old place."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.model.core_binding import (
    Act,
    Cause,
    Ev,
    Event,
    Outcome,
    Reply,
    Resource,
    State,
    account_put,
    function_put,
)
from tests.model.machine import MS, SETTINGS, US, Node, S

F = 1 << 32


@dataclass(slots=True)
class Waiting:
    cookie: int
    handle: int
    size: int
    due_ns: int
    outcome: Outcome


class QueueMachine(RuleBasedStateMachine):
    """Nobody ever serves: there is no memory for a sandbox. What waits is a list; each call leaves it in one way."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()
        self.waiting: list[Waiting] = []
        self.calls_max = self.bytes_max = self.timeout_ns = 0

    @initialize(
        calls=st.sampled_from([0, 1, 3, 50]),
        size=st.sampled_from([0, 250, 10_000]),
        timeout=st.sampled_from([0, 5 * MS, S]),
    )
    def start(self, calls: int, size: int, timeout: int) -> None:
        self.calls_max, self.bytes_max, self.timeout_ns = calls, size, timeout
        limits = {Resource.QUEUED_CALLS: calls, Resource.QUEUED_BYTES: size, Resource.MEMORY: 0}
        self.node.give(account_put(1, 0), account_put(2, 1, limits=limits), function_put(F, 2, queue_timeout_ns=timeout))

    @rule(size=st.sampled_from([0, 1, 100, 249]), margin=st.sampled_from([0, 0, -1, 1, 2 * MS]))
    def invoke(self, size: int, margin: int) -> None:
        deadline = margin and self.node.now + margin
        actions = self.node.invoke(F, size=size, deadline_ns=deadline)
        expected = None
        if margin < 0:
            expected = Outcome.DEADLINE
        elif (
            len(self.waiting) + 1 > self.calls_max
            or sum(w.size for w in self.waiting) + size > self.bytes_max
            or self.timeout_ns == 0
        ):
            expected = Outcome.THROTTLED
        answers = [Outcome(a.outcome) for a in actions if a.kind == Act.ANSWER]
        assert answers == ([] if expected is None else [expected])
        if expected is None:
            (told,) = [a for a in actions if a.kind == Act.QUEUED]
            due, outcome = self.node.now + self.timeout_ns, Outcome.THROTTLED
            if deadline and deadline <= due:
                due, outcome = deadline, Outcome.DEADLINE
            self.waiting.append(Waiting(self.node.cookie, told.call, size, due, outcome))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.waiting:
            call = data.draw(st.sampled_from(self.waiting))
            (answer,) = self.node.give(Event.of(Ev.CANCEL, call=call.handle))
            assert (answer.cookie, answer.outcome) == (call.cookie, Outcome.CANCELLED)
            assert self.node.give(Event.of(Ev.CANCEL, call=call.handle)) == [], "its handle is stale now"
            self.waiting.remove(call)

    @rule(ns=st.sampled_from([1, 70 * US, MS, 6 * MS, S]))
    def pass_time(self, ns: int) -> None:
        for action in self.node.pass_time(ns):
            if action.kind == Act.ANSWER:
                (call,) = [w for w in self.waiting if w.cookie == action.cookie]
                assert action.outcome == call.outcome
                if call.outcome is Outcome.THROTTLED:
                    assert (action.account, action.resource) == (2, Resource.MEMORY), "the refusal names what is missing"
                    assert action.retry_after_ns > 0
                self.waiting.remove(call)
        for call in self.waiting:
            assert self.node.now < call.due_ns + 2 * (1 << 16), f"{call} is overdue at {self.node.now}"

    @invariant()
    def counted(self) -> None:
        stats = self.node.core.account(2)
        if stats is not None:
            assert stats.current[Resource.QUEUED_CALLS] == len(self.waiting)
            assert stats.current[Resource.QUEUED_BYTES] == sum(w.size for w in self.waiting)
            function = self.node.core.function(0, self.node.now)
            assert function is not None
            assert function.queued == len(self.waiting)

    def teardown(self) -> None:
        self.pass_time(S + MS)  # a timer may be two ticks late
        assert not self.waiting


QueueMachine.TestCase.settings = SETTINGS
TestQueueMachine = pytest.mark.slow(QueueMachine.TestCase)


def serving(*, ahead: int = 8, calls: int = 4, **changes: int) -> Node:
    """A node with one sandbox of F, whose run time is known, and calls queued ahead in it."""
    node = Node(ahead_max=ahead, **changes)
    node.give(
        account_put(1, 0),
        account_put(2, 1, limits={Resource.MEMORY: 128}),
        function_put(F, 2, queue_timeout_ns=S, timeout_ns=10 * S),
    )
    node.invoke(F)
    (sandbox,) = node.sandboxes(State.STARTING)
    node.ready(sandbox)
    node.pass_time(20 * US)
    node.reply(sandbox, run_ns=20 * US)
    for _ in range(calls):
        node.invoke(F)
    return node


def test_calls_handed_back_one_by_one_keep_their_order() -> None:
    node = serving(calls=4)
    (sandbox,) = node.sandboxes(State.BUSY)
    cookies = [call.cookie for _, call in sandbox.ring if call is not None]
    assert len(cookies) == 4
    node.pass_time(200 * MS)  # the first takes long: the others' time to start is over, and they are called back
    waiting = [cookie for _, call in node.judge.functions[F].waiting for cookie in [call.cookie]]
    assert waiting == cookies[1:]
    sends = [a.cookie for a in node.reply(sandbox) if a.kind == Act.SEND]
    for _ in range(3):
        sends += [a.cookie for a in node.reply(sandbox, status=Reply.HANDBACK) if a.kind == Act.SEND]
    for _ in range(3):
        sends += [a.cookie for a in node.reply(sandbox) if a.kind == Act.SEND]
    assert sends == cookies[1:]


def test_the_queues_time_counts_from_arrival_however_often_a_call_returns() -> None:
    node = serving(calls=2)
    (sandbox,) = node.sandboxes(State.BUSY)
    due = node.now + S
    _, second = sandbox.ring[1]
    assert second is not None
    node.pass_time(300 * MS)
    assert second.sandbox
    assert not sandbox.ring[1][1], "called back meanwhile"
    assert not [a for a in node.pass_time(due - node.now - 1) if a.kind == Act.ANSWER]
    (answer,) = [a for a in node.pass_time(2 * (1 << 16)) if a.kind == Act.ANSWER]
    assert (answer.cookie, answer.outcome) == (second.cookie, Outcome.THROTTLED)


def test_a_cancelled_call_does_not_pass_its_fate_to_the_next() -> None:
    """One start failed of two, so the first call fails; it is cancelled in the same step, and nobody else may fail for it."""
    node = Node()
    node.give(account_put(1, 0), account_put(2, 1), function_put(F, 2))
    handles = []
    for _ in range(3):
        handles += [a.call for a in node.invoke(F) if a.kind == Act.QUEUED]
    first, *_ = node.sandboxes(State.STARTING)
    actions = node.give(Event.of(Ev.INIT_FAILED, handle=first.handle), Event.of(Ev.CANCEL, call=handles[0]))
    assert [Outcome(a.outcome) for a in actions if a.kind == Act.ANSWER] == [Outcome.CANCELLED]


def test_removal_answers_everything_that_waits_even_if_a_step_has_little_room() -> None:
    node = Node(calls_max=500, actions_max=96)
    node.give(account_put(1, 0), account_put(2, 1, limits={Resource.MEMORY: 0}), function_put(F, 2))
    for _ in range(400):
        node.invoke(F)
    answers = [a for a in node.give(Event.of(Ev.FUNCTION_REMOVE, handle=F)) if a.kind == Act.ANSWER]
    assert [Outcome(a.outcome) for a in answers] == [Outcome.NOT_FOUND] * 400


def test_one_step_says_that_it_has_more_to_do() -> None:
    node = Node(calls_max=500, actions_max=96)
    node.give(account_put(1, 0), account_put(2, 1, limits={Resource.MEMORY: 0}), function_put(F, 2))
    for _ in range(400):
        node.invoke(F)
    turns = list(node.core.turns(node.now, [Event.of(Ev.FUNCTION_REMOVE, handle=F)]))
    assert len(turns) > 4
    assert all(len(actions) <= 96 for _, actions in turns)


def test_a_drain_refuses_new_calls_and_later_the_queued_ones() -> None:
    node = Node()
    node.give(account_put(1, 0), account_put(2, 1, limits={Resource.MEMORY: 0}), function_put(F, 2, queue_timeout_ns=60 * S))
    node.invoke(F)
    node.give(Event.of(Ev.DRAIN, deadline_ns=node.now + 50 * MS))
    assert [Outcome(a.outcome) for a in node.invoke(F)] == [Outcome.UNAVAILABLE]
    assert not node.pass_time(49 * MS)
    actions = node.pass_time(2 * MS)
    assert [a.kind for a in actions] == [Act.ANSWER, Act.DRAINED]
    assert actions[0].outcome == Outcome.UNAVAILABLE


def test_a_call_that_returns_after_the_drains_end_is_refused() -> None:
    node = serving(calls=2)
    (sandbox,) = node.sandboxes(State.BUSY)
    node.give(Event.of(Ev.DRAIN, deadline_ns=node.now + 5 * MS))
    node.pass_time(6 * MS)
    actions = node.give(Event.of(Ev.GONE, handle=sandbox.handle))
    assert [Outcome(a.outcome) for a in actions if a.kind == Act.ANSWER] == [Outcome.UNAVAILABLE]
    actions = node.reap(sandbox, Cause.EXIT, 1)
    assert Act.DRAINED in [a.kind for a in actions]


def test_a_queue_timeout_of_nothing_refuses_at_once_but_waits_for_a_start() -> None:
    node = Node()
    node.give(account_put(1, 0, limits={Resource.CONCURRENCY: 1}), account_put(2, 1), function_put(F, 2, queue_timeout_ns=0))
    assert Act.ANSWER not in [a.kind for a in node.invoke(F)], "a sandbox starts for it: a cold start is not a refusal"
    (refused,) = [a for a in node.invoke(F) if a.kind == Act.ANSWER]
    assert (refused.outcome, refused.resource) == (Outcome.THROTTLED, Resource.CONCURRENCY)
