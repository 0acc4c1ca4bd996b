"""Shared by the tests of durable jobs."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.durable.store import Database
from async_vmapi.emulator.catalogue import ZONES
from async_vmapi.facts import Fact, Facts

_numbers = itertools.count()
# As in the default facts, in a cloud that is twenty times as fast: on a busy host, a reboot may be
# over before a poll, and is then assumed complete after this time.
FACTS = Facts({"reboot.grace": Fact(3.0, "assumed")})


def requests(count, **changes):
    fields = {"cpus": 1, "ram": 1024, "zone_id": next(iter(ZONES)), "boot": ImageBoot(os="2268")}
    return [CreateRequest(name=f"w-{n:04}", **(fields | changes)) for n in range(count)]


def ids_of(report):
    report.raise_on_failure()
    return [outcome.vm_id for outcome in report.outcomes]


def most_in_flight(emulator):
    """Return how many operations were in flight in the cloud at once, at most."""
    emulator.cloud.advance(emulator.now)
    edges = []
    for operation in emulator.cloud.operations:
        edges += [(operation.accepted_at, 1), (operation.finished_at, -1)]
    return max(itertools.accumulate(step for _, step in sorted(edges)))


def new_database(server):
    name = f"fleet{next(_numbers)}"
    url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.get_uri(database=name)


def taken_by(url, executor_id, workflow_id):
    """Do what DBOS does when a worker dequeues a workflow."""
    altered(url, workflow_id, status="PENDING", executor_id=executor_id)


def altered(url, workflow_id, **values):
    """Write into a workflow's row, as DBOS does for another worker."""
    parsed, schema = sa.make_url(url), None
    if parsed.get_backend_name() == "postgresql":
        parsed, schema = parsed.set(drivername="postgresql+psycopg"), "dbos"
    columns = map(sa.column, ("workflow_uuid", *values))
    table = sa.table("workflow_status", *columns, schema=schema)
    engine = sa.create_engine(parsed)
    with engine.begin() as connection:
        row = sa.update(table).where(table.c.workflow_uuid == workflow_id)
        assert connection.execute(row.values(values)).rowcount == 1
    engine.dispose()


@contextlib.asynccontextmanager
async def opened(url):
    """Open a fleet's database beside the fleet."""
    database = Database(url)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@contextlib.contextmanager
def failing(statement, times=1_000_000):
    """Let statements that begin so fail, as if the database was unavailable."""
    left = iter(range(times))

    def away(connection, cursor, text, *_):
        if text.startswith(statement) and next(left, None) is not None:
            raise exc.OperationalError(text, {}, Exception("server closed the connection"))

    sa.event.listen(sa.Engine, "before_cursor_execute", away)
    try:
        yield left
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", away)


def everything_in(url):
    """Return all that a database holds, as bytes."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(parsed)
    found = b""
    with engine.connect() as connection:
        inspector = sa.inspect(connection)
        for schema in inspector.get_schema_names():
            if schema == "information_schema":
                continue
            for name in inspector.get_table_names(schema=schema):
                table = sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection)
                found += repr([tuple(row) for row in connection.execute(sa.select(table))]).encode()
    engine.dispose()
    if parsed.get_backend_name() == "sqlite":
        for file in Path(parsed.database).parent.glob(f"{Path(parsed.database).name}*"):
            found += file.read_bytes()
    return found


def client_of(emulator, **options):
    """Return a function that makes clients of a cloud; they poll as often as things happen."""

    def make():
        fast = {
            "max_staleness": 0.0,
            "min_poll_interval": 0.02,
            "max_poll_interval": 0.2,
            "reconcile_timeout": 2.0,
            "timeout": 3.0,
            "facts": FACTS,
        }
        return Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            **(fast | options),
        )

    return make


@contextlib.asynccontextmanager
async def at_work(fleet):
    """Run a worker in this process."""
    stop = asyncio.Event()
    worker = asyncio.create_task(fleet.work(stop))
    try:
        yield worker
    finally:
        stop.set()
        await worker


async def until(condition, seconds=120):
    """Wait for another process, or the cloud."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - no code here could set an event
            await asyncio.sleep(0.05)
