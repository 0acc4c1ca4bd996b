"""SQLite connections that many workers can share, and the identity of the database's file."""

import os
import sqlite3
import time
from typing import Any, Final

from async_vmapi.durable.rows import Rows

__all__ = ["SQLiteConnection", "identity_of", "like_dbos"]

_PATIENCE: Final = 30
"""Seconds to wait for an SQLite lock; as long as DBOS waits."""


class SQLiteConnection(sqlite3.Connection):
    """A connection that waits for locks, and supports fractions of a second.

    DBOS uses these from Python 3.12 on, and SQLite supports them since 3.42. Older versions return
    NULL, and nothing can be enqueued.
    """

    def __init__(self, *args: Any, rows: Rows, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.row_factory = rows.sqlite
        try:
            # Writers wait for each other instead of failing.
            self.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE}")
            self._log_ahead()
        except sqlite3.Error:
            # The file is not a database, or not writable; SQLAlchemy would leave it open.
            self.close()
            raise
        if sqlite3.sqlite_version_info < (3, 42):
            self.create_function("unixepoch", 1, _unixepoch)

    def _log_ahead(self) -> None:
        # With WAL, readers and the writer do not block each other. The mode persists in the file.
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                # If two connections open a new file concurrently, SQLite refuses one immediately.
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
    """Configure a new connection as DBOS configures its own."""
    # Writers wait for each other from their first statement on.
    connection.isolation_level = "IMMEDIATE"


def identity_of(path: str | None) -> tuple[int, int] | None:
    """Return the device and inode of the file at a path; None if there is none."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino
