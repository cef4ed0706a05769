"""Who gets how much of a saturated node: CPU time by weight, within 5 %, whatever the calls' lengths."""

from __future__ import annotations

import pytest

from tests.sim.saturated import Load, saturate

US, MS = 1_000, 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loads", "units", "seconds"),
    [
        pytest.param([Load(weight=100, run_ns=20 * US), Load(weight=300, run_ns=5 * MS)], 2, 1.0, id="20us:5ms=1:3"),
        pytest.param([Load(weight=300, run_ns=20 * US), Load(weight=100, run_ns=5 * MS)], 2, 0.6, id="20us:5ms=3:1"),
        pytest.param([Load(weight=100, run_ns=5 * MS), Load(weight=300, run_ns=5 * MS)], 8, 2.0, id="alike=1:3"),
        pytest.param([Load(weight=100, run_ns=500 * US), Load(weight=300, run_ns=50 * MS)], 4, 4.0, id="500us:50ms=1:3"),
        pytest.param([Load(weight=1, run_ns=2 * MS), Load(weight=100, run_ns=2 * MS)], 2, 6.0, id="1:100"),
        pytest.param(
            [
                Load(weight=100, run_ns=500 * US, functions=3, clients=30),
                Load(weight=100, run_ns=5 * MS, clients=30),
                Load(weight=200, run_ns=1 * MS, functions=2, clients=30),
            ],
            4,
            2.0,
            id="three tenants, six functions",
        ),
    ],
)
def test_cpu_shares_follow_weights(loads: list[Load], units: int, seconds: float) -> None:
    result = saturate(loads, units=units, seconds=seconds)
    total = sum(load.weight for load in loads)
    for share, load in zip(result.shares(), loads, strict=True):
        fair = load.weight / total
        assert abs(share - fair) <= 0.05 * fair + 0.002, f"{share:.3f} of the CPU for {fair:.3f}: {result}"
    assert sum(result.cpu_ns) >= 0.97 * units * seconds * 1e9, f"the node was not kept busy: {result}"
    assert result.refused == 0


def test_one_who_calls_seldom_waits_for_little() -> None:
    """One call at a time beside 256 in flight of a heavy tenant: it is next whenever a unit comes free."""
    result = saturate([Load(weight=100, run_ns=1 * MS, clients=1), Load(weight=100, run_ns=1 * MS)], units=2, seconds=1.0)
    # 1 ms to run, and before that a channel empties that was fed for the window of 2 ms ahead, and the call it runs.
    assert result.calls[0] >= 1000 // 4, result
