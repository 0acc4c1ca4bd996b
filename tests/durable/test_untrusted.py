"""Data that others write into the database for DBOS to run: it is refused, not decoded.

DBOS 3.4 unpickles each value whose row says ``py_pickle``, whatever serializer it was given. Every
table with a column of that name is here, and each process that reads from it.
"""

import base64
import pickle
from pathlib import Path

import pytest
import sqlalchemy as sa

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable import DurableFleet, UntrustedData
from async_vmapi.durable.rows import REFUSED
from async_vmapi.durable.spec import encode, spec_of
from async_vmapi.durable.store import OPERATION_WORKFLOW, OPERATIONS, operation_id
from async_vmapi.errors import InvalidState

from .fleets import at_work, client_of, opened, requests

pytestmark = pytest.mark.programs


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


@pytest.fixture
def sprung(tmp_path):
    return tmp_path / "sprung"


@pytest.fixture
def payload(sprung):
    return base64.b64encode(pickle.dumps(Trap(sprung))).decode()


class Tables:
    """The tables that hold values, written to with the database's password."""

    def __init__(self, url):
        parsed = sa.make_url(url)
        if postgres := parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(parsed)
        self.all = sa.MetaData(schema="dbos" if postgres else None)
        self.all.reflect(self._engine)
        self._prefix = "dbos." if postgres else ""

    def __getitem__(self, name):
        return self.all.tables[self._prefix + name]

    def with_serialization(self):
        return {table.name for table in self.all.tables.values() if "serialization" in table.c}

    def set(self, name, workflow_id=None, **values):
        """Write into a table's rows, or those of one workflow; return how many there are."""
        table = self[name]
        rows = sa.update(table).values(values)
        if workflow_id is not None:
            rows = rows.where(table.c.workflow_uuid == workflow_id)
        with self._engine.begin() as connection:
            return connection.execute(rows).rowcount

    def poison(self, name, payload, column):
        assert self.set(name, **{column: payload}, serialization="py_pickle")

    def poison_workflow(self, workflow_id, column, payload):
        """Write a workflow's arguments or result, wherever DBOS may have stored them."""
        kind = {column: payload}
        assert self.set("workflow_status", workflow_id, serialization="py_pickle", **kind)
        self.set("workflow_input" if column == "inputs" else "workflow_output", workflow_id, **kind)

    def insert(self, name, **values):
        with self._engine.begin() as connection:
            connection.execute(sa.insert(self[name]).values(values))

    def close(self):
        self._engine.dispose()


@pytest.fixture
async def fleet(database_url, lively):
    async with DurableFleet(
        database_url, client_of(lively), polling_interval=0.05, lease_duration=1.0
    ) as fleet:
        yield fleet


@pytest.fixture
def tables(fleet, database_url):
    tables = Tables(database_url)
    yield tables
    tables.close()


async def finished(fleet):
    """Run a job to completion."""
    async with at_work(fleet):
        job = await fleet.submit("make").create(requests(1))
        assert (await job.report(60)).counts["succeeded"] == 1
    return job


