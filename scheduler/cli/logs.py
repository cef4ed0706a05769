"""`scheduler logs`: what a function logged, and with -f what it logs from now on."""

from __future__ import annotations

import select
import sys

import click

from scheduler.cli.common import Command, connected, emit_json, function_argument, shared_of, shared_options

__all__ = ["logs_command"]


@click.command(
    "logs",
    cls=Command,
    short_help="Print what a function logged.",
    examples=(
        ("the end of the log", "scheduler logs hello"),
        ("go on printing (Ctrl-C ends it)", "scheduler logs hello -f"),
        ("one invocation alone", "scheduler logs hello --request-id 8f507cfc-5ff0-4e5c-9d9c-4f6c1d0e8d7a"),
    ),
)
@function_argument
@click.option("-f", "--follow", is_flag=True, help="Go on printing until Ctrl-C.")
@click.option("--request-id", metavar="ID", help="Only lines of this invocation.")
@click.option(
    "--bytes",
    "limit_bytes",
    type=click.IntRange(1, 16 * 1024 * 1024),
    default=65_536,
    show_default=True,
    metavar="N",
    help="How much of the log's end to print.",
)
@shared_options
@click.pass_context
def logs_command(context: click.Context, name: str, follow: bool, request_id: str | None, limit_bytes: int) -> None:
    """Print what a function logged: START, its lines, END and REPORT of each invocation.

    With --json: one object a chunk, {"text": ..., "cursor": ...}.
    """
    shared = shared_of(context)
    shared.name = name
    try:
        with connected(context) as client:
            cursor = None
            while True:
                wait_ms = 5_000 if follow and cursor is not None else None
                chunk = client.logs(name, cursor=cursor, limit_bytes=limit_bytes, wait_ms=wait_ms, request_id=request_id)
                cursor = chunk.cursor
                if shared.as_json and (chunk.text or not follow):
                    emit_json({"text": chunk.text, "cursor": cursor})
                elif chunk.text:
                    click.echo(chunk.text, nl=not follow and not chunk.text.endswith("\n"))
                if not follow or _reader_gone():
                    return
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
