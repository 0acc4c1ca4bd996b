"""``async-vmapi worker``: work on durable jobs, and show what is in hand."""

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from async_vmapi.cli.durable import fleet_of, opened
from async_vmapi.cli.jobviews import Jobs, JobsView, Lines, print_lines, told_counts
from async_vmapi.cli.live import Live, is_live
from async_vmapi.cli.options import JSON, Database, command
from async_vmapi.cli.output import STYLES, console_for, printable, style_of, who
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.progress import duration, rate_of
from async_vmapi.cli.running import run
from async_vmapi.cli.streams import behind
from async_vmapi.errors import VMAPIError

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, WorkerItem, WorkerStatus

__all__ = ["worker"]

_LOOK: Final = 1.0
_EVERY: Final = 30.0
_SLOWEST: Final = 5
# A worker's own lines in a live view: two and those of the slowest, and an empty one.
_ROWS: Final = _SLOWEST + 3


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
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="An environment variable that jobs may name as a secret, besides VMAPI_SECRET_*. "
            "Can be repeated. Never the API's credentials or the database's address.",
        ),
    ] = None,
    json: JSON = False,
) -> None:
    """Work on durable jobs until interrupted; others go on with what is left then.

    On a terminal it shows what it has in hand; elsewhere a line when a job's state changes, and
    every half minute how it goes on; with --json a line for each change in JSON.
    """
    fleet = fleet_of(
        database,
        partial(client_for, ctx.obj),
        limit=limit,
        worker_limit=worker_limit,
        secret_names=secret or (),
    )
    run(_work(fleet, json=json))


async def _work(fleet: "DurableFleet", *, json: bool) -> None:
    console = console_for(json=json)
    try:
        async with opened(fleet):
            await _work_and_show(fleet, console, json=json)
    except asyncio.CancelledError:
        # The first interruption is the end that is wanted; a second one leaves without it.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 1:
            raise


async def _work_and_show(fleet: "DurableFleet", console: Console, *, json: bool) -> None:
    jobs = Jobs(fleet)
    view, lines = _View(console, fleet, jobs), Lines(console, _EVERY)
    live: Live | None = None
    shown: AbstractContextManager[object] = nullcontext()
    if is_live(console) and not json:
        shown = live = Live(console, view)
    else:
        console.print(f"worker: at work on {printable(fleet.database)}")
    working = asyncio.get_running_loop().create_task(fleet.work())
    before: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    try:
        with shown:
            while not working.done():
                try:
                    changed = await jobs.look()
                    view.jobs.problem = ""
                except VMAPIError as error:
                    # Away, the database is waited for.
                    changed, view.jobs.problem = [], str(error)
                if live is not None:
                    live.refresh()
                elif json:
                    names |= {status.name for status in changed}
                    if not behind(sys.stdout):
                        here = _here(fleet.worker_status())
                        names |= {name for name in here if here[name] != before.get(name)}
                        print_lines([s for n, s in jobs.seen.items() if n in names], here)
                        before, names = here, set()
                else:
                    lines.tell(changed)
                await asyncio.wait({working}, timeout=_LOOK)
        working.result()
    except asyncio.CancelledError:
        had = fleet.worker_status()
        # What is on the wire is waited for, and the rest left.
        working.cancel()
        await asyncio.wait({working})
        status = fleet.worker_status()
        left = len(had.in_flight) + sum(_sums(had).values()) - sum(_sums(status).values())
        if not json:
            console.print(_end(status, left))
        raise


def _here(status: "WorkerStatus") -> dict[str, dict[str, Any]]:
    """Return for each job what this worker has to do with it."""
    found: dict[str, dict[str, Any]] = {
        name: {"in_flight": 0, "done": counts} for name, counts in status.done.items()
    }
    for item in status.in_flight:
        found.setdefault(item.job, {"in_flight": 0, "done": {}})["in_flight"] += 1
    return found


def _sums(status: "WorkerStatus") -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for counts in status.done.values():
        for kind, count in counts.items():
            sums[kind] = sums.get(kind, 0) + count
    return sums


def _end(status: "WorkerStatus", in_hand: int) -> str:
    counts = told_counts(_sums(status)) or "nothing done"
    left = f", {in_hand} left for others to go on with" if in_hand else ""
    return f"worker: has ended; {counts} here{left}"


class _View:
    """What the worker has in hand, and below it the jobs."""

    def __init__(self, console: Console, fleet: "DurableFleet", jobs: Jobs) -> None:
        self.jobs = JobsView(console, jobs, rows=_ROWS)
        self._fleet = fleet
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    def __rich__(self) -> RenderableType:
        status, elapsed = self._fleet.worker_status(), self._clock() - self._began
        head = Text("worker", "bold").append(f" of {printable(self._fleet.database)}", "not bold")
        head.append(f"   {duration(elapsed)}", "not bold dim")
        sums = _sums(status)
        done = sum(sums.values())
        counts = Text(f"{len(status.in_flight)} in flight here · {done} done here")
        for kind in ("failed", "unknown", "not_started"):
            if count := sums.get(kind):
                words = kind.replace("_", " ")
                counts.append(" · ").append(f"{count} {words}", STYLES[words])
        carried_out = done - sums.get("not_started", 0)
        if carried_out and elapsed > 0:
            counts.append(f" · {rate_of(carried_out / elapsed)}")
        lines = [head, counts, *map(_told, status.in_flight[:_SLOWEST])]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines, "", self.jobs)


def _told(item: "WorkerItem") -> Text:
    name = who(item.vm_id or item.item, item.item)
    line = Text(f"  {duration(item.seconds):>6}  {printable(item.job)}  {name}  {item.operation} ")
    if item.state:
        return line.append(f"last seen {printable(item.state)}", style_of(item.state))
    return line.append("accepted, and not seen yet" if item.accepted else "not accepted yet")
