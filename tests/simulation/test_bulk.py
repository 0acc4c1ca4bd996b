"""One operation on many VMs, in virtual time."""

import asyncio
import heapq
import itertools
import logging
from collections import Counter
from contextlib import aclosing, suppress

import anyio
import attrs
import pytest

from async_vmapi import (
    BulkInterrupted,
    BulkPlan,
    BulkReport,
    Client,
    CreateRequest,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    NotFound,
)
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings
from async_vmapi.emulator.catalogue import ZONES

pytestmark = pytest.mark.looptime

WRITES = {"create", "resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off"}


def now():
    return asyncio.get_running_loop().time()


def requests(count, name="w-{:04}", **boot):
    return [
        CreateRequest(
            name=name.format(number),
            cpus=1,
            ram=1024,
            zone_id=next(iter(ZONES)),
            boot=ImageBoot(os="2268", **boot),
        )
        for number in range(count)
    ]


async def fleet_of(client, count):
    report = await client.bulk(limit=count).create(requests(count), unique_name=True)
    report.raise_on_failure()
    return [outcome.value for outcome in report.outcomes]


def truth(api):
    cloud = api.cloud
    cloud.advance(now())
    return list(cloud.vms.values())


def least_online(api, ids, since):
    """Return the fewest of these VMs online at once since some time, and how many were at first."""
    changes = [(c.at, vm.id, c.state) for vm in truth(api) if vm.id in ids for c in vm.history]
    up, counts = set(), []
    for at, vm_id, state in sorted(changes, key=lambda change: change[0]):
        if at > since and not counts:
            counts.append(len(up))
        (up.add if state == "online" else up.discard)(vm_id)
        if at > since:
            counts.append(len(up))
    return min(counts, default=len(up)), counts[0] if counts else len(up)


