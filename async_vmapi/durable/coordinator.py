"""One job in progress: a `Rollout` whose items run on any worker.

A job's coordinator runs on one worker. It enqueues an item's workflow when the rollout starts the
item, and returns the workflow's result to the rollout. If its worker dies, another coordinator
repeats the rollout with all items in the same order: finished items end immediately, and items in
progress are awaited, so it reaches the same state.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import attrs
from dbos import DBOS, WorkflowStatus

from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended, outcome
from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.durable.operation import CANCELLED
from async_vmapi.durable.rows import decoding
from async_vmapi.durable.spec import STREAM, Spec, decode, encode
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
from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.models.serialization import Document
from async_vmapi.models.vm import ONLINE
from async_vmapi.telemetry.logs import logger_of

if TYPE_CHECKING:
    from async_vmapi.durable.worker import Worker

__all__ = ["Coordinator", "run_job"]

_log: Final = logger_of(__name__)

# Seconds to wait for more items, to enqueue them together.
_BATCH_DELAY: Final = 0.02


class Coordinator:
    """Runs a job's items.

    Args:
        database: The fleet's database.
        name: The job's name.
        spec: The job's operation, plan and items.
        online: The VMs that were online when it began, for ``min_online``.
        polling_interval: Seconds between two polls for finished items.
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
        # When this coordinator enqueued each item.
        self._queued: dict[int, float] = {}
        self._labels = spec.labels
        self._rollout = Rollout(
            attrs.evolve(spec.plan, on_event=self._events.append),
            spec.operation,
            map(self._item, range(len(self._labels))),
            len(self._labels),
        )
        if online is not None:
            self._rollout.keep_online(set(online), dict(enumerate(self._labels)))

    def _item(self, index: int) -> BulkItem:
        label = self._labels[index]
        vm_id = None if self._spec.operation == "create" else label
        return BulkItem(
            index,
            label,
            lambda _, __: self._run_on_worker(index),
            vm_id,
            begun=index in self._started,
        )

    async def _run_on_worker(self, index: int) -> Ended:
        """Run an item on any worker, and return how it ended."""
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
        """Why the job stopped starting items; None if it did not."""
        return self._rollout.stopped

    async def run(self) -> tuple[Outcome, ...]:
        """Run all items, and return their outcomes in order."""
        await self._through_outages(self._load_started)
        await self._through_outages(self._apply_controls)
        sync = asyncio.get_running_loop().create_task(self._sync())
        collect = asyncio.get_running_loop().create_task(self._collect())
        try:
            await asyncio.wait({sync, collect}, return_when=asyncio.FIRST_COMPLETED)
            if sync.done():
                # Another worker has taken over the job, or there was an error.
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
        """Run a database operation, and retry it while the database is unavailable."""
        while True:
            try:
                return await do()
            except Exception as error:
                # If raised, the error would be stored as this job's result.
                if not is_outage(error):
                    raise
                kind = type(error).__name__
                fields = {"vmapi_job": self._name, "vmapi_error": kind}
                _log.warning("job %r waits for its database: %s", self._name, kind, extra=fields)
                await asyncio.sleep(self._interval)

    async def _load_started(self) -> None:
        """Load the items that an earlier coordinator has started."""
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
        # Publish their events before enqueuing them: DBOS rejects events from an expired worker,
        # which therefore starts no item.
        new = list(self._new)
        await self._publish()
        await self._enqueue(new)
        await self._deliver_ended()

    async def _apply_controls(self) -> None:
        """Pause, unpause or stop as requested in the database."""
        found = await self._database.find(job_id(self._name))
        attributes = (found.attributes if found else None) or {}
        self._rollout.pause(bool(attributes.get("paused")))
        if attributes.get("cancelled"):
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
        """Return the results of finished workflows to the rollout."""
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
            return self._bounded(index, decode(status.output, Ended))
        # Otherwise it was ended by DBOS's own tools, or by an unexpected error.
        return Ended(outcome(self._item(index), "unknown", reason=reason))

    def _bounded(self, index: int, ended: Ended) -> Ended:
        """Limit an item's duration to the time since it was enqueued.

        If two workers ran it, its duration is from the wall clock, which may have been set.
        """
        queued, seconds = self._queued.pop(index, None), ended.outcome.seconds
        if queued is None or seconds is None:
            return ended
        at_most = round(asyncio.get_running_loop().time() - queued, 3)
        return attrs.evolve(
            ended, outcome=attrs.evolve(ended.outcome, seconds=min(seconds, at_most))
        )

    async def _publish(self) -> None:
        """Write new events to the job's stream, and progress to its status."""
        events = list(self._events)
        if events:
            # DBOS accepts this only from the workflow's current owner.
            await DBOS.write_stream_async(STREAM, encode(events))
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


@attrs.frozen
class _Begun(Document):
    """The start of a job: when, in seconds since the epoch, and with which VMs online."""

    at: float
    online: list[str] | None = None


async def run_job(worker: "Worker", name: str, text: str) -> str:
    """Run a job's workflow on a worker, and return its report as JSON.

    Args:
        worker: The worker.
        name: The job's name.
        text: The job's spec, encoded.
    """
    spec = decode(text, Spec)
    loop = asyncio.get_running_loop()
    entered, here = loop.time(), False

    async def begin() -> str:
        nonlocal here
        begun = _Begun(time.time(), await _online(worker, spec))
        here = True
        return encode(begun)

    def seconds() -> float:
        # The wall clock may be set; it is used only if another process began the job.
        taken = loop.time() - entered
        return taken if here else max(taken, time.time() - begun.at)

    begun = decode(await _recorded("begin", begin), _Begun)
    coordinator = Coordinator(
        worker.database,
        name,
        spec,
        begun.online,
        polling_interval=worker.limits.polling_interval,
    )

    async def roll_out() -> str:
        outcomes = await coordinator.run()
        report = BulkReport(
            operation=spec.operation,
            arguments=spec.arguments,
            origin=worker.client.origin,
            outcomes=outcomes,
            dry_run=spec.plan.dry_run,
            complete=True,
            stopped=coordinator.stopped,
            seconds=round(seconds(), 3),
        )
        return report.to_json()

    return await _recorded("roll out", roll_out)


async def _online(worker: "Worker", spec: Spec) -> list[str] | None:
    if not spec.keeps_online:
        return None
    given = set(spec.labels)
    while True:
        try:
            vms = await worker.client.vms.list()
        except VMAPIError as error:
            if isinstance(error, AuthenticationError) and await worker.access.is_refused():
                raise asyncio.CancelledError from None
            # Nothing has started yet, so there is time to retry.
            fields = {"vmapi_error": type(error).__name__}
            _log.warning("cannot list the online VMs yet: %s", error, extra=fields)
            await asyncio.sleep(worker.limits.lease_duration)
        else:
            return sorted(vm.id for vm in vms if vm.state == ONLINE and vm.id in given)


async def _recorded(name: str, body: Callable[[], Coroutine[Any, Any, str]]) -> str:
    with decoding(f"the result of step {name!r}"):
        return await DBOS.run_step_async({"name": name}, body)
