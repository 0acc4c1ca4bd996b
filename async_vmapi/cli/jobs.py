"""``async-vmapi jobs``: rollouts in a database, submitted by ``fleet ... --durable``."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import attrs
import typer
from rich.console import Console

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.cli.durable import fleet_of, opened, run_with
from async_vmapi.cli.jobviews import Jobs, JobsView, Lines, has_ended, job_table, print_lines
from async_vmapi.cli.live import Live, is_live
from async_vmapi.cli.operations import Result, exit_code, tell
from async_vmapi.cli.options import JSON, Database, DurableHow, Told, command
from async_vmapi.cli.output import console_for, print_json, printable
from async_vmapi.cli.progress import Joined, Progress
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.cli.streams import behind, is_lost
from async_vmapi.errors import InvalidState, VMAPIError

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, DurableJob, JobStatus

__all__ = ["Order", "app", "submit"]

app = typer.Typer(help="Look at durable jobs and control them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Then follow the job to its end, like 'jobs watch'.")
]

_LOOK: Final = 1.0
# A worker that has nothing to do looks for jobs that often, and a bit.
_WAITING: Final = 3


@attrs.frozen(kw_only=True)
class Order:
    """What a job is to do.

    Attributes:
        operation: The operation, as `BulkExecutor.run` calls it.
        items: On what.
        keywords: With which arguments.
        labels: Labels of the machines by their ids.
    """

    operation: str
    items: Sequence[Any]
    keywords: Mapping[str, Any]
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str])


def submit(how: DurableHow, told: Told, order: Order) -> NoReturn:
    """Submit a job, and follow it to its end."""
    plan = how.plan()
    fleet = fleet_of(how.database)
    shown = Result(operation=order.operation, labels=order.labels, json=told.json, file=told.report)
    shown.check_file()
    raise typer.Exit(run(_submit(fleet, how, plan, order, shown)))


async def _submit(
    fleet: "DurableFleet", how: DurableHow, plan: BulkPlan, order: Order, shown: Result
) -> ExitCode:
    async with opened(fleet):
        submission = fleet.submit(how.durable or "", plan, attach=how.attach)
        job = await submission.run(order.items, order.operation, **order.keywords)
        return await _follow(job, shown)


async def _follow(job: "DurableJob", shown: Result) -> ExitCode:
    console = console_for(json=shown.json)
    status = await job.status()
    joined = Joined(seconds=max(0.0, time.time() - status.submitted), done=status.done)
    progress = Progress(console, shown.operation, status.total, shown.labels, joined=joined)
    try:
        async with progress:
            noting = asyncio.get_running_loop().create_task(_note_state(job, progress))
            try:
                async for event in job.events():
                    progress.on_event(event)
            finally:
                noting.cancel()
                with suppress(asyncio.CancelledError):
                    await noting
        report = await job.report()
    except asyncio.CancelledError:
        say(f"the job goes on; follow it with: async-vmapi jobs watch {job.name}")
        raise
    return tell(console, shown, report)


async def _note_state(job: "DurableJob", progress: Progress) -> None:
    """Note what a job's events do not tell: that it waits, or for what."""
    waited = 0
    while True:
        try:
            status = await job.status()
        except VMAPIError as error:
            progress.note(f"{error}; it is waited for")
        else:
            waited = waited + 1 if status.state == "waiting" else 0
            if waited == _WAITING:
                say(f"job {job.name} waits for a worker: async-vmapi worker")
            progress.note(_NOTES.get(status.state, "") if not 0 < waited < _WAITING else "")
        await asyncio.sleep(_LOOK)


_NOTES: Final = {
    "waiting": "waits for a worker",
    "paused": "paused: nothing new starts until 'jobs resume'",
    "cancelling": "cancelled: what is in flight is watched to its end",
}


@app.command("list")
@command
def list_(database: Database, json: JSON = False) -> None:
    """List all jobs, the newest first; 'jobs watch' shows how they go on."""

    async def look(fleet: "DurableFleet") -> "tuple[list[JobStatus], str]":
        return await fleet.jobs(), fleet.database

    found, where = run_with(database, look)
    if json:
        print_json(found)
    elif found:
        console_for(json=False).print(job_table(found))
        for version, jobs in _by_version(found).items():
            say(f"{', '.join(jobs)}: {_WAITS.format(version)}")
    else:
        say(f"there are no jobs in {where}; 'fleet ... --durable NAME' makes one")


_WAITS: Final = "submitted by another version; waits for a worker of {!r}"


def _by_version(found: "Sequence[JobStatus]") -> dict[str, list[str]]:
    waiting: dict[str, list[str]] = {}
    for status in found:
        if status.waits_for is not None:
            waiting.setdefault(status.waits_for, []).append(printable(status.name))
    return waiting


