"""A quiet tenant beside a storm: one call every millisecond while another connection's calls are refused or wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, start_load, stream
from bench.rows import Row, Spread, at_most, info

if TYPE_CHECKING:
    from bench.context import Context
    from bench.service import Service

P99_MS = 5.0
STORM_PER_S = 200_000


def _probe(ctx: Context, service: Service, storm: str | None) -> tuple[float, dict[str, float]]:
    duration = ctx.pick(4000, 1200)
    running = None
    if storm is not None:
        spec = stream(
            function=storm, mode="open", rate=STORM_PER_S, connections=1, check="none", payload=ctx.event('{"sleep_ms": 5}')
        )
        running = start_load(service.socket, [spec], warmup_ms=0, duration_ms=duration + 600, drain_ms=1500)
    try:
        probe = load(
            service.socket,
            stream(function="echo", mode="open", rate=1000, payload=ctx.payload()),
            warmup_ms=300,
            duration_ms=duration,
        ).only
        other = running.result().only if running else None
    finally:
        if running:
            running.stop()
    if probe.failed or probe.mismatched:
        raise RuntimeError(f"the quiet caller was refused or answered wrongly: {probe.errors}, {probe.mismatched} wrong")
    seen = {} if other is None else {"refused_per_s": other.failed_per_s, "ok_per_s": other.ok_per_s, "late": other.late}
    return probe.latency.p99 / 1000, {**seen, "p50_us": probe.latency.p50, "max_us": probe.latency.max}


def run(ctx: Context) -> list[Row]:
    with ctx.service() as service:
        service.deploy("echo")
        service.deploy("refused", "work", reserved_concurrency=0)
        service.deploy("queued", "work", reserved_concurrency=2)
        warm_up(service, "echo", payload=ctx.payload(), connections=1, inflight=4, seconds=0.4)
        found: dict[str | None, list[tuple[float, dict[str, float]]]] = {None: [], "refused": [], "queued": []}
        for _ in range(ctx.pick(2, 1)):
            for storm, results in found.items():
                results.append(_probe(ctx, service, storm))
                ctx.say(f"{storm or 'alone'}: p99 {results[-1][0]:.2f} ms {results[-1][1]}")
    alone = Spread.of([x[0] for x in found[None]])
    rows = [info("one call a ms, alone: p99", alone, "ms")]
    for storm, text in (("refused", "refused"), ("queued", "queued for a busy function or refused")):
        results = found[storm]
        spread = Spread.of([x[0] for x in results])
        rate = results[0][1]["refused_per_s"] + results[0][1]["ok_per_s"]
        rows.append(
            at_most(
                f"one call a ms while {STORM_PER_S // 1000}k/s are {text}: p99",
                spread,
                "ms",
                P99_MS,
                ratio=spread.median / alone.median,
                notes=f"the storm was answered {rate:,.0f} times a second",
                raw={"runs": [x[1] for x in results]},
            )
        )
    return rows


QUESTION = Question(
    name="crossfire",
    asks=("Does a flood of one caller's calls delay another caller's single ones?"),
    how=(
        "A probe sends one call every millisecond by the clock while a second process sends 200,000 a second on a "
        "connection of its own, to a function with reserved concurrency 0 (each is refused), then to one with 2 and a run "
        "time of 5 ms (its queue is full all the time). Latency counts from when the call was due."
    ),
    traps=("The storm's generator takes CPU time too; two processes, so that its batches do not delay the probe's sends."),
    run=run,
)
