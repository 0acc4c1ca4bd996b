"""A worker's own decisions, with a fake database."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable import DurableFleet
from async_vmapi.durable.heartbeat import HEARTBEATS
from async_vmapi.durable.limits import Limits
from async_vmapi.durable.operation import CANCELLED
from async_vmapi.durable.recovery import Recovery
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.durable.spec import encode, spec_of
from async_vmapi.durable.store import (
    OPERATION_WORKFLOW,
    OPERATIONS,
    DatabaseUnavailable,
    operation_id,
)
from async_vmapi.durable.worker import Worker
from async_vmapi.durable.worker_stats import WorkerStats

from .fleets import altered, at_work, client_of, failing, opened, requests, until

LIMITS = Limits(limit=None, worker_limit=None, lease_duration=15.0, polling_interval=1.0)


class FakeDatabase:
    """The database, as a worker sees it."""

    def __init__(self):
        self.pending = {}
        self.back = []
        self.outages = 0
        self.found = SimpleNamespace(attributes={}, recovery_attempts=1)

    async def pending_of(self, executor_id):
        return dict.fromkeys(self.pending, OPERATIONS)

    async def requeue(self, workflow_id, queue, executor_id):
        self.back.append(workflow_id)

    async def find(self, workflow_id):
        if self.outages:
            self.outages -= 1
            raise DatabaseUnavailable("away")
        return self.found


@pytest.fixture
def database():
    return FakeDatabase()


@pytest.fixture
def recovery(database):
    return Recovery(database, None, "worker", set())


@pytest.fixture
def asking(database):
    return Worker(database, lambda: None, SecretStore(), LIMITS, WorkerStats())


class TestLostWorkflows:
    async def test_a_workflow_that_does_not_run_is_put_back_after_some_heartbeats(
        self, database, recovery
    ):
        """DBOS has given it up; once back, counting starts again."""
        database.pending = ["op:a:0"]
        for _ in range(HEARTBEATS - 1):
            await recovery.requeue_lost()
        assert database.back == []
        await recovery.requeue_lost()
        assert database.back == ["op:a:0"]
        for _ in range(HEARTBEATS - 1):
            await recovery.requeue_lost()
        assert database.back == ["op:a:0"]

    async def test_workflows_among_thousands_are_not_lost(self, database, recovery):
        """A few at each heartbeat are begun or recorded."""
        for beat in range(8 * HEARTBEATS):
            database.pending = [f"op:a:{n}" for n in range(beat, 100)]
            await recovery.requeue_lost()
        assert database.back == []

    async def test_a_lost_workflow_is_found_though_others_come_and_go(self, database, recovery):
        """In the end nothing else can be the reason."""
        for beat in range(20 * HEARTBEATS):
            database.pending = ["op:a:0", f"op:b:{beat}"]
            await recovery.requeue_lost()
        assert set(database.back) == {"op:a:0"}


@pytest.mark.looptime
class TestQueries:
    async def test_whether_it_has_begun_before_is_not_guessed(self, database, asking):
        """A delete that has succeeded would be reported as failed."""
        database.outages, database.found.recovery_attempts = 3, 2
        assert await asking.has_begun_before()
        database.found.recovery_attempts = 1
        assert not await asking.has_begun_before()

    async def test_whether_a_job_is_stopped_is_not_guessed(self, database, asking):
        """Else an item of a cancelled job could start while the database is unavailable."""
        database.outages, database.found.attributes = 3, {"cancelled": True}
        assert await asyncio.gather(*(asking.stopped("a") for _ in range(9))) == [CANCELLED] * 9
        assert database.outages == 0


@pytest.fixture
async def fleet(sqlite_url, lively):
    options = {"polling_interval": 0.05, "lease_duration": 1.0}
    async with DurableFleet(sqlite_url, client_of(lively), **options) as fleet:
        yield fleet


@pytest.mark.programs
class TestWorker:
    async def test_an_item_is_taken_over_however_often(self, fleet, sqlite_url):
        """DBOS's own limit is a hundred times; then it would be missing in every report."""
        job = await fleet.submit("make").create(requests(1), unique_name=True)
        spec = spec_of("create", requests(1), {"unique_name": True}, BulkPlan())
        which, text = operation_id("make", 0), encode(spec.order("make", 0))
        async with opened(sqlite_url) as database:
            await database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [(which, text)])
        altered(sqlite_url, which, recovery_attempts=500)
        async with at_work(fleet):
            assert (await job.report(60)).counts["succeeded"] == 1

    async def test_it_waits_for_the_database_before_it_begins(self, fleet):
        """As it does later."""
        job = await fleet.submit("none").reset([])
        with failing("INSERT INTO async_vmapi_workers", times=2) as left:
            async with at_work(fleet):
                assert (await job.report(60)).complete
        assert list(left) == []

    async def test_it_can_be_stopped_while_the_database_is_unavailable(self, fleet):
        """Before it could register, and when it cannot deregister."""
        with failing("UPDATE async_vmapi_workers SET expired"):
            async with at_work(fleet):
                assert (await (await fleet.submit("none").reset([])).report(60)).complete
        with failing("INSERT INTO async_vmapi_workers"):
            async with at_work(fleet):
                await asyncio.sleep(0.1)

    async def test_its_limit_may_exceed_that_of_the_fleet(self, sqlite_url, lively):
        """The smaller one counts."""
        options = {"polling_interval": 0.05, "limit": 1, "worker_limit": 2}
        fleet = DurableFleet(sqlite_url, client_of(lively), **options)
        async with fleet, at_work(fleet):
            job = await fleet.submit("make").create(requests(2))
            assert (await job.report(60)).counts["succeeded"] == 2

    async def test_it_ends_completely_however_often_it_is_cancelled(self, fleet, lively):
        """Half ended it would dequeue workflows and run none; and no other could begin."""
        working = asyncio.create_task(fleet.work())
        job = await fleet.submit("make").create(requests(2))
        await until(lambda: _in_flight(job))
        for _ in range(4):
            working.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await working
        assert not [t for t in threading.enumerate() if t.name.startswith("queue-worker")]
        async with at_work(fleet):
            assert (await job.report(60)).counts["succeeded"] == 2
        assert lively.api.requests["create"] == 2

    async def test_listeners_in_its_process_continue_when_it_ends(self, fleet, lively):
        """DBOS ends the threads that it has put into the event loop."""
        events = []

        async def listen(job):
            async for event in job.events():
                events.append((event.kind, event.index))

        lively.cloud.adjust("w-*", create=40)
        job = await fleet.submit("make").create(requests(2))
        listeners = [asyncio.create_task(listen(job)) for _ in range(4)]
        async with at_work(fleet):
            await until(lambda: _in_flight(job))
        async with at_work(fleet):
            await job.report(60)
            await asyncio.gather(*listeners)
        assert sorted(events) == sorted(
            4 * [(k, n) for k in ("started", "finished") for n in (0, 1)]
        )

    async def test_items_taken_over_by_others_end_with_it(self, fleet, sqlite_url, lively):
        """It waits for what the others record, which nothing here reads."""
        lively.cloud.adjust("w-*", create=40)

        async def waits_for_others():
            return not fleet.worker_status().in_flight

        async with at_work(fleet):
            await fleet.submit("make").create(requests(1))
            await until(lambda: _sent(lively))
            altered(sqlite_url, operation_id("make", 0), owner_xid="other", executor_id="other")
            await until(waits_for_others)
        assert not [t for t in asyncio.all_tasks() if "_execute_workflow" in repr(t.get_coro())]


async def _in_flight(job):
    return (await job.status()).in_flight == 2


async def _sent(emulator):
    return emulator.api.requests["create"] > 0
