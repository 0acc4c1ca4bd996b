"""The bounds of a bulk call: a spent budget, the minimum online, outcomes that wait in a stream."""

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
    async def test_queued_requests_are_withdrawn(self, api, options, unique):
        """Not one more request is sent."""
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
    async def test_queued_requests_of_other_operations_are_withdrawn(self, api, operation):
        """The same holds for each operation."""
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

    async def test_unknown_outcomes_are_reconciled(self, api, client):
        """A write that may have been carried out is not withdrawn, but reconciled."""
        vms = await fleet_of(client, 2)
        api.faults = FaultPlan([Fault(kind="drop_after", call="shutdown", nth=(1,))])
        bulk = client.bulk(max_failures=0)
        report = await bulk.shutdown([vms[0], "no", vms[1]])
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 0}

    async def test_functions_are_not_cancelled(self, client):
        """Only the function knows what it still has to do."""

        async def start(item):
            if item == 0:
                raise LookupError
            await asyncio.sleep(5)
            return await client.vms.create(requests(1, "x")[0], unique_name=True)

        report = await client.bulk(limit=2, max_failures=0).run(range(5), start)
        assert [o.status for o in report.outcomes] == ["failed", "succeeded", *["not_started"] * 3]

    async def test_queued_requests_of_functions_are_not_withdrawn(self, api):
        """A function's own write is sent, even if it still waits for a connection."""
        async with Client.in_memory(api, latency=0.2, seed=1, max_requests_per_second=1) as client:

            async def start(request):
                return await client.vms.create(request, unique_name=True)

            api.faults.fail_next("create", "success_false")
            report = await client.bulk(limit=3, max_failures=0).run(requests(5), start)
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 2}

    async def test_a_stop_at_the_first_event_sends_nothing_more(self, client):
        """No other item was sent by then."""
        vms = await fleet_of(client, 5)
        bulk = client.bulk(limit=3, on_event=lambda event: event.kind == "started" and bulk.stop())
        report = await bulk.shutdown(vms)
        assert report.counts == {"succeeded": 1, "failed": 0, "unknown": 0, "not_started": 4}
        assert client.requests["shutdown"] == 1

    async def test_unknown_items_count_as_failures(self, api, client):
        """They spend the failure budget."""
        api.faults = FaultPlan([Fault(kind="drop_before", call="reboot", probability=1.0)])
        vms = await fleet_of(client, 6)
        report = await client.bulk(limit=1, max_failures=1).reboot(vms)
        assert report.counts == {"succeeded": 0, "failed": 0, "unknown": 2, "not_started": 4}


class TestWaves:
    async def test_failures_count_for_their_own_wave(self, client):
        """Failures of an accepted wave do not count against the next one."""
        vms = await fleet_of(client, 8)
        items = [*vms[:2], "no", *vms[2:5], *vms[5:]]
        report = await client.bulk(waves=[2], max_failures=5).reboot(items)
        assert report.counts == {"succeeded": 8, "failed": 1, "unknown": 0, "not_started": 0}

    async def test_a_canary_may_have_several_items(self, client):
        """The first wave is a canary however large it is."""
        vms = await fleet_of(client, 5)
        items = [vms[0], "no", *vms[1:]]
        report = await client.bulk(waves=[3, 100], max_failures=5).reboot(items)
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 3}


class TestRequestCounts:
    async def test_a_report_counts_the_requests_of_its_own_call(self, client):
        """Earlier requests are not counted."""
        vms = await fleet_of(client, 3)
        report = await client.bulk().shutdown(vms)
        assert report.requests["shutdown"] == 3
        assert "create" not in report.requests
        report = await client.bulk().shutdown([])
        assert report.requests == {}


class TestBackpressure:
    async def test_a_dry_run_takes_few_items_ahead(self, client):
        """It takes at most a thousand items more than may be handed out."""
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

    async def test_skipped_items_are_taken_slowly(self, client):
        """A fleet at its minimum online is not iterated at once."""
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

    async def test_a_stream_waits_for_its_consumer(self, client):
        """No more work is done while outcomes are not taken."""

        async def start(item):
            return item

        items, taken = counted(range(5000))
        async with aclosing(client.bulk(limit=7).stream(items, start)) as outcomes:
            async for _ in outcomes:
                await asyncio.sleep(1000)
                assert taken["items"] <= 1 + UNTAKEN + 7 + 1
                break

    async def test_every_outcome_of_a_long_stream_arrives(self, client):
        """They are handed out in parts."""
        report = await client.bulk(dry_run=True).shutdown(f"vm-{n}" for n in range(3500))
        assert [o.index for o in report.outcomes] == list(range(3500))
        assert report.complete


class TestMinimumOnline:
    async def test_a_dry_run_needs_one_list(self, api, client):
        """It names the VMs that would not be changed."""
        vms = await fleet_of(client, 4)
        sent = Counter(client.requests)
        report = await client.bulk(min_online=3, dry_run=True).shutdown(vms)
        assert Counter(client.requests) - sent == {"list": 1}
        assert ["fewer than 3" in o.reason for o in report.outcomes] == [False, True, True, True]
        assert report.counts["not_started"] == 4

    async def test_a_dry_run_counts_rebooted_vms_as_online(self, client):
        """VMs that come back online leave room for the others."""
        vms = await fleet_of(client, 4)
        report = await client.bulk(min_online=3, dry_run=True).reboot(vms)
        assert {o.reason for o in report.outcomes} == {"dry run: it would be started in wave 1"}
        report = await client.bulk(min_online=4, dry_run=True).reboot(vms)
        assert all("fewer than 4" in o.reason for o in report.outcomes)

    async def test_a_dry_run_of_a_resumed_report(self, client):
        """What is in flight would be watched, and is in the report."""
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
    async def test_a_vm_with_an_unknown_outcome_is_not_online(self, api, client, kind):
        """No other VM takes its place."""
        vms = await fleet_of(client, 4)
        began = now()
        api.faults = FaultPlan([Fault(kind=kind, call="reboot", probability=1.0)])
        await client.bulk(min_online=3).reboot(vms)
        least, _ = least_online(api, {vm.id for vm in vms}, began)
        assert least >= 3

    async def test_a_failed_vm_is_not_online(self, client, api):
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


class TestRequestsInFlight:
    """Requests that would only wait for a connection are not started."""

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
    async def test_requests_started_at_once_are_limited(self, api, connections, most):
        """A quarter more than there are connections, and eight at least."""
        async with Client.in_memory(
            api, latency=0.2, seed=1, max_connections=connections
        ) as client:
            assert await self.most_unaccepted(client, requests(60), "create", 60) == most
            assert client.requests["create"] == 60

    async def test_functions_are_limited_by_the_call_alone(self, api):
        """How many requests a function sends is not known."""
        async with Client.in_memory(api, latency=0.2, seed=1, max_connections=4) as client:
            assert await self.most_unaccepted(client, requests(60), client.vms.create, 60) == 60

    async def test_accepted_operations_do_not_count(self, api):
        """An accepted request makes room for the next one, long before its completion."""
        flying = []
        async with Client.in_memory(api, latency=0.2, seed=1, max_connections=4) as client:
            bulk = client.bulk(limit=50, on_event=lambda event: flying.append(event.in_flight))
            await bulk.create(requests(60))
        assert max(flying) == 50

    async def test_reconciling_holds_up_no_other_item_for_long(self):
        """Reconciling needs a list now and then, not a connection."""
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
