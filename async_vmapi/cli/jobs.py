"""``async-vmapi job``: rollouts in a database, submitted by ``fleet ... --durable``."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.durable import fleet_of, opened, run_with
from async_vmapi.cli.jobviews import JOB_COLUMNS, JobsView, has_ended, waits_text
from async_vmapi.cli.listing import Format, Listing
from async_vmapi.cli.live import follow
from async_vmapi.cli.operations import Work, exit_code, present
from async_vmapi.cli.options import Database, DurableOptions, Output, Timeout
from async_vmapi.cli.output import console_for, printable
from async_vmapi.cli.progress import Joined, Progress
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.errors import InvalidState, VMAPIError

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, DurableJob, JobStatus

__all__ = ["app", "submit"]

app = Commands("Show and control durable jobs.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Job name.")]
Follow = Annotated[bool, typer.Option(help="Then follow the job until it ends, like 'job watch'.")]

_POLL_INTERVAL: Final = 1.0
# Polls before "waits for a worker" is shown; idle workers need almost that long to find a job.
_WAITING: Final = 3


def submit(options: DurableOptions, work: Work) -> NoReturn:
    """Submit a job, and follow it until it ends."""
    fleet = fleet_of(options.database)
    work.check_file()
    raise typer.Exit(run(_submit(fleet, options, work)))


async def _submit(fleet: "DurableFleet", options: DurableOptions, work: Work) -> ExitCode:
    async with opened(fleet):
        submission = fleet.submit(options.durable or "", work.plan, attach=options.attach)
        job = await submission.run(work.items, work.operation, **work.keywords)
        if options.no_wait:
            _show(await job.status(), work.output)
            return ExitCode.OK
        return await _follow(job, work)


async def _follow(job: "DurableJob", work: Work) -> ExitCode:
    console = work.output.console
    status = await job.status()
    joined = Joined(seconds=max(0.0, time.time() - status.submitted), done=status.done)
    progress = Progress(console, work.title, status.total, work.labels, joined=joined)
    try:
        async with asyncio.timeout(work.timeout), progress:
            noting = asyncio.get_running_loop().create_task(_note_state(job, progress))
            try:
                async for event in job.events():
                    progress.on_event(event)
            finally:
                noting.cancel()
                with suppress(asyncio.CancelledError):
                    await noting
        report = await job.report()
    except (asyncio.CancelledError, TimeoutError) as error:
        say(f"the job is still running; follow it with: async-vmapi job watch {job.name}")
        if isinstance(error, TimeoutError):
            return ExitCode.UNKNOWN
        raise
    return present(console, work, report)


async def _note_state(job: "DurableJob", progress: Progress) -> None:
    """Show what a job's events do not: whether it waits, is paused or is cancelled."""
    waited = 0
    while True:
        try:
            status = await job.status()
        except VMAPIError as error:
            progress.note(f"{error}; waiting for it")
        else:
            waited = waited + 1 if status.state == "waiting" else 0
            if waited == _WAITING:
                say(f"job {job.name} waits for a worker; start one with: async-vmapi worker")
            note = waits_text(status) or _NOTES.get(status.state, "")
            progress.note(note if not 0 < waited < _WAITING else "")
        await asyncio.sleep(_POLL_INTERVAL)


_NOTES: Final = {
    "waiting": "waits for a worker",
    "cancelling": "cancelled: waiting for the operations in flight",
}


@app.add("list")
def list_(database: Database, listing: Listing) -> None:
    """List all jobs, newest first."""
    where = ""

    async def read(fleet: "DurableFleet") -> "list[JobStatus]":
        nonlocal where
        where = fleet.database
        return await fleet.jobs()

    found = listing.show(lambda: run_with(database, read), JOB_COLUMNS)
    for status in found:
        if status.waits_for is not None:
            say(f"{status.name}: {_WAITS.format(status.waits_for)}")
        elif waits := waits_text(status):
            say(f"{status.name}: {waits}")
    if not found:
        say(f"there are no jobs in {where}; submit one with 'fleet ... --durable NAME'")


