"""`scheduler secrets`: what functions need to know and nobody else."""

from __future__ import annotations

import base64
import secrets as dice
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.aws import ask, read_secret
from scheduler.cli.common import Command, CommandGroup, connected, emit_json, note, shared_of, shared_options, stdout_console
from scheduler.cli.text import age

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["secrets_command"]

SM = "secretsmanager"

tenant_option = click.option("--tenant", metavar="T", help="Whose secrets, for who may use those of several tenants.")
file_option = click.option("--file", metavar="FILE", help="Take the value from this file; - is stdin.")


def _name(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("name", metavar="NAME")(command)


@click.group(
    "secrets",
    cls=CommandGroup,
    short_help="Passwords and keys that functions may ask for.",
    examples=(
        ("a new one, typed where nobody sees it", "scheduler secrets put db/password"),
        ("from a file, or from another program", "scheduler secrets put db/password --file password.txt"),
        ("let a function ask for it", "scheduler update hello --secret db/password"),
        ("another value; the one before stays AWSPREVIOUS", "scheduler secrets rotate db/password --generate 32"),
    ),
)
def secrets_command() -> None:
    """Secrets: sealed in the service's store, with versions and stages as in AWS's Secrets Manager.

    A function asks for those that its configuration names (secrets = [...]) at http://localhost:2773, as with AWS's Parameters
    and Secrets extension, or with a client of AWS. Values are never taken from the command line, which other users can read.
    """


def _value(data: bytes, binary: bool) -> dict[str, Any]:
    """As SecretString where it is text."""
    if not binary:
        try:
            return {"SecretString": data.decode()}
        except UnicodeDecodeError:
            raise click.UsageError("the value is no text in UTF-8; --binary keeps it as it is") from None
    return {"SecretBinary": base64.b64encode(data).decode()}


@secrets_command.command(
    "put",
    cls=Command,
    short_help="Make a secret, or give it another value.",
    examples=(
        ("typed where nobody sees it", "scheduler secrets put db/password"),
        ("from a program", "pass show db | scheduler secrets put db/password"),
        ("to be tried before it is in use", "scheduler secrets put db/password --stage AWSPENDING --file new.txt"),
    ),
)
@_name
@file_option
@click.option("--binary", is_flag=True, help="The value is bytes, not text.")
@click.option("--stage", "stages", multiple=True, metavar="S", help="Stages of the new version; AWSCURRENT.")
@click.option("--description", metavar="TEXT", help="What it is for; of a new secret.")
@click.option("--key", metavar="K", help="A key of the KMS endpoint to seal it under; of a new secret.")
@tenant_option
@shared_options
@click.pass_context
def put_command(
    context: click.Context,
    name: str,
    file: str | None,
    binary: bool,
    stages: tuple[str, ...],
    description: str | None,
    key: str | None,
    tenant: str | None,
) -> None:
    """Make a secret, or give it another value: from a file, from stdin, or typed."""
    value = _value(read_secret(file, f"value of {name}"), binary)
    with connected(context) as client:
        known = client.call(
            "aws.call",
            [
                {"target": SM, "operation": "DescribeSecret", "input": {"SecretId": name}}
                | ({"tenant": tenant} if tenant else {})
            ],
        )
        if known.get("error") == "ResourceNotFoundException":
            more = {"Description": description, "KmsKeyId": key}
            made = ask(client, SM, "CreateSecret", {"Name": name, **value, **{k: v for k, v in more.items() if v}}, tenant)
            verb = "created"
        else:
            made = ask(
                client,
                SM,
                "PutSecretValue",
                {"SecretId": name, **value} | ({"VersionStages": list(stages)} if stages else {}),
                tenant,
            )
            verb = "changed"
    if shared_of(context).as_json:
        return emit_json(made)
    click.echo(f"{verb} {name} (version {made['VersionId']})")
    if verb == "created":
        note(f"next: scheduler update FUNCTION --secret {name}")
    return None


@secrets_command.command(
    "get",
    cls=Command,
    short_help="Print a secret's value.",
    examples=(
        ("for a program", "scheduler secrets get db/password | psql-with-password"),
        ("the one before", "scheduler secrets get db/password --stage AWSPREVIOUS --show"),
    ),
)
@_name
@click.option("--stage", metavar="S", help="AWSCURRENT, AWSPREVIOUS, AWSPENDING or one of your own.")
@click.option("--version", "version_id", metavar="V", help="Its id.")
@click.option("--show", is_flag=True, help="Print it on a terminal too.")
@tenant_option
@shared_options
@click.pass_context
def get_command(
    context: click.Context, name: str, stage: str | None, version_id: str | None, show: bool, tenant: str | None
) -> None:
    """Print a secret's value, without a newline at its end. On a terminal --show is needed: others may look on."""
    as_json = shared_of(context).as_json
    if sys.stdout.isatty() and not show:
        raise click.UsageError("stdout is a terminal, where others may look on; --show prints it all the same")
    values = {"SecretId": name}
    values |= {"VersionStage": stage} if stage else {}
    values |= {"VersionId": version_id} if version_id else {}
    with connected(context) as client:
        said = ask(client, SM, "GetSecretValue", values, tenant)
    if as_json:
        return emit_json(said)
    data = said["SecretString"].encode() if "SecretString" in said else base64.b64decode(said["SecretBinary"])
    click.echo(data, nl=sys.stdout.isatty())
    return None


@secrets_command.command(
    "list", cls=Command, short_help="List the secrets; no values.", examples=(("", "scheduler secrets list"),)
)
@tenant_option
@shared_options
@click.pass_context
def list_command(context: click.Context, tenant: str | None) -> None:
    """List the secrets: names, stages, and when they changed. Their values are not shown."""
    rows: list[dict[str, Any]] = []
    with connected(context) as client:
        values: dict[str, Any] = {}
        while True:
            said = ask(client, SM, "ListSecrets", values, tenant)
            rows += said["SecretList"]
            if "NextToken" not in said:
                break
            values = {"NextToken": said["NextToken"]}
    if shared_of(context).as_json:
        return emit_json(rows)
    if not rows:
        note("no secrets; next: scheduler secrets put NAME")
        return None
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NAME", "STAGES", "CHANGED", "DESCRIPTION"):
        table.add_column(column, overflow="fold")
    for row in rows:
        stages = sorted({stage for given in row["SecretVersionsToStages"].values() for stage in given})
        changed = datetime.fromtimestamp(row["LastChangedDate"], UTC).isoformat()
        table.add_row(row["Name"], ", ".join(stages), age(changed), row["Description"])
    stdout_console().print(table, markup=False)
    return None


@secrets_command.command(
    "rotate",
    cls=Command,
    short_help="Give a secret another value; the one before stays AWSPREVIOUS.",
    examples=(
        ("typed", "scheduler secrets rotate db/password"),
        ("made here, of 32 letters and digits", "scheduler secrets rotate db/password --generate 32"),
        ("take the one that was tried as AWSPENDING", "scheduler secrets rotate db/password --pending"),
    ),
)
@_name
@file_option
@click.option("--generate", type=click.IntRange(8, 4096), metavar="N", help="Make one of N random letters and digits.")
@click.option("--pending", is_flag=True, help="Take the version at AWSPENDING.")
@tenant_option
@shared_options
@click.pass_context
def rotate_command(
    context: click.Context, name: str, file: str | None, generate: int | None, pending: bool, tenant: str | None
) -> None:
    """Give a secret another value. Functions get it when their cache has run out, after 5 minutes at most."""
    if sum((file is not None, generate is not None, pending)) > 1:
        raise click.UsageError("--file, --generate and --pending exclude each other")
    with connected(context) as client:
        if pending:
            shown = ask(client, SM, "DescribeSecret", {"SecretId": name}, tenant)
            at = {stage: version for version, stages in shown["VersionIdsToStages"].items() for stage in stages}
            if "AWSPENDING" not in at:
                raise click.UsageError(f"{name} has no version at AWSPENDING; scheduler secrets put {name} --stage AWSPENDING")
            moved = {"SecretId": name, "VersionStage": "AWSCURRENT", "MoveToVersionId": at["AWSPENDING"]}
            if at.get("AWSCURRENT") not in (None, at["AWSPENDING"]):
                moved["RemoveFromVersionId"] = at["AWSCURRENT"]
            made = {**ask(client, SM, "UpdateSecretVersionStage", moved, tenant), "VersionId": at["AWSPENDING"]}
        else:
            data = _random(generate) if generate else read_secret(file, f"new value of {name}")
            made = ask(client, SM, "PutSecretValue", {"SecretId": name, **_value(data, False)}, tenant)
    if shared_of(context).as_json:
        return emit_json(made)
    click.echo(f"rotated {name} (version {made['VersionId']})")
    return None


def _random(count: int) -> bytes:
    letters = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none that are taken for others
    return "".join(dice.choice(letters) for _ in range(count)).encode()


@secrets_command.command(
    "remove",
    cls=Command,
    short_help="Remove a secret; it can be restored for a while.",
    examples=(
        ("for good, at once", "scheduler secrets remove old --now"),
        ("it is needed after all", "scheduler secrets remove old --restore"),
    ),
)
@_name
@click.option("--days", type=click.IntRange(7, 30), default=30, show_default=True, help="It can be restored that long.")
@click.option("--now", is_flag=True, help="For good, at once.")
@click.option("--restore", is_flag=True, help="Take back that it was removed.")
@tenant_option
@shared_options
@click.pass_context
def remove_command(context: click.Context, name: str, days: int, now: bool, restore: bool, tenant: str | None) -> None:
    """Remove a secret. Functions are refused it at once; it can be restored for a while."""
    if now and restore:
        raise click.UsageError("--now and --restore exclude each other")
    with connected(context) as client:
        if restore:
            made = ask(client, SM, "RestoreSecret", {"SecretId": name}, tenant)
        else:
            values = {"ForceDeleteWithoutRecovery": True} if now else {"RecoveryWindowInDays": days}
            made = ask(client, SM, "DeleteSecret", {"SecretId": name, **values}, tenant)
    if shared_of(context).as_json:
        return emit_json(made)
    click.echo(f"{'restored' if restore else 'removed'} {name}")
    if not now and not restore:
        note(f"for {days} days: scheduler secrets remove {name} --restore")
    return None
