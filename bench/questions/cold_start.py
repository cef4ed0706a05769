"""From a pre-warmed shell to a first answer."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from bench.context import Question
from bench.rows import Row, Spread, at_most, info

if TYPE_CHECKING:
    from bench.context import Context

P50_MS = 15.0
PAUSE_S = 0.06  # the pool makes its next shell meanwhile; a call that found none is told by its report and counted apart


def _percentile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def run(ctx: Context) -> list[Row]:
    count = ctx.pick(120, 20)
    took: dict[str, list[float]] = {}
    init: list[float] = []
    queue: list[float] = []
    with ctx.service(shells_ahead=8) as service:
        for number in range(count):
            service.deploy(f"cold{number}")
        time.sleep(1.0)
        for number in range(count):
            begin = time.monotonic()
            done = service.client.invoke(f"cold{number}", b"{}", report=True)
            ms = (time.monotonic() - begin) * 1000
            assert done.report is not None
            took.setdefault(done.report.cold or "warm", []).append(ms)
            init.append((done.report.init_us or 0) / 1000)
            queue.append(done.report.queue_us / 1000)
            time.sleep(PAUSE_S)
    tiers = Counter({tier: len(values) for tier, values in took.items()})
    shell = took.get("shell") or [ms for values in took.values() for ms in values]
    ctx.say(f"{dict(tiers)}: p50 {Spread.of(shell).median:.2f}, p99 {_percentile(shell, 0.99):.2f} ms")
    return [
        at_most(
            "cold start from a shell to the first reply: p50",
            Spread.of(shell),
            "ms",
            P50_MS,
            notes=f"by tier {dict(tiers)}; import and init p50 {Spread.of(init).median:.2f} ms of it",
            raw={"took_ms": took, "init_ms": init, "queue_ms": queue},
        ),
        info("cold start from a shell to the first reply: p90", _percentile(shell, 0.9), "ms"),
        info("cold start from a shell to the first reply: p99", _percentile(shell, 0.99), "ms"),
    ]


QUESTION = Question(
    name="cold_start",
    asks=("How long does the first call of a function take?"),
    how=(
        "A sequence of functions, each deployed and never called; one call to each, with a pause in which the pool of "
        "shells is filled again. The caller's time from send to answer; the report says which tier it came from."
    ),
    traps=("The page cache is warm and the handler imports nothing. Only calls that report the tier are in the figure."),
    run=run,
)
