"""Who of a fleet's workers is alive, so that others take over what a dead one had begun.

DBOS takes up the workflows of an executor that comes back, and leaves it to a service of its
own to tell which never will. Here each worker counts a number up in a table that all of them
read. No clocks are compared: a worker counts as dead when others have read the same number so
many times in a row, and reads that fail count for nothing, so a database that was away for an
hour kills nobody.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy import exc

from async_vmapi.durable.database import Database

__all__ = ["BEATS", "Leases"]

BEATS: Final = 5
"""So many times in a row the same number is read of a worker that is dead."""

_workers: Final = sa.Table(
    "async_vmapi_workers",
    sa.MetaData(),
    sa.Column("executor_id", sa.Text, primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("gone", sa.Boolean, nullable=False),
)


class Leases:
    """The workers of a fleet, as one of them sees the others.

    Args:
        database: Where they are told.
        executor_id: This one.
    """

    def __init__(self, database: Database, executor_id: str) -> None:
        self._database = database
        self._own = executor_id
        self._seen: dict[str, tuple[int, int]] = {}

    async def begin(self) -> None:
        """Create the table, if need be, and count for the first time."""
        await self._database.call(_create, self._database.engine)
        await self.beat()

    async def beat(self) -> None:
        """Say that this worker is alive."""
        await self._database.call(self._beat)

    def _beat(self) -> None:
        own = _workers.c.executor_id == self._own
        with self._database.engine.begin() as connection:
            counted = connection.execute(
                sa.update(_workers).where(own).values(beat=_workers.c.beat + 1)
            )
            if not counted.rowcount:
                connection.execute(
                    sa.insert(_workers).values(executor_id=self._own, beat=1, gone=False)
                )

    async def leave(self) -> None:
        """Say that this worker has ended, so that others need not wait to be sure."""
        await self._database.call(self._leave)

    def _leave(self) -> None:
        own = _workers.c.executor_id == self._own
        with self._database.engine.begin() as connection:
            connection.execute(sa.update(_workers).where(own).values(gone=True))

    async def dead(self) -> list[str]:
        """Return who is gone or dead; to be called once for each beat."""
        rows = await self._database.call(self._read)
        seen = {who: beat for who, beat, _ in rows}
        self._seen = {
            who: (beat, self._seen[who][1] + 1)
            if who in self._seen and self._seen[who][0] == beat
            else (beat, 0)
            for who, beat in seen.items()
        }
        return [who for who, _, gone in rows if gone or self._seen[who][1] >= BEATS]

    def _read(self) -> list[tuple[str, int, bool]]:
        others = sa.select(_workers).where(_workers.c.executor_id != self._own)
        with self._database.engine.connect() as connection:
            return [(row.executor_id, row.beat, row.gone) for row in connection.execute(others)]

    async def bury(self, executor_id: str) -> None:
        """Forget a worker whose workflows were taken over."""
        await self._database.call(self._bury, executor_id)

    def _bury(self, executor_id: str) -> None:
        # Without those who came back meanwhile and count on.
        beat = self._seen[executor_id][0]
        those = (_workers.c.executor_id == executor_id) & (_workers.c.beat == beat)
        with self._database.engine.begin() as connection:
            connection.execute(sa.delete(_workers).where(those))


def _create(engine: sa.Engine) -> None:
    try:
        _workers.create(engine, checkfirst=True)
    except (exc.OperationalError, exc.ProgrammingError, exc.IntegrityError):
        # Another worker has created it in the same moment; if not, this fails once more.
        _workers.create(engine, checkfirst=True)
