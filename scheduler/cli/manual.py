"""`python -m scheduler.cli.manual`: docs/cli.md, made of the commands themselves.

A test holds the committed page to what this writes, so the page cannot be stale. It is written from the commands' own parts
and not from click's help text, whose layout differs between versions.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import click

from scheduler.cli.app import COMMANDS, cli
from scheduler.cli.common import WithExamples, default_sockets
from scheduler.cli.serve import ServeCommand
from scheduler.config import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["manual"]


def manual() -> str:
    """The page's text."""
    return "\n".join(_page()) + "\n"


OUTPUT: Final = (
    "**Output.** The answer is on stdout and nothing else is; progress, reports and errors are on stderr. An error is one",
    "line: its type, what happened, and the next step. With `--json` stdout is one JSON document, or one a line where it is a",
    'stream; an error is `{"error": {"type", "message", …}}` then. Colour and live drawing only on a terminal; none where',
    "`NO_COLOR` is set.",
)


def _page() -> Iterator[str]:
    yield "# The command `scheduler`"
    yield ""
    yield "<!-- Written by `python -m scheduler.cli.manual > docs/cli.md` from the commands in scheduler/cli. -->"
    yield ""
    yield "| command | what it does |"
    yield "|---|---|"
    for name, (_, text) in COMMANDS.items():
        yield f"| [`{name}`](#scheduler-{name}) | {text} |"
    yield ""
    yield "`make build` leaves the command at `.venv/bin/scheduler`; `python -m scheduler` is the same."
    yield ""
    yield "## For all commands"
    yield ""
    yield "These may stand before the command or after it; the one after it wins."
    yield ""
    yield from _options(param for param in cli.params if param.name != "version")
    yield ""
    places = [str(path) for path in default_sockets() if not path.is_absolute() or str(path).startswith("/run/scheduler")]
    yield (
        f"Without `--socket` and `SCHEDULER_SOCKET` the service is looked for at `{places[0]}`, at "
        f"`$XDG_RUNTIME_DIR/scheduler/scheduler.sock`, and at `{places[-1]}`."
    )
    yield ""
    yield from OUTPUT
    yield ""
    yield "| exit code | meaning |"
    yield "|---|---|"
    yield "| 0 | done |"
    yield "| 1 | the function failed: it raised (`FunctionError`), timed out, its init failed, or its sandbox died |"
    yield "| 2 | the command line, a local file or a setting is wrong; nothing was sent |"
    yield "| 3 | the service refused (throttled, not found, not allowed, …) or cannot be reached |"
    yield "| 130 | interrupted by Ctrl-C |"
    # A command remembers how its help is asked for from the first context it sees.
    context = click.Context(cli, info_name="scheduler", **cli.context_settings)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield from _command(name, command, context)


def _command(name: str, command: click.Command, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    path = context.command_path
    yield ""
    yield f"## {path}"
    yield ""
    yield f"    {path} {usage}"
    yield ""
    yield from _prose(command.help or "")
    assert isinstance(command, WithExamples)
    yield ""
    shared = {param.name for param in cli.params}
    settings = {setting.name for setting in SETTINGS} if isinstance(command, ServeCommand) else set()
    own = [
        param
        for param in command.params
        if isinstance(param, click.Option) and param.name not in settings and param.name not in shared
    ]
    if own:
        yield from _options(own)
        yield ""
    if settings:
        yield "Every row of the [table of settings](settings.md) is an option too, as `--state-dir`, `--socket`, `--tcp`,"
        yield "`--metrics` and `--isolation`."
        yield ""
    yield "```sh"
    for purpose, line in command.examples:
        if purpose:
            yield f"# {purpose}"
        yield line
    yield "```"
    if isinstance(command, click.Group):
        for inner, subcommand in command.commands.items():
            yield from _command(inner, subcommand, context)


def _prose(text: str) -> Iterator[str]:
    """The docstring's paragraphs, each on one line."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    for at, paragraph in enumerate(paragraphs):
        if at:
            yield ""
        yield paragraph.replace("*", "\\*")


def _options(params: Iterable[click.Parameter]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for param in params:
        assert isinstance(param, click.Option)
        names = ", ".join([*param.opts, *param.secondary_opts])
        metavar = "" if param.is_flag else f" {param.metavar or _choices(param)}"
        default = f" Default: {param.default}." if param.show_default and param.default not in (None, False) else ""
        text = f"{param.help or ''}{default}".replace("|", "\\|")
        shown = f"{names}{metavar}".replace("|", "\\|")
        yield f"| `{shown}` | {text} |"


def _choices(param: click.Option) -> str:
    return "/".join(map(str, param.type.choices)) if isinstance(param.type, click.Choice) else (param.name or "").upper()


if __name__ == "__main__":
    sys.stdout.write(manual())
