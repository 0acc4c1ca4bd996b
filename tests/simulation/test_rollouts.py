"""Healthy rollouts: checks, soaks, promotion, failure domains and pauses, in virtual time."""

import asyncio
import itertools
from contextlib import suppress

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_vmapi import (
    BulkInterrupted,
    BulkPlan,
    BulkReport,
    CdromBoot,
    Client,
    CreateRequest,
    InvalidArgument,
    InvalidState,
    Ready,
    Reference,
    VMAPIError,
)
from async_vmapi.bulk.plan import count_of
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings
from async_vmapi.emulator.catalogue import ZONES
from tests.virtual_time import JumpingLoop

from .test_bulk import least_online, now

pytestmark = pytest.mark.looptime

OPEN = [zone for zone in ZONES.values() if zone["available"]]
ZONE, OTHER = OPEN[0]["id"], OPEN[1]["id"]
NAMES = OPEN[0]["label"], OPEN[1]["label"]
CLOUD = Settings(create=5, not_found=0, address=0, reboot=10, power_off=0)


@pytest.fixture
def api():
    """A cloud in which a reboot takes 10 s and is visible."""
    return CloudAPI(settings=CLOUD, seed=1)


def requests(count, zone=ZONE, name="w"):
    return [
        CreateRequest(name=f"{name}{n}", cpus=1, ram=512, zone_id=zone, boot=CdromBoot(iso="x"))
        for n in range(count)
    ]


async def fleet(client, *counts):
    """Return VMs of the first zone, and of the second, alternating; nothing is recent."""
    zones = [
        requests(count, zone, zone[0]) for count, zone in zip(counts, (ZONE, OTHER), strict=False)
    ]
    report = await client.bulk().create([request for zone in zones for request in zone])
    report.raise_on_failure()
    await asyncio.sleep(60)
    vms = [outcome.value for outcome in report.outcomes]
    first, second = vms[: counts[0]], vms[counts[0] :]
    mixed = [vm for pair in zip(first, second, strict=False) for vm in pair]
    return mixed + first[len(second) :] + second[len(first) :]


class Check:
    """A check that all VMs pass but some."""

    def __init__(self, *sick):
        self.sick = set(sick)
        self.calls = []

    async def __call__(self, vm):
        self.calls.append((now(), vm.id))
        return vm.id not in self.sick


class Log(list):
    """The events of a call."""

    def kinds(self, *kinds):
        return [event for event in self if event.kind in kinds]


async def knock_over(api, vm_id):
    """Turn a VM off, unknown to the client that rolls out."""
    async with Client.in_memory(api, seed=2) as other:
        await (await other.vms.power_off(vm_id))


