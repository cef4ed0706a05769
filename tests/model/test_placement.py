"""Where a call goes: an idle sandbox, ahead into the channel that is free soonest, a new sandbox, or it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.model.core_binding import AHEAD_MAX, Act, Action, Ev, Event, Outcome, Resource, State, account_put, function_put
from tests.model.machine import MS, SETTINGS, US, Node, NodeMachine, S

if TYPE_CHECKING:
    from tests.sim.judge import Sandbox

F = 1 << 32


def learnt(run_ns: int, *, sandboxes: int = 1, cpus: int = 2, node: Node | None = None, **changes: int) -> Node:
    """A node that knows the function's run time and has so many idle sandboxes of it."""
    node = node or Node(cpus=cpus, cold_start_guess_ns=15 * MS, **{"ahead_max": 32, **changes})
    node.give(account_put(1, 0), account_put(2, 1), function_put(F, 2, timeout_ns=60 * S, queue_timeout_ns=10 * S))
    for _ in range(sandboxes):
        node.invoke(F)
    node.pass_time(15 * MS)
    while starting := node.sandboxes(State.STARTING):
        node.ready(starting[0])
    for _ in range(12):  # until mean and deviation have settled
        for sandbox in node.sandboxes(State.BUSY):
            node.pass_time(run_ns)
            node.reply(sandbox, run_ns=run_ns)
        for _idle in node.sandboxes(State.IDLE):
            if not node.sandboxes(State.BUSY):
                node.invoke(F)
    for sandbox in node.sandboxes(State.BUSY):
        node.pass_time(run_ns)
        node.reply(sandbox, run_ns=run_ns)
    assert len(node.sandboxes(State.IDLE)) >= 1
    return node


def kinds(actions: list[Action]) -> list[Act]:
    return [Act(a.kind) for a in actions if a.kind != Act.QUEUED]


def test_an_idle_sandbox_comes_first() -> None:
    node = learnt(20 * US, sandboxes=2)
    assert len(node.sandboxes(State.IDLE)) == 2
    first = node.invoke(F)
    second = node.invoke(F)
    assert kinds(first) == kinds(second) == [Act.SEND]
    assert first[0].sandbox != second[0].sandbox


def test_then_ahead_in_the_channel_with_the_least_backlog() -> None:
    node = learnt(20 * US, sandboxes=2)
    for _ in range(12):
        assert kinds(node.invoke(F)) == [Act.SEND]
    assert sorted(len(s.ring) for s in node.sandboxes(State.BUSY)) == [6, 6]


@pytest.mark.parametrize("most", [1, 2, 7, 32])
def test_never_more_than_ahead_max_in_one_channel(most: int) -> None:
    node = learnt(1 * US)
    node.give(function_put(F, 2, timeout_ns=60 * S, queue_timeout_ns=10 * S, ahead_max=most))
    for _ in range(60):
        node.invoke(F)
    assert max(len(s.ring) for s in node.sandboxes(State.BUSY)) == most


def test_the_backlog_ends_within_the_window() -> None:
    """100 µs each and a window of 2 ms: about twenty, and the rest waits where it can still go elsewhere."""
    node = learnt(100 * US)
    for _ in range(60):
        node.invoke(F)
    (sandbox,) = node.sandboxes(State.BUSY)
    assert 15 <= len(sandbox.ring) <= 21


def test_long_calls_never_queue_ahead() -> None:
    node = learnt(50 * MS)
    assert kinds(node.invoke(F)) == [Act.SEND]
    assert Act.SEND not in kinds(node.invoke(F))
    assert [len(s.ring) for s in node.sandboxes(State.BUSY)] == [1]


def test_calls_of_varying_length_are_judged_by_the_bad_ones() -> None:
    node = learnt(50 * US)
    for run in [50 * US, 900 * US] * 12:
        node.invoke(F)
        (sandbox,) = node.sandboxes(State.BUSY)
        node.pass_time(run)
        node.reply(sandbox, run_ns=run)
    for _ in range(30):
        node.invoke(F)
    (sandbox,) = node.sandboxes(State.BUSY)
    assert len(sandbox.ring) <= 2, "the mean alone, 300 µs, would have let seven in"


