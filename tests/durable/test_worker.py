"""A worker's own decisions, beside a database that says what it is told to."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from sqlalchemy import exc

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable import DurableFleet, worker
from async_vmapi.durable import heartbeat as leases
from async_vmapi.durable.heartbeat import HEARTBEATS
from async_vmapi.durable.limits import Limits
from async_vmapi.durable.operation import CANCELLED
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

from .fleets import altered, at_work, client_of, requests, until

LIMITS = Limits(limit=None, worker_limit=None, lease_duration=15.0, polling_interval=1.0)


class Told:
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
def told():
    return Told()


@pytest.fixture
def asking(told):
    return Worker(told, lambda: None, SecretStore(), LIMITS, WorkerStats())


class TestWhatIsLost:
    async def test_what_does_not_run_is_put_back_after_some_beats(self, told, asking):
        """DBOS has given it up; once back, it is counted anew."""
        told.pending = ["op:a:0"]
        for _ in range(HEARTBEATS - 1):
            await asking._recovery.requeue_lost()
        assert told.back == []
        await asking._recovery.requeue_lost()
        assert told.back == ["op:a:0"]
        for _ in range(HEARTBEATS - 1):
            await asking._recovery.requeue_lost()
        assert told.back == ["op:a:0"]

    async def test_what_waits_among_thousands_is_not_lost(self, told, asking):
        """They are begun, or written down, a few at each beat."""
        for beat in range(8 * HEARTBEATS):
            told.pending = [f"op:a:{n}" for n in range(beat, 100)]
            await asking._recovery.requeue_lost()
        assert told.back == []

    async def test_what_is_lost_is_found_though_others_come_and_go(self, told, asking):
        """In the end nothing else can be the reason."""
        for beat in range(20 * HEARTBEATS):
            told.pending = ["op:a:0", f"op:b:{beat}"]
            await asking._recovery.requeue_lost()
        assert set(told.back) == {"op:a:0"}


@pytest.mark.looptime
class TestQuestions:
    async def test_whether_it_has_begun_before_is_not_guessed(self, told, asking):
        """A delete that has succeeded would be said to have failed."""
        told.outages, told.found.recovery_attempts = 3, 2
        assert await asking.has_begun_before()
        told.found.recovery_attempts = 1
        assert not await asking.has_begun_before()

    async def test_whether_a_job_is_stopped_is_not_guessed(self, told, asking):
        """Else an item of a cancelled job would be started while the database is away."""
        told.outages, told.found.attributes = 3, {"cancelled": True}
        assert await asyncio.gather(*(asking.stopped("a") for _ in range(9))) == [CANCELLED] * 9
        assert told.outages == 0


@pytest.fixture
async def fleet(sqlite_url, lively):
    options = {"interval": 0.05, "lease": 1.0}
    async with DurableFleet(sqlite_url, client_of(lively), **options) as fleet:
        yield fleet


def away(*_):
    raise exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))


@pytest.mark.programs
class TestWorker:
    async def test_an_item_is_taken_over_however_often(self, fleet, sqlite_url):
        """DBOS's own limit is a hundred times; then no report would tell of it."""
        job = await fleet.submit("make").create(requests(1), unique_name=True)
        spec = spec_of("create", requests(1), {"unique_name": True}, BulkPlan())
        which, text = operation_id("make", 0), encode(spec.order("make", 0))
        await fleet._database.enqueue(OPERATIONS, OPERATION_WORKFLOW, [(which, text)])
        altered(sqlite_url, which, recovery_attempts=500)
        async with at_work(fleet):
            assert (await job.report(60)).counts["succeeded"] == 1

    async def test_it_waits_for_the_database_before_it_begins(self, fleet, monkeypatch):
        """As it does later."""
        enter, calls = leases.Leases._enter, []

        def sometimes_away(self):
            calls.append(1)
            if len(calls) < 3:
                away()
            enter(self)

        monkeypatch.setattr(leases.Leases, "_enter", sometimes_away)
        job = await fleet.submit("none").reset([])
        async with at_work(fleet):
            assert (await job.report(60)).complete

    async def test_it_can_be_stopped_while_the_database_is_away(self, fleet, monkeypatch):
        """Before it could begin, and when it cannot say that it leaves."""
        with monkeypatch.context() as patch:
            patch.setattr(leases.Leases, "_leave", away)
            async with at_work(fleet):
                assert (await (await fleet.submit("none").reset([])).report(60)).complete
        monkeypatch.setattr(leases.Leases, "_enter", away)
        async with at_work(fleet):
            await asyncio.sleep(0.1)

    async def test_its_limit_may_be_more_than_that_of_all(self, sqlite_url, lively):
        """The smaller one counts."""
        options = {"interval": 0.05, "limit": 1, "worker_limit": 2}
        fleet = DurableFleet(sqlite_url, client_of(lively), **options)
        async with fleet, at_work(fleet):
            job = await fleet.submit("make").create(requests(2))
            assert (await job.report(60)).counts["succeeded"] == 2

    async def test_it_ends_wholly_however_often_it_is_cancelled(self, fleet, lively):
        """Half ended it would take workflows and do none; and no other could begin."""
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

    async def test_who_listens_in_its_process_listens_on_when_it_ends(self, fleet, lively):
        """DBOS ends the threads that it has put into the event loop."""
        told = []

        async def listen(job):
            async for event in job.events():
                told.append((event.kind, event.index))

        lively.cloud.adjust("w-*", create=40)
        job = await fleet.submit("make").create(requests(2))
        listeners = [asyncio.create_task(listen(job)) for _ in range(4)]
        async with at_work(fleet):
            await until(lambda: _in_flight(job))
        async with at_work(fleet):
            await job.report(60)
            await asyncio.gather(*listeners)
        assert sorted(told) == sorted(4 * [(k, n) for k in ("started", "finished") for n in (0, 1)])

    async def test_what_others_have_taken_over_ends_with_it(self, fleet, sqlite_url, lively):
        """It waits for what the others record, for which nobody here asks."""
        lively.cloud.adjust("w-*", create=40)
        async with at_work(fleet):
            await fleet.submit("make").create(requests(1))
            await until(lambda: _sent(lively))
            altered(sqlite_url, operation_id("make", 0), owner_xid="other", executor_id="other")
            await until(_waits_for_others)
        assert not [t for t in asyncio.all_tasks() if "_execute_workflow" in repr(t.get_coro())]


async def _in_flight(job):
    return (await job.status()).in_flight == 2


async def _sent(emulator):
    return emulator.api.requests["create"] > 0


async def _waits_for_others():
    return operation_id("make", 0) not in worker._current._running
