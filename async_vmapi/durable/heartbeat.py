"""`Leases`: each worker's heartbeat, by which the others detect that it expired.

DBOS itself resumes an executor's workflows only when that executor restarts; to detect one that
never does takes a separate service of DBOS. Here each worker increments a number in a shared table.
No clocks are compared: a worker expires when another one has read the same number several times in
a row. Failed reads do not count, so a database outage expires no worker. An expired worker learns
of it at its next heartbeat, and a worker that has not renewed its lease in time has to assume that
it expired. Neither sends a request that must not be sent twice.
"""

import asyncio
import contextlib
import threading
import time
from typing import Final

import sqlalchemy as sa
from sqlalchemy import exc

from async_vmapi.durable.store import Database
from async_vmapi.telemetry.logs import logger_of

__all__ = ["HEARTBEATS", "Leases"]

_log: Final = logger_of(__name__)

HEARTBEATS: Final = 5
"""Heartbeats per lease: a worker expires after this many reads without a new one."""

_SAFE: Final = 0.75
"""Fraction of a lease for which a worker trusts its heartbeat; others wait for a full lease."""

_STUCK: Final = 10.0
"""Leases after which the heartbeats of an unresponsive event loop stop."""

_tables: Final = sa.MetaData()

_workers: Final = sa.Table(
    "async_vmapi_workers",
    _tables,
    sa.Column("executor_id", sa.Text, primary_key=True),
    sa.Column("heartbeat", sa.BigInteger, nullable=False),
    sa.Column("expired", sa.Boolean, nullable=False),
    sa.Column("lease_duration", sa.Float, nullable=False),
)

