"""Open the `DurableFleet` of a command, and explain database errors."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from async_vmapi.cli.running import ExitCode, fail, run
from async_vmapi.errors import InvalidArgument

if TYPE_CHECKING:
    from async_vmapi.client import Client
    from async_vmapi.durable import DurableFleet

__all__ = ["fleet_of", "opened", "run_with"]

T = TypeVar("T")


def fleet_of(
    database: str,
    client: "Callable[[], Client] | None" = None,
    *,
    limit: int | None = None,
    worker_limit: int | None = None,
    secret_names: Iterable[str] = (),
) -> "DurableFleet":
    """Return the fleet of a database; exit if there is no URL or DBOS is not installed."""
    if not database:
        fail("a durable job requires --database, or VMAPI_DATABASE", ExitCode.USAGE)
    try:
        # DBOS is optional.
        from async_vmapi.durable import DurableFleet
    except ModuleNotFoundError as error:
        if error.name != "dbos":
            raise
        fail(error, ExitCode.USAGE)
    if client is None:
        from async_vmapi.client import Client

        client = Client.from_env
    try:
        return DurableFleet(
            database, client, limit=limit, worker_limit=worker_limit, secret_names=secret_names
        )
    except InvalidArgument as error:
        # As it is typed.
        fail(str(error).replace("database_url", "--database (or VMAPI_DATABASE)"), ExitCode.USAGE)


def run_with(database: str, call: "Callable[[DurableFleet], Awaitable[T]]") -> T:
    """Call a function with the fleet of a database, and return its result."""
    fleet = fleet_of(database)

    async def called() -> T:
        async with opened(fleet):
            return await call(fleet)

    return run(called())


@asynccontextmanager
async def opened(fleet: "DurableFleet") -> AsyncGenerator[None]:
    """Open a fleet; if its database cannot be used, print the reason and exit."""
    with _failures_explained(fleet):
        with _only_errors_of_dbos():
            await fleet.__aenter__()
        try:
            yield
        finally:
            await fleet.__aexit__(None, None, None)


@contextmanager
def _only_errors_of_dbos() -> Generator[None]:
    # DBOS warns that the database may not exist; our own error says more.
    logger = logging.getLogger("dbos")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _failures_explained(fleet: "DurableFleet") -> Generator[None]:
    from sqlalchemy import exc

    from async_vmapi.durable import DatabaseUnavailable

    try:
        yield
    except exc.ArgumentError as error:
        fail(f"{fleet.database} is not a database URL: {error}", ExitCode.USAGE)
    except (DatabaseUnavailable, exc.SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else error
        # The driver's message contains no password.
        why = " ".join(str(getattr(cause, "orig", None) or type(cause).__name__).split())
        if fleet.database.startswith("sqlite"):
            hint = "check that the folder exists and is writable, and that the file is a database"
        else:
            hint = "check that the server runs, and check host, database name, user and password"
        fail(f"the database {fleet.database} cannot be used ({why}); {hint}")
