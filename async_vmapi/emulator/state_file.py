"""A cloud in an SQLite file. What is written together is one transaction.

A row has one VM, operation, change of a VM, or settings, as JSON.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import attrs
import msgspec

from async_vmapi.emulator.records import (
    VERSION,
    ChangeRecord,
    CloudRecord,
    OperationRecord,
    Snapshot,
    VMRecord,
)
from async_vmapi.errors import InvalidArgument

__all__ = ["Rows", "SavedCloud", "StateFile"]

T = TypeVar("T")

_APPLICATION: Final = 0x564D4150
_TABLES: Final = (
    "CREATE TABLE cloud (id INTEGER PRIMARY KEY CHECK (id = 1), clock REAL NOT NULL, record TEXT)",
    "CREATE TABLE settings (number INTEGER PRIMARY KEY, record TEXT)",
    "CREATE TABLE vms (number INTEGER PRIMARY KEY, record TEXT)",
    "CREATE TABLE operations (number INTEGER PRIMARY KEY, record TEXT)",
    "CREATE TABLE history (vm INTEGER, position INTEGER, record TEXT, UNIQUE (vm, position))",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)
_START_NEW: Final = "use another file, or move it and its -wal file to start with a new cloud"
_FORBIDDEN: Final = (
    "cannot be read and written; change its permissions, or those of its folder, or use another "
    "file"
)
_PROBLEMS: Final = {
    sqlite3.SQLITE_BUSY: "is in use by another program; stop that emulator, or use another file",
    sqlite3.SQLITE_NOTADB: f"is not an SQLite database; {_START_NEW}",
    sqlite3.SQLITE_CORRUPT: f"is damaged; {_START_NEW}",
    sqlite3.SQLITE_READONLY: _FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: _FORBIDDEN,
}


@attrs.frozen
class Rows:
    """What is written in one transaction.

    Attributes:
        whole: Whether it replaces everything that the file has.
        clock: Where the cloud's clock continues, in seconds.
        cloud: The cloud.
        settings: Settings by number.
        vms: VMs by number, without their history.
        operations: Operations by number.
        history: Changes by their VM's number and their position.
    """

    whole: bool
    clock: float
    cloud: CloudRecord
    settings: list[tuple[int, dict[str, object]]]
    vms: list[tuple[int, VMRecord]]
    operations: list[tuple[int, OperationRecord]]
    history: list[tuple[int, int, ChangeRecord]]


@attrs.frozen
class SavedCloud:
    """A cloud as a file has it, and where its clock continues, in seconds."""

    snapshot: Snapshot
    clock: float


class StateFile:
    """The file of one running emulator, which locks it. Its methods block.

    Args:
        path: Its path. A new file is created with the mode 0600.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None

    def open(self) -> SavedCloud | None:
        """Lock the file, and return the cloud in it; None if it is new or empty.

        Raises:
            InvalidArgument: If it cannot be used; the message says why, and what to do.
        """
        try:
            if self.path.is_dir():
                raise self._refused("is a directory; use the path of a file")
            if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
                raise self._refused(_FORBIDDEN)
            # An existing file is not opened: to close it would release the locks that an emulator
            # in this process has on it.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            return self._read(self._connection)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            raise self._refused(_PROBLEMS.get(code, f"cannot be used: {error}")) from None
        except OSError as error:
            words = (
                f"cannot be created: {error.strerror}; use the path of a file in a folder of yours"
            )
            raise self._refused(words) from None
        except (msgspec.MsgspecError, ValueError) as error:
            if isinstance(error, InvalidArgument):
                raise
            raise self.damaged(error) from None

    def write(self, rows: Rows) -> None:
        """Write rows in one transaction; afterwards, a killed process does not lose them.

        Raises:
            OSError: If they cannot be written; the file then has what it had.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._write(connection, rows)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise OSError(f"the state file cannot be written: {error}") from None

    def close(self) -> None:
        """Close and unlock the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def damaged(self, error: Exception) -> InvalidArgument:
        """Return the error for a file whose content is invalid."""
        return self._refused(f"is damaged ({error}); {_START_NEW}")

    def _refused(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"state file {self.path} {problem}", argument="state")

    def _read(self, connection: sqlite3.Connection) -> SavedCloud | None:
        # Locked from the first statement that reads, until it is closed or the process ends.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit is in the file, but not on the disk: it survives a kill, not a power failure.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN EXCLUSIVE")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if not tables and not application and not version:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("COMMIT")
            return None
        connection.execute("COMMIT")
        if application != _APPLICATION:
            raise self._refused("is a database of another program; use another file")
        if version != VERSION:
            raise self._refused(
                f"is of version {version}, and this async_vmapi uses version {VERSION}; use the "
                "async_vmapi that wrote it, or another file"
            )
        return self._saved(connection)

    def _saved(self, connection: sqlite3.Connection) -> SavedCloud | None:
        cloud = connection.execute("SELECT clock, record FROM cloud").fetchone()
        if cloud is None:
            return None
        clock, record = cloud
        history: dict[int, list[ChangeRecord]] = {}
        for vm, change in connection.execute(
            "SELECT vm, record FROM history ORDER BY vm, position"
        ):
            history.setdefault(vm, []).append(msgspec.json.decode(change, type=ChangeRecord))
        snapshot = Snapshot(
            version=VERSION,
            cloud=msgspec.json.decode(record, type=CloudRecord),
            settings=_records(connection, "settings", dict[str, object]),
            vms=[
                msgspec.structs.replace(vm, history=history.get(vm.number, []))
                for vm in _records(connection, "vms", VMRecord)
            ],
            operations=_records(connection, "operations", OperationRecord),
        )
        return SavedCloud(snapshot, clock)

    def _write(self, connection: sqlite3.Connection, rows: Rows) -> None:
        if rows.whole:
            for table in ("settings", "vms", "operations", "history"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        connection.execute("REPLACE INTO cloud VALUES (1, ?, ?)", (rows.clock, _text(rows.cloud)))
        numbered: Iterable[tuple[str, Iterable[tuple[int, object]]]] = (
            ("settings", rows.settings),
            ("vms", rows.vms),
            ("operations", rows.operations),
        )
        for table, records in numbered:
            connection.executemany(
                f"REPLACE INTO {table} VALUES (?, ?)",  # noqa: S608 - a constant
                [(number, _text(record)) for number, record in records],
            )
        connection.executemany(
            "REPLACE INTO history VALUES (?, ?, ?)",
            [(vm, position, _text(change)) for vm, position, change in rows.history],
        )


def _text(record: object) -> str:
    return msgspec.json.encode(record).decode()


def _records(connection: sqlite3.Connection, table: str, kind: type[T]) -> list[T]:
    rows = connection.execute(f"SELECT record FROM {table} ORDER BY number")  # noqa: S608 - constant
    return [msgspec.json.decode(record, type=kind) for (record,) in rows]
