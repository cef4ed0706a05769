"""Ten times more than goes through, by the clock, for half a minute; and what comes after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.context import Question, warm_up
from bench.programs import load, stream
from bench.rows import Row, at_least, at_most, info

if TYPE_CHECKING:
    from bench.context import Context

GOODPUT = 0.95
FLAT = 0.9
RECOVERY_S = 1.0
SETTLED = 1.5  # normal again: a p50 at most this many times the one before


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    event: str
    settings: dict[str, Any]
    judged: bool
    note: str


CASES = (
    Case("1 ms of waiting, concurrency 16", '{"sleep_ms": 1}', {"reserved_concurrency": 16}, True, "bound by its limit"),
    Case("1 ms of CPU", '{"cpu_us": 1000}', {}, True, "bound by the CPUs, which the generator shares"),
    Case("echo", "", {}, False, "the flood itself, and refusing it, take most of both CPUs"),
)


def _case(ctx: Context, case: Case) -> list[Row]:
    seconds = ctx.pick(30 if case.judged else 10, 4)
    payload = ctx.event(case.event) if case.event else ctx.payload()
    with ctx.service() as service:
        service.deploy("f", "work" if case.event else "echo", **case.settings)
        warm_up(service, "f", payload=payload, seconds=2.0)
        closed = stream(function="f", payload=payload, connections=4, inflight=64)
        peak = load(service.socket, closed, duration_ms=ctx.pick(3000, 1000)).only.ok_per_s
        calm = stream(name="calm", function="f", payload=payload, mode="open", rate=max(20, round(peak * 0.2)), connections=2)
        before = load(service.socket, calm, duration_ms=1500).only.latency.p50
        cpu, sandboxes, wall = service.cpu_ns(), service.sandboxes_cpu_ns("f"), time.monotonic()
        flood = stream(
            name="flood",
            function="f",
            payload=payload,
            mode="open",
            rate=round(peak * 10),
            connections=4,
            stop_ms=seconds * 1000,
        )
        after = calm + f",start_ms={seconds * 1000}"
        done = load(service.socket, flood, after, warmup_ms=0, duration_ms=(seconds + 4) * 1000, series_ms=250, drain_ms=3000)
        wall = time.monotonic() - wall
        cpu = service.cpu_ns() - cpu
        later = service.sandboxes_cpu_ns("f")
    series = done.streams["flood"].series[: seconds * 4]
    per_s = [sum(x["ok"] for x in series[i : i + 4]) for i in range(0, len(series), 4)]
    mean = sum(per_s) / len(per_s)
    recovery = _recovered(done.streams["calm"].series[seconds * 4 :], before * SETTLED)
    third = max(1, len(per_s) // 3)
    flat = sum(per_s[-third:]) / sum(per_s[:third])
    answered = done.streams["flood"].failed_per_s + done.streams["flood"].ok_per_s
    raw = {
        "peak_per_s": peak,
        "per_s": per_s,
        "errors": done.streams["flood"].errors,
        "late": done.streams["flood"].late,
        "unsent": done.streams["flood"].unsent,
        "calm_p50_before_us": before,
        "calm_series": done.streams["calm"].series[seconds * 4 :],
        "service_cpus": cpu / 1e9 / wall,
        "generator_cpus": done.own_cpu_s / wall,
        "sandbox_cpus": sum(later[pid] - sandboxes.get(pid, 0) for pid in later) / 1e9 / wall,
        "sandboxes": len(later),
    }
    ctx.say(f"{case.name}: peak {peak:,.0f}/s, flooded {mean:,.0f}/s, flat {flat:.2f}, back after {recovery:.2f} s; {per_s}")
    note = (
        f"{case.note}; {answered:,.0f} of {peak * 10:,.0f}/s answered; CPUs: service {raw['service_cpus']:.2f}, generator "
        f"{raw['generator_cpus']:.2f}, sandboxes {raw['sandbox_cpus']:.2f}"
    )
    name = f"overload ×10, {case.name}"
    if not case.judged:
        return [
            info(f"{name}: goodput ÷ peak", mean / peak, "×", ratio=mean / peak, notes=note, raw=raw),
            info(f"{name}: normal again after", recovery, "s"),
        ]
    return [
        at_least(f"{name}: goodput ÷ peak", mean / peak, "×", GOODPUT, ratio=mean / peak, notes=note, raw=raw),
        at_least(
            f"{name}: last third ÷ first third",
            flat,
            "×",
            FLAT,
            notes=f"{seconds} s, worst second {min(per_s) / peak:.2f} × peak",
        ),
        at_most(f"{name}: normal again after", recovery, "s", RECOVERY_S, notes=f"p50 back to ≤ {SETTLED} × {before:,.0f} µs"),
    ]


def _recovered(series: list[dict[str, float]], limit_us: float) -> float:
    """Seconds from the flood's end to the beginning of the first quarter of a second that is normal, as all after it are."""
    bad = [i for i, x in enumerate(series) if x["ok"] == 0 or x["p50_us"] > limit_us]
    return (bad[-1] + 1) / 4 if bad else 0.0


def run(ctx: Context) -> list[Row]:
    return [row for case in CASES for row in _case(ctx, case)]


QUESTION = Question(
    name="overload",
    asks=("Does what is done well stay the same when ten times more is asked for, and how soon is all normal after?"),
    how=(
        "The peak is taken by a closed loop with 256 in flight; then ten times as many calls are sent by the clock for 30 "
        "s, whatever the answers, and a calm load of a fifth of the peak follows at once. Goodput is answered calls a "
        "second; normal is a p50 of at most 1.5 times the one before the flood, counted in quarters of a second."
    ),
    traps=(
        "On a machine whose CPUs the generator shares, a flood of calls that cost microseconds takes the CPU time that "
        "would answer them: the echo case shows that and has no verdict. The cases with a verdict are bound by a limit, "
        "and by the CPUs with calls long enough for the flood to be cheap beside them."
    ),
    run=run,
)
