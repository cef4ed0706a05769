"""Two tenants that both want everything, with weights 1 and 3 and calls of very different length."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from bench.context import Question
from bench.programs import start_load, stream
from bench.rows import Row, info, within

if TYPE_CHECKING:
    from bench.context import Context

TOLERANCE = 0.05
RUNS_US = {"short": 20, "long": 5000}


def _shares(ctx: Context, heavy: str) -> list[Row]:
    light = next(name for name in RUNS_US if name != heavy)
    seconds = ctx.pick(8, 3)
    settings: dict[str, Any] = {"concurrency_max": len(ctx.cpus), "unreserved_concurrency_min": 0}
    tenants = {light: {"weight": 100}, heavy: {"weight": 300}}
    with ctx.service(tenants=tenants, **settings) as service:
        specs = []
        for name, run_us in RUNS_US.items():
            service.deploy(name, "work", tenant=name, queue_timeout_ms=10_000)
            event = ctx.event(json.dumps({"cpu_us": run_us}))
            inflight = 512 if name == "short" else 64
            specs.append(stream(name=name, function=name, payload=event, connections=4, inflight=inflight // 4))
        running = start_load(service.socket, specs, warmup_ms=0, duration_ms=(seconds + 3) * 1000)
        try:
            time.sleep(2.0)  # both have their sandboxes and their averages by then
            begin, metered, used = time.monotonic(), _metered(service), _used(service)
            time.sleep(seconds)
            wall = time.monotonic() - begin
            metered = {name: after - metered[name] for name, after in _metered(service).items()}
            used = {name: after - used[name] for name, after in _used(service).items()}
            done = running.result()
        finally:
            running.stop()
    per_s = {name: done.streams[name].ok_per_s for name in RUNS_US}
    failed = {name: done.streams[name].errors for name in RUNS_US}
    ctx.say(f"weights {light} 1 : {heavy} 3: kernel {used}, service {metered}, calls/s {per_s}, errors {failed}")
    rows = []
    for source, seconds_by_name in (("kernel", used), ("service", metered)):
        ratio = seconds_by_name[heavy] / max(1e-9, seconds_by_name[light])
        rows.append(
            within(
                f"CPU of {heavy} (weight 3) ÷ {light} (weight 1), ÷ 3, by the {source}'s count",
                ratio / 3,
                "×",
                1 - TOLERANCE,
                1 + TOLERANCE,
                ratio=ratio,
                notes=f"{seconds_by_name[light]:.2f} s and {seconds_by_name[heavy]:.2f} s of CPU in {wall:.1f} s",
                raw={"per_s": per_s, "errors": failed, "kernel_s": used, "service_s": metered},
            )
        )
    return rows


def _metered(service: object) -> dict[str, float]:
    return {name: service.stats(name).cpu_seconds for name in RUNS_US}  # type: ignore[attr-defined]


def _used(service: object) -> dict[str, float]:
    return {name: sum(service.sandboxes_cpu_ns(name).values()) / 1e9 for name in RUNS_US}  # type: ignore[attr-defined]


def run(ctx: Context) -> list[Row]:
    rows = [row for heavy in ("long", "short") for row in _shares(ctx, heavy)]
    rows.append(info("run times", RUNS_US["long"] / RUNS_US["short"], "×", notes=f"CPU per call: {RUNS_US} µs"))
    return rows


QUESTION = Question(
    name="fairness",
    asks=("Do two saturating tenants get CPU time by their weights, however long their calls are?"),
    how=(
        "Weights 1 : 3, calls of 20 µs and of 5 ms of CPU time, both with more in flight than fits, concurrency of the "
        "node as many as it has CPUs; then with the weights the other way round. CPU time of the sandboxes' processes by "
        "the kernel's count, and by the service's own metric, over the middle of the run."
    ),
    traps=(
        "The handlers use up CPU time, not wall time: a busy wait would take less CPU when it is preempted and flatter "
        "the result. A call of 20 µs costs the runtime some µs more; that is charged to its tenant by both counts."
    ),
    run=run,
)
