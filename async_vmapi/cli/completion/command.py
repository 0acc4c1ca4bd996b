"""``async-vmapi completion``: print the script that sets up a shell's completion."""

import enum
from typing import Annotated

import typer

from async_vmapi.cli.commands import command
from async_vmapi.cli.completion import tree
from async_vmapi.cli.completion.scripts import SCRIPTS

__all__ = ["completion"]


class Shell(enum.StrEnum):
    """A shell."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@command
def completion(shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish")]) -> None:
    """Print the script that sets up completion in a shell.

    bash: add to ~/.bashrc: source <(async-vmapi completion bash)

    zsh: add to ~/.zshrc, after compinit: source <(async-vmapi completion zsh)

    fish: async-vmapi completion fish > ~/.config/fish/completions/async-vmapi.fish
    """
    # The first completion need not import all commands then.
    tree.load()
    typer.echo(SCRIPTS[shell], nl=False)
