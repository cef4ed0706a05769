"""`scheduler dev`: deploys a source again whenever it changes, and shows the function's log in between."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler.cli.common import Command, connected, note, shared_of, shared_options
from scheduler.cli.deploy import find_handler
from scheduler.errors import NotFound, SchedulerError
from scheduler.functions.pack import pack
from scheduler.templates.folder import read_settings
from scheduler.templates.plan import TemplateBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.client.blocking import BlockingClient

__all__ = ["dev_command", "stamp"]

LOOK_MS: Final = 250
FILES_MAX: Final = 20_000
SKIPPED: Final = frozenset((".git", "__pycache__", ".venv", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache"))


@click.command(
    "dev",
    cls=Command,
    short_help="Deploy again at each change, and show the log.",
    examples=(
        ("a folder", "scheduler dev ./hello"),
        ("in another terminal", "scheduler invoke hello '{}'"),
    ),
)
@click.argument("source", metavar="SRC", type=click.Path(exists=True, readable=True, path_type=Path))
@click.option("--name", metavar="N", help="The function's name; else SRC's own, without its suffix.")
@click.option("--handler", metavar="MOD.FN", help="Module and function to call.")
@shared_options
@click.pass_context
def dev_command(context: click.Context, /, source: Path, name: str | None, handler: str | None) -> None:
    """Deploy SRC, a folder or one .py file, again whenever a file of it changes, and show the function's log in between.

    Ctrl-C ends it; the function stays. What a function.toml says holds, and is read anew each time.
    """
    shared_of(context)
    with connected(context) as client:
        name = name or _said(source).get("name") or source.resolve().stem
        seen, cursor = stamp(source), None
        _deploy(client, source, name, handler)
        try:
            cursor = client.logs(name, limit_bytes=1).cursor
        except SchedulerError:
            cursor = None
        note(f"watching {source}; Ctrl-C ends it")
        try:
            while True:
                cursor = _show_log(client, name, cursor)
                now = stamp(source)
                if now != seen:
                    seen = now
                    _deploy(client, source, name, handler)
        except KeyboardInterrupt:
            note(f"{name} stays deployed; next: scheduler remove {name}")


def _said(source: Path) -> dict[str, Any]:
    try:
        return read_settings(source)
    except TemplateBroken as error:
        raise click.UsageError(error.message) from None


def stamp(source: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells that something has changed: names, times and sizes of all files."""
    return tuple(sorted(_files(source)))


def _files(source: Path) -> Iterator[tuple[str, int, int]]:
    if source.is_file():
        info = source.stat()
        yield source.name, info.st_mtime_ns, info.st_size
        return
    count = 0
    for at, directories, files in os.walk(source):
        directories[:] = [name for name in directories if name not in SKIPPED]
        for name in files:
            count += 1
            if count > FILES_MAX:
                raise click.UsageError(f"{source} has more than {FILES_MAX} files; watch a smaller folder")
            path = Path(at) / name
            try:
                info = path.stat()
            except OSError:  # it went while we looked
                continue
            yield str(path.relative_to(source)), info.st_mtime_ns, info.st_size


def _show_log(client: BlockingClient, name: str, cursor: Any) -> Any:
    """What was written since; waits a moment for it, which is all the waiting that the loop does."""
    try:
        chunk = client.logs(name, cursor=cursor, wait_ms=LOOK_MS)
    except NotFound:  # nothing deployed well yet
        time.sleep(LOOK_MS / 1000)  # and so nothing to wait for at the service
        return cursor
    if chunk.text:
        click.echo(chunk.text, nl=not chunk.text.endswith("\n"))
    return chunk.cursor


def _deploy(client: BlockingClient, source: Path, name: str, handler: str | None) -> None:
    """An error is told and waits for the next change: it may be half a save."""
    began = time.monotonic()
    try:
        said = read_settings(source)
        said.pop("name", None)
        publish = bool(said.pop("publish", False))
        own = said.pop("handler", None)
        handler = handler or own or find_handler(source)
        done = client.deploy(pack(source), name=name, publish=publish, handler=handler, **said)
    except (SchedulerError, click.UsageError) as error:
        note(f"not deployed: {error.message}")
        return
    took_ms = (time.monotonic() - began) * 1000
    click.echo(f"deployed {done.name} (revision {done.revision}) in {took_ms:.0f} ms")
    if done.state == "Failed":
        note(f"it cannot start: {done.state_reason}")
