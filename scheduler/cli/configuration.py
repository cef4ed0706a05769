"""What `deploy` and `update` share: the options of a function's configuration, and telling what a change changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from scheduler.cli.text import size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.client.model import FunctionDescription

__all__ = ["COMPARED", "changes", "configuration_options", "print_rows", "read_environment"]

ENV_FILE_CHARS_MAX: Final = 64 * 1024

F = TypeVar("F", bound="Callable[..., Any]")


def _count_or_none(_: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """`--reserved-concurrency`: a count, or the word none."""
    if value is None or value == "none":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is no whole number and not none", param=param)
    return int(value)


def _names_or_none(_: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str] | None:
    """`--secret`, `--key`: what was given; None: nothing was; the word none alone: an empty list."""
    if "none" in value and len(value) > 1:
        raise click.BadParameter("none stands alone", param=param)
    return None if not value else [] if value == ("none",) else list(value)


# One for each key of a configuration, but the handler (where it is looked for differs) and the tenant (it is fixed).
OPTIONS: Final = (
    click.option(
        "--runtime",
        metavar="R",
        help="What it is written in, as python3.11 (scheduler runtimes); else the service's own choice.",
    ),
    click.option("--memory", "memory_mb", type=int, metavar="MB", help="128 to 10,240; new functions get 128."),
    click.option("--timeout", "timeout_s", type=int, metavar="S", help="1 to 900 seconds; new functions get 3."),
    click.option("--ephemeral-storage", "ephemeral_storage_mb", type=int, metavar="MB", help="Size of /tmp, 512 to 10,240."),
    click.option(
        "--env",
        "pairs",
        multiple=True,
        metavar="K=V",
        help="A variable of the environment, or @FILE with lines of them; repeat it for more. Replaces all.",
    ),
    click.option("--no-env", is_flag=True, help="Take all variables of the environment away."),
    click.option(
        "--reserved-concurrency",
        callback=_count_or_none,
        metavar="N",
        help="Calls that may run at once, kept free for this function; 0 stops it, none takes the reservation away.",
    ),
    click.option("--weight", type=click.IntRange(1), metavar="W", help="Share of CPU time among the tenant's functions; 100."),
    click.option(
        "--queue-timeout",
        "queue_timeout_ms",
        type=click.IntRange(0),
        metavar="MS",
        help="How long a call may wait to start; 0 refuses at once, as Lambda does.",
    ),
    click.option(
        "--network",
        type=click.Choice(["none", "outbound"]),
        help="What it may reach: nothing but itself, or other machines too; new functions get none.",
    ),
    click.option(
        "--snapshot",
        type=click.Choice(("auto", "off")),
        help="auto: cold starts are restored from an image of the initialised process; off: each runs the init.",
    ),
    click.option(
        "--secret",
        "secrets",
        multiple=True,
        callback=_names_or_none,
        metavar="NAME",
        help="A secret that it may ask for, or PREFIX/*; repeat it for more, none takes all away. Replaces all.",
    ),
    click.option(
        "--key",
        "keys",
        multiple=True,
        callback=_names_or_none,
        metavar="K",
        help="A key of the KMS endpoint that it may use: id, ARN or alias/NAME; repeat it for more. Replaces all.",
    ),
    click.option(
        "--kms-key", "kms_key_arn", metavar="K", help="Key that its environment is sealed under; empty: the service's own."
    ),
    click.option(
        "--freeze",
        type=click.Choice(("on", "off")),
        help="on: a sandbox is stopped as a whole while it has no call, as on Lambda; off: its threads go on.",
    ),
    click.option(
        "--runtime-client",
        type=click.Choice(("own", "awslambdaric")),
        help="What speaks to the service for it: the service's own bootstrap, or AWS's client of Lambda's Runtime API.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(("Text", "JSON")),
        help="How its log is written; JSON: one object a line, with levels.",
    ),
    click.option(
        "--application-log-level",
        type=click.Choice(("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")),
        help="What the function's logger leaves out, with JSON; INFO.",
    ),
    click.option(
        "--system-log-level",
        type=click.Choice(("DEBUG", "INFO", "WARN")),
        help="What is left out of the platform's own lines, with JSON; INFO.",
    ),
    click.option("--log-group", metavar="NAME", help="What its log is called; /aws/lambda/NAME."),
    click.option(
        "--tracing",
        type=click.Choice(("Active", "PassThrough")),
        help="Active: calls are segments of a trace, some are sampled; PassThrough: what callers bring is handed on.",
    ),
    click.option(
        "--recursive-loop",
        type=click.Choice(("Terminate", "Allow")),
        help="Whether a chain of calls that comes back to it 16 times is ended.",
    ),
    click.option(
        "--snap-start",
        type=click.Choice(("None", "PublishedVersions")),
        help="PublishedVersions: a version is Active once the image of its initialised process is made.",
    ),
    click.option(
        "--tenancy",
        type=click.Choice(("NONE", "PER_TENANT")),
        help="PER_TENANT: each sandbox serves one tenant id for life, which each call must name; said when it is made.",
    ),
    click.option("--dead-letter-arn", metavar="ARN", help="Queue of SQS or topic of SNS for events that cannot be delivered."),
    click.option("--description", metavar="TEXT", help="What it is for."),
)


def configuration_options(command: F) -> F:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def read_environment(pairs: tuple[str, ...], none: bool) -> dict[str, str] | None:
    """`K=V` pairs, and those of the lines of files (`@FILE`), to a map; None: it stays as it is. UsageError names the pair that
    is none, or the key that comes twice; never a value."""
    if none and pairs:
        raise click.UsageError("--env and --no-env exclude each other")
    if not pairs:
        return {} if none else None
    environment: dict[str, str] = {}
    for pair in (line for given in pairs for line in _lines(given)):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--env {pair[:16]!r}{'...' if pair[16:] else ''} is not KEY=VALUE")
        if key in environment:
            raise click.UsageError(f"--env {key} is given twice")
        environment[key] = value
    return environment


def _lines(given: str) -> list[str]:
    """`@FILE`: its lines but for blank ones and comments; @- is stdin. Command lines are seen by all users of the machine."""
    if not given.startswith("@") or "=" in given:
        return [given]
    try:
        data = sys.stdin.read(ENV_FILE_CHARS_MAX + 1) if given == "@-" else Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"--env {given}: cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
        ) from error
    if len(data) > ENV_FILE_CHARS_MAX:
        raise click.UsageError(f"--env {given}: has over {ENV_FILE_CHARS_MAX} characters")
    return [line for line in data.splitlines() if line.strip() and not line.lstrip().startswith("#")]


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
    ("network", "network", str),
    ("snapshot", "snapshot", lambda value: value or "auto"),
    ("freeze", "freeze", str),
    ("runtime client", "runtime_client", str),
    ("log format", "log_format", str),
    ("application log level", "application_log_level", lambda value: value or "none"),
    ("system log level", "system_log_level", lambda value: value or "none"),
    ("log group", "log_group", str),
    ("tracing", "tracing", str),
    ("recursive loop", "recursive_loop", str),
    ("SnapStart", "snap_start", str),
    ("tenancy", "tenancy", str),
    ("dead letters", "dead_letter_arn", lambda value: value or "dropped"),
    ("secrets", "secrets", lambda value: ", ".join(value) or "none"),
    ("keys", "keys", lambda value: ", ".join(value) or "none"),
    ("sealed with", "kms_key_arn", lambda value: value or "the service's own"),
    ("tenant", "tenant", str),
    ("description", "description", lambda value: value or "none"),
)


def changes(before: FunctionDescription, after: FunctionDescription) -> list[tuple[str, str]]:
    """Label and text of each thing that differs."""
    rows = [
        (label, f"{show(getattr(before, key))} → {show(getattr(after, key))}")
        for label, key, show in COMPARED
        if getattr(before, key) != getattr(after, key)
    ]
    if before.environment != after.environment:
        rows.append(("environment", _environment_change(before.environment, after.environment)))
    if before.code_sha256 != after.code_sha256:
        old, new = (f"{it.code_sha256[:12]} ({size(it.code_size)})" for it in (before, after))
        rows.append(("code", f"{old} → {new}"))
    return rows or [("", "nothing changed")]


def print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"  {label:<{width}}  {text}" if label else f"  {text}")


def _environment_change(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Keys alone: values may be secrets, and this goes into the logs of whoever deploys."""
    marks = [(f"+{key}" if key not in old else f"-{key}") for key in sorted(old.keys() ^ new.keys())]
    marks += [f"{key} changed" for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]
    return ", ".join(marks)
