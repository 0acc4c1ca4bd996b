"""Options that several commands share, in groups that `commands.command` expands."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import attrs
import typer

from async_vmapi.bulk.plan import BulkPlan, Share
from async_vmapi.cli.listing import JSON, Format
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.cli.selection import Selection
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "JSON",
    "Database",
    "DurableOptions",
    "Filters",
    "Fleet",
    "New",
    "NoWait",
    "Output",
    "RolloutOptions",
    "Timeout",
    "Vm",
    "Vms",
    "WaitFor",
    "Yes",
    "read_text",
]

_SELECTION: Final = "VM selection"
_ROLLOUT: Final = "Rollout options"
_NEW: Final = "New VM options"
_DURABLE: Final = "Durable job options"
_WAITING: Final = "Waiting"
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
Vms = Annotated[list[str], typer.Argument(metavar="VM", help="VM IDs or names.")]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait",
        help="Print the tokens of accepted operations, for 'wait', and return.",
        rich_help_panel=_WAITING,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Maximum time to wait; operations in flight continue, and their tokens are shown.",
        rich_help_panel=_WAITING,
    ),
]


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
    fail_if_empty: Annotated[
        bool,
        typer.Option(
            "--fail-if-empty", help="Fail if no VM is selected.", rich_help_panel=_SELECTION
        ),
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

    timeout: Timeout = None

    def plan(self) -> BulkPlan:
        """Return the bulk plan."""
        return BulkPlan(
            limit=self.limit,
            max_failures=None if self.max_failures is None else _share(self.max_failures),
            waves=None
            if self.waves is None
            else [_share(part.strip()) for part in self.waves.split(",")],
            min_online=None if self.min_online is None else _share(self.min_online),
            dry_run=self.dry_run,
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
    no_wait: Annotated[
        bool,
        typer.Option(
            "--no-wait", help="Submit the job, and do not follow it.", rich_help_panel=_DURABLE
        ),
    ] = False
    database: Database = ""

    def check_place(self, ctx: typer.Context) -> None:
        """Exit if ``--durable`` is given without a database, or the reverse."""
        if self.durable is not None and not self.database:
            fail("--durable requires --database, or VMAPI_DATABASE", ExitCode.USAGE)
        for option in ("attach", "no_wait", "database"):
            if self.durable is None and _is_argument(ctx, option):
                fail(f"--{option.replace('_', '-')} requires --durable NAME", ExitCode.USAGE)


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
