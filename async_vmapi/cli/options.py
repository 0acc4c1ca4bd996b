"""Options that several commands share, in groups that `commands.command` expands."""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import attrs
import typer

from async_vmapi.bulk.plan import BulkPlan, OnFailure, Promote, Share, SpreadBy
from async_vmapi.cli.commands import option
from async_vmapi.cli.listing import JSON, Format
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.cli.selection import Selection
from async_vmapi.readiness.conditions import Ready
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "JSON",
    "Conditions",
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
    "Yes",
    "read_text",
]

_DURABLE: Final = "Durable job options"
_WAITING: Final = "Waiting"
_CONDITIONS: Final = (
    "address, ssh, tcp:PORT, http:[PORT]/PATH[=STATUS], several separated by commas."
)
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


Conditions = Annotated[
    str | None,
    typer.Option(
        "--ready",
        metavar="CONDITIONS",
        help=f"Wait until the VM also meets these conditions: {_CONDITIONS}",
        rich_help_panel=_WAITING,
    ),
]


@attrs.frozen(kw_only=True)
class Filters:
    """Select VMs; those that match all conditions given."""

    PANEL: ClassVar = "VM selection"

    label: list[str] | None = option("Label pattern like 'web-*'; can be repeated.")
    group: list[str] | None = option("Group name or ID; can be repeated.")
    zone: list[str] | None = option("Zone label or ID; can be repeated.")
    state: list[str] | None = option("State like 'online'; can be repeated.")
    id_file: Path | None = option(
        "File with one VM ID per line (# starts a comment), or - for standard input.",
        dir_okay=False,
        allow_dash=True,
    )

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

    everything: bool = option("All VMs of the region.", False, names=["--all"])
    fail_if_empty: bool = option("Fail if no VM is selected.", False)


@attrs.frozen(kw_only=True)
class Output(Format):
    """How a ``fleet`` command reports its result."""

    report: Path | None = option("Write the report to this file, for 'fleet resume'.")


@attrs.frozen(kw_only=True)
class RolloutOptions:
    """The rollout options of a ``fleet`` command."""

    PANEL: ClassVar = "Rollout options"

    limit: int = option("Maximum operations in flight.", 50, min=1)
    max_failures: str | None = option(
        "Failure budget, like 3 or 5%: start no more operations if more have failed."
    )
    waves: str | None = option(
        "Wave sizes, like 1,10%,100%; a wave starts after the previous one has passed."
    )
    min_online: str | None = option("VMs to keep online, like 10 or 80%.")
    check: str | None = option(
        f"Conditions that each VM must meet after its operation, or it has failed: {_CONDITIONS}",
        metavar="CONDITIONS",
    )
    check_timeout: float = option(
        "Maximum time for a VM to meet them.", 300.0, min=0.1, metavar="SECONDS"
    )
    soak: float = option(
        "How long the VMs of a wave must stay healthy before the next wave starts.",
        0.0,
        min=0,
        metavar="SECONDS",
    )
    promote: Promote = option(
        "Which waves you must promote before the next one starts: none, the first or each. The "
        "command asks on the terminal; a job waits for 'job promote'.",
        "auto",
        metavar="auto|manual|each",
    )
    spread_by: SpreadBy | None = option(
        "Go through one zone or group after the other, each with its own waves and limits.",
        metavar="zone|group",
    )
    on_failure: OnFailure = option(
        "What to do if too many have failed; to continue after a pause, confirm on the terminal, "
        "or run 'job resume'.",
        "stop",
        metavar="stop|pause",
    )
    dry_run: bool = option("Show what would be done; change nothing.", False)
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
            check=None if self.check is None else Ready.parse(self.check),
            check_timeout=self.check_timeout,
            soak=self.soak,
            promote=self.promote,
            spread_by=self.spread_by,
            on_failure=self.on_failure,
            dry_run=self.dry_run,
        )


@attrs.frozen(kw_only=True)
class DurableOptions(RolloutOptions):
    """The rollout options of a ``fleet`` command that can be submitted as a durable job."""

    PANEL: ClassVar = _DURABLE

    durable: str | None = option(
        "Submit a job of this name to the workers, and follow it.", metavar="NAME"
    )
    attach: bool = option("If this job exists already, follow it, even if it has other VMs.", False)
    no_wait: bool = option("Submit the job, and do not follow it.", False)
    database: Database = ""

    def check_place(self, ctx: typer.Context) -> None:
        """Exit if ``--durable`` is given without a database, or the reverse."""
        if self.durable is not None and not self.database:
            fail("--durable requires --database, or VMAPI_DATABASE", ExitCode.USAGE)
        for name in ("attach", "no_wait", "database"):
            if self.durable is None and _is_argument(ctx, name):
                fail(f"--{name.replace('_', '-')} requires --durable NAME", ExitCode.USAGE)


@attrs.frozen(kw_only=True)
class New:
    """The options of a new VM."""

    PANEL: ClassVar = "New VM options"

    cpus: int = option("Number of cores.", attrs.NOTHING, min=1)
    ram: int = option("Memory in MB.", attrs.NOTHING, min=1)
    zone: str = option("Zone label or ID.", attrs.NOTHING)
    template: str | None = option("Template label or ID.")
    iso: str | None = option("CD image to boot from, not a template.")
    password_env: str | None = option(
        "Environment variable with the administrator's password.", metavar="VARIABLE"
    )
    key: str | None = option("SSH key name or ID.")
    user_data: Path | None = option(
        "cloud-init user data file, or - for standard input.", dir_okay=False, allow_dash=True
    )
    user_data_env: str | None = option(
        "Environment variable with cloud-init user data.", metavar="VARIABLE"
    )
    unique_name: bool = option("Assert that no other VM ever has this label.", False)
    retry_unknown: bool = option(
        "Retry a create of unknown outcome if no VM of its label appears; requires --unique-name.",
        False,
    )

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
