"""What this package uses of DBOS beyond its documented API, and what to do when it disappears.

Read this when one of these fails after an update of DBOS.
"""

import inspect
import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from async_vmapi import durable
from async_vmapi.durable import DurableFleet
from async_vmapi.durable.store import JOBS, OPERATIONS, job_id

from .fleets import altered, opened

PACKAGE = Path(durable.__file__).parent


def test_there_is_one_private_use():
    """`requeue` serves recovery and takeover; each further use adds a risk."""
    uses = [
        (path.name, found)
        for path in sorted(PACKAGE.glob("*.py"))
        for found in re.findall(r"(?:DBOS|client)\._\w+\.?\w*|from dbos\._\w+", path.read_text())
    ]
    assert uses == [("store.py", "client._sys_db.reenqueue_for_recovery")]


class TestPutBack:
    """Gone? Write the UPDATE of `workflow_status` in `Database.requeue`, as it is described here.

    DBOS's public `resume_workflow` is no substitute: it takes workflows from live workers.
    """

    async def test_it_exists(self, sqlite_url):
        """With these arguments, in this order."""
        async with opened(sqlite_url) as database:
            back = database.client._sys_db.reenqueue_for_recovery  # noqa: SLF001 - the private use
        names = list(inspect.signature(back).parameters)
        assert names == ["workflow_id", "executor_ids", "recovery_queue_name"]

    @pytest.mark.parametrize(
        ("status", "owner", "then"),
        [
            ("PENDING", "gone", "ENQUEUED"),
            ("PENDING", "another", "PENDING"),
            ("SUCCESS", "gone", "SUCCESS"),
            ("CANCELLED", "gone", "CANCELLED"),
        ],
    )
    async def test_it_takes_workflows_of_one_worker_only(self, database_url, status, owner, then):
        """PENDING and still that worker's, in one statement: ENQUEUED, in its own queue."""
        async with DurableFleet(database_url) as fleet, opened(database_url) as database:
            await fleet.submit("x").reboot(["a"])
            altered(database_url, job_id("x"), status=status, executor_id=owner, owner_xid="y")
            await database.requeue(job_id("x"), JOBS, "gone")
            found = await database.find(job_id("x"))
        assert (found.status, found.queue_name) == (then, JOBS)


class TestColumns:
    """Columns of DBOS's tables that are read, or whose values are replaced, by their names.

    Renamed? Look for the old name in `store.py` and `rows.py`. For the limit of a worker, see
    whether DBOS has a setting by now, which would be better than `Rows`.
    """

    async def test_they_exist(self, database_url):
        """In SQLite and in PostgreSQL."""
        wanted = {
            "workflow_status": {"name", "executor_id", "status", "application_version"},
            "queues": {"name", "worker_concurrency"},
            "streams": {"workflow_uuid", "key", "offset", "value", "serialization"},
        }
        async with opened(database_url) as database:
            inspector = sa.inspect(database.engine)
            schema = None if database.is_sqlite else "dbos"
            for table, names in wanted.items():
                assert names <= {c["name"] for c in inspector.get_columns(table, schema=schema)}

    async def test_a_queues_limit_is_read_by_name(self, database_url):
        """Else each worker would have the limit of the one that was started last."""
        async with opened(database_url) as database:
            client = database.client
            await database.call(client.register_queue, OPERATIONS, worker_concurrency=15)
            with database.engine.connect() as connection:
                schema = "" if database.is_sqlite else "dbos."
                row = connection.execute(sa.text(f"SELECT * FROM {schema}queues")).mappings().one()
        assert (row["name"], row["worker_concurrency"]) == (OPERATIONS, 15)
