"""What a call costs the service that a runtime asks for over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import processes
from bench.context import Question
from bench.programs import load, stream
from bench.questions.ceiling import engine
from bench.rows import Row, Spread, at_most

if TYPE_CHECKING:
    from bench.context import Context

SERVICE_US = 12
EXTENSION_MS = 0.3


def rounds(ctx: Context, api: str | None) -> list[dict[str, float]]:
    runs = []
    socket = ctx.work / "runtime-api.sock"
    with engine(socket, api=api) as pid:
        spec = stream(function="echo", payload=ctx.payload(), connections=4, inflight=4)
        load(socket, spec, warmup_ms=0, duration_ms=400)
        for _ in range(ctx.pick(4, 2)):
            before = processes.cpu_ns(pid)
            done = load(socket, spec, warmup_ms=0, duration_ms=ctx.pick(1500, 600))
            used = processes.cpu_ns(pid) - before
            calls = done.only.ok + done.only.failed
            runs.append(
                {
                    "per_s": done.only.ok_per_s,
                    "service_us": used / max(1, calls) / 1000,
                    "p50_us": done.only.latency.p50,
                    "wrong": done.only.failed + done.only.mismatched,
                }
            )
            ctx.say(f"{api or 'channel'}: {runs[-1]['per_s']:,.0f}/s, service {runs[-1]['service_us']:.2f} µs")
    return runs


def extension_tax(ctx: Context) -> Row:
    """One client, one call at a time, one sandbox: with an extension that wants INVOKE, and without, alternating."""
    p50_us: dict[str, list[float]] = {"apart": [], "extension": []}
    spec = stream(function="echo", payload=ctx.payload(), connections=1, inflight=1)
    for _ in range(ctx.pick(5, 2)):
        for api, found in p50_us.items():
            socket = ctx.work / "runtime-api.sock"
            with engine(socket, sandboxes=1, api=api):
                load(socket, spec, warmup_ms=0, duration_ms=200)
                found.append(load(socket, spec, warmup_ms=0, duration_ms=ctx.pick(700, 300)).only.latency.p50)
    with_it, without = (Spread.of(p50_us[api]) for api in ("extension", "apart"))
    return at_most(
        "Runtime API, an extension that wants INVOKE: what a warm call takes more",
        max(0.0, with_it.median - without.median) / 1000,
        "ms",
        EXTENSION_MS,
        notes=f"p50 {with_it.median:.1f} µs with, {without.median:.1f} µs without; C client, C extension, one call at a time",
        raw=p50_us,
    )


def run(ctx: Context) -> list[Row]:
    apart, together, channel = (rounds(ctx, api) for api in ("apart", "together", None))
    wrong = sum(x["wrong"] for x in (*apart, *together, *channel))

    def spread(runs: list[dict[str, float]], key: str) -> Spread:
        return Spread.of([x[key] for x in runs])

    return [
        at_most(
            "Runtime API, C client: service CPU of a round",
            spread(apart, "service_us"),
            "µs CPU/call",
            SERVICE_US,
            notes=(
                f"next, event, response, 202, each apart; 2 sandboxes, {spread(apart, 'per_s').median:,.0f} calls/s; over the "
                f"channel {spread(channel, 'service_us').median:.2f} µs{f'; {wrong:.0f} WRONG' if wrong else ''}"
            ),
            raw={"apart": apart, "together": together, "channel": channel},
        ),
        at_most(
            "Runtime API, C client that sends response and next together: service CPU of a round",
            spread(together, "service_us"),
            "µs CPU/call",
            SERVICE_US,
            notes="as our own clients of Python and Node do",
        ),
        extension_tax(ctx),
    ]


QUESTION = Question(
    name="runtime_api",
    asks=("What does a call cost the service that a runtime asks for over HTTP?"),
    how=(
        "The service's engine, unchanged, driven by the harness of `ceiling`, with two runtimes in C that speak the Runtime "
        "API over loopback TCP and echo: `next`, the event, `response`, the 202. 4 connections with 4 calls in flight each. "
        "CPU of the whole process, divided by calls. Once more with a client that sends a response and the next request in "
        "one piece. Then one client with one call at a time and one sandbox, with an extension in C that wants INVOKE and does "
        "nothing about it, and without, alternating: the call that follows waits for the extension."
    ),
    traps=(
        "Most of what is counted is the kernel's TCP: a send over loopback does the receiver's work too. The sandboxes share "
        "the host's network namespace here."
    ),
    run=run,
)
