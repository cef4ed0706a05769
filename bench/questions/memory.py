"""What an idle sandbox costs in memory, and whether the service grows with the calls it has served."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, stream
from bench.rows import Row, at_most, info

if TYPE_CHECKING:
    from bench.context import Context
    from bench.service import Service

IDLE_MB = 6.0
GROWTH_MB = 1.0


def _hold(service: Service, count: int) -> None:
    """Makes `count` sandboxes by as many calls at once, each long enough for all of them to overlap."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda _: service.client.invoke("idle", b'{"sleep_ms": 1500}', timeout_s=60), range(count)))


def _settled(service: Service) -> int:
    """PSS of the whole tree once it stands still: shells are made behind a call's back."""
    last = service.tree_pss_kb()
    for _ in range(40):
        time.sleep(0.25)
        now = service.tree_pss_kb()
        if abs(now - last) < 64:
            return now
        last = now
    return last


def _idle(ctx: Context) -> list[Row]:
    few, many = 2, ctx.pick(32, 12)
    with ctx.service() as service:
        service.deploy("idle", "work")
        empty = _settled(service)
        _hold(service, few)
        low, low_count = _settled(service), _count(service)
        _hold(service, many)
        high, high_count = _settled(service), _count(service)
    each = (high - low) / (high_count - low_count) / 1024
    return [
        at_most(
            "memory (PSS) added by an idle sandbox",
            each,
            "MB",
            IDLE_MB,
            notes=f"whole tree: {empty / 1024:.1f} MB without one, {low / 1024:.1f} with {low_count}, "
            f"{high / 1024:.1f} with {high_count}",
        ),
        info("memory (PSS) of service, launcher and waiting shells", empty / 1024, "MB"),
    ]


def _count(service: Service) -> int:
    return sum(service.stats("idle").sandboxes.get(state, 0) for state in ("idle", "busy"))


def _growth(ctx: Context) -> list[Row]:
    first, last = ctx.pick((1_000_000, 10_000_000), (100_000, 500_000))
    with ctx.service() as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=ctx.payload())
        spec = stream(function="echo", payload=ctx.payload(), connections=4, inflight=64)
        sizes = {}
        done = 0
        for target in (first, last):
            run = load(service.socket, spec, warmup_ms=0, count=target - done)
            done = target
            sizes[target] = service.rss_kb() / 1024
            ctx.say(f"after {target:,} calls: {sizes[target]:.2f} MB, {run.only.ok_per_s:,.0f}/s, failed {run.only.failed}")
    return [
        at_most(
            f"service RSS after {last:,} calls against after {first:,}",
            sizes[last] - sizes[first],
            "MB",
            GROWTH_MB,
            notes=f"{sizes[first]:.2f} MB, then {sizes[last]:.2f} MB",
        ),
        info("throughput over those calls", run.only.ok_per_s, "calls/s"),
    ]


def run(ctx: Context) -> list[Row]:
    return _idle(ctx) + _growth(ctx)


QUESTION = Question(
    name="memory",
    asks=("What does an idle sandbox hold, and does the service grow?"),
    how=(
        "Proportional set size of service, launcher and every sandbox together, with 2 and with 32 idle sandboxes: the "
        "difference by 30. Then the service's resident memory after a million calls and after ten million."
    ),
    traps=(
        "Pages shared with the fork server count for a share of each; only the slope tells what one more costs. RSS is "
        "read when the load has stopped."
    ),
    run=run,
)
