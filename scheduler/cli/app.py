"""The group of commands, and the one place where an error becomes a line on stderr and an exit code.

What must not live here: what a command does. `COMMANDS` is the table: name, module, one line of help (so that `scheduler -h`
imports none of them); a test holds the lines to be those of the commands themselves.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click

from scheduler import __version__
from scheduler.cli.common import (
    EXIT_USAGE,
    CommandGroup,
    emit_json,
    error_line,
    shared_of,
    shared_options,
)
from scheduler.errors import SchedulerError

__all__ = ["COMMANDS", "COMPLETE_ENV", "cli", "run"]

COMPLETE_ENV: Final = "_SCHEDULER_COMPLETE"  # how the shell's script asks for completions

# The service and its functions first, in the order in which one needs them; then what watches and measures.
COMMANDS: Final = {
    "serve": ("serve", "Run the service in the foreground."),
    "init": ("init", "Write a first function into a folder."),
    "deploy": ("deploy", "Create a function, or replace its code and configuration."),
    "dev": ("dev", "Deploy again at each change, and show the log."),
    "invoke": ("invoke", "Run a function and print its answer."),
    "list": ("functions", "List the functions."),
    "describe": ("functions", "Show one function: configuration, versions, limits, figures."),
    "update": ("update", "Change a function's configuration."),
    "concurrency": ("concurrency", "Show or change what is reserved and provisioned."),
    "remove": ("functions", "Remove a function."),
    "logs": ("logs", "Print what a function logged."),
    "top": ("top", "Watch accounts and functions at work."),
    "bench": ("bench", "Measure one function from this client."),
    "drain": ("drain", "Let running calls finish, then end the service."),
    "key": ("key", "Access keys for the AWS-compatible HTTP API."),
    "secrets": ("secrets", "Passwords and keys that functions may ask for."),
    "env": ("env", "Encrypt variables of a function's environment."),
    "keys": ("keys", "Keys that environments and secrets are sealed under."),
    "token": ("token", "Make, list and revoke the tokens of the service's token file."),
    "runtimes": ("runtimes", "List what functions can be written in on this machine."),
    "doctor": ("doctor", "Try every protection from inside a sandbox."),
    "completion": ("completion", "Print the script that completes commands and names in a shell."),
}


class Commands(CommandGroup):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"scheduler.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write(
            "Exit codes:\n"
            "  0  done\n"
            "  1  the function failed: it raised, timed out, or its sandbox died\n"
            "  2  the command line is wrong\n"
            "  3  the service refused, or cannot be reached\n"
            "\n"
            "Start here:\n"
            "  scheduler serve --state-dir state          # in one terminal\n"
            "  scheduler deploy examples/hello            # in another\n"
            '  scheduler invoke hello \'{"name": "you"}\'\n'
        )

    def main(self, args: Any = None, **_: Any) -> NoReturn:  # type: ignore[override]
        """Click's own way to end would print our errors as tracebacks."""
        raise SystemExit(run(list(args) if args is not None else None))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=False,
)
@shared_options
@click.version_option(__version__, "-V", "--version", message="scheduler %(version)s")
def cli() -> None:
    """A function service on your own machine, with AWS Lambda's semantics.

    Each command takes --json and --socket, before or after its name, and -h for its manual.
    """


def run(args: list[str] | None = None) -> int:
    """Runs one command line (None: sys.argv's) and gives its exit code."""
    asked = os.environ.get(COMPLETE_ENV)
    if asked:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "scheduler", COMPLETE_ENV, asked)
    try:
        with cli.make_context("scheduler", sys.argv[1:] if args is None else args) as context:
            return _run(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return 130
    except BrokenPipeError:
        # The reader of our stdout has gone (`scheduler list | head`). Python would complain again when it flushes at exit.
        sys.stdout = None
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_USAGE


def _run(context: click.Context) -> int:
    try:
        cli.invoke(context)
        sys.stdout.flush()
        return 0
    except SchedulerError as error:
        return report_error(context, error)
    except TimeoutError as error:
        click.echo(f"scheduler: Unavailable: {error}", err=True)
        return 3


def report_error(context: click.Context, error: SchedulerError) -> int:
    """The one line on stderr; with --json the whole error on stdout too. Gives the exit code."""
    shared = shared_of(context)
    if shared.as_json:
        emit_json({"error": error.to_wire()})
    click.echo(f"scheduler: {error_line(error, shared)}", err=True)
    return error.exit_code
