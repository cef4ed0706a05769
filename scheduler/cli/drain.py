"""`scheduler drain`: end a service in order."""

from __future__ import annotations

import sys

import click

from scheduler.cli.common import EXIT_USAGE, Command, connected, emit_json, fail, shared_of, shared_options

__all__ = ["drain_command"]


@click.command(
    "drain",
    cls=Command,
    short_help="Let running calls finish, then end the service.",
    examples=(
        ("ask first (on a terminal)", "scheduler drain"),
        ("in a script, waiting a minute at most", "scheduler drain --yes --grace-ms 60000"),
        ("end the service now", "scheduler drain --yes --grace-ms 0"),
    ),
)
@click.option(
    "--grace-ms",
    type=click.IntRange(0, 900_000),
    metavar="N",
    help="How long running calls may finish; else the service's setting drain_grace_ms.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@shared_options
@click.pass_context
def drain_command(context: click.Context, grace_ms: int | None, yes: bool) -> None:
    """Let running calls finish, then end the service.

    New calls are refused at once, running ones finish within the grace; those that do not are ended and their callers told.
    The service then exits with code 0. It is what SIGTERM does, and needs the right admin. On a terminal it asks, unless
    --yes is given. With --json: {"drained": true} where every call ended by itself, else false.
    """
    with connected(context) as client:
        if not yes and sys.stdin.isatty() and sys.stderr.isatty():
            executing = sum(function.executing for function in client.stats().functions)
            running = f"{executing:,} call{'' if executing == 1 else 's'} running"
            if not click.confirm(f"End the service at {shared_of(context).target()} ({running})?", err=True):
                fail("the service was not ended", EXIT_USAGE)
        drained = client.drain(grace_ms=grace_ms).get("drained") is True
    if shared_of(context).as_json:
        emit_json({"drained": drained})
    elif drained:
        click.echo("drained: every call ended by itself; the service ends")
    else:
        click.echo("drained: calls that outlived the grace were ended; the service ends")
