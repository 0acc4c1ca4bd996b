"""The database that a fleet's workers share. DBOS's client blocks, so it is called in threads."""

import asyncio
import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

import sqlalchemy as sa
from dbos import (
    DBOS,
    DBOSClient,
    EnqueueOptions,
    WorkflowStatus,
    WorkflowStatusString,
)
from sqlalchemy import event, exc

from async_vmapi import validation
from async_vmapi.durable.rows import REFUSED, SERIALIZER, Rows, UntrustedData
from async_vmapi.durable.sqlite import SQLiteConnection, identity_of, like_dbos
from async_vmapi.errors import InvalidArgument, InvalidState, VMAPIError

__all__ = [
    "APPLICATION",
    "ENDED",
    "IDLE_IN_TRANSACTION",
    "JOBS",
    "OPERATIONS",
    "OPERATION_WORKFLOW",
    "UNDER_WAY",
    "VERSION",
    "WORKFLOW",
    "Database",
    "DatabaseLost",
    "DatabaseUnavailable",
    "is_outage",
    "is_refused",
    "job_id",
    "operation_id",
]

P = ParamSpec("P")
T = TypeVar("T")

APPLICATION: Final = "async_vmapi"
VERSION: Final = "async_vmapi durable 1"
"""DBOS's application version: workers run only the workflows of their own version."""

JOBS: Final = "async_vmapi_jobs"
OPERATIONS: Final = "async_vmapi_operations"
WORKFLOW: Final = "async_vmapi.job"
OPERATION_WORKFLOW: Final = "async_vmapi.operation"

ENDED: Final = [
    WorkflowStatusString.SUCCESS.value,
    WorkflowStatusString.ERROR.value,
    WorkflowStatusString.CANCELLED.value,
    WorkflowStatusString.MAX_RECOVERY_ATTEMPTS_EXCEEDED.value,
]
UNDER_WAY: Final = [status.value for status in WorkflowStatusString if status.value not in ENDED]

_THREADS: Final = 4
_AT_ONCE: Final = 500

IDLE_IN_TRANSACTION: Final = 10.0
"""Seconds after which PostgreSQL ends a suspended worker's transaction, and releases its locks."""


def job_id(name: str) -> str:
    """Return the id of a job's workflow."""
    return f"job:{name}"


def operation_id(name: str, index: int) -> str:
    """Return the id of the workflow of one item of a job."""
    return f"op:{name}:{index}"


class DatabaseUnavailable(VMAPIError):
    """The fleet's database cannot be reached or used at the moment. Workers wait for it."""


class DatabaseLost(VMAPIError):
    """The file of the fleet's database was deleted, moved or replaced while it was in use.

    Its jobs are not in the present file. Restore it and restart the workers; check the VMs of
    operations that were in flight.
    """


def is_outage(error: BaseException) -> bool:
    """Return whether an error of DBOS or this module means that the database is unavailable."""
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    # Internal errors include a transaction that was idle for too long, and a read-only server.
    outages = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)
    return isinstance(error, (DatabaseUnavailable, *outages))


def is_refused(status: WorkflowStatus) -> bool:
    """Return whether a workflow's row was not written by this package."""
    return REFUSED in (status.input, status.output, status.error)


