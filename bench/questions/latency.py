"""One client, one call at a time, against the least that three processes can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, relay, stream
from bench.rows import Row, Spread, at_most, info

if TYPE_CHECKING:
    from bench.context import Context

P50_RATIO, P99_RATIO = 1.35, 2.5


def _pinned(ctx: Context, place: str, client: int, server: int) -> list[Row]:
    payload = ctx.payload()
    duration = ctx.pick(1000, 300)
    python, c, ours = [], [], []
    with ctx.service(cpus={server}) as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=payload, connections=1, inflight=1, seconds=0.6)
        for _ in range(ctx.pick(5, 2)):
            pins = (client, server, server)
            python.append(relay(payload, duration_ms=duration, pins=pins, python_worker=True))
            ours.append(load(service.socket, stream(function="echo", payload=payload), duration_ms=duration, pin=client).only)
            c.append(relay(payload, duration_ms=duration // 2, pins=pins))
            ctx.say(
                f"{place}: ours {ours[-1].latency.p50:.1f}/{ours[-1].latency.p99:.1f} µs, "
                f"relay {python[-1]['p50_us']:.1f}/{python[-1]['p99_us']:.1f} µs"
            )
    rows = []
    for key, limit in (("p50", P50_RATIO), ("p99", P99_RATIO)):
        spread = Spread.of([getattr(x.latency, key) for x in ours])
        base = Spread.of([x[f"{key}_us"] for x in python])
        base_c = Spread.of([x[f"{key}_us"] for x in c])
        ratio = spread.median / base.median
        rows.append(
            at_most(
                f"one client, {place}: {key} ÷ bare relay",
                ratio,
                "×",
                limit,
                ratio=ratio,
                notes=f"{spread.median:.1f} µs; relay with a Python worker {base.median:.1f} µs, with a C worker "
                f"{base_c.median:.1f} µs (that is {spread.median / base_c.median:.2f} ×)",
                raw={
                    "ours_us": [getattr(x.latency, key) for x in ours],
                    "relay_python_us": [x[f"{key}_us"] for x in python],
                    "relay_c_us": [x[f"{key}_us"] for x in c],
                },
            )
        )
    return rows


def _unpinned(ctx: Context) -> list[Row]:
    with ctx.service() as service:
        service.deploy("echo")
        warm_up(service, "echo", payload=ctx.payload(), connections=1, inflight=1, seconds=0.6)
        runs = [
            load(service.socket, stream(function="echo", payload=ctx.payload()), duration_ms=ctx.pick(1000, 300)).only
            for _ in range(ctx.pick(4, 2))
        ]
    return [
        info(f"one client, nothing pinned: {key}", Spread.of([getattr(x.latency, key) for x in runs]), "µs")
        for key in ("p50", "p99")
    ]


def run(ctx: Context) -> list[Row]:
    first, last = ctx.cpus[0], ctx.cpus[-1]
    return [
        *_pinned(ctx, "one CPU", first, first),
        *_pinned(ctx, "client apart", first, last),
        *_unpinned(ctx),
    ]


QUESTION = Question(
    name="latency",
    asks=("How long does one call take when nothing else runs, against a bare relay of three processes?"),
    how=(
        "One connection, one call at a time, 100 bytes of JSON. Service, sandboxes and client pinned to one CPU, then the "
        "client on one CPU and service and sandboxes on another; the relay is pinned in the same way and alternates with "
        "it. The verdict is against the relay whose worker is a bare Python loop; the one with a C worker is beside it."
    ),
    traps=(
        "Unpinned figures swing two- to fourfold with the kernel's placement and are shown for information. The client "
        "uses a blocking send and receive, as the relay's does."
    ),
    run=run,
)