@app.command()
@command
def show(name: Name, database: Database, json: JSON = False) -> None:
    """Show how a job is now; 'jobs watch' shows how it goes on."""
    _show(run_with(database, partial(_controlled, name, None)), json=json)


@app.command()
@command
def watch(
    database: Database,
    told: Told,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The job's name; all jobs without it.")
    ] = None,
) -> None:
    """Follow a job to its end, and show its report; or all that are under way, to the last's end.

    Of all jobs, a terminal shows a table; elsewhere there is a line for each change, with --json
    in JSON.
    """
    if name is not None:
        raise typer.Exit(run_with(database, partial(_follow_named, name, told)))
    if told.report is not None:
        fail("--report is of one job: give its NAME", ExitCode.USAGE)
    raise typer.Exit(run_with(database, partial(_watch_all, json=told.json)))


async def _follow_named(name: str, told: Told, fleet: "DurableFleet") -> ExitCode:
    job = await fleet.job(name)
    shown = Result(operation=(await job.status()).operation, json=told.json, file=told.report)
    shown.check_file()
    return await _follow(job, shown)


async def _watch_all(fleet: "DurableFleet", *, json: bool) -> ExitCode:
    console = console_for(json=json)
    jobs = Jobs(fleet)
    changed = await jobs.look()
    if not changed:
        say(f"no job is under way in {fleet.database}; 'jobs list' shows those that have ended")
        return ExitCode.OK
    await _watch_to_the_end(console, jobs, changed, json=json)
    found = list(jobs.seen.values())
    if not json:
        console.print(job_table(sorted(found, key=lambda status: -status.submitted)))
    return await _worst(fleet, found)


async def _watch_to_the_end(
    console: Console, jobs: Jobs, changed: "list[JobStatus]", *, json: bool
) -> None:
    view, lines = JobsView(console, jobs), Lines(console, 0.0)
    live: Live | None = None
    shown: AbstractContextManager[object] = nullcontext()
    names: set[str] = set()
    if is_live(console) and not json:
        shown = live = Live(console, view)
    with shown:
        while True:
            if live is not None:
                live.refresh()
            elif not json:
                lines.tell(changed)
            else:
                names |= {status.name for status in changed}
                if not behind(sys.stdout):
                    print_lines([s for n, s in jobs.seen.items() if n in names])
                    names = set()
            if all(map(has_ended, jobs.seen.values())) or is_lost(sys.stdout):
                return
            await asyncio.sleep(_LOOK)
            try:
                changed, problem = await jobs.look(), ""
            except VMAPIError as error:
                # One look that fails is no reason to look no more.
                changed, problem = [], str(error)
                if live is None and problem != view.problem:
                    say(problem)
            view.problem = problem


async def _worst(fleet: "DurableFleet", found: "Sequence[JobStatus]") -> ExitCode:
    """Return the exit code for what became of all these."""
    codes = {ExitCode.OK}
    for status in found:
        if status.state == "broken":
            codes.add(ExitCode.FAILED)
        elif status.state == "finished":
            codes.add(exit_code(await (await fleet.job(status.name)).report()))
    return max(codes)


@app.command()
@command
def pause(name: Name, database: Database, follow: Follow = False, json: JSON = False) -> None:
    """Start nothing new of a job until it is resumed; what is in flight goes on."""
    _control(name, "pause", database, follow=follow, json=json)


@app.command()
@command
def resume(name: Name, database: Database, follow: Follow = False, json: JSON = False) -> None:
    """End a pause."""
    _control(name, "resume", database, follow=follow, json=json)


@app.command()
@command
def cancel(name: Name, database: Database, follow: Follow = False, json: JSON = False) -> None:
    """Start nothing new of a job for good; what is in flight is watched to its end."""
    _control(name, "cancel", database, follow=follow, json=json)


def _control(name: str, verb: str, database: str, *, follow: bool, json: bool) -> None:
    async def control(fleet: "DurableFleet") -> "JobStatus | ExitCode":
        status = await _controlled(name, verb, fleet)
        return await _follow_named(name, Told(json=json), fleet) if follow else status

    became = run_with(database, control)
    if isinstance(became, ExitCode):
        raise typer.Exit(became)
    _show(became, json=json)


def _show(status: "JobStatus", *, json: bool) -> None:
    if json:
        print_json(status)
        return
    console = console_for(json=False)
    console.print(job_table([status]))
    if status.waits_for is not None:
        say(_WAITS.format(status.waits_for))
    if status.stopped:
        console.print(f"nothing more is started: {printable(status.stopped)}")


async def _controlled(name: str, verb: str | None, fleet: "DurableFleet") -> "JobStatus":
    job = await fleet.job(name)
    if verb is not None:
        try:
            await getattr(job, verb)()
        except InvalidState as error:
            fail(f"{error}: there is nothing to {verb}; see 'jobs watch {name}'")
    return await job.status()
