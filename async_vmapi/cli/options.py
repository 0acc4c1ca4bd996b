"""The options that several commands share, in groups.

A group is an attrs class whose fields are options. Typer knows no groups, so `command` gives a
function that takes such a class its fields as options of its own.
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
from async_vmapi.cli.running import ExitCode, fail, failures_told
from async_vmapi.cli.selection import Selection
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "JSON",
    "Database",
    "DurableHow",
    "Fleet",
    "How",
    "New",
    "Told",
    "Vm",
    "WaitFor",
    "Which",
    "Yes",
    "command",
    "read_text",
]

_WHICH: Final = "Which machines"
_HOW: Final = "How to go about it"
_NEW: Final = "The new machine"
_DURABLE: Final = "Durable jobs"
_PASSWORD: Final = re.compile(r"//[^/@]*:[^/@]+@|[?&]password=")


def _without_password(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    if _is_argument(ctx, param.name or "") and _PASSWORD.search(value):
        # Every user of the machine can read what is started with which arguments.
        raise typer.BadParameter(
            "a password does not belong into an argument: leave it out, and set PGPASSWORD or "
            "use a .pgpass file, or set VMAPI_DATABASE"
        )
    return value


def _is_argument(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


JSON = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitFor = Annotated[
    int, typer.Option(min=0, help="Minutes until a guest that does not go down is turned off.")
]
Database = Annotated[
    str,
    typer.Option(
        envvar="VMAPI_DATABASE",
        metavar="URL",
        help="sqlite:///PATH, or postgresql://USER@HOST/NAME (its password in the environment).",
        callback=_without_password,
        rich_help_panel=_DURABLE,
    ),
]
Vm = Annotated[str, typer.Argument(metavar="VM", help="The machine's id, as vms list tells it.")]


@attrs.frozen(kw_only=True)
class Which:
    """Which machines a command is about."""

    label: Annotated[
        list[str] | None,
        typer.Option(help="A pattern like 'web-*'; may be repeated.", rich_help_panel=_WHICH),
    ] = None
    group: Annotated[
        list[str] | None,
        typer.Option(help="A group's name or id; may be repeated.", rich_help_panel=_WHICH),
    ] = None
    zone: Annotated[
        list[str] | None,
        typer.Option(help="A zone's label or id; may be repeated.", rich_help_panel=_WHICH),
    ] = None
    state: Annotated[
        list[str] | None,
        typer.Option(help="A state, like 'online'; may be repeated.", rich_help_panel=_WHICH),
    ] = None
    id_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with an id on each line, and comments after #; - for standard input.",
            dir_okay=False,
            allow_dash=True,
            rich_help_panel=_WHICH,
        ),
    ] = None

    def selection(self) -> Selection:
        """Return the machines that are meant."""
        ids = None if self.id_file is None else _ids(self.id_file)
        return Selection(
            labels=self.label or (),
            groups=self.group or (),
            zones=self.zone or (),
            states=self.state or (),
            ids=ids,
        )


@attrs.frozen(kw_only=True)
class Fleet(Which):
    """Which machines a fleet's command is about; never all of them by leaving something out."""

    everything: Annotated[
        bool, typer.Option("--all", help="All of the region.", rich_help_panel=_WHICH)
    ] = False


@attrs.frozen(kw_only=True)
class Told:
    """How a fleet's command tells what became of it."""

    json: JSON = False
    report: Annotated[
        Path | None,
        typer.Option(help="Write the report there; 'fleet resume' goes on from it."),
    ] = None


