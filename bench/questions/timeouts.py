"""When a function's timeout fires, and whether the next call has to wait for what it leaves behind."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench.context import Question
from bench.rows import Row, Spread, at_most, info
from scheduler.client import BlockingClient
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from bench.context import Context
    from bench.service import Service

LATE_MS, LATE_SHARE = 20.0, 0.01
NEXT_MS = 50.0


def _fire(service: Service, name: str) -> tuple[float, float | None, str]:
    """Latency of a call that outruns its timeout, the run time its error reports, and the error's type. Milliseconds."""
    with BlockingClient(service.socket, timeout_s=30) as client:
        begin = time.monotonic()
        try:
            client.invoke(name, b'{"sleep_ms": 20000}', report=True)
        except SchedulerError as error:
            took = (time.monotonic() - begin) * 1000
            report = getattr(error, "report", None)
            run_us = report.get("run_us") if isinstance(report, dict) else getattr(report, "run_us", None)
            return took, None if run_us is None else run_us / 1000, error.type
    return (time.monotonic() - begin) * 1000, None, "none"


def _one_timeout(ctx: Context, service: Service, timeout_s: int, calls: int) -> list[Row]:
    name = f"slow{timeout_s}"
    service.deploy(name, "work", timeout_s=timeout_s)
    with ThreadPoolExecutor(calls) as pool:
        # Warm first: as many sandboxes as calls, each held for a moment so that none can be used twice.
        list(pool.map(lambda _: service.client.invoke(name, b'{"sleep_ms": 300}', timeout_s=30), range(calls)))
        fired = list(pool.map(lambda _: _fire(service, name), range(calls)))
    kinds = {kind for _, _, kind in fired}
    if kinds != {"Timeout"}:
        raise RuntimeError(f"{name}: expected Timeout, got {sorted(kinds)}")
    late = [took - timeout_s * 1000 for took, _, _ in fired]
    allowed = max(LATE_MS, timeout_s * 1000 * LATE_SHARE)
    early = sum(x < 0 for x in late)
    ctx.say(f"{timeout_s} s: fired {min(late):.2f} … {max(late):.2f} ms late")
    return [
        at_most(
            f"timeout of {timeout_s} s: latest of {calls} beyond T",
            max(late),
            "ms",
            allowed,
            notes=f"earliest {min(late):.2f} ms, median {Spread.of(late).median:.2f} ms, as the caller sees it",
            raw={"late_ms": late, "run_ms": [run for _, run, _ in fired]},
        ),
        at_most(f"timeout of {timeout_s} s: fired early", early, "calls", 0),
    ]


def _next_call(ctx: Context, service: Service) -> list[Row]:
    service.deploy("single", "work", timeout_s=1, reserved_concurrency=1)
    service.client.invoke("single", b"{}")
    took = []
    for _ in range(ctx.pick(8, 3)):
        _fire(service, "single")
        begin = time.monotonic()
        service.client.invoke("single", b"{}")
        took.append((time.monotonic() - begin) * 1000)
    spread = Spread.of(took)
    return [
        at_most(
            "after a timeout: the next call to that function, reserved concurrency 1",
            spread,
            "ms",
            NEXT_MS,
            notes="sent when the timeout's error has come; includes its sandbox's cold start",
            raw={"took_ms": took},
        )
    ]


def _beside(ctx: Context, service: Service) -> list[Row]:
    """While a call hangs, others of the function run elsewhere."""
    service.deploy("beside", "work", timeout_s=2)
    service.client.invoke("beside", b"{}")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(_fire, service, "beside")
        time.sleep(0.3)
        took = []
        while not hanging.done():
            begin = time.monotonic()
            service.client.invoke("beside", b"{}")
            took.append((time.monotonic() - begin) * 1000)
            time.sleep(0.02)
    return [info("while one call hangs: the slowest other call of the function", max(took), "ms", notes=f"{len(took)} calls")]


def run(ctx: Context) -> list[Row]:
    with ctx.service(shells_ahead=4) as service:
        rows = _one_timeout(ctx, service, 1, ctx.pick(30, 8))
        rows += _one_timeout(ctx, service, 3, ctx.pick(15, 4))
        rows += _next_call(ctx, service)
        rows += _beside(ctx, service)
    return rows


QUESTION = Question(
    name="timeouts",
    asks=("When do timeouts fire, and does the next call start at once?"),
    how=(
        "Calls that sleep for 20 s in warm sandboxes of a function with a timeout of 1 s, then 3 s, all at once; the time "
        "until their Timeout error is in the caller's hand. Then, with a concurrency of 1, the time of the call sent "
        "right after one."
    ),
    traps=("The callers are Python threads: their wake-ups are in the figure, which can only make it worse."),
    run=run,
)
