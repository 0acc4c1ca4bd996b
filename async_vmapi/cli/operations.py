"""Run an operation on one VM or many: confirm, execute, show the report, return an exit code."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import msgspec
import typer
from rich.console import Console

from async_vmapi.bulk.item import Start
from async_vmapi.bulk.outcomes import INTERRUPTED
from async_vmapi.bulk.plan import BulkEvent, BulkPlan
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.cli.listing import Format
from async_vmapi.cli.options import Filters, Output
from async_vmapi.cli.outcomes import (
    counts_text,
    outcome_columns,
    outcome_json,
    show_outcome,
    show_report,
    show_tokens,
)
from async_vmapi.cli.output import printable, who
from async_vmapi.cli.profiles import ask
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.prompts import agree, agrees, has_terminal
from async_vmapi.cli.reports import check_file, keep_report, write_report
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.cli.streams import on_loss
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.writes.operations import GENERAL
from async_vmapi.writes.requests import VMOrId, id_of

if TYPE_CHECKING:
    from async_vmapi.bulk.executor import BulkExecutor
    from async_vmapi.client import Client

__all__ = [
    "Work",
    "carry_out",
    "check_terminal",
    "confirm",
    "exit_code",
    "present",
    "selected",
    "some_of",
]

_MOST_NAMED: Final = 20
_TIMED_OUT: Final = "it timed out"


@attrs.frozen(kw_only=True)
class Work:
    """An operation on VMs, and how its result is shown.

    Attributes:
        operation: The operation.
        items: VMs, ids or create requests.
        keywords: Arguments of the operation.
        start: A function of an item to call in place of the operation.
        earlier: The report to resume from.
        plan: The bulk plan.
        labels: Labels of the VMs by id.
        names: Names of the VMs of a ``vm`` command, in the order of the items, whose outcomes are
            shown in place of a report.
        output: How to print the result.
        no_wait: Whether operations are not awaited: their tokens are the result.
        timeout: Maximum seconds to wait; None for no limit.
        approved: The hash of the plan that is carried out.
    """

    operation: str
    items: Sequence[Any] = ()
    keywords: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    start: Start | None = None
    earlier: BulkReport | None = None
    plan: BulkPlan = attrs.field(factory=BulkPlan)
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])
    names: Sequence[str] = ()
    output: Format = attrs.field(factory=Format)
    no_wait: bool = False
    timeout: float | None = None
    approved: str | None = None

    @property
    def title(self) -> str:
        """The operation as it is typed."""
        return self.operation.replace("_", "-")

    @property
    def only(self) -> str | None:
        """The name of the only VM of a ``vm`` command."""
        return self.names[0] if len(self.names) == 1 else None

    @property
    def file(self) -> Path | None:
        """The file to write the report to."""
        return self.output.report if isinstance(self.output, Output) else None

    @property
    def total(self) -> int:
        """The number of items to start."""
        if self.earlier is None:
            return len(self.items)
        return len(self.earlier.unknown) + len(self.earlier.not_started)

    def check_file(self) -> None:
        """Exit if the report file cannot be written."""
        try:
            if self.file is not None:
                check_file(self.file)
        except OSError as error:
            fail(f"{self.file} cannot be written: {error.strerror}", ExitCode.USAGE)

    async def run(self, bulk: "BulkExecutor") -> BulkReport:
        """Make the bulk call."""
        if self.earlier is not None:
            return await bulk.resume(self.earlier, self.items or None)
        return await bulk.run(self.items, self.start or self.operation, **self.keywords)


def some_of(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more


def selected(client: "Client", filters: Filters) -> list[VirtualMachine]:
    """Request a list, and return the selected VMs; report conditions that no VM meets."""
    selection, vms = filters.selection(), ask(client, lambda client: client.vms.list())
    found, missing = selection.of(vms)
    for problem in selection.unmatched(vms):
        say(problem)
    if missing:
        say(f"not in the list: {some_of(missing)}")
    return found


def check_terminal(operation: str, count: int) -> None:
    """Exit if there is no terminal on which to ask for confirmation."""
    if not has_terminal():
        what = _what(operation, count)
        fail(f"{what} requires --yes if standard input is not a terminal", ExitCode.USAGE)


def _what(operation: str, count: int) -> str:
    return f"{operation.replace('_', '-')} of {count} VM{'s' * (count > 1)}"


def confirm(operation: str, vms: Sequence[VMOrId], *, yes: bool) -> None:
    """Ask for confirmation; exit if it is refused, or if there is no terminal.

    Args:
        operation: The operation.
        vms: The VMs, or what is known of them.
        yes: Skip the confirmation.
    """
    if yes or not vms:
        return
    check_terminal(operation, len(vms))
    states = Counter(vm.state for vm in vms if not isinstance(vm, str))
    counts = "".join(f", {count} {printable(state)}" for state, count in states.most_common())
    lines = [f"{_what(operation, len(vms))}{counts * (len(vms) > 1)}:"]
    lines += [f"  {_described(vm)}" for vm in vms[:_MOST_NAMED]]
    if len(vms) > _MOST_NAMED:
        lines.append(f"  and {len(vms) - _MOST_NAMED} more")
    typer.echo("\n".join(lines), err=True)
    agree("Continue?")


def _described(vm: VMOrId) -> str:
    return (
        printable(vm) if isinstance(vm, str) else f"{who(vm.id, vm.label)}, {printable(vm.state)}"
    )


def carry_out(client: "Client", work: Work) -> NoReturn:
    """Make a bulk call, show its progress and result, and exit."""
    work.check_file()
    plan = work.plan
    asks = plan.promote != "auto" or plan.on_failure == "pause"
    if asks and not (plan.dry_run or has_terminal()):
        name = "--promote" if plan.promote != "auto" else "--on-failure pause"
        fail(f"{name} requires a terminal to ask on, or --durable NAME", ExitCode.USAGE)
    raise typer.Exit(run(_carry_out(client, work)))


async def _carry_out(client: "Client", work: Work) -> ExitCode:
    console = work.output.console
    timer = asyncio.timeout(work.timeout)
    sent = set[int | None]()
    async with client:
        progress = Progress(console, work.title, work.total, work.labels, only=work.only)
        questions = asyncio.Queue[BulkEvent]()

        def observe(event: BulkEvent) -> None:
            if event.kind in ("held", "paused"):
                questions.put_nowait(event)
            if not work.no_wait:
                progress.on_event(_event_timed_out(event) if timer.expired() else event)
            elif event.kind in ("accepted", "finished") and event.index not in sent:
                sent.add(event.index)
                if len(sent) == work.total and not timer.expired():
                    timer.reschedule(asyncio.get_running_loop().time())

        async with nullcontext() if work.no_wait else progress:
            bulk = client.bulk(attrs.evolve(work.plan, on_event=observe))
            interrupted = False
            asking = asyncio.get_running_loop().create_task(_ask(bulk, questions))
            try:
                async with timer:
                    report = await work.run(bulk)
            except (asyncio.CancelledError, TimeoutError) as error:
                interrupted = isinstance(error, asyncio.CancelledError)
                if bulk.report is None or not (interrupted or timer.expired()):
                    raise
                # Shown while the client is open: closing may be cut short.
                report = bulk.report
            finally:
                asking.cancel()
        if timer.expired():
            outcomes = tuple(map(_timed_out, report.outcomes))
            stopped = report.stopped and report.stopped.replace(INTERRUPTED, _TIMED_OUT)
            report = attrs.evolve(report, outcomes=outcomes, stopped=stopped)
        report = attrs.evolve(report, approved=work.approved)
        if report.operation == GENERAL:
            named = tuple(_named(work, outcome) for outcome in report.outcomes)
            report = attrs.evolve(report, operation=work.operation, outcomes=named)
        if timer.expired() and not work.no_wait:
            more = "" if work.operation == "wait_ready" else "; operations in flight continue"
            say(f"timed out after {work.timeout:g} s{more}")
        code = present(console, work, report)
        return ExitCode.INTERRUPTED if interrupted else code


def _timed_out(outcome: Outcome) -> Outcome:
    """Return an outcome with the timeout as the reason of the interruption."""
    return attrs.evolve(outcome, reason=outcome.reason.replace(INTERRUPTED, _TIMED_OUT))


def _event_timed_out(event: BulkEvent) -> BulkEvent:
    outcome = None if event.outcome is None else _timed_out(event.outcome)
    reason = event.reason.replace(INTERRUPTED, _TIMED_OUT)
    return attrs.evolve(event, outcome=outcome, reason=reason)


async def _ask(bulk: "BulkExecutor", questions: "asyncio.Queue[BulkEvent]") -> None:
    """Ask whether to continue where the plan says so; a refusal stops the call."""
    while True:
        event = await questions.get()
        if event.kind == "held":
            question = f"Wave {event.wave} is complete ({counts_text(event.done)}). Promote it?"
        else:
            question = f"Paused: {event.reason}. Continue?"
        if bulk.held is None and bulk.paused is None:
            continue
        if not await agrees(question):
            bulk.stop("you declined")
        elif event.kind == "paused":
            bulk.unpause()
        elif bulk.held is not None:
            bulk.promote()


def _named(work: Work, outcome: Outcome) -> Outcome:
    """Return the outcome of a function with its VM's name or id."""
    item = work.items[outcome.index]
    if work.operation != "wait":
        vm_id = outcome.vm_id if isinstance(item, CreateRequest) else id_of(item)
        return attrs.evolve(outcome, item=vm_id or work.names[outcome.index], vm_id=vm_id)
    outcome = attrs.evolve(outcome, item=work.names[outcome.index])
    if outcome.status != "not_started":
        return outcome
    # A token that was not awaited.
    return attrs.evolve(outcome, status="unknown", token=item)


