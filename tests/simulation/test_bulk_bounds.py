"""What a bulk call never goes beyond: a spent budget, the floor, what nobody has taken yet."""

import asyncio
from collections import Counter
from contextlib import aclosing

import pytest

from async_vmapi import Client
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings

from .test_bulk import fleet_of, least_online, now, requests

pytestmark = pytest.mark.looptime

UNTAKEN = 1000


def counted(items):
    """Iterate over items, and count how many were taken."""
    taken = Counter()

    def take():
        for item in items:
            taken["items"] += 1
            yield item

    return take(), taken


class TestSpentBudget:
    @pytest.mark.parametrize(
        "options", [{"max_connections": 5}, {"max_requests_per_second": 1.0}, {}]
    )
    @pytest.mark.parametrize("unique", [True, False])
    async def test_what_waits_for_the_wire(self, api, options, unique):
        """It is taken back, and not one more request is sent."""
        async with Client.in_memory(api, latency=0.2, seed=1, **options) as client:
            api.faults.fail_next("create", "success_false")
            sent = []

            def note(event):
                if event.kind == "stopped":
                    sent.append(client.requests["create"])

            bulk = client.bulk(limit=50, max_failures=0, on_event=note)
            report = await bulk.create(requests(60), unique_name=unique)
            assert sent == [client.requests["create"]]
            assert report.counts["failed"] == 1
            assert report.counts["succeeded"] == sent[0] - 1
            assert report.counts["unknown"] == 0
            assert {o.reason for o in report.not_started} == {"more than 0 failed"}

    @pytest.mark.parametrize("operation", ["shutdown", "reboot", "rename"])
    async def test_of_other_operations(self, api, operation):
        """Nor is another of theirs."""
        async with Client.in_memory(api, latency=0.2, seed=1, max_connections=3) as client:
            vms = await fleet_of(client, 20)
            names = {vm.id: f"new-{n}" for n, vm in enumerate(vms)}
            api.faults.fail_next(operation, "success_false")
            sent = []

            def note(event):
                if event.kind == "stopped":
                    sent.append(client.requests[operation])

            bulk = client.bulk(limit=20, max_failures=0, on_event=note)
            keywords = {"names": names} if operation == "rename" else {}
            report = await bulk.run(vms, operation, **keywords)
            assert sent == [client.requests[operation]]
            assert report.counts["not_started"] == 20 - sent[0]

    async def test_what_is_in_doubt_is_settled(self, api, client):
        """A write that may have been carried out is not taken back, but made to tell."""
        vms = await fleet_of(client, 2)
        api.faults = FaultPlan([Fault(kind="drop_after", call="shutdown", nth=(1,))])
        bulk = client.bulk(max_failures=0)
        report = await bulk.shutdown([vms[0], "no", vms[1]])
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 0}

    async def test_functions_are_not_torn(self, client):
        """What they still have to do is for them to know."""

        async def start(item):
            if item == 0:
                raise LookupError
            await asyncio.sleep(5)
            return await client.vms.create(requests(1, "x")[0], unique_name=True)

        report = await client.bulk(limit=2, max_failures=0).run(range(5), start)
        assert [o.status for o in report.outcomes] == ["failed", "succeeded", *["not_started"] * 3]

    async def test_what_a_function_has_on_its_way(self, api):
        """A write of its own is not taken back, though it still waits for the wire."""
        async with Client.in_memory(api, latency=0.2, seed=1, max_requests_per_second=1) as client:

            async def start(request):
                return await client.vms.create(request, unique_name=True)

            api.faults.fail_next("create", "success_false")
            report = await client.bulk(limit=3, max_failures=0).run(requests(5), start)
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 2}

    async def test_what_has_not_begun(self, client):
        """Who stops at the first one's event finds no other sent."""
        vms = await fleet_of(client, 5)
        bulk = client.bulk(limit=3, on_event=lambda event: event.kind == "started" and bulk.stop())
        report = await bulk.shutdown(vms)
        assert report.counts == {"succeeded": 1, "failed": 0, "unknown": 0, "not_started": 4}
        assert client.requests["shutdown"] == 1

    async def test_unknown_ones_count(self, api, client):
        """As failed ones do."""
        api.faults = FaultPlan([Fault(kind="drop_before", call="reboot", probability=1.0)])
        vms = await fleet_of(client, 6)
        report = await client.bulk(limit=1, max_failures=1).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 0, "unknown": 2, "not_started": 4}