_endpoint: Final = sa.Table(
    "async_vmapi_endpoint",
    _tables,
    # There is one row.
    sa.Column("one", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("origin", sa.Text, nullable=False),
)


class Leases:
    """One worker's lease, and its view of the other workers.

    Args:
        database: The fleet's database.
        executor_id: This worker.
        lease_duration: Seconds without a heartbeat after which a worker expires.
    """

    def __init__(self, database: Database, executor_id: str, lease_duration: float) -> None:
        self._database = database
        self._own = executor_id
        self._lease = lease_duration
        self.interval: Final = lease_duration / HEARTBEATS
        """Seconds between two heartbeats."""
        self._seen: dict[str, tuple[int, int]] = {}
        self._expired = False
        self._renewed = self._loop_alive = (0.0, 0.0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="async_vmapi lease", daemon=True)

    @property
    def expired(self) -> bool:
        """Whether others have expired this worker."""
        return self._expired

    def holds(self) -> bool:
        """Return whether this worker has certainly not expired."""
        return not self._expired and _since(self._renewed) < _SAFE * self._lease

    async def wait_until_held(self) -> None:
        """Wait until this worker certainly has not expired; cancel the caller if it has."""
        while not self.holds():
            if self._expired:
                raise asyncio.CancelledError
            await asyncio.sleep(self.interval / 2)

    async def endpoint(self, origin: str) -> str:
        """Return the endpoint of this database's jobs; the first worker's is stored.

        The VMs and zones of a job exist at one endpoint only.
        """
        await self._database.call(_create, self._database.engine)
        with contextlib.suppress(exc.IntegrityError):
            await self._database.execute(sa.insert(_endpoint).values(one=1, origin=origin))
        ((stored,),) = await self._database.rows(sa.select(_endpoint.c.origin))
        return str(stored)

    async def begin(self) -> None:
        """Create the table if necessary, and send heartbeats until `end`.

        If the database becomes unavailable meanwhile, call this again.
        """
        self._note_loop_alive()
        self._loop = asyncio.get_running_loop()
        await self._database.call(_create, self._database.engine)
        now = _now()
        await self._database.execute(
            sa.delete(_workers).where(_workers.c.executor_id == self._own),
            sa.insert(_workers).values(
                executor_id=self._own, heartbeat=1, expired=False, lease_duration=self._lease
            ),
        )
        self._renewed = now
        if self._thread.ident is None:
            self._thread.start()

    def _note_loop_alive(self) -> None:
        self._loop_alive = _now()

    def _keep(self) -> None:
        # In a separate thread, so that a busy event loop or thread pool does not expire the worker.
        while not self._end.wait(self.interval):
            try:
                self._loop.call_soon_threadsafe(self._note_loop_alive)
            except RuntimeError:
                # The loop is closed: an abandoned worker has to expire.
                return
            if _since(self._loop_alive) > _STUCK * self._lease:
                continue
            try:
                self.heartbeat()
            except Exception as error:  # noqa: BLE001 - the thread must not end, or the worker expires
                kind = type(error).__name__
                fields = {"vmapi_worker": self._own, "vmapi_error": kind}
                _log.warning("a worker could not send its heartbeat: %s", kind, extra=fields)

    def heartbeat(self) -> None:
        """Renew this worker's lease, unless it has expired."""
        now = _now()
        own = (_workers.c.executor_id == self._own) & ~_workers.c.expired
        with self._database.engine.begin() as connection:
            counted = connection.execute(
                sa.update(_workers).where(own).values(heartbeat=_workers.c.heartbeat + 1)
            )
        if counted.rowcount:
            self._renewed = now
        else:
            self._expired = True

    def end(self) -> None:
        """Stop the heartbeats."""
        self._end.set()

    async def leave(self) -> None:
        """Expire this worker's lease now, so that others need not wait; call `end` before."""
        if self._thread.ident is not None:
            await self._database.in_thread(self._thread.join)
        own = _workers.c.executor_id == self._own
        await self._database.execute(sa.update(_workers).where(own).values(expired=True))

    async def expired_workers(self) -> list[str]:
        """Return the workers that have left or expired; call this once per heartbeat.

        This includes executors with workflows but without a row: an expired worker continues to
        dequeue until its next heartbeat.
        """
        # In this order: a new worker has a row before it dequeues.
        executors = await self._database.executors()
        rows = await self._database.rows(
            sa.select(_workers).where(_workers.c.executor_id != self._own)
        )
        seen = {row.executor_id: row.heartbeat for row in rows}
        self._seen = {
            worker: (heartbeat, self._seen[worker][1] + 1)
            if worker in self._seen and self._seen[worker][0] == heartbeat
            else (heartbeat, 0)
            for worker, heartbeat in seen.items()
        }
        # Each worker has its own lease duration, on which it relies.
        found = [
            row.executor_id
            for row in rows
            if row.expired
            or self._seen[row.executor_id][1]
            >= HEARTBEATS * max(1.0, row.lease_duration / self._lease)
        ]
        return found + sorted(executors - seen.keys() - {self._own})

    async def expire(self, executor_id: str) -> bool:
        """Expire a worker unless it has sent a heartbeat meanwhile; return whether it expired."""
        own = _workers.c.executor_id == executor_id
        seen, _ = self._seen.get(executor_id, (0, 0))
        await self._database.execute(
            sa.update(_workers).where(own, _workers.c.heartbeat == seen).values(expired=True)
        )
        return not await self._database.rows(sa.select(_workers).where(own, ~_workers.c.expired))

    async def remove(self, executor_id: str) -> None:
        """Delete the row of an expired worker whose workflows were taken over."""
        own = _workers.c.executor_id == executor_id
        await self._database.execute(sa.delete(_workers).where(own))


def _now() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _since(moment: tuple[float, float]) -> float:
    # The monotonic clock may stop while a host is suspended, and the wall clock may be set.
    return max(time.monotonic() - moment[0], time.time() - moment[1])


def _create(engine: sa.Engine) -> None:
    try:
        _tables.create_all(engine)
    except (exc.OperationalError, exc.ProgrammingError, exc.IntegrityError):
        # Another worker may have created it concurrently; otherwise this fails again.
        _tables.create_all(engine)