class Database:
    """A connection to a fleet's database.

    Args:
        url: ``sqlite:///path`` or ``postgresql://user:password@host/database``.

    Raises:
        InvalidArgument: If it is neither.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(validation.text("database_url", url))
        except (exc.ArgumentError, ValueError):  # the latter of a port
            parsed = sa.URL.create("none")
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql") or parsed.database in (None, "", ":memory:"):
            # The value may contain a password.
            raise InvalidArgument(
                "database_url is neither sqlite:///PATH nor postgresql://USER@HOST/DATABASE",
                argument="database_url",
            )
        self.url: Final = url
        self.is_sqlite: Final = kind == "sqlite"
        self._parsed = parsed
        self._threads: ThreadPoolExecutor | None = None
        self._engine: sa.Engine | None = None
        self._client: DBOSClient | None = None
        self._file: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<Database {self.shown}>"

    @property
    def shown(self) -> str:
        """The database's URL without anything that may be secret."""
        # PostgreSQL accepts a password as a parameter too.
        return self._parsed.set(query={}).render_as_string(hide_password=True)

    @property
    def engine(self) -> sa.Engine:
        """This package's own connections, separate from those of DBOS."""
        if self._engine is None:
            raise InvalidState("the fleet is not open: use it as an async context manager")
        return self._engine

    @property
    def client(self) -> DBOSClient:
        """DBOS's client; its methods block, so they go through `call`."""
        if self._client is None:
            raise InvalidState("the fleet is not open: use it as an async context manager")
        return self._client

    def connect_args(self, rows: Rows) -> dict[str, Any]:
        """Return the arguments for connections of DBOS and of this module."""
        if self.is_sqlite:
            return {"factory": functools.partial(SQLiteConnection, rows=rows)}
        return {"application_name": APPLICATION, "row_factory": rows.psycopg}

    async def call(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Call a blocking function in one of this database's own threads.

        Raises:
            DatabaseUnavailable: If the database is unavailable.
            DatabaseLost: If the database is a file that no longer exists.
        """
        try:
            return await self.in_thread(function, *args, **keywords)
        except Exception as error:
            if not is_outage(error):
                raise
            raise DatabaseUnavailable(
                f"the fleet's database is unavailable ({type(error).__name__})"
            ) from error

    async def in_thread(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Call a blocking function in one of this database's own threads."""
        # Not in the loop's default executor: DBOS replaces it, and shuts it down with a worker.
        call = functools.partial(function, *args, **keywords)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def execute(self, *statements: sa.Executable) -> None:
        """Execute statements in one transaction, in a thread."""
        await self.call(self._execute, statements)

    def _execute(self, statements: Sequence[sa.Executable]) -> None:
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(statement)

    async def rows(self, query: sa.Executable) -> Sequence[Any]:
        """Return the rows of a query, made in a thread."""
        return await self.call(self._rows, query)

    def _rows(self, query: sa.Executable) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    async def open(self) -> None:
        """Connect, and create missing tables."""
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="async_vmapi database")
        await self.call(self._open)

    def _open(self) -> None:
        connect_args = self.connect_args(Rows())
        if self.is_sqlite:
            self._engine = sa.create_engine(self._parsed, connect_args=connect_args)
            event.listen(self._engine, "connect", like_dbos)
        else:
            url = self._parsed.set(drivername="postgresql+psycopg")
            self._engine = sa.create_engine(
                url,
                pool_size=_THREADS + 1,
                max_overflow=0,
                pool_pre_ping=True,
                connect_args=connect_args,
            )
            event.listen(self._engine, "connect", _let_go_of_locks)
        DBOS.migrate(self.url)
        self._client = DBOSClient(
            system_database_engine=self._engine,
            serializer=SERIALIZER,
            application_name=APPLICATION,
            # A retry would block one of few threads; callers retry instead.
            retry_connection_errors=False,
        )
        self._file = identity_of(self._parsed.database) if self.is_sqlite else None
        if self._file is not None:
            # SQLite would silently continue with a deleted file.
            event.listen(self._engine, "checkout", self._check_file)

    def _check_file(self, *_: object) -> None:
        if identity_of(self._parsed.database) != self._file:
            raise DatabaseLost(
                f"the file of {self.shown} was deleted, moved or replaced while it was in use; its "
                "jobs are lost unless it is restored"
            )

    async def close(self) -> None:
        """Disconnect."""
        threads, self._threads = self._threads, None
        if threads is not None:
            # Cancelled calls may still be running in them, with open connections.
            await asyncio.get_running_loop().run_in_executor(None, threads.shutdown)
        if self._client is not None:
            self._client.destroy()
        if self._engine is not None:
            self._engine.dispose()
        self._client = self._engine = self._file = None

    # --- workflows ------------------------------------------------------------------------------

    async def enqueue(self, queue: str, workflow: str, texts: Iterable[tuple[str, str]]) -> None:
        """Enqueue workflows in one transaction; existing ones are left unchanged.

        Args:
            queue: The queue.
            workflow: The workflow's name.
            texts: Pairs of an id and the workflow's argument.
        """
        await self.call(self._enqueue, queue, workflow, list(texts))

    def _enqueue(self, queue: str, workflow: str, texts: list[tuple[str, str]]) -> None:
        with self.engine.begin() as connection:
            for workflow_id, text in texts:
                options = _options(queue, workflow, workflow_id)
                self.client.enqueue_in_transaction(connection, options, text)

    async def submit(self, workflow_id: str, text: str, attributes: dict[str, Any]) -> None:
        """Enqueue a job's workflow, unless it exists."""
        options = _options(JOBS, WORKFLOW, workflow_id)
        options["attributes"] = attributes
        await self.call(self.client.enqueue, options, text)

    async def find(self, workflow_id: str, *, whole: bool = False) -> WorkflowStatus | None:
        """Return a workflow; None if it does not exist.

        Args:
            workflow_id: The workflow's id.
            whole: Whether to load its argument and result too, which may be long.

        Raises:
            UntrustedData: If this package did not write them.
        """
        found = await self.call(
            self.client.list_workflows,
            workflow_ids=[workflow_id],
            load_input=whole,
            load_output=whole,
        )
        if whole and found and is_refused(found[0]):
            raise UntrustedData(f"the row of workflow {workflow_id!r} was refused: see the log")
        return found[0] if found else None

    async def ended(self, workflow_ids: Sequence[str]) -> list[WorkflowStatus]:
        """Return those of the given workflows that have ended, with their results."""
        found: list[WorkflowStatus] = []
        for start in range(0, len(workflow_ids), _AT_ONCE):
            found += await self.call(
                self.client.list_workflows,
                workflow_ids=list(workflow_ids[start : start + _AT_ONCE]),
                status=ENDED,
                load_input=False,
            )
        return found

    async def operations_of(self, name: str) -> list[tuple[int, WorkflowStatus]]:
        """Return the workflows of a job's items with their results, each with its item's number."""
        prefix = operation_id(name, 0)[:-1]
        found = await self.call(
            self.client.list_workflows, workflow_id_prefix=prefix, load_input=False
        )
        # In the pattern, a "_" in the name matches any character.
        own = [status for status in found if status.workflow_id.startswith(prefix)]
        return [(int(status.workflow_id.removeprefix(prefix)), status) for status in own]

    async def stream_of(self, workflow_id: str, key: str) -> list[Any]:
        """Return the values of a workflow's stream so far; DBOS's client would wait for more."""
        row = self._table("streams", "workflow_uuid", "key", "offset", "value", "serialization").c
        own = (row.workflow_uuid == workflow_id) & (row.key == key)
        query = sa.select(row.value, row.serialization).where(own).order_by(row.offset)
        return [SERIALIZER.deserialize(value) for value, _ in await self.rows(query)]

    async def pending_of(self, executor_id: str) -> dict[str, str]:
        """Return the queues of the pending workflows of a worker, by workflow id."""
        found = await self.call(
            self.client.list_workflows,
            executor_id=executor_id,
            status=WorkflowStatusString.PENDING.value,
            app_version=VERSION,
            load_input=False,
            load_output=False,
        )
        return {status.workflow_id: status.queue_name or JOBS for status in found}

    def _table(self, name: str, *columns: str) -> sa.TableClause:
        # DBOS's tables are documented.
        schema = None if self.is_sqlite else "dbos"
        return sa.table(name, *map(sa.column, columns), schema=schema)

    def _statuses(self, *columns: str) -> sa.TableClause:
        # DBOS's client would return every workflow.
        return self._table("workflow_status", *columns)

    async def executors(self) -> set[str]:
        """Return the workers that have pending workflows, expired or not."""
        row = self._statuses("executor_id", "status", "application_version").c
        pending = (row.status == WorkflowStatusString.PENDING.value) & (
            row.application_version == VERSION
        )
        query = sa.select(row.executor_id).where(pending).distinct()
        return {row[0] for row in await self.rows(query)}

    async def versions_waited_for(self) -> dict[str, int]:
        """Return how many jobs wait for each other version of worker."""
        row = self._statuses("name", "status", "application_version").c
        version = row.application_version
        others = (row.name == WORKFLOW) & row.status.in_(UNDER_WAY) & (version != VERSION)
        query = sa.select(version, sa.func.count()).where(others).group_by(version)
        return {str(row[0]): int(row[1]) for row in await self.rows(query)}

    async def requeue(self, workflow_id: str, queue: str, executor_id: str) -> None:
        """Requeue a workflow if it still belongs to the given worker."""
        # The one private call of DBOS: its public one (resume_workflow) would take the workflow
        # from its current worker. tests/durable/test_dbos.py says what to do if this is removed.
        back = self.client._sys_db.reenqueue_for_recovery  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        await self.call(back, workflow_id, [executor_id], queue)

    async def note(self, workflow_id: str, **attributes: Any) -> None:
        """Set attributes of a workflow."""
        await self.call(self.client.update_workflow_attributes, workflow_id, attributes, merge=True)


def _options(queue: str, workflow: str, workflow_id: str) -> EnqueueOptions:
    return {
        "queue_name": queue,
        "workflow_name": workflow,
        "workflow_id": workflow_id,
        "app_version": VERSION,
    }


def _let_go_of_locks(connection: Any, _: object) -> None:
    milliseconds = int(IDLE_IN_TRANSACTION * 1000)
    connection.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")
    connection.commit()
