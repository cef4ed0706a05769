"""`scheduler logs`: what a function logged, and with -f what it logs from now on."""

from __future__ import annotations

import re
import select
import sys
import time
from datetime import UTC, datetime

import click

from scheduler.cli.common import Command, connected, emit_json, function_argument, shared_of, shared_options

__all__ = ["logs_command"]


_AGE = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Moment(click.ParamType[int]):
    """An age or a point in time, as Unix time in ms."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if age := _AGE.fullmatch(text):
            return max(0, int((time.time() - int(age[1]) * _UNIT_S[age[2]]) * 1000))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is neither an age (90s, 10m, 2h, 3d) nor a time (2026-01-31T12:00:00Z)", param, ctx)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0, int(moment.timestamp() * 1000))


class Lines:
    """Whole lines that hold a text, out of pieces that may end anywhere."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._rest = ""

    def take(self, text: str) -> str:
        if self._wanted is None:
            return text
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        return "".join(f"{line}\n" for line in lines if self._wanted in line)

    def end(self) -> str:
        """The last line, which nothing ended."""
        return f"{self._rest}\n" if self._wanted is not None and self._wanted in self._rest and self._rest else ""


@click.command(
    "logs",
    cls=Command,
    short_help="Print what a function logged.",
    examples=(
        ("the end of the log", "scheduler logs hello"),
        ("go on printing (Ctrl-C ends it)", "scheduler logs hello -f"),
        ("the last ten minutes, lines with ERROR alone", "scheduler logs hello --since 10m --filter ERROR"),
        ("what functions of one log group logged", "scheduler logs /shop/orders"),
        ("one invocation alone", "scheduler logs hello --request-id 8f507cfc-5ff0-4e5c-9d9c-4f6c1d0e8d7a"),
    ),
)
@function_argument
@click.option("-f", "--follow", is_flag=True, help="Go on printing until Ctrl-C.")
@click.option("--request-id", metavar="ID", help="Only lines of this invocation.")
@click.option("--since", "since_ms", type=Moment(), metavar="WHEN", help="From then on: 90s, 10m, 2h, 3d ago, or a time (UTC).")
@click.option("--filter", "wanted", metavar="TEXT", help="Only lines that hold this text.")
@click.option(
    "--bytes",
    "limit_bytes",
    type=click.IntRange(1, 16 * 1024 * 1024),
    default=65_536,
    show_default=True,
    metavar="N",
    help="How much of the log's end to print, where --since does not say.",
)
@shared_options
@click.pass_context
def logs_command(
    context: click.Context,
    name: str,
    follow: bool,
    request_id: str | None,
    since_ms: int | None,
    wanted: str | None,
    limit_bytes: int,
) -> None:
    """Print what a function logged: START, its lines, END and REPORT of each invocation. A name with a slash in it is a log
    group: what its functions logged, one after the other.

    With --json: one object a chunk, {"text": ..., "cursor": ...}.
    """
    shared = shared_of(context)
    shared.name = name
    try:
        with connected(context) as client:
            names = [name] if "/" not in name else [f.name for f in client.list() if f.log_group == name]
            if not names:
                raise click.UsageError(f"no function has the log group {name!r}")
            cursors: dict[str, object] = dict.fromkeys(names)
            lines = {one: Lines(wanted) for one in names}
            left = list(names)
            while left:
                one = left.pop(0)
                # Who follows several waits for each a while.
                wait_ms = max(200, 5_000 // len(names)) if follow and cursors[one] is not None else None
                chunk = client.logs(
                    one,
                    cursor=cursors[one],
                    limit_bytes=limit_bytes,
                    wait_ms=wait_ms,
                    request_id=request_id,
                    since_ms=since_ms,
                )
                cursors[one] = chunk.cursor
                over = not follow and (since_ms is None or not chunk.text)
                text = lines[one].take(chunk.text) + (lines[one].end() if over else "")
                if shared.as_json and (text or (over and since_ms is None)):
                    emit_json({"text": text, "cursor": chunk.cursor})
                elif text:
                    click.echo(text, nl=over and not text.endswith("\n"))
                if _reader_gone():
                    return
                if follow:
                    left.append(one)
                elif not over:
                    left.insert(0, one)  # the rest of it before the next function's
    except KeyboardInterrupt:
        if not follow:
            raise


def _reader_gone() -> bool:
    """Whether nobody reads our stdout any more (`scheduler logs -f hello | head`): a write would tell, but none may be due."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # no descriptor: a test's buffer
        return False
    return any(state & select.POLLERR for _, state in poll.poll(0))
