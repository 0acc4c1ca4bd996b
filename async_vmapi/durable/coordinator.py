"""One job under way: the rules of `Rollout`, applied to items that any worker may take.

A job's coordinator runs on one worker. It puts an item's workflow into the queue when the rules
let the item start, and tells the rules of its end. If its worker dies, another one goes through
all items again, in the same order: those that have ended do so at once, those under way are
waited for, and as the rules are the same, they come to the same place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

import attrs
from dbos import DBOS, WorkflowStatus

from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended, outcome
from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.durable.events import STREAM, written
from async_vmapi.durable.operation import CANCELLED
from async_vmapi.durable.spec import Spec, decode_ended, encode
from async_vmapi.durable.store import (
    ENDED,
    OPERATION_WORKFLOW,
    OPERATIONS,
    Database,
    is_outage,
    is_refused,
    job_id,
    operation_id,
)
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Coordinator"]

_log: Final = logger_of(__name__)

# For items that may start at once to be put into the queue together.
_BATCH_DELAY: Final = 0.02


class Coordinator:
    """Takes a job through its items.

    Args:
        database: Where its items' workflows are.
        name: The job's name.
        spec: What it is to do.
        online: Which machines were online when it began, where so many are to stay so.
        polling_interval: Seconds between two looks at what has ended.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        spec: Spec,
        online: Sequence[str] | None,
        *,
        polling_interval: float,
    ) -> None:
        self._database = database
        self._name = name
        self._spec = spec
        self._interval = polling_interval
        self._new: list[int] = []
        self._waiting: dict[int, asyncio.Future[Ended]] = {}
        self._ended: dict[int, Ended] = {}
        self._events: list[BulkEvent] = []
        self._new_work = asyncio.Event()
        self._progress: dict[str, object] = {}
        self._started: set[int] = set()
        # When an item was put into the queue here.
        self._queued: dict[int, float] = {}
        self._labels = spec.labels
        self._rollout = Rollout(
            spec.bulk_plan(on_event=self._events.append),
            spec.operation,
            self._items(),
            len(self._labels),
        )
        if online is not None:
            self._rollout.keep_online(set(online), len(self._labels))

    def _items(self) -> Iterator[BulkItem]:
        for index in range(len(self._labels)):
            yield self._item(index)

    def _item(self, index: int) -> BulkItem:
        label = self._labels[index]
        vm_id = None if self._spec.operation == "create" else label
        start = partial(self._run_on_worker, index)
        return BulkItem(index, label, start, vm_id, begun=index in self._started)

    async def _run_on_worker(self, index: int) -> Ended:
        """Have some worker do an item's operation, and return how it ended."""
        if index in self._ended:
            return self._ended.pop(index)
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting[index] = future
        if index not in self._started:
            self._queued[index] = asyncio.get_running_loop().time()
            self._new.append(index)
            self._new_work.set()
        try:
            return await future
        finally:
            del self._waiting[index]

    @property
    def stopped(self) -> str | None:
        """Why nothing new was started from some moment on; None if all was."""
        return self._rollout.stopped

    async def run(self) -> tuple[Outcome, ...]:
        """Return the outcomes of all items, in their order, when the last has ended."""
        await self._through_outages(self._load_started)
        await self._through_outages(self._apply_controls)
        sync = asyncio.get_running_loop().create_task(self._sync())
        collect = asyncio.get_running_loop().create_task(self._collect())
        try:
            await asyncio.wait({sync, collect}, return_when=asyncio.FIRST_COMPLETED)
            if sync.done():
                # Another worker has taken the job over, or something is broken.
                sync.result()
        finally:
            for task in (sync, collect):
                if task is sync or not task.done():
                    task.cancel()
            await asyncio.wait({sync, collect})
        kept = collect.result()
        await self._through_outages(self._publish)
        return tuple(sorted(kept, key=lambda outcome: outcome.index))

    async def _collect(self) -> list[Outcome]:
        kept: list[Outcome] = []
        async with aclosing(self._rollout.outcomes()) as stream:
            async for found in stream:
                kept.append(found)
        return kept

    # --- with the database ----------------------------------------------------------------------

    async def _through_outages(self, do: Callable[[], Awaitable[None]]) -> None:
        """Do something with the database, as soon as it is there."""
        while True:
            try:
                return await do()
            except Exception as error:
                # Raised, it would be stored as this job's end.
                if not is_outage(error):
                    raise
                kind = type(error).__name__
                about = {"vmapi_job": self._name, "vmapi_error": kind}
                _log.warning("job %r waits for its database: %s", self._name, kind, extra=about)
                await asyncio.sleep(self._interval)

    async def _load_started(self) -> None:
        """Learn which items an earlier worker has started."""
        for index, status in await self._database.operations_of(self._name):
            self._started.add(index)
            if status.status in ENDED:
                self._ended[index] = self._read(index, status)

    async def _sync(self) -> None:
        while True:
            self._new_work.clear()
            await self._through_outages(self._sync_once)
            try:
                async with asyncio.timeout(self._interval):
                    await self._new_work.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(_BATCH_DELAY)

    async def _sync_once(self) -> None:
        await self._apply_controls()
        # Their events are among those that are published, and so are never started by a worker
        # that others have taken for dead: DBOS lets it write none.
        new = list(self._new)
        await self._publish()
        await self._enqueue(new)
        await self._deliver_ended()

    async def _apply_controls(self) -> None:
        """Do what was asked for since."""
        found = await self._database.find(job_id(self._name))
        told = (found.attributes if found else None) or {}
        self._rollout.pause(bool(told.get("paused")))
        if told.get("cancelled"):
            self._rollout.stop(CANCELLED)

    async def _enqueue(self, new: list[int]) -> None:
        if new:
            orders = [
                (operation_id(self._name, index), encode(self._spec.order(self._name, index)))
                for index in new
            ]
            await self._database.enqueue(OPERATIONS, OPERATION_WORKFLOW, orders)
            del self._new[: len(new)]

    async def _deliver_ended(self) -> None:
        """Tell the rules of what has ended."""
        waiting = {operation_id(self._name, index): index for index in self._waiting}
        for status in await self._database.ended(list(waiting)):
            index = waiting[status.workflow_id]
            future = self._waiting.get(index)
            if future is not None and not future.done():
                future.set_result(self._read(index, status))

    def _read(self, index: int, status: WorkflowStatus) -> Ended:
        reason = f"its workflow {status.workflow_id} ended as {status.status}"
        if is_refused(status):
            reason += ", and its row was refused: this package did not write it"
        elif isinstance(status.output, str):
            return self._bounded(index, decode_ended(status.output).read())
        # Else by DBOS's own tools, or by an error that should not be.
        return Ended(outcome(self._item(index), "unknown", reason=reason))

    def _bounded(self, index: int, ended: Ended) -> Ended:
        """Let no item have taken longer than since it was put into the queue.

        If two workers had it, its duration is from the clock on the wall, which may have been set.
        """
        queued, seconds = self._queued.pop(index, None), ended.outcome.seconds
        if queued is None or seconds is None:
            return ended
        at_most = round(asyncio.get_running_loop().time() - queued, 3)
        return attrs.evolve(
            ended, outcome=attrs.evolve(ended.outcome, seconds=min(seconds, at_most))
        )

    async def _publish(self) -> None:
        """Write down what has happened, as the job's stream and for its status."""
        events = list(self._events)
        if events:
            # DBOS writes this only for the workflow's present owner.
            await DBOS.write_stream_async(STREAM, written(events))
            del self._events[: len(events)]
        progress: dict[str, object] = {
            "done": dict(self._rollout.counts),
            "in_flight": self._rollout.in_flight,
            "wave": self._rollout.wave,
            "stopped": self._rollout.stopped,
        }
        if progress != self._progress:
            await self._database.note(job_id(self._name), progress=progress)
            self._progress = progress
