"""Carry an operation out on one machine or many: ask, do it, show it, tell the exit code."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import attrs
import msgspec
import typer
from rich.console import Console

from async_vmapi.cli.output import (
    console_for,
    leave,
    outcome_json,
    print_json,
    printable,
    show_outcome,
    show_report,
)
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.plan import BulkPlan
from async_vmapi.report import BulkReport

if TYPE_CHECKING:
    from async_vmapi.bulk import BulkExecutor
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
            self.file.open("a").close()
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


def ask_first(operation: str, names: Sequence[str], *, yes: bool) -> None:
    """Ask whether to do that to these machines; exit if not, or if there is nobody to ask."""
    if yes or not names:
        return
    what = f"{_as_typed(operation)} of {len(names)} machine{'s' * (len(names) > 1)}"
    if sys.stdin is None or not sys.stdin.isatty():
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
        tell(console, work, report)
        return ExitCode.INTERRUPTED if interrupted else exit_code(report)


def tell(console: Console, how: Result, report: BulkReport) -> None:
    """Write the report down and show it; whichever fails, no token is lost."""
    if how.file is not None:
        _write(how.file, report)
    try:
        _show(console, how, report)
        if not console.quiet:
            return
    except OSError as error:
        say(f"the report cannot be shown: {error.strerror}")
        leave(sys.stdout)
    say(str(report))
    for outcome in report.unknown:
        say(f"{outcome.item} is unknown; look on with: async-vmapi wait {outcome.token}")


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


def _write(path: Path, report: BulkReport) -> None:
    # At once or not at all: it may be the report that this one goes on from.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(report.to_json(), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror}")


def exit_code(report: BulkReport) -> ExitCode:
    """Return the exit code for what became of all."""
    if report.dry_run:
        return ExitCode.OK
    if report.unknown:
        return ExitCode.UNKNOWN
    return ExitCode.FAILED if report.failed or report.not_started else ExitCode.OK
