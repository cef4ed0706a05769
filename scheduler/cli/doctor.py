"""`scheduler doctor`: what this machine can isolate, meter and encrypt, what is missing, and how to mend it.

It looks at the machine, not at a running service, so it needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scheduler.cli.common import Command, emit_json, json_option, shared_of, stderr_console, stdout_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.sandboxes.doctor import Finding

__all__ = ["doctor_command"]


@click.command(
    "doctor",
    cls=Command,
    short_help="Tell what this machine can isolate, meter and encrypt.",
    examples=(
        ("before the first start", "scheduler doctor"),
        ("what is missing, for a script", "scheduler doctor --json | jq '.[] | select(.ok | not)'"),
    ),
)
@json_option
@click.pass_context
def doctor_command(context: click.Context) -> None:
    """Tell what this machine can isolate, meter and encrypt, what is missing, and the fix.

    Run it as the user who will run the service: what it may do is part of the answer.
    """
    import trio

    from scheduler.sandboxes.doctor import diagnose

    with stderr_console().status("trying what a sandbox may and may not do; a few seconds"):  # drawn on a terminal only
        findings = trio.run(diagnose)
    if shared_of(context).as_json:
        keys = ("name", "ok", "detail", "fix", "enforced_by")
        return emit_json([{key: getattr(finding, key) for key in keys} for finding in findings])
    show(findings)
    return None


def show(findings: Sequence[Finding]) -> None:
    """A table of all, then what is missing with its fix."""
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("WHAT", no_wrap=True)
    table.add_column("BY", overflow="fold")
    table.add_column("FOUND", overflow="fold")
    for finding in findings:
        mark = Text("yes", style="green") if finding.ok else Text("no", style="bold red")
        table.add_row(mark, Text(finding.name), Text(finding.enforced_by or "-"), Text(finding.detail))
    console.print(table)
    missing = [finding for finding in findings if not finding.ok]
    console.print()
    if not missing:
        console.print("Nothing is missing.", style="bold green")
        return
    console.print(f"{len(missing)} missing:", style="bold")
    for finding in missing:
        console.print(Text(f"  {finding.name}: {finding.fix or 'no fix is known for this machine'}"), soft_wrap=True)
