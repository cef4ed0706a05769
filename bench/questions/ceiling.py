"""The core's and the reactor's own ceiling: sandboxes in C, no launcher, no handler."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench import processes
from bench.context import Question
from bench.programs import build, load, relay, stream
from bench.rows import Row, Spread, at_least, at_most, info

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.context import Context

CALLS_PER_S = 400_000
P50_RATIO, P99_RATIO = 1.35, 2.5


@contextmanager
def engine(socket: Path, *, sandboxes: int = 2, cpus: set[int] | None = None, api: str | None = None) -> Iterator[int]:
    """The bare engine with C sandboxes; gives its process id. api: they speak the Runtime API, in one of the harness's ways."""
    programs = ("echo_worker",) if api is None else ("api_worker", "api_extension")
    for program in programs:
        build(program)
    command = [sys.executable, "-m", "bench.harness", "--socket", str(socket), "--sandboxes", str(sandboxes)]
    if api is not None:
        command += ["--api", api]
    if cpus is not None:
        command = ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the engine's harness did not start")
        yield process.pid
    finally:
        process.communicate()


def throughput(ctx: Context) -> list[Row]:
    runs = []
    with engine(ctx.work / "ceiling.sock") as pid:
        spec = stream(function="echo", payload=ctx.payload(), connections=4, inflight=64)
        load(ctx.work / "ceiling.sock", spec, warmup_ms=0, duration_ms=500)
        for _ in range(ctx.pick(4, 2)):
            before = processes.cpu_ns(pid)
            done = load(ctx.work / "ceiling.sock", spec, warmup_ms=0, duration_ms=ctx.pick(2000, 700))
            used = processes.cpu_ns(pid) - before
            calls = done.only.ok + done.only.failed
            runs.append(
                {
                    "per_s": done.only.ok_per_s,
                    "engine_us": used / max(1, calls) / 1000,
                    "failed": done.only.failed,
                    "mismatched": done.only.mismatched,
                    "client_us": done.own_us_per_call,
                }
            )
            ctx.say(f"{runs[-1]['per_s']:,.0f}/s, engine {runs[-1]['engine_us']:.2f} µs")
    wrong = sum(x["failed"] + x["mismatched"] for x in runs)
    return [
        at_least(
            "C echo worker, 256 in flight",
            Spread.of([x["per_s"] for x in runs]),
            "calls/s",
            CALLS_PER_S,
            notes=f"2 sandboxes in C, engine alone{f'; {wrong} WRONG' if wrong else ''}",
            raw={"runs": runs},
        ),
        info("C echo worker: engine CPU", Spread.of([x["engine_us"] for x in runs]), "µs CPU/call"),
    ]


def one_client(ctx: Context) -> list[Row]:
    """The same machine with the same C worker, relayed barely or scheduled: what the core adds to four hops."""
    rows = []
    first, last = ctx.cpus[0], ctx.cpus[-1]
    for place, client, server in (("one CPU", first, first), ("client apart", first, last)):
        floor, ours = [], []
        with engine(ctx.work / "ceiling.sock", sandboxes=1, cpus={server}):
            spec = stream(function="echo", payload=ctx.payload())
            load(ctx.work / "ceiling.sock", spec, duration_ms=300, pin=client)
            for _ in range(ctx.pick(4, 2)):
                floor.append(relay(ctx.payload(), duration_ms=ctx.pick(700, 300), pins=(client, server, server)))
                ours.append(load(ctx.work / "ceiling.sock", spec, duration_ms=ctx.pick(700, 300), pin=client).only.latency)
        for key, limit in (("p50", P50_RATIO), ("p99", P99_RATIO)):
            base = Spread.of([x[f"{key}_us"] for x in floor])
            spread = Spread.of([getattr(x, key) for x in ours])
            ratio = spread.median / base.median
            rows.append(
                at_most(
                    f"one client, C worker, {place}: {key} ÷ bare relay with a C worker",
                    ratio,
                    "×",
                    limit,
                    ratio=ratio,
                    notes=f"{spread.median:.1f} µs against {base.median:.1f} µs",
                    raw={"ours": [spread.low, spread.median, spread.high], "relay": [base.low, base.median, base.high]},
                )
            )
    return rows


def run(ctx: Context) -> list[Row]:
    return throughput(ctx) + one_client(ctx)


QUESTION = Question(
    name="ceiling",
    asks=("How fast are the core and the reactor when the sandboxes cost almost nothing?"),
    how=(
        "The service's engine, unchanged, driven by a small harness: two sandboxes in C that keep every rule of the "
        "channel and echo. 4 connections with 64 calls in flight each; then one client with one call, against the relay "
        "in C, alternating."
    ),
    traps=(
        "Client, engine and two workers share the CPUs, so the engine has less than half of the machine. In the one- "
        "client runs everything is pinned as the relay is."
    ),
    run=run,
)
