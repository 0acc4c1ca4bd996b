"""Carry an operation out on one machine or many: ask, do it, show it, tell the exit code."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import attrs
import msgspec
import typer
from rich.console import Console

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.output import (
    console_for,
    outcome_json,
    print_json,
    printable,
    show_outcome,
    show_report,
)
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.reports import check_file, keep_report, write_report
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.cli.streams import on_loss

if TYPE_CHECKING:
    from async_vmapi.bulk.executor import BulkExecutor
    from async_vmapi.client import Client

__all__ = ["Result", "Work", "ask_first", "carry_out", "exit_code", "some_of", "tell"]

_MOST_NAMED: Final = 20

Call: TypeAlias = "Callable[[BulkExecutor], Awaitable[BulkReport]]"


def _as_typed(operation: str) -> str:
    return operation.replace("_", "-")


@attrs.frozen(kw_only=True)
class Result:
    """How what becomes of an operation is shown.

    Attributes:
        operation: What is done, as the command line calls it.
        labels: Labels of the machines by their ids.
        only: What to call the only machine, of a command about one, which then is shown itself.
        json: Whether it is shown as JSON.
        file: Where the report is written to.
    """

    operation: str = attrs.field(converter=_as_typed)
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    only: str | None = None
    json: bool = False
    file: Path | None = None

    def check_file(self) -> None:
        """Exit if the report could not be written down in the end."""
        if self.file is None:
            return
        try:
            check_file(self.file)
        except OSError as error:
            fail(f"{self.file} cannot be written: {error.strerror}", ExitCode.USAGE)


@attrs.frozen(kw_only=True)
class Work(Result):
    """A bulk call to be made.

    Attributes:
        call: What to call.
        total: To how many machines.
        plan: How to go about it.
    """

    call: Call
    total: int = 1
    plan: BulkPlan = attrs.field(factory=BulkPlan)


def some_of(names: Sequence[str]) -> str:
    """Return some names in words, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more


def ask_first(
    operation: str, names: Sequence[str] | Callable[[], Sequence[str]], *, yes: bool
) -> None:
    """Ask whether to do that to these machines; exit if not, or if there is nobody to ask.

    Args:
        operation: What is to be done.
        names: To which; or what finds that out, called only if somebody is asked.
        yes: Whether the answer is known.
    """
    if yes or not names:
        return
    asked = sys.stdin is not None and sys.stdin.isatty()
    if callable(names):
        names = names() if asked else [""]
    what = f"{_as_typed(operation)} of {len(names)} machine{'s' * (len(names) > 1)}"
    if not asked:
        fail(f"{what} takes --yes where there is no terminal to ask at", ExitCode.USAGE)
    typer.echo(f"{what}: {some_of(names)}", err=True)
    try:
        agreed = typer.confirm("Go on?", err=True)
    except typer.Abort:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not agreed:
        fail("nothing was done")


def carry_out(client: "Client", work: Work) -> NoReturn:
    """Make a bulk call with its progress, show what became of it, and exit."""
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
                # Told while the client is still open: closing may be cut short.
                report, interrupted = bulk.report, True
        code = tell(console, work, report)
        return ExitCode.INTERRUPTED if interrupted else code


def tell(console: Console, how: Result, report: BulkReport) -> ExitCode:
    """Write the report down and show it; return the exit code for it.

    Where it cannot be shown in the end, it goes into a file, and its tokens to standard error.
    """
    written = how.file is None or write_report(how.file, report)
    file = how.file if written else keep_report(report)
    if not written and file is not None:
        say(f"the report is in {file}")

    def rescue(why: str) -> None:
        place = file or keep_report(report)
        say(f"standard output: {why}; {report}")
        say(f"the report: {report.to_json()}" if place is None else f"the report is in {place}")
        for outcome in report.unknown:
            say(f"{outcome.item} is unknown; look on with: async-vmapi wait {outcome.token}")

    on_loss(rescue)
    _show(console, how, report)
    return exit_code(report) or (ExitCode.OK if written else ExitCode.OUTPUT_LOST)


def _show(console: Console, how: Result, report: BulkReport) -> None:
    if how.only is None:
        if how.json:
            print_json(msgspec.json.decode(report.to_json()))
        else:
            show_report(console, report, how.labels)
        return
    (outcome,) = report.outcomes
    if how.json:
        print_json(outcome_json(how.operation, outcome))
    else:
        show_outcome(console, how.operation, how.only, outcome)


def exit_code(report: BulkReport) -> ExitCode:
    """Return the exit code for what became of all."""
    if report.dry_run:
        return ExitCode.OK
    if report.unknown:
        return ExitCode.UNKNOWN
    return ExitCode.FAILED if report.failed or report.not_started else ExitCode.OK
