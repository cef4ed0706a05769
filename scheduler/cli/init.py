"""`scheduler init`: a first function, ready to be deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from scheduler.cli.common import Command, emit_json, json_option, shared_of

__all__ = ["init_command"]

APP: Final = '''"""{name}: called with an event, answers what json can say."""


def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {{name}}")
    return {{"message": f"hello, {{name}}", "request": context.aws_request_id}}
'''
SETTINGS: Final = """# What `scheduler deploy` need not be told. Other keys: scheduler deploy --help
handler = "app.handler"
memory_mb = 256
timeout_s = 10

[environment]
STAGE = "dev"
"""
FILES: Final = {"app.py": APP, "function.toml": SETTINGS}


@click.command(
    "init",
    cls=Command,
    short_help="Write a first function into a folder.",
    examples=(("then deploy and call it", "scheduler init hello && scheduler deploy hello && scheduler invoke hello '{}'"),),
)
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def init_command(context: click.Context, folder: Path) -> None:
    """Write a first function in Python into FOLDER, with the settings it is deployed with. Nothing that is there is changed."""
    taken = [name for name in FILES if (folder / name).exists()]
    if taken:
        raise click.UsageError(f"{folder / taken[0]} is there already; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (folder / name).write_text(text.format(name=folder.resolve().name) if name.endswith(".py") else text)
    except OSError as error:
        raise click.UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    if shared_of(context).as_json:
        emit_json({"folder": str(folder), "files": sorted(FILES)})
        return
    click.echo(f"wrote {', '.join(str(folder / name) for name in FILES)}")
    click.echo(f"next: scheduler deploy {folder}    or, again at each change: scheduler dev {folder}")
