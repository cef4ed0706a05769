"""Many calls at once to a function that nobody has called yet."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import trio

from bench.context import Question
from bench.rows import Row, Spread, at_least, at_most, info
from scheduler.client import open_client

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Context

CALLS = 200
SLEEP_MS = 100
LAST_S = 1.5
SANDBOXES = 200


async def _burst(socket: Path, name: str) -> list[float]:
    """Seconds from the first call's sending to each right answer."""
    took: list[float] = []
    payload = {"sleep_ms": SLEEP_MS}
    async with open_client(socket, in_flight_max=CALLS) as client:
        await client.stats()  # it is connected
        begin = time.monotonic()

        async def call() -> None:
            done = await client.invoke(name, payload)
            if done.payload == payload:
                took.append(time.monotonic() - begin)

        async with trio.open_nursery() as nursery:
            for _ in range(CALLS):
                nursery.start_soon(call)
    return took


def run(ctx: Context) -> list[Row]:
    last: list[float] = []
    median: list[float] = []
    answered: list[int] = []
    made: list[int] = []
    tiers: list[dict[str, int]] = []
    with ctx.service(images_mb_max=1024) as service:
        names = [f"burst{number}" for number in range(ctx.pick(5, 2))]
        for name in names:
            service.deploy(name, "work", publish=True, queue_timeout_ms=10_000)
        for name in names:
            time.sleep(2.0)  # shells of the last burst are let go, those for this one are born
            took = trio.run(_burst, service.socket, name)
            stats = service.stats(name)
            last.append(max(took))
            median.append(statistics.median(took))
            answered.append(len(took))
            made.append(sum(stats.cold_starts.values()))
            tiers.append(dict(stats.cold_starts))
            ctx.say(f"{name}: {len(took)} answered, the last after {last[-1]:.2f} s, {made[-1]} sandboxes {tiers[-1]}")
    raw = {"last_s": last, "sandboxes": made, "tiers": tiers}
    return [
        at_least(
            f"burst: {CALLS} calls of {SLEEP_MS} ms to a cold published function, answered", min(answered), "calls", CALLS
        ),
        at_most(
            "burst: the last answer after",
            Spread.of(last),
            "s",
            LAST_S,
            notes=f"each a function of its own: {tiers[0]}",
            raw=raw,
        ),
        at_most("burst: sandboxes made, the most of any", max(made), "sandboxes", SANDBOXES),
        info("burst: half of the answers after", Spread.of(median), "s"),
    ]


QUESTION = Question(
    name="burst",
    asks="Two hundred calls at once to a function that has no sandbox: when is the last one answered?",
    how=(
        f"{CALLS} calls sent together over one connection; the handler sleeps {SLEEP_MS} ms. The function was deployed with "
        "`publish` and never called. Settings are the defaults, so few shells of its runtime wait when the burst comes. Each "
        "round is a function of its own. The time is that of the slowest call, from the first one's "
        "sending to its answer; the caller is one Python process."
    ),
    traps="How many sandboxes may live at once is the machine's memory: calls beyond that wait for the first to be free again.",
    run=run,
)
