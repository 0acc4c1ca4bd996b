"""What a bulk call reports of a write whose outcome is unknown, and how it resumes."""

import asyncio
from contextlib import suppress

import anyio
import attrs
import pytest

from async_vmapi import (
    BulkReport,
    Client,
    InvalidArgument,
    Outcome,
)
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings

from .test_bulk import fleet_of, least_online, now, requests, truth

pytestmark = pytest.mark.looptime

REFUSALS = [("rate_limited", None), ("success_false", None), ("refuse", 1000)]


@pytest.fixture
async def slow_client(api):
    """Its responses take two seconds."""
    async with Client.in_memory(api, latency=2, seed=1) as client:
        yield client


def dropped_then(kind, seconds, call="shutdown"):
    """The first response is lost, and all later attempts are refused."""
    return FaultPlan(
        [
            Fault(kind="drop_after", call=call, nth=(1,)),
            Fault(kind=kind, call=call, nth=tuple(range(2, 500)), seconds=seconds),
        ]
    )


async def through_json(bulk, report, *items, **start):
    return await bulk.resume(BulkReport.from_json(report.to_json()), *items, **start)


class TestRefusedAttempts:
    @pytest.mark.parametrize(("kind", "seconds"), REFUSALS)
    async def test_a_refused_retry_leaves_the_outcome_unknown(self, api, client, kind, seconds):
        """A refusal of the second attempt says nothing about the first one."""
        (vm,) = await fleet_of(client, 1)
        api.faults = dropped_then(kind, seconds)
        bulk = client.bulk()
        report = await bulk.shutdown([vm], wait_for=1)
        (outcome,) = report.outcomes
        assert (outcome.status, outcome.accepted, outcome.vm_id) == ("unknown", False, vm.id)
        assert client.resume(outcome.token).operation == "shutdown"
        api.faults = FaultPlan()
        await asyncio.sleep(1200)
        assert truth(api)[0].state == "offline"
        assert (await through_json(bulk, report)).counts["succeeded"] == 1

    @pytest.mark.parametrize(("kind", "seconds"), REFUSALS)
    async def test_unknown_vms_count_as_offline(self, api, client, kind, seconds):
        """A VM with an unknown outcome is counted as one that is offline."""
        vms = await fleet_of(client, 4)
        began = now()
        api.faults = dropped_then(kind, seconds)
        report = await client.bulk(min_online=3, limit=1).shutdown(vms, wait_for=1)
        assert report.counts == {"succeeded": 0, "failed": 0, "unknown": 1, "not_started": 3}
        await asyncio.sleep(60)
        assert least_online(api, {vm.id for vm in vms}, began) == (3, 4)

    async def test_a_refused_first_attempt_is_a_failure(self, api, client):
        """Nothing was done, so the outcome is known."""
        vms = await fleet_of(client, 2)
        api.faults.fail_next("shutdown", "success_false")
        report = await client.bulk(min_online=1, limit=1).shutdown(vms)
        assert [(o.status, o.token is None) for o in report.outcomes] == [
            ("failed", True),
            ("succeeded", True),
        ]

    async def test_a_refusal_after_cancellation_is_a_failure(self, slow_client, api):
        """The response arrived, so it is reported."""
        vms = await fleet_of(slow_client, 2)
        api.faults.fail_next("shutdown", "success_false")
        bulk = slow_client.bulk(limit=1)
        with anyio.move_on_after(1):
            await bulk.shutdown(vms)
        assert [(o.status, o.error) for o in bulk.report.outcomes] == [
            ("failed", "APIError"),
            ("not_started", None),
        ]


