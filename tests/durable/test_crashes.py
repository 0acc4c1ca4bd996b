"""Workers as processes that are killed, stopped and resumed, and a database that goes away."""

import asyncio
import random
import signal
from collections import Counter

import pytest

from async_vmapi.durable import DurableFleet
from async_vmapi.emulator import Fault, FaultPlan

from .fleets import most_in_flight, new_database, requests, until

pytestmark = pytest.mark.programs

FAULTS = [
    Fault(kind="drop_after", probability=0.02),
    Fault(kind="drop_before", probability=0.02),
    Fault(kind="server_error", status=503, after=True, probability=0.01),
]


def machines(emulator):
    """Return how many machines there ever were of each name."""
    cloud = emulator.cloud
    cloud.advance(emulator.now)
    return Counter(vm.label for vm in [*cloud.vms.values(), *cloud.gone.values()])


class TestKilledWorkers:
    @pytest.mark.parametrize("retry", [True, False], ids=["retry", "raise"])
    async def test_every_machine_is_there_once_and_is_named(
        self, database_url, lively, workers, retry
    ):
        """Whichever worker dies, and whenever: the report is complete, and true."""
        draw = random.Random(5)
        lively.api.faults = FaultPlan(FAULTS, seed=5)
        options = {"unique_name": True, "on_unknown": "retry"} if retry else {}
        async with DurableFleet(database_url, polling_interval=0.05) as fleet:
            await workers.start(3)
            job = await fleet.submit("make", limit=8).create(requests(32), **options)
            for _ in range(2):
                before = len(lively.cloud.vms)
                await until(lambda before=before: _more(lively, job, before))
                await asyncio.sleep(draw.uniform(0, 0.3))
                await workers.kill(draw.randrange(3))
                await workers.start()
            report = await job.report(120)
            events = [event async for event in job.events()]
        assert [o.item for o in report.outcomes] == [r.name for r in requests(32)]
        there = machines(lively)
        assert set(there.values()) == {1}
        named = {o.vm_id for o in report.succeeded}
        unknown = {o.item for o in report.unknown if o.token}
        assert all(vm.id in named or vm.label in unknown for vm in lively.cloud.vms.values())
        assert not report.failed, report.failed
        assert len(report.succeeded) == 32 if retry else report.succeeded
        assert sorted(e.index for e in events if e.kind == "finished") == list(range(32))
        assert most_in_flight(lively) <= 8
        assert [code for code, _ in await workers.stop()] == [0, 0, 0]


async def _more(emulator, job, before):
    return len(emulator.cloud.vms) > before or (await job.status()).state == "finished"


class TestLimit:
    async def test_it_holds_over_all_workers(self, sqlite_url, lively, workers):
        """Counted by the cloud: never more; and by the job, as many."""
        async with DurableFleet(sqlite_url, polling_interval=0.05) as fleet:
            await workers.start(3)
            job = await fleet.submit("make", limit=6).create(requests(24))
            report = await job.report(120)
            in_flight = [event.in_flight async for event in job.events()]
        assert report.counts["succeeded"] == 24
        assert most_in_flight(lively) <= 6
        # As many as may be are asked for; how many are so at once in the cloud, the load decides.
        assert max(in_flight) == 6

    @pytest.fixture
    def database_url(self, sqlite_url):
        """What the workers of this class use."""
        return sqlite_url


class TestDrain:
    async def test_a_worker_that_is_asked_to_end_leaves_the_rest_to_others_at_once(
        self, sqlite_url, lively, workers
    ):
        """Nothing is sent twice, nothing is in doubt, and no error is written."""
        lively.cloud.adjust("w-*", create=60)
        async with DurableFleet(sqlite_url, polling_interval=0.05) as fleet:
            await workers.start()
            job = await fleet.submit("make").create(requests(6))
            await until(lambda: _sent(lively, 6))
            ((code, errors),) = await workers.stop()
            assert (code, errors) == (0, "")
            await workers.start()
            report = await job.report(120)
        assert report.counts["succeeded"] == 6
        assert lively.api.requests["create"] == 6
        assert not any(outcome.adopted for outcome in report.outcomes)

    @pytest.fixture
    def database_url(self, sqlite_url):
        """What the workers of this class use."""
        return sqlite_url


async def _sent(emulator, count):
    return emulator.api.requests["create"] >= count


class TestSuspendedWorker:
    async def test_one_that_only_seemed_dead_does_no_harm(self, database_url, lively, workers):
        """It is taken over, comes back, and finds that its work is another's."""
        lively.cloud.adjust("w-*", create=40)
        async with DurableFleet(database_url, polling_interval=0.05) as fleet:
            await workers.start()
            job = await fleet.submit("make", limit=4).create(requests(8))
            await until(lambda: _sent(lively, 4))
            workers.processes[0].send_signal(signal.SIGSTOP)
            await workers.start()
            await until(lambda: _sent(lively, 5))
            workers.processes[0].send_signal(signal.SIGCONT)
            report = await job.report(120)
        assert report.counts["succeeded"] == 8
        assert lively.api.requests["create"] == 8
        assert most_in_flight(lively) <= 4

    @pytest.fixture
    def database_url(self, postgres):
        """One that a process that stands still does not lock: of SQLite's it may hold the file."""
        return new_database(postgres)


class TestDatabaseAway:
    @pytest.fixture
    def database_url(self, postgres):
        """A server that can be stopped."""
        return new_database(postgres)

    async def test_a_job_ends_well_when_its_server_was_stopped_for_a_while(
        self, database_url, lively, workers, postgres
    ):
        """Workers and whoever waits hold on; nothing is sent twice."""
        async with DurableFleet(database_url, polling_interval=0.05) as fleet:
            await workers.start(2)
            # Else one that was about to be sent is left in doubt.
            surely = {"unique_name": True, "on_unknown": "retry"}
            job = await fleet.submit("make", limit=4).create(requests(12), **surely)
            await until(lambda: _sent(lively, 6))
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(2)
            await asyncio.to_thread(postgres.start)
            report = await job.report(120)
        assert report.counts["succeeded"] == 12
        assert set(machines(lively).values()) == {1}
