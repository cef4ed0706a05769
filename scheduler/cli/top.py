"""`scheduler top`: accounts and functions at work, drawn anew every second.

Two samples of `stats` and `accounts` give one frame: rates are the difference over the time between them; queues and
sandboxes are as they are now; latencies are the service's histograms since it started.
"""

from __future__ import annotations

import select
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler.cli.common import Command, connected, emit_json, shared_of, shared_options, stdout_console
from scheduler.cli.text import counts, microseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from scheduler.client.blocking import BlockingClient
    from scheduler.client.model import Account, FunctionStats, ServiceStats

__all__ = ["Frame", "top_command"]

FAILURES: Final = ("function_error", "timeout", "sandbox_died", "init_failed")  # outcomes that are the function's own fault


@dataclass(frozen=True, slots=True)
class Row:
    """One function in one frame."""

    stats: FunctionStats
    rate: float  # calls that ended per second, since the sample before
    throttle_rate: float


@dataclass(frozen=True, slots=True)
class Frame:
    """What one drawing shows."""

    service: ServiceStats
    accounts: tuple[Account, ...]
    rows: tuple[Row, ...]
    seconds: float  # between its two samples

    @classmethod
    def between(cls, old: ServiceStats, new: ServiceStats, accounts: tuple[Account, ...], seconds: float) -> Frame:
        """Functions by rate, the busiest first; a counter that fell (redeployed) counts from zero."""
        before = {(item.name, item.version): item for item in old.functions}
        rows = []
        for item in new.functions:
            last = before.get((item.name, item.version))
            calls = item.invocations - (last.invocations if last else 0)
            throttles = _throttles(item) - (_throttles(last) if last else 0)
            rows.append(Row(item, max(calls, 0) / seconds, max(throttles, 0) / seconds))
        rows.sort(key=lambda row: (-row.rate, -row.stats.queued, row.stats.name, row.stats.version))
        return cls(new, accounts, tuple(rows), seconds)

    def as_map(self) -> dict[str, Any]:
        return {
            "uptime_s": self.service.uptime_s,
            "seconds": round(self.seconds, 3),
            "rate": round(sum(row.rate for row in self.rows), 1),
            "functions": [
                {**row.stats.raw, "rate": round(row.rate, 1), "throttle_rate": round(row.throttle_rate, 1)} for row in self.rows
            ],
            "accounts": [account.raw for account in self.accounts],
            "sandboxes": dict(self.service.sandboxes),
        }


def _throttles(stats: FunctionStats) -> int:
    return sum(stats.throttled.values())


def sample(client: BlockingClient) -> tuple[ServiceStats, tuple[Account, ...], float]:
    return client.stats(), client.accounts(), time.monotonic()


def frames(client: BlockingClient, interval_s: float, wait: Any) -> Iterator[Frame]:
    """A frame each `interval_s`; ends when `wait(seconds)` says so (True)."""
    old, _, then = sample(client)
    while not wait(interval_s):
        new, accounts, now = sample(client)
        yield Frame.between(old, new, accounts, max(now - then, 1e-6))
        old, then = new, now


# -- drawing