@attrs.frozen(kw_only=True)
class How:
    """How a fleet's command goes about its machines."""

    limit: Annotated[
        int, typer.Option(min=1, help="How many in flight at once.", rich_help_panel=_HOW)
    ] = 50
    max_failures: Annotated[
        str | None,
        typer.Option(
            help="How many, or what part like 5%, may fail before nothing more is started.",
            rich_help_panel=_HOW,
        ),
    ] = None
    waves: Annotated[
        str | None,
        typer.Option(
            help="Waves, each begun when the last one ended well, like 1,10%,100%.",
            rich_help_panel=_HOW,
        ),
    ] = None
    min_online: Annotated[
        str | None,
        typer.Option(help="How many, or what part, stay online at any time.", rich_help_panel=_HOW),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be done.", rich_help_panel=_HOW)
    ] = False

    def plan(self, on_event: Callable[[BulkEvent], object] | None = None) -> BulkPlan:
        """Return it as a plan."""
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
class DurableHow(How):
    """How a fleet's command goes about its machines, here or as a job that outlives it."""

    durable: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Submit it as a job of this name, for workers to do, and follow that.",
            rich_help_panel=_DURABLE,
        ),
    ] = None
    attach: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="If a job of this name is there, follow it although it has other VMs.",
            rich_help_panel=_DURABLE,
        ),
    ] = False
    database: Database = ""

    def check_place(self, ctx: typer.Context) -> None:
        """Exit if it is to be a job and nobody says where, or the reverse."""
        if self.durable is not None and not self.database:
            fail("--durable takes --database, or VMAPI_DATABASE", ExitCode.USAGE)
        if self.durable is None and self.attach:
            fail("--attach is for a job: give it a name with --durable NAME", ExitCode.USAGE)
        if self.durable is None and _is_argument(ctx, "database"):
            fail("--database is for a job: give it a name with --durable NAME", ExitCode.USAGE)


@attrs.frozen(kw_only=True)
class New:
    """What a new machine is to be."""

    cpus: Annotated[int, typer.Option(min=1, rich_help_panel=_NEW)]
    ram: Annotated[int, typer.Option(min=1, help="In MB.", rich_help_panel=_NEW)]
    zone: Annotated[str, typer.Option(help="Its zone's label or id.", rich_help_panel=_NEW)]
    template: Annotated[
        str | None, typer.Option(help="A template's label or id.", rich_help_panel=_NEW)
    ] = None
    iso: Annotated[str | None, typer.Option(help="Or a CD image's name.", rich_help_panel=_NEW)] = (
        None
    )
    password_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="The environment variable that holds the administrator's password.",
            rich_help_panel=_NEW,
        ),
    ] = None
    key: Annotated[
        str | None, typer.Option(help="An SSH key's name or id.", rich_help_panel=_NEW)
    ] = None
    user_data: Annotated[
        Path | None,
        typer.Option(
            help="A file with the cloud-init text; - for standard input.",
            dir_okay=False,
            allow_dash=True,
            rich_help_panel=_NEW,
        ),
    ] = None
    user_data_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE",
            help="Or the environment variable that holds it.",
            rich_help_panel=_NEW,
        ),
    ] = None
    unique_name: Annotated[
        bool,
        typer.Option(
            "--unique-name",
            help="No other machine ever bears the name.",
            rich_help_panel=_NEW,
        ),
    ] = False
    retry_unknown: Annotated[
        bool,
        typer.Option(
            "--retry-unknown",
            help="Send a create again if its outcome is unknown and no VM of its name appears.",
            rich_help_panel=_NEW,
        ),
    ] = False

    def keywords(self) -> dict[str, Any]:
        """Return the create's arguments besides the request."""
        on_unknown = "retry" if self.retry_unknown else "raise"
        return {"unique_name": self.unique_name, "on_unknown": on_unknown}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the groups that it takes, and tell its failures."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and attrs.has(kind)):
            parameters.append(
                parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        groups[name] = kind
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
            for field in attrs.fields(kind)
        ]

    def gathered(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{f.name: values.pop(f.name) for f in attrs.fields(kind)})
        with failures_told():
            function(**values)

    gathered.__name__, gathered.__doc__ = function.__name__, function.__doc__
    gathered.__annotations__ = {p.name: p.annotation for p in parameters}
    gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return gathered


def read_text(path: Path) -> str:
    """Return a file's text, or standard input's; exit where it cannot be read."""
    try:
        if str(path) != "-":
            content = HiddenBytes(path.read_bytes())
        else:
            content = HiddenBytes(b"" if sys.stdin is None else sys.stdin.buffer.read())
        return content.decode("utf-8-sig")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is no text in UTF-8"
    # Raised out here: it may be user data, and the error holds it.
    return fail(f"{path} {problem}", ExitCode.USAGE)


def _ids(path: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line.split()) > 1:
            fail(f"{path}: line {number} is more than one id", ExitCode.USAGE)
    return [line for line in lines if line]


def _share(text: str) -> Share:
    return int(text) if text.isascii() and text.isdigit() else text
