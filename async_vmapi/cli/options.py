"""Groups of options that several commands share.

A group is an attrs class whose fields are options. Typer has no groups, so `command` replaces a
parameter of such a class with its fields.
"""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import attrs
import typer

from async_vmapi.bulk.plan import BulkEvent, BulkPlan, Share
from async_vmapi.cli.groups import Command, Group
from async_vmapi.cli.listing import JSON, Format
from async_vmapi.cli.running import ExitCode, errors_shown, fail
from async_vmapi.cli.selection import Selection
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "JSON",
    "Commands",
    "Database",
    "DurableOptions",
    "Filters",
    "Fleet",
    "New",
    "Output",
    "RolloutOptions",
    "Vm",
    "WaitFor",
    "Yes",
    "command",
    "read_text",
]

_SELECTION: Final = "VM selection"
_ROLLOUT: Final = "Rollout options"
_NEW: Final = "New VM options"
_DURABLE: Final = "Durable job options"
_PASSWORD: Final = re.compile(r"//[^/@]*:[^/@]+@|[?&]password=")


def _without_password(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    if _is_argument(ctx, param.name or "") and _PASSWORD.search(value):
        # Every local user can read the arguments of a process.
        raise typer.BadParameter(
            "do not pass a password as an argument: leave it out and use PGPASSWORD or a .pgpass "
            "file, or set VMAPI_DATABASE"
        )
    return value


def _is_argument(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip confirmation.")]
WaitFor = Annotated[
    int, typer.Option(min=0, help="Minutes until a guest that does not shut down is powered off.")
]
Database = Annotated[
    str,
    typer.Option(
        envvar="VMAPI_DATABASE",
        metavar="URL",
        help="sqlite:///PATH, or postgresql://USER@HOST/NAME with the password in PGPASSWORD.",
        callback=_without_password,
        rich_help_panel=_DURABLE,
    ),
]
Vm = Annotated[str, typer.Argument(metavar="VM", help="VM ID or name.")]


@attrs.frozen(kw_only=True)
class Filters:
    """Select VMs; those that match all conditions given."""

    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Label pattern like 'web-*'; can be repeated.", rich_help_panel=_SELECTION
        ),
    ] = None
    group: Annotated[
        list[str] | None,
        typer.Option(help="Group name or ID; can be repeated.", rich_help_panel=_SELECTION),
    ] = None
    zone: Annotated[
        list[str] | None,
        typer.Option(help="Zone label or ID; can be repeated.", rich_help_panel=_SELECTION),
    ] = None
    state: Annotated[
        list[str] | None,
        typer.Option(help="State like 'online'; can be repeated.", rich_help_panel=_SELECTION),
    ] = None
    id_file: Annotated[
        Path | None,
        typer.Option(
            help="File with one VM ID per line (# starts a comment), or - for standard input.",
            dir_okay=False,
            allow_dash=True,
            rich_help_panel=_SELECTION,
        ),
    ] = None

    def selection(self) -> Selection:
        """Return the selection."""
        ids = None if self.id_file is None else _ids(self.id_file)
        return Selection(
            labels=self.label or (),
            groups=self.group or (),
            zones=self.zone or (),
            states=self.state or (),
            ids=ids,
        )


@attrs.frozen(kw_only=True)
class Fleet(Filters):
    """Select the VMs of a ``fleet`` command, which selects all VMs only by ``--all``."""

    everything: Annotated[
        bool, typer.Option("--all", help="All VMs of the region.", rich_help_panel=_SELECTION)
    ] = False


@attrs.frozen(kw_only=True)
class Output(Format):
    """How a ``fleet`` command reports its result."""

    report: Annotated[
        Path | None,
        typer.Option(help="Write the report to this file, for 'fleet resume'."),
    ] = None


@attrs.frozen(kw_only=True)
class RolloutOptions:
    """The rollout options of a ``fleet`` command."""

    limit: Annotated[
        int, typer.Option(min=1, help="Maximum operations in flight.", rich_help_panel=_ROLLOUT)
    ] = 50
    max_failures: Annotated[
        str | None,
        typer.Option(
            help="Failure budget, like 3 or 5%: start no more operations if more have failed.",
            rich_help_panel=_ROLLOUT,
        ),
    ] = None
    waves: Annotated[
        str | None,
        typer.Option(
            help="Wave sizes, like 1,10%,100%; a wave starts after the previous one has passed.",
            rich_help_panel=_ROLLOUT,
        ),
    ] = None
    min_online: Annotated[
        str | None,
        typer.Option(help="VMs to keep online, like 10 or 80%.", rich_help_panel=_ROLLOUT),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be done; change nothing.", rich_help_panel=_ROLLOUT
        ),
    ] = False

    def plan(self, on_event: Callable[[BulkEvent], object] | None = None) -> BulkPlan:
        """Return the bulk plan."""
        return BulkPlan(
            limit=self.limit,
            max_failures=None if self.max_failures is None else _share(self.max_failures),
            waves=None
            if self.waves is None
            else [_share(part.strip()) for part in self.waves.split(",")],
            min_online=None if self.min_online is None else _share(self.min_online),
            dry_run=self.dry_run,
            on_event=on_event,
        )


