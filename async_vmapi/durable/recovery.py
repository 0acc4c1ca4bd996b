"""Requeue workflows that no worker runs any more, at each heartbeat of a worker."""

from collections.abc import Set as AbstractSet
from typing import Final

from async_vmapi.durable.heartbeat import HEARTBEATS, Leases
from async_vmapi.durable.store import VERSION, Database
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Recovery"]

_log: Final = logger_of(__name__)

_LOST_FOR_SURE: Final = 10 * HEARTBEATS
"""Heartbeats after which a workflow that does not run is lost in any case."""


class Recovery:
    """Takes over the workflows of expired workers, and requeues those that this worker has lost.

    Args:
        database: The fleet's database.
        leases: The workers' leases.
        executor_id: This worker.
        running: The workflows that run here; the set changes.
    """

    def __init__(
        self, database: Database, leases: Leases, executor_id: str, running: AbstractSet[str]
    ) -> None:
        self._database = database
        self._leases = leases
        self._executor_id = executor_id
        self._running = running
        self._lost: dict[str, int] = {}
        self._unchanged = 0
        self._versions: set[str] = set()

    async def run_once(self) -> None:
        """Check for expired workers and lost workflows; call this at each heartbeat.

        Raises:
            DatabaseUnavailable: If the database is unavailable; call this again at the next one.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        await self._warn_of_other_versions()
        for executor_id in await self._leases.expired_workers():
            await self._take_over(executor_id)
        await self.requeue_lost()

    async def _take_over(self, executor_id: str) -> None:
        """Requeue the workflows of an expired worker."""
        if not await self._leases.expire(executor_id):
            return
        message = "worker %s has expired; other workers take over its workflows"
        _log.warning(message, executor_id, extra={"vmapi_worker": executor_id})
        for workflow_id, queue in (await self._database.pending_of(executor_id)).items():
            await self._database.requeue(workflow_id, queue, executor_id)
        await self._leases.remove(executor_id)

    async def requeue_lost(self) -> None:
        """Requeue workflows that the database assigns to this worker but that do not run here.

        DBOS abandons a workflow if the database becomes unavailable during one of its writes; then
        no worker runs it.
        """
        pending = await self._database.pending_of(self._executor_id)
        lost = {
            workflow_id: self._lost.get(workflow_id, 0) + 1
            for workflow_id in pending
            if workflow_id not in self._running
        }
        # While thousands are being dequeued or finished, the set changes at each heartbeat.
        self._unchanged = self._unchanged + 1 if lost.keys() == self._lost.keys() else 1
        self._lost = lost
        for workflow_id, heartbeats in list(lost.items()):
            if self._unchanged >= HEARTBEATS or heartbeats >= _LOST_FOR_SURE:
                await self._database.requeue(workflow_id, pending[workflow_id], self._executor_id)
                del lost[workflow_id]

    async def _warn_of_other_versions(self) -> None:
        """Warn once about each other version of worker that jobs wait for."""
        for version, count in (await self._database.versions_waited_for()).items():
            if version not in self._versions:
                self._versions.add(version)
                message = "%d jobs wait for a worker of version %r; this worker is of version %r"
                _log.warning(message, count, version, VERSION, extra={"vmapi_version": version})
