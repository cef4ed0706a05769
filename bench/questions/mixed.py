"""Large payloads of one caller beside small ones of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, null_server, start_load, stream
from bench.rows import Row, Spread, at_most, info

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Context
    from bench.service import Service

ADDED_MS = 5.0
LARGE_BYTES = 6_000_000
SMALL_PER_S = 1000


def _small(ctx: Context, service: Service, beside: Path | None, function: str) -> tuple[float, float, float]:
    """p50 and p99 in ms of small calls, and large ones per second, while large ones run against the socket `beside`."""
    duration = ctx.pick(3000, 1200)
    running = None
    if beside is not None:
        large = stream(function=function, payload=LARGE_BYTES, connections=1, inflight=1)
        running = start_load(beside, [large], warmup_ms=0, duration_ms=duration + 600)
    try:
        small = stream(function="echo", payload=ctx.payload(), mode="open", rate=SMALL_PER_S)
        done = load(service.socket, small, warmup_ms=300, duration_ms=duration).only
        other = running.result().only if running else None
    finally:
        if running:
            running.stop()
    if done.failed or done.mismatched or (other and (other.failed or other.mismatched)):
        raise RuntimeError(f"wrong answers: {done.errors} {other and other.errors}")
    return done.latency.p50 / 1000, done.latency.p99 / 1000, other.ok_per_s if other else 0.0


def run(ctx: Context) -> list[Row]:
    with ctx.service() as service, null_server(ctx.work / "beside.sock"):
        service.deploy("echo")
        service.deploy("large", memory_mb=512)
        warm_up(service, "echo", payload=ctx.payload(), connections=1, inflight=2, seconds=0.4)
        cases: dict[str, tuple[Path | None, list[tuple[float, float, float]]]] = {
            "alone": (None, []),
            "through the service": (service.socket, []),
            "past the service": (ctx.work / "beside.sock", []),
        }
        for _ in range(ctx.pick(3, 1)):
            for name, (beside, results) in cases.items():
                results.append(_small(ctx, service, beside, "large"))
                ctx.say(f"{name}: p50 {results[-1][0]:.2f} ms, p99 {results[-1][1]:.2f} ms, large {results[-1][2]:.0f}/s")
    p99 = {name: Spread.of([x[1] for x in results]) for name, (_, results) in cases.items()}
    large = {name: Spread.of([x[2] for x in results]).median for name, (_, results) in cases.items()}
    return [
        at_most(
            "6 MB calls on another connection: p99 added to small ones",
            p99["through the service"].median - p99["alone"].median,
            "ms",
            ADDED_MS,
            notes=f"alone {p99['alone'].median:.2f} ms, beside {large['through the service']:.0f} large calls/s "
            f"{p99['through the service'].median:.2f} ms",
            raw={name: results for name, (_, results) in cases.items()},
        ),
        info(
            "the same, the large ones going past the service",
            p99["past the service"].median - p99["alone"].median,
            "ms",
            notes=f"{large['past the service']:.0f} calls/s of 6 MB to a null server: what the CPU time alone does",
        ),
    ]


QUESTION = Question(
    name="mixed",
    asks=("Do 6 MB payloads delay small calls of other connections?"),
    how=(
        "1,000 small calls a second by the clock, alone; beside a caller that echoes 6 MB again and again through the "
        "service; and beside one that sends the same to a server of its own, which takes the CPU but not the service."
    ),
    traps=(
        "The large caller, the copy in the kernel and the JSON of 6 MB take CPU time from the small ones; hence the third case."
    ),
    run=run,
)
