"""The warm path: what a call costs the service, what it costs in the sandbox above the handler, and how many go through."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bench import processes
from bench.context import Question, warm_up
from bench.programs import bare_loop, load, stream
from bench.rows import Row, Spread, at_least, at_most, info

if TYPE_CHECKING:
    from bench.context import Context
    from bench.service import Service

ENGINE_US = 2.0
TAX_US = 2.0
SHARE = 0.55
CALLS_PER_S, CALLS_BARE_US = 100_000, 7.3


def measure(ctx: Context, service: Service, seconds: float) -> dict[str, Any]:
    payload = ctx.payload()
    bare = bare_loop(payload, seconds=ctx.pick(0.7, 0.3))["cpu_us"]
    before, sandboxes = service.cpu_ns(), service.sandboxes_cpu_ns("echo")
    threads = processes.threads(service.pid)
    begin = time.monotonic()
    done = load(
        service.socket,
        stream(function="echo", payload=payload, connections=4, inflight=64),
        warmup_ms=0,
        duration_ms=round(seconds * 1000),
    )
    wall = time.monotonic() - begin
    after, later = service.cpu_ns(), service.sandboxes_cpu_ns("echo")
    if set(sandboxes) - set(later):
        raise RuntimeError("sandboxes ended while they were measured: their CPU time is gone with them")
    calls = done.only.ok + done.only.failed
    worker = sum(used - sandboxes.get(pid, 0) for pid, used in later.items()) / calls / 1000
    return {
        "calls": calls,
        "failed": done.only.failed,
        "mismatched": done.only.mismatched,
        "bare_us": bare,
        "engine_us": (after - before) / calls / 1000,
        "engine_threads_us": {
            name: round((used - threads.get(name, 0)) / calls / 1000, 4)
            for name, used in processes.threads(service.pid).items()
            if used - threads.get(name, 0) > 1_000_000
        },
        "worker_us": worker,
        "tax_us": worker - bare,
        "per_s": done.only.ok_per_s,
        "share": done.only.ok_per_s / (len(ctx.cpus) / bare * 1e6),
        "p50_us": done.only.latency.p50,
        "p99_us": done.only.latency.p99,
        "client_us": done.own_us_per_call,
        "sandbox_processes": len(later),
        "wall_s": wall,
    }


def run(ctx: Context) -> list[Row]:
    with ctx.service() as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=ctx.payload(), seconds=ctx.pick(1.5, 0.6))
        runs = []
        for number in range(ctx.pick(5, 2)):
            runs.append(measure(ctx, service, ctx.pick(3.0, 1.0)))
            at = runs[-1]
            ctx.say(
                f"run {number + 1}: {at['per_s']:,.0f}/s, engine {at['engine_us']:.2f} µs, worker {at['worker_us']:.2f} µs, "
                f"bare {at['bare_us']:.2f} µs"
            )
        stats = service.stats("echo")

    def spread(key: str) -> Spread:
        return Spread.of([x[key] for x in runs])

    bare = spread("bare_us").median
    note = f"{runs[-1]['calls']:,} calls a run, {sum(stats.sandboxes.values())} sandboxes"
    if any(x["failed"] or x["mismatched"] for x in runs):
        note += f"; FAILED {sum(x['failed'] for x in runs)}, WRONG {sum(x['mismatched'] for x in runs)}"
    return [
        at_most("engine CPU per warm call", spread("engine_us"), "µs CPU", ENGINE_US, notes=note, raw={"runs": runs}),
        at_most(
            "worker's tax over the bare loop",
            spread("tax_us"),
            "µs CPU",
            TAX_US,
            ratio=spread("worker_us").median / bare,
            notes=f"worker {spread('worker_us').median:.2f} µs, bare loop {bare:.2f} µs",
        ),
        at_least("throughput ÷ (CPUs ÷ bare handler time)", spread("share"), "×", SHARE, notes="256 in flight"),
        at_least(
            "throughput",
            spread("per_s"),
            "calls/s",
            round(CALLS_PER_S * CALLS_BARE_US / bare),
            notes=f"100,000/s where the bare loop takes {CALLS_BARE_US} µs; here it takes {bare:.2f}",
        ),
        info("latency at that throughput: p50", spread("p50_us"), "µs", notes="256 in flight by design"),
        info("latency at that throughput: p99", spread("p99_us"), "µs"),
        info("load generator, same run", spread("client_us"), "µs CPU/call"),
    ]


QUESTION = Question(
    name="warm",
    asks=("What does a warm call cost, and how many a second go through?"),
    how=(
        "100 bytes of JSON echoed by a Python handler, 4 connections with 64 calls in flight each, nothing pinned. CPU "
        "time of the service's process and of the sandboxes' processes from the kernel's nanosecond counters, read before "
        "and after the run and divided by the calls answered in it. The bare loop is timed before each run."
    ),
    traps=(
        "Client, service and sandboxes share the CPUs: the client's own cost per call is in the table. CPU figures hold "
        "under noise, throughput does not. The bare loop runs alone, so it finds warmer caches than a worker beside a "
        "service."
    ),
    run=run,
)
