"""How long an idle sandbox is kept, which one goes for another's memory, what is provisioned, and what is replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.model import keep as model
from tests.model.core_binding import Act, Cause, Ev, Event, Outcome, Resource, State, Why, account_put, function_put
from tests.model.machine import MS, SETTINGS, US, Node, NodeMachine, S

if TYPE_CHECKING:
    from tests.model.core_binding import Action
    from tests.sim.judge import Sandbox

F, G, H = 1 << 32 | 0, 1 << 32 | 1, 1 << 32 | 2
MIN, HOUR = 60 * S, 3600 * S
PATIENT = {"idle_timeout_ns": 10 * MIN, "idle_min_ns": 60 * S, "idle_max_ns": HOUR, "idle_grain_ns": S}


def node_of(*, memory_mb: int = 0, functions: tuple[int, ...] = (F,), sizes: tuple[int, ...] = (), **changes: int) -> Node:
    """One tenant, an account for each function, no memory limit unless given."""
    node = Node(**{**PATIENT, **changes})
    limits = {Resource.MEMORY: memory_mb} if memory_mb else {}
    node.give(account_put(0, 0xFFFF, limits=limits), account_put(1, 0))
    for place, handle in enumerate(functions):
        size = sizes[place] if sizes else 128
        node.give(account_put(2 + place, 1), function_put(handle, 2 + place, memory_mb=size, queue_timeout_ns=0))
    return node


def start(node: Node, took_ns: int = 5 * MS) -> None:
    """All that are starting get ready."""
    node.pass_time(took_ns)
    for sandbox in node.sandboxes(State.STARTING):
        node.ready(sandbox)


def call(node: Node, function: int = F, *, start_ns: int = 5 * MS, run_ns: int = 20 * US) -> Outcome | None:
    """One call from its arrival to its answer; a sandbox is started for it where none is idle. What it was refused with."""
    actions = node.invoke(function)
    refused = [a for a in actions if a.kind == Act.ANSWER]
    if refused:
        return Outcome(refused[0].outcome)
    for _ in range(20):
        for dying in node.sandboxes(State.DYING):
            node.reap(dying, Cause.KILLED, 9)
        if node.sandboxes(State.STARTING):
            start(node, start_ns)
        if node.sandboxes(State.BUSY):
            break
    node.pass_time(run_ns)
    (busy,) = node.sandboxes(State.BUSY)
    node.reply(busy, run_ns=run_ns)
    return None


def window(node: Node, function: int = F) -> int:
    return int(node.core.function(function & 0xFFFFFFFF, node.now).keep_ns)


def kills(actions: list[Action]) -> list[Why]:
    return [Why(a.why) for a in actions if a.kind == Act.KILL]


# ---- gaps and the window ---------------------------------------------------------------------------------------------------


def test_gaps_of_a_periodic_function_are_learnt_and_bound_its_patience() -> None:
    node = node_of()
    call(node)
    for _ in range(7):
        node.pass_time(150 * S)
        call(node)
    assert window(node) == 10 * MIN, "seven gaps are too few to judge by"
    node.pass_time(150 * S)
    call(node)
    # 150 s lie in the coarse bin that ends at 180 s; a tenth more.
    assert window(node) == 198 * S
    assert kills(node.pass_time(197 * S)) == []
    assert kills(node.pass_time(2 * S)) == [Why.IDLE]


def test_gaps_below_a_grain_are_no_gaps() -> None:
    node = node_of()
    for _ in range(50):
        node.pass_time(999 * MS)
        call(node)
    assert window(node) == 10 * MIN
    assert node.core.function(0, node.now).keep_samples == 0


def test_the_window_has_bounds() -> None:
    node = node_of()
    for _ in range(10):
        call(node)
        node.pass_time(2 * S)
    assert window(node) == 60 * S, "idle_min_ns"
    for _ in range(30):
        call(node)
        node.pass_time(58 * MIN)
    assert window(node) == HOUR, "idle_max_ns"


def test_gaps_that_the_window_cuts_off_are_learnt_from_what_was_ended() -> None:
    """A call each half hour finds its sandbox gone after ten minutes, every time, and still the gap is known."""
    node = node_of()
    call(node)
    for _ in range(8):
        assert Why.IDLE in kills(node.pass_time(30 * MIN))
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
        call(node)
    assert window(node) == 31 * MIN * 11 // 10
    node.pass_time(30 * MIN)
    assert [a.kind for a in node.invoke(F)] == [Act.SEND], "it is warm now"


def test_gaps_longer_than_all_bins_leave_the_default() -> None:
    node = node_of()
    for _ in range(12):
        call(node)
        node.pass_time(5 * HOUR)
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
    assert window(node) == 10 * MIN


def test_where_more_gaps_lie_beyond_the_bins_than_within_the_default_stays() -> None:
    node = node_of()
    for _ in range(9):
        call(node)
        node.pass_time(100 * S)
    call(node)
    assert window(node) == 132 * S
    for turn in range(10):
        node.pass_time(5 * HOUR)
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
        call(node)
        assert window(node) == (132 * S if turn < 9 else 10 * MIN)


def test_a_window_that_grows_while_a_sandbox_is_idle_keeps_it() -> None:
    node = node_of()
    node.invoke(F)
    node.invoke(F)
    start(node)
    for sandbox in node.sandboxes(State.BUSY):
        node.reply(sandbox)
    assert len(node.sandboxes(State.IDLE)) == 2
    for _ in range(40):  # the one that became idle last is used; the other waits
        call(node)
        node.pass_time(14 * S)
    assert len(node.sandboxes(State.IDLE)) == 2, "560 s of the 600 s that it began to wait with"
    assert window(node) == 60 * S
    node.pass_time(41 * S)
    assert len(node.sandboxes(State.IDLE)) == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(gaps=st.lists(st.integers(0, 5 * HOUR), max_size=40), grain=st.sampled_from([S, 10 * S]))
def test_window_against_the_model(gaps: list[int], grain: int) -> None:
    """The core's arithmetic and the model's, gap for gap, misses included."""
    patience = {**PATIENT, "idle_grain_ns": grain}
    node = node_of(**patience)
    expected = model.Keep(node.judge.settings.patience())
    call(node)
    for gap in gaps:
        before = node.sandboxes(State.IDLE)
        node.pass_time(gap)
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
        if before and not node.sandboxes(State.IDLE):
            expected.gone(before[0].idle_since_ns)
            expected.missed(node.now)
        else:
            expected.gap(gap)
        call(node)
        assert window(node) == expected.window_ns
        assert node.core.function(0, node.now).keep_samples == expected.samples


def test_old_gaps_are_forgotten() -> None:
    node = node_of()
    call(node)
    for _ in range(10):
        node.pass_time(20 * MIN)
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
        call(node)
    assert window(node) > 20 * MIN
    for _ in range(1100):
        node.pass_time(2 * S)
        call(node)
    assert window(node) == 60 * S


# ---- eviction --------------------------------------------------------------------------------------------------------------


def test_one_who_waits_for_nothing_is_not_refused_while_somebody_idles() -> None:
    """queue_timeout 0, as Lambda: memory is full of idle sandboxes, yet the call is served."""
    node = node_of(memory_mb=128, functions=(F, G))
    call(node, F)
    actions = node.invoke(G)
    assert kills(actions) == [Why.EVICTED]
    assert not [a for a in actions if a.kind == Act.ANSWER]
    node.reap(node.sandboxes(State.DYING)[0])
    start(node)
    (busy,) = node.sandboxes(State.BUSY)
    assert busy.function == G


def test_nothing_to_evict_is_a_refusal_that_names_memory() -> None:
    node = node_of(memory_mb=128, functions=(F, G))
    node.invoke(F)
    start(node)
    (answer,) = [a for a in node.invoke(G) if a.kind == Act.ANSWER]
    assert (Outcome(answer.outcome), Resource(answer.resource)) == (Outcome.THROTTLED, Resource.MEMORY)


def idle_three(**changes: int) -> Node:
    """F starts slowly, G and H quickly; G is used most. H became idle last."""
    node = node_of(memory_mb=3 * 128, functions=(F, G, H), **changes)
    call(node, F, start_ns=400 * MS)
    for _ in range(30):
        call(node, G, start_ns=5 * MS)
    call(node, H, start_ns=5 * MS)
    node.give(account_put(9, 1), function_put(1 << 32 | 5, 9, queue_timeout_ns=0))
    return node


def evicted(node: Node) -> int:
    node.invoke(1 << 32 | 5)
    (victim,) = node.sandboxes(State.DYING)
    return victim.function


def test_the_one_worth_least_goes_first_not_the_one_idle_for_longest() -> None:
    assert evicted(idle_three()) == H


def test_what_a_start_costs_counts() -> None:
    node = idle_three()
    for _ in range(120):  # H is used far more often than F, but F's start is eighty times as dear
        call(node, H)
    for _ in range(300):
        call(node, G)
    assert evicted(node) == F
    node = idle_three()
    for _ in range(10):
        call(node, H)
    assert evicted(node) == H


def test_memory_counts_against() -> None:
    node = node_of(memory_mb=128 + 1280, functions=(F, G), sizes=(128, 1280))
    call(node, F)
    call(node, G)
    node.give(account_put(9, 1), function_put(1 << 32 | 5, 9, queue_timeout_ns=0))
    assert evicted(node) == G


def test_the_clock_lets_nobody_stay_for_ever() -> None:
    """F was dear once and is never used again; what is evicted beside it makes the clock pass it."""
    node = node_of(memory_mb=2 * 128, functions=(F, G, H))
    call(node, F, start_ns=400 * MS)
    for turn in range(400):
        call(node, G if turn % 2 else H, start_ns=5 * MS)
        if not [s for s in node.sandboxes(State.IDLE) if s.function == F]:
            return
    pytest.fail("it stayed through 400 evictions")


def test_many_who_want_memory_get_it_at_once_not_one_after_the_other() -> None:
    node = node_of(memory_mb=8 * 128, functions=(F, G), sandboxes_max=16)
    for _ in range(6):
        node.invoke(F)
    start(node)
    for sandbox in list(node.sandboxes(State.BUSY)):
        node.pass_time(20 * MS)
        node.reply(sandbox, run_ns=20 * MS)
    idle = len(node.sandboxes(State.IDLE))
    assert idle >= 4
    node.give(account_put(0, 0xFFFF, limits={Resource.MEMORY: idle * 128}))
    node.give(function_put(G, 3, queue_timeout_ns=S))
    actions = node.give(*[Event.of(Ev.INVOKE, function=G, cookie=1000 + i, deadline_ns=0, bytes=1) for i in range(4)])
    assert kills(actions) == [Why.EVICTED] * 4


def test_a_tenant_short_of_memory_makes_room_in_its_own() -> None:
    node = node_of(functions=(F, G))
    node.give(account_put(1, 0, limits={Resource.MEMORY: 128}))
    node.give(account_put(8, 0), account_put(9, 8), function_put(H, 9, queue_timeout_ns=0))
    call(node, H)  # of another tenant: idle for longest and worth least
    call(node, G, start_ns=400 * MS)
    actions = node.invoke(F)
    assert kills(actions) == [Why.EVICTED]
    assert [s.function for s in node.sandboxes(State.DYING)] == [G]


def test_a_gap_that_an_eviction_cut_off_counts_too() -> None:
    node = node_of(memory_mb=128, functions=(F, G))
    for _ in range(9):
        for function in (F, G):
            call(node, function)
            node.pass_time(100 * S)
    assert node.core.function(0, node.now).keep_samples == 8
    assert window(node) == 264 * S, "200 s, to the end of its bin, and a tenth"


# ---- provisioned -----------------------------------------------------------------------------------------------------------


def provisioned(
    node: Node, count: int, *, function: int = F, account: int = 2, revision: int = 1, **changes: int
) -> list[Action]:
    return node.give(function_put(function, account, provisioned=count, revision=revision, **changes))


def floor(node: Node, function: int = F) -> tuple[int, int, int, int]:
    stats = node.core.function(function & 0xFFFFFFFF, node.now)
    return (stats.provisioned, stats.provisioned_allocated, stats.provisioned_available, stats.provisioned_failure)


def test_a_floor_is_made_without_a_call_and_kept_for_ever() -> None:
    node = node_of()
    needs = [a for a in provisioned(node, 3) if a.kind == Act.NEED]
    assert [a.provisioned for a in needs] == [1, 1, 1]
    assert floor(node) == (3, 3, 0, 0)
    start(node)
    assert floor(node) == (3, 3, 3, 0)
    assert kills(node.pass_time(5 * HOUR)) == []
    (send,) = [a for a in node.invoke(F) if a.kind == Act.SEND]
    assert send.provisioned == 1


def test_what_the_floor_cannot_take_spills_over() -> None:
    node = node_of()
    provisioned(node, 1, ahead_max=1)
    start(node)
    node.invoke(F)
    (need,) = [a for a in node.invoke(F) if a.kind == Act.NEED]
    assert need.provisioned == 0
    start(node)
    stats = node.core.function(0, node.now)
    assert (stats.provisioned_calls, stats.spillover_calls) == (1, 1)
    for sandbox in node.sandboxes(State.BUSY):
        node.reply(sandbox)
    assert kills(node.pass_time(HOUR)) == [Why.IDLE], "the one beyond the floor"


def test_a_lowered_floor_lets_go_and_a_raised_one_adds() -> None:
    node = node_of()
    provisioned(node, 2)
    start(node)
    assert len([a for a in provisioned(node, 4) if a.kind == Act.NEED]) == 2
    start(node)
    provisioned(node, 1)
    node.pass_time(HOUR)
    assert len(node.sandboxes(State.IDLE)) == 1


def test_who_waits_for_memory_has_it_when_a_floor_is_lowered() -> None:
    node = node_of(memory_mb=128, functions=(F, G))
    provisioned(node, 1)
    start(node)
    node.give(function_put(G, 3, queue_timeout_ns=10 * S))
    assert kills(node.invoke(G)) == []
    assert kills(provisioned(node, 0)) == [Why.EVICTED]


def test_whoever_dies_is_replaced() -> None:
    node = node_of()
    provisioned(node, 2)
    start(node)
    victim = node.sandboxes(State.IDLE)[0]
    actions = node.give(Event.of(Ev.GONE, handle=victim.handle))
    assert [a.kind for a in actions if a.kind in (Act.KILL, Act.NEED)] == [Act.KILL, Act.NEED]
    node.reap(victim)
    start(node)
    assert floor(node) == (2, 2, 2, 0)


def test_a_new_revision_gets_its_floor() -> None:
    node = node_of()
    provisioned(node, 2)
    start(node)
    actions = node.give(Event.of(Ev.FUNCTION_SWITCH, handle=F, revision=2))
    assert kills(actions) == [Why.REVISION] * 2
    assert [a.revision for a in actions if a.kind == Act.NEED] == [2, 2]


def test_a_floor_is_not_evicted_and_evicts_others() -> None:
    node = node_of(memory_mb=2 * 128, functions=(F, G))
    provisioned(node, 1)
    start(node)
    call(node, G)
    node.give(account_put(9, 1), function_put(1 << 32 | 5, 9, queue_timeout_ns=0))
    assert evicted(node) == G
    node.reap(node.sandboxes(State.DYING)[0])
    start(node)
    for sandbox in node.sandboxes(State.BUSY):
        node.reply(sandbox)
    assert kills(provisioned(node, 2)) == [Why.EVICTED]
    node.reap(node.sandboxes(State.DYING)[0])
    start(node)
    assert floor(node) == (2, 2, 2, 0)


def test_a_floor_without_memory_says_so_and_comes_when_there_is_some() -> None:
    node = node_of(memory_mb=128, functions=(F, G))
    node.invoke(G)
    start(node)
    provisioned(node, 1)
    assert floor(node) == (1, 0, 0, 2)
    assert node.core.function(0, node.now).provisioned_account == 0
    (busy,) = node.sandboxes(State.BUSY)
    assert kills(node.reply(busy)) == [Why.EVICTED]
    node.reap(busy)
    start(node)
    assert floor(node) == (1, 1, 1, 0)


def test_a_floor_beyond_the_node_s_table_says_so() -> None:
    node = node_of(sandboxes_max=2)
    provisioned(node, 3)
    assert floor(node) == (3, 2, 0, 3)


def test_starts_that_fail_are_tried_again_after_pauses_that_double() -> None:
    node = node_of()
    provisioned(node, 1)
    pauses = []
    for _ in range(8):
        (starting,) = node.sandboxes(State.STARTING)
        node.give(Event.of(Ev.INIT_FAILED, handle=starting.handle))
        assert floor(node)[3] == 1
        failed = node.now
        node.reap(starting)
        while not node.sandboxes(State.STARTING):
            node.pass_time(100 * MS)
        pauses.append((node.now - failed) // S)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    start(node)
    assert floor(node) == (1, 1, 1, 0)


# ---- worn ------------------------------------------------------------------------------------------------------------------


def ready_one(**changes: int) -> tuple[Node, Sandbox]:
    node = node_of(**changes)
    call(node)
    (sandbox,) = node.sandboxes(State.IDLE)
    return node, sandbox


def test_a_sandbox_is_replaced_after_its_calls_and_the_other_is_there_before_it_goes() -> None:
    node, old = ready_one(sandbox_calls_max=16)
    worn = model.within_eighth(16, old.handle)
    assert 14 <= worn <= 16
    while old.served < worn - 1:
        call(node)
        assert len(node.judge.sandboxes) == 1
    actions = [*node.invoke(F), *node.reply(old)]
    assert [a.provisioned for a in actions if a.kind == Act.NEED] == ([1] if worn < 16 else [])
    if worn < 16:
        assert old.state is State.IDLE
        (new,) = node.sandboxes(State.STARTING)
        assert kills(node.ready(new)) == [Why.RECYCLED]
    assert old.state is State.DYING


def test_at_the_very_end_of_its_calls_it_goes_without_another() -> None:
    node = node_of(sandbox_calls_max=1)
    call(node)
    (old,) = node.judge.sandboxes.values()
    assert old.state is State.DYING
    assert old.why is Why.RECYCLED


def test_a_sandbox_is_replaced_at_its_age_where_calls_come() -> None:
    node, old = ready_one(age_max_ns=80 * S)
    born = old.ready_ns
    while not node.sandboxes(State.STARTING):
        node.pass_time(500 * MS)
        node.invoke(F)
        node.reply(old)
        assert old.state is State.IDLE
    assert model.within_eighth(80 * S, old.handle) <= node.now - born <= 81 * S
    (new,) = node.sandboxes(State.STARTING)
    assert kills(node.ready(new)) == [Why.RECYCLED]
    assert old.state is State.DYING
    assert new.state is State.IDLE


def test_an_old_one_that_nobody_calls_goes_without_another() -> None:
    node, _ = ready_one(age_max_ns=80 * S)
    actions = node.pass_time(81 * S)
    assert kills(actions) == [Why.RECYCLED]
    assert Act.NEED not in [a.kind for a in actions]


def test_not_all_go_at_once() -> None:
    ages = {model.within_eighth(12 * HOUR, generation << 32 | index) for generation in (1, 2) for index in range(50)}
    assert len(ages) == 100
    assert max(ages) - min(ages) > HOUR
    assert min(ages) >= 12 * HOUR * 7 // 8
    assert max(ages) <= 12 * HOUR


def test_a_worn_floor_is_replaced_one_for_one() -> None:
    node = node_of(age_max_ns=80 * S)
    provisioned(node, 2)
    start(node)
    first = {s.handle for s in node.sandboxes(State.IDLE)}
    least = 2
    for _ in range(90):
        node.pass_time(S)
        start(node, 0)
        for sandbox in node.sandboxes(State.DYING):
            node.reap(sandbox)
        least = min(least, len(node.sandboxes(State.IDLE)))
    assert least == 2
    assert not first & {s.handle for s in node.sandboxes(State.IDLE)}
    assert floor(node) == (2, 2, 2, 0)


# ---- all of it at random -----------------------------------------------------------------------------------------------------


class KeepMachine(NodeMachine):
    """Little memory, short patience, floors that change, sandboxes that wear: the judge knows every rule."""

    @initialize(
        memory=st.sampled_from([256, 384, 640]),
        calls=st.sampled_from([0, 1, 6]),
        age=st.sampled_from([0, 50 * MS, S]),
    )
    def start(self, memory: int, calls: int, age: int) -> None:
        self.build(
            node={Resource.MEMORY: memory},
            tenants=[{}, {Resource.MEMORY: 256}],
            leaves=[{}, {}, {}],
            guarantees=[0, 0, 0],
            sandboxes_max=5,
            idle_timeout_ns=300 * MS,
            idle_min_ns=10 * MS,
            idle_max_ns=200 * MS,
            idle_grain_ns=2 * MS,
            age_max_ns=age,
            sandbox_calls_max=calls,
        )

    @rule(which=st.integers(0, 2), count=st.sampled_from([0, 1, 2, 5]), memory=st.sampled_from([64, 128, 200]))
    def provision(self, which: int, count: int, memory: int) -> None:
        handle = self.FUNCTIONS[which]
        known = self.node.judge.functions[handle]
        self.node.give(
            function_put(
                handle,
                self.ACCOUNTS[which],
                provisioned=count,
                memory_mb=memory,
                queue_timeout_ns=known.queue_timeout_ns,
                timeout_ns=known.timeout_ns,
            )
        )

    @rule(data=st.data(), kind=st.sampled_from([Ev.INIT_FAILED, Ev.GONE, Ev.RETIRE]))
    def happens(self, data: st.DataObject, kind: Ev) -> None:
        sandbox = self.pick(data, State.STARTING, State.IDLE, State.BUSY)
        if sandbox is not None:
            self.node.give(Event.of(kind, handle=sandbox.handle))


KeepMachine.TestCase.settings = SETTINGS
TestKeepMachine = pytest.mark.slow(KeepMachine.TestCase)


def test_the_judge_objects_to_another_patience() -> None:
    """Told that gaps are finer than they are, it expects another window."""
    node = node_of()
    known = node.judge.functions[F].keep
    known.patience = replace(known.patience, idle_max_ns=100 * S)

    def run() -> None:
        for _ in range(12):
            call(node)
            node.pass_time(150 * S)

    with pytest.raises(AssertionError, match=r"idle too early|idle for too long|gaps and window"):
        run()
