"""Checked, soaked and promoted rollouts: a durable job does what a bulk call does."""

import asyncio
import contextlib

import pytest

from async_vmapi import BulkPlan, InvalidState, Ready
from async_vmapi.durable import DurableFleet
from async_vmapi.emulator import Emulator, Settings

from .fleets import client_of, requests, until

pytestmark = pytest.mark.programs


@pytest.fixture
async def lively():
    """A fast cloud whose VMs have addresses of this host."""
    settings = Settings(
        create=(1, 4), reboot=(8, 16), stale=(0, 1), address=0, network="127.0.0.0/8"
    )
    async with Emulator(settings=settings, seed=1, speed=20) as emulator:
        yield emulator


@pytest.fixture
async def vms(lively):
    """Six VMs in the cloud."""
    async with client_of(lively)() as client:
        report = await client.bulk().create(requests(6))
        return [outcome.value for outcome in report.outcomes]


@contextlib.asynccontextmanager
async def serving(vms):
    """Accept connections on one port of these VMs; yield the port."""
    servers, port = [], 0
    for vm in vms:
        server = await asyncio.start_server(lambda _, w: w.close(), vm.addresses[0], port)
        servers.append(server)
        port = server.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        for server in servers:
            server.close()


def summary(report):
    return [(o.item, o.status, o.wave, o.domain, o.error) for o in report.outcomes]


async def state_of(job, state):
    async def reached():
        return (await job.status()).state == state

    await until(reached)
    return await job.status()


class TestSameOutcomes:
    async def test_as_in_a_bulk_call(self, fleet, lively, vms):
        """The VM without its service has failed, in the same wave."""
        ids = [vm.id for vm in vms]
        async with serving([*vms[:4], vms[5]]) as port:
            plan = BulkPlan(
                waves=[1, 2, "100%"],
                check=Ready.tcp(port),
                check_timeout=2.0,
                soak=0.5,
                max_failures=1,
                spread_by="zone",
            )
            async with client_of(lively)() as client:
                expected = await client.bulk(plan).reboot(ids)
            job = await fleet.submit("healthy", plan).reboot(ids)
            report = await job.report(120)
            events = [event async for event in job.events()]
        assert summary(report) == summary(expected)
        assert [o.status for o in report.outcomes] == [*["succeeded"] * 4, "failed", "succeeded"]
        assert "but the VM is not healthy" in report.outcomes[4].reason
        assert {o.domain for o in report.outcomes} == {vms[0].zone.name}
        assert [e.wave for e in events if e.kind == "soaking"] == [1, 2, 3]

    async def test_when_its_worker_dies_in_the_soak(self, database_url, lively, vms, workers):
        """Waves that have soaked do not soak again, and no VM is rebooted again."""
        ids = [vm.id for vm in vms]
        async with (
            serving(vms) as port,
            DurableFleet(database_url, polling_interval=0.05) as fleet,
        ):
            await workers.start()
            plan = BulkPlan(waves=[2, "100%"], check=Ready.tcp(port), soak=3)
            job = await fleet.submit("healthy", plan).reboot(ids)

            async def soaks_in(wave):
                status = await job.status()
                return status.soaking and status.wave == wave

            for wave in (1, 2):
                await until(lambda wave=wave: soaks_in(wave))
                await workers.kill(0)
                await workers.start()
            report = await job.report(120)
            events = [event async for event in job.events()]
        assert [o.status for o in report.outcomes] == ["succeeded"] * 6
        assert [o.wave for o in report.outcomes] == [1, 1, 2, 2, 2, 2]
        assert lively.api.requests["reboot"] == 6
        assert [e.wave for e in events if e.kind == "soaking"] == [1, 2]


class TestControl:
    async def test_a_wave_is_promoted(self, fleet, vms):
        """The status says which is held, and nothing else can be promoted."""
        ids = [vm.id for vm in vms]
        job = await fleet.submit("by-hand", waves=[1, "100%"], promote="manual").reboot(ids)
        status = await state_of(job, "held")
        assert (status.held, status.wave, status.done) == (1, 1, {"succeeded": 1})
        await job.promote()
        assert (await job.status()).state == "running"
        with pytest.raises(InvalidState, match="no wave is held"):
            await job.promote()
        assert len((await job.report(120)).succeeded) == 6
        with pytest.raises(InvalidState, match="no wave is held"):
            await job.promote()

    async def test_failures_pause_it(self, fleet, vms):
        """The status says why; the job continues when they are forgiven."""
        ids = [vm.id for vm in vms[:4]]
        async with serving(vms[2:4]) as port:
            plan = BulkPlan(
                limit=1,
                check=Ready.tcp(port),
                check_timeout=0.5,
                max_failures=1,
                on_failure="pause",
            )
            job = await fleet.submit("careful", plan).reboot(ids)
            status = await state_of(job, "paused")
            assert status.paused == "more than 1 failed"
            assert status.stopped is None
            await job.resume()
            assert (await job.status()).paused is None
            report = await job.report(120)
        assert report.counts | {"succeeded": 2, "failed": 2} == report.counts
        assert report.stopped is None

    async def test_a_paused_job_says_so(self, fleet, vms):
        job = await fleet.submit("later", limit=1).reboot([vm.id for vm in vms[:2]])
        await job.pause()
        assert (await job.status()).paused == "it was paused"
        await job.resume()
        assert len((await job.report(120)).succeeded) == 2
