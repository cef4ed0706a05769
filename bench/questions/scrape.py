"""Whether being watched costs latency."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.context import Question, warm_up
from bench.programs import load, stream
from bench.rows import Row, Spread, info

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.context import Context
    from bench.programs import Histogram
    from bench.service import Service

PER_S = 10


@contextmanager
def _scraper(service: Service, took_ms: list[float]) -> Iterator[None]:
    stop = threading.Event()

    def watch() -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            begin = time.monotonic()
            service.scrape()
            took_ms.append((time.monotonic() - begin) * 1000)
            due += 1 / PER_S

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run(ctx: Context) -> list[Row]:
    payload = ctx.payload()
    with_: list[Histogram] = []
    without: list[Histogram] = []
    took: list[float] = []
    with ctx.service() as service:
        service.deploy("echo")
        for number in range(20):  # a page of a size that a small installation has
            service.deploy(f"other{number}")
        peak = warm_up(service, "echo", payload=payload, seconds=1.4)
        spec = stream(function="echo", payload=payload, mode="open", rate=round(peak * 0.3), arrival="poisson", connections=4)
        for _ in range(ctx.pick(4, 2)):
            without.append(load(service.socket, spec, duration_ms=ctx.pick(2000, 800)).only.latency)
            with _scraper(service, took):
                with_.append(load(service.socket, spec, duration_ms=ctx.pick(2000, 800)).only.latency)
        size = len(service.scrape())
    rows = []
    for key in ("p50", "p99", "p999"):
        base = Spread.of([getattr(x, key) for x in without])
        spread = Spread.of([getattr(x, key) for x in with_])
        rows.append(
            info(
                f"warm {key} with a scrape every 100 ms",
                spread,
                "µs",
                ratio=spread.median / base.median,
                notes=f"without: {base.median:.0f} µs ({base.low:.0f} … {base.high:.0f})",
            )
        )
    rows.append(info("one scrape", Spread.of(took), "ms", notes=f"{size / 1024:.0f} KB, 21 functions"))
    return rows


QUESTION = Question(
    name="scrape",
    asks=("Does a scrape of the metrics delay calls?"),
    how=("Calls at 30 % of the peak, by the clock, with a scrape every 100 ms and without, alternating."),
    traps=("The scraper is a thread of the bench and costs CPU time of its own on the same machine."),
    run=run,
)
