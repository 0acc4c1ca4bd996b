"""One job in progress: a `Rollout` whose items run on any worker.

A job's coordinator runs on one worker. It enqueues an item's workflow when the rollout starts the
item, and returns the workflow's result to the rollout. If its worker dies, another coordinator
repeats the rollout with all items in the same order: finished items end immediately, and items in
progress are awaited, so it reaches the same state.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import attrs
from dbos import DBOS, WorkflowStatus

from async_vmapi.bulk.domains import Member, domains_of
from async_vmapi.bulk.health import WaitReady
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended, outcome
from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.durable.operation import CANCELLED
from async_vmapi.durable.rows import decoding
from async_vmapi.durable.spec import STREAM, EventReader, Spec, decode, encode
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
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.telemetry.logs import logger_of

if TYPE_CHECKING:
    from async_vmapi.durable.worker import Worker

__all__ = ["Begun", "Coordinator", "run_job"]

_log: Final = logger_of(__name__)

# Seconds to wait for more items, to enqueue them together.
_BATCH_DELAY: Final = 0.02


class Coordinator:
    """Runs a job's items.

    Args:
        database: The fleet's database.
        name: The job's name.
        spec: The job's operation, plan and items.
        begun: What was known when it began.
        wait_ready: Waits until a VM is ready, during a wave's soak.
        max_staleness: Maximum age of a read, in seconds.
        polling_interval: Seconds between two polls for finished items.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        spec: Spec,
        begun: "Begun",
        *,
        wait_ready: WaitReady,
        max_staleness: float,
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
            wait_ready=wait_ready,
            max_staleness=max_staleness,
        )
        if begun.domains is not None:
            self._rollout.spread(dict(enumerate(begun.domains)))
        if begun.online is not None:
            self._rollout.keep_online(set(begun.online), dict(enumerate(self._labels)))

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
        found = await self._database.operations_of(self._name)
        reported = await self._reported() if found and self._spec.plan.soak else {}
        for index, status in found:
            self._started.add(index)
            if status.status in ENDED:
                ended = self._read(index, status)
                if (outcome := reported.get(index)) is not None:
                    online = ended.online and outcome.status == "succeeded"
                    ended = attrs.evolve(ended, outcome=outcome, online=online, final=True)
                self._ended[index] = ended

    async def _reported(self) -> dict[int, Outcome]:
        """Return the outcomes that an earlier coordinator has reported.

        They include the results of soaks, which the items' workflows do not have.
        """
        reader, found = EventReader(), dict[int, Outcome]()
        with decoding(f"the events of job {self._name!r}"):
            texts = await self._database.stream_of(job_id(self._name), STREAM)
        for text in texts:
            for event in reader.read(text):
                if event.outcome is not None:
                    found[event.outcome.index] = event.outcome
        return found

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
        """Promote, pause, unpause or stop as requested in the database."""
        found = await self._database.find(job_id(self._name))
        attributes = (found.attributes if found else None) or {}
        self._rollout.promote(int(attributes.get("promoted", 0)))
        self._rollout.forgive(int(attributes.get("forgiven", 0)))
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
        events, rollout = list(self._events), self._rollout
        progress: dict[str, object] = {
            "done": dict(rollout.counts),
            "in_flight": rollout.in_flight,
            "wave": rollout.wave,
            "stopped": rollout.stopped,
            "soaking": rollout.soaking,
            "held": rollout.held,
            "suspended": rollout.suspended,
        }
        if events or progress != self._progress:
            # DBOS accepts this only from the workflow's current owner. Another one raises here, and
            # so does not overwrite the progress.
            await DBOS.write_stream_async(STREAM, encode(events))
            del self._events[: len(events)]
        if progress != self._progress:
            await self._database.note(job_id(self._name), progress=progress)
            self._progress = progress


@attrs.frozen
class Begun(Document):
    """The start of a job.

    Attributes:
        at: When, in seconds since the epoch.
        online: The VMs that were online, for ``min_online``.
        domains: The name of each item's failure domain, for ``spread_by``.
    """

    at: float = 0.0
    online: list[str] | None = None
    domains: list[str] | None = None


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
        begun = await _begun(worker, spec)
        here = True
        return encode(begun)

    def seconds() -> float:
        # The wall clock may be set; it is used only if another process began the job.
        taken = loop.time() - entered
        return taken if here else max(taken, time.time() - begun.at)

    begun = decode(await _recorded("begin", begin), Begun)
    coordinator = Coordinator(
        worker.database,
        name,
        spec,
        begun,
        wait_ready=worker.wait_ready,
        max_staleness=worker.client.max_staleness,
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


async def _begun(worker: "Worker", spec: Spec) -> Begun:
    spread_by = spec.plan.spread_by
    members = [Member(index, spec.labels[index], item) for index, item in enumerate(spec.items)]
    unknown = spread_by is not None and not all(member.has_domain for member in members)
    vms = await _listed(worker) if spec.keeps_online or unknown else {}
    online = {vm_id for vm_id in spec.labels if vm_id in vms and vms[vm_id].state == ONLINE}
    domains = None if spread_by is None else domains_of(spread_by, members, vms)
    return Begun(
        time.time(),
        sorted(online) if spec.keeps_online else None,
        None if domains is None else [domains[index] for index in range(len(members))],
    )


async def _listed(worker: "Worker") -> dict[str, VirtualMachine]:
    while True:
        try:
            vms = await worker.client.vms.list()
        except VMAPIError as error:
            if isinstance(error, AuthenticationError) and await worker.access.is_refused():
                raise asyncio.CancelledError from None
            # Nothing has started yet, so there is time to retry.
            fields = {"vmapi_error": type(error).__name__}
            _log.warning("cannot list the VMs yet: %s", error, extra=fields)
            await asyncio.sleep(worker.limits.lease_duration)
        else:
            return {vm.id: vm for vm in vms}


async def _recorded(name: str, body: Callable[[], Coroutine[Any, Any, str]]) -> str:
    with decoding(f"the result of step {name!r}"):
        return await DBOS.run_step_async({"name": name}, body)