class TestCheck:
    async def test_a_check_that_fails_in_the_second_wave_stops_the_third(self, client):
        """The VM is kept in the report; the rest is not started."""
        vms = await fleet(client, 6)
        check = Check(vms[2].id)
        bulk = client.bulk(waves=[1, 2, "100%"], check=check, check_timeout=100)
        report = await bulk.reboot(vms)
        assert [o.status for o in report.outcomes] == [
            *("succeeded", "succeeded", "failed", "not_started", "not_started", "not_started")
        ]
        failed = report.outcomes[2]
        assert failed.reason.startswith("the reboot is complete, but the VM is not healthy: ")
        assert "missing check:Check (it returned False)" in failed.reason
        assert (failed.error, failed.vm_id) == ("TaskTimeout", vms[2].id)
        assert report.stopped == "wave 2 had failures"
        with pytest.raises(ExceptionGroup):
            report.raise_on_failure()
        assert BulkReport.from_json(report.to_json()) == report

    async def test_without_a_check_the_third_wave_starts(self, client):
        """The control: nothing else fails."""
        report = await client.bulk(waves=[1, 2, "100%"]).reboot(await fleet(client, 6))
        assert report.counts["succeeded"] == 6

    async def test_failed_checks_count_towards_the_budget(self, client):
        vms = await fleet(client, 10)
        check = Check(*(vm.id for vm in vms[:3]))
        plan = BulkPlan(limit=1, check=check, check_timeout=30, max_failures=1)
        report = await client.bulk(plan).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 2, "unknown": 0, "not_started": 8}
        assert report.stopped == "more than 1 failed"

    async def test_a_vm_counts_as_online_only_once_its_check_passed(self, client):
        """The next one must not go down before."""
        vms = await fleet(client, 3)
        starts = []
        late = {}

        async def check(vm):
            return now() >= late.setdefault(vm.id, now() + 100)

        plan = BulkPlan(
            min_online=2,
            check=check,
            on_event=lambda event: event.kind == "started" and starts.append(now()),
        )
        report = await client.bulk(plan).reboot(vms)
        assert report.counts["succeeded"] == 3
        assert min(after - before for before, after in itertools.pairwise(starts)) >= 110

    async def test_a_vm_that_failed_its_check_does_not_count_as_online(self, client):
        vms = await fleet(client, 3)
        plan = BulkPlan(min_online=2, check=Check(vms[0].id), check_timeout=20)
        report = await client.bulk(plan).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 1, "unknown": 0, "not_started": 2}
        assert report.outcomes[1].reason == "fewer than 2 VMs would stay online"

    async def test_the_value_is_the_vm_that_passed(self, request_for):
        """A create returns before the address exists; the check needs it."""
        api = CloudAPI(settings=Settings(create=5, not_found=0, address=60), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            report = await client.bulk(check=Ready.address()).create([request_for()])
            assert report.succeeded[0].value.addresses
            assert report.succeeded[0].seconds < 20

    async def test_a_function_passes_the_vm_of_its_result(self, client):
        """Of a task, or a VM; without one there is nothing to check."""
        vms = await fleet(client, 3)
        check = Check(vms[1].id)

        async def start(vm):
            if vm is vms[2]:
                return "done"
            return await client.vms.get(vm.id) if vm is vms[1] else await client.vms.reboot(vm)

        report = await client.bulk(check=check, check_timeout=20).run(vms, start)
        assert [o.status for o in report.outcomes] == ["succeeded", "failed", "failed"]
        assert [o.vm_id for o in report.outcomes] == [vms[0].id, vms[1].id, None]
        assert "the function has returned, but" in report.outcomes[1].reason
        assert "neither a Task nor a VirtualMachine" in report.outcomes[2].reason

    @pytest.mark.parametrize("fields", [{"check": Ready()}, {"soak": 5}])
    @pytest.mark.parametrize("operation", ["shutdown", "power_off", "delete"])
    async def test_operations_that_leave_vms_offline_have_no_health(
        self, client, operation, fields
    ):
        with pytest.raises(InvalidArgument, match=f"{operation} takes them offline"):
            await client.bulk(**fields).run(["a"], operation)
        assert not client.requests

    async def test_an_interrupted_check_is_resumed_without_a_second_reboot(self, api, client):
        """The VM was rebooted; whether it is healthy is unknown."""
        vms = await fleet(client, 2)
        check = Check(vms[0].id)
        bulk = client.bulk(check=check, check_timeout=1000)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(200):
                await bulk.reboot(vms)
        report = BulkInterrupted.from_exception(caught.value).report
        assert [o.status for o in report.outcomes] == ["unknown", "succeeded"]
        (unknown,) = report.unknown
        assert unknown.reason == (
            "the reboot is complete, but it was interrupted before its check passed"
        )
        check.sick.clear()
        read = BulkReport.from_json(report.to_json())
        assert (await client.bulk(check=check).resume(read)).counts["succeeded"] == 2
        assert api.requests["reboot"] == 2

    async def test_a_check_that_breaks_off_shows_no_vm_unhealthy(self, api, client):
        """It is unknown, and another client checks the VM, without a second reboot."""
        vms = await fleet(client, 1)
        check = Check(vms[0].id)
        reboot = asyncio.create_task(client.bulk(check=check).reboot(vms))
        await asyncio.sleep(40)
        assert check.calls
        await client.close()
        report = await reboot
        (found,) = report.unknown
        assert found.reason.startswith("the reboot is complete, but its check broke off: ")
        assert "client was closed" in found.reason
        assert (found.accepted, found.error) == (True, "InvalidState")
        async with Client.in_memory(api, seed=2) as other:
            after = await other.bulk(check=Check()).resume(BulkReport.from_json(report.to_json()))
        assert after.counts["succeeded"] == 1
        assert [o.kind for o in api.cloud.operations] == ["create", "reboot"]

    async def test_an_unhealthy_vm_of_a_report_stays_failed(self, client):
        vms = await fleet(client, 1)
        report = await client.bulk(check=Check(vms[0].id), check_timeout=20).reboot(vms)
        assert (await client.bulk().resume(report)).counts["failed"] == 1


class TestSoak:
    async def roll_out(self, api, client, vms, fall_after, **fields):
        """Reboot in two waves, while the first VM goes down some time after its reboot."""
        log, falls = Log(), []

        def on_event(event):
            log.append((now(), event))
            if event.kind == "soaking" and fall_after is not None and not falls:
                falls.append(asyncio.create_task(self.fall(api, vms[0].id, fall_after)))

        bulk = client.bulk(waves=[2, "100%"], on_event=on_event, **fields)
        return await bulk.reboot(vms), log

    async def fall(self, api, vm_id, after):
        await asyncio.sleep(after)
        await knock_over(api, vm_id)

    async def test_it_catches_a_vm_that_falls_over_20_s_after_its_restart(self, api, client):
        vms = await fleet(client, 4)
        report, _ = await self.roll_out(api, client, vms, 20, soak=60)
        assert [o.status for o in report.outcomes] == [
            *("failed", "succeeded", "not_started", "not_started")
        ]
        assert report.stopped == "wave 1 had failures"
        failed = report.outcomes[0]
        assert failed.reason.startswith("it was healthy at first, but not ")
        assert 20 <= int(failed.reason.split(" s later")[0].rpartition(" ")[2]) <= 60
        assert "missing online" in failed.reason
        assert (failed.seconds, failed.evidence, failed.value) == (None, None, None)
        assert report.outcomes[1].reason == ""

    @pytest.mark.parametrize("soak", [0, 5])
    async def test_a_shorter_soak_does_not(self, api, client, soak):
        """The control."""
        vms = await fleet(client, 4)
        report, _ = await self.roll_out(api, client, vms, 20, soak=soak)
        assert report.counts["succeeded"] == 4

    async def test_a_vm_that_falls_over_just_before_the_end_is_caught(self):
        """The last check starts at the end; what reads hide until then, it cannot see."""
        api = CloudAPI(settings=attrs.evolve(CLOUD, stale=0), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vms = await fleet(client, 4)
            report, _ = await self.roll_out(api, client, vms, 59, soak=60)
        assert report.counts["failed"] == 1

    async def test_each_wave_soaks_and_its_successes_wait_for_that(self, api, client):
        """Also the last one."""
        vms = await fleet(client, 5)
        report, log = await self.roll_out(api, client, vms, None, soak=60)
        assert report.counts["succeeded"] == 5
        soaks = [(at, e.wave, e.reason) for at, e in log if e.kind == "soaking"]
        assert [wave for _, wave, _ in soaks] == [1, 2]
        assert soaks[1][2] == "3 VMs soak for 60 s"
        for began, wave, _ in soaks:
            finished = [at for at, e in log if e.kind == "finished" and e.wave == wave]
            assert all(began + 60 <= at <= began + 80 for at in finished)
        assert [e.in_flight for _, e in log if e.kind == "started" and e.wave == 2] == [3, 3, 3]
        assert all(e.in_flight == 0 for _, e in log if e.kind == "soaking")

    async def test_checks_are_repeated_meanwhile(self, api, client):
        """By each of them, and no more often than every 5 s."""
        vms = await fleet(client, 4)
        check = Check()
        await self.roll_out(api, client, vms, None, soak=100, check=check)
        times = [at for at, vm_id in check.calls if vm_id == vms[0].id]
        assert 6 <= len(times) <= 12
        assert min(after - before for before, after in itertools.pairwise(times[1:])) >= 5

    async def test_a_service_that_dies_is_caught(self, api, client):
        """The VM stays online."""
        vms = await fleet(client, 4)
        check = Check()
        asyncio.get_running_loop().call_later(50, check.sick.add, vms[1].id)
        report, _ = await self.roll_out(api, client, vms, None, soak=60, check=check)
        assert report.outcomes[1].status == "failed"
        assert "missing check:Check" in report.outcomes[1].reason

    async def test_a_short_failure_is_tolerated(self, api, client):
        vms = await fleet(client, 2)
        check = Check()
        loop = asyncio.get_running_loop()
        loop.call_later(60, check.sick.add, vms[1].id)
        loop.call_later(66, check.sick.discard, vms[1].id)
        report, _ = await self.roll_out(api, client, vms, None, soak=90, check=check)
        assert report.counts["succeeded"] == 2

    async def test_an_outage_of_the_api_is_no_failure_of_its_vms(self, api, client):
        """Nothing is known about them, so the soak goes on until something is."""
        vms = await fleet(client, 4)
        loop = asyncio.get_running_loop()
        outage = FaultPlan([Fault(kind="server_error", probability=1.0)], seed=1)
        loop.call_later(50, setattr, api, "faults", outage)
        loop.call_later(150, setattr, api, "faults", FaultPlan((), seed=1))
        report, log = await self.roll_out(api, client, vms, None, soak=60)
        assert report.counts["succeeded"] == 4
        assert max(at for at, e in log if e.kind == "finished" and e.wave == 1) > 150

    async def test_an_endless_outage_is_a_failure(self, api, client):
        vms = await fleet(client, 4)
        outage = FaultPlan([Fault(kind="server_error", probability=1.0)], seed=1)
        asyncio.get_running_loop().call_later(50, setattr, api, "faults", outage)
        report, _ = await self.roll_out(api, client, vms, None, soak=60, check_timeout=200)
        assert report.counts == {"succeeded": 0, "failed": 2, "unknown": 0, "not_started": 2}

    async def test_failures_count_towards_the_budget_and_min_online(self, api, client):
        """The VM that fell over is offline, so no other may go down."""
        vms = await fleet(client, 4)
        fields = {"soak": 60, "min_online": 3}
        report, _ = await self.roll_out(api, client, vms, 20, max_failures=0, **fields)
        assert report.stopped == "wave 1 had failures"
        async with Client.in_memory(api, seed=3) as other:
            await (await other.vms.power_on(vms[0].id))
            await asyncio.sleep(60)
        later = client.bulk(waves=[1, 1, 2], max_failures=1, soak=60, min_online=3)
        task = asyncio.create_task(later.reboot(vms))
        await asyncio.sleep(125)
        await knock_over(api, vms[1].id)
        report = await task
        assert [o.status for o in report.outcomes[:2]] == ["succeeded", "failed"]
        assert {o.reason for o in report.outcomes[2:]} == {"fewer than 3 VMs would stay online"}

    async def test_the_reads_may_be_old(self):
        """Until `max_staleness` after a reboot, reads may show the VM offline."""
        settings = Settings(create=5, not_found=0, address=0, reboot=10, staleness=(0, 30))
        async with Client.in_memory(
            CloudAPI(settings=settings, seed=1), seed=1, max_staleness=30
        ) as client:
            vms = await fleet(client, 4)
            report = await client.bulk(soak=60, waves=[2, "100%"]).reboot(vms)
            assert report.counts["succeeded"] == 4

    async def test_reboots_that_show_nothing_can_soak(self):
        """With ``assumed`` evidence, each check needs a read that is surely new enough."""
        settings = Settings(create=5, not_found=0, address=0, reboot_visible=False)
        async with Client.in_memory(
            CloudAPI(settings=settings, seed=1), seed=1, max_staleness=30
        ) as client:
            vms = await fleet(client, 2)
            report = await client.bulk(soak=60).reboot(vms)
            assert [o.evidence for o in report.succeeded] == ["assumed", "assumed"]

    async def test_all_vms_are_polled_together(self, client):
        """A soak of a minute costs few requests, for 100 VMs too."""
        vms = await fleet(client, 100)
        bulk = client.bulk(limit=100)
        without = sum((await bulk.reboot(vms)).requests.values())
        await asyncio.sleep(100)
        with_soak = sum((await client.bulk(limit=100, soak=60).reboot(vms)).requests.values())
        assert with_soak - without <= 40

    async def test_stop_cuts_it_short(self, api, client):
        """The VMs succeeded, and the report says what is missing."""
        vms = await fleet(client, 4)
        bulk = client.bulk(waves=[2, "100%"], soak=1000)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(300)
        bulk.stop("enough")
        report = await task
        assert report.counts == {"succeeded": 2, "failed": 0, "unknown": 0, "not_started": 2}
        assert {o.reason for o in report.succeeded} == {"its soak was cut short: enough"}
        assert now() < 400

    async def test_stop_before_the_soak_leaves_none_for_those_in_flight(self, client):
        vms = await fleet(client, 4)
        bulk = client.bulk(limit=1, soak=1000)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(40)
        bulk.stop("enough")
        report = await task
        assert report.counts["succeeded"] >= 1
        assert {o.reason for o in report.succeeded} == {"its soak was cut short: enough"}

    async def test_a_cancellation_cuts_it_short(self, client):
        vms = await fleet(client, 4)
        bulk = client.bulk(waves=[2, "100%"], soak=1000)
        with suppress(TimeoutError):
            async with asyncio.timeout(300):
                await bulk.reboot(vms)
        assert bulk.report.counts["succeeded"] == 2
        assert bulk.report.succeeded[0].reason == "its soak was cut short: it was interrupted"
        assert (await client.bulk().resume(bulk.report)).counts["succeeded"] == 4

    async def test_stop_at_its_event_leaves_none(self, client):
        vms = await fleet(client, 3)

        def stop(event):
            if event.kind == "soaking":
                bulk.stop("enough")

        bulk = client.bulk(waves=[1, "100%"], soak=1000, on_event=stop)
        began = now()
        report = await bulk.reboot(vms)
        assert now() - began < 100
        assert report.counts == {"succeeded": 1, "failed": 0, "unknown": 0, "not_started": 2}
        assert report.succeeded[0].reason == "its soak was cut short: enough"

    @pytest.mark.parametrize("error", [LookupError, asyncio.CancelledError])
    async def test_items_that_raise_lose_no_outcome(self, api, client, error):
        """The VMs before it are rebooted, soak, and are in the report."""
        vms = await fleet(client, 2)

        async def broken():
            for vm in vms:
                yield vm
            raise error

        bulk = client.bulk(waves=[5], soak=30)
        reboot = asyncio.create_task(bulk.reboot(broken()))
        await asyncio.sleep(30)
        await knock_over(api, vms[1].id)
        with pytest.raises(error):
            async with asyncio.timeout(1000):
                await reboot
        assert [o.status for o in bulk.report.outcomes] == ["succeeded", "failed"]

    async def test_a_large_wave_waits_for_its_turn_to_be_checked(self, client):
        """No VM is late because a client has only so many probes at once."""
        vms = await fleet(client, 250)
        most = []

        async def slow(vm):
            most.append(vm)
            await asyncio.sleep(12)
            return True

        report = await client.bulk(check=slow, soak=30).reboot(vms)
        assert report.counts["succeeded"] == 250
        assert len(most) >= 500

    async def test_a_closed_client_shows_no_vm_unhealthy(self, client):
        vms = await fleet(client, 1)
        reboot = asyncio.create_task(client.bulk(soak=100).reboot(vms))
        await asyncio.sleep(60)
        await client.close()
        (found,) = (await reboot).outcomes
        assert found.reason.startswith("it was healthy at first, but it could not be checked ")

    async def test_a_soak_needs_an_end(self, client):
        """A generator without waves is one endless wave."""
        with pytest.raises(InvalidArgument, match="soak needs waves"):
            await client.bulk(soak=5).reboot(iter(["a"]))
        vms = await fleet(client, 3)
        report = await client.bulk(soak=5, waves=[1, 1]).reboot(iter(vms))
        assert report.counts["succeeded"] == 3

    async def test_a_function_without_a_vm_cannot_soak(self, client):
        async def start(item):
            return item

        report = await client.bulk(soak=5).run([1], start)
        assert "neither a Task nor a VirtualMachine" in report.failed[0].reason


class TestPromote:
    async def test_manual_waits_for_ever_and_costs_no_request_meanwhile(self, client):
        vms = await fleet(client, 5)
        log = Log()
        bulk = client.bulk(waves=[1, 2, "100%"], promote="manual", on_event=log.append)
        assert bulk.held is None
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(300)
        before = dict(client.requests)
        await asyncio.sleep(30 * 86_400)
        assert dict(client.requests) == before
        assert bulk.held == 1
        (held,) = log.kinds("held")
        assert (held.wave, held.reason) == (1, "wave 1 is to be promoted")
        bulk.promote()
        report = await task
        assert report.counts["succeeded"] == 5
        assert len(log.kinds("held")) == 1
        assert bulk.held is None

    async def test_each_holds_every_wave_but_the_last(self, client):
        vms = await fleet(client, 5)
        bulk = client.bulk(waves=[1, 2], promote="each")
        task = asyncio.create_task(bulk.reboot(vms))
        held = []
        while not task.done():
            await asyncio.sleep(500)
            if bulk.held is not None:
                held.append((bulk.held, client.requests["reboot"]))
                bulk.promote()
        assert held == [(1, 1), (2, 3)]
        assert task.result().counts["succeeded"] == 5

    async def test_auto_holds_none(self, client):
        log = Log()
        await client.bulk(waves=[1, 2], on_event=log.append).reboot(await fleet(client, 3))
        assert not log.kinds("held")

    async def test_a_pause_holds_a_promoted_wave(self, client):
        """Both must be lifted, in any order."""
        vms = await fleet(client, 3)
        bulk = client.bulk(waves=[1, "100%"], promote="manual")
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(200)
        bulk.pause()
        bulk.promote()
        await asyncio.sleep(200)
        assert client.requests["reboot"] == 1
        bulk.unpause()
        assert (await task).counts["succeeded"] == 3

    async def test_the_event_itself_may_promote(self, client):
        """Without a step of the event loop in between."""
        vms = await fleet(client, 3)
        bulk = client.bulk(
            waves=[1],
            promote="each",
            on_event=lambda event: event.kind == "held" and bulk.promote(),
        )
        assert (await bulk.reboot(vms)).counts["succeeded"] == 3

    async def test_a_stop_ends_the_wait(self, client):
        vms = await fleet(client, 3)
        bulk = client.bulk(waves=[1, "100%"], promote="manual")
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(200)
        bulk.stop("enough")
        assert (await task).counts["not_started"] == 2
        assert bulk.held is None

    async def test_a_resumed_rollout_holds_again(self, client):
        """Its first wave is one of what is left."""
        vms = await fleet(client, 4)
        bulk = client.bulk(waves=[1, "100%"], promote="manual")
        with suppress(TimeoutError):
            async with asyncio.timeout(300):
                await bulk.reboot(vms)
        report = BulkReport.from_json(bulk.report.to_json())
        assert report.counts["not_started"] == 3
        task = asyncio.create_task(bulk.resume(report))
        await asyncio.sleep(300)
        assert bulk.held == 1
        bulk.promote()
        assert (await task).counts["succeeded"] == 4

    async def test_without_a_held_wave_there_is_nothing_to_promote(self, client):
        bulk = client.bulk(waves=[1, "100%"], promote="manual")
        with pytest.raises(InvalidState, match="no wave waits"):
            bulk.promote()


class TestPauseOnFailure:
    async def test_the_rollout_waits_instead_of_stopping(self, client):
        """After `unpause` it goes on; the failures so far are forgiven."""
        vms = await fleet(client, 6)
        check = Check(vms[0].id)
        log = Log()
        fields = {"check": check, "check_timeout": 30, "on_event": log.append}
        bulk = client.bulk(waves=[1, 2, "100%"], on_failure="pause", **fields)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(300)
        assert bulk.paused == "wave 1 had failures"
        before = dict(client.requests)
        await asyncio.sleep(86_400)
        assert dict(client.requests) == before
        bulk.unpause()
        report = await task
        assert report.counts == {"succeeded": 5, "failed": 1, "unknown": 0, "not_started": 0}
        assert report.stopped is None
        assert [event.reason for event in log.kinds("paused")] == ["wave 1 had failures"]
        assert bulk.paused is None

    async def test_the_budget_starts_again(self, client):
        """Two more may fail then."""
        vms = await fleet(client, 20)
        check = Check(*(vm.id for vm in vms))
        log = Log()
        fields = {"check": check, "check_timeout": 10, "on_event": log.append}
        bulk = client.bulk(limit=1, max_failures=2, on_failure="pause", **fields)
        task = asyncio.create_task(bulk.reboot(vms))
        for expected in (3, 6, 9):
            await asyncio.sleep(1000)
            assert client.requests["reboot"] == expected
            assert bulk.paused == "more than 2 failed"
            bulk.unpause()
        await asyncio.sleep(1000)
        bulk.stop()
        assert (await task).counts["failed"] == 12
        assert len(log.kinds("paused")) == 4

    async def test_a_failure_of_the_last_item_pauses_nothing(self, client):
        """There is nothing to hold back, so the call ends."""
        vms = await fleet(client, 2)
        log = Log()
        fields = {"check": Check(vms[1].id), "check_timeout": 10, "on_event": log.append}
        bulk = client.bulk(limit=1, max_failures=0, on_failure="pause", **fields)
        report = await bulk.reboot(vms)
        assert report.counts["failed"] == 1
        assert not log.kinds("paused", "stopped")

    @pytest.mark.parametrize("method", ["unpause", "stop"])
    async def test_the_event_itself_may_end_it(self, client, method):
        """Without a step of the event loop in between."""
        vms = await fleet(client, 3)
        bulk = client.bulk(
            waves=[1],
            check=Check(vms[0].id),
            check_timeout=10,
            on_failure="pause",
            on_event=lambda event: event.kind == "paused" and getattr(bulk, method)(),
        )
        report = await bulk.reboot(vms)
        assert report.counts["failed"] == 1
        assert report.counts["succeeded"] == (2 if method == "unpause" else 0)

    async def test_stop_ends_the_pause(self, client):
        vms = await fleet(client, 3)
        fields = {"check": Check(vms[0].id), "check_timeout": 10}
        bulk = client.bulk(waves=[1, "100%"], on_failure="pause", **fields)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(300)
        bulk.stop("enough")
        assert (await task).stopped == "enough"

    @pytest.mark.parametrize("on_failure", ["stop", "pause"])
    async def test_a_pause_by_hand_forgives_no_failure(self, client, on_failure):
        """The canary has failed, although the call was paused and unpaused meanwhile."""
        vms = await fleet(client, 4)
        fields = {"check": Check(vms[0].id), "check_timeout": 10, "on_failure": on_failure}
        log = Log()

        def pause_briefly(event):
            log.append(event)
            if event.kind == "finished":
                bulk.pause()
                bulk.unpause()

        bulk = client.bulk(waves=[2, "100%"], limit=1, on_event=pause_briefly, **fields)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(300)
        assert len(log.kinds("started")) == 2
        assert "wave 1 had failures" in (bulk.paused, log.kinds("stopped", "paused")[0].reason)
        bulk.stop()
        assert (await task).counts["not_started"] == 2

    async def test_one_pauses_by_hand_too(self, client):
        """`paused` shows either; one `unpause` lifts both."""
        vms = await fleet(client, 3)
        fields = {"check": Check(vms[0].id), "check_timeout": 10}
        bulk = client.bulk(waves=[1, "100%"], on_failure="pause", **fields)
        task = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(5)
        bulk.pause()
        assert bulk.paused == "it was paused"
        await asyncio.sleep(300)
        assert bulk.paused == "wave 1 had failures"
        bulk.unpause()
        assert (await task).counts["succeeded"] == 2


class TestDomains:
    async def test_one_zone_after_the_other(self, api, client):
        """In the order of their first VMs; wave numbers go on."""
        vms = await fleet(client, 4, 3)
        log = Log()
        bulk = client.bulk(spread_by="zone", waves=[1, "100%"], on_event=log.append)
        report = await bulk.reboot(vms)
        assert report.counts["succeeded"] == 7
        assert [o.index for o in report.outcomes] == [*range(7)]
        zones = {vm.id: vm.zone.name for vm in vms}
        assert all(o.domain == zones[o.item] for o in report.outcomes)
        started = [(e.wave, e.domain) for e in log.kinds("started")]
        assert started == [
            *[(1, NAMES[0])],
            *[(2, NAMES[0])] * 3,
            *[(3, NAMES[1])],
            *[(4, NAMES[1])] * 2,
        ]
        assert BulkReport.from_json(report.to_json()) == report

    async def test_without_waves_each_zone_is_one(self, client):
        vms = await fleet(client, 2, 2)
        report = await client.bulk(spread_by="zone").reboot(vms)
        assert [o.wave for o in report.outcomes] == [1, 2, 1, 2]

    async def test_ids_are_looked_up_by_one_list(self, client):
        """Together with what min_online needs."""
        vms = await fleet(client, 2, 2)
        await asyncio.sleep(60)
        report = await client.bulk(spread_by="zone", dry_run=True, min_online=1).reboot(
            [vm.id for vm in vms] + ["none-such"]
        )
        assert [o.domain for o in report.outcomes] == [*NAMES, *NAMES, "not listed"]
        assert report.requests == {"list": 1}

    async def test_vms_need_no_list(self, client):
        vms = await fleet(client, 2, 2)
        report = await client.bulk(spread_by="zone", dry_run=True).reboot(vms)
        assert report.requests == {}

    async def test_a_list_that_fails_starts_nothing(self, api, client):
        api.faults = FaultPlan([Fault(kind="success_false", probability=1.0)], seed=1)
        bulk = client.bulk(spread_by="zone")
        with pytest.raises(VMAPIError, match="refused"):
            await bulk.reboot(["a", "b"])
        assert bulk.report.counts["not_started"] == 2
        assert bulk.report.stopped.startswith("cannot list the VMs: ")

    async def test_groups_are_sets(self, client):
        """VMs of the same groups are one domain, and VMs without any."""
        vms = await fleet(client, 5)
        web, db = Reference("1", "web"), Reference("2", "db")
        groups = [(web,), (), (web, db), (db, web), (web,)]
        grouped = [attrs.evolve(vm, groups=own) for vm, own in zip(vms, groups, strict=True)]
        report = await client.bulk(spread_by="group", dry_run=True).reboot(grouped)
        assert [o.domain for o in report.outcomes] == [
            "web",
            "no group",
            "db, web",
            "db, web",
            "web",
        ]
        assert [o.wave for o in report.outcomes] == [1, 2, 3, 3, 1]

    async def test_creates_are_spread_by_their_zone(self, client):
        asked = [*requests(2), *requests(2, OTHER)]
        log = Log()
        report = await client.bulk(spread_by="zone", on_event=log.append).create(asked)
        assert [o.domain for o in report.outcomes] == [ZONE, ZONE, OTHER, OTHER]
        order = [event.kind for event in log if event.kind in ("started", "finished")]
        assert order == ["started"] * 2 + ["finished"] * 2 + ["started"] * 2 + ["finished"] * 2

    async def test_a_report_without_domains_is_resumed_by_zone(self, client):
        """Those of creates are in the requests, which JSON does not have."""
        asked = [
            request
            for pair in zip(requests(2), requests(2, OTHER), strict=True)
            for request in pair
        ]
        report = await client.bulk(dry_run=True).create(asked)
        read = BulkReport.from_json(report.to_json())
        report = await client.bulk(spread_by="zone").resume(read, asked)
        assert [o.domain for o in report.succeeded] == [ZONE, OTHER, ZONE, OTHER]
        assert [o.wave for o in report.succeeded] == [1, 2, 1, 2]

    async def test_what_cannot_be_spread_is_refused(self, client):
        async def names():
            yield "a"

        async def start(item):
            raise AssertionError

        with pytest.raises(InvalidArgument, match="a create has no group"):
            await client.bulk(spread_by="group").create(requests(1))
        with pytest.raises(InvalidArgument, match="spread_by takes a list"):
            await client.bulk(spread_by="zone").reboot(names())
        with pytest.raises(InvalidArgument, match="spread_by needs VMs"):
            await client.bulk(spread_by="zone").run(["a"], start)
        assert not client.requests

    async def test_functions_are_spread_over_vms(self, client):
        vms = await fleet(client, 1, 1)
        report = await client.bulk(spread_by="zone").run(vms, client.vms.reboot)
        assert [o.domain for o in report.outcomes] == [*NAMES]

    async def test_the_budget_is_that_of_each_domain(self, client):
        """One of each four may fail; a second one of the same zone stops everything."""
        vms = await fleet(client, 4, 4)
        first, second = vms[::2], vms[1::2]
        fields = {"spread_by": "zone", "max_failures": "25%", "limit": 1, "check_timeout": 10}
        check = Check(first[1].id, second[0].id)
        report = await client.bulk(check=check, **fields).reboot(vms)
        assert report.counts == {"succeeded": 6, "failed": 2, "unknown": 0, "not_started": 0}
        check = Check(first[0].id, first[1].id)
        report = await client.bulk(check=check, **fields).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 2, "unknown": 0, "not_started": 6}
        assert report.stopped == f"more than 25% failed in {NAMES[0]}"

    async def test_without_a_budget_a_failure_in_one_zone_keeps_the_next(self, client):
        vms = await fleet(client, 2, 2)
        report = await client.bulk(
            spread_by="zone", check=Check(vms[0].id), check_timeout=10
        ).reboot(vms)
        assert report.counts == {"succeeded": 1, "failed": 1, "unknown": 0, "not_started": 2}
        assert report.stopped == "wave 1 had failures"

    async def test_a_dry_run_shows_domains_waves_and_the_canary(self, client):
        vms = await fleet(client, 2, 2)
        fields = {"check": Ready.ssh(), "soak": 60, "promote": "each"}
        report = await client.bulk(
            spread_by="zone", waves=[1, "100%"], dry_run=True, **fields
        ).reboot(vms)
        assert [o.reason for o in report.outcomes] == [
            f"dry run: it would be started in wave 1, the canary, in {NAMES[0]}",
            f"dry run: it would be started in wave 3, in {NAMES[1]}",
            f"dry run: it would be started in wave 2, in {NAMES[0]}",
            f"dry run: it would be started in wave 4, in {NAMES[1]}",
        ]
        assert report.requests == {}

    async def test_a_zone_that_must_stay_up_is_no_wave(self, client):
        """The canary is in the next zone; nothing is held for it."""
        vms = await fleet(client, 1, 3)
        log = Log()
        plan = BulkPlan(
            spread_by="zone", min_online=1, waves=[1, "100%"], on_event=log.append, max_failures=2
        )
        for dry_run in (True, False):
            report = await client.bulk(attrs.evolve(plan, dry_run=dry_run)).reboot(vms)
            waves = {o.item: o.wave for o in report.outcomes if o.domain == NAMES[1]}
            assert sorted(waves.values()) == [1, 2, 2]
            assert report.outcomes[0].reason == "fewer than 1 VMs would stay online"
        assert [event.wave for event in log.kinds("started")] == [1, 2, 2]

    async def test_a_resumed_rollout_counts_no_unhealthy_vm_as_online(self, client):
        """A list shows it online; taking another one down would leave too few that work."""
        vms = await fleet(client, 3)

        async def check(vm):
            return vm.id != vms[0].id

        plan = BulkPlan(limit=1, min_online=2, check=check, check_timeout=30, max_failures=0)
        report = await client.bulk(plan).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 1, "unknown": 0, "not_started": 2}
        after = await client.bulk(plan).resume(report)
        assert after.counts == report.counts
        assert "fewer than 2 VMs would stay online" in after.not_started[0].reason

    async def test_a_resumed_rollout_knows_the_domains(self, api, client):
        """By a new list; percentages and minimum are of all VMs of the domain."""
        vms = await fleet(client, 4, 4)
        plan = BulkPlan(spread_by="zone", min_online="75%", waves=[1, "100%"])
        bulk = client.bulk(plan)
        with suppress(TimeoutError):
            async with asyncio.timeout(75):
                await bulk.reboot(vms)
        report = BulkReport.from_json(bulk.report.to_json())
        assert 0 < report.counts["succeeded"] < 8
        began = now()
        async with Client.in_memory(api, seed=5) as other:
            report = await other.bulk(plan).resume(report)
        assert report.counts["succeeded"] == 8
        assert api.requests["reboot"] == 8
        for zone in (vms[::2], vms[1::2]):
            assert least_online(api, {vm.id for vm in zone}, began)[0] >= 3
        assert {o.domain for o in report.outcomes} == {*NAMES}


@settings(
    max_examples=settings.default.max_examples // 4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    counts=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    minimum=st.integers(0, 5) | st.integers(0, 100).map("{}%".format),
    limit=st.integers(1, 8),
    waves=st.none() | st.lists(st.sampled_from([1, 2, "30%", "100%"]), min_size=1, max_size=3),
    operation=st.sampled_from(["reboot", "reset", "shutdown"]),
    sick=st.sets(st.integers(0, 11), max_size=2),
    soak=st.sampled_from([0, 20]),
    by_id=st.booleans(),
    seed=st.integers(0, 20),
)
def test_min_online_holds_in_each_zone(
    counts, minimum, limit, waves, operation, sick, soak, by_id, seed
):
    """At every moment, and one zone is done before the next begins."""

    async def main():
        cloud = Settings(create=5, not_found=0, address=0, reboot=(1, 20), reset=(1, 20))
        api = CloudAPI(settings=cloud, seed=seed)
        async with Client.in_memory(api, latency=0.02, seed=seed) as client:
            vms = await fleet(client, *counts)
            began = now()
            stays_down = operation == "shutdown"
            check = None if stays_down else Check(*(vms[n % len(vms)].id for n in sick))
            plan = BulkPlan(
                spread_by="zone",
                min_online=minimum,
                limit=limit,
                waves=waves,
                max_failures="50%",
                check=check,
                check_timeout=30,
                soak=0 if stays_down else soak,
            )
            items = [vm.id for vm in vms] if by_id else vms
            report = await client.bulk(plan).run(items, operation)
        spans = []
        for name in NAMES:
            ids = {vm.id for vm in vms if vm.zone.name == name}
            least, before = least_online(api, ids, began)
            assert least >= min(before, count_of(minimum, len(ids), up=True))
            done = [o for o in api.cloud.operations if o.vm_id in ids and o.accepted_at > began]
            if done:
                spans.append((min(o.accepted_at for o in done), max(o.finished_at for o in done)))
        assert len(spans) < 2 or spans[0][1] <= spans[1][0]
        assert len(report.outcomes) == len(vms)

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())


async def test_without_spread_by_a_zone_can_be_down_entirely(client, api):
    """The control of the test above: the minimum is of all VMs."""
    vms = await fleet(client, 3, 3)
    began = now()
    await client.bulk(min_online=3).reboot(sorted(vms, key=lambda vm: vm.zone.name))
    assert least_online(api, {vm.id for vm in vms if vm.zone.name == NAMES[0]}, began)[0] == 0