class TestWaves:
    async def test_failures_are_of_their_wave(self, client):
        """Those of a wave that was let pass do not count against the next one."""
        vms = await fleet_of(client, 8)
        items = [*vms[:2], "no", *vms[2:5], *vms[5:]]
        report = await client.bulk(waves=[2], max_failures=5).reboot(items)
        assert report.counts == {"succeeded": 8, "failed": 1, "unknown": 0, "not_started": 0}

    async def test_a_dead_canary_of_more(self, client):
        """The first wave is a canary however large it is."""
        vms = await fleet_of(client, 5)
        items = [vms[0], "no", *vms[1:]]
        report = await client.bulk(waves=[3, 100], max_failures=5).reboot(items)
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 3}


class TestRequests:
    async def test_they_are_of_this_call(self, client):
        """Those before it are not counted."""
        vms = await fleet_of(client, 3)
        report = await client.bulk().shutdown(vms)
        assert report.requests["shutdown"] == 3
        assert "create" not in report.requests
        report = await client.bulk().shutdown([])
        assert report.requests == {}


class TestBackpressure:
    async def test_of_a_dry_run(self, client):
        """No more is taken than may be handed out, and a thousand."""
        items, taken = counted(f"vm-{n}" for n in range(20_000))
        async with aclosing(client.bulk(dry_run=True).stream(items, "reboot")) as outcomes:
            count = 0
            async for outcome in outcomes:
                count += 1
                assert outcome.status == "not_started"
                await asyncio.sleep(0)
                assert taken["items"] <= count + UNTAKEN + 1
                if count == 300:
                    break

    async def test_of_what_is_passed_over(self, client):
        """A fleet whose floor is reached is not run through at once."""
        vms = await fleet_of(client, 3)
        items, taken = [*(vm.id for vm in vms), *(f"vm-{n}" for n in range(5000))], Counter()
        bulk = client.bulk(min_online=3, limit=1, on_event=lambda event: taken.update([event.kind]))
        bulk.stop()
        async with aclosing(bulk.stream(items, "shutdown")) as outcomes:
            count = 0
            async for _ in outcomes:
                count += 1
                await asyncio.sleep(0)
                assert taken["finished"] <= count + UNTAKEN + 1
                if count == 50:
                    bulk.stop("enough")
                if count == 300:
                    break
        assert len(bulk.report.outcomes) == 5003 - 300

    async def test_of_what_has_ended(self, client):
        """Who does not take the outcomes gets no more work done."""

        async def start(item):
            return item

        items, taken = counted(range(5000))
        async with aclosing(client.bulk(limit=7).stream(items, start)) as outcomes:
            async for _ in outcomes:
                await asyncio.sleep(1000)
                assert taken["items"] <= 1 + UNTAKEN + 7 + 1
                break

    async def test_all_of_a_long_one_come(self, client):
        """Though they are handed out in parts."""
        report = await client.bulk(dry_run=True).shutdown(f"vm-{n}" for n in range(3500))
        assert [o.index for o in report.outcomes] == list(range(3500))
        assert report.complete