def test_nothing_is_queued_ahead_before_a_run_time_is_known() -> None:
    node = Node(ahead_max=32)
    node.give(account_put(1, 0), account_put(2, 1), function_put(F, 2))
    for _ in range(5):
        node.invoke(F)
    while starting := node.sandboxes(State.STARTING):
        node.ready(starting[0])
    assert {len(s.ring) for s in node.sandboxes(State.BUSY)} == {1}


def test_microsecond_calls_get_no_more_sandboxes_than_cpus() -> None:
    node = learnt(5 * US, cpus=2)
    for _ in range(60):
        node.invoke(F)
        for sandbox in node.sandboxes(State.STARTING):
            node.ready(sandbox)
    assert len(node.judge.sandboxes) == 2


def test_a_call_that_lost_its_processor_starts_no_storm() -> None:
    """5 µs as a rule; one call in forty seems to take 10 ms, as on a machine with more to do than processors."""
    node = learnt(5 * US, cpus=2, starting_max=64)

    def serve(sandboxes: list[Sandbox], run_ns: int) -> None:
        for sandbox in sandboxes:
            if sandbox.state is State.BUSY:
                node.reply(sandbox, run_ns=run_ns)
        for sandbox in node.sandboxes(State.STARTING):
            node.ready(sandbox)
        while len(node.judge.calls) < 40:
            node.invoke(F)

    serve([], 0)
    for _ in range(20):
        for _ in range(40):
            node.pass_time(5 * US)
            serve(node.sandboxes(State.BUSY), 5 * US)
        unlucky, *others = node.sandboxes(State.BUSY)
        for _ in range(10):
            node.pass_time(MS)
            serve(others, 5 * US)
        serve([unlucky], 10 * MS)
    assert len(node.judge.sandboxes) <= 4


def test_what_has_really_become_slow_is_known_so_after_a_dozen_calls() -> None:
    node = learnt(5 * US)
    for _ in range(14):
        node.invoke(F)
        (sandbox,) = node.sandboxes(State.BUSY)
        node.pass_time(20 * MS)
        node.reply(sandbox, run_ns=20 * MS)
    assert node.core.function(0, node.now).expected_run_ns > 4 * MS


@pytest.mark.parametrize(("share", "most"), [(1.0, 8), (0.0, 64)], ids=["computes", "waits"])
def test_calls_that_only_compete_for_processors_get_no_storm_of_sandboxes(share: float, most: int) -> None:
    node = learnt(20 * MS, cpus=2, starting_max=64, ahead_max=1, sandboxes_max=64)
    cpu: dict[int, float] = {}
    for _ in range(40):
        while len(node.judge.calls) < 60:
            node.invoke(F)
        for sandbox in node.sandboxes(State.STARTING):
            node.ready(sandbox)
        busy = node.sandboxes(State.BUSY)
        each = min(1.0, 2 / len(busy)) * share  # two processors, shared alike
        node.pass_time(20 * MS)
        for sandbox in busy:
            cpu[sandbox.handle] = cpu.get(sandbox.handle, 0.0) + each * 20 * MS
            node.give(Event.of(Ev.USAGE, handle=sandbox.handle, cpu_ns=int(cpu[sandbox.handle]) + 1))
            node.reply(sandbox, run_ns=20 * MS)
    live = len(node.sandboxes(State.BUSY)) + len(node.sandboxes(State.IDLE))
    assert live <= most
    assert live >= min(most, 30)


def test_a_queue_that_stands_takes_nobody_in() -> None:
    """10 ms a call, one unit of concurrency, a second of patience: half a second's worth of calls may wait, no more."""
    node = learnt(10 * MS, node=Node(cpus=2, ahead_max=1, calls_max=400))
    node.give(account_put(2, 1, limits={Resource.CONCURRENCY: 1}))
    node.give(function_put(F, 2, timeout_ns=60 * S, queue_timeout_ns=1 * S))
    answers = [a for _ in range(200) for a in node.invoke(F) if a.kind == Act.ANSWER]
    assert 145 <= len(answers) <= 150
    assert {(a.outcome, a.account, a.resource) for a in answers} == {(Outcome.THROTTLED, 2, Resource.CONCURRENCY)}
    assert min(a.retry_after_ns for a in answers) > 400 * MS


