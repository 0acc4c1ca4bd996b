"""Connections to SQLite that many workers can share, and which file they lead to."""

import os
import sqlite3
import time
from typing import Any, Final

from async_vmapi.durable.rows import Rows

__all__ = ["SQLiteConnection", "identity_of", "like_dbos"]

_PATIENCE: Final = 30
"""Seconds for which a lock of SQLite's is waited for; as long as DBOS waits."""


class SQLiteConnection(sqlite3.Connection):
    """A connection that waits for others, and that tells parts of a second.

    DBOS asks for those from Python 3.12 on, and SQLite knows them since 3.42. Older ones answer
    NULL, and nothing can be put into a queue.
    """

    def __init__(self, *args: Any, rows: Rows, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.row_factory = rows.sqlite
        try:
            # Writers wait for each other, in place of failing.
            self.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE}")
            self._log_ahead()
        except sqlite3.Error:
            # The file is no database, or cannot be written; SQLAlchemy would leave it open.
            self.close()
            raise
        if sqlite3.sqlite_version_info < (3, 42):
            self.create_function("unixepoch", 1, _unixepoch)

    def _log_ahead(self) -> None:
        # Readers and the writer do not hold each other up; it stays with the file.
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                # Of two that open a new file at once, SQLite refuses one without any patience.
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return


def _unixepoch(modifier: str) -> float:
    now = time.time()
    return now if modifier.startswith("subsec") else int(now)


def like_dbos(connection: Any, _: object) -> None:
    """Set a new connection up as DBOS sets up its own."""
    # Writers wait for each other from their first statement on.
    connection.isolation_level = "IMMEDIATE"


def identity_of(path: str | None) -> tuple[int, int] | None:
    """Return which file is at a path: device and inode; None if none is there."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino
