"""`scheduler update`: change a function's configuration, and say what changed."""

from __future__ import annotations

from typing import Any

import click

from scheduler.cli.common import Command, connected, emit_json, function_argument, shared_of, shared_options
from scheduler.cli.configuration import changes, configuration_options, print_rows, read_environment
from scheduler.cli.masking import masked, warn

__all__ = ["update_command"]


@click.command(
    "update",
    cls=Command,
    short_help="Change a function's configuration.",
    examples=(
        ("more memory, a longer timeout", "scheduler update hello --memory 512 --timeout 30"),
        (
            "other variables: all of them, since they replace those before",
            "scheduler update hello --env STAGE=prod --env LEVEL=2",
        ),
        ("stop it, and let it run again", "scheduler update hello --reserved-concurrency 0"),
        ("", "scheduler update hello --reserved-concurrency none"),
        (
            "only if nobody has changed it since one looked",
            'scheduler update hello --memory 256 --revision-id "$(scheduler describe hello --json | jq -r .revision_id)"',
        ),
    ),
)
@function_argument
@click.option("--handler", metavar="MOD.FN", help="Module and function to call.")
@configuration_options
@click.option("--revision-id", metavar="ID", help="Refuse if the function is at another revision than this.")
@shared_options
@click.pass_context
def update_command(
    context: click.Context,
    /,
    name: str,
    handler: str | None,
    pairs: tuple[str, ...],
    no_env: bool,
    revision_id: str | None,
    **settings: Any,
) -> None:
    """Change a function's configuration. Its code stays: that is what deploy replaces.

    Calls in flight end as they began; the next ones run with what is new. What is not given stays as it is; published
    versions never change. With --json: the description.
    """
    shared = shared_of(context)
    shared.name = name
    given = {"handler": handler, "environment": read_environment(pairs, no_env), **settings}
    warn(given["environment"])
    if all(value is None for value in given.values()):
        raise click.UsageError("nothing to change: give at least one option, as --memory 512")
    with connected(context) as client:
        before = client.get(name)
        after = client.update(name, revision_id=revision_id, **given)
    if shared.as_json:
        return emit_json(masked(after.raw))
    click.echo(f"updated {after.name} (revision {after.revision})")
    print_rows(changes(before, after))
    return None
