"""`Worker`: this process's DBOS executor. All its workflows share one client, and so one poll hub.

DBOS runs the workflows of jobs and of their items on this event loop. There is one worker in a
process, because DBOS allows one executor.
"""

import asyncio
import contextlib
import logging
import uuid
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import anyio
from dbos import DBOS, DBOSConfig, WorkflowStatus

from async_vmapi.bulk.outcomes import Ended
from async_vmapi.client import Client
from async_vmapi.durable.access import Access
from async_vmapi.durable.coordinator import run_job
from async_vmapi.durable.heartbeat import Leases
from async_vmapi.durable.limits import Limits
from async_vmapi.durable.operation import CANCELLED, Operation
from async_vmapi.durable.recovery import Recovery
from async_vmapi.durable.rows import SERIALIZER, Rows
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.durable.spec import Order, decode
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
from async_vmapi.errors import AuthenticationError, InvalidState
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.writes.shield import CANCEL_GRACE

__all__ = ["Worker"]

_log: Final = logger_of(__name__)


# By default, a PostgreSQL server accepts a hundred connections.
_CONNECTIONS: Final = 8
_OWN_CONNECTIONS: Final = 6
_THREADS: Final = 32


_current: "Worker | None" = None


class Worker:
    """Runs a fleet's jobs until it is stopped.

    Args:
        database: The fleet's database.
        client: Creates the worker's client.
        secrets: Resolves secrets by their names.
        limits: The settings of all workers.
        stats: Records the items of this worker.
    """

    client: Client
    access: Access

    def __init__(
        self,
        database: Database,
        client: Callable[[], Client],
        secrets: SecretStore,
        limits: Limits,
        stats: WorkerStats,
    ) -> None:
        self.database = database
        self._make_client = client
        self.secrets = secrets
        self.limits = limits
        self._stats = stats
        self._executor_id = f"async_vmapi-{uuid.uuid4()}"
        self.leases = Leases(database, self._executor_id, limits.lease_duration)
        self.unrecorded: dict[str, str] = {}
        """Results of steps that could not be stored, by the items' workflows."""
        self._draining = False
        self._tasks: dict[asyncio.Task[Any], bool] = {}
        self._executions: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._running: set[str] = set()
        self._recovery = Recovery(database, self.leases, self._executor_id, self._running)
        self._stopped: dict[str, tuple[float, str | None]] = {}
        self._status_lock = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until `stop` is set or this is cancelled; other workers resume the rest.

        Returns:
            Whether it ended because it had expired. Then its executor id is used up, and a new
            worker can replace it.

        Raises:
            InvalidState: If another worker runs in this process, or the database's workers have
                another endpoint.
            AuthenticationError: If the API refuses the client's credentials, at the start or later.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        # A global, because DBOS passes only text to workflows and allows one executor.
        global _current
        if _current is not None:
            raise InvalidState(
                "another worker is running in this process: start one in each process"
            )
        _current = self
        try:
            async with self._make_client() as self.client:
                self.access = Access(self.client)
                await self.access.begin()
                try:
                    if await self._enter(stop) and await self._launch(stop):
                        await self._keep_running(stop)
                finally:
                    # A partly drained worker would dequeue workflows without running them.
                    await _uninterrupted(self._drain())
        finally:
            _current = None
        if stop.is_set():
            return False
        if self.access.refusal is not None:
            raise self.access.refusal
        if not self.leases.expired:
            return False
        fields = {"vmapi_worker": self._executor_id}
        _log.warning("this worker had expired, and restarts", extra=fields)
        return True

    async def _enter(self, stop: asyncio.Event) -> bool:
        """Register this worker once the database is available; return whether `stop` is not set."""
        limits, client = self.limits, self.database.client
        while not stop.is_set():
            try:
                endpoint = await self.leases.endpoint(self.client.origin)
                if endpoint != self.client.origin:
                    raise InvalidState(
                        f"the jobs of this database are of {endpoint}, but this worker's client is "
                        f"of {self.client.origin}: use a separate database for each endpoint"
                    )
                await self.leases.begin()
                await self.database.call(
                    client.register_queue, JOBS, polling_interval_sec=limits.polling_interval
                )
                await self.database.call(
                    client.register_queue,
                    OPERATIONS,
                    global_concurrency=limits.limit,
                    polling_interval_sec=limits.polling_interval,
                )
            except DatabaseUnavailable as error:
                fields = {"vmapi_error": type(error).__name__}
                _log.warning("a worker waits to start: %s", error, extra=fields)
                await self._wait_heartbeat(stop)
            else:
                return True
        return False

    def _at_most(self, queue: str) -> int | None:
        """Return how many workflows of a queue this worker may run concurrently."""
        if self._draining or self.access.refusal:
            return 0
        return self.limits.worker_limit if queue == OPERATIONS else None

    async def _launch(self, stop: asyncio.Event) -> bool:
        """Launch DBOS once the database accepts it; return whether `stop` is not set."""
        while not stop.is_set():
            try:
                # In this loop's thread, so that DBOS runs the workflows on this loop.
                self._launch_once()
            except Exception as error:
                if not is_outage(error):
                    raise
                await self.database.in_thread(DBOS.destroy)
                why = " ".join(str(getattr(error, "orig", None) or type(error).__name__).split())
                message = (
                    "a worker waits to start: the database has no connection for it (up to %d): %s"
                )
                fields = {"vmapi_error": type(error).__name__}
                _log.warning(message, _CONNECTIONS + _OWN_CONNECTIONS, why, extra=fields)
                await self._wait_heartbeat(stop)
            else:
                return True
        return False

    def _launch_once(self) -> None:
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": self.database.url,
            "application_version": VERSION,
            "executor_id": self._executor_id,
            "serializer": SERIALIZER,
            "sys_db_pool_size": _CONNECTIONS,
            "sys_db_idle_transaction_timeout_sec": IDLE_IN_TRANSACTION,
            "max_executor_threads": _THREADS,
            "log_level": "WARNING",
            "db_engine_kwargs": {"connect_args": self.database.connect_args(Rows(self._at_most))},
        }
        DBOS(config=config)
        DBOS.launch()

    async def _keep_running(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or self.leases.expired or self.access.refusal):
            try:
                await self._recovery.run_once()
            except Exception as error:
                if not is_outage(error):
                    raise
                kind = type(error).__name__
                _log.warning("the database is unavailable: %s", kind, extra={"vmapi_error": kind})
            await self._wait_heartbeat(stop)

    async def _wait_heartbeat(self, stop: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.leases.interval):
                await stop.wait()

    async def _drain(self) -> None:
        """Finish writes in flight, leave the rest to other workers, and give up the lease."""
        self._draining = True
        # DBOS warns about each cancelled task.
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
            # Executions of workflows that others have taken over would wait forever.
            for task in self._executions:
                task.cancel()
            # DBOS has replaced the loop's default executor, and shuts it down.
            loop.set_default_executor(executor)
            await self.database.in_thread(DBOS.destroy)
        finally:
            loop.set_default_executor(executor)
            logger.setLevel(level)
            self.leases.end()
        try:
            await self.leases.leave()
        except (DatabaseLost, DatabaseUnavailable) as error:
            message = "a worker has left without giving up its lease, which has to expire: %s"
            _log.warning(message, error, extra={"vmapi_error": type(error).__name__})

    # --- workflows ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _present(self) -> Generator[None]:
        task, workflow_id = asyncio.current_task(), DBOS.workflow_id
        if self._draining or self.access.refusal or task is None or workflow_id is None:
            raise asyncio.CancelledError
        self._tasks[task] = False
        self._executions.add(task)
        self._running.add(workflow_id)
        try:
            yield
        except Exception as error:
            if not is_outage(error):
                raise
            # With this error, DBOS would end the workflow; a cancelled one can be restarted.
            fields = {"vmapi_workflow": workflow_id, "vmapi_error": type(error).__name__}
            message = "%s will restart: the database became unavailable"
            _log.warning(message, workflow_id, extra=fields)
            raise asyncio.CancelledError from None
        finally:
            del self._tasks[task]
            self._running.discard(workflow_id)

    @contextlib.contextmanager
    def sending(self) -> Generator[None]:
        """Mark a section that is not to be cancelled while the worker drains."""
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
        """Return why no item of a job may start any more; None if items may.

        The result is at most one polling interval old.
        """
        loop = asyncio.get_running_loop()
        # One query serves all concurrent callers.
        async with self._status_lock:
            read_at, stopped = self._stopped.get(job, (-1e9, None))
            if loop.time() - read_at > self.limits.polling_interval:
                found = await self._find(job_id(job))
                attributes: dict[str, Any] = (found.attributes if found else None) or {}
                progress: dict[str, Any] = attributes.get("progress") or {}
                stopped = CANCELLED if attributes.get("cancelled") else progress.get("stopped")
                self._stopped[job] = (loop.time(), stopped)
        return stopped

    async def _find(self, workflow_id: str) -> WorkflowStatus | None:
        """Find a workflow, waiting while the database is unavailable."""
        while True:
            try:
                return await self.database.find(workflow_id)
            except DatabaseUnavailable:
                await asyncio.sleep(self.leases.interval)

    async def wait_ready(self, vm_id: str, ready: Ready, timeout: float) -> VirtualMachine:
        """Wait until a VM is ready, during a soak.

        If the API refuses this worker's credentials, wait until it drains: the VM is not unhealthy,
        and another worker repeats the soak.
        """
        try:
            return await self.client.vms.wait_ready(vm_id, ready, timeout=timeout)
        except AuthenticationError:
            if await self.access.is_refused():
                await asyncio.Event().wait()
            raise

    async def has_begun_before(self) -> bool:
        """Return whether the running workflow was started before, by any worker."""
        found = await self._find(DBOS.workflow_id or "")
        return found is not None and (found.recovery_attempts or 0) > 1

    async def operate(self, text: str) -> str:
        """Run one item of a job, and return how it ended."""
        order = decode(text, Order)
        operation = Operation(self, order)
        with self._present(), self._stats.holding(order, operation):
            ended = await operation.run()
            self._stats.ended(order.job, decode(ended, Ended).outcome.status)
            return ended

    async def coordinate(self, text: str, name: str) -> str:
        """Run a job's items, and return its report."""
        with self._present():
            return await run_job(self, name, text)


async def _uninterrupted(body: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, however often the caller is cancelled."""
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


def _running_worker() -> Worker:
    if _current is None:
        raise asyncio.CancelledError
    return _current


# Unlimited recoveries: a workflow that DBOS gives up would be missing from the report.
@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
async def _job(text: str) -> str:  # pyright: ignore[reportUnusedFunction] - DBOS calls it
    name = (DBOS.workflow_id or "").removeprefix(job_id(""))
    return await _running_worker().coordinate(text, name)


@DBOS.workflow(name=OPERATION_WORKFLOW, max_recovery_attempts=None)
async def _operation(text: str) -> str:  # pyright: ignore[reportUnusedFunction] - DBOS calls it
    return await _running_worker().operate(text)
