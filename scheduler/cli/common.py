"""What every command shares: the options that may stand before or after it, where the service is looked for, how an answer
and an error are shown, and the class that gives each command its man-like help.

What must not live here: anything about one command.

Rules of output. The answer goes to stdout and nothing else does; progress, reports and errors go to stderr. An error is one
line: its type, what happened, and the next step. With `--json` stdout is one JSON document (or one a line where it is a
stream). Colour and live drawing only on a terminal, and no colour where NO_COLOR is set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, TypeVar, cast

import click

from scheduler.errors import SchedulerError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from scheduler.client import BlockingClient, FunctionDescription

__all__ = [
    "EXIT_FUNCTION_FAILED",
    "EXIT_REFUSED",
    "EXIT_USAGE",
    "Command",
    "CommandGroup",
    "Shared",
    "connected",
    "emit_json",
    "error_line",
    "fail",
    "function_argument",
    "json_option",
    "note",
    "reason",
    "shared_options",
    "stderr_console",
    "stdout_console",
]

EXIT_FUNCTION_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_REFUSED: Final = 3

SOCKET_ENV: Final = "SCHEDULER_SOCKET"
TOKEN_FILE_ENV: Final = "SCHEDULER_CLIENT_TOKEN_FILE"
TLS_CA_ENV: Final = "SCHEDULER_CLIENT_TLS_CA_FILE"
PLAIN_WIDTH: Final = 10_000  # no terminal: nothing is cut and nothing wrapped, for a script reads it

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(slots=True)
class Shared:
    """The shared options as given, before or after the command; after wins."""

    socket: str | None = None
    token_file: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    as_json: bool = False
    name: str | None = None  # the function the command is about, for the next step of an error

    def find(self) -> str | None:
        """Where the service is: told, or found; None where nothing is."""
        told = self.socket or os.environ.get(SOCKET_ENV)
        if told:
            return told
        for path in default_sockets():
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    return str(path)
        return None

    def target(self) -> str:
        """As `find`; ends the command where there is nothing."""
        found = self.find()
        if found is None:
            looked = ", ".join(str(path.absolute()) for path in default_sockets())
            fail(
                f"Unavailable: no service found (looked for {looked}); "
                "next: scheduler serve --state-dir state, or name its socket with --socket"
            )
        return found

    def token(self) -> str | None:
        path = self.token_file or os.environ.get(TOKEN_FILE_ENV)
        if not path:
            return None
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file {path}: cannot be read: {reason(error)}") from error

    def access(self, target: str) -> dict[str, Any]:
        """How a client is to present and protect itself there: its arguments `token` and `tls`."""
        encrypted = self.tls or self.tls_ca is not None or target.startswith("tls://")
        if not encrypted:
            return {"token": self.token()}
        ca_file = self.tls_ca or os.environ.get(TLS_CA_ENV)
        if not ca_file:
            return {"token": self.token(), "tls": True}
        from scheduler.client.tls import trusting

        try:
            return {"token": self.token(), "tls": trusting(ca_file)}
        except OSError as error:  # an ssl.SSLError is one
            why = "holds no certificate in PEM" if hasattr(error, "reason") else f"cannot be read: {reason(error)}"
            raise click.UsageError(f"--tls-ca {ca_file}: {why}") from error


def default_sockets() -> tuple[Path, ...]:
    """Where a service is looked for, in this order."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (
        Path("state/scheduler.sock"),
        *([Path(runtime) / "scheduler" / "scheduler.sock"] if runtime else []),
        Path("/run/scheduler/scheduler.sock"),
    )


def reason(error: Exception) -> str:
    """What the system says, without its number and the path, which the line names already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def shared_of(context: click.Context) -> Shared:
    return context.ensure_object(Shared)


def connected(context: click.Context, **options: Any) -> BlockingClient:
    """A client for `with`; a missing or refusing service ends the command with one line and exit code 3."""
    from scheduler.client.blocking import BlockingClient

    shared = shared_of(context)
    target = shared.target()
    try:
        return BlockingClient(target, **shared.access(target), **options)
    except ValueError as error:
        raise click.UsageError(f"--socket: {error}") from error


# -- options


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        shared = shared_of(context)  # made on the group's context even if nothing is given, so that the command's inherits it
        if value:
            setattr(shared, name, value)

    return callback


json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_store("as_json"), help="Print JSON for programs to read."
)


def shared_options(command: F) -> F:
    """`--socket`, `--json` and how to be let in, on the group and on each command that talks to the service."""
    for option in (
        json_option,
        click.option(
            "--tls-ca",
            metavar="FILE",
            expose_value=False,
            callback=_store("tls_ca"),
            help=f"Trust the authorities in this PEM file and no others; implies --tls. Also {TLS_CA_ENV}.",
        ),
        click.option(
            "--tls",
            is_flag=True,
            expose_value=False,
            callback=_store("tls"),
            help="Encrypt the TCP connection, as tls://HOST:PORT does.",
        ),
        click.option(
            "--token-file",
            metavar="FILE",
            expose_value=False,
            callback=_store("token_file"),
            help=f"File with the token to present; needed over TCP. Also {TOKEN_FILE_ENV}.",
        ),
        click.option(
            "--socket",
            metavar="PATH",
            expose_value=False,
            is_eager=True,
            callback=_store("socket"),
            help=f"The service's Unix socket, or tcp:// or tls://HOST:PORT. Also {SOCKET_ENV}; else ./state, the user's "
            "runtime directory and /run/scheduler are searched.",
        ),
    ):
        command = option(command)
    return command


def complete_function(context: click.Context, _: click.Parameter, incomplete: str) -> list[Any]:
    """Names of deployed functions, asked of the running service."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(function.name, help=f"{function.handler}, {function.memory_mb} MB")
        for function in function_names(shared_of(context), incomplete)
    ]


