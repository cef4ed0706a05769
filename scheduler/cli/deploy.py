"""`scheduler deploy`: pack a source, send it, and say what changed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler.cli.common import (
    EXIT_FUNCTION_FAILED,
    Command,
    connected,
    emit_json,
    fail,
    note,
    shared_of,
    shared_options,
    stderr_console,
)
from scheduler.cli.text import size
from scheduler.errors import NotFound, SchedulerError
from scheduler.functions.pack import IGNORE_FILE, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.client.blocking import BlockingClient
    from scheduler.client.model import FunctionDescription
    from scheduler.functions.pack import PackedCode

__all__ = ["deploy_command", "find_handler"]

# Where a handler is looked for when none is named: usual modules, usual names.
MODULES: Final = ("app", "lambda_function", "handler", "main", "index", "function")
FUNCTIONS: Final = ("handler", "lambda_handler", "main")
USUAL_REASONS: Final = ("never part of a package", IGNORE_FILE)  # what is left out for these is as the user expects


def _count_or_none(_: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """`--reserved-concurrency`: a count, or the word none."""
    if value is None or value == "none":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is no whole number and not none", param=param)
    return int(value)


@click.command(
    "deploy",
    cls=Command,
    short_help="Create a function, or replace its code and configuration.",
    examples=(
        ("a folder", "scheduler deploy ./hello --name hello --handler app.handler"),
        ("one file, with memory and timeout", "scheduler deploy resize.py --memory 512 --timeout 30"),
        ("a zip, with environment variables", "scheduler deploy build.zip --name api --handler api.main --env STAGE=prod"),
        ("make it version 1, 2, ... too", "scheduler deploy ./hello --publish"),
        ("at most 10 at once, and those 10 always", "scheduler deploy ./hello --reserved-concurrency 10"),
    ),
)
@click.argument("source", metavar="SRC", type=click.Path(exists=True, readable=True, path_type=Path))
@click.option("--name", metavar="N", help="The function's name; else SRC's own, without its suffix.")
@click.option(
    "--handler",
    metavar="MOD.FN",
    help="Module and function to call. Else it stays as it is; a new function's is looked for in SRC.",
)
@click.option("--runtime", metavar="R", help="Which Python runs it, as python3.11; else the service's own choice.")
@click.option("--memory", "memory_mb", type=int, metavar="MB", help="128 to 10,240; new functions get 128.")
@click.option("--timeout", "timeout_s", type=int, metavar="S", help="1 to 900 seconds; new functions get 3.")
@click.option("--ephemeral-storage", "ephemeral_storage_mb", type=int, metavar="MB", help="Size of /tmp, 512 to 10,240.")
@click.option(
    "--env", "pairs", multiple=True, metavar="K=V", help="A variable of the environment; repeat it for more. Replaces all."
)
@click.option(
    "--reserved-concurrency",
    callback=_count_or_none,
    metavar="N",
    help="Calls that may run at once, kept free for this function; 0 stops it, none takes the reservation away.",
)
@click.option("--tenant", metavar="T", help="Who owns the function; fixed once it exists.")
@click.option("--weight", type=click.IntRange(1), metavar="W", help="Share of CPU time among the tenant's functions; 100.")
@click.option(
    "--queue-timeout",
    "queue_timeout_ms",
    type=click.IntRange(0),
    metavar="MS",
    help="How long a call may wait to start; 0 refuses at once, as Lambda does.",
)
@click.option("--description", metavar="TEXT", help="What it is for.")
@click.option("--publish", is_flag=True, help="Also make this a numbered version that never changes.")
@shared_options
@click.pass_context
def deploy_command(
    context: click.Context,
    /,
    source: Path,
    name: str | None,
    handler: str | None,
    pairs: tuple[str, ...],
    publish: bool,
    **settings: Any,
) -> None:
    """Create a function, or replace its code and configuration.

    SRC is a folder, a zip, or one .py file. Calls in flight end on the old code; the next ones run the new. What is not
    given stays as it is, or takes its default where the function is new.
    """
    name = name or source.resolve().stem
    shared = shared_of(context)
    shared.name = name
    environment = read_environment(pairs) if pairs else None
    package = _pack(source)
    with connected(context) as client:
        before = _existing(client, name)
        if handler is None and before is None:
            handler = find_handler(source)
        done = _deploy(client, package, name, publish, handler=handler, environment=environment, **settings)
    if shared.as_json:
        return emit_json(done.raw)
    _summary(before, done, publish)
    return None


def read_environment(pairs: tuple[str, ...]) -> dict[str, str]:
    """`K=V` pairs to a map. UsageError names the pair that is none, or the key that comes twice."""
    environment: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--env {pair!r} is not KEY=VALUE")
        if key in environment:
            raise click.UsageError(f"--env {key} is given twice: {environment[key]!r} and {value!r}")
        environment[key] = value
    return environment


def find_handler(source: Path) -> str:
    """`module.function` where the source has exactly one of the usual names; else UsageError tells what was seen."""
    found = []
    for module, text in _modules(source):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        found += [f"{module}.{function}" for function in FUNCTIONS if function in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise click.UsageError(f"--handler is needed: {source} has {', '.join(found)}")
    usual = " or ".join(FUNCTIONS)
    raise click.UsageError(f"--handler is needed: no {usual} was found in {source}; write --handler MODULE.FUNCTION")


def _modules(source: Path) -> list[tuple[str, str]]:
    """Name and text of the modules a handler is usually in."""
    if source.is_file() and source.suffix == ".py":
        return [(source.stem, source.read_text(encoding="utf-8", errors="replace"))]
    if source.is_dir():
        paths = [source / f"{module}.py" for module in MODULES]
        return [(path.stem, path.read_text(encoding="utf-8", errors="replace")) for path in paths if path.is_file()]
    import zipfile

    try:
        with zipfile.ZipFile(source) as archive:
            names = set(archive.namelist())
            return [
                (module, archive.read(f"{module}.py").decode("utf-8", "replace"))
                for module in MODULES
                if f"{module}.py" in names and archive.getinfo(f"{module}.py").file_size < 1024 * 1024
            ]
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise click.UsageError(f"{source} is no folder, .py file or zip that can be read: {error}") from None


def _pack(source: Path) -> PackedCode:
    """The source as it is sent. UsageError where it cannot be; what a package cannot hold is told."""
    try:
        package = pack(source)
    except SchedulerError as error:
        raise click.UsageError(error.message) from None
    for skipped in package.skipped:
        if skipped.reason not in USUAL_REASONS:
            note(f"left out {skipped.path}: {skipped.reason}")
    return package


def _existing(client: BlockingClient, name: str) -> FunctionDescription | None:
    try:
        return client.get(name)
    except NotFound:
        return None


def _deploy(client: BlockingClient, package: PackedCode, name: str, publish: bool, **settings: Any) -> FunctionDescription:
    """The deployment, with a bar while the code is sent (drawn on a terminal only)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("sending {task.fields[label]}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr_console(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("send", total=None, label=name)

        def told(sent_bytes: int, all_bytes: int) -> None:
            progress.update(task, completed=sent_bytes, total=all_bytes)

        send: Callable[[int, int], None] = told
        return client.deploy(package, name=name, publish=publish, progress=send, **settings)


# What a summary compares: label, attribute, how it is shown.
COMPARED: Final = (
    ("handler", "handler", str),
    ("runtime", "runtime", str),
    ("memory", "memory_mb", lambda value: f"{value} MB"),
    ("timeout", "timeout_s", lambda value: f"{value:g} s"),
    ("/tmp", "ephemeral_storage_mb", lambda value: f"{value} MB"),
    ("concurrency", "reserved_concurrency", lambda value: "shared" if value is None else f"{value} reserved"),
    ("weight", "weight", lambda value: f"{value:g}"),
    ("queue timeout", "queue_timeout_ms", lambda value: f"{value} ms"),
    ("tenant", "tenant", str),
    ("description", "description", lambda value: value or "none"),
)


def _summary(before: FunctionDescription | None, after: FunctionDescription, publish: bool) -> None:
    """One line of what is there now, a line for each thing that changed, and what to type next."""
    version = f", published as version {after.versions[-1]}" if publish and after.versions else ""
    verb = "created" if before is None else "updated"
    click.echo(f"{verb} {after.name} (revision {after.revision}{version})")
    rows = []
    if before is None:
        rows = [(label, show(getattr(after, key))) for label, key, show in COMPARED[:5]]
        rows.append(("code", f"{size(after.code_size)}, sha256 {after.code_sha256[:12]}"))
    else:
        for label, key, show in COMPARED:
            old, new = getattr(before, key), getattr(after, key)
            if old != new:
                rows.append((label, f"{show(old)} → {show(new)}"))
        if before.environment != after.environment:
            rows.append(("environment", _environment_change(before.environment, after.environment)))
        if before.code_sha256 != after.code_sha256:
            old, new = (f"{it.code_sha256[:12]} ({size(it.code_size)})" for it in (before, after))
            rows.append(("code", f"{old} → {new}"))
        if not rows:
            rows = [("", "nothing changed")]
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"  {label:<{width}}  {text}" if label else f"  {text}")
    if after.state == "Failed":
        why = after.state_reason or "it cannot run"
        fail(f"InitFailed: {after.name}: {why}; next: scheduler logs {after.name}", EXIT_FUNCTION_FAILED)
    click.echo(f"next: scheduler invoke {after.name} '{{}}'")


def _environment_change(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Keys alone: values may be secrets, and this goes into the logs of whoever deploys."""
    marks = [(f"+{key}" if key not in old else f"-{key}") for key in sorted(old.keys() ^ new.keys())]
    marks += [f"{key} changed" for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]
    return ", ".join(marks)
