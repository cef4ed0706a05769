"""`scheduler list`, `describe` and `remove`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.common import (
    EXIT_USAGE,
    Command,
    connected,
    emit_json,
    fail,
    function_argument,
    note,
    shared_of,
    shared_options,
    stdout_console,
)
from scheduler.cli.masking import masked, shown
from scheduler.cli.text import age, counts, microseconds, size
from scheduler.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.client.model import FunctionDescription, FunctionStats, Image

__all__ = ["describe_command", "list_command", "remove_command"]


@click.command(
    "list",
    cls=Command,
    short_help="List the functions.",
    examples=(
        ("all functions", "scheduler list"),
        ("names alone, for a script", "scheduler list --json | jq -r '.[].name'"),
    ),
)
@click.option("--tenant", metavar="T", help="Only functions of this tenant.")
@shared_options
@click.pass_context
def list_command(context: click.Context, tenant: str | None) -> None:
    """List the functions.

    With --json: an array of descriptions.
    """
    with connected(context) as client:
        functions = list(client.list(tenant=tenant))
    if shared_of(context).as_json:
        return emit_json([masked(function.raw) for function in functions])
    if not functions:
        note("no functions yet; next: scheduler deploy SRC --name NAME --handler MODULE.FUNCTION")
        return None
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    tenants = len({function.tenant for function in functions}) > 1
    table.add_column("NAME", overflow="fold", style="bold")
    table.add_column("HANDLER", overflow="fold")
    table.add_column("RUNTIME", no_wrap=True)
    table.add_column("MEMORY", justify="right", no_wrap=True)
    table.add_column("TIMEOUT", justify="right", no_wrap=True)
    table.add_column("VERSIONS", justify="right", no_wrap=True)
    images = any(function.image is not None for function in functions)
    if images:
        table.add_column("IMAGE", no_wrap=True)
    if tenants:
        table.add_column("TENANT", overflow="fold")
    table.add_column("CHANGED", justify="right", no_wrap=True)
    if any(function.state != "Active" for function in functions):
        table.add_column("STATE")
    for function in functions:
        cells = [
            function.name,
            function.handler,
            function.runtime,
            f"{function.memory_mb} MB",
            f"{function.timeout_s:g} s",
            str(len(function.versions)),
            *([function.image.state if function.image is not None else ""] if images else []),
            *([function.tenant] if tenants else []),
            age(function.last_modified),
        ]
        table.add_row(*cells, *([function.state] if len(table.columns) > len(cells) else []))
    stdout_console().print(table, markup=False)
    return None


@click.command(
    "describe",
    cls=Command,
    short_help="Show one function: configuration, versions, limits, figures.",
    examples=(
        ("everything about a function", "scheduler describe hello"),
        ("one published version", "scheduler describe hello:2"),
        ("one value, for a script", "scheduler describe hello --json | jq .memory_mb"),
    ),
)
@function_argument
@click.option("--show-env", is_flag=True, help="Show the values of its environment too.")
@shared_options
@click.pass_context
def describe_command(context: click.Context, name: str, show_env: bool) -> None:
    """Show one function: configuration, versions, limits, figures.

    NAME is a function's name or NAME:VERSION. Figures count since the service started.
    """
    shared_of(context).name = name
    with connected(context) as client:
        function = client.get(name)
    if shared_of(context).as_json:
        return emit_json(masked(function.raw, show_env))
    title, branches = _described(function, show_env)
    click.secho(title, bold=True)
    for at, (name, rows) in enumerate(branches):
        last = at == len(branches) - 1
        click.echo(f"{'└' if last else '├'}── {click.style(name, bold=True)}")
        for below, row in enumerate(rows):
            click.echo(f"{' ' if last else '│'}   {'└' if below == len(rows) - 1 else '├'}── {row}")
    return None


Branch = tuple[str, list[str]]


def _described(function: FunctionDescription, show_env: bool = False) -> tuple[str, list[Branch]]:
    """The tree's title and branches. Drawn without a library: a value is never wrapped nor cut, for it is to be copied."""
    branches: list[Branch] = []

    def branch(title: str, rows: list[tuple[str, Any]]) -> None:
        shown = [(key, value) for key, value in rows if value not in (None, "")]
        width = max((len(key) for key, _ in shown), default=0)
        if shown:
            branches.append((title, [one_line(f"{key:<{width}}  {value}") for key, value in shown]))

    branch(
        "code",
        [
            ("handler", function.handler),
            ("runtime", function.runtime),
            ("size", size(function.code_size)),
            ("sha256", function.code_sha256),
            ("description", function.description),
        ],
    )
    state = function.state + (f": {function.state_reason}" if function.state_reason else "")
    branch(
        "version",
        [
            ("this", function.version),
            ("revision", f"{function.revision} ({function.revision_id})" if function.revision_id else function.revision),
            ("published", ", ".join(function.versions) or "none"),
            ("changed", f"{function.last_modified} ({age(function.last_modified)})"),
            ("state", state),
        ],
    )
    if function.image is not None:
        _image(branch, function.image)
    reserved = function.reserved_concurrency
    branch(
        "limits",
        [
            ("memory", f"{function.memory_mb} MB"),
            ("timeout", f"{function.timeout_s:g} s"),
            ("/tmp", f"{function.ephemeral_storage_mb} MB"),
            ("queue timeout", f"{function.queue_timeout_ms} ms"),
            ("concurrency", "shared with all others" if reserved is None else f"{reserved} reserved"),
            ("weight", f"{function.weight:g}"),
            ("network", function.network),
            ("tenant", function.tenant),
        ],
    )
    levels = "/".join(filter(None, (function.application_log_level, function.system_log_level)))
    branch(
        "told and traced",
        [
            ("log", f"{function.log_group} ({function.log_format}{', ' + levels if levels else ''})"),
            ("tracing", function.tracing),
            ("recursive loop", function.recursive_loop),
            ("SnapStart", function.snap_start if function.snap_start != "None" else ""),
            ("tenant isolation", "each tenant id apart" if function.tenancy == "PER_TENANT" else ""),
            ("dead letters", function.dead_letter_arn),
        ],
    )
    locked = function.raw.get("environment_error")
    if locked:
        branch("environment", [("locked", f"{locked['ErrorCode']}: {locked['Message']}")])
    branch("environment", list(shown(function.environment, show_env).items()))
    branch(
        "may ask for",
        [
            ("secrets", ", ".join(function.raw.get("secrets") or ())),
            ("keys", ", ".join(function.raw.get("keys") or ())),
            ("sealed with", function.raw.get("kms_key_arn", "")),
        ],
    )
    if function.stats is not None:
        _figures(branch, function.stats)
    _events(branch, function.raw.get("events") or {})
    return f"{function.name}  {function.arn}", branches


