"""Who of a fleet's workers is alive, so that others take over what a dead one had begun.

DBOS takes up the workflows of an executor that comes back, and leaves it to a service of its
own to tell which never will. Here each worker counts a number up in a table that all of them
read. No clocks are compared: a worker counts as dead when another has read the same number so
many times in a row, and reads that fail count for nothing, so a database that was away for an
hour kills nobody. A worker that was declared dead learns of it at its next beat, and a worker
that has not counted for most of a lease does not know that it was not; neither sends what must
not be sent twice.
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
"""So many times in a row the same number is read of a worker that is dead."""

_SAFE: Final = 0.75
"""The part of a lease for which a beat is good; others need more than the whole."""

_STUCK: Final = 10.0
"""So many leases an event loop may be silent before its thread counts for it no more."""

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
    """The workers of a fleet, as one of them sees the others.

    Args:
        database: Where they are told.
        executor_id: This one.
        lease_duration: Seconds after which one that says nothing is dead.
    """

    def __init__(self, database: Database, executor_id: str, lease_duration: float) -> None:
        self._database = database
        self._own = executor_id
        self._lease = lease_duration
        self._seen: dict[str, tuple[int, int]] = {}
        self._lost = False
        self._counted = self._heard = (0.0, 0.0)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="async_vmapi lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether others have declared this worker dead."""
        return self._lost

    def holds(self) -> bool:
        """Return whether it is sure that nobody has taken this worker for dead."""
        return not self._lost and _since(self._counted) < _SAFE * self._lease

    async def endpoint(self, origin: str) -> str:
        """Return the endpoint that this database's jobs are of: this one, if none was told before.

        A job names machines, and zones for new ones, that are of one endpoint alone.
        """
        await self._database.call(_create, self._database.engine)
        return await self._database.call(self._endpoint_of, origin)

    def _endpoint_of(self, origin: str) -> str:
        engine = self._database.engine
        with contextlib.suppress(exc.IntegrityError), engine.begin() as connection:
            connection.execute(sa.insert(_endpoint).values(one=1, origin=origin))
        with engine.connect() as connection:
            return str(connection.scalars(sa.select(_endpoint.c.origin)).one())

    async def begin(self) -> None:
        """Create the table, if need be, and go on counting until the end.

        If the database goes away meanwhile, this can be called once more.
        """
        self._hear()
        self._loop = asyncio.get_running_loop()
        await self._database.call(_create, self._database.engine)
        await self._database.call(self._enter)
        if self._thread.ident is None:
            self._thread.start()

    def _hear(self) -> None:
        self._heard = _now()

    def _keep(self) -> None:
        # A thread of its own: a busy event loop, or its busy threads, are not a dead worker.
        while not self._end.wait(self._lease / HEARTBEATS):
            try:
                self._loop.call_soon_threadsafe(self._hear)
            except RuntimeError:
                # The loop is closed; a worker that was left behind is a dead one.
                return
            if _since(self._heard) > _STUCK * self._lease:
                continue
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - who counts no more is dead, and takes on
                kind = type(error).__name__
                about = {"vmapi_worker": self._own, "vmapi_error": kind}
                _log.warning("a worker could not be counted: %s", kind, extra=about)

    def _enter(self) -> None:
        now = _now()
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(_workers).where(_workers.c.executor_id == self._own))
            connection.execute(
                sa.insert(_workers).values(
                    executor_id=self._own, heartbeat=1, expired=False, lease_duration=self._lease
                )
            )
        self._counted = now

    def beat(self) -> None:
        """Say that this worker is alive, unless others have said that it is not."""
        now = _now()
        own = (_workers.c.executor_id == self._own) & ~_workers.c.expired
        with self._database.engine.begin() as connection:
            counted = connection.execute(
                sa.update(_workers).where(own).values(heartbeat=_workers.c.heartbeat + 1)
            )
        if counted.rowcount:
            self._counted = now
        else:
            self._lost = True

    def end(self) -> None:
        """Count no more."""
        self._end.set()

    async def leave(self) -> None:
        """Say that this worker has ended, so that others need not wait; after `end`."""
        await self._database.call(self._leave)

    def _leave(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        own = _workers.c.executor_id == self._own
        with self._database.engine.begin() as connection:
            connection.execute(sa.update(_workers).where(own).values(expired=True))

    async def dead(self) -> list[str]:
        """Return who is gone or dead; to be called once for each beat.

        Among them who has workflows and is not counted at all: one that had been declared dead
        goes on taking some until its next beat tells it.
        """
        # In this order: who begins is counted before it takes any.
        at_work = await self._database.executors()
        rows = await self._database.call(self._read)
        seen = {who: beat for who, beat, *_ in rows}
        self._seen = {
            who: (beat, self._seen[who][1] + 1)
            if who in self._seen and self._seen[who][0] == beat
            else (beat, 0)
            for who, beat in seen.items()
        }
        # Each is given its own lease, for that is what it counts on.
        dead = [
            who
            for who, _, gone, lease in rows
            if gone or self._seen[who][1] >= HEARTBEATS * max(1.0, lease / self._lease)
        ]
        return dead + sorted(at_work - seen.keys() - {self._own})

    def _read(self) -> list[tuple[str, int, bool, float]]:
        others = sa.select(_workers).where(_workers.c.executor_id != self._own)
        with self._database.engine.connect() as connection:
            return [
                (row.executor_id, row.heartbeat, row.expired, row.lease_duration)
                for row in connection.execute(others)
            ]

    async def expire(self, executor_id: str) -> bool:
        """Declare a worker dead, unless it has counted on meanwhile; return whether it is."""
        return await self._database.call(self._expire, executor_id)

    def _expire(self, executor_id: str) -> bool:
        own = _workers.c.executor_id == executor_id
        beat, _ = self._seen.get(executor_id, (0, 0))
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.update(_workers).where(own, _workers.c.heartbeat == beat).values(expired=True)
            )
            alive = connection.scalar(
                sa.select(_workers.c.heartbeat).where(own, ~_workers.c.expired)
            )
        return alive is None

    async def remove(self, executor_id: str) -> None:
        """Forget a worker that is dead, and whose workflows were taken over."""
        await self._database.call(self._remove, executor_id)

    def _remove(self, executor_id: str) -> None:
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(_workers).where(_workers.c.executor_id == executor_id))


def _now() -> tuple[float, float]:
    return time.monotonic(), time.time()


def _since(moment: tuple[float, float]) -> float:
    # The one clock may stand still while a machine is suspended, and the other may be set.
    return max(time.monotonic() - moment[0], time.time() - moment[1])


def _create(engine: sa.Engine) -> None:
    try:
        _tables.create_all(engine)
    except (exc.OperationalError, exc.ProgrammingError, exc.IntegrityError):
        # Another worker has created it in the same moment; if not, this fails once more.
        _tables.create_all(engine)