@attrs.frozen(kw_only=True)
class DurableOptions(RolloutOptions):
    """The rollout options of a ``fleet`` command that can be submitted as a durable job."""

    durable: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Submit a job of this name to the workers, and follow it.",
            rich_help_panel=_DURABLE,
        ),
    ] = None
    attach: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="If this job exists already, follow it, even if it has other VMs.",
            rich_help_panel=_DURABLE,
        ),
    ] = False
    database: Database = ""

    def check_place(self, ctx: typer.Context) -> None:
        """Exit if ``--durable`` is given without a database, or the reverse."""
        if self.durable is not None and not self.database:
            fail("--durable requires --database, or VMAPI_DATABASE", ExitCode.USAGE)
        if self.durable is None and self.attach:
            fail("--attach requires --durable NAME", ExitCode.USAGE)
        if self.durable is None and _is_argument(ctx, "database"):
            fail("--database requires --durable NAME", ExitCode.USAGE)


@attrs.frozen(kw_only=True)
class New:
    """The options of a new VM."""

    cpus: Annotated[int, typer.Option(min=1, help="Number of cores.", rich_help_panel=_NEW)]
    ram: Annotated[int, typer.Option(min=1, help="Memory in MB.", rich_help_panel=_NEW)]
    zone: Annotated[str, typer.Option(help="Zone label or ID.", rich_help_panel=_NEW)]
    template: Annotated[
        str | None, typer.Option(help="Template label or ID.", rich_help_panel=_NEW)
    ] = None
    iso: Annotated[
        str | None,
        typer.Option(help="CD image to boot from, not a template.", rich_help_panel=_NEW),
    ] = None
    password_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Environment variable with the administrator's password.",
            rich_help_panel=_NEW,
        ),
    ] = None
    key: Annotated[str | None, typer.Option(help="SSH key name or ID.", rich_help_panel=_NEW)] = (
        None
    )
    user_data: Annotated[
        Path | None,
        typer.Option(
            help="cloud-init user data file, or - for standard input.",
            dir_okay=False,
            allow_dash=True,
            rich_help_panel=_NEW,
        ),
    ] = None
    user_data_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Environment variable with cloud-init user data.",
            rich_help_panel=_NEW,
        ),
    ] = None
    unique_name: Annotated[
        bool,
        typer.Option(
            "--unique-name",
            help="Assert that no other VM ever has this label.",
            rich_help_panel=_NEW,
        ),
    ] = False
    retry_unknown: Annotated[
        bool,
        typer.Option(
            "--retry-unknown",
            help="Retry a create of unknown outcome if no VM of its label appears; requires "
            "--unique-name.",
            rich_help_panel=_NEW,
        ),
    ] = False

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of the create other than the request."""
        on_unknown = "retry" if self.retry_unknown else "raise"
        return {"unique_name": self.unique_name, "on_unknown": on_unknown}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Expand the option groups of a command into options, and report its errors."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and attrs.has(kind)):
            parameters.append(
                parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        fields = [field for field in attrs.fields(kind) if field.init]
        groups[name] = kind, [field.name for field in fields]
        options = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty
                if field.default is attrs.NOTHING
                else field.default,
                annotation=options[field.name],
            )
            for field in fields
        ]

    def call(**values: Any) -> None:
        for name, (kind, fields) in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in fields})
        with errors_shown():
            function(**values)

    # Typer keeps line breaks of all paragraphs but the first.
    call.__doc__ = re.sub(r"(\S)\n *(?=\S)", r"\1 ", function.__doc__ or "")
    call.__name__ = function.__name__
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


class Commands(typer.Typer):
    """A group of commands, with expanded option groups and the aliases of `Group`."""

    def __init__(self, help: str) -> None:  # noqa: A002 - Typer's word
        super().__init__(cls=Group, help=help, no_args_is_help=True)

    def add(self, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Decorate the function that is the command of this name."""

        def register(function: Callable[..., None]) -> Callable[..., None]:
            self.command(name, cls=Command)(command(function))
            return function

        return register


def read_text(path: Path) -> str:
    """Return the text of a file, or of standard input for ``-``; exit if it cannot be read."""
    try:
        if str(path) != "-":
            content = HiddenBytes(path.read_bytes())
        else:
            content = HiddenBytes(b"" if sys.stdin is None else sys.stdin.buffer.read())
        return content.decode("utf-8-sig")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    # Not inside the except block: the error holds the content, which may be user data.
    return fail(f"{path} {problem}", ExitCode.USAGE)


def _ids(path: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line.split()) > 1:
            fail(f"{path}: line {number} has more than one ID", ExitCode.USAGE)
    return [line for line in lines if line]


def _share(text: str) -> Share:
    return int(text) if text.isascii() and text.isdigit() else text
