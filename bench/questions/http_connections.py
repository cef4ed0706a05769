"""Ten thousand HTTP connections that have spoken once and stay."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from bench.context import Question, in_turns, noise_of, ratio_of_medians
from bench.rows import Row, Spread, at_least, at_most
from bench.web import held, http_load, serving

if TYPE_CHECKING:
    from bench.context import Context

CONNECTIONS = 10_000
MEMORY_MB = 200.0
DESCRIPTORS_SPARE = 512


def _raise_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        raise RuntimeError(f"{wanted} descriptors are needed, the system allows {hard}: raise `ulimit -Hn`") from None


def run(ctx: Context) -> list[Row]:
    wanted = ctx.pick(CONNECTIONS, 2000)
    _raise_limit(wanted + DESCRIPTORS_SPARE)
    first, last = ctx.cpus[0], ctx.cpus[-1]
    payload, duration = ctx.payload(), ctx.pick(800, 500)
    without, beside, memory, grown = [], [], [], []
    lost = 0
    with serving(ctx, cpus={last}) as ours:
        ours.service.deploy("echo")
        what = ours.request(ctx.work, "echo", payload)
        http_load(ours.port, what, expect=payload, duration_ms=500, pin=first)

        def p99() -> float:
            return float(http_load(ours.port, what, expect=payload, duration_ms=duration, pin=first)["p99_us"])

        empty = ours.service.rss_kb() / 1024
        for turn in range(ctx.pick(5, 2)):
            for side in in_turns(turn, "without", "beside"):
                if side == "without":
                    without.append(p99())
                    continue
                with held(ours.port, what, wanted) as end:
                    beside.append(p99())
                    memory.append(ours.service.rss_kb() / 1024)
                    grown.append((memory[-1] - empty) * 1024 / wanted)
                lost = max(lost, end["cut"] + end["refused"])
            ctx.say(
                f"p99 {without[-1]:.1f} µs, beside {wanted} connections {beside[-1]:.1f} µs; "
                f"RSS {memory[-1]:.1f} MB, {lost} lost"
            )
    return [
        at_least(
            f"{wanted:,} idle HTTP connections: held",
            wanted - lost,
            "connections",
            wanted,
            notes="each has made one call and then says nothing",
        ),
        at_most(
            f"{wanted:,} idle HTTP connections: memory of the service",
            max(memory),
            "MB",
            MEMORY_MB,
            notes=f"its whole RSS, {empty:.1f} MB without them; {max(grown):.2f} KB a connection without the kernel's part",
            raw={"memory_mb": memory},
        ),
        at_most(
            f"{wanted:,} idle HTTP connections: warm p99 beside them ÷ without",
            ratio_of_medians(beside, without),
            "×",
            round(noise_of(without), 2),
            notes=f"{Spread.of(beside).median:.1f} µs against {Spread.of(without).median:.1f} µs; the target is what the turns "
            "without them differ by, 30 % at least",
            raw={"beside_us": beside, "without_us": without},
        ),
    ]


QUESTION = Question(
    name="http_connections",
    asks="What do ten thousand idle HTTP connections cost?",
    how=(
        "Each connection makes one call and then stays silent, as a client's pool of connections does; another client calls "
        "one call after the other, beside them and without them, in turns, its process on one CPU and the service on another."
        " Memory is the whole RSS of the service."
    ),
    traps=(
        "The p99 of one client is made by wake-ups; it moves between turns by itself, and how much stands beside the figure. "
        "Client and connections share one address, so there are 28,000 ports for all of it."
    ),
    run=run,
)