def _image(branch: Any, image: Image) -> None:
    held = f"{size(image.bytes)}, {image.age_s:.0f} s old, used {image.restores:,} times" if image.state == "ready" else ""
    branch(
        "cold starts",
        [
            ("now from", {"snapshot": "an image of the initialised process", "shell": "a shell, with an init"}.get(image.tier)),
            ("image", f"{image.state}: {held}" if held else image.state),
            ("because", image.reason),
        ],
    )


def _events(branch: Any, events: Mapping[str, Any]) -> None:
    """Nothing where there never were any."""
    waiting, accepted = events.get("waiting", 0), events.get("accepted", 0)
    if not waiting and not accepted and not any(events.get("dropped", {}).values()):
        return
    oldest = f", the oldest for {events.get('oldest_age_s', 0):.0f} s" if waiting else ""
    branch(
        "asynchronous events",
        [
            ("waiting", f"{waiting:,}{oldest}"),
            ("accepted", f"{accepted:,}"),
            ("delivered", f"{events.get('delivered', 0):,}"),
            ("retried", counts(events.get("retried", {}))),
            ("dropped", counts(events.get("dropped", {}))),
        ],
    )


def _figures(branch: Any, stats: FunctionStats) -> None:
    branch(
        "figures",
        [
            ("invocations", f"{stats.invocations:,}"),
            ("outcomes", counts(stats.outcomes)),
            ("throttled", counts(stats.throttled)),
            ("cold starts", counts(stats.cold_starts)),
            ("now", f"{stats.queued} queued, {stats.executing} executing"),
            ("sandboxes", counts(stats.sandboxes)),
            ("CPU", f"{stats.cpu_seconds:.3f} s"),
            ("memory × time", f"{stats.gb_seconds:.3f} GB·s"),
        ],
    )
    rows = [(name, times) for name, times in stats.durations.items() if times.count]
    branch(
        "latency",
        [
            (
                name,
                f"p50 {microseconds(times.p50_us)}, p90 {microseconds(times.p90_us)}, p99 {microseconds(times.p99_us)}, "
                f"max {microseconds(times.max_us)}  ({times.count:,})",
            )
            for name, times in rows
        ],
    )


@click.command(
    "remove",
    cls=Command,
    short_help="Remove a function.",
    examples=(
        ("ask first (on a terminal)", "scheduler remove hello"),
        ("in a script", "scheduler remove hello --yes"),
    ),
)
@function_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@shared_options
@click.pass_context
def remove_command(context: click.Context, name: str, yes: bool) -> None:
    """Remove a function, with all its versions.

    Calls in flight end first; its log stays. On a terminal it asks, unless --yes is given.
    """
    shared_of(context).name = name
    with connected(context) as client:
        if not yes and sys.stdin.isatty() and sys.stderr.isatty():
            function = client.get(name)
            versions = len(function.versions)
            more = f" and its {versions} published version{'s' if versions != 1 else ''}" if versions else ""
            if not click.confirm(f"Remove {function.name}{more}?", err=True):
                fail(f"{name} was not removed", EXIT_USAGE)
        client.remove(name)
    if shared_of(context).as_json:
        emit_json({"removed": name})
    else:
        click.echo(f"removed {name}")