_WAITS: Final = "submitted by another version; waits for a worker of {!r}"


@app.add("show")
def show(name: Name, database: Database, output: Format) -> None:
    """Show the status of a job."""
    _show(run_with(database, partial(_controlled, name, None)), output)


@app.add("watch")
def watch(
    database: Database,
    output: Output,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Job name; by default, all jobs.")
    ] = None,
    timeout: Timeout = None,
) -> None:
    """Follow a job until it ends, and show its report; or follow all running jobs.

    All jobs are shown as a table on a terminal, and otherwise as one line per change (with --json,
    one JSON object per line). Exits when the last one has ended.
    """
    if name is not None:
        raise typer.Exit(run_with(database, partial(_follow_named, name, output, timeout=timeout)))
    if timeout is not None:
        fail("--timeout is for a single job: give its NAME", ExitCode.USAGE)
    if output.report is not None:
        fail("--report is for a single job: give its NAME", ExitCode.USAGE)
    if output.kind not in ("table", "json"):
        fail("all jobs are shown as a table or with --json: give a NAME", ExitCode.USAGE)
    raise typer.Exit(run_with(database, partial(_watch_all, json=output.kind == "json")))


async def _follow_named(
    name: str, output: Output, fleet: "DurableFleet", *, timeout: float | None = None
) -> ExitCode:
    job = await fleet.job(name)
    work = Work(operation=(await job.status()).operation, output=output, timeout=timeout)
    work.check_file()
    return await _follow(job, work)


async def _watch_all(fleet: "DurableFleet", *, json: bool) -> ExitCode:
    console = console_for(json=json)
    view = JobsView(console, fleet)
    await view.poll()
    if not view.items:
        say(f"no job is running in {fleet.database}; 'job list' shows those that have ended")
        return ExitCode.OK
    await follow(console, view, json=json, interval=_POLL_INTERVAL)
    if not json:
        JOB_COLUMNS.print(console, view.items)
    return await _worst(fleet, view.items)


async def _worst(fleet: "DurableFleet", found: "Sequence[JobStatus]") -> ExitCode:
    """Return the worst exit code of these jobs."""
    codes = {ExitCode.OK}
    for status in found:
        if status.state == "broken":
            codes.add(ExitCode.FAILED)
        elif status.state == "finished":
            codes.add(exit_code(await (await fleet.job(status.name)).report()))
    return max(codes)


def _verb(verb: str) -> Callable[..., None]:
    def run(name: Name, database: Database, output: Output, follow: Follow = False) -> None:
        async def control(fleet: "DurableFleet") -> "JobStatus | ExitCode":
            status = await _controlled(name, verb, fleet)
            return await _follow_named(name, output, fleet) if follow else status

        result = run_with(database, control)
        if isinstance(result, ExitCode):
            raise typer.Exit(result)
        _show(result, output)

    return run


for _name, _help in {
    "pause": "Pause a job: start no more operations until it is resumed.",
    "resume": "Resume a paused job; failures that paused it are forgiven.",
    "promote": "Promote the wave that is held: the next one starts.",
    "cancel": "Cancel a job: start no more operations, and wait for those in flight.",
}.items():
    app.add(_name, help=_help)(_verb(_name))


def _show(status: "JobStatus", output: Format) -> None:
    if output.print_data(status, [status], JOB_COLUMNS):
        return
    console = output.console
    JOB_COLUMNS.print(console, [status])
    if status.waits_for is not None:
        say(_WAITS.format(status.waits_for))
    if waits := waits_text(status):
        console.print(waits)
    if status.stopped:
        what = "ended early" if has_ended(status) else "no more operations are started"
        console.print(f"{what}: {printable(status.stopped)}")


async def _controlled(name: str, verb: str | None, fleet: "DurableFleet") -> "JobStatus":
    job = await fleet.job(name)
    if verb is not None:
        try:
            await getattr(job, verb)()
        except InvalidState as error:
            fail(f"{error}; cannot {verb} it, see 'job watch {name}'")
    return await job.status()
