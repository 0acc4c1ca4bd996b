"""Several users and workers at once, a revoked key, and a database that disappears."""

import asyncio
import itertools
import logging
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from dbos import DBOS
from sqlalchemy import exc

from async_vmapi import AuthenticationError, InvalidState
from async_vmapi.durable import DatabaseLost, DurableFleet, coordinator
from async_vmapi.durable.store import OPERATIONS

from .fleets import altered, at_work, client_of, ids_of, most_in_flight, opened, requests, until

pytestmark = pytest.mark.programs

FAST = {"polling_interval": 0.05, "lease_duration": 1.0}


class TestUsers:
    async def test_a_cancel_is_not_lost(self, database_url):
        """However many users resume, pause and cancel a job at the same moment."""
        async with DurableFleet(database_url) as one, DurableFleet(database_url) as other:
            for number in range(25):
                name = f"job-{number}"
                job = await one.submit(name).reboot(["a"])
                theirs = await other.job(name)
                await job.pause()
                calls = (theirs.resume(), job.cancel(), theirs.pause(), job.resume())
                results = await asyncio.gather(*calls, return_exceptions=True)
                # Calls after the cancel are refused, and nothing else happens.
                assert all(r is None or isinstance(r, InvalidState) for r in results), results
                assert results[1] is None
                assert (await job.status()).state == "cancelling"


class TestLimits:
    async def test_each_worker_keeps_its_own_limit(self, sqlite_url, lively):
        """Another one, started later, may have a higher limit."""
        options = FAST | {"worker_limit": 2}
        fleet = DurableFleet(sqlite_url, client_of(lively), **options)
        async with fleet, at_work(fleet), opened(sqlite_url) as database:
            await (await fleet.submit("none").reset([])).report(60)
            # As the other one does when it begins.
            register, call = database.client.register_queue, database.call
            await call(register, OPERATIONS, worker_concurrency=15, polling_interval_sec=0.05)
            await asyncio.sleep(0.2)
            job = await fleet.submit("make", limit=15).create(requests(12))
            assert (await job.report(120)).counts["succeeded"] == 12
        assert most_in_flight(lively) == 2


class TestRefused:
    async def test_a_worker_with_a_revoked_key_stops_and_others_continue(
        self, database_url, lively, caplog
    ):
        """It would fail items as fast as it could dequeue them."""
        lively.cloud.adjust("w-*", create=40)
        async with DurableFleet(database_url, client_of(lively), **FAST) as fleet:
            working = asyncio.create_task(fleet.work())
            job = await fleet.submit("make", limit=3, max_failures=0).create(
                requests(9), unique_name=True
            )
            await until(lambda: _sent(lively, 3))
            secret, lively.api.api_secret = lively.api.api_secret, "another"
            with pytest.raises(AuthenticationError):
                await working
            assert "refuses this worker" in caplog.text
            status = await job.status()
            assert (status.done.get("failed", 0), status.stopped) == (0, None)
            lively.api.api_secret = secret
            lively.cloud.adjust("w-*", create=4)
            async with at_work(fleet):
                assert len(ids_of(await job.report(120))) == 9
        assert len(lively.cloud.vms) == 9


async def _sent(emulator, count):
    return emulator.api.requests["create"] >= count


def replaced(file):
    other = file.with_suffix(".other")
    other.touch()
    other.replace(file)


class TestDatabase:
    async def test_no_connection_for_dbos(self, database_url, lively, monkeypatch, caplog):
        """The worker logs it, waits, and starts when there is one."""
        launch, refused = DBOS.launch, []

        def without_connection():
            launch()
            if len(refused) < 2:
                refused.append(1)
                cause = Exception("FATAL: sorry,\n too many clients already")
                raise exc.OperationalError("", {}, cause)

        monkeypatch.setattr(DBOS, "launch", without_connection)
        async with DurableFleet(database_url, client_of(lively), **FAST) as fleet:
            job = await fleet.submit("none").reset([])
            async with at_work(fleet):
                assert (await job.report(60)).complete
        records = [r.getMessage() for r in caplog.records if "no connection" in r.getMessage()]
        assert len(records) == 2
        assert records[0].endswith("sorry, too many clients already")

    @pytest.mark.parametrize("how", [Path.unlink, replaced])
    async def test_a_deleted_file(self, tmp_path, lively, how):
        """SQLite itself continues with it, and the data would be lost."""
        file = tmp_path / "fleet.sqlite"
        lively.cloud.adjust("w-*", create=400)
        fleet = DurableFleet(f"sqlite:///{file}", client_of(lively), **FAST)
        async with fleet:
            working = asyncio.create_task(fleet.work())
            job = await fleet.submit("make").create(requests(2))
            await until(lambda: _sent(lively, 2))
            events = asyncio.create_task(_all(job.events()))
            await asyncio.sleep(0.1)
            how(file)
            for waiting in (working, events, asyncio.ensure_future(job.report(60))):
                with pytest.raises(DatabaseLost, match=r"fleet\.sqlite was deleted"):
                    await asyncio.wait_for(waiting, 30)


async def _all(events):
    return [event async for event in events]


class TestDurations:
    async def test_a_jobs_duration_does_not_jump_with_the_clock(
        self, sqlite_url, lively, monkeypatch
    ):
        """One worker had it from beginning to end."""
        now = time.time()
        walls = itertools.chain([now], itertools.repeat(now + 1200))
        monkeypatch.setattr(coordinator, "time", SimpleNamespace(time=lambda: next(walls)))
        fleet = DurableFleet(sqlite_url, client_of(lively), **FAST)
        async with fleet, at_work(fleet):
            report = await (await fleet.submit("make").create(requests(1))).report(60)
        assert 0 < report.seconds < 120


class TestVersions:
    async def test_a_job_of_another_version_says_what_it_waits_for(
        self, database_url, lively, caplog
    ):
        """In its status, and once in the log of each worker that skips it."""
        async with DurableFleet(database_url, client_of(lively), **FAST) as fleet:
            job = await fleet.submit("old").reset([])
            assert (await job.status()).waits_for is None
            altered(database_url, "job:old", application_version="async_vmapi durable 0")
            status = await job.status()
            assert (status.state, status.waits_for) == ("waiting", "async_vmapi durable 0")
            async with at_work(fleet):
                assert (await (await fleet.submit("new").reset([])).report(60)).complete
                await asyncio.sleep(0.5)
        records = [r for r in caplog.records if "wait for a worker of version" in r.getMessage()]
        assert [record.vmapi_version for record in records] == ["async_vmapi durable 0"]
        assert records[0].levelno == logging.WARNING
