"""`scheduler bench`: how one function does, seen from this client.

What lives here: the two loops, what they count, and how it is shown. The service itself is measured by the native load
generator (`make bench`): one Python process asks for some ten thousand calls a second and is the bottleneck from there on.
The output says so.

Closed loop: N calls in flight, each answer lets the next call go. It measures throughput; its latencies are those at full load.
Open loop (`--rate`): calls leave by the clock whatever the answers do, and a call's latency counts from the moment it was
due, so that a stall of the service or of this client is in the figures and not hidden by calls that were never made.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler.cli.common import (
    EXIT_FUNCTION_FAILED,
    EXIT_REFUSED,
    Command,
    emit_json,
    function_argument,
    note,
    shared_of,
    shared_options,
    stderr_console,
    stdout_console,
)
from scheduler.cli.payload import read_payload
from scheduler.cli.text import microseconds
from scheduler.errors import SchedulerError, Throttled

if TYPE_CHECKING:
    import trio

    from scheduler.client.aio import Client

__all__ = ["Latencies", "Tally", "bench_command"]

BUCKETS_PER_OCTAVE: Final = 32  # a bucket is 2.2 % wide
QUANTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
HISTOGRAM_ROWS_MAX: Final = 16
STEPS: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)  # buckets in one row
BAR_CHARS: Final = 34  # so that a row has 78 characters
STAGGER_S: Final = 0.25  # how often the progress bar is told


class Latencies:
    """A histogram of constant size: 32 buckets for each doubling, so a quantile is within 2.2 %. `max_us` and the mean are
    exact."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.sum_us = 0.0
        self.max_us = 0.0

    def add(self, value_us: float) -> None:
        self.counts[int(math.log2(max(value_us, 1.0)) * BUCKETS_PER_OCTAVE)] += 1
        self.count += 1
        self.sum_us += value_us
        self.max_us = max(self.max_us, value_us)

    @property
    def mean_us(self) -> float:
        return self.sum_us / self.count if self.count else 0.0

    def quantile_us(self, share: float) -> float:
        """The middle of the bucket the quantile lies in; 0 without values."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(float(2.0 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)), self.max_us)
        return 0.0

    def rows(self) -> list[tuple[float, float, int]]:
        """(from_us, to_us, count) of equal steps on a logarithmic scale up to the 99.5th percentile, gaps included; the last
        row has the tail, up to the maximum. At most `HISTOGRAM_ROWS_MAX` rows and the tail's."""
        if not self.counts:
            return []
        low = min(self.counts)
        high = int(math.log2(max(self.quantile_us(0.995), 1.0)) * BUCKETS_PER_OCTAVE)
        step = next(width for width in STEPS if high // width - low // width < HISTOGRAM_ROWS_MAX)
        merged: Counter[int] = Counter()
        for bucket, count in self.counts.items():
            merged[min(bucket // step, high // step + 1)] += count
        edges = [2.0 ** (index * step / BUCKETS_PER_OCTAVE) for index in range(low // step, high // step + 2)]
        rows = [(edges[i], edges[i + 1], merged[low // step + i]) for i in range(len(edges) - 1)]
        tail = merged[high // step + 1]
        return [*rows, (edges[-1], self.max_us, tail)] if tail else rows


@dataclass(slots=True)
class Tally:
    """What one run counted."""

    latencies: Latencies = field(default_factory=Latencies)
    errors: Counter[str] = field(default_factory=Counter)  # by type
    throttles: Counter[str] = field(default_factory=Counter)  # by account and resource
    unsent: int = 0  # open loop: due, but the run ended first
    elapsed_s: float = 0.0
    code: int = 0

    @property
    def calls(self) -> int:
        return self.latencies.count + sum(self.errors.values())

    def failed(self, error: SchedulerError) -> None:
        self.errors[error.type] += 1
        if isinstance(error, Throttled):
            self.throttles[f"{error.account or '?'} {error.resource or '?'}"] += 1
        self.code = max(self.code, error.exit_code) if self.code != EXIT_FUNCTION_FAILED else self.code

    def as_map(self) -> dict[str, Any]:
        took = self.latencies
        return {
            "calls": self.calls,
            "ok": took.count,
            "elapsed_s": round(self.elapsed_s, 6),
            "ok_per_s": round(took.count / self.elapsed_s, 1) if self.elapsed_s else 0.0,
            "latency_us": {
                "mean": round(took.mean_us, 2),
                **{name: round(took.quantile_us(share), 2) for name, share in QUANTILES},
                "max": round(took.max_us, 2),
            },
            "histogram": [{"from_us": low, "to_us": high, "count": count} for low, high, count in took.rows()],
            "errors": dict(self.errors),
            "throttles": dict(self.throttles),
            "unsent": self.unsent,
        }


async def _one(client: Client, name: str, payload: bytes, since: float, tally: Tally) -> None:
    try:
        await client.invoke(name, payload)
    except SchedulerError as error:
        tally.failed(error)
        if client.broken:
            raise
    else:
        tally.latencies.add((time.perf_counter() - since) * 1e6)


async def closed_loop(
    client: Client, name: str, payload: bytes, tally: Tally, *, in_flight: int, end: float, calls: int | None
) -> None:
    """`in_flight` tasks, each one call after the other, until `end` (perf_counter) or until `calls` were begun."""
    import trio

    left = calls if calls is not None else sys.maxsize

    async def one_after_the_other() -> None:
        nonlocal left
        while left > 0 and (begun := time.perf_counter()) < end:
            left -= 1
            await _one(client, name, payload, begun, tally)

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(one_after_the_other)


async def open_loop(
    client: Client,
    name: str,
    payload: bytes,
    tally: Tally,
    *,
    rate: float,
    end: float,
    calls: int | None,
    nursery: trio.Nursery,
) -> None:
    """Calls leave at `rate` a second by the clock until `end` or until `calls` have left; the nursery holds those in flight."""
    import trio

    start = time.perf_counter()
    due_all = math.ceil((end - start) * rate) if calls is None else calls
    for number in range(due_all):
        due = start + number / rate
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            await trio.sleep(wait_s)
        elif number % 64 == 0:
            await trio.lowlevel.checkpoint()  # behind the clock: still let answers in
        nursery.start_soon(_one, client, name, payload, due, tally)


@click.command(
    "bench",
    cls=Command,
    short_help="Measure one function from this client.",
    examples=(
        ("64 calls in flight for 5 seconds", "scheduler bench hello"),
        ("latency of one caller", "scheduler bench hello --in-flight 1 --calls 1000"),
        ("2,000 calls a second by the clock, whatever the answers do", "scheduler bench hello --rate 2000 --duration 10"),
        ("an event of one's own", "scheduler bench hello --payload @event.json"),
    ),
)
@function_argument
@click.option("--payload", metavar="JSON|-|@FILE", help="The event; {} if none is given.")
@click.option(
    "-n",
    "--in-flight",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Calls in flight at once [64]; --rate: at most [10000].",
)
@click.option(
    "-d", "--duration", type=click.FloatRange(0.01, 3600), default=5.0, show_default=True, metavar="S", help="Seconds."
)
@click.option("-c", "--calls", type=click.IntRange(1), metavar="N", help="End after this many calls.")
@click.option("-r", "--rate", type=click.FloatRange(0.1, 1e6), metavar="R", help="Open loop: calls per second by the clock.")
@shared_options
@click.pass_context
def bench_command(
    context: click.Context,
    name: str,
    payload: str | None,
    in_flight: int | None,
    duration: float,
    calls: int | None,
    rate: float | None,
) -> None:
    """Measure one function from this client: throughput, latencies, throttles by reason.

    Closed loop, or an open one with --rate: then a call's latency counts from the moment it was due. All calls go over one
    connection of one Python process, which soon is the bottleneck itself: this shows how a function does; the service is
    measured by the native load generator (make bench).
    """
    import trio

    shared = shared_of(context)
    shared.name = name
    data = read_payload(payload)
    slots = in_flight or (64 if rate is None else 10_000)
    target = shared.target()
    tally = trio.run(_measure, target, shared.access(target), name, data, slots, duration, calls, rate)
    if shared.as_json:
        kind = "closed" if rate is None else "open"
        emit_json({"function": name, "loop": kind, "in_flight": slots, "rate": rate, **tally.as_map()})
    else:
        _show(name, tally, slots, rate)
    if tally.latencies.count == 0:
        context.exit(tally.code or EXIT_REFUSED)


async def _measure(
    target: str,
    access: dict[str, Any],
    name: str,
    payload: bytes,
    slots: int,
    duration_s: float,
    calls: int | None,
    rate: float | None,
) -> Tally:
    import trio

    from scheduler.client.aio import open_client

    tally = Tally()
    async with open_client(target, **access, in_flight_max=slots) as client:
        await client.invoke(name, payload)  # a function that fails ends it here; and the first cold start is not measured
        start = time.perf_counter()
        end = start + duration_s
        async with trio.open_nursery() as progress:
            progress.start_soon(_bar, tally, start, end, calls)
            if rate is None:
                await closed_loop(client, name, payload, tally, in_flight=slots, end=end, calls=calls)
            else:
                async with trio.open_nursery() as flights:
                    await open_loop(client, name, payload, tally, rate=rate, end=end, calls=calls, nursery=flights)
            tally.elapsed_s = time.perf_counter() - start
            progress.cancel_scope.cancel()
    return tally


async def _bar(tally: Tally, start: float, end: float, calls: int | None) -> None:
    """A progress bar on stderr; nothing where that is no terminal."""
    import trio
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[told]}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
    with Progress(*columns, console=stderr_console(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("run", total=1.0, told="")
        while True:
            await trio.sleep(STAGGER_S)
            now = time.perf_counter()
            done = tally.calls / calls if calls else (now - start) / (end - start)
            told = f"{tally.latencies.count / (now - start):,.0f} ok/s"
            progress.update(task, completed=min(done, 1.0), told=told)


def _show(name: str, tally: Tally, slots: int, rate: float | None) -> None:
    from rich.table import Table

    took = tally.latencies
    loop = f"closed loop, {slots} in flight" if rate is None else f"open loop, {rate:,.0f} calls due per second"
    console = stdout_console()
    console.print(f"{name}: {loop}, {tally.elapsed_s:.2f} s", markup=False, style="bold")
    per_s = took.count / tally.elapsed_s if tally.elapsed_s else 0.0
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("  answered", f"{took.count:,}", f"{per_s:,.0f} per second")
    for kind, count in tally.errors.most_common():
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in tally.throttles.most_common()) if kind == "Throttled" else ""
        table.add_row(f"  {kind}", f"{count:,}", reasons)
    console.print(table, markup=False)
    if not took.count:
        return
    quantiles = [(label, took.quantile_us(share)) for label, share in QUANTILES]
    times = Table(box=None, pad_edge=False, header_style="bold")
    times.add_column("  latency")
    for label, _ in (("mean", 0), *quantiles, ("max", 0)):
        times.add_column(label, justify="right")
    times.add_row("", *(microseconds(value_us) for _, value_us in (("", took.mean_us), *quantiles, ("", took.max_us))))
    console.print(times)
    console.print()
    rows = took.rows()
    most = max(count for _, _, count in rows)
    for low_us, high_us, count in rows:
        bar = "█" * round(BAR_CHARS * count / most) or ("▏" if count else "")
        left = f"{microseconds(low_us):>8} – {microseconds(high_us):<8}"
        console.print(f"  {left} {bar:<{BAR_CHARS}} {count:>10,}  {100 * count / took.count:5.1f} %", markup=False)
    note(
        "\nSeen from one Python client over one connection, which shares the CPUs\n"
        "and soon is the bottleneck. What measures the service: make bench"
    )
