"""The commands by their names. What they take and do stands in a module for each."""

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

__all__ = ["COMMANDS", "Later", "app"]

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "regions": ("catalogue:regions", "List the regions and their zones."),
    "templates": ("catalogue:templates", "List the templates to create machines from."),
    "keys": ("catalogue:keys", "List the account's SSH keys."),
    "wait": (
        "wait:wait",
        "Wait for the end of an operation, from the token of an outcome that was unknown.",
    ),
    "watch": (
        "watch:watch",
        "Show the machines and how their states change, until interrupted.",
    ),
    "worker": (
        "worker:worker",
        "Work on durable jobs until interrupted; others go on with what is left then.",
    ),
    "emulator": ("emulator:emulator", "Serve a local cloud until interrupted."),
    "demo": (
        "demo:demo",
        "Take a fleet through its life, on a local cloud of its own whose clock runs faster.",
    ),
    "vms": ("vms:app", "Look at machines and change them, one at a time."),
    "fleet": ("fleet:app", "Create and change many machines at once."),
    "jobs": ("jobs:app", "Look at durable jobs and control them."),
}
"""Where each command is defined, and the first line of its help."""

_INTERRUPTED: Final = 130


class Later(TyperCommand):
    """The name of a command and what it does; the command itself is imported when it is called.

    Args:
        name: The command's name.
        home: Its module in this package, and what it is called there.
        help: The first line of its help.
    """

    def __init__(self, name: str, home: str, help: str) -> None:  # noqa: A002 - Typer's word
        super().__init__(name, help=help)
        self._home = home

    def load(self) -> Any:
        """Import the command, and return it as Click's; whose Click depends on Typer's version."""
        module, _, attribute = self._home.partition(":")
        try:
            found = getattr(importlib.import_module(f"async_vmapi.cli.{module}"), attribute)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        command: Any
        if isinstance(found, typer.Typer):
            command = get_group(found)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command()(found)
            command = get_command(alone)
        command.name = self.name
        return command


class _Root(TyperGroup):
    """All commands; of one that is called or completed the options, of the others the names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (home, help_) in COMMANDS.items():
            self.add_command(Later(name, home, help_))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Later) else command, rest


app = typer.Typer(
    name="async-vmapi",
    cls=_Root,
    help="Create, watch and change virtual machines, or run a local cloud to try it on.",
    no_args_is_help=True,
    # A traceback with the values of variables would show secrets.
    pretty_exceptions_enable=False,
)


@app.callback()
def root(
    ctx: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(
            envvar="VMAPI_PROFILE",
            help="A profile of profiles.toml; else the environment's VMAPI_* are used.",
        ),
    ] = None,
) -> None:
    """Keep what all commands need."""
    ctx.obj = profile