def draw(frame: Frame, *, height: int | None = None) -> RenderableType:
    """The whole frame; `height`: only as many functions as fit into that many lines."""
    from rich.console import Group
    from rich.text import Text

    executing = sum(row.stats.executing for row in frame.rows)
    queued = sum(row.stats.queued for row in frame.rows)
    head = Text(
        f"up {_uptime(frame.service.uptime_s)}   {sum(row.rate for row in frame.rows):,.0f} calls/s   "
        f"{executing:,} executing   {queued:,} queued   sandboxes: {counts(frame.service.sandboxes)}",
        style="bold",
    )
    tree, rows = _ordered(frame.accounts), list(frame.rows)
    parts: list[RenderableType] = [head, Text()]
    # Seven lines are the head's, the titles' and the gaps'. The accounts take half of what is left at most, functions the rest.
    room = sys.maxsize if height is None else max(4, height - 7)
    parts += _cut(_accounts_table, tree, room if height is None else min(len(tree), max(2, room // 2)))
    parts.append(Text())
    parts += _cut(_functions_table, rows, room if height is None else max(2, room - min(len(tree), max(2, room // 2))))
    return Group(*parts)


def _cut(table: Callable[[list[Any]], RenderableType], items: list[Any], most: int) -> list[RenderableType]:
    """The table of as many items as fit, and how many do not."""
    from rich.text import Text

    if len(items) <= most:
        return [table(items)]
    return [table(items[: most - 1]), Text(f"… and {len(items) - most + 1} more", style="dim")]


def _uptime(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour:02}:{minute:02}" if days else f"{hour:02}:{minute:02}:{second:02}"


def _ordered(accounts: tuple[Account, ...]) -> list[tuple[int, Account]]:
    """Depth and account, each parent before its children. One whose parent is missing counts as a root."""
    names = {account.name for account in accounts}
    children: dict[str | None, list[Account]] = {}
    for account in accounts:
        parent = account.parent if account.parent in names and account.parent != account.name else None
        children.setdefault(parent, []).append(account)
    found: list[tuple[int, Account]] = []

    def walk(parent: str | None, depth: int) -> None:
        for account in children.pop(parent, []):
            found.append((depth, account))
            walk(account.name, depth + 1)

    walk(None, 0)
    return found


def _accounts_table(tree: list[tuple[int, Account]]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ACCOUNT", overflow="ellipsis", no_wrap=True)
    for title in ("RUNNING", "PEAK", "MEMORY MB", "WAITING", "REFUSED"):
        table.add_column(title, justify="right", no_wrap=True)
    for depth, account in tree:
        uses = account.resources
        refused = {name: use.refused for name, use in uses.items()}
        peak = uses["concurrency"].peak if "concurrency" in uses else 0
        table.add_row(
            "  " * depth + account.name,
            _of(account, "concurrency"),
            f"{peak:,}",
            _of(account, "memory"),
            _of(account, "queued_calls"),
            counts(refused) if any(refused.values()) else "0",
        )
    return table


def _of(account: Account, resource: str) -> str:
    """`3 of 1,000`; the limit only where there is one."""
    use = account.resources.get(resource)
    if use is None:
        return "-"
    return f"{use.current:,}" if use.max is None else f"{use.current:,} of {use.max:,}"


def _functions_table(rows: list[Row]) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("FUNCTION", overflow="ellipsis", no_wrap=True)
    for title in ("CALLS/S", "RUN", "WAIT", "OLDEST", "P50", "P99", "THROTTLED", "FAILED", "COLD"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        stats, total = row.stats, row.stats.durations["total"]
        failed = sum(stats.outcomes.get(kind, 0) for kind in FAILURES)
        table.add_row(
            stats.name if stats.version == "$LATEST" else f"{stats.name}:{stats.version}",
            f"{row.rate:,.0f}" if row.rate >= 10 or not row.rate else f"{row.rate:.1f}",
            f"{stats.executing:,}",
            f"{stats.queued:,}",
            microseconds(stats.oldest_ms * 1000) if stats.queued else "-",
            microseconds(total.p50_us) if total.count else "-",
            microseconds(total.p99_us) if total.count else "-",
            f"{_throttles(stats):,}" + (f" (+{row.throttle_rate:,.0f}/s)" if row.throttle_rate else ""),
            f"{failed:,}",
            f"{sum(stats.cold_starts.values()):,}",
        )
    return table


# -- the command


@click.command(
    "top",
    cls=Command,
    short_help="Watch accounts and functions at work.",
    examples=(
        ("until q or Ctrl-C", "scheduler top"),
        ("one picture", "scheduler top --once"),
        ("a line of JSON every 5 seconds", "scheduler top --json --interval 5"),
    ),
)
@click.option("--once", is_flag=True, help="Draw once and end.")
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between samples.",
)
@shared_options
@click.pass_context
def top_command(context: click.Context, once: bool, interval: float) -> None:
    """Watch accounts and functions at work: rates, queues, latencies, what was throttled.

    Rates are of the last interval; latencies and counts since the service started. q or Ctrl-C ends it. Where stdout is no
    terminal each picture is printed below the last.
    """
    as_json = shared_of(context).as_json
    try:
        with connected(context) as client:
            if as_json:
                for frame in frames(client, interval, _sleep):
                    emit_json(frame.as_map())
                    if once:
                        return
            elif once or not sys.stdout.isatty():
                console = stdout_console()
                for frame in frames(client, interval, _sleep):
                    console.print(draw(frame))
                    if once:
                        return
                    console.print()
            else:
                _watch(client, interval)
    except KeyboardInterrupt:
        return


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _watch(client: BlockingClient, interval_s: float) -> None:
    """The live picture on the terminal's other screen; q ends it."""
    from rich.live import Live

    console = stdout_console()
    with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        first, accounts, _ = sample(client)
        live.update(draw(Frame.between(first, first, accounts, 1.0), height=console.height), refresh=True)
        for frame in frames(client, interval_s, keys.wait):
            live.update(draw(frame, height=console.height), refresh=True)


class _Keys:
    """Single keys from the terminal while the picture stands; nothing where stdin is none."""

    def __enter__(self) -> _Keys:
        import termios
        import tty

        self._fd = sys.stdin.fileno() if sys.stdin.isatty() else -1
        if self._fd >= 0:
            self._saved = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        if self._fd >= 0:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)

    def wait(self, seconds: float) -> bool:
        """True when q was pressed within the time."""
        if self._fd < 0:
            return _sleep(seconds)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                key = sys.stdin.read(1)
                if key in ("q", "Q", ""):
                    return True
        return False