class TestFloor:
    async def test_a_dry_run_asks_one_list(self, api, client):
        """And says of whom it would not be done."""
        vms = await fleet_of(client, 4)
        sent = Counter(client.requests)
        report = await client.bulk(min_online=3, dry_run=True).shutdown(vms)
        assert Counter(client.requests) - sent == {"list": 1}
        assert ["fewer than 3" in o.reason for o in report.outcomes] == [False, True, True, True]
        assert report.counts["not_started"] == 4

    async def test_a_dry_run_of_what_comes_back(self, client):
        """Machines that are online again take nothing from the others."""
        vms = await fleet_of(client, 4)
        report = await client.bulk(min_online=3, dry_run=True).reboot(vms)
        assert {o.reason for o in report.outcomes} == {"dry run: it would be started in wave 1"}
        report = await client.bulk(min_online=4, dry_run=True).reboot(vms)
        assert all("fewer than 4" in o.reason for o in report.outcomes)

    async def test_dry_run_of_going_on(self, client):
        """What is in flight would be watched, and is not forgotten."""
        vms = await fleet_of(client, 3)
        bulk = client.bulk()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await bulk.shutdown(vms)
        report = await client.bulk(dry_run=True, max_failures=0).resume(bulk.report)
        assert report.stopped is None
        assert [(o.status, o.token) for o in report.outcomes] == [
            (o.status, o.token) for o in bulk.report.outcomes
        ]
        assert {o.reason for o in report.outcomes} == {"dry run: it would be watched in wave 1"}

    @pytest.mark.parametrize("kind", ["drop_after", "stall", "truncated"])
    async def test_a_machine_in_doubt_is_not_online(self, api, client, kind):
        """No other takes its place."""
        vms = await fleet_of(client, 4)
        began = now()
        api.faults = FaultPlan([Fault(kind=kind, call="reboot", probability=1.0)])
        await client.bulk(min_online=3).reboot(vms)
        least, _ = least_online(api, {vm.id for vm in vms}, began)
        assert least >= 3

    async def test_a_machine_that_failed_is_not_online(self, client, api):
        """It was seen to be gone."""
        vms = await fleet_of(client, 4)
        began = now()
        bulk = client.bulk(min_online=3, limit=4)
        running = asyncio.create_task(bulk.reboot(vms))
        await asyncio.sleep(2)
        await client.vms.delete(vms[0])
        report = await running
        assert report.outcomes[0].status == "failed"
        assert report.counts["not_started"] == 3
        assert least_online(api, {vm.id for vm in vms}, began)[0] == 3


class TestSettingOut:
    """Requests that would only wait for the wire are not begun."""

    async def most_unaccepted(self, client, items, start, limit):
        begun, most = set(), 0

        def note(event):
            nonlocal most
            if event.kind == "started":
                begun.add(event.index)
            elif event.kind in ("accepted", "finished"):
                begun.discard(event.index if event.outcome is None else event.outcome.index)
            most = max(most, len(begun))

        report = await client.bulk(limit=limit, on_event=note).run(items, start)
        assert report.counts["succeeded"] == len(report.outcomes)
        return most

    @pytest.mark.parametrize(("connections", "most"), [(4, 12), (100, 60)])
    async def test_no_more_than_keep_the_wire_busy(self, api, connections, most):
        """A quarter more than there are connections, and eight at least."""
        async with Client.in_memory(
            api, latency=0.2, seed=1, max_connections=connections
        ) as client:
            assert await self.most_unaccepted(client, requests(60), "create", 60) == most
            assert client.requests["create"] == 60

    async def test_what_a_function_does_is_its_own(self, api):
        """Nobody knows how much of it is requests."""
        async with Client.in_memory(api, latency=0.2, seed=1, max_connections=4) as client:
            assert await self.most_unaccepted(client, requests(60), client.vms.create, 60) == 60

    async def test_all_of_the_limit_are_in_flight(self, api):
        """What is accepted makes room for the next request, long before its end."""
        flying = []
        async with Client.in_memory(api, latency=0.2, seed=1, max_connections=4) as client:
            bulk = client.bulk(limit=50, on_event=lambda event: flying.append(event.in_flight))
            await bulk.create(requests(60))
        assert max(flying) == 50

    async def test_what_is_in_doubt_holds_nobody_up_for_long(self):
        """It is looked for, which needs no more than a list at times."""
        api = CloudAPI(settings=Settings(create=60, not_found=40), seed=1)
        api.faults = FaultPlan([Fault(kind="drop_after", call="create", nth=tuple(range(1, 10)))])
        began = now()
        started = []

        def note(event):
            if event.kind == "started":
                started.append(now() - began)

        async with Client.in_memory(api, latency=0.02, seed=1, max_connections=1) as client:
            report = await client.bulk(limit=20, on_event=note).create(requests(20))
        assert report.counts["succeeded"] == 20
        assert sum(outcome.adopted for outcome in report.outcomes) == 9
        assert started[8] < 1 < 4 < started[9] <= max(started) < 7
