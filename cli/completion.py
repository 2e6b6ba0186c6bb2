"""`animatic completion`: click's own completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    animatic completion bash > ~/.local/share/bash-completion/completions/animatic
    animatic completion zsh  > ~/.zfunc/_animatic
    animatic completion fish > ~/.config/fish/completions/animatic.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"there is no completion for {shell}")
    root = context.find_root().command
    click.echo(kind(root, {}, "animatic", "_ANIMATIC_COMPLETE").source())
