"""The command line: `scheduler COMMAND`. `main` is what the installed command calls.

One file per command or family of commands; `app` has the group, `common` what all of them share. Each command is imported
when it is called, since `scheduler invoke` must not pay for importing what `serve` or `bench` need.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command that sys.argv names and exits with its code: 0 done, 1 the function failed, 2 usage, 3 refused."""
    from scheduler.cli.app import run

    raise SystemExit(run())