def present(console: Console, work: Work, report: BulkReport) -> ExitCode:
    """Save and show the report; return its exit code.

    If standard output is lost, the report is written to a file, and its tokens to standard error.
    """
    written = work.file is None or write_report(work.file, report.to_json())
    file = work.file if written else keep_report(report)
    if not written and file is not None:
        say(f"the report is in {file}")

    def rescue(why: str) -> None:
        saved = file or keep_report(report)
        say(f"standard output: {why}; {report}")
        say(f"the report: {report.to_json()}" if saved is None else f"the report is in {saved}")
        for outcome in report.unknown:
            say(f"{outcome.item}: outcome unknown; run: async-vmapi wait {outcome.token}")

    on_loss(rescue)
    _show(console, work, report)
    code = exit_code(report)
    if work.no_wait and all(outcome.accepted for outcome in report.unknown):
        code = ExitCode.FAILED if report.failed else ExitCode.OK
    return code or (ExitCode.OK if written else ExitCode.OUTPUT_LOST)


def _show(console: Console, work: Work, report: BulkReport) -> None:
    value: object = msgspec.json.decode(report.to_json())
    if work.names:
        each = [outcome_json(work.title, o, no_wait=work.no_wait) for o in report.outcomes]
        value = each[0] if work.only else each
    ended_well = [o for o in report.outcomes if o.status == "succeeded" or o.accepted]
    if work.output.print_data(value, ended_well, outcome_columns(work.labels)):
        return
    if work.no_wait:
        show_tokens(work.title, work.names, report.outcomes)
    elif work.only:
        show_outcome(console, work.title, work.only, report.outcomes[0])
    else:
        show_report(console, report, work.labels)


def exit_code(report: BulkReport) -> ExitCode:
    """Return the exit code of a report."""
    if report.dry_run:
        return ExitCode.OK
    if report.unknown:
        return ExitCode.UNKNOWN
    return ExitCode.FAILED if report.failed or report.not_started else ExitCode.OK
