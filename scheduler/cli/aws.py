"""Operations of KMS, Secrets Manager and SSM over the protocol, for commands.

Law of this file: one call and its error; it knows no command.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler import limits
from scheduler.cli.common import EXIT_REFUSED, fail, reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.client.blocking import BlockingClient

__all__ = ["ask", "read_secret"]

VALUE_BYTES_MAX: Final = limits.SECRET_BYTES_MAX


def ask(
    client: BlockingClient, target: str, operation: str, values: Mapping[str, Any], tenant: str | None = None
) -> dict[str, Any]:
    """The operation's answer; ends the command with the service's error."""
    request = {"target": target, "operation": operation, "input": dict(values)} | ({"tenant": tenant} if tenant else {})
    said = client.call("aws.call", [request])
    if said.get("error"):
        fail(f"{said['error']}: {said['message'] or operation}", EXIT_REFUSED)
    body: dict[str, Any] = said["body"] or {}
    return body


def read_secret(file: str | None, what: str) -> bytes:
    """A value from a file, from stdin, or typed where nobody sees it; never from the command line, which others can read. One
    newline at its end is not part of it. UsageError."""
    if file is not None and file != "-":
        try:
            with Path(file).open("rb") as opened:
                data = opened.read(VALUE_BYTES_MAX + 2)
        except OSError as error:
            raise click.UsageError(f"--file {file}: cannot be read: {reason(error)}") from error
    elif file is None and sys.stdin.isatty():
        data = click.prompt(what, hide_input=True, confirmation_prompt=True, err=True).encode()
    else:
        data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 2)
    if data.endswith(b"\n"):
        data = data[:-1].removesuffix(b"\r")
    if not 0 < len(data) <= VALUE_BYTES_MAX:
        raise click.UsageError(f"the value has {len(data)} bytes, 1 to {VALUE_BYTES_MAX} are possible")
    return data
