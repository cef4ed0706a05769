"""`scheduler init`: a first function, ready to be deployed. What it writes lies in samples/, a directory for each language."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import click

from scheduler.cli.common import Command, emit_json, json_option, shared_of

__all__ = ["SAMPLES", "init_command"]

SAMPLES: Final = Path(__file__).resolve().parent / "samples"
LANGUAGES: Final = ("python", "node", "c", "shell")
BEFORE_DEPLOY: Final = {"c": "make -C {folder} && "}  # what has to be done first


@click.command(
    "init",
    cls=Command,
    short_help="Write a first function into a folder.",
    examples=(
        ("then deploy and call it", "scheduler init hello && scheduler deploy hello && scheduler invoke hello '{}'"),
        ("in JavaScript", "scheduler init hello --language node"),
    ),
)
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="python",
    help="What it is written in: python, node, c or shell; python.",
)
@json_option
@click.pass_context
def init_command(context: click.Context, folder: Path, language: str) -> None:
    """Write a first function into FOLDER, with the settings it is deployed with. Nothing that is there is changed."""
    files = sorted(path for path in (SAMPLES / language).iterdir() if path.is_file())
    taken = [path.name for path in files if (folder / path.name).exists()]
    if taken:
        raise click.UsageError(f"{folder / taken[0]} is there already; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, folder / path.name)
            (folder / path.name).chmod(0o755 if path.name == "bootstrap" else 0o644)
    except OSError as error:
        raise click.UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    if shared_of(context).as_json:
        emit_json({"folder": str(folder), "files": [path.name for path in files]})
        return
    click.echo(f"wrote {', '.join(str(folder / path.name) for path in files)}")
    first = BEFORE_DEPLOY.get(language, "").format(folder=folder)
    click.echo(f"next: {first}scheduler deploy {folder}    or, again at each change: scheduler dev {folder}")
