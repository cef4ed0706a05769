"""`scheduler env`: variables encrypted before anybody but their function can read them."""

from __future__ import annotations

import base64
import sys
from typing import Any

import click

from scheduler.cli.aws import ask
from scheduler.cli.common import Command, CommandGroup, connected, emit_json, note, shared_of, shared_options

__all__ = ["env_command"]


@click.group(
    "env",
    cls=CommandGroup,
    short_help="Encrypt variables of a function's environment.",
    examples=(("a value that only hello's code can read", "scheduler env encrypt --function hello DB_PASSWORD"),),
)
def env_command() -> None:
    """Variables of a function's environment that stand in its configuration encrypted, as Lambda's console makes them.

    The function's code opens them with a client of KMS and the context LambdaFunctionName, once, while it is loaded.
    """


@env_command.command(
    "encrypt",
    cls=Command,
    short_help="Encrypt values for one function.",
    examples=(
        ("read from stdin", "scheduler env encrypt --function hello DB_PASSWORD <password.txt"),
        ("of a file, with a key of its own", "scheduler env encrypt --function hello --key alias/hello TLS_KEY=@key.pem"),
        ("several", "scheduler env encrypt --function hello A=@a.txt B=@b.txt"),
    ),
)
@click.argument("pairs", nargs=-1, required=True, metavar="KEY[=VALUE|=@FILE]...")
@click.option("--function", "function", required=True, metavar="NAME", help="The function whose code is to open them.")
@click.option(
    "--key", default="alias/default", show_default=True, metavar="K", help="Key of the KMS endpoint: id, ARN or alias."
)
@click.option("--tenant", metavar="T", help="The function's tenant, for who may use several.")
@shared_options
@click.pass_context
def encrypt_command(context: click.Context, pairs: tuple[str, ...], function: str, key: str, tenant: str | None) -> None:
    """Encrypt values for one function, and print KEY=TEXT for --env of deploy and update.

    KEY alone takes its value from stdin. KEY=VALUE works too, but other users can read command lines. The function needs the
    key among its keys (--key of deploy and update). Under another name it cannot open them.
    """
    plain = dict(_read(pair) for pair in pairs)
    found: dict[str, str] = {}
    with connected(context) as client:
        for name, value in plain.items():
            values: dict[str, Any] = {
                "KeyId": key,
                "Plaintext": base64.b64encode(value).decode(),
                "EncryptionContext": {"LambdaFunctionName": function},
            }
            found[name] = ask(client, "TrentService", "Encrypt", values, tenant)["CiphertextBlob"]
    if shared_of(context).as_json:
        return emit_json(found)
    for name, text in found.items():
        click.echo(f"{name}={text}")
    note(f"next: scheduler update {function} --key {key} --env {next(iter(found))}=...")
    return None


def _read(pair: str) -> tuple[str, bytes]:
    name, equals, text = pair.partition("=")
    if not name:
        raise click.UsageError(f"{pair[:32]!r} is not KEY, KEY=VALUE or KEY=@FILE")
    if not equals:
        data = sys.stdin.buffer.read(4097)
    elif text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                data = file.read(4097)
        except OSError as error:
            raise click.UsageError(f"{name}: {text[1:]} cannot be read: {error.strerror}") from error
    else:
        data = text.encode()
    data = data.removesuffix(b"\n") if not equals or text.startswith("@") else data
    if not 0 < len(data) <= 4096:
        raise click.UsageError(f"{name}: the value has {len(data)} bytes, 1 to 4096 are possible")
    return name, data
