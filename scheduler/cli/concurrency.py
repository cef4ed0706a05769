"""`scheduler concurrency`: what is reserved for a function and what is kept initialised of it, shown and changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.common import Command, connected, emit_json, function_argument, shared_of, shared_options

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["concurrency_command"]


def _window(text: str) -> dict[str, Any]:
    """`CRON for MINUTES is COUNT [in ZONE]`. UsageError."""
    cron, found, rest = text.partition(" for ")
    minutes, also, count = rest.partition(" is ")
    count, _, zone = count.partition(" in ")
    if not found or not also or not minutes.strip().isdecimal() or not count.strip().isdecimal():
        raise click.UsageError(f"--window: {text!r} is not 'CRON for MINUTES is COUNT', as '0 8 * * mon-fri for 600 is 5'")
    made: dict[str, Any] = {"cron": cron.strip(), "minutes": int(minutes), "count": int(count)}
    return {**made, "zone": zone.strip()} if zone else made


def _count(_: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "none":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is no whole number and not none", param=param)
    return int(value)


@click.command(
    "concurrency",
    cls=Command,
    short_help="Show or change what is reserved and provisioned.",
    examples=(
        ("what is reserved and provisioned, and how far it has come", "scheduler concurrency hello"),
        ("three initialised sandboxes of a version, always", "scheduler concurrency hello:2 --provisioned 3"),
        (
            "five on workdays from eight on, for ten hours; one otherwise",
            'scheduler concurrency hello --provisioned 1 --window "0 8 * * mon-fri for 600 is 5 in Europe/Berlin"',
        ),
        ("no more", "scheduler concurrency hello:2 --provisioned none"),
    ),
)
@function_argument
@click.option("--provisioned", callback=_count, metavar="N", help="Sandboxes to keep initialised; none takes it away.")
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="TEXT",
    help="'CRON for MINUTES is COUNT [in ZONE]': from each match on COUNT holds instead; repeat it for more.",
)
@shared_options
@click.pass_context
def concurrency_command(context: click.Context, name: str, provisioned: int | str | None, windows: tuple[str, ...]) -> None:
    """Show or change what is reserved and provisioned.

    NAME is a function's name, NAME:VERSION or NAME:ALIAS. Provisioned sandboxes are counted in memory and concurrency
    whether or not calls come; calls beyond them run in further ones. With --json: the service's answer.
    """
    shared = shared_of(context)
    shared.name = name
    if windows and not isinstance(provisioned, int):
        raise click.UsageError("--window goes with --provisioned N: what holds while no window is open")
    made = [_window(text) for text in windows]
    with connected(context) as client:
        if provisioned is None:
            shown = client.concurrency(name)
        else:
            shown = client.provision(name, None if provisioned == "none" else int(provisioned), windows=made)
    if shared.as_json:
        return emit_json(shown)
    for line in _lines(shown):
        click.echo(line)
    return None


def _lines(shown: Mapping[str, Any]) -> list[str]:
    reserved = shown["reserved"]
    lines = [f"reserved     {'nothing' if reserved is None else f'{reserved} calls at once'}"]
    if not shown["provisioned"]:
        return [*lines, "provisioned  nothing"]
    for config in shown["provisioned"]:
        reason = f": {config['reason']}" if config["reason"] else ""
        lines.append(
            f"provisioned  {config['qualifier']}: {config['available']} of {config['requested']} ready, "
            f"{config['allocated']} allocated, {config['status']}{reason}"
        )
        lines += [
            f"             {w['cron']} ({w['zone']}) for {w['minutes']} minutes: {w['count']}; else {config['count']}"
            for w in config["windows"]
        ]
    return lines
