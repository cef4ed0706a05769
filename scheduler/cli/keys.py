"""`scheduler keys`: the keys that environments and secrets are sealed under."""

from __future__ import annotations

import click

from scheduler.cli.common import Command, CommandGroup, connected, emit_json, note, shared_of, shared_options, stdout_console

__all__ = ["keys_command"]


@click.group(
    "keys",
    cls=CommandGroup,
    short_help="Keys that environments and secrets are sealed under.",
    examples=(
        ("which there are", "scheduler keys list"),
        ("a newer one, for all that is sealed", "scheduler keys rotate"),
        ("the same after a leak: older ones are destroyed", "scheduler keys rotate --retire"),
    ),
)
def keys_command() -> None:
    """The keys that environments and secrets are sealed under: those of the file keyring.json, or of a key server.

    Each environment is sealed under a data key of its own, which is stored beside it wrapped by one of these. Access keys for
    clients of AWS are another thing: scheduler key.
    """


@keys_command.command(
    "list", cls=Command, short_help="List them, and what is under each.", examples=(("", "scheduler keys list"),)
)
@shared_options
@click.pass_context
def list_command(context: click.Context) -> None:
    """List the keys, newest last, with the number of data keys that each wraps. Keys themselves are not shown."""
    with connected(context) as client:
        answer = client.call("keys.list", [])
    if shared_of(context).as_json:
        return emit_json(answer)
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("KEY", "MADE", "DATA KEYS", ""):
        table.add_column(column, justify="right" if column == "DATA KEYS" else "left", overflow="fold")
    for key in answer["keys"]:
        table.add_row(key["id"], key["made"], f"{key['data_keys']:,}", "wraps now" if key["current"] else "")
    stdout_console().print(table, markup=False)
    for key, count in sorted(answer["elsewhere"].items()):
        note(f"{count:,} data keys under {key}")
    return None


@keys_command.command(
    "rotate",
    cls=Command,
    short_help="Make a newer key and wrap all data keys with it.",
    examples=(("", "scheduler keys rotate"), ("older ones are destroyed", "scheduler keys rotate --retire")),
)
@click.option(
    "--retire", is_flag=True, help="Destroy the older keys when nothing is under them; copies of old states open no more."
)
@shared_options
@click.pass_context
def rotate_command(context: click.Context, retire: bool) -> None:
    """Make a newer key and wrap every data key with it; what the data keys have sealed is not touched.

    The service goes on meanwhile. If it is ended in between, it does the rest at its next start.
    """
    with connected(context) as client:
        answer = client.call("keys.rotate", [{"retire": True}] if retire else [])
    if shared_of(context).as_json:
        return emit_json(answer)
    click.echo(f"key {answer['key']} wraps {answer['wrapped']:,} data keys anew, access keys: {answer['resealed']}")
    if answer["failed"]:
        note(f"{answer['failed']:,} functions stay under another key: theirs could not be had; the service's log says why")
    if retire:
        click.echo(f"destroyed {answer['retired']:,} older keys")
    return None
