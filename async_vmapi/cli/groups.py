"""Command classes: hidden aliases, and help with placeholders for values, not their types."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["ALIASES", "Command", "Group"]

ALIASES: Final = {
    "ls": "list",
    "get": "show",
    "describe": "show",
    "rm": "delete",
    "start": "power-on",
    "poweron": "power-on",
    "stop": "shutdown",
    "poweroff": "power-off",
    **{f"{noun}s": noun for noun in ("vm", "region", "zone", "template", "key", "job", "profile")},
    "server": "vm",
    "droplet": "vm",
    "instance": "vm",
    "image": "template",
    "ssh-key": "key",
}
"""The names of other tools, for users who type them."""


def _with_placeholders(params: list[Any]) -> list[Any]:
    for param in params:
        if param.param_type_name == "argument":
            param.display_type_rich = _no_type
        elif param.metavar is None:
            param.metavar = "" if param.is_flag else param.name.upper().replace("_", "-")
    return params


def _no_type(ctx: Any) -> None:  # noqa: ARG001 - Typer passes it
    return None


# Typer shows the words of Pydantic, which checks the values.
_WORDS: Final = {
    r"^Value error, ": "",
    r", unable to parse .*": "",
    r"^Input should be (a )?(valid )?": r"must be \1",
    r"\ba integer": "an integer",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


@contextmanager
def _plain_errors() -> Generator[None]:
    try:
        yield
    except typer.BadParameter as error:
        for words, plain in _WORDS.items():
            error.message = re.sub(words, plain, error.message)
        raise


class Command(TyperCommand):
    """A command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; errors of values are in plain words."""
        with _plain_errors():
            return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, each option with a placeholder for its value, like ``NAME``."""
        return _with_placeholders(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, which may be called by aliases that help does not show."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, like `Command.get_params`."""
        return _with_placeholders(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name or an alias; None if there is none."""
        found = super().get_command(ctx, cmd_name)
        return found or super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))
