"""``async-vmapi worker``: run a worker for durable jobs, and show what it does."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from async_vmapi.cli.commands import command
from async_vmapi.cli.durable import fleet_of, opened
from async_vmapi.cli.jobviews import JobsView
from async_vmapi.cli.live import follow, is_live, one_line
from async_vmapi.cli.options import JSON, Database
from async_vmapi.cli.outcomes import counts_text
from async_vmapi.cli.output import STYLES, console_for, printable, style_of, who
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.progress import duration, rate_of
from async_vmapi.cli.running import run

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, WorkerItem, WorkerStatus

__all__ = ["WorkerView", "worker"]

_POLL_INTERVAL: Final = 1.0
_EVERY: Final = 30.0
_SLOWEST: Final = 5
# The worker's own lines in the live view (two, those of the slowest, and an empty one), and the
# jobs' head, problem and header.
_ROWS: Final = _SLOWEST + 3 + 4


@command
def worker(
    ctx: typer.Context,
    database: Database,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum operations in flight on all workers.")
    ] = None,
    worker_limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum operations in flight on this worker.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Environment variable that jobs may refer to as a secret, besides VMAPI_SECRET_*; "
            "can be repeated. API credentials and the database URL are not allowed.",
        ),
    ] = None,
    json: JSON = False,
) -> None:
    """Run a worker for durable jobs, until interrupted.

    Other workers then continue its operations. Shows a live view on a terminal, and otherwise
    prints a line when the state of a job changes, and its progress every 30 seconds (with --json,
    one JSON object per change).
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
        # The first interruption ends the worker normally, a second one at once.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 1:
            raise


async def _work_and_show(fleet: "DurableFleet", console: Console, *, json: bool) -> None:
    if json or not is_live(console):
        console.print(f"worker: running jobs of {printable(fleet.database)}")
    loop = asyncio.get_running_loop()
    working = loop.create_task(fleet.work())
    view = WorkerView(console, fleet)
    showing = loop.create_task(follow(console, view, json=json, interval=_POLL_INTERVAL))
    try:
        try:
            await asyncio.wait({working, showing}, return_when=asyncio.FIRST_COMPLETED)
            if showing.done():
                # Output is lost, but not the work.
                showing.result()
                await asyncio.wait({working})
        finally:
            showing.cancel()
            await asyncio.wait({showing})
        working.result()
    except asyncio.CancelledError:
        had = fleet.worker_status()
        # Waits for requests in flight; other workers continue the rest.
        working.cancel()
        await asyncio.wait({working})
        status = fleet.worker_status()
        left = len(had.in_flight) + sum(_sums(had).values()) - sum(_sums(status).values())
        if not json:
            console.print(_end(status, left))
        raise


def _here(status: "WorkerStatus") -> dict[str, dict[str, Any]]:
    """Return this worker's part of each job."""
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


def _end(status: "WorkerStatus", left: int) -> str:
    counts = counts_text(_sums(status)) or "nothing done"
    rest = f", {left} left to other workers" if left else ""
    return f"worker: ended; {counts} here{rest}"


class WorkerView(JobsView):
    """A live view of the worker's items, and below it the jobs."""

    def __init__(self, console: Console, fleet: "DurableFleet") -> None:
        super().__init__(console, fleet, rows=_ROWS, every=_EVERY)
        self._began = self._clock()
        self._here_before: dict[str, dict[str, Any]] = {}

    @property
    def ended(self) -> bool:
        """False: other jobs may come."""
        return False

    def changes(self) -> Iterable[object]:
        """Return the jobs that have changed, or this worker's part of them."""
        here = _here(self._fleet.worker_status())
        names = {
            name for name in here if here[name] != self._here_before.get(name)
        } | self._changed.keys()
        self._here_before, self._changed = here, {}
        for status in self.items:
            if status.name in names:
                line = msgspec.to_builtins(status)
                yield line | {"here": here.get(status.name) or {"in_flight": 0, "done": {}}}

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
        executed = done - sums.get("not_started", 0)
        if executed and elapsed > 0:
            counts.append(f" · {rate_of(executed / elapsed)}")
        lines = [head, counts, *map(_line, status.in_flight[:_SLOWEST])]
        return Group(*map(one_line, lines), "", super().__rich__())


def _line(item: "WorkerItem") -> Text:
    name = who(item.vm_id or item.item, item.item)
    line = Text(f"  {duration(item.seconds):>6}  {printable(item.job)}  {name}  {item.operation} ")
    if item.state:
        return line.append(f"last state: {printable(item.state)}", style_of(item.state))
    return line.append("accepted, not polled yet" if item.accepted else "not accepted yet")
