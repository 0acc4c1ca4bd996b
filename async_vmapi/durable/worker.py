"""A worker: DBOS's executor, one client, and so one poll hub, for all that it takes.

DBOS hands it the workflows of jobs and of their items, on this event loop; there is one worker
in a process, for so it is with DBOS.
"""

import asyncio
import contextlib
import logging
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import anyio
import attrs
import msgspec
from dbos import DBOS, DBOSConfig, WorkflowStatus

from async_vmapi.bulk.report import BulkReport
from async_vmapi.client import Client
from async_vmapi.durable.access import Access
from async_vmapi.durable.coordinator import Coordinator
from async_vmapi.durable.heartbeat import HEARTBEATS, Leases
from async_vmapi.durable.operation import CANCELLED, Operation
from async_vmapi.durable.recovery import Recovery
from async_vmapi.durable.rows import SERIALIZER, Rows, decoding
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.durable.spec import Spec, decode_ended, decode_order, decode_spec, encode
from async_vmapi.durable.store import (
    APPLICATION,
    IDLE_IN_TRANSACTION,
    JOBS,
    OPERATION_WORKFLOW,
    OPERATIONS,
    VERSION,
    WORKFLOW,
    Database,
    DatabaseLost,
    DatabaseUnavailable,
    is_outage,
    job_id,
)
from async_vmapi.durable.worker_stats import WorkerStats
from async_vmapi.errors import AuthenticationError, InvalidState, VMAPIError
from async_vmapi.models import ONLINE
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.writes.shield import CANCEL_GRACE

__all__ = ["Limits", "Worker"]

_log: Final = logger_of(__name__)


# A server of PostgreSQL lets in a hundred connections, unless it is told otherwise.
_CONNECTIONS: Final = 8
_OWN_CONNECTIONS: Final = 6
_THREADS: Final = 32


@attrs.frozen(kw_only=True)
class Limits:
    """What holds for a fleet's workers.

    Attributes:
        limit: Operations in flight at most, of all jobs on all workers; None for no limit but
            those of the jobs' plans.
        worker_limit: Operations in flight at most on one worker; None for no limit.
        lease_duration: Seconds after which a worker that says nothing is taken for dead.
        polling_interval: Seconds between two looks into a queue.
    """

    limit: int | None
    worker_limit: int | None
    lease_duration: float
    polling_interval: float


