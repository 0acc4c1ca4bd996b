"""Run an operation on one VM or many: confirm, execute, show the report, return an exit code."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import attrs
import msgspec
import typer
from rich.console import Console

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.outcomes import outcome_json, show_outcome, show_report
from async_vmapi.cli.output import console_for, print_json, printable
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.prompts import agree, has_terminal
from async_vmapi.cli.reports import check_file, keep_report, write_report
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.cli.streams import on_loss

if TYPE_CHECKING:
    from async_vmapi.bulk.executor import BulkExecutor
    from async_vmapi.client import Client

__all__ = [
    "Result",
    "Work",
    "carry_out",
    "check_terminal",
    "confirm",
    "exit_code",
    "present",
    "some_of",
]

_MOST_NAMED: Final = 20

Call: TypeAlias = "Callable[[BulkExecutor], Awaitable[BulkReport]]"


def _as_typed(operation: str) -> str:
    return operation.replace("_", "-")


@attrs.frozen(kw_only=True)
class Result:
    """How the result of an operation is shown.

    Attributes:
        operation: Name of the operation on the command line.
        labels: Labels of the VMs by id.
        only: Name of the VM of a ``vms`` command, whose outcome is shown in place of a report.
        json: Whether to print JSON.
        file: File to write the report to.
    """

    operation: str = attrs.field(converter=_as_typed)
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    only: str | None = None
    json: bool = False
    file: Path | None = None

    def check_file(self) -> None:
        """Exit if the report file cannot be written."""
        if self.file is None:
            return
        try:
            check_file(self.file)
        except OSError as error:
            fail(f"{self.file} cannot be written: {error.strerror}", ExitCode.USAGE)


@attrs.frozen(kw_only=True)
class Work(Result):
    """A bulk call to make.

    Attributes:
        call: Makes it.
        total: Number of VMs.
        plan: Its plan.
    """

    call: Call
    total: int = 1
    plan: BulkPlan = attrs.field(factory=BulkPlan)


def some_of(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more


def check_terminal(operation: str, count: int) -> None:
    """Exit if there is no terminal on which to ask for confirmation."""
    if not has_terminal():
        what = _what(operation, count)
        fail(f"{what} requires --yes if standard input is not a terminal", ExitCode.USAGE)


def _what(operation: str, count: int) -> str:
    return f"{_as_typed(operation)} of {count} VM{'s' * (count > 1)}"


def confirm(operation: str, names: Sequence[str], *, yes: bool) -> None:
    """Ask for confirmation; exit if it is refused, or if there is no terminal.

    Args:
        operation: The operation.
        names: Names of the VMs.
        yes: Skip the confirmation.
    """
    if yes or not names:
        return
    check_terminal(operation, len(names))
    typer.echo(f"{_what(operation, len(names))}: {some_of(names)}", err=True)
    agree("Continue?")


def carry_out(client: "Client", work: Work) -> NoReturn:
    """Make a bulk call, show its progress and result, and exit."""
    work.check_file()
    raise typer.Exit(run(_carry_out(client, work)))


async def _carry_out(client: "Client", work: Work) -> ExitCode:
    console = console_for(json=work.json)
    async with client:
        progress = Progress(console, work.operation, work.total, work.labels, only=work.only)
        async with progress:
            bulk = client.bulk(attrs.evolve(work.plan, on_event=progress.on_event))
            interrupted = False
            try:
                report = await work.call(bulk)
            except asyncio.CancelledError:
                if bulk.report is None:
                    raise
                # Shown while the client is open: closing may be cut short.
                report, interrupted = bulk.report, True
        code = present(console, work, report)
        return ExitCode.INTERRUPTED if interrupted else code


def present(console: Console, result: Result, report: BulkReport) -> ExitCode:
    """Save and show the report; return its exit code.

    If standard output is lost, the report is written to a file, and its tokens to standard error.
    """
    written = result.file is None or write_report(result.file, report)
    file = result.file if written else keep_report(report)
    if not written and file is not None:
        say(f"the report is in {file}")

    def rescue(why: str) -> None:
        saved = file or keep_report(report)
        say(f"standard output: {why}; {report}")
        say(f"the report: {report.to_json()}" if saved is None else f"the report is in {saved}")
        for outcome in report.unknown:
            say(f"{outcome.item}: outcome unknown; run: async-vmapi wait {outcome.token}")

    on_loss(rescue)
    _show(console, result, report)
    return exit_code(report) or (ExitCode.OK if written else ExitCode.OUTPUT_LOST)


def _show(console: Console, result: Result, report: BulkReport) -> None:
    if result.only is None:
        if result.json:
            print_json(msgspec.json.decode(report.to_json()))
        else:
            show_report(console, report, result.labels)
        return
    (outcome,) = report.outcomes
    if result.json:
        print_json(outcome_json(result.operation, outcome))
    else:
        show_outcome(console, result.operation, result.only, outcome)


def exit_code(report: BulkReport) -> ExitCode:
    """Return the exit code of a report."""
    if report.dry_run:
        return ExitCode.OK
    if report.unknown:
        return ExitCode.UNKNOWN
    return ExitCode.FAILED if report.failed or report.not_started else ExitCode.OK
