"""`scheduler completion SHELL`: the script that makes the shell ask us for commands, options and names of functions."""

from __future__ import annotations

import click

from scheduler.cli.common import Command

__all__ = ["completion_command"]


@click.command(
    "completion",
    cls=Command,
    short_help="Print the script that completes commands and names in a shell.",
    examples=(
        ("bash, in this session", 'eval "$(scheduler completion bash)"'),
        ("bash, always", "scheduler completion bash > ~/.local/share/bash-completion/completions/scheduler"),
        ("zsh, in ~/.zshrc", 'eval "$(scheduler completion zsh)"'),
        ("fish, always", "scheduler completion fish > ~/.config/fish/completions/scheduler.fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and names in a shell.

    Names of functions are asked of the running service while one types.
    """
    from click.shell_completion import get_completion_class

    from scheduler.cli.app import COMPLETE_ENV, cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    click.echo(kind(cli, {}, "scheduler", COMPLETE_ENV).source())
