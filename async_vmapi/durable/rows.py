"""Check and adjust database rows in the driver, before they reach DBOS.

Each connection of this package has a row factory that processes every row of every query. It does
two things for which DBOS has no setting:

- DBOS chooses the decoder of a value by its row's ``serialization`` column, and one of its decoders
  (pickle) runs code. The configured serializer applies only to writes.
- The concurrency limit of a queue per worker is a column of the queue's row, which all workers
  share. Here each worker reads its own limit, which is 0 while it is not to dequeue.
"""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dbos import DBOSPortableJSONSerializer

from async_vmapi.errors import VMAPIError
from async_vmapi.telemetry.logs import logger_of

if TYPE_CHECKING:
    import sqlite3

    import psycopg

__all__ = ["REFUSED", "SERIALIZER", "Rows", "UntrustedData", "decoding"]

_log: Final = logger_of(__name__)

# DBOS pickles by default; JSON can be read, and searched for secrets.
SERIALIZER: Final = DBOSPortableJSONSerializer()

REFUSED: Final = "refused: this is not JSON that async_vmapi wrote"
"""Replaces a refused value. It is not JSON, so DBOS cannot decode it either."""

_TRUSTED: Final = (None, SERIALIZER.name())
_PAYLOADS: Final = frozenset({"inputs", "output", "error", "value", "message"})
_LOGGED: Final = 100
"""Maximum number of refused rows to log, each once."""

_Change: TypeAlias = Callable[[Sequence[Any]], tuple[Any, ...]]


class UntrustedData(VMAPIError):
    """Data in the fleet's database was not written by this package, and was not decoded.

    Another program has written to the database: check who has access. The job, item or event that
    the data belongs to can no longer be read.
    """


@contextmanager
def decoding(what: str) -> Generator[None]:
    """Raise `UntrustedData` if DBOS cannot decode what it has read."""
    try:
        yield
    except json.JSONDecodeError:
        raise UntrustedData(f"{what} was refused: this package did not write it") from None


class Rows:
    """The row factory of a connection, for SQLite and for PostgreSQL.

    Args:
        concurrency: Returns how many workflows of a queue this worker may run concurrently, None
            for no limit; without it, the queue's row decides.
    """

    def __init__(self, concurrency: Callable[[str], int | None] | None = None) -> None:
        self._concurrency = concurrency
        self._logged: set[str] = set()
        self._plan = lru_cache(maxsize=256)(self._change_of)

    def sqlite(self, cursor: "sqlite3.Cursor", row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a filtered row; a ``row_factory`` of `sqlite3`."""
        change = self._plan(tuple(column[0] for column in cursor.description))
        return row if change is None else change(row)

    def psycopg(self, cursor: "psycopg.Cursor[Any]") -> _Change:
        """Return the filter for a result's rows; a ``row_factory`` of psycopg."""
        columns = cursor.description or ()
        return self._plan(tuple(column.name for column in columns)) or tuple

    def _change_of(self, names: tuple[str, ...]) -> _Change | None:
        """Return the change to rows with these columns; None for no change."""
        kinds = [index for index, name in enumerate(names) if "serialization" in name]
        if not kinds:
            return self._limit_of(names)
        whose = names.index("workflow_uuid") if "workflow_uuid" in names else None

        def change(row: Sequence[Any]) -> tuple[Any, ...]:
            if all(row[index] in _TRUSTED for index in kinds):
                return tuple(row)
            self._log("" if whose is None else str(row[whose]))
            values = zip(names, row, strict=True)
            return tuple(_refused(name, value) for name, value in values)

        return change

    def _limit_of(self, names: tuple[str, ...]) -> _Change | None:
        if self._concurrency is None or not {"name", "worker_concurrency"} <= set(names):
            return None
        at_most, queue, limit = (
            names.index("worker_concurrency"),
            names.index("name"),
            self._concurrency,
        )

        def change(row: Sequence[Any]) -> tuple[Any, ...]:
            return (*row[:at_most], limit(str(row[queue])), *row[at_most + 1 :])

        return change

    def _log(self, workflow_id: str) -> None:
        workflow_id = workflow_id[:200]
        if workflow_id in self._logged or len(self._logged) >= _LOGGED:
            return
        self._logged.add(workflow_id)
        fields = {"vmapi_workflow": workflow_id}
        message = "refused a row of the database that is not JSON of this package: workflow %r"
        _log.error(message, workflow_id, extra=fields)


def _refused(name: str, value: Any) -> Any:
    if "serialization" in name:
        return SERIALIZER.name()
    # The column of an SQL function is named after the function.
    payload = name in _PAYLOADS or name.startswith("coalesce")
    return REFUSED if payload and value is not None else value
