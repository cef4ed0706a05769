"""`scheduler runtimes`: what functions can be written in on this machine, and what to install for the rest.

It looks at the machine as a service with these settings would, not at a running service, so it needs none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.common import EXIT_USAGE, Command, emit_json, fail, json_option, shared_of, stdout_console
from scheduler.config import CONFIG_ENV, ConfigError, load
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from scheduler.sandboxes.declarations import Declaration
    from scheduler.sandboxes.offers import Offer, Offers

__all__ = ["runtimes_command"]


@click.command(
    "runtimes",
    cls=Command,
    short_help="List what functions can be written in on this machine.",
    examples=(
        ("all of them", "scheduler runtimes"),
        ("with those of your own", "SCHEDULER_RUNTIMES_DIR=/etc/scheduler/runtimes scheduler runtimes"),
        ("names of what is here, for a script", "scheduler runtimes --json | jq -r '.[] | select(.here) | .name'"),
    ),
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The service's file of settings. Also {CONFIG_ENV}; its other variables count too.",
)
@json_option
@click.pass_context
def runtimes_command(context: click.Context, config_file: Path | None) -> None:
    """List the runtimes that a service with these settings offers on this machine, and what to install for those it does not.

    A runtime is a small file; docs/runtimes.md tells how to add one of your own.
    """
    from scheduler.sandboxes.declarations import read_declarations
    from scheduler.sandboxes.offers import find_offers

    try:
        settings = load({}, os.environ, config_file)
        offers = find_offers(read_declarations(settings.runtimes_dir))
    except ConfigError as error:
        fail(f"BadRequest: {'; '.join(error.problems)}; next: scheduler serve -h", EXIT_USAGE)
    except SchedulerError as error:
        fail(f"{type(error).__name__}: {error.message}; next: see docs/runtimes.md", EXIT_USAGE)
    if shared_of(context).as_json:
        emit_json([*map(_here, offers.here.values()), *map(_missing, offers.missing.values())])
    else:
        _show(offers)


def _here(offer: Offer) -> dict[str, Any]:
    return {
        **_declared(offer.declaration),
        "here": True,
        "version": _version(offer) or None,
        "executable": (offer.fork or offer.exec).executable or None,
        "clients": sorted(offer.clients),
    }


def _missing(declaration: Declaration) -> dict[str, Any]:
    return {**_declared(declaration), "here": False, "version": None, "executable": None, "clients": []}


def _declared(declaration: Declaration) -> dict[str, Any]:
    return {
        "name": declaration.name,
        "title": declaration.title,
        "kind": declaration.kind,
        "streaming": declaration.streaming,
        "install": declaration.install,
        "file": str(declaration.file),
    }


def _version(offer: Offer) -> str:
    return ".".join(map(str, offer.version)) if any(offer.version) else ""


def _show(offers: Offers) -> None:
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for name, offer in offers.here.items():
        where = (offer.fork or offer.exec).executable or offer.declaration.title
        table.add_row(Text("here", style="green"), Text(name), Text(_version(offer)), Text(where))
    for name, declaration in offers.missing.items():
        table.add_row(
            Text("not here", style="yellow"), Text(name), "", Text(declaration.install or "no word on how to install it")
        )
    console.print(table)