class _Begun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a job began: when, in seconds since the epoch, and with which machines online."""

    at: float
    online: list[str] | None = None


_decode_begun: Final = msgspec.json.Decoder(_Begun).decode

_working: "Worker | None" = None


class Worker:
    """Works on a fleet's jobs until it is told to stop.

    Args:
        database: Where the jobs are.
        client: Makes the worker's client.
        secrets: Finds secrets by their names.
        limits: What holds for all workers.
        stats: Keeps what this one has in hand and has done.
    """

    client: Client
    _access: Access

    def __init__(
        self,
        database: Database,
        client: Callable[[], Client],
        secrets: SecretStore,
        limits: Limits,
        stats: WorkerStats,
    ) -> None:
        self._database = database
        self._make_client = client
        self.secrets = secrets
        self._limits = limits
        self._stats = stats
        self._executor_id = f"async_vmapi-{uuid.uuid4()}"
        self._leases = Leases(database, self._executor_id, limits.lease_duration)
        self.unrecorded: dict[str, str] = {}
        self._draining = False
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._executions: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._running: set[str] = set()
        self._recovery = Recovery(database, self._leases, self._executor_id, self._running)
        self._stopped: dict[str, tuple[float, str | None]] = {}
        self._looking = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> bool:
        """Work until `stop` is set or this is cancelled, and leave the rest to others.

        Returns:
            Whether it ended since others had taken it for dead. Then what it was called is used
            up, and another worker may begin in its place.

        Raises:
            InvalidState: If another worker is at work in this process, or the database's workers
                have another endpoint.
            AuthenticationError: If the API refuses the client's credentials, at the start or later.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        # DBOS knows one executor in a process, and hands its workflows no more than their text.
        global _working
        if _working is not None:
            raise InvalidState("another worker is at work in this process")
        _working = self
        try:
            async with self._make_client() as self.client:
                self._access = Access(self.client)
                await self._access.begin()
                try:
                    if await self._enter(stop) and await self._launch(stop):
                        await self._stay(stop)
                finally:
                    # Half drained, it would go on to take workflows, and do none of them.
                    await _to_its_end(self._drain())
        finally:
            _working = None
        if stop.is_set():
            return False
        if self._access.refusal is not None:
            raise self._access.refusal
        if not self._leases.lost:
            return False
        about = {"vmapi_worker": self._executor_id}
        _log.warning("this worker was taken for dead, and begins again", extra=about)
        return True

    async def _enter(self, stop: asyncio.Event) -> bool:
        """Be counted, as soon as the database is there; return whether it was before `stop`."""
        limits, client = self._limits, self._database.client
        while not stop.is_set():
            try:
                endpoint = await self._leases.endpoint(self.client.origin)
                if endpoint != self.client.origin:
                    raise InvalidState(
                        f"the jobs of this database are of {endpoint}, and this worker's client is "
                        f"of {self.client.origin}: give each endpoint a database"
                    )
                await self._leases.begin()
                await self._database.call(
                    client.register_queue, JOBS, polling_interval_sec=limits.polling_interval
                )
                await self._database.call(
                    client.register_queue,
                    OPERATIONS,
                    global_concurrency=limits.limit,
                    polling_interval_sec=limits.polling_interval,
                )
            except DatabaseUnavailable as error:
                about = {"vmapi_error": type(error).__name__}
                _log.warning("a worker waits to begin: %s", error, extra=about)
                await self._one_beat(stop)
            else:
                return True
        return False

    def _at_most(self, queue: str) -> int | None:
        """Return how many workflows of a queue this worker may have at once."""
        if self._draining or self._access.refusal:
            return 0
        return self._limits.worker_limit if queue == OPERATIONS else None

    async def _launch(self, stop: asyncio.Event) -> bool:
        """Launch DBOS, as soon as the database lets it; return whether it did before `stop`."""
        while not stop.is_set():
            try:
                # On this loop's own thread: DBOS then runs the workflows on this loop.
                self._launch_once()
            except Exception as error:
                if not is_outage(error):
                    raise
                await self._database.in_thread(DBOS.destroy)
                why = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
                told = (
                    "a worker waits to begin: the database has no connection for it (up to %d): %s"
                )
                about = {"vmapi_error": type(error).__name__}
                _log.warning(told, _CONNECTIONS + _OWN_CONNECTIONS, why, extra=about)
                await self._one_beat(stop)
            else:
                return True
        return False

    def _launch_once(self) -> None:
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self._database.url,
            "application_version": VERSION,
            "executor_id": self._executor_id,
            "serializer": SERIALIZER,
            "sys_db_pool_size": _CONNECTIONS,
            "sys_db_idle_transaction_timeout_sec": IDLE_IN_TRANSACTION,
            "max_executor_threads": _THREADS,
            "log_level": "WARNING",
            "db_engine_kwargs": {"connect_args": self._database.connect_args(Rows(self._at_most))},
        }
        DBOS(config=config)
        DBOS.launch()

    async def _stay(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or self._leases.lost or self._access.refusal):
            try:
                await self._recovery.take_care()
            except Exception as error:
                if not is_outage(error):
                    raise
                kind = type(error).__name__
                _log.warning("the database is away: %s", kind, extra={"vmapi_error": kind})
            await self._one_beat(stop)

    async def _one_beat(self, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.lease_duration / HEARTBEATS):
                await stop.wait()

    async def _drain(self) -> None:
        """Let writes that are on the wire end, leave the rest to others, and say so."""
        self._draining = True
        # DBOS warns of each task that is let go of.
        logger = logging.getLogger("dbos")
        level = logger.level
        logger.setLevel(logging.ERROR)
        loop, executor = asyncio.get_running_loop(), ThreadPoolExecutor()
        try:
            until = loop.time() + CANCEL_GRACE
            while self._tasks:
                late = loop.time() >= until
                for task, sending in self._tasks.items():
                    if late or not sending:
                        task.cancel()
                await asyncio.sleep(0.05)
            # What others have taken over waits for its end, and would for ever.
            for task in self._executions:
                task.cancel()
            # DBOS has put threads of its own into the loop, and ends them; others need some.
            loop.set_default_executor(executor)
            await self._database.in_thread(DBOS.destroy)
        finally:
            loop.set_default_executor(executor)
            logger.setLevel(level)
            self._leases.end()
        try:
            await self._leases.leave()
        except (DatabaseLost, DatabaseUnavailable) as error:
            told = "a worker has left, which others find out for themselves: %s"
            _log.warning(told, error, extra={"vmapi_error": type(error).__name__})

    # --- what workflows do ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _present(self) -> Generator[None]:
        task, workflow_id = asyncio.current_task(), DBOS.workflow_id
        if self._draining or self._access.refusal or task is None or workflow_id is None:
            raise asyncio.CancelledError
        self._tasks[task] = False
        self._executions.add(task)
        self._running.add(workflow_id)
        try:
            yield
        except Exception as error:
            if not is_outage(error):
                raise
            # DBOS would end the workflow with this error. Cancelled, it is only not at its end.
            about = {"vmapi_workflow": workflow_id, "vmapi_error": type(error).__name__}
            _log.warning("%s begins again: the database went away", workflow_id, extra=about)
            raise asyncio.CancelledError from None
        finally:
            del self._tasks[task]
            self._running.discard(workflow_id)

    @contextlib.contextmanager
    def sending(self) -> Generator[None]:
        """Mark what is not to be torn off while the worker drains."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks[task] = True
        try:
            yield
        finally:
            if task is not None:
                self._tasks[task] = False
        if self._draining:
            raise asyncio.CancelledError

    async def stopped(self, job: str) -> str | None:
        """Return why nothing of a job is to start any more; None if it is. An interval old."""
        loop = asyncio.get_running_loop()
        # One look is enough for all that wait for it.
        async with self._looking:
            looked, stopped = self._stopped.get(job, (-1e9, None))
            if loop.time() - looked > self._limits.polling_interval:
                found = await self._find(job_id(job))
                told: dict[str, Any] = (found.attributes if found else None) or {}
                progress: dict[str, Any] = told.get("progress") or {}
                stopped = CANCELLED if told.get("cancelled") else progress.get("stopped")
                self._stopped[job] = (loop.time(), stopped)
        return stopped

    async def _find(self, workflow_id: str) -> WorkflowStatus | None:
        """Find a workflow as soon as the database is there, which is not to be guessed for."""
        while True:
            try:
                return await self._database.find(workflow_id)
            except DatabaseUnavailable:
                await asyncio.sleep(self._limits.lease_duration / HEARTBEATS)

    def holds_lease(self) -> bool:
        """Return whether it is sure that nobody has taken over what this worker does."""
        return self._leases.holds()

    async def lease_held(self) -> None:
        """Wait until it is sure; cancel who waits if others have taken over."""
        while not self._leases.holds():
            if self._leases.lost:
                raise asyncio.CancelledError
            await asyncio.sleep(self._limits.lease_duration / HEARTBEATS / 2)

    async def has_begun_before(self) -> bool:
        """Return whether the running workflow was another worker's, or this one's, before."""
        found = await self._find(DBOS.workflow_id or "")
        return found is not None and (found.recovery_attempts or 0) > 1

    async def is_refused(self) -> bool:
        """Return whether the API lets this worker do nothing any more; then it stops."""
        return await self._access.is_refused()

    async def operate(self, text: str) -> str:
        """Do what is to be done to one item of a job."""
        order = decode_order(text)
        operation = Operation(self, order)
        with self._present(), self._stats.holding(order, operation):
            ended = await operation.run()
            self._stats.ended(order.job, decode_ended(ended).outcome.status)
            return ended

    async def coordinate(self, text: str, name: str) -> str:
        """Take a job through its items, and return its report."""
        spec = decode_spec(text)
        loop = asyncio.get_running_loop()
        entered, here = loop.time(), False

        async def begin() -> str:
            nonlocal here
            begun = _Begun(time.time(), await self._online(spec))
            here = True
            return encode(begun)

        def seconds() -> float:
            # The clock on the wall may be set; it is for what another process began.
            taken = loop.time() - entered
            return taken if here else max(taken, time.time() - begun.at)

        with self._present():
            begun = _decode_begun(await _recorded("begin", begin))
            coordinator = Coordinator(
                self._database,
                name,
                spec,
                begun.online,
                polling_interval=self._limits.polling_interval,
            )

            async def roll_out() -> str:
                outcomes = await coordinator.run()
                report = BulkReport(
                    operation=spec.operation,
                    arguments=spec.arguments,
                    origin=self.client.origin,
                    outcomes=outcomes,
                    dry_run=spec.plan.dry_run,
                    complete=True,
                    stopped=coordinator.stopped,
                    seconds=round(seconds(), 3),
                )
                return report.to_json()

            return await _recorded("roll out", roll_out)

    async def _online(self, spec: Spec) -> list[str] | None:
        if not spec.keeps_online:
            return None
        given = set(spec.labels)
        while True:
            try:
                machines = await self.client.vms.list()
            except VMAPIError as error:
                if isinstance(error, AuthenticationError) and await self.is_refused():
                    raise asyncio.CancelledError from None
                # Nothing has begun, so there is time.
                about = {"vmapi_error": type(error).__name__}
                _log.warning("who is online is not known yet: %s", error, extra=about)
                await asyncio.sleep(self._limits.lease_duration)
            else:
                return sorted(vm.id for vm in machines if vm.state == ONLINE and vm.id in given)


async def _recorded(name: str, body: Callable[[], Coroutine[Any, Any, str]]) -> str:
    with decoding(f"the result of step {name!r}"):
        return await DBOS.run_step_async({"name": name}, body)


async def _to_its_end(body: Coroutine[Any, Any, None]) -> None:
    """Wait for the end of what must not be left half done, however often one is cancelled."""
    task = asyncio.get_running_loop().create_task(body)
    cancellation: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancellation = error
    task.result()
    if cancellation is not None:
        raise cancellation


def _at_work() -> Worker:
    if _working is None:
        raise asyncio.CancelledError
    return _working


# However often they were taken over: what DBOS gives up on, no report could name.
@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
async def _job(text: str) -> str:  # pyright: ignore[reportUnusedFunction] - DBOS calls it
    return await _at_work().coordinate(text, (DBOS.workflow_id or "").removeprefix(job_id("")))


@DBOS.workflow(name=OPERATION_WORKFLOW, max_recovery_attempts=None)
async def _operation(text: str) -> str:  # pyright: ignore[reportUnusedFunction] - DBOS calls it
    return await _at_work().operate(text)