class TestReports:
    async def test_a_fleet_goes_through_every_operation(self, api, client):
        """Every operation takes all VMs to its target state."""
        vms = await fleet_of(client, 12)
        bulk = client.bulk(limit=5)
        for operation, end in [
            (bulk.reboot(vms), "online"),
            (bulk.reset(vms), "online"),
            (bulk.shutdown(vms, wait_for=1), "offline"),
            (bulk.power_on([vm.id for vm in vms]), "online"),
            (bulk.power_off(vms), "offline"),
        ]:
            report = await operation
            assert report.counts["succeeded"] == 12
            assert {outcome.value.state for outcome in report.outcomes} == {end}
            assert [outcome.item for outcome in report.outcomes] == [vm.id for vm in vms]
        report = await bulk.resize(vms, cores=2, ram=2048, wait_for=0)
        assert {(o.value.cores, o.value.ram) for o in report.succeeded} == {(2, 2048)}
        report = await bulk.rename({vm.id: f"new-{n}" for n, vm in enumerate(vms)})
        assert report.counts["succeeded"] == 12
        assert {vm.label for vm in await client.vms.list()} == {f"new-{n}" for n in range(12)}
        report = await bulk.delete(vms, delete_resources=True)
        assert report.counts["succeeded"] == 12
        assert report.requests["delete"] == 12
        assert await client.vms.list() == []

    async def test_a_failed_item_stops_no_other_item(self, client):
        """An item that the API refuses is in the report with its error."""
        vms = await fleet_of(client, 3)
        report = await client.bulk().shutdown([vms[0], "not-there", *vms[1:]])
        assert report.counts == {"succeeded": 3, "failed": 1, "unknown": 0, "not_started": 0}
        (failed,) = report.failed
        assert (failed.index, failed.item, failed.error) == (1, "not-there", "NotFound")
        with pytest.raises(ExceptionGroup) as info:
            report.raise_on_failure()
        assert isinstance(info.value.exceptions[0], NotFound)
        assert report.stopped is None

    async def test_items_run_through_any_function(self, client):
        """A plain result is a success, a task is awaited, an error is reported without its text."""
        vms = await fleet_of(client, 3)

        async def start(item):
            if item == 0:
                return "plain"
            if item == 1:
                raise LookupError("s3cr3t")
            return await client.vms.shutdown(vms[item])

        report = await client.bulk().run(range(3), start)
        plain, failed, shut = report.outcomes
        assert (plain.value, failed.status, shut.value.state) == ("plain", "failed", "offline")
        assert isinstance(failed.exception, LookupError)
        assert "s3cr3t" not in report.to_json()

    async def test_a_failure_state_and_a_timeout_are_reported_differently(self):
        """A state that the VM does not leave is a failure; a timeout is an unknown outcome."""
        api = CloudAPI(settings=Settings(fail_state="error", create=5), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            report = await client.bulk().create(requests(2), unique_name=True)
        assert report.counts["failed"] == 2
        assert {outcome.error for outcome in report.failed} == {"TaskFailed"}
        api = CloudAPI(settings=Settings(create=10_000), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            report = await client.bulk().create(requests(2), unique_name=True)
            assert report.counts["unknown"] == 2
            assert all(client.resume(o.token).vm_id == o.vm_id for o in report.unknown)

    async def test_a_report_holds_no_secrets(self, client):
        """Neither the report nor its JSON shows what a request holds."""
        asked = requests(2, password="s3cr3t", user_data="s3cr3t")
        report = await client.bulk().create(asked)
        assert "s3cr3t" not in report.to_json() + repr(report) + repr(report.outcomes)


class TestLimits:
    async def test_the_makespan_is_close_to_a_greedy_schedule(self):
        """A thousand operations take little longer than a schedule that knows every duration."""
        api = CloudAPI(settings=Settings(create=(30, 90)), seed=1)
        async with Client.in_memory(api, latency=0.02, min_poll_interval=1, seed=1) as client:
            began = now()
            report = await client.bulk(limit=100).create(requests(1000), unique_name=True)
            took = now() - began
        assert report.counts["succeeded"] == 1000
        creates = sorted(
            (o for o in api.cloud.operations if o.kind == "create"), key=lambda o: o.accepted_at
        )
        slots = [0.0] * 100
        for operation in creates:
            free = heapq.heappop(slots)
            heapq.heappush(slots, free + operation.finished_at - operation.accepted_at)
        print(f"{took:.1f} s, ideal {max(slots):.1f} s")
        assert took <= 1.05 * max(slots)

    async def test_items_are_taken_only_as_they_can_start(self, client):
        """A generator yields at most one item more than may start."""
        taken, in_flight, ended = 0, [], 0

        def endless():
            nonlocal taken
            for request in requests(60):
                taken += 1
                yield request

        bulk = client.bulk(limit=7, on_event=lambda event: in_flight.append(event.in_flight))
        async for outcome in bulk.stream(endless(), "create", unique_name=True):
            ended += 1
            assert outcome.status == "succeeded"
            assert taken <= ended + 7 + 1
        assert ended == 60
        assert max(in_flight) == 7

    async def test_items_come_from_an_async_iterable(self, client):
        """Items may take their time to arrive."""

        async def slowly():
            for request in requests(5):
                await asyncio.sleep(10)
                yield request

        report = await client.bulk().create(slowly(), unique_name=True)
        assert report.counts["succeeded"] == 5
        assert report.complete

    async def test_pause_lets_operations_finish_and_starts_none(self, api, client):
        """Operations in flight continue; nothing new starts before `unpause`."""
        vms = await fleet_of(client, 6)
        bulk = client.bulk(limit=2)
        running = asyncio.create_task(bulk.shutdown(vms))
        await asyncio.sleep(0.5)
        bulk.pause()
        await asyncio.sleep(1000)
        assert api.requests["shutdown"] == 2
        bulk.unpause()
        assert (await running).counts["succeeded"] == 6
        bulk.pause()
        running = asyncio.create_task(bulk.power_on(vms))
        await asyncio.sleep(100)
        assert api.requests["power_on"] == 0
        bulk.unpause()
        assert (await running).counts["succeeded"] == 6

    async def test_stop_lets_operations_finish_and_starts_none(self, client):
        """Operations in flight are watched to completion; the rest is not started."""
        vms = await fleet_of(client, 6)
        bulk = client.bulk(limit=2)
        bulk.stop()
        running = asyncio.create_task(bulk.shutdown(vms))
        await asyncio.sleep(0.5)
        bulk.stop("it is evening")
        report = await running
        assert report.counts == {"succeeded": 2, "failed": 0, "unknown": 0, "not_started": 4}
        assert report.stopped == "it is evening"
        assert {outcome.reason for outcome in report.not_started} == {"it is evening"}


class TestBudget:
    async def test_a_percentage_is_of_the_whole_fleet(self, client):
        """A percentage counts all given items, and that many may fail."""
        vms = await fleet_of(client, 40)
        mixed = list(itertools.chain(*zip(vms, [f"no-{n}" for n in range(40)], strict=True)))
        report = await client.bulk(limit=1, max_failures="5%").shutdown(mixed)
        assert report.counts == {"succeeded": 5, "failed": 5, "unknown": 0, "not_started": 70}
        assert report.stopped == "more than 5% failed"

    async def test_a_percentage_without_a_length_is_of_started_items(self, client):
        """A generator has no length; items after the budget is spent are not taken."""
        ids = (f"no-{n}" for n in range(1000))
        report = await client.bulk(limit=10, max_failures="50%").shutdown(ids)
        assert report.counts["failed"] == 10
        assert not report.complete
        assert next(ids) == "no-11"

    async def test_operations_in_flight_are_watched_after_the_budget_is_spent(self, client):
        """The failure that spends the budget cancels no other operation."""
        vms = await fleet_of(client, 9)
        report = await client.bulk(limit=10, max_failures=0).shutdown([*vms[:5], "no", *vms[5:]])
        assert report.counts["failed"] == 1
        assert report.counts["succeeded"] + report.counts["not_started"] == 9
        assert report.counts["unknown"] == 0


class TestWaves:
    async def test_waves_follow_each_other(self, client):
        """A wave starts when the previous one is complete."""
        vms = await fleet_of(client, 20)
        began, ended = {}, {}

        def note(event):
            if event.kind == "started":
                began.setdefault(event.wave, now())
            elif event.kind == "finished":
                ended[event.wave] = now()

        report = await client.bulk(waves=[1, "20%", "100%"], on_event=note).reboot(vms)
        assert Counter(o.wave for o in report.outcomes) == {1: 1, 2: 4, 3: 15}
        assert ended[1] <= began[2] < ended[2] <= began[3]

    async def test_a_failed_canary_stops_the_call(self, client):
        """After a failed first wave nothing starts, whatever the budget allows."""
        vms = await fleet_of(client, 10)
        report = await client.bulk(waves=[1, 100], max_failures=5).reboot(["no", *vms])
        assert report.counts == {"succeeded": 0, "failed": 1, "unknown": 0, "not_started": 10}
        assert report.stopped == "wave 1 had failures"

    async def test_later_waves_continue_within_the_budget(self, client):
        """With a budget they continue after a failure; without one they stop."""
        vms = await fleet_of(client, 9)
        mixed = [*vms[:3], "no", *vms[3:]]
        report = await client.bulk(waves=[2], max_failures=1).reboot(mixed)
        assert report.counts["succeeded"] == 9
        report = await client.bulk(waves=[2]).reboot(mixed)
        assert report.counts["not_started"] == 6

    async def test_percentage_waves_need_a_length(self, client):
        """They are refused at once for a generator."""
        with pytest.raises(InvalidArgument, match="length"):
            await client.bulk(waves=["10%"]).reboot(vm for vm in [])


class TestOnline:
    @pytest.mark.parametrize("operation", ["reboot", "reset", "shutdown"])
    async def test_the_minimum_stays_online(self, api, client, operation):
        """The call never takes the count of online VMs below the minimum."""
        vms = await fleet_of(client, 12)
        began = now()
        report = await client.bulk(min_online="75%").run(vms, operation)
        least, _ = least_online(api, {vm.id for vm in vms}, began)
        assert least >= 9
        if operation == "shutdown":
            assert report.counts == {
                "succeeded": 3,
                "failed": 0,
                "unknown": 0,
                "not_started": 9,
            }
            assert "fewer than 9" in report.not_started[0].reason
        else:
            assert report.counts["succeeded"] == 12

    async def test_an_offline_vm_may_always_be_changed(self, client):
        """It does not lower the count of online VMs."""
        vms = await fleet_of(client, 4)
        await client.bulk().shutdown(vms[:2])
        report = await client.bulk(min_online=2).resize(vms, cores=2, ram=2048)
        assert [outcome.status for outcome in report.outcomes] == ["succeeded"] * 2 + [
            "not_started"
        ] * 2

    async def test_a_refused_vm_still_counts_as_online(self, api, client):
        """A refusal leaves room for the others."""
        vms = await fleet_of(client, 3)
        api.faults.fail_next("reboot", "success_false")
        report = await client.bulk(min_online=2).reboot(vms)
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 0, "not_started": 0}

    async def test_the_minimum_online_needs_items_with_a_length(self, client):
        """The online VMs must be known before the first operation."""

        async def later():
            yield "x"

        with pytest.raises(InvalidArgument, match="min_online"):
            await client.bulk(min_online=1).reboot(later())


class TestDryRun:
    async def test_a_dry_run_sends_nothing(self, api, client):
        """It reports what would be done, and in which wave."""
        vms = await fleet_of(client, 10)
        sent = api.requests.copy()
        bulk = client.bulk(dry_run=True, waves=[1, "50%"])
        report = await bulk.shutdown(vms)
        assert api.requests == sent
        assert report.dry_run
        assert Counter(o.wave for o in report.not_started) == {1: 1, 2: 5, 3: 4}
        with pytest.raises(InvalidArgument):
            await bulk.resize(vms, cores=0, ram=1)


class TestInterruption:
    @pytest.mark.parametrize("at", [0, 0.005, 0.01, 0.03, 0.5, 20, 45, 62, 110])
    async def test_creates_can_be_interrupted_at_any_moment(self, api, client, at):
        """Every VM of the cloud is in the report; creates that were not sent are `not_started`."""
        bulk = client.bulk(limit=20)
        asked = requests(30)
        with pytest.raises(TimeoutError) as info:
            async with asyncio.timeout(at):
                await bulk.create(asked, unique_name=True)
        report = BulkInterrupted.from_exception(info.value).report
        assert report == bulk.report
        assert sorted(o.index for o in report.outcomes) == list(range(30))
        assert api.requests["create"] == len(truth(api))
        known = {o.vm_id for o in [*report.succeeded, *report.unknown]}
        assert known == {vm.id for vm in truth(api)}
        assert all(o.token for o in report.unknown)
        report = await client.bulk(limit=20).resume(report)
        assert report.counts["succeeded"] == 30
        assert {o.vm_id for o in report.succeeded} == {vm.id for vm in truth(api)}
        assert api.requests["create"] == 30

    @pytest.mark.parametrize("at", [0.005, 0.03, 3, 30])
    async def test_a_report_from_json_resumes_in_another_process(self, api, client, at):
        """Unknown items are watched, items not started are started."""
        vms = await fleet_of(client, 10)
        bulk = client.bulk(limit=4)
        with anyio.move_on_after(at):
            await bulk.shutdown(vms, wait_for=1)
        text = bulk.report.to_json()
        async with Client.in_memory(api, latency=0.02, seed=2) as other:
            bulk = other.bulk()
            with pytest.raises(InvalidArgument, match="BulkReport"):
                await bulk.resume("x")
            report = await bulk.resume(BulkReport.from_json(text))
        assert report.counts["succeeded"] == 10
        assert {vm.state for vm in await client.vms.list()} == {"offline"}

    async def test_resuming_creates_from_json_needs_their_requests(self, client):
        """JSON holds no requests, so they must be given again, unchanged."""
        bulk = client.bulk(limit=2)
        with anyio.move_on_after(1):
            await bulk.create(requests(4), unique_name=True)
        report = BulkReport.from_json(bulk.report.to_json())
        with pytest.raises(InvalidArgument, match="pass the items of the reported call"):
            await bulk.resume(report)
        with pytest.raises(InvalidArgument, match="in the report"):
            await bulk.resume(report, requests(4, "x-{}"))
        with pytest.raises(InvalidArgument, match="number 3"):
            await bulk.resume(report, requests(3))
        report = await bulk.resume(report, requests(4))
        assert report.counts["succeeded"] == 4

    async def test_resuming_a_run_needs_its_function(self, client):
        """Items with a token are watched."""
        vms = await fleet_of(client, 4)
        bulk = client.bulk(limit=2)
        with anyio.move_on_after(1):
            await bulk.run(vms, client.vms.shutdown)
        report = bulk.report
        with pytest.raises(InvalidArgument, match="function"):
            await bulk.resume(report)
        report = await bulk.resume(report, start=client.vms.shutdown)
        assert report.counts["succeeded"] == 4

    async def test_an_interrupted_function_is_not_called_again(self, client):
        """What it has done is not known."""

        async def start(item):
            await asyncio.sleep(100)

        bulk = client.bulk(limit=1)
        with anyio.move_on_after(1):
            await bulk.run([1, 2], start)
        assert [o.status for o in bulk.report.outcomes] == ["unknown", "not_started"]
        report = await bulk.resume(bulk.report, start=start)
        assert [o.status for o in report.outcomes] == ["unknown", "succeeded"]

    async def test_a_second_cancellation_leaves_at_once(self):
        """Requests in flight are in the report, with a token to resume."""
        api = CloudAPI(seed=1)
        async with Client.in_memory(api, latency=8, seed=1) as client:
            bulk = client.bulk()
            running = asyncio.create_task(bulk.create(requests(3), unique_name=True))
            await asyncio.sleep(5)
            running.cancel()
            await asyncio.sleep(1)
            assert not running.done()
            running.cancel()
            await asyncio.sleep(0.01)
            assert running.done()
            with pytest.raises(asyncio.CancelledError) as info:
                await running
            report = BulkInterrupted.from_exception(info.value).report
            assert report.counts["unknown"] == 3
            assert all(o.token in str(BulkInterrupted(report)) for o in report.unknown)
            await asyncio.sleep(20)
            tasks = [await client.reconcile(o.token) for o in report.unknown]
            assert {task.vm_id for task in tasks} == {vm.id for vm in truth(api)}

    async def test_leaving_a_stream_stops_its_work(self, api, client):
        """No operation continues in the background."""
        bulk = client.bulk(limit=5)
        async with aclosing(bulk.stream(requests(20), "create", unique_name=True)) as outcomes:
            async for outcome in outcomes:
                assert outcome.status == "succeeded"
                break
        assert {o.status for o in bulk.report.outcomes} <= {"unknown", "not_started", "succeeded"}
        assert len(bulk.report.outcomes) == 19
        sent = api.requests.total()
        await asyncio.sleep(100)
        assert api.requests.total() == sent

    async def test_cancellation_does_not_wait_for_an_async_iterable(self, client):
        """The next item may never come."""

        async def never():
            yield requests(1)[0]
            await asyncio.Event().wait()

        bulk = client.bulk()
        with anyio.move_on_after(200):
            await bulk.create(never(), unique_name=True)
        assert bulk.report.counts["succeeded"] == 1
        assert not bulk.report.complete

    async def test_an_iterable_that_raises(self, client):
        """Its error is raised when the started items are complete; the report is on it."""

        def broken():
            yield requests(1)[0]
            raise LookupError("broken")

        bulk = client.bulk()
        with pytest.raises(LookupError, match="broken"):
            await bulk.create(broken(), unique_name=True)
        assert bulk.report.counts["succeeded"] == 1

    async def test_other_exceptions_carry_no_report(self):
        """A cancellation of something else has no report."""
        error = TimeoutError()
        error.__context__ = error.__cause__ = asyncio.CancelledError()
        assert BulkInterrupted.from_exception(error) is None


class TestUnknownOutcomes:
    async def test_unknown_creates_are_reconciled(self, api, client):
        """A create whose outcome is unknown is reconciled, and not sent again."""
        api.faults = FaultPlan([Fault(kind="server_error", call="list", probability=1.0)])
        api.faults.fail_next("create", "drop_after")
        bulk = client.bulk()
        report = await bulk.create(requests(3), unique_name=True)
        (unknown,) = report.unknown
        assert (unknown.error, unknown.vm_id) == ("OutcomeUnknown", None)
        assert (await bulk.resume(report)).counts["unknown"] == 1
        api.faults = FaultPlan()
        report = BulkReport.from_json(report.to_json())
        report = await bulk.resume(report, requests(3))
        assert report.counts["succeeded"] == 3
        assert report.outcomes[unknown.index].adopted
        assert api.requests["create"] == 3

    async def test_idempotent_writes_are_sent_again(self, api):
        """No write with an unknown outcome is reported as refused."""
        async with Client.in_memory(api, seed=1, max_retries=0) as client:
            vms = await fleet_of(client, 2)
            api.faults.fail_next("shutdown", "drop_after")
            bulk = client.bulk(limit=1)
            report = await bulk.shutdown(vms, wait_for=1)
            assert [o.status for o in report.outcomes] == ["unknown", "succeeded"]
            assert report.outcomes[0].token
            assert not report.outcomes[0].accepted
            assert (await bulk.resume(report)).counts["succeeded"] == 2
            api.faults.fail_next("delete", "drop_after")
            report = await bulk.delete(vms)
            assert report.outcomes[0].error == "TransportError"
            await asyncio.sleep(100)
            strict = await bulk.resume(attrs.evolve(report, arguments={"missing_ok": False}))
            assert [o.status for o in strict.outcomes] == ["unknown", "succeeded"]
            assert "404" in strict.outcomes[0].reason
            report = await bulk.resume(report)
            assert [o.status for o in report.outcomes] == ["succeeded", "succeeded"]
            assert report.outcomes[0].reason == "it was gone already"

    async def test_resuming_keeps_unknown_items_with_their_tokens(self, client):
        """A call that stops before an item's turn loses no token."""
        vms = await fleet_of(client, 3)
        bulk = client.bulk(limit=3)
        with anyio.move_on_after(0.5):
            await bulk.shutdown(vms)
        before = bulk.report
        assert before.counts["unknown"] == 3
        bulk.pause()
        with anyio.move_on_after(1):
            await bulk.resume(before)
        assert {o.token for o in bulk.report.unknown} == {o.token for o in before.unknown}

    async def test_an_interrupted_rename_counts_by_its_response(self):
        """A rename has no completion to watch."""
        api = CloudAPI(seed=1)
        async with Client.in_memory(api, latency=2, seed=1) as client:
            (vm,) = await fleet_of(client, 1)
            bulk = client.bulk()
            with anyio.move_on_after(1):
                await bulk.rename({vm.id: "new"})
            assert bulk.report.counts["succeeded"] == 1
            assert (await client.vms.get(vm)).label == "new"

    async def test_a_reboot_whose_response_is_lost_has_a_token(self):
        """The token resumes the watching."""
        api = CloudAPI(seed=1)
        async with Client.in_memory(api, seed=1) as client:
            vms = await fleet_of(client, 2)
            api.faults = FaultPlan([Fault(kind="stall", call="reboot", probability=1.0)])
            bulk = client.bulk()
            with anyio.move_on_after(1):
                await bulk.reboot(vms)
            assert bulk.report.counts["unknown"] == 2
            assert all(o.token for o in bulk.report.unknown)

    async def test_a_function_that_ignores_cancellation(self, client):
        """What it started is in the report all the same."""
        vms = await fleet_of(client, 1)

        async def start(vm):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(100)
            return await client.vms.shutdown(vm)

        bulk = client.bulk()
        with anyio.move_on_after(1):
            await bulk.run(vms, start)
        (outcome,) = bulk.report.unknown
        assert client.resume(outcome.token).operation == "shutdown"


class TestArguments:
    @pytest.mark.parametrize(
        ("call", "argument"),
        [
            (lambda bulk: bulk.shutdown("vm-1"), "items"),
            (lambda bulk: bulk.shutdown(5), "items"),
            (lambda bulk: bulk.shutdown([5]), "vm"),
            (lambda bulk: bulk.shutdown(["a", "b", "a"]), "items"),
            (lambda bulk: bulk.shutdown(["a"], wait_for=-1), "wait_for"),
            (lambda bulk: bulk.resize(["a"], cores=0, ram=1), "cores"),
            (lambda bulk: bulk.run(["a"], "resize", cores=1), "ram"),
            (lambda bulk: bulk.run(["a"], "reboot", cores=1), "cores"),
            (lambda bulk: bulk.run(["a"], "explode"), "start"),
            (lambda bulk: bulk.run(["a"], len, cores=1), "cores"),
            (lambda bulk: bulk.delete(["a"], delete_resources=1), "delete_resources"),
            (lambda bulk: bulk.rename({"a": ""}), "names['a']"),
            (lambda bulk: bulk.rename(["a"]), "names"),
            (lambda bulk: bulk.create(["a"]), "item"),
            (lambda bulk: bulk.create(requests(1), on_unknown="x"), "on_unknown"),
            (lambda bulk: bulk.create(requests(1), on_unknown="retry"), "on_unknown"),
        ],
    )
    async def test_wrong_arguments_are_refused(self, api, client, call, argument):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument) as info:
            await call(client.bulk())
        assert info.value.argument.startswith(argument.partition("[")[0])
        assert not api.requests

    async def test_a_wrong_item_of_a_generator_fails_alone(self, client):
        """Other items are in flight by then, so only this item fails."""
        vms = await fleet_of(client, 1)
        report = await client.bulk().shutdown(item for item in [vms[0], 5])
        assert [outcome.status for outcome in report.outcomes] == ["succeeded", "failed"]
        assert report.outcomes[1].error == "InvalidArgument"

    async def test_a_plan_excludes_its_fields(self, client):
        """The call takes a plan or its fields, not both."""
        assert client.bulk(BulkPlan(limit=3)).plan.limit == 3
        with pytest.raises(InvalidArgument):
            client.bulk(BulkPlan(), limit=3)
        with pytest.raises(InvalidArgument):
            client.bulk("plan")

    async def test_an_executor_runs_one_call_at_a_time(self, client):
        """The limit belongs to the executor."""
        bulk = client.bulk()
        running = asyncio.create_task(bulk.create(requests(1)))
        await asyncio.sleep(1)
        with pytest.raises(InvalidState, match="running another call"):
            await bulk.create(requests(1))
        assert (await running).counts["succeeded"] == 1

    async def test_a_callback_that_raises_is_logged(self, client, caplog):
        """It changes no outcome."""

        def broken(event):
            raise LookupError

        with caplog.at_level(logging.ERROR):
            report = await client.bulk(on_event=broken).create(requests(2))
        assert report.counts["succeeded"] == 2
        (record,) = caplog.records
        assert record.vmapi_callback == "on_event"
        assert record.vmapi_error == "LookupError"
        assert caplog.records
