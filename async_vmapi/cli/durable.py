"""The durable fleet that a command is about, and what is wrong with its database, in words."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from async_vmapi.cli.running import ExitCode, fail, run

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
    """Return the fleet of a database; exit where there is none, or no DBOS."""
    if not database:
        fail("a durable job takes --database, or VMAPI_DATABASE", ExitCode.USAGE)
    try:
        # Who never asks for it needs no DBOS.
        from async_vmapi.durable import DurableFleet
    except ModuleNotFoundError as error:
        if error.name != "dbos":
            raise
        fail(error, ExitCode.USAGE)
    if client is None:
        from async_vmapi.client import Client

        client = Client.from_env
    return DurableFleet(
        database, client, limit=limit, worker_limit=worker_limit, secret_names=secret_names
    )


def run_with(database: str, call: "Callable[[DurableFleet], Awaitable[T]]") -> T:
    """Run something with the fleet of a database, and return what it returns."""
    fleet = fleet_of(database)

    async def called() -> T:
        async with opened(fleet):
            return await call(fleet)

    return run(called())


@asynccontextmanager
async def opened(fleet: "DurableFleet") -> AsyncGenerator[None]:
    """Have a fleet open; exit, and say why, where its database cannot be used."""
    with _failures_explained(fleet):
        with _only_errors_of_dbos():
            await fleet.__aenter__()
        try:
            yield
        finally:
            await fleet.__aexit__(None, None, None)


@contextmanager
def _only_errors_of_dbos() -> Generator[None]:
    # It warns that it does not know whether the database exists, and what follows says more.
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
        fail(f"{fleet.database} is no database's URL: {error}", ExitCode.USAGE)
    except (DatabaseUnavailable, exc.SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, DatabaseUnavailable) else error
        # The driver's own words, which name no password.
        why = " ".join(str(getattr(cause, "orig", None) or type(cause).__name__).split())
        if fleet.database.startswith("sqlite"):
            what = "it is to be a file of its own, in a folder that is there and yours to write"
        else:
            what = "look whether the server runs, and whether its host, name, user and password fit"
        fail(f"the database {fleet.database} cannot be used ({why}); {what}")
