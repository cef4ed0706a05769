"""The pool of shells on virtual time, with a source that births when the test's clock says so; and the pure decision."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import Unavailable
from scheduler.sandboxes.launcher import LaunchFailed, Shell
from scheduler.sandboxes.pool import REST_AFTER_S, Demand, ShellPool


class Source:
    """Shells with one real descriptor each, so that a leak or a double close shows."""

    def __init__(self, birth_s=0.01):
        self.birth_s = birth_s
        self.made = []
        self.killed = []
        self.rested = []
        self.fail = 0

    async def shell(self, runtime):
        await trio.sleep(self.birth_s)
        if self.fail:
            self.fail -= 1
            raise LaunchFailed("clone", 11)
        shell = Shell(len(self.made) + 1, runtime, 1, os.open("/dev/null", os.O_RDONLY), -1, -1, -1, -1, -1)
        self.made.append(shell)
        return shell

    def kill(self, shell_id):
        self.killed.append(shell_id)

    def rest(self, runtime):
        self.rested.append(runtime)


def closed(shell):
    try:
        os.fstat(shell.channel_fd)
    except OSError:
        return True
    return False


@pytest.fixture
def source():
    made = Source()
    yield made
    for shell in made.made:
        if not closed(shell):
            os.close(shell.channel_fd)


def pool(ahead=2, most=8, use=("py",), runtimes=("py",)):
    reports = []
    made = ShellPool(runtimes, ahead=ahead, most=most, report=reports.append)
    made.use(use)
    made.reports = reports
    return made


def births(source, runtime):
    return sum(shell.runtime == runtime for shell in source.made)


async def test_shells_are_there_before_they_are_asked_for(source, autojump_clock, nursery):
    shells = pool()
    assert not shells.ready
    nursery.start_soon(shells.refill, source)
    await trio.sleep(0.1)
    assert shells.ready
    (stats,) = shells.stats()
    assert (stats.ready, stats.born, stats.target) == (2, 2, 2)
    before = trio.current_time()
    first = await shells.take("py")
    assert trio.current_time() == before, "off the shelf"
    assert first.id == 1, "oldest first"
    await trio.sleep(0.1)
    assert shells.stats()[0].ready == 2, "and the place is filled again"
    nursery.cancel_scope.cancel()


async def test_a_burst_finds_its_shells_when_it_comes_again(source, autojump_clock, nursery):
    shells = pool(ahead=2, most=12)
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)

    async def burst():
        begun, waits = trio.current_time(), []

        async def taker():
            await shells.take("py")
            waits.append(trio.current_time() - begun)

        async with trio.open_nursery() as takers:
            for _ in range(10):
                takers.start_soon(taker)
        return sorted(waits)

    first = await burst()
    assert first[-1] >= 0.08, "eight births, one after the other"
    born = len(source.made)
    await trio.sleep(0.5)
    assert len(source.made) - born <= 2, "while its calls run no more are born than ever"
    await trio.sleep(20)
    assert shells.stats()[0].ready >= 8
    again = await burst()
    assert again[7] == 0.0
    await trio.sleep(1200)
    assert shells.stats()[0].ready == 2, "it did not come again"
    nursery.cancel_scope.cancel()


def test_one_who_waits_is_no_burst():
    demand = Demand()
    for second in range(100):
        demand.short(float(second), waiting=3, kept=2)
    assert demand.target(200.0, ahead=2, most=32) == 2
    demand.short(200.0, waiting=50, kept=2)
    assert demand.target(200.5, ahead=2, most=32) == 2, "not while it lasts"
    assert demand.target(202.0, ahead=2, most=32) == 32
    assert demand.target(202.0 + 5 * 120, ahead=2, most=32) == 2


async def test_those_who_wait_are_served_in_order(source, autojump_clock, nursery):
    shells = pool(ahead=0)
    nursery.start_soon(shells.refill, source)
    got = []

    async def taker(n):
        got.append((n, (await shells.take("py")).id))

    for n in range(4):
        nursery.start_soon(taker, n)
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(1)
    assert got == [(0, 1), (1, 2), (2, 3), (3, 4)]
    nursery.cancel_scope.cancel()


async def test_a_taker_that_is_cancelled_leaves_its_shell_to_the_next(source, autojump_clock, nursery):
    shells = pool(ahead=0)
    with trio.move_on_after(0.005):
        await shells.take("py")
    assert shells.stats()[0].waiting == 0
    # Cancelled, and given a shell before it woke to learn of that.
    scope = trio.CancelScope()

    async def loser():
        with scope:
            await shells.take("py")

    nursery.start_soon(loser)
    await trio.testing.wait_all_tasks_blocked()
    shell = await source.shell("py")
    scope.cancel()
    shells._shelves["py"].deliver(shell)
    await trio.testing.wait_all_tasks_blocked()
    assert (await shells.take("py")) is shell
    nursery.cancel_scope.cancel()


async def test_a_shell_that_dies_waiting_is_replaced(source, autojump_clock, nursery):
    shells = pool(ahead=1)
    nursery.start_soon(shells.refill, source)
    await trio.sleep(0.1)
    assert shells.exited(1)
    assert closed(source.made[0])
    assert not shells.exited(1), "known no more"
    await trio.sleep(0.1)
    assert shells.stats()[0].ready == 1
    assert (await shells.take("py")).id == 2
    nursery.cancel_scope.cancel()


async def test_a_shell_that_dies_on_the_way_to_its_taker_costs_it_nothing(source, autojump_clock, nursery):
    shells = pool(ahead=0)
    got = []

    async def taker():
        got.append((await shells.take("py")).id)

    nursery.start_soon(taker)
    await trio.testing.wait_all_tasks_blocked()
    shells._shelves["py"].deliver(await source.shell("py"))
    assert shells.exited(1), "dead before its taker woke"
    assert closed(source.made[0])
    nursery.start_soon(shells.refill, source)
    await trio.sleep(0.1)
    assert got == [2]
    nursery.cancel_scope.cancel()


async def test_shells_that_are_killed_as_soon_as_they_are_there_make_no_storm(source, autojump_clock, nursery):
    """A machine short of memory takes the youngest processes first: to make them again at once takes what is left."""
    shells = pool(ahead=1)
    nursery.start_soon(shells.refill, source)
    with trio.move_on_after(30):
        while True:
            await shells.wait_changed()
            if shells.stats()[0].ready:
                assert shells.exited(source.made[-1].id)
    assert 8 <= len(source.made) <= 16
    assert "died" in shells.reports[0]
    await trio.sleep(60)
    quiet = len(source.made)
    assert shells.stats()[0].ready == 1
    shells.exited(source.made[-1].id)
    await trio.sleep(0.1)
    assert len(source.made) == quiet + 1, "after a calm while one death is one death"
    nursery.cancel_scope.cancel()


async def test_failures_back_off_and_are_told(source, autojump_clock, nursery):
    shells = pool(ahead=1)
    source.fail = 4
    nursery.start_soon(shells.refill, source)
    await trio.sleep(0.05 + 0.1 + 0.2 + 0.4 + 0.06)
    assert shells.stats()[0].failed == 4
    assert shells.stats()[0].ready == 1
    assert len(shells.reports) == 4
    assert "clone" in shells.reports[0]
    nursery.cancel_scope.cancel()


async def test_a_lost_launcher_takes_its_shells_along(source, autojump_clock, nursery):
    shells = pool(ahead=3)
    with trio.move_on_after(0.2):
        await shells.refill(source)
    shells.lost()
    assert all(closed(shell) for shell in source.made)
    assert not shells.ready
    nursery.start_soon(shells.refill, source)
    await trio.sleep(0.2)
    assert shells.ready
    nursery.cancel_scope.cancel()


async def test_demand_raises_the_shelf_and_quiet_lowers_it(source, autojump_clock, nursery):
    source.birth_s = 0.1
    shells = pool(ahead=1, most=5)
    nursery.start_soon(shells.refill, source)
    for _ in range(200):
        await trio.sleep(0.05)
        with trio.move_on_after(0.2):
            (await shells.take("py")).close()
    assert shells.stats()[0].target > 1
    await trio.sleep(300)
    stats = shells.stats()[0]
    assert (stats.target, stats.ready) == (1, 1)
    assert source.killed, "what was too many is ended"
    nursery.cancel_scope.cancel()


async def test_only_what_is_in_use_is_kept_warm(source, autojump_clock, nursery):
    shells = pool(runtimes=("py", "other"))
    assert shells.lacking() == ["py"]
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)
    assert shells.ready
    assert (births(source, "py"), births(source, "other")) == (2, 0)
    shells.use({"py", "other", "unheard of"})
    assert shells.lacking() == ["other"]
    await trio.sleep(1)
    assert shells.ready
    assert births(source, "other") == 2
    nursery.cancel_scope.cancel()


async def test_a_runtime_that_nobody_uses_any_more_is_let_go_after_a_while(source, autojump_clock, nursery):
    shells = pool(runtimes=("py", "other"), use=("py", "other"))
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)
    shells.use({"py"})
    await trio.sleep(REST_AFTER_S - 10)
    assert source.rested == []
    assert [s.ready for s in shells.stats()] == [2, 2], "somebody may deploy to it again"
    await trio.sleep(20)
    assert source.rested == ["other"], "once"
    others = [shell for shell in source.made if shell.runtime == "other"]
    assert {shell.id for shell in others} <= set(source.killed)
    assert all(closed(shell) for shell in others)
    assert [(s.ready, s.target) for s in shells.stats()] == [(2, 2), (0, 0)]
    assert shells.ready
    before = trio.current_time()
    (await shells.take("other")).close()
    assert trio.current_time() - before == pytest.approx(source.birth_s), "the first need starts it again"
    await trio.sleep(3 * REST_AFTER_S)
    assert source.rested == ["other", "other"]
    nursery.cancel_scope.cancel()


async def test_waking_waits_for_the_first_shell_and_no_longer_than_told(source, autojump_clock, nursery):
    shells = pool(runtimes=("py", "other"))
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)
    begun = trio.current_time()
    await shells.wake("other", 5)
    assert trio.current_time() - begun == pytest.approx(source.birth_s)
    begun = trio.current_time()
    await shells.wake("other", 5)
    await shells.wake("unheard of", 5)
    assert trio.current_time() == begun, "it is awake"
    nursery.cancel_scope.cancel()


async def test_waking_ends_with_a_failure_or_the_time(source, autojump_clock, nursery):
    source.fail = 10
    shells = pool(use=())
    nursery.start_soon(shells.refill, source)
    begun = trio.current_time()
    await shells.wake("py", 5)
    assert trio.current_time() - begun == pytest.approx(source.birth_s)
    source.birth_s = 60
    begun = trio.current_time()
    await shells.wake("py", 5)
    assert trio.current_time() - begun <= 5
    assert shells.ready, "nobody uses it"
    shells.use({"py"})
    assert shells.lacking() == ["py"]
    nursery.cancel_scope.cancel()


async def test_with_none_ahead_one_birth_shows_that_it_works(source, autojump_clock, nursery):
    shells = pool(ahead=0)
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)
    assert shells.ready
    await trio.sleep(60)
    assert shells.ready
    assert (births(source, "py"), shells.stats()[0].ready) == (1, 0), "it is not kept"
    nursery.cancel_scope.cancel()


async def test_new_bounds_are_followed(source, autojump_clock, nursery):
    shells = pool(ahead=1)
    nursery.start_soon(shells.refill, source)
    await trio.sleep(1)
    shells.resize(ahead=4, most=8)
    await trio.sleep(1)
    assert shells.stats()[0].ready == 4
    shells.resize(ahead=1, most=8)
    await trio.sleep(60)
    assert shells.stats()[0].ready == 1
    nursery.cancel_scope.cancel()


async def test_an_unknown_runtime_is_named(source):
    with pytest.raises(Unavailable, match=r"nodejs18.*py"):
        await pool().take("nodejs18")


@given(
    gaps=st.lists(st.floats(0, 5), max_size=60),
    births=st.lists(st.floats(0, 10), max_size=20),
    ahead=st.integers(0, 5),
    more=st.integers(0, 20),
)
def test_the_target_stays_within_its_bounds(gaps, births, ahead, more):
    demand, now = Demand(), 0.0
    for gap in gaps:
        now += gap
        demand.asked(now)
    for birth in births:
        demand.born(birth)
    assert ahead <= demand.target(now, ahead=ahead, most=ahead + more) <= ahead + more
    assert demand.target(now + 1e6, ahead=ahead, most=ahead + more) == min(ahead + more, max(ahead, 0))


def test_the_target_is_what_is_asked_for_during_a_birth_twice():
    """10 a second for a minute, births of 0.2 s: 2 shells a birth, doubled."""
    demand, now = Demand(birth_s=0.2), 0.0
    for _ in range(600):
        now += 0.1
        demand.asked(now)
    assert demand.target(now, ahead=0, most=100) in (4, 5)
