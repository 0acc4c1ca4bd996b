"""Workers as processes that are killed, stopped and resumed, and an unavailable database."""

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


def vms(emulator):
    """Return how many VMs of each name there ever were."""
    cloud = emulator.cloud
    cloud.advance(emulator.now)
    return Counter(vm.label for vm in [*cloud.vms.values(), *cloud.gone.values()])


class TestKilledWorkers:
    @pytest.mark.parametrize("retry", [True, False], ids=["retry", "raise"])
    async def test_every_vm_exists_once_and_is_in_the_report(
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
        there = vms(lively)
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
        """By the cloud's count never more; by the job's, as many."""
        async with DurableFleet(sqlite_url, polling_interval=0.05) as fleet:
            await workers.start(3)
            job = await fleet.submit("make", limit=6).create(requests(24))
            report = await job.report(120)
            in_flight = [event.in_flight async for event in job.events()]
        assert report.counts["succeeded"] == 24
        assert most_in_flight(lively) <= 6
        # All allowed requests are sent; how many are in the cloud at once depends on the load.
        assert max(in_flight) == 6

    @pytest.fixture
    def database_url(self, sqlite_url):
        """The database of this class's workers."""
        return sqlite_url


class TestDrain:
    async def test_a_drained_worker_leaves_its_items_to_others_at_once(
        self, sqlite_url, lively, workers
    ):
        """No duplicate, no unknown outcome, and no error is logged."""
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
        """The database of this class's workers."""
        return sqlite_url


async def _sent(emulator, count):
    return emulator.api.requests["create"] >= count


class TestSuspendedWorker:
    async def test_an_expired_worker_that_returns_does_no_harm(self, database_url, lively, workers):
        """Its items were taken over, and it finds that out."""
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
        """A database that a suspended process does not lock, as it may with SQLite's file."""
        return new_database(postgres)


class TestUnavailableDatabase:
    @pytest.fixture
    def database_url(self, postgres):
        """A server that can be stopped."""
        return new_database(postgres)

    async def test_a_job_completes_after_its_server_was_stopped_for_a_while(
        self, database_url, lively, workers, postgres
    ):
        """Workers and waiting clients hold on; no duplicate is sent."""
        async with DurableFleet(database_url, polling_interval=0.05) as fleet:
            await workers.start(2)
            # Else one that was about to be sent has an unknown outcome.
            surely = {"unique_name": True, "on_unknown": "retry"}
            job = await fleet.submit("make", limit=4).create(requests(12), **surely)
            await until(lambda: _sent(lively, 6))
            await asyncio.to_thread(postgres.stop)
            await asyncio.sleep(2)
            await asyncio.to_thread(postgres.start)
            report = await job.report(120)
        assert report.counts["succeeded"] == 12
        assert set(vms(lively).values()) == {1}