class TestFunctions:
    async def test_a_functions_own_timeout_leaves_the_outcome_unknown(self, api, slow_client):
        """The write that the function gave up may have been carried out."""
        vms = await fleet_of(slow_client, 1)

        async def reboot(vm):
            async with asyncio.timeout(1):
                return await slow_client.vms.reboot(vm)

        async def create(request):
            async with asyncio.timeout(1):
                return await slow_client.vms.create(request, unique_name=True)

        (outcome,) = (await slow_client.bulk().run(vms, reboot)).unknown
        assert (outcome.error, outcome.vm_id) == ("TimeoutError", vms[0].id)
        assert slow_client.resume(outcome.token).operation == "reboot"
        (outcome,) = (await slow_client.bulk().run(requests(1, "x-{}"), create)).unknown
        task = await slow_client.reconcile(outcome.token)
        assert task.vm_id == outcome.vm_id
        assert {vm.label: vm.id for vm in truth(api)}["x-0"] == task.vm_id

    async def test_a_refusal_that_a_function_received_is_final(self, api, client):
        """The outcome is the exception that the function raises."""
        vms = await fleet_of(client, 1)
        api.faults.fail_next("shutdown", "success_false")

        async def start(vm):
            try:
                await client.vms.shutdown(vm)
            except Exception as error:
                raise LookupError from error

        report = await client.bulk().run(vms, start)
        assert [(o.status, o.error) for o in report.outcomes] == [("failed", "LookupError")]

    async def test_an_acceptance_that_a_function_received_is_final(self, client):
        """The outcome is the exception that the function raises."""
        vms = await fleet_of(client, 1)

        async def start(vm):
            await client.vms.shutdown(vm)
            raise LookupError

        report = await client.bulk().run(vms, start)
        assert [(o.status, o.token) for o in report.outcomes] == [("failed", None)]

    async def test_cancellation_after_a_functions_rename(self, api, slow_client):
        """A first step that was carried out is not the whole function."""
        vms = await fleet_of(slow_client, 1)

        async def start(vm):
            await slow_client.vms.rename(vm, "new")
            return await slow_client.vms.reboot(vm)

        bulk = slow_client.bulk()
        with anyio.move_on_after(1):
            await bulk.run(vms, start)
        (outcome,) = bulk.report.unknown
        assert "rename was accepted" in outcome.reason
        report = await through_json(bulk, bulk.report, vms, start=start)
        assert report.counts["unknown"] == 1
        assert api.requests["reboot"] == 0

    async def test_cancellation_after_a_functions_task(self, api, slow_client):
        """The token of a first step does not stand for the whole when resuming."""
        vms = await fleet_of(slow_client, 1)

        async def start(vm):
            await (await slow_client.vms.shutdown(vm))
            return await slow_client.vms.resize(vm, cores=2, ram=2048)

        bulk = slow_client.bulk()
        with anyio.move_on_after(1):
            await bulk.run(vms, start)
        (outcome,) = bulk.report.unknown
        assert slow_client.resume(outcome.token).operation == "shutdown"
        assert not outcome.accepted
        report = await through_json(bulk, bulk.report, vms, start=start)
        assert report.outcomes == (outcome,)
        assert api.requests["resize"] == 0

    async def test_a_returned_task_is_watched_when_resuming(self, api, client):
        """It is the whole item, and each resumed call watches it."""
        vms = await fleet_of(client, 3)
        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.run(vms, client.vms.reboot)
        for _ in range(3):
            before = bulk.report
            assert [(o.status, o.accepted) for o in before.outcomes] == [("unknown", True)] * 3
            assert all(o.token for o in before.outcomes)
            with anyio.move_on_after(0.5):
                await through_json(bulk, before, vms, start=client.vms.reboot)
        report = await through_json(bulk, bulk.report, vms, start=client.vms.reboot)
        assert report.counts["succeeded"] == 3
        assert api.requests["reboot"] == 3

    async def test_an_unknown_create_of_a_function_keeps_its_token(self, api, client):
        """However often the report is resumed and cancelled."""
        api.faults = FaultPlan([Fault(kind="server_error", call="list", probability=1.0)])
        api.faults.fail_next("create", "drop_after")

        async def start(request):
            return await client.vms.create(request, unique_name=True)

        bulk = client.bulk()
        report = await bulk.run(requests(1), start)
        (unknown,) = report.unknown
        with anyio.move_on_after(1):
            await bulk.resume(report, start=start)
        assert bulk.report.outcomes == (unknown,)
        api.faults = FaultPlan()
        assert (await client.reconcile(unknown.token)).vm_id == truth(api)[0].id

    async def test_functions_cannot_have_a_minimum_online(self, client):
        """Whether a function takes a VM offline is not known."""
        with pytest.raises(InvalidArgument, match="by its name") as info:
            await client.bulk(min_online=1).run(["a"], client.vms.shutdown)
        assert info.value.argument == "min_online"

    async def test_resumed_functions_cannot_have_a_minimum_online(self, client):
        """The refusal loses nothing of the report."""
        vms = await fleet_of(client, 3)
        bulk = client.bulk(limit=2)
        with anyio.move_on_after(1):
            await bulk.run(vms, client.vms.shutdown)
        before = bulk.report
        bulk = client.bulk(min_online=1)
        with pytest.raises(InvalidArgument, match="by its name"):
            await bulk.resume(before, start=client.vms.shutdown)
        assert bulk.report is None or len(bulk.report.outcomes) == 3


