"""`scheduler doctor`: which protections hold on this machine, found out by trying each from inside a sandbox, and what to
do about those that do not.

It looks at the machine as a service with these settings would use it, not at a running service, so it needs none.
"""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from scheduler.cli.common import EXIT_USAGE, Command, emit_json, fail, json_option, shared_of, stderr_console, stdout_console
from scheduler.config import CONFIG_ENV, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.sandboxes.doctor import Finding

__all__ = ["doctor_command"]

EXIT_UNSAFE: Final = 1
STYLES: Final = {"ok": "green", "weaker": "yellow", "cannot": "bold red"}


@click.command(
    "doctor",
    cls=Command,
    short_help="Try every protection from inside a sandbox.",
    examples=(
        ("before the first start", "scheduler doctor"),
        ("as the service that is started with this file", "scheduler doctor --config scheduler.toml"),
        ("what does not hold, for a script", "scheduler doctor --json | jq '.[] | select(.ok | not)'"),
    ),
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The service's file of settings. Also {CONFIG_ENV}; its other variables count too.",
)
@json_option
@click.pass_context
def doctor_command(context: click.Context, config_file: Path | None) -> None:
    """Try every protection from inside a sandbox, made as a service with these settings would make it, and tell which hold,
    which are weaker here, which cannot be had, and the next step for each. Takes a few seconds and leaves nothing.

    Run it as the user who will run the service: what it may do is part of the answer. The exit code is 1 if something that
    protects cannot be had; what is only weaker, or no protection, does not count.
    """
    import trio

    from scheduler.sandboxes.doctor import diagnose_service, is_safe

    try:
        settings = load({}, os.environ, config_file)
    except ConfigError as error:
        fail(f"BadRequest: {'; '.join(error.problems)}; next: scheduler serve -h", EXIT_USAGE)
    with stderr_console().status("trying what a sandbox may and may not do; a few seconds"):  # drawn on a terminal only
        findings = trio.run(diagnose_service, settings)
    if shared_of(context).as_json:
        emit_json([as_map(finding) for finding in findings])
    else:
        show(findings)
    context.exit(0 if is_safe(findings) else EXIT_UNSAFE)


def as_map(finding: Finding) -> dict[str, object]:
    return {
        "group": finding.group.name.lower(),
        "name": finding.name,
        "verdict": finding.verdict.value,
        "ok": finding.ok,
        "detail": finding.detail,
        "fix": finding.fix,
        "enforced_by": finding.enforced_by,
    }


def show(findings: Sequence[Finding]) -> None:
    """A table of all by what they are about, then the next step for each that is not in order."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, min_width=6)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for number, (group, members) in enumerate(groupby(findings, key=lambda finding: finding.group)):
        if number:
            table.add_row()
        table.add_row("", Text(group.value, style="bold"), "", "")
        for finding in members:
            verdict = finding.verdict.value
            table.add_row(
                Text(verdict, style=STYLES[verdict]),
                Text(finding.name),
                Text(finding.detail),
                Text(f"by {finding.enforced_by}" if finding.enforced_by else ""),
            )
    console.print(table)
    wanting = [finding for finding in findings if not finding.ok]
    console.print()
    if not wanting:
        console.print("Everything was tried and holds.", style="bold green")
        return
    console.print("Next steps:", style="bold")
    for finding in wanting:
        step = finding.fix or "none is known for this machine"
        console.print(
            Text.assemble("  ", (finding.verdict.value, STYLES[finding.verdict.value]), f"  {finding.name}: {step}"),
            soft_wrap=True,
        )