def test_one_long_call_after_another_may_wait_for_its_turn() -> None:
    """400 ms a call, a second of patience: three may wait, the last with 800 ms before it; a fourth could not start in time."""
    node = learnt(400 * MS, node=Node(cpus=2, ahead_max=1))
    node.give(account_put(2, 1, limits={Resource.CONCURRENCY: 1}))
    node.give(function_put(F, 2, timeout_ns=60 * S, queue_timeout_ns=1 * S))
    refused = [bool([a for a in node.invoke(F) if a.kind == Act.ANSWER]) for _ in range(6)]
    assert refused == [False, False, False, False, True, True]


def test_a_burst_of_long_calls_gets_a_sandbox_each_up_to_starting_max() -> None:
    node = learnt(200 * MS, starting_max=3)
    for _ in range(20):
        node.invoke(F)
    assert len(node.sandboxes(State.STARTING)) == 3


def test_no_more_sandboxes_are_asked_for_than_calls_wait() -> None:
    node = learnt(200 * MS)
    node.invoke(F)
    node.invoke(F)
    assert len(node.sandboxes(State.STARTING)) == 1


def test_concurrency_bounds_starts_as_well() -> None:
    node = learnt(200 * MS)
    node.give(account_put(2, 1, limits={Resource.CONCURRENCY: 2}))
    for _ in range(10):
        node.invoke(F)
    assert len(node.judge.sandboxes) == 2


def test_calls_behind_one_that_takes_unexpectedly_long_run_elsewhere() -> None:
    node = learnt(20 * US, sandboxes=1)
    for _ in range(8):
        node.invoke(F)
    stuck = node.sandboxes(State.BUSY)[0]
    waiting = [call.cookie for _, call in list(stuck.ring)[1:] if call is not None]
    done: list[int] = []
    for _ in range(60):  # 60 ms: the first never returns, whoever else there is works
        done += [a.cookie for a in node.pass_time(MS) if a.kind == Act.ANSWER and a.outcome == Outcome.OK]
        for sandbox in node.sandboxes(State.STARTING):
            node.ready(sandbox)
        for sandbox in node.sandboxes(State.BUSY):
            if sandbox is not stuck and sandbox.ring[0][1] is not None:
                done += [a.cookie for a in node.reply(sandbox, run_ns=20 * US) if a.kind == Act.ANSWER]
    assert sorted(done) == sorted(waiting)


def test_the_ring_is_as_long_as_the_contract_says() -> None:
    assert AHEAD_MAX == 32
    with pytest.raises(ValueError, match="core_new refused"):
        Node(ahead_max=33)


class PlacementMachine(NodeMachine):
    """Known and unknown run times, idle and busy sandboxes, tight and wide windows; the judge forbids what is wrong."""

    @initialize(
        ahead=st.sampled_from([1, 3, 32]),
        window=st.sampled_from([10 * US, 2 * MS, 50 * MS]),
        cpus=st.sampled_from([1, 2, 8]),
        units=st.sampled_from([1, 2, 5]),
        queue=st.sampled_from([0, 20 * MS, S]),
    )
    def start(self, ahead: int, window: int, cpus: int, units: int, queue: int) -> None:
        self.build(
            node={Resource.CONCURRENCY: units},
            tenants=[{}, {}],
            leaves=[{}, {}, {}],
            guarantees=[0, 0, 0],
            queue_timeout_ns=queue,
            ahead_max=ahead,
            ahead_window_ns=window,
            cpus=cpus,
        )

    @rule(which=st.integers(0, 2), times=st.integers(2, 12))
    def burst(self, which: int, times: int) -> None:
        for _ in range(times):
            self.node.invoke(self.FUNCTIONS[which])


PlacementMachine.TestCase.settings = SETTINGS
TestPlacementMachine = pytest.mark.slow(PlacementMachine.TestCase)
