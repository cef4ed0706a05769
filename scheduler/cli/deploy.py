"""`scheduler deploy`: pack a source, send it, and say what changed."""

from __future__ import annotations

import ast
import re
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
from scheduler.cli.configuration import COMPARED, changes, configuration_options, print_rows, read_environment
from scheduler.cli.masking import masked, warn
from scheduler.cli.template import deploy_template, read_parameters
from scheduler.cli.text import size
from scheduler.errors import NotFound, SchedulerError
from scheduler.functions.pack import IGNORE_FILE, pack
from scheduler.templates.folder import read_settings
from scheduler.templates.sam import is_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.client.blocking import BlockingClient
    from scheduler.client.model import FunctionDescription
    from scheduler.functions.pack import PackedCode

__all__ = ["deploy_command", "find_handler"]

# Where a handler is looked for when none is named: usual modules, usual names.
MODULES: Final = ("app", "lambda_function", "handler", "main", "index", "function")
FUNCTIONS: Final = ("handler", "lambda_handler", "main")
BOOTSTRAP: Final = "bootstrap"
EXPORT: Final = r"\bexports\.{name}\s*=|\bexport\s+(?:const|let|var|function|async\s+function)\s+{name}\b"
USUAL_REASONS: Final = ("never part of a package", IGNORE_FILE)  # what is left out for these is as the user expects


@click.command(
    "deploy",
    cls=Command,
    short_help="Create a function, or replace its code and configuration.",
    examples=(
        ("a folder", "scheduler deploy ./hello --name hello --handler app.handler"),
        ("one file, with memory and timeout", "scheduler deploy resize.py --memory 512 --timeout 30"),
        ("a zip, with environment variables", "scheduler deploy build.zip --name api --handler api.main --env STAGE=prod"),
        ("make it version 1, 2, ... too", "scheduler deploy ./hello --publish"),
        ("everything that an AWS SAM template names", "scheduler deploy template.yaml --parameter Stage=dev"),
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
@configuration_options
@click.option("--tenant", metavar="T", help="Who owns the function; fixed once it exists.")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="K=V", help="A parameter of the template; repeat it for more."
)
@click.option("--publish", is_flag=True, help="Also make this a numbered version that never changes.")
@shared_options
@click.pass_context
def deploy_command(
    context: click.Context,
    /,
    source: Path,
    name: str | None,
    handler: str | None,
    tenant: str | None,
    pairs: tuple[str, ...],
    no_env: bool,
    publish: bool,
    parameters: tuple[str, ...],
    **settings: Any,
) -> None:
    """Create a function, or replace its code and configuration.

    SRC is a folder, a zip, one .py file, or an AWS SAM or CloudFormation template. A folder may say in a function.toml what
    else would be said here. Calls in flight end on the old code; the next ones run the new. What is not given stays as it
    is, or takes its default where the function is new.
    """
    if is_template(source):
        if any(settings.values()) or name or handler or tenant or pairs or no_env or publish:
            raise click.UsageError("a template says all that is to be said: of the options --parameter alone goes with it")
        return deploy_template(context, source, read_parameters(parameters))
    if parameters:
        raise click.UsageError(f"--parameter goes with a template, and {source} is none")
    said = read_settings(source)
    # Each is taken out, whether or not the command line says it better.
    own = {key: said.pop(key, None) for key in ("name", "handler", "tenant", "publish", "environment")}
    name = name or own["name"] or source.resolve().stem
    handler, tenant = handler or own["handler"], tenant or own["tenant"]
    publish = publish or bool(own["publish"])
    shared = shared_of(context)
    shared.name = name
    environment = read_environment(pairs, no_env)
    if environment is None:
        environment = own["environment"]
    warn(environment)
    settings = {**said, **{key: value for key, value in settings.items() if value is not None}}
    package = _pack(source)
    with connected(context) as client:
        before = _existing(client, name)
        if handler is None and before is None:
            handler = find_handler(source)
        done = _deploy(client, package, name, publish, handler=handler, tenant=tenant, environment=environment, **settings)
    if shared.as_json:
        return emit_json(masked(done.raw))
    _summary(before, done, publish)
    return None


def find_handler(source: Path) -> str:
    """`module.function` where the source has exactly one of the usual names; else UsageError tells what was seen."""
    if source.is_dir() and (source / BOOTSTRAP).is_file():
        return BOOTSTRAP  # a program of its own, which may make of it what it likes
    found = _in_javascript(source) if source.is_dir() else []
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


def _in_javascript(folder: Path) -> list[str]:
    """`module.function` for usual names; a module that exports one in another way has to be named."""
    found = []
    for module in MODULES:
        for path in (folder / f"{module}{suffix}" for suffix in (".mjs", ".js", ".cjs")):
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                found += [f"{module}.{name}" for name in FUNCTIONS if re.search(EXPORT.format(name=name), text)]
                break
    return found


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
        rows = changes(before, after)
    print_rows(rows)
    if after.state == "Failed":
        why = after.state_reason or "it cannot run"
        fail(f"InitFailed: {after.name}: {why}; next: scheduler logs {after.name}", EXIT_FUNCTION_FAILED)
    click.echo(f"next: scheduler invoke {after.name} '{{}}'")
