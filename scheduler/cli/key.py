"""`scheduler key`: the access keys with which clients of AWS sign their requests to the HTTP API."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler import tokens
from scheduler.accesskeys import AccessKeys, AccessKeysBroken
from scheduler.cli.common import Command, CommandGroup, emit_json, json_option, note, shared_of, stdout_console
from scheduler.keyring import Keyring, KeyringBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.accesskeys import AccessKey

__all__ = ["key_command"]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (AccessKeysBroken, KeyringBroken) as error:
        raise click.UsageError(error.message) from None


def _keys(state_dir: Path) -> AccessKeys:
    """Of the service whose state directory this is; the directory is made where there is none."""
    state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    return AccessKeys(state_dir / "access-keys.json", Keyring.open(state_dir / "keyring.json"))


def _rights(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    rights = tuple(part.strip() for part in value.split(",") if part.strip())
    wrong = [right for right in rights if right not in tokens.RIGHTS]
    if wrong or not rights:
        raise click.BadParameter(f"{wrong[0] if wrong else value!r} is not one of {', '.join(tokens.RIGHTS)}")
    return rights


_state_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("state"),
    show_default=True,
    envvar="SCHEDULER_STATE_DIR",
    metavar="DIR",
    help="State directory of the service.",
)


def _map(key: AccessKey) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "rights": list(key.rights), "tenant": key.tenant, "made": key.made}


@click.group(
    "key",
    cls=CommandGroup,
    short_help="Access keys for the AWS-compatible HTTP API.",
    examples=(
        ("a key for deployments", "scheduler key create --name ci --rights invoke,deploy"),
        ("who has which rights", "scheduler key list"),
        ("let it in no more", "scheduler key revoke ci"),
    ),
)
def key_command() -> None:
    """Access keys: with them boto3, the AWS CLI and other clients of AWS sign their requests.

    They lie in the state directory, sealed under its keyring. A running service takes a new key, and refuses a revoked one,
    within two seconds.
    """


@key_command.command(
    "create",
    cls=Command,
    short_help="Make an access key and print it, once.",
    examples=(
        ("for deployments", "scheduler key create --name ci --rights invoke,deploy"),
        ("for one tenant", "scheduler key create --name acme --tenant acme --rights invoke,deploy"),
        ("into the environment", 'eval "$(scheduler key create --name shell --rights invoke,deploy --export)"'),
    ),
)
@click.option("--name", required=True, metavar="N", help="What it is called in the list and in the log.")
@click.option("--tenant", metavar="T", help="Only this tenant's functions; else those of all tenants.")
@click.option(
    "--rights",
    default="invoke,deploy",
    show_default=True,
    metavar="R,...",
    callback=_rights,
    help=f"What it may: {', '.join(tokens.RIGHTS)}.",
)
@click.option("--export", is_flag=True, help="Print lines for a shell to evaluate.")
@_state_option
@json_option
@click.pass_context
def create_command(
    context: click.Context, name: str, tenant: str | None, rights: tuple[str, ...], export: bool, state_dir: Path
) -> None:
    """Make an access key and print it, once: its secret is kept sealed and never shown again."""
    with _errors():
        key = _keys(state_dir).create(name, rights=rights, tenant=tenant)
    if shared_of(context).as_json:
        emit_json({**_map(key), "secret": key.secret})
    elif export:
        click.echo(f"export AWS_ACCESS_KEY_ID={key.id} AWS_SECRET_ACCESS_KEY={key.secret}")
    else:
        click.echo(f"AWS_ACCESS_KEY_ID={key.id}\nAWS_SECRET_ACCESS_KEY={key.secret}")
    note("its secret is shown this once; next: aws --endpoint-url http://127.0.0.1:9000 lambda list-functions")


@key_command.command(
    "list", cls=Command, short_help="List the access keys.", examples=(("all keys", "scheduler key list --state-dir state"),)
)
@_state_option
@json_option
@click.pass_context
def list_command(context: click.Context, state_dir: Path) -> None:
    """List the access keys: ids, names, tenants and rights. Their secrets are not shown."""
    with _errors():
        keys = _keys(state_dir).all()
    if shared_of(context).as_json:
        emit_json([_map(key) for key in keys])
        return
    if not keys:
        note("no access keys; next: scheduler key create --name N")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NAME", "ID", "TENANT", "RIGHTS", "MADE"):
        table.add_column(column, no_wrap=column == "ID")
    for key in keys:
        table.add_row(Text(key.name), key.id, Text(key.tenant or "all"), ", ".join(key.rights), key.made)
    stdout_console().print(table)


@key_command.command("revoke", cls=Command, short_help="Take an access key away.", examples=(("", "scheduler key revoke ci"),))
@click.argument("name", metavar="NAME|ID")
@_state_option
@json_option
@click.pass_context
def revoke_command(context: click.Context, name: str, state_dir: Path) -> None:
    """Take an access key away. A running service refuses what it signs within two seconds."""
    with _errors():
        key = _keys(state_dir).revoke(name)
    if shared_of(context).as_json:
        emit_json({"revoked": _map(key)})
    else:
        click.echo(f"revoked {key.name!r} ({key.id})")
