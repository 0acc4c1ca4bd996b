"""What nobody works on any more is made to begin again: at each beat of a worker."""

from collections.abc import Set as AbstractSet
from typing import Final

from async_vmapi.durable.heartbeat import HEARTBEATS, Leases
from async_vmapi.durable.store import VERSION, Database
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Recovery"]

_log: Final = logger_of(__name__)

_LOST_FOR_SURE: Final = 10 * HEARTBEATS
"""After so many beats a workflow that does not run is lost, whatever else goes on."""


class Recovery:
    """Takes over from dead workers, and puts back what this one has lost.

    Args:
        database: Where the workflows are.
        leases: Who is alive.
        executor_id: This worker.
        running: The workflows that run here; it changes.
    """

    def __init__(
        self, database: Database, leases: Leases, executor_id: str, running: AbstractSet[str]
    ) -> None:
        self._database = database
        self._leases = leases
        self._executor_id = executor_id
        self._running = running
        self._lost: dict[str, int] = {}
        self._still = 0
        self._versions: set[str] = set()

    async def take_care(self) -> None:
        """Do what is to be done at a beat.

        Raises:
            DatabaseUnavailable: If the database is away; it is done at the next one.
            DatabaseLost: If the database's file was deleted or replaced.
        """
        await self._warn_of_other_versions()
        for executor_id in await self._leases.dead():
            await self._take_over(executor_id)
        await self.requeue_lost()

    async def _take_over(self, executor_id: str) -> None:
        """Let anybody take what a dead worker had begun."""
        if not await self._leases.expire(executor_id):
            return
        told = "worker %s is gone; what it had begun is taken over"
        _log.warning(told, executor_id, extra={"vmapi_worker": executor_id})
        for workflow_id, queue in (await self._database.pending_of(executor_id)).items():
            await self._database.requeue(workflow_id, queue, executor_id)
        await self._leases.remove(executor_id)

    async def requeue_lost(self) -> None:
        """Let workflows begin again that are this worker's, as the database says, and do not run.

        DBOS gives up on a workflow when the database goes away while it writes for it, and then
        nobody has it.
        """
        pending = await self._database.pending_of(self._executor_id)
        lost = {
            workflow_id: self._lost.get(workflow_id, 0) + 1
            for workflow_id in pending
            if workflow_id not in self._running
        }
        # Of thousands that were just taken, or are at their very end, some are written down or
        # begun at each beat.
        self._still = self._still + 1 if lost.keys() == self._lost.keys() else 1
        self._lost = lost
        for workflow_id, beats in list(lost.items()):
            if self._still >= HEARTBEATS or beats >= _LOST_FOR_SURE:
                await self._database.requeue(workflow_id, pending[workflow_id], self._executor_id)
                del lost[workflow_id]

    async def _warn_of_other_versions(self) -> None:
        """Warn once of each version of which jobs wait here: this worker leaves them alone."""
        for version, count in (await self._database.versions_waited_for()).items():
            if version not in self._versions:
                self._versions.add(version)
                told = "%d jobs wait for a worker of version %r; this one is %r, and leaves them"
                _log.warning(told, count, version, VERSION, extra={"vmapi_version": version})
