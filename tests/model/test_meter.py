"""The account tree: charges, guarantees and rates of the core against the ten lines of accounts.py, at every level."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.accounts import Accounts
from tests.model.core_binding import (
    NO_ACCOUNT,
    NO_LIMIT,
    Act,
    Ev,
    Event,
    Outcome,
    Resource,
    State,
    account_put,
    function_put,
)
from tests.model.machine import MS, SETTINGS, Node, NodeMachine, S

F = 1 << 32

limits = st.fixed_dictionaries(
    {},
    optional={
        Resource.CONCURRENCY: st.integers(0, 4),
        Resource.MEMORY: st.sampled_from([0, 128, 300, 1000]),
        Resource.QUEUED_CALLS: st.integers(0, 6),
        Resource.QUEUED_BYTES: st.sampled_from([0, 100, 1500]),
        Resource.RATE: st.sampled_from([0, 1, 50]),
    },
)


class MeterMachine(NodeMachine):
    """Limits and guarantees anywhere in the tree, and changed at any moment. The judge recounts every account each step."""

    @initialize(
        node=limits,
        tenants=st.lists(limits, min_size=2, max_size=2),
        leaves=st.lists(limits, min_size=3, max_size=3),
        guarantees=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    )
    def start(
        self,
        node: dict[Resource, int],
        tenants: list[dict[Resource, int]],
        leaves: list[dict[Resource, int]],
        guarantees: list[int],
    ) -> None:
        self.build(node=node, tenants=tenants, leaves=leaves, guarantees=guarantees)

    @rule(index=st.integers(0, 5), new=limits, guarantee=st.integers(0, 3), burst=st.integers(1, 3))
    def change(self, index: int, new: dict[Resource, int], guarantee: int, burst: int) -> None:
        parent = {0: NO_ACCOUNT, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2}[index]
        self.node.give(account_put(index, parent, limits=new, guarantee=guarantee, burst=burst))

    @rule(index=st.integers(0, 16), parent=st.integers(0, 16))
    def refused_put(self, index: int, parent: int) -> None:
        """An account neither moves nor gets a parent that is not there."""
        known = self.node.judge.accounts
        fresh = index not in known and parent in known
        same = index in known and known[index].parent == parent
        if not fresh and not same and index < 16:
            before = self.node.core.totals().stale_events
            self.node.give(account_put(index, parent))
            assert self.node.core.totals().stale_events == before + 1

    @rule(index=st.integers(0, 5))
    def remove_in_use(self, index: int) -> None:
        self.node.give(Event.of(Ev.ACCOUNT_REMOVE, index=index))
        assert self.node.core.account(index) is not None, "it has children or functions"


MeterMachine.TestCase.settings = SETTINGS
TestMeterMachine = pytest.mark.slow(MeterMachine.TestCase)


class RateMachine(RuleBasedStateMachine):
    """GCRA at three levels; nothing else refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node()

    @initialize(rates=st.lists(st.sampled_from([1, 7, 100, NO_LIMIT]), min_size=3, max_size=3), burst=st.integers(1, 5))
    def start(self, rates: list[int], burst: int) -> None:
        self.node = Node(calls_max=4000)
        for index, rate in enumerate(rates):
            parent = NO_ACCOUNT if index == 0 else index - 1
            self.node.give(account_put(index, parent, limits={Resource.RATE: rate}, burst=burst))
        self.node.give(function_put(F, 2, queue_timeout_ns=60 * S))

    @rule(times=st.integers(1, 8))
    def invoke(self, times: int) -> None:
        for _ in range(times):  # the judge knows whether each has to pass
            for action in self.node.invoke(F):
                if action.kind == Act.ANSWER and action.outcome == Outcome.THROTTLED:
                    self.try_at(action.retry_after_ns)

    def try_at(self, retry_after_ns: int) -> None:
        """Retry-after is exact: refused one nanosecond before, not at the time itself, as far as this account goes."""
        account = self.node.judge.accounts
        leaf_to_root = account.path(2)
        blocked = [
            a
            for a in leaf_to_root
            if a.max[Resource.RATE] < NO_LIMIT
            and a.tat_ns > self.node.now + retry_after_ns + (a.burst - 1) * (10**9 // a.max[Resource.RATE])
        ]
        first = next(
            a
            for a in leaf_to_root
            if a.max[Resource.RATE] < NO_LIMIT and a.tat_ns > self.node.now + (a.burst - 1) * (10**9 // a.max[Resource.RATE])
        )
        assert first not in blocked
        assert first.tat_ns > self.node.now + retry_after_ns - 1 + (first.burst - 1) * (10**9 // first.max[Resource.RATE])

    @rule(ns=st.sampled_from([1, MS, 9_999_999, 10_000_000, 142 * MS, S]))
    def pass_time(self, ns: int) -> None:
        self.node.now += ns
        self.node.give()


RateMachine.TestCase.settings = SETTINGS
TestRateMachine = pytest.mark.slow(RateMachine.TestCase)


def test_model_reserved_concurrency_as_lambda_has_it() -> None:
    """Account limit 10, one function reserves 4: the others share 6, it never gets more than 4 and always these."""
    accounts = Accounts()
    big = [NO_LIMIT] * 6
    accounts.put(0, NO_ACCOUNT, 100, [10, *big[1:]], [0] * 6, 1)
    accounts.put(1, 0, 100, big, [0] * 6, 1)
    accounts.put(2, 1, 100, [4, *big[1:]], [4, 0, 0, 0, 0, 0], 1)
    accounts.put(3, 1, 100, big, [0] * 6, 1)
    taken = {2: 0, 3: 0}
    for leaf in (3, 2):
        while accounts.refuses(leaf, Resource.CONCURRENCY) is None:
            accounts.add(leaf, Resource.CONCURRENCY, 1)
            taken[leaf] += 1
    assert taken == {2: 4, 3: 6}


def full_node() -> Node:
    """Node of 3 units; function 0 (account 3) is guaranteed 1, function 1 (account 4) has taken all it may."""
    node = Node(cpus=8)
    node.give(
        account_put(0, NO_ACCOUNT, limits={Resource.CONCURRENCY: 3}),
        account_put(1, 0),
        account_put(3, 1, guarantee=1),
        account_put(4, 1),
        function_put(F, 3),
        function_put(F + 1, 4),
    )
    for _ in range(4):
        node.invoke(F + 1)
    while starting := node.sandboxes(State.STARTING):
        node.ready(starting[0])
    return node


def test_a_guarantee_is_kept_free_and_served_at_once() -> None:
    node = full_node()
    assert len(node.sandboxes(State.BUSY)) == 2, "one unit is set aside"
    node.invoke(F)
    (mine,) = [s for s in node.sandboxes(State.STARTING) if s.function == F]
    assert [a.kind for a in node.ready(mine)] == [Act.SEND]


def test_a_refusal_names_the_account_that_is_full() -> None:
    node = full_node()
    node.pass_time(S + MS)
    late = node.judge.outcomes[Outcome.THROTTLED]
    assert late == 2, "two of four had no unit within the queue's timeout"
    node.give(function_put(F + 1, 4, queue_timeout_ns=0))
    (refused,) = [a for a in node.invoke(F + 1) if a.kind == Act.ANSWER]
    assert (refused.account, refused.resource) == (0, Resource.CONCURRENCY)
    assert (refused.current, refused.max) == (2, 2), "three less the one set aside"
    assert refused.retry_after_ns > 0


def test_a_parked_function_is_woken_by_a_unit_of_another() -> None:
    """Tenant of two units. A's long call holds one, B's short call the other; A's second call needs B's unit, and A itself has
    no event until its long call ends."""
    node = Node()
    node.give(
        account_put(1, 0, limits={Resource.CONCURRENCY: 2}),
        account_put(2, 1),
        account_put(3, 1),
        function_put(F, 2, timeout_ns=60 * S, queue_timeout_ns=30 * S),
        function_put(F + 1, 3, timeout_ns=60 * S),
    )
    node.invoke(F)
    node.ready(node.sandboxes(State.STARTING)[0])
    node.invoke(F + 1)
    node.ready(node.sandboxes(State.STARTING)[0])
    node.invoke(F)
    assert not [s for s in node.sandboxes(State.STARTING) if s.function == F], "no unit is left for it"
    (other,) = [s for s in node.sandboxes(State.BUSY) if s.function == F + 1]
    actions = node.reply(other)
    assert [a.function for a in actions if a.kind == Act.NEED] == [F]


def test_memory_that_becomes_idle_later_goes_to_those_who_wait() -> None:
    for limit in ({"sandboxes_max": 1}, {}):
        node = Node(**limit)
        node.give(
            account_put(0, NO_ACCOUNT, limits={} if limit else {Resource.MEMORY: 200}),
            account_put(1, 0),
            account_put(2, 1),
            account_put(3, 1),
            function_put(F, 2),
            function_put(F + 1, 3),
        )
        node.invoke(F)
        (first,) = node.sandboxes(State.STARTING)
        node.ready(first)
        node.invoke(F + 1)
        assert not node.sandboxes(State.STARTING), "nothing to evict while it works"
        assert [a.kind for a in node.reply(first)] == [Act.ANSWER, Act.KILL]
        assert [a.kind for a in node.reap(first)] == [Act.FREED, Act.NEED]


@pytest.mark.parametrize("broken", [{"index": 99, "parent": 0}, {"index": 5, "parent": 6}, {"index": 0, "parent": 1}])
def test_an_impossible_account_is_not_made(broken: dict[str, int]) -> None:
    node = Node()
    node.core.step(node.now, [account_put(broken["index"], broken["parent"])])
    assert node.core.totals().stale_events == 1
