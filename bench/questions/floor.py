"""What this machine can do with nothing of ours in the way, and what the instrument itself costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.context import Question
from bench.programs import bare_loop, load, null_server, relay, stream
from bench.rows import Row, Spread, info

if TYPE_CHECKING:
    from bench.context import Context


def run(ctx: Context) -> list[Row]:
    payload = ctx.payload()
    seconds = ctx.pick(1.0, 0.3)
    loops = [bare_loop(payload, seconds=seconds) for _ in range(ctx.pick(5, 2))]
    rows = [info("bare handler loop", Spread.of([x["cpu_us"] for x in loops]), "µs CPU", raw={"runs": loops})]
    first, last = ctx.cpus[0], ctx.cpus[-1]
    places = {"one CPU": (first, first, first), "client apart": (first, last, last)}
    for worker in ("C", "Python"):
        for place, pins in places.items():
            runs = [
                relay(payload, duration_ms=round(seconds * 1000), pins=pins, python_worker=worker == "Python")
                for _ in range(ctx.pick(3, 1))
            ]
            for key in ("p50", "p99"):
                spread = Spread.of([x[f"{key}_us"] for x in runs])
                rows.append(info(f"relay, {worker} worker, {place}: {key}", spread, "µs", raw={"runs": runs}))
    with null_server(ctx.work / "null.sock"):
        done = load(
            ctx.work / "null.sock",
            stream(function="echo", payload=payload, connections=4, inflight=64),
            duration_ms=round(seconds * 1000),
        )
    rows.append(info("load generator against a null server", done.only.ok_per_s, "calls/s", raw=done.raw))
    rows.append(info("load generator's own cost", done.own_us_per_call, "µs CPU/call"))
    return rows


QUESTION = Question(
    name="floor",
    asks=("What do a bare handler loop, a bare relay of three processes and the load generator itself cost here?"),
    how=(
        "The loop is `dumps(handler(loads(payload)))` in one Python process, in µs of CPU. The relay is client → relay → "
        "worker → relay → client over Unix stream sockets with blocking reads and writes, one message of 100 bytes; its "
        "worker is an echo in C or a bare Python loop. The load generator runs against an echo in C that schedules "
        "nothing."
    ),
    traps=(
        "A wake-up on another CPU costs many times one on the same CPU, so the relay is measured pinned, two ways. The "
        "bare loop's figure moves by 10 % between runs: ratios use one taken beside them."
    ),
    run=run,
)
