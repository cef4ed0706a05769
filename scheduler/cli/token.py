"""`scheduler token create | list | revoke`: the service's token file, edited in place.

It works on the file, not on a running service: the service reads it anew when it changes. A token's text is shown once and
kept nowhere; the file has its hash.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler import tokens
from scheduler.cli.common import Command, CommandGroup, emit_json, json_option, note, shared_of, stdout_console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["token_command"]

FILE_ENV: Final = "SCHEDULER_TOKEN_FILE"


@click.group(
    "token",
    cls=CommandGroup,
    short_help="Make, list and revoke the tokens of the service's token file.",
    examples=(
        (
            "a token for a client that only invokes",
            "scheduler token create --name web --rights invoke --token-file tokens.toml",
        ),
        ("who has which rights", "scheduler token list --token-file tokens.toml"),
        ("let it in no more", "scheduler token revoke web --token-file tokens.toml"),
    ),
)
def token_command() -> None:
    """Make, list and revoke the tokens of the service's token file.

    A client presents a token where it connects over TCP (--token-file); on the Unix socket the kernel says who it is. Each
    token names its rights, and perhaps the one tenant whose functions it is for.
    """


def _file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--token-file",
        "file",
        metavar="F",
        type=click.Path(path_type=Path),
        help=f"The service's token file. Also {FILE_ENV}, the service's own setting.",
    )(command)


def _file(given: Path | None) -> Path:
    told = given or (Path(os.environ[FILE_ENV]) if os.environ.get(FILE_ENV) else None)
    if told is None:
        raise click.UsageError(f"--token-file is needed: the file that the service is started with (or set {FILE_ENV})")
    return told


def _rights(_: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    given = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    wrong = [right for right in given if right not in tokens.RIGHTS]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not one of {', '.join(tokens.RIGHTS)}", param=param)
    return given


def _complete_token(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    try:
        rows = tokens.read_rows(_file(context.params.get("file")))
    except (tokens.TokenFileBroken, click.UsageError):
        return []
    return [row.name for row in rows if row.name.startswith(incomplete)]


def _complete_rights(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{right}" for right in tokens.RIGHTS if right.startswith(last) and right not in before.split(",")]


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """A local file that is wrong is the caller's to mend: exit code 2, as of a wrong option."""
    try:
        yield
    except tokens.TokenFileBroken as error:
        raise click.UsageError(error.message) from None


def _map(row: tokens.TokenRow) -> dict[str, Any]:
    return {"name": row.name, "tenant": row.tenant, "rights": list(row.rights), "sha256": row.sha256}


@token_command.command(
    "create",
    cls=Command,
    short_help="Make a token and print it, once.",
    examples=(
        (
            "for a client that only invokes",
            "scheduler token create --name web --rights invoke --token-file tokens.toml > web.token",
        ),
        ("for one tenant's deployments", "scheduler token create --name ci --tenant acme --rights invoke,deploy"),
        ("then, on the client", "scheduler --socket tls://HOST:7070 --token-file web.token invoke hello '{}'"),
    ),
)
@click.option("--name", required=True, metavar="N", help="What it is called in the list, in the log and to revoke it.")
@click.option("--tenant", metavar="T", help="Only this tenant's functions; else those of all tenants.")
@click.option(
    "--rights",
    required=True,
    metavar="R,...",
    callback=_rights,
    shell_complete=_complete_rights,
    help=f"What it may: {', '.join(tokens.RIGHTS)}; more than one separated by commas.",
)
@_file_option
@json_option
@click.pass_context
def create_command(context: click.Context, name: str, tenant: str | None, rights: tuple[str, ...], file: Path | None) -> None:
    """Make a token and print it, once: the file keeps its hash alone.

    The file is made (readable by its owner only) where there is none. A running service takes the new token at once.
    """
    path = _file(file)
    token = tokens.new_token()
    row = tokens.TokenRow(name, tokens.digest(token), rights, tenant)
    problem = row.problem()
    if problem:
        raise click.UsageError(f"--{problem}")
    new = not path.exists()
    with _errors():
        tokens.append(path, row)
    if shared_of(context).as_json:
        emit_json({"token": token, **_map(row), "file": str(path)})
    else:
        click.echo(token)
    note(f"added {name!r} to {path}; its text is kept nowhere else, so put it where its client finds it")
    if new:
        note(f"next: scheduler serve --tcp HOST:PORT --token-file {path} --tls-cert-file CERT --tls-key-file KEY")


@token_command.command(
    "list",
    cls=Command,
    short_help="List the tokens.",
    examples=(
        ("all tokens", "scheduler token list --token-file tokens.toml"),
        ("who may deploy", "scheduler token list --json | jq -r '.[] | select(.rights | index(\"deploy\")).name'"),
    ),
)
@_file_option
@json_option
@click.pass_context
def list_command(context: click.Context, file: Path | None) -> None:
    """List the tokens: names, tenants and rights. Their texts cannot be shown, for nobody has them."""
    path = _file(file)
    with _errors():
        rows = tokens.read_rows(path)
    if shared_of(context).as_json:
        return emit_json([_map(row) for row in rows])
    if not rows:
        note(f"no tokens in {path}; next: scheduler token create --name N --rights invoke --token-file {path}")
        return None
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("NAME", overflow="fold", style="bold")
    table.add_column("TENANT", overflow="fold")
    table.add_column("RIGHTS", overflow="fold")
    table.add_column("SHA256", no_wrap=True)
    for row in rows:
        table.add_row(Text(row.name), Text(row.tenant or "all"), ", ".join(row.rights), row.sha256[:12])
    stdout_console().print(table)
    return None


@token_command.command(
    "revoke",
    cls=Command,
    short_help="Take a token out of the file.",
    examples=(("", "scheduler token revoke web --token-file tokens.toml"),),
)
@click.argument("name", metavar="NAME", shell_complete=_complete_token)
@_file_option
@json_option
@click.pass_context
def revoke_command(context: click.Context, name: str, file: Path | None) -> None:
    """Take a token out of the file.

    A running service refuses it at once, and closes the connections it had let in within two seconds.
    """
    path = _file(file)
    with _errors():
        names = [row.name for row in tokens.read_rows(path)]
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"{path} has no token called {name!r}.{hint}")
        row = tokens.remove(path, name)
    if shared_of(context).as_json:
        emit_json({"revoked": _map(row)})
    else:
        click.echo(f"revoked {row.name!r}")
