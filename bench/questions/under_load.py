"""Latency at half and at four fifths of what goes through at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, stream
from bench.rows import Row, Spread, info

if TYPE_CHECKING:
    from bench.context import Context
    from bench.programs import Stream


def run(ctx: Context) -> list[Row]:
    payload = ctx.payload()
    rows = []
    with ctx.service() as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=payload)
        peaks: list[float] = []
        runs: dict[int, list[Stream]] = {50: [], 80: []}
        for _ in range(ctx.pick(3, 1)):
            closed = stream(function="echo", payload=payload, connections=4, inflight=64)
            peaks.append(load(service.socket, closed, duration_ms=ctx.pick(1500, 700)).only.ok_per_s)
            for percent, results in runs.items():
                spec = stream(
                    function="echo",
                    payload=payload,
                    connections=8,
                    mode="open",
                    arrival="poisson",
                    rate=round(peaks[-1] * percent / 100),
                )
                results.append(load(service.socket, spec, duration_ms=ctx.pick(3000, 1000)).only)
                at = results[-1]
                ctx.say(
                    f"{percent} %: {at.ok_per_s:,.0f}/s, p50 {at.latency.p50:.0f}, p99 {at.latency.p99:.0f} µs, late {at.late}"
                )
    for percent, results in runs.items():
        failed = sum(x.failed + x.unsent + x.unanswered for x in results)
        note = (
            f"{results[-1].offered_per_s:,.0f}/s offered, {failed} refused or lost, generator late p99 "
            f"{results[-1].lateness.p99:.0f} µs"
        )
        rows += [
            info(
                f"open loop at {percent} % of the peak: {key}",
                Spread.of([getattr(x.latency, key) for x in results]),
                "µs",
                notes=note,
            )
            for key in ("p50", "p99", "p999")
        ]
    return rows


QUESTION = Question(
    name="under_load",
    asks=("How long do calls take at 50 % and 80 % of the highest throughput?"),
    how=(
        "The peak is taken by a closed loop with 256 in flight. Then calls arrive at random (Poisson) at that share of it "
        "over 8 connections, and latency counts from when a call was due, whether or not it could be sent."
    ),
    traps=(
        "The generator shares the CPUs: how late it sent is in the notes and is part of the latency. The peak under a "
        "closed loop is reached with larger batches than an open loop gives, so 80 % of it may be more than 80 % of what "
        "is left."
    ),
    run=run,
)
