"""Carry an operation out on one machine or many: ask, do it, show it, tell the exit code."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import attrs
import typer

from async_vmapi.bulk import BulkExecutor
from async_vmapi.cli.output import (
    console_for,
    outcome_json,
    print_json,
    printable,
    show_outcome,
    show_report,
)
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.running import ExitCode, fail, run
from async_vmapi.client import Client
from async_vmapi.plan import BulkPlan
from async_vmapi.report import BulkReport

__all__ = ["Work", "ask_first", "carry_out"]

_MOST_NAMED: Final = 20

Call: TypeAlias = Callable[[BulkExecutor], Awaitable[BulkReport]]


@attrs.frozen(kw_only=True)
class Work:
    """A bulk call to be made, and how what becomes of it is shown.

    Attributes:
        operation: What is done, in words.
        total: To how many machines.
        call: What to call.
        plan: How to go about it.
        labels: Labels of the machines by their ids.
        json: Whether the result is shown as JSON.
        single: Whether it is about one machine, which is then shown itself.
        file: Where the report is written to.
    """

    operation: str
    total: int
    call: Call
    plan: BulkPlan = attrs.field(factory=BulkPlan)
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    json: bool = False
    single: bool = False
    file: Path | None = None


def ask_first(operation: str, names: Sequence[str], *, yes: bool) -> None:
    """Ask whether to do that to these machines; exit if not, or if there is nobody to ask."""
    if yes or not names:
        return
    what = f"{operation} of {len(names)} machine{'s' * (len(names) > 1)}"
    if not sys.stdin.isatty():
        fail(f"{what} takes --yes where there is no terminal to ask at", ExitCode.USAGE)
    shown = ", ".join(map(printable, names[:_MOST_NAMED]))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    typer.echo(f"{what}: {shown}{more}", err=True)
    try:
        agreed = typer.confirm("Go on?", err=True)
    except typer.Abort:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if not agreed:
        fail("nothing was done")


def carry_out(client: Client, work: Work) -> NoReturn:
    """Make a bulk call with its progress, show what became of it, and exit."""
    if work.file is not None:
        try:
            # Before anything is sent, so that what is done can be written down.
            work.file.open("a").close()
        except OSError as error:
            fail(f"{work.file} cannot be written: {error.strerror}", ExitCode.USAGE)
    raise typer.Exit(run(_carry_out(client, work)))


async def _carry_out(client: Client, work: Work) -> ExitCode:
    console = console_for(json=work.json)
    async with client:
        async with Progress(console, work.operation, work.total, work.labels) as progress:
            bulk = client.bulk(attrs.evolve(work.plan, on_event=progress.on_event))
            interrupted = False
            try:
                report = await work.call(bulk)
            except asyncio.CancelledError:
                if bulk.report is None:
                    raise
                # Told while the client is still open: closing may be cut short.
                report, interrupted = bulk.report, True
        if work.json:
            print_json(outcome_json(report) if work.single else report.to_json().encode())
        elif work.single:
            show_outcome(console, work.operation, report.outcomes[0])
        else:
            show_report(console, report, work.labels)
        if work.file is not None:
            work.file.write_text(report.to_json(), encoding="utf-8")
        return ExitCode.INTERRUPTED if interrupted else _exit_code(report)


def _exit_code(report: BulkReport) -> ExitCode:
    if report.unknown:
        return ExitCode.UNKNOWN
    if report.failed or (report.not_started and not report.dry_run):
        return ExitCode.FAILED
    return ExitCode.OK
