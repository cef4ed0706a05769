"""What connections cost that say nothing."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, start_load, stream
from bench.rows import Row, info

if TYPE_CHECKING:
    from bench.context import Context


def run(ctx: Context) -> list[Row]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(ctx.pick(8000, 2000), hard - 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, wanted + 512)), hard))
    spec = stream(function="echo", payload=ctx.payload())
    with ctx.service() as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=ctx.payload(), connections=1, inflight=1, seconds=0.4)
        before = load(service.socket, spec, duration_ms=1000).only.latency
        rss = service.rss_kb()
        idle = start_load(service.socket, [stream(mode="idle", connections=wanted)], warmup_ms=0, duration_ms=4000)
        try:
            during = load(service.socket, spec, warmup_ms=1500, duration_ms=1500).only.latency
            held = service.client.stats().loop.get("connections", 0)
            grown = service.rss_kb() - rss
            cut = idle.result().cut
        finally:
            idle.stop()
    return [
        info("memory of an idle connection", grown / max(1, held), "KB", notes=f"{held} open of {wanted}, {cut} cut"),
        info(
            f"one client's p50 beside {held} idle connections",
            during.p50,
            "µs",
            ratio=during.p50 / before.p50,
            notes=f"without them {before.p50:.1f} µs; nothing pinned",
        ),
    ]


QUESTION = Question(
    name="connections",
    asks=("What do idle connections cost?"),
    how=("Thousands of connections that never speak, and one client beside them; memory from the kernel, per connection."),
    traps=("Nothing is pinned, so the latency moves with placement."),
    run=run,
)
