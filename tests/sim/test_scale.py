"""Scale-out neither storms nor lets calls queue behind busy sandboxes, against an oracle; patience and worth pay."""

from __future__ import annotations

import random

import pytest

from tests.model.core_binding import Why
from tests.sim.scale import Arrival, Kind, least_cost_by_lru, peak, play

MS, S, MIN = 1_000_000, 1_000_000_000, 60_000_000_000


def poisson(rate_per_s: float, until_ns: int, *, function: int = 0, seed: int = 1, start_ns: int = 0) -> list[Arrival]:
    rng = random.Random(seed)
    at, made = float(start_ns), []
    while (at := at + rng.expovariate(rate_per_s) * S) < until_ns:
        made.append(Arrival(int(at), function))
    return made


@pytest.mark.slow
def test_steady_load_makes_about_as_many_as_overlap() -> None:
    kinds, arrivals = [Kind(run_ns=20 * MS)], poisson(200, 20 * S)
    result = play(kinds, arrivals)
    oracle = peak(kinds, arrivals)
    assert oracle == 15
    assert result.starts() <= 1.5 * oracle
    assert result.starts(after_ns=5 * S) <= 4, "it has what it needs"
    assert result.wait(0.5) == 0
    assert result.wait(0.99) <= 15 * MS, "nobody queues behind a busy one for its whole call"


@pytest.mark.slow
def test_a_warm_function_of_microseconds_keeps_to_the_processors() -> None:
    result = play([Kind(run_ns=50_000, cpu=1.0)], poisson(10_000, 2 * S))
    assert result.starts() <= 4, "no 88 sandboxes for one warm function"
    assert result.wait(0.99) <= 2 * MS


def test_a_burst_of_200_cold_calls() -> None:
    kinds, arrivals = [Kind(run_ns=100 * MS)], [Arrival(i * 1000, 0) for i in range(200)]
    result = play(kinds, arrivals)
    # With a birth each 3 ms the best there is, t²/2 = 200 · 3 ms · 100 ms, is 346 ms with 115 sandboxes.
    assert result.ended_ns <= 450 * MS
    assert 80 <= result.starts() <= 150
    assert result.refused == 0


def test_long_calls_never_queue_behind_one_another() -> None:
    kinds, arrivals = [Kind(run_ns=5 * S)], poisson(2, 60 * S)
    result = play(kinds, arrivals)
    oracle = peak(kinds, arrivals)
    assert result.starts() <= oracle + 2
    assert max(result.waits) <= 20 * MS, "a start, not somebody else's call"


@pytest.mark.slow
def test_on_and_off_load_is_met_warm_once_its_gaps_are_known() -> None:
    """Ten seconds of calls, twelve minutes of nothing: a fixed ten minutes starts all of them anew each time."""
    cycle = 12 * MIN
    arrivals = [a for n in range(9) for a in poisson(60, n * cycle + 10 * S, seed=n, start_ns=n * cycle)]
    kinds = [Kind(run_ns=30 * MS, init_ns=300 * MS)]
    fixed = play(kinds, arrivals, idle_min_ns=600 * S, idle_max_ns=600 * S)
    learnt = play(kinds, arrivals)
    assert fixed.starts(after_ns=4 * cycle) >= 20
    assert learnt.starts(after_ns=4 * cycle) <= fixed.starts(after_ns=4 * cycle) / 4


def test_what_is_called_seldom_is_let_go_and_what_is_called_often_is_not_kept_for_nothing() -> None:
    """Gaps of five seconds: a minute of patience is enough, not ten."""
    arrivals = [Arrival(n * 5 * S, 0) for n in range(40)]
    last = arrivals[-1].at_ns
    arrivals += [Arrival(last + 5 * MIN, 0)]
    assert play([Kind(run_ns=10 * MS)], arrivals).kills == {Why.IDLE: 1}


@pytest.mark.slow
def test_many_small_functions_in_little_memory_pay_less_for_starts_than_by_recency() -> None:
    """150 functions, memory for 50: popularity by Zipf, inits of 5 to 600 ms. Against evicting what was idle for longest."""
    rng = random.Random(7)
    kinds = [
        Kind(run_ns=2 * MS, init_ns=rng.choice([5, 30, 120, 600]) * MS, memory_mb=rng.choice([128, 256])) for _ in range(150)
    ]
    ranks = rng.sample(range(150), 150)
    weights = [1 / (1 + ranks[i]) ** 0.8 for i in range(150)]
    arrivals = [Arrival(n * S, rng.choices(range(150), weights)[0]) for n in range(3000)]
    memory_mb = 50 * 192
    result = play(kinds, arrivals, memory_mb=memory_mb, birth_ns=1)
    ours = sum(kinds[function].init_ns for function in result.made_of)
    by_recency = least_cost_by_lru(kinds, arrivals, memory_mb)
    assert result.refused == 0
    assert ours <= 0.6 * by_recency, (ours / by_recency, result.starts())


def test_provisioned_sandboxes_spare_the_first_calls_their_start() -> None:
    kinds = [Kind(run_ns=50 * MS, init_ns=500 * MS, provisioned=5)]
    arrivals = [Arrival(2 * S + i, 0) for i in range(5)]
    result = play(kinds, arrivals)
    assert max(result.waits) == 0
    assert result.starts() == 5