class TestClosing:
    @pytest.mark.parametrize("operation", ["reboot", "shutdown"])
    async def test_closing_the_client_leaves_unknown_items_with_tokens(self, api, operation):
        """Requests in flight become unknown."""
        client = Client.in_memory(api, latency=0.02, seed=1)
        vms = await fleet_of(client, 3)
        api.faults = FaultPlan([Fault(kind="stall", call=operation, probability=1.0)])
        running = asyncio.create_task(client.bulk(limit=2).run(vms[:2], operation))
        await asyncio.sleep(1)
        await client.close()
        report = await running
        assert report.counts["unknown"] == 2
        assert {o.token for o in report.unknown} == {w.token for w in client.unresolved}
        assert {o.error for o in report.unknown} == {"InvalidState"}

    async def test_closing_the_client_during_a_create(self, api):
        """The VM can be found by its token later."""
        api.faults.fail_next("create", "stall", seconds=25)
        client = Client.in_memory(api, latency=0.02, seed=1)
        running = asyncio.create_task(client.bulk().create(requests(1), unique_name=True))
        await asyncio.sleep(1)
        await client.close()
        report = await running
        assert [(o.status, o.accepted) for o in report.outcomes] == [("unknown", False)]
        async with Client.in_memory(api, latency=0.02, seed=2) as other:
            report = await through_json(other.bulk(), report, requests(1))
        assert [o.vm_id for o in report.succeeded] == [vm.id for vm in truth(api)]
        assert api.requests["create"] == 1