def function_argument(command: F) -> F:
    """The argument NAME: `name`, `name:version` or an ARN; completed from the running service."""
    return click.argument("name", metavar="NAME", shell_complete=complete_function)(command)


# -- help


class WithExamples(click.Command):
    """A command whose help ends in examples: pairs of a purpose and a line to type."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        self.examples = tuple(examples)
        super().__init__(*args, **kwargs)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for purpose, line in self.examples:
                formatter.write(f"  # {purpose}\n  {line}\n" if purpose else f"  {line}\n")
        super().format_epilog(ctx, formatter)


class Command(WithExamples):
    """One command."""


class CommandGroup(WithExamples, click.Group):
    """A family of commands under one name, with a guess where a name is mistyped."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1) if args else []
            if close and "did you mean" not in error.message.lower():
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx=ctx) from None
            raise


# -- output


def stdout_console() -> Console:
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, soft_wrap=False)
    return Console(file=cast("TextIO", _Trimmed()), width=PLAIN_WIDTH, highlight=False, soft_wrap=False)


class _Trimmed:
    """stdout where it is no terminal: tables are padded with blanks at the ends of lines, which scripts and diffs trip over."""

    def write(self, text: str) -> int:
        sys.stdout.write(re.sub(r" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, width=None if sys.stderr.isatty() else PLAIN_WIDTH, highlight=False)


def emit_json(value: Any) -> None:
    """One JSON document on stdout: indented on a terminal, one line otherwise."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    return str(value)


def note(text: str) -> None:
    """A line for the human, beside the answer."""
    click.echo(text, err=True)


# What to do about an error, by its type. `{name}`: the function, where the command has one.
NEXT_STEPS: Final = {
    "TlsFailed": "the right --tls-ca FILE; or tcp://HOST:PORT if it speaks no TLS",
    "CannotConnect": "is it running? scheduler serve --state-dir state",
    "ConnectionLost": "look at the service's own log",
    "ProtocolFault": "is this socket the service's? scheduler invoke --socket PATH",
    "FunctionError": "scheduler logs {name}",
    "InitFailed": "scheduler logs {name}",
    "SandboxDied": "scheduler logs {name}",
    "Timeout": "deploy it with a longer --timeout, or see scheduler logs {name}",
    "Throttled": "see scheduler top --once, or raise the limit that is named",
    "DeadlineExceeded": "a longer --deadline-ms, or see scheduler top --once",
    "NotFound": "scheduler list",
    "Unauthorized": "run it as a user the service allows, or give --token-file",
    "Unavailable": "try again in a moment",
    "Internal": "look at the service's own log for the request",
}


STEPS_BY_REASON: Final = {
    ("SandboxDied", "oom"): "deploy it with more --memory",
    ("BadRequest", "revision"): "scheduler describe {name} tells its revision now",
}


def error_line(error: SchedulerError, shared: Shared) -> str:
    """`Type: what happened; next: what to do`, always one line."""
    name, line = shared.name, str(error)
    told = error.error_object or {}
    words = ": ".join(str(told[key]) for key in ("errorType", "errorMessage") if told.get(key))
    if words and words not in line:  # what the function itself said says more than that it failed
        request = f" (request {error.request_id})" if error.request_id else ""
        line = one_line(f"{error.type}: {words}{request}")
    step = next((NEXT_STEPS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in NEXT_STEPS), None)
    step = STEPS_BY_REASON.get((error.type, error.reason or ""), step)
    if step is None or ("{name}" in step and not name):
        return line
    if error.type == "NotFound" and name:
        close = nearest(shared, name)
        step = f"did you mean {close}? {step}" if close else step
    return f"{line}; next: {step.format(name=name)}"


def function_names(shared: Shared, start: str = "") -> list[FunctionDescription]:
    """Functions whose names begin so, asked of the running service; none where none answers quickly."""
    from scheduler.client.blocking import BlockingClient

    target = shared.find()
    if target is None:
        return []
    try:
        with BlockingClient(target, **shared.access(target), timeout_s=1.0) as client:
            return [function for function in client.list() if function.name.startswith(start)]
    except (SchedulerError, TimeoutError, ValueError, click.ClickException):
        return []


def nearest(shared: Shared, name: str) -> str | None:
    """The deployed function whose name is closest to one that was mistyped."""
    import difflib

    names = [function.name for function in function_names(shared)]
    bare = name.split(":")[0]
    if bare in names:  # the function is there, its version or alias is not
        return None
    same = [known for known in names if known.lower() == bare.lower()]
    return next(iter(same or difflib.get_close_matches(bare, names, n=1)), None)


def fail(line: str, code: int = EXIT_REFUSED) -> NoReturn:
    """Ends the command with one line on stderr."""
    click.echo(f"scheduler: {line}", err=True)
    raise SystemExit(code)
