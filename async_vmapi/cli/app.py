"""The commands by name; each is implemented in its own module."""

import importlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.main import get_command, get_group

from async_vmapi import __version__
from async_vmapi.cli.groups import Command, Group

__all__ = ["COMMANDS", "Later", "app"]

_VMS, _VALUES, _JOBS = "VMs", "Values for new VMs", "Durable jobs"
_LOCAL, _PROVIDER, _SETTINGS = "Local cloud", "Provider", "Settings"

COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "vm": (_VMS, "vms:app", "List, show and change VMs."),
    "fleet": (_VMS, "fleet:app", "Create and change many VMs at once."),
    "inventory": (_VMS, "inventory:inventory", "Print the VMs for Ansible, Prometheus or ssh."),
    "wait": (_VMS, "wait:wait", "Wait for operations to complete, given their tokens."),
    "explain": (_VMS, "explain:explain", "Explain what was seen, and which rule decided."),
    "watch": (_VMS, "watch:watch", "Watch VMs for changes, until interrupted."),
    "region": (_VALUES, "catalogue:region", "List the regions."),
    "zone": (_VALUES, "catalogue:zone", "List the zones of all regions."),
    "template": (_VALUES, "catalogue:template", "List the templates to create VMs from."),
    "key": (_VALUES, "catalogue:key", "List the account's SSH keys."),
    "job": (_JOBS, "jobs:app", "Show and control durable jobs."),
    "worker": (_JOBS, "worker:worker", "Run a worker for durable jobs, until interrupted."),
    "emulator": (
        *(_LOCAL, "emulator:emulator"),
        "Run the emulator, a local cloud, until interrupted.",
    ),
    "demo": (_LOCAL, "demo:demo", "Create, reboot and delete a fleet on the bundled emulator."),
    "probe": (_PROVIDER, "probe:probe", "Measure a provider, and write its facts to a file."),
    "profile": (_SETTINGS, "profile:app", "Store endpoints and credentials by name."),
    "completion": (
        *(_SETTINGS, "completion.command:completion"),
        "Print the script that sets up completion in a shell.",
    ),
}
"""The panel of each command in the help, where it is defined, and the first line of its help."""

_INTERRUPTED: Final = 130


class Later(Command):
    """A command whose module is imported only when it is called.

    Args:
        name: Command name.
        panel: The panel of the help that lists it.
        home: ``module:attribute`` in this package.
        help: First line of the command's help.
    """

    def __init__(self, name: str, panel: str, home: str, help: str) -> None:  # noqa: A002 - Typer's word
        super().__init__(name, help=help, rich_help_panel=panel)
        self._home = home

    def load(self) -> Any:
        """Import the command and return it as a Click command (Typer's or Click's own)."""
        module, _, attribute = self._home.partition(":")
        try:
            found = getattr(importlib.import_module(f"async_vmapi.cli.{module}"), attribute)
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        command: Any
        if isinstance(found, typer.Typer):
            command = get_group(found)
        else:
            single = typer.Typer(add_completion=False)
            single.command(cls=Command)(found)
            command = get_command(single)
        command.name = self.name
        return command


_EVERYWHERE: Final = {"--profile": True, "--debug": False, "--debug-file": True}
"""The options that may also follow the command, and whether they have a value."""


def _moved_first(args: list[str]) -> list[str]:
    """Return the arguments with the options of all commands before the command."""
    first, rest, words = list[str](), list[str](), iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if name in _EVERYWHERE:
            value = list(islice(words, _EVERYWHERE[name] and not equals))
            if _EVERYWHERE[name] and not (equals or value):
                raise typer.BadParameter("a value is required", param_hint=name)
            first += [word, *value]
        else:
            # After --, all words are another program's.
            rest += [word, *(words if word == "--" else ())]
    return first + rest


class _Root(Group):
    """All commands; loads only the one that is called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, place in COMMANDS.items():
            self.add_command(Later(name, *place))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _moved_first(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Later) else command, rest


app = typer.Typer(
    name="async-vmapi",
    cls=_Root,
    help="Manage e24cloud virtual machines (VMs), one at a time or as a fleet.",
    no_args_is_help=True,
    # The command 'completion' does that, and never lets a shell evaluate names of VMs.
    add_completion=False,
    # Tracebacks with local variables would leak secrets.
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"async-vmapi {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    profile: Annotated[
        str | None,
        typer.Option(
            envvar="VMAPI_PROFILE",
            help="Profile to use. By default, VMAPI_* variables are used if set, else the "
            "default profile.",
        ),
    ] = None,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Log requests, retries and changes to standard error."),
    ] = False,
    debug_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the same log to a file."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback uses it
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Store the profile for all commands, and start the debug log."""
    ctx.obj = profile
    if debug or debug_file is not None:
        _start_debug_log(ctx, to_stderr=debug, path=debug_file)


def _start_debug_log(ctx: typer.Context, *, to_stderr: bool, path: Path | None) -> None:
    # Not needed for help, and slow to import.
    from async_vmapi.cli import debug

    try:
        ctx.call_on_close(debug.start(to_stderr=to_stderr, path=path))
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be written: {error.strerror}", param_hint="--debug-file"
        ) from None
