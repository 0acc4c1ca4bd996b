"""``async-vmapi jobs``: rollouts in a database; and ``worker``, which does them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import attrs
import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from async_vmapi.cli.operations import Result, exit_code, tell
from async_vmapi.cli.options import JSON, Database, DurableHow, Told, command
from async_vmapi.cli.output import console_for, is_live, print_json, printable, table
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.errors import VMAPIError
from async_vmapi.plan import BulkPlan

if TYPE_CHECKING:
    from async_vmapi.client import Client
    from async_vmapi.durable import DurableFleet, DurableJob, JobStatus

__all__ = ["Order", "app", "submit", "worker"]

T = TypeVar("T")

app = typer.Typer(help="Look at durable jobs and control them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name.")]

_LOOK: Final = 1.0


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
    fleet = _fleet(how.database)
    shown = Result(operation=order.operation, labels=order.labels, json=told.json, file=told.report)
    shown.check_file()
    raise typer.Exit(run(_submit(fleet, how.durable or "", plan, order, shown)))


async def _submit(
    fleet: "DurableFleet", name: str, plan: BulkPlan, order: Order, shown: Result
) -> ExitCode:
    async with fleet:
        submission = fleet.submit(name, plan)
        job = await submission.run(order.items, order.operation, **order.keywords)
        return await _follow(job, shown)


async def _follow(job: "DurableJob", shown: Result) -> ExitCode:
    console = console_for(json=shown.json)
    status = await job.status()
    if status.state == "waiting":
        say(f"job {job.name} waits for a worker: async-vmapi worker")
    try:
        async with Progress(console, shown.operation, status.total, shown.labels) as progress:
            async for event in job.events():
                progress.on_event(event)
        report = await job.report()
    except asyncio.CancelledError:
        say(f"the job goes on; follow it with: async-vmapi jobs watch {job.name}")
        raise
    tell(console, shown, report)
    return exit_code(report)


@app.command("list")
@command
def list_(database: Database, json: JSON = False) -> None:
    """List all jobs, the newest first."""

    async def look(fleet: "DurableFleet") -> "list[JobStatus]":
        return await fleet.jobs()

    found = _with(database, look)
    if json:
        print_json(found)
    else:
        console_for(json=False).print(_table(found))


@app.command()
@command
def show(name: Name, database: Database, json: JSON = False) -> None:
    """Show how a job is now."""
    _show(_with(database, partial(_controlled, name, None)), json=json)


@app.command()
@command
def watch(name: Name, database: Database, told: Told) -> None:
    """Follow a job to its end, and show its report."""

    async def follow(fleet: "DurableFleet") -> ExitCode:
        job = await fleet.job(name)
        operation = (await job.status()).operation
        return await _follow(job, Result(operation=operation, json=told.json, file=told.report))

    raise typer.Exit(_with(database, follow))


@app.command()
@command
def pause(name: Name, database: Database, json: JSON = False) -> None:
    """Start nothing new of a job until it is resumed; what is in flight goes on."""
    _show(_with(database, partial(_controlled, name, "pause")), json=json)


@app.command()
@command
def resume(name: Name, database: Database, json: JSON = False) -> None:
    """End a pause."""
    _show(_with(database, partial(_controlled, name, "resume")), json=json)


@app.command()
@command
def cancel(name: Name, database: Database, json: JSON = False) -> None:
    """Start nothing new of a job for good; what is in flight is watched to its end."""
    _show(_with(database, partial(_controlled, name, "cancel")), json=json)


@command
def worker(
    ctx: typer.Context,
    database: Database,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Operations in flight, on all workers together.")
    ] = None,
    worker_limit: Annotated[
        int | None, typer.Option(min=1, help="Operations in flight on this worker.")
    ] = None,
    json: JSON = False,
) -> None:
    """Work on durable jobs until interrupted; others go on with what is left then."""
    client_for(ctx.obj)  # tells at once what is wrong with the credentials
    fleet = _fleet(database, partial(client_for, ctx.obj), limit=limit, worker_limit=worker_limit)
    run(_work(fleet, json=json))


async def _work(fleet: "DurableFleet", *, json: bool) -> None:
    console = console_for(json=json)
    view = _Jobs()
    live: Live | None = None
    shown: AbstractContextManager[object] = nullcontext()
    if is_live(console) and not json:
        shown = live = Live(view, console=console, auto_refresh=False, transient=True)
    async with fleet:
        working = asyncio.get_running_loop().create_task(fleet.work())
        try:
            with shown:
                while not working.done():
                    changed: list[JobStatus] = []
                    # Away, the database is waited for.
                    with suppress(VMAPIError):
                        changed = view.look(await fleet.jobs())
                    if live is not None:
                        live.refresh()
                    else:
                        for status in changed:
                            _tell_change(console, status, json=json)
                    await asyncio.wait({working}, timeout=_LOOK)
            working.result()
        except asyncio.CancelledError:
            # The end that is wanted: what is on the wire is waited for, and the rest left.
            working.cancel()
            await asyncio.wait({working})


def _tell_change(console: Console, status: "JobStatus", *, json: bool) -> None:
    if json:
        print_json(status, indent=None)
    else:
        done = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in status.done.items() if n)
        console.print(
            f"job {status.name}: {status.operation} of {status.total}, {status.state}, "
            f"{status.in_flight} in flight{f', {done}' if done else ''}"
        )


class _Jobs:
    """All jobs as they were seen last."""

    def __init__(self) -> None:
        self._seen: dict[str, JobStatus] = {}

    def look(self, found: "Sequence[JobStatus]") -> "list[JobStatus]":
        """Take them into account, and return those that are otherwise than before."""
        before, self._seen = self._seen, {status.name: status for status in found}
        return [
            status
            for status in found
            if (old := before.get(status.name)) is None
            or attrs.evolve(old, changed=status.changed) != status
        ]

    def __rich__(self) -> RenderableType:
        return _table(list(self._seen.values()))


def _table(found: "Sequence[JobStatus]") -> Table:
    columns = ("job", "operation", "state", "total", "succeeded", "failed", "unknown", "in flight")
    return table(
        columns,
        [
            (
                status.name,
                status.operation,
                status.state,
                str(status.total),
                *(str(status.done.get(kind, 0)) for kind in ("succeeded", "failed", "unknown")),
                str(status.in_flight),
            )
            for status in found
        ],
        fold=False,
    )


def _show(status: "JobStatus", *, json: bool) -> None:
    if json:
        print_json(status)
        return
    console = console_for(json=False)
    console.print(_table([status]))
    if status.stopped:
        console.print(f"nothing more is started: {printable(status.stopped)}")


async def _controlled(name: str, verb: str | None, fleet: "DurableFleet") -> "JobStatus":
    job = await fleet.job(name)
    if verb is not None:
        await getattr(job, verb)()
    return await job.status()


def _with(database: str, call: "Callable[[DurableFleet], Awaitable[T]]") -> T:
    fleet = _fleet(database)

    async def called() -> T:
        async with fleet:
            return await call(fleet)

    return run(called())


def _fleet(
    database: str,
    client: "Callable[[], Client] | None" = None,
    *,
    limit: int | None = None,
    worker_limit: int | None = None,
) -> "DurableFleet":
    if not database:
        fail("a durable job takes --database, or VMAPI_DATABASE", ExitCode.USAGE)
    try:
        # Who never asks for it needs no DBOS.
        from async_vmapi.durable import DurableFleet
    except ModuleNotFoundError as error:
        if error.name != "dbos":
            raise
        fail(error, ExitCode.USAGE)
    if client is None:
        from async_vmapi.client import Client

        client = Client.from_env
    return DurableFleet(database, client, limit=limit, worker_limit=worker_limit)