class TestResuming:
    async def test_idempotent_writes_are_sent_again(self, api, client):
        """Those that were cancelled with an unknown outcome, for they are idempotent."""
        vms = await fleet_of(client, 2)
        api.faults = FaultPlan([Fault(kind="drop_before", call="shutdown", probability=1.0)])
        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.shutdown(vms)
        assert [(o.status, o.accepted) for o in bulk.report.outcomes] == [("unknown", False)] * 2
        api.faults = FaultPlan()
        sent, began = api.requests["shutdown"], now()
        report = await through_json(bulk, bulk.report)
        assert report.counts["succeeded"] == 2
        assert api.requests["shutdown"] == sent + 2
        assert {vm.state for vm in truth(api)} == {"offline"}
        assert now() - began < 60

    async def test_accepted_writes_are_watched(self, api, client):
        """They are not sent again, idempotent or not."""
        vms = await fleet_of(client, 2)
        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.shutdown(vms, wait_for=3)
        assert [(o.status, o.accepted) for o in bulk.report.outcomes] == [("unknown", True)] * 2
        assert (await through_json(bulk, bulk.report)).counts["succeeded"] == 2
        assert api.requests["shutdown"] == 2

    async def test_timed_out_operations_are_watched_again(self):
        """They were accepted, so they are not sent again."""
        api = CloudAPI(settings=Settings(power_on=1500), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vms = await fleet_of(client, 2)
            await client.bulk().power_off(vms)
            report = await client.bulk().power_on(vms)
            assert [(o.error, o.accepted) for o in report.outcomes] == [("TaskTimeout", True)] * 2
            await asyncio.sleep(1000)
            report = await through_json(client.bulk(), report)
            assert report.counts["succeeded"] == 2
            assert client.requests["power_on"] == 2

    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    @pytest.mark.parametrize("kind", ["drop_before", "drop_after", "stall"])
    async def test_a_reboot_or_reset_is_never_sent_again(self, api, client, operation, kind):
        """With an unknown outcome it is watched."""
        vms = await fleet_of(client, 2)
        api.faults = FaultPlan([Fault(kind=kind, call=operation, probability=1.0)])
        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.run(vms, operation)
        assert bulk.report.counts["unknown"] == 2
        api.faults = FaultPlan()
        for _ in range(2):
            report = await through_json(bulk, bulk.report)
            if kind == "drop_before":
                assert report.counts["unknown"] == 2
            assert report.counts["failed"] == 0
        assert client.requests[operation] == 2

    async def test_two_creates_of_one_name_adopt_different_vms(self, api, client):
        """By another client, too."""
        asked = requests(1) * 3
        api.faults.fail_next("create", "drop_before")
        report = await client.bulk().create(asked)
        assert [o.status for o in report.outcomes] == ["unknown", "succeeded", "succeeded"]
        async with Client.in_memory(api, latency=0.02, seed=2) as other:
            report = await through_json(other.bulk(), report, asked)
        assert [o.status for o in report.outcomes] == ["unknown", "succeeded", "succeeded"]
        assert {o.vm_id for o in report.succeeded} == {vm.id for vm in truth(api)}
        assert report.unknown[0].vm_id is None

    async def test_two_cancelled_creates_of_one_name_adopt_different_vms(self, api, client):
        """Even if one of them is known only as unknown."""
        asked = requests(1) * 2
        api.faults.fail_next("create", "drop_before")
        bulk = client.bulk()
        with anyio.move_on_after(20):
            await bulk.create(asked)
        assert bulk.report.counts["unknown"] == 2
        async with Client.in_memory(api, latency=0.02, seed=2) as other:
            report = await through_json(other.bulk(), bulk.report, asked)
        assert [o.status for o in report.outcomes] == ["unknown", "succeeded"]
        assert [vm.id for vm in truth(api)] == [report.outcomes[1].vm_id]

    async def test_a_generators_rest_stays_unknown(self, client):
        """The items that a report left off are not made up by resuming."""
        report = await client.bulk(limit=2, max_failures=0).shutdown(f"no-{n}" for n in range(9))
        assert not report.complete
        report = await through_json(client.bulk(), report)
        assert report.counts["not_started"] == 0
        assert not report.complete

    async def test_percentages_are_of_the_whole_report(self, client):
        """Not of the remaining items."""
        vms = await fleet_of(client, 36)
        items = [*vms[:33], "no-1", "no-2", *vms[33:], "no-3", "no-4"]

        def evening(event):
            if event.done.get("succeeded") == 32:
                bulk.stop("evening")

        bulk = client.bulk(limit=1, on_event=evening)
        before = await bulk.shutdown(items)
        assert before.counts["not_started"] == 8
        report = await client.bulk(limit=1, max_failures="5%").resume(before)
        assert report.counts == {"succeeded": 36, "failed": 3, "unknown": 0, "not_started": 1}
        report = await client.bulk(limit=1, max_failures="2.5%").resume(before)
        assert report.counts["failed"] == 2

    async def test_an_item_that_was_no_item(self, api, client):
        """It is named by its number, which is no VM's id."""

        def stop(event):
            if event.kind == "started":
                bulk.stop()

        bulk = client.bulk(limit=1, on_event=stop)
        report = await bulk.shutdown(item for item in ["no-0", 5])
        assert [(o.item, o.status) for o in report.outcomes] == [
            ("no-0", "failed"),
            ("1", "not_started"),
        ]
        sent = api.requests.copy()
        with pytest.raises(InvalidArgument, match="pass the items of the reported call"):
            await through_json(client.bulk(), report)
        report = await through_json(client.bulk(), report, ["no-0", 5])
        assert report.outcomes[1].error == "InvalidArgument"
        assert api.requests == sent

    async def test_resuming_needs_the_same_sequence_of_items(self, client):
        """They are found by their numbers."""
        report = await client.bulk(dry_run=True).shutdown(["a", "b"])
        with pytest.raises(InvalidArgument, match="sequence") as info:
            await client.bulk().resume(report, (item for item in ["a", "b"]))
        assert info.value.argument == "items"

    @pytest.mark.parametrize("index", [-1, 10**30, "0", None])
    def test_a_report_item_without_a_number_is_damaged(self, index):
        """JSON without it is refused."""
        outcome = Outcome(index=0, item="a", status="not_started")
        text = BulkReport(operation="shutdown", outcomes=(outcome,)).to_json()
        assert '"index":0' in text
        text = text.replace('"index":0', f'"index":{index!r}'.replace("'", '"'))
        with suppress(InvalidArgument):
            report = BulkReport.from_json(text)
            assert report.outcomes[0].index == index >= 0

    @pytest.mark.parametrize("field", ["accepted", "token", "vm_id", "adopted"])
    def test_json_keeps_what_resuming_needs(self, field):
        """A report survives the round trip."""
        outcome = Outcome(index=0, item="a", status="unknown", vm_id="v", token="t", accepted=True)
        outcome = attrs.evolve(outcome, adopted=True)
        report = BulkReport(operation="shutdown", outcomes=(outcome,), complete=False)
        again = BulkReport.from_json(report.to_json())
        assert getattr(again.outcomes[0], field) == getattr(outcome, field)
        assert again == report


class TestOnline:
    async def test_resuming_watches_despite_the_minimum_online(self, client):
        """Watching takes no VM offline."""
        vms = await fleet_of(client, 4)
        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.reboot(vms)
        report = await client.bulk(min_online="100%").resume(bulk.report)
        assert report.counts["succeeded"] == 4

    async def test_unknown_vms_are_not_online(self):
        """Lists may be stale and show them online."""
        api = CloudAPI(settings=Settings(reboot=30, stale=5), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vms = await fleet_of(client, 3)
            await asyncio.sleep(60)
            began = now()
            task = await client.vms.reboot(vms[2])
            report = BulkReport(
                operation="reboot",
                outcomes=(
                    Outcome(index=0, item=vms[0].id, status="not_started", vm_id=vms[0].id),
                    Outcome(index=1, item=vms[1].id, status="succeeded", vm_id=vms[1].id),
                    Outcome(
                        index=2,
                        item=vms[2].id,
                        status="unknown",
                        vm_id=vms[2].id,
                        token=task.token(),
                        accepted=True,
                    ),
                ),
            )
            report = await through_json(client.bulk(min_online=2), report)
            assert report.counts["failed"] == 0
            assert least_online(api, {vm.id for vm in vms}, began) == (2, 3)

    async def test_changed_vms_are_not_online(self):
        """A stale list does not override what the report has as succeeded."""
        api = CloudAPI(settings=Settings(list_lag=2, stale=0, shutdown=3), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vms = await fleet_of(client, 4)
            await asyncio.sleep(60)
            began = now()
            bulk = client.bulk(
                limit=1,
                min_online=3,
                on_event=lambda event: event.kind == "finished" and running.cancel(),
            )
            running = asyncio.create_task(bulk.shutdown(vms, wait_for=1))
            await asyncio.wait({running})
            assert bulk.report.counts["succeeded"] == 1
            await client.bulk(min_online=3).resume(bulk.report)
            assert least_online(api, {vm.id for vm in vms}, began)[0] == 3

    async def test_resuming_counts_all_vms_of_the_report(self, api, client):
        """The share is of the report; its succeeded VMs count as online."""
        vms = await fleet_of(client, 8)
        bulk = client.bulk(limit=2)
        with anyio.move_on_after(20):
            await bulk.reboot(vms)
        await asyncio.sleep(100)
        assert 0 < bulk.report.counts["not_started"] < 8
        began = now()
        report = await client.bulk(min_online="75%").resume(bulk.report)
        assert report.counts["succeeded"] == 8
        assert least_online(api, {vm.id for vm in vms}, began) == (6, 8)

    async def test_a_failed_first_list_keeps_every_item(self, api, client):
        """All are in the report, unchanged."""
        vms = await fleet_of(client, 4)
        bulk = client.bulk(limit=2, min_online=1)
        with anyio.move_on_after(1):
            await bulk.reboot(vms)
        before = bulk.report
        assert before.counts["unknown"] == 2
        api.faults = FaultPlan([Fault(kind="server_error", call="list", probability=1.0)])
        with pytest.raises(Exception, match="internal trouble"):
            await bulk.resume(before)
        assert [(o.status, o.token) for o in bulk.report.outcomes] == [
            (o.status, o.token) for o in before.outcomes
        ]
        with pytest.raises(Exception, match="internal trouble"):
            await bulk.reboot(vms)
        assert bulk.report.counts["not_started"] == 4
        assert "cannot list the VMs" in bulk.report.stopped
        api.faults = FaultPlan()
        assert (await bulk.resume(before)).counts["succeeded"] == 4

    async def test_a_cancelled_first_list_starts_nothing(self, slow_client):
        """All items are `not_started`."""
        vms = await fleet_of(slow_client, 3)
        bulk = slow_client.bulk(min_online=1)
        with anyio.move_on_after(1):
            await bulk.reboot(vms)
        assert {o.reason for o in bulk.report.not_started} == {"it was interrupted"}
        assert len(bulk.report.outcomes) == 3