class TestReaders:
    async def test_requesting_a_report(self, fleet, tables, payload, sprung, caplog):
        """The error has the cause, and the log the row."""
        job = await finished(fleet)
        for column in ("inputs", "output", "error"):
            tables.poison_workflow("job:make", column, payload)
        with pytest.raises(UntrustedData, match="job:make"):
            await job.report(60)
        assert "refused a row" in caplog.text
        assert payload not in caplog.text
        # What needs no payload is still available.
        assert [status.name for status in await fleet.jobs()] == ["make"]
        assert not sprung.exists()

    async def test_submitting_again(self, fleet, tables, payload, sprung):
        """The submission is compared with the stored one."""
        await fleet.submit("make").create(requests(1))
        tables.poison_workflow("job:make", "inputs", payload)
        with pytest.raises(UntrustedData):
            await fleet.submit("make").create(requests(1))
        assert not sprung.exists()

    async def test_listening_to_events(self, fleet, tables, payload, sprung):
        """A stream's rows have serializations of their own."""
        job = await finished(fleet)
        tables.poison("streams", payload, "value")
        with pytest.raises(UntrustedData, match="an event"):
            [event async for event in job.events()]
        assert not sprung.exists()

    async def test_a_text_that_is_no_event(self, fleet, tables):
        """It is JSON, and nothing else."""
        job = await finished(fleet)
        assert tables.set("streams", value='{"a": 1}')
        with pytest.raises(UntrustedData, match="an event"):
            [event async for event in job.events()]

    async def test_everything_that_dbos_reads(self, fleet, tables, database_url, payload, sprung):
        """Also what this package never uses: events, messages, steps and a workflow's result."""
        await finished(fleet)
        given = {"workflow_uuid": "job:make", "serialization": "py_pickle"}
        for name in ("workflow_events", "workflow_events_history"):
            history = {} if name == "workflow_events" else {"function_id": 1}
            tables.insert(name, **given, key="k", value=payload, **history)
        tables.insert(
            "notifications",
            destination_uuid="job:make",
            topic="t",
            message=payload,
            message_uuid="m",
            serialization="py_pickle",
            created_at_epoch_ms=0,
        )
        tables.poison("operation_outputs", payload, "output")
        tables.poison_workflow("job:make", "output", payload)
        async with opened(database_url) as database:
            client, call = database.client, database.call
            steps = await call(client.list_workflow_steps, "job:make")
            assert {step["output"] for step in steps} == {REFUSED}
            with pytest.raises(ValueError, match="Expecting value"):
                await call(client.get_event, "job:make", "k", 0)
            with pytest.raises(ValueError, match="Expecting value"):
                await call(client.retrieve_workflow("job:make").get_result)
        assert not sprung.exists()

    def test_no_table_is_forgotten(self, fleet, tables):
        """A new table of DBOS needs a test here."""
        assert tables.with_serialization() == {
            *("workflow_status", "operation_outputs", "notifications", "streams"),
            *("workflow_events", "workflow_events_history"),
        }


class TestWorkers:
    async def test_a_job(self, fleet, tables, payload, sprung):
        """It ends with an error, and the worker continues with others."""
        job = await fleet.submit("evil").create(requests(1))
        tables.poison_workflow("job:evil", "inputs", payload)
        async with at_work(fleet):
            with pytest.raises(UntrustedData, match="job:evil"):
                await job.report(60)
            assert (await (await fleet.submit("good").reset([])).report(60)).complete
        assert not sprung.exists()

    @pytest.mark.parametrize("column", ["inputs", "output"])
    async def test_an_item(self, fleet, tables, database_url, lively, payload, sprung, column):
        """Its outcome is unknown; the plan decides about the others."""
        job = await fleet.submit("make").create(requests(2))
        spec = spec_of("create", requests(2), {}, BulkPlan())
        which, text = operation_id("make", 0), encode(spec.order("make", 0))
        async with opened(database_url) as database:
            await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [(which, text)])
        if column == "output":
            tables.set("workflow_status", which, status="SUCCESS")
        tables.poison_workflow(which, column, payload)
        async with at_work(fleet):
            report = await job.report(60)
        assert [outcome.status for outcome in report.outcomes] == ["unknown", "succeeded"]
        assert "did not write it" in report.unknown[0].reason
        assert lively.api.requests["create"] == 1
        assert not sprung.exists()

    async def test_a_step_that_another_worker_recorded(self, fleet, tables, payload, sprung):
        """It is read when the workflow begins again."""
        job = await finished(fleet)
        tables.poison("operation_outputs", payload, "output")
        tables.set("workflow_status", status="ENQUEUED", owner_xid=None)
        async with at_work(fleet):
            with pytest.raises(InvalidState, match=r"ERROR.*UntrustedData"):
                await job.report(60)
        assert not sprung.exists()
