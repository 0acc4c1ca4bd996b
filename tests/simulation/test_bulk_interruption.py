"""Bulk calls cancelled in any way, at any moment: no item is lost, no task is left behind."""

import asyncio
import gc
import logging
import sys
from collections import Counter
from contextlib import aclosing, suppress

import anyio
import attrs
import pytest

from async_vmapi import BulkInterrupted, BulkReport, Client, NotFound
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings
from tests.virtual_time import JumpingLoop

from .in_memory import client_and_transport
from .test_bulk import fleet_of, now, requests, truth

pytestmark = pytest.mark.looptime


class BodyError(Exception):
    """An exception of the caller's code."""


class GoneError(BaseException):
    """An exception that is no `Exception`."""


@pytest.fixture
async def slow_client(api):
    """Its responses take eight seconds."""
    async with Client.in_memory(api, latency=8, seed=1) as client:
        yield client


async def one_and_no_more():
    yield requests(1)[0]
    await asyncio.Event().wait()


def start_in(group, function):
    if isinstance(group, asyncio.TaskGroup):
        group.create_task(function())
    else:
        group.start_soon(function)


async def cancelled(running, *moments):
    """Cancel a task once at each of these moments, and wait until it is done."""
    began = now()
    for moment in moments:
        await asyncio.sleep(began + moment - now())
        running.cancel()
    await asyncio.wait({running})


class TestSecondCancellation:
    @pytest.mark.parametrize("after", [-1e-9, 0, 1e-9])
    async def test_as_the_response_arrives(self, api, slow_client, after):
        """A create that was carried out is not reported as not started."""
        bulk = slow_client.bulk()
        running = asyncio.create_task(bulk.create(requests(1), unique_name=True))
        await asyncio.sleep(5)
        running.cancel()
        asyncio.get_running_loop().call_at(8 + after, running.cancel)
        await asyncio.wait({running})
        assert now() == pytest.approx(8)
        assert bulk.report.counts["unknown"] == 1
        await asyncio.sleep(20)
        report = BulkReport.from_json(bulk.report.to_json())
        report = await slow_client.bulk().resume(report, requests(1))
        assert [o.vm_id for o in report.succeeded] == [vm.id for vm in truth(api)]
        assert api.requests["create"] == 1

    async def test_while_the_response_is_read(self, api):
        """Nor if the cancellation comes while it is read."""
        client, transport = client_and_transport(api, latency=8, seed=1)
        send = transport.send

        async def send_and_cancel(method, *rest):
            response = await send(method, *rest)
            if method == "PUT":
                running.cancel()
            return response

        transport.send = send_and_cancel
        async with client:
            bulk = client.bulk()
            running = asyncio.create_task(bulk.create(requests(1), unique_name=True))
            await cancelled(running, 5)
        (outcome,) = bulk.report.unknown
        assert [outcome.vm_id] == [vm.id for vm in truth(api)]

    @pytest.mark.parametrize("gap", [0, 0.005, 1])
    async def test_as_a_wave_completes(self, slow_client, gap):
        """All later waves are in the report."""
        asked = requests(10)
        bulk = slow_client.bulk(waves=[1, "100%"])
        running = asyncio.create_task(bulk.create(asked, unique_name=True))
        await cancelled(running, 1, 1 + gap)
        assert bulk.report.counts == {"succeeded": 0, "failed": 0, "unknown": 1, "not_started": 9}
        assert bulk.report.complete
        await asyncio.sleep(20)
        report = await slow_client.bulk().resume(bulk.report)
        assert report.counts["succeeded"] == 10

    async def test_with_many_items(self, client):
        """All of twenty thousand are in the report, and no event follows."""
        events = []
        bulk = client.bulk(limit=5, on_event=events.append)
        running = asyncio.create_task(bulk.create(requests(20_000), unique_name=True))
        await asyncio.sleep(3)
        running.cancel()
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})
        assert len(bulk.report.outcomes) == 20_000
        assert bulk.report.counts["unknown"] == 5
        assert bulk.report.complete
        count = len(events)
        await asyncio.sleep(20)
        assert len(events) == count

    async def test_no_event_follows_the_exception(self, slow_client):
        """Not even for responses that arrive later."""
        vms = await fleet_of(slow_client, 3)
        events = []
        bulk = slow_client.bulk(on_event=events.append)
        running = asyncio.create_task(bulk.shutdown(vms))
        await cancelled(running, 1, 1.1)
        count = len(events)
        await asyncio.sleep(30)
        assert len(events) == count
        assert Counter(event.kind for event in events)["stopped"] == 1

    def test_a_second_ctrl_c_logs_the_tokens(self, caplog):
        """No code reads the report then."""
        api = CloudAPI(seed=1)

        def interrupt():
            raise KeyboardInterrupt

        async def main():
            loop = asyncio.get_running_loop()
            # As `asyncio.Runner` handles the first Ctrl-C, and the second.
            loop.call_later(2, asyncio.current_task().cancel)
            loop.call_later(3, interrupt)
            async with Client.in_memory(api, latency=8, seed=1) as client:
                bulks.append(client.bulk())
                await bulks[0].create(requests(30), unique_name=True)

        bulks = []
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(KeyboardInterrupt),
            asyncio.Runner(loop_factory=JumpingLoop) as runner,
        ):
            runner.run(main())
        tokens = [outcome.token for outcome in bulks[0].report.unknown]
        assert len(set(tokens)) == 30
        (warning,) = (r for r in caplog.records if "in flight" in r.getMessage())
        assert all(token in warning.getMessage() for token in tokens)
        assert warning.vmapi_operation == "create"


class TestCancellation:
    async def test_of_all_tasks_of_the_loop(self, client):
        """Cancelling the call's inner tasks loses no item."""
        bulk = client.bulk(limit=3)
        running = asyncio.create_task(bulk.create(requests(20), unique_name=True))
        await asyncio.sleep(5)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        assert bulk.report.counts == {"succeeded": 0, "failed": 0, "unknown": 3, "not_started": 17}
        assert bulk.report.complete

    async def test_of_all_tasks_during_a_write(self, api, slow_client):
        """A write whose request was cancelled is unknown."""
        bulk = slow_client.bulk(limit=3)
        running = asyncio.create_task(bulk.create(requests(9), unique_name=True))
        await asyncio.sleep(5)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.wait({running})
        assert bulk.report.counts == {"succeeded": 0, "failed": 0, "unknown": 3, "not_started": 6}
        assert all(o.token for o in bulk.report.unknown)

    @pytest.mark.parametrize("others_too", [True, False])
    async def test_of_all_tasks_during_a_pause(self, client, others_too):
        """Nothing is lost if nothing is in flight."""
        bulk = client.bulk(limit=3)
        bulk.pause()
        running = asyncio.create_task(bulk.create(requests(20), unique_name=True))
        await asyncio.sleep(5)
        for task in asyncio.all_tasks() - {asyncio.current_task(), running}:
            task.cancel()
        if others_too:
            running.cancel()
        await asyncio.wait({running})
        assert bulk.report.counts["not_started"] == 20
        assert bulk.report.complete

    async def test_an_observed_completion_is_reported(self):
        """Even if the item's awaiter was cancelled."""

        async def ends(steps):
            """Cancel so many steps after the poll that shows the completion; return the outcome."""
            api = CloudAPI(settings=Settings(shutdown=5, stale=0), seed=1)
            client, transport = client_and_transport(api, latency=0.02, seed=1, max_staleness=0.0)
            async with client:
                vms = await fleet_of(client, 3)
                tasks = []

                def note(event):
                    if event.kind == "accepted":
                        tasks.append(event.task)

                def cancel(steps):
                    if steps:
                        asyncio.get_running_loop().call_soon(cancel, steps - 1)
                    else:
                        running.cancel()

                async def poll(*args):
                    response = await send(*args)
                    if response.body.count(b'"offline"') == 3:
                        cancel(steps)
                    return response

                send = transport.send
                transport.send = poll
                bulk = client.bulk(on_event=note)
                running = asyncio.create_task(bulk.shutdown(vms, wait_for=1))
                await asyncio.wait({running})
            assert bulk.report.counts["succeeded"] == sum(task.done() for task in tasks)
            return bulk.report.counts["succeeded"]

        assert 3 in {await ends(steps) for steps in range(8)}

    async def test_a_completion_in_the_same_moment_is_reported(self, client):
        """It is not unknown."""
        vms = await fleet_of(client, 5)
        ended = []

        def note(event):
            if event.kind == "finished":
                ended.append(event.item)
                running.cancel()

        bulk = client.bulk(on_event=note)
        running = asyncio.create_task(bulk.shutdown(vms, wait_for=1))
        await asyncio.wait({running})
        assert running.cancelled()
        assert {o.item for o in bulk.report.succeeded} >= {ended[0]}
        states = {vm.id: vm.state for vm in await client.vms.list()}
        assert all(states[o.item] == "offline" for o in bulk.report.succeeded)

    @pytest.mark.parametrize("how", ["timeout", "fail_after", "wait_for", "gather"])
    async def test_the_report_is_found_from_the_exception(self, client, how):
        """Whatever cancelled it."""
        bulk = client.bulk()
        call = bulk.create(requests(2), unique_name=True)

        async def cut_off():
            if how == "timeout":
                async with asyncio.timeout(1):
                    await call
            elif how == "fail_after":
                with anyio.fail_after(1):
                    await call
            elif how == "wait_for":
                await asyncio.wait_for(call, 1)
            else:
                async with asyncio.timeout(1):
                    await asyncio.gather(call)

        with pytest.raises(TimeoutError) as info:
            await cut_off()
        assert BulkInterrupted.from_exception(info.value).report == bulk.report

    @pytest.mark.parametrize("group", [asyncio.TaskGroup, anyio.create_task_group])
    async def test_the_report_is_found_in_exception_groups(self, client, group):
        """Where another task of a group failed, or a group was cancelled."""

        async def timed_out():
            async with asyncio.timeout(1):
                await client.bulk().create(requests(2), unique_name=True)

        async def other():
            await asyncio.sleep(1)
            raise BodyError

        async def beside(function, call=None):
            async with group() as tasks:
                start_in(tasks, function)
                if call is not None:
                    await call

        with pytest.raises(ExceptionGroup) as info:
            await beside(timed_out)
        assert BulkInterrupted.from_exception(info.value).report.counts["unknown"] == 2
        call = client.bulk().create(requests(2, "x-{}"), unique_name=True)
        with pytest.raises(ExceptionGroup) as info:
            await beside(other, call)
        assert BulkInterrupted.from_exception(info.value).report.counts["unknown"] == 2

    async def test_a_child_of_a_task_group(self, client):
        """The group raises its error; the executor has the report."""
        bulk = client.bulk()
        with suppress(TimeoutError):
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(bulk.create(requests(3), unique_name=True))
        assert bulk.report.counts["unknown"] == 3


class TestStreams:
    async def test_a_stream_left_while_it_waits_for_items(self, client):
        """Only the exception of the body is raised."""

        async def use(error):
            async with aclosing(client.bulk().stream(one_and_no_more(), "create")) as outcomes:
                async for _ in outcomes:
                    if error is None:
                        return
                    raise error

        with pytest.raises(BodyError):
            await use(BodyError())
        await use(None)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    async def test_a_stream_cancelled_in_its_body(self, client):
        """The report has the outcomes that were not handed out."""
        bulk = client.bulk()
        stream = bulk.stream(requests(3), "create", unique_name=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(70), aclosing(stream) as outcomes:
                async for _ in outcomes:
                    await asyncio.sleep(1000)
        assert len(bulk.report.outcomes) == 2

    async def test_stop_does_not_wait_for_the_next_item(self, client):
        """The next item may never come."""
        bulk = client.bulk()
        running = asyncio.create_task(bulk.create(one_and_no_more(), unique_name=True))
        await asyncio.sleep(200)
        bulk.stop("enough")
        began = now()
        report = await asyncio.wait_for(running, 1000)
        assert now() - began < 1
        assert report.counts == {"succeeded": 1, "failed": 0, "unknown": 0, "not_started": 0}
        assert (report.stopped, report.complete) == ("enough", False)

    async def test_a_spent_budget_does_not_wait_for_the_next_item(self, client):
        """The next item may never come."""

        async def items():
            yield "no"
            await asyncio.Event().wait()

        report = await asyncio.wait_for(client.bulk(max_failures=0).shutdown(items()), 1000)
        assert report.counts["failed"] == 1
        assert not report.complete

    async def test_a_sized_async_iterable_that_waits(self, client):
        """Its length does not bring its items."""

        class Items:
            def __len__(self):
                return 2

            def __aiter__(self):
                return one_and_no_more()

        running = asyncio.create_task(client.bulk().create(Items(), unique_name=True))
        await asyncio.sleep(100)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=100)
        assert done

    async def test_an_abandoned_iterables_error_is_not_logged(self, client):
        """asyncio reports no exception that was never retrieved."""
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))

        def items():
            yield "no"
            raise LookupError

        async with aclosing(client.bulk().stream(items(), "shutdown")) as outcomes:
            async for _ in outcomes:
                break
        gc.collect()
        await asyncio.sleep(1)
        assert complaints == []

    async def test_no_task_is_left_behind(self, client):
        """After none of these."""
        before = asyncio.all_tasks()
        for waves in (None, [1]):
            async with aclosing(
                client.bulk(limit=2, waves=waves).stream(requests(9), "create")
            ) as outcomes:
                async for _ in outcomes:
                    break
            left = [t for t in asyncio.all_tasks() - before if "bulk" in t.get_name()]
            assert left == []


class TestFunctions:
    async def test_a_function_raises_a_base_exception(self, client):
        """It is raised when the started items are complete; the report is on it."""

        async def start(item):
            if item == 1:
                raise GoneError
            await asyncio.sleep(10)
            return item

        bulk = client.bulk(limit=3)
        with pytest.raises(GoneError):
            await bulk.run(range(9), start)
        assert [o.status for o in bulk.report.outcomes] == [
            "succeeded",
            "unknown",
            "succeeded",
            *["not_started"] * 6,
        ]
        assert "GoneError" in bulk.report.stopped
        assert now() == pytest.approx(10)

    async def test_a_callback_that_raises_cancellation(self, client):
        """It is logged like any exception, and the budget holds."""
        vms = await fleet_of(client, 2)

        def broken(event):
            raise asyncio.CancelledError

        bulk = client.bulk(limit=1, max_failures=0, on_event=broken)
        report = await bulk.shutdown([vms[0], "no", vms[1]])
        assert [o.status for o in report.outcomes] == ["succeeded", "failed", "not_started"]
        assert report.stopped == "more than 0 failed"

    async def test_a_callback_may_stop_the_call(self, client):
        """At any event; it stops once."""
        vms = await fleet_of(client, 4)

        def stop(event):
            if event.kind == "finished":
                bulk.stop("x")
                bulk.pause()
                bulk.unpause()

        bulk = client.bulk(limit=1, on_event=stop)
        report = await bulk.shutdown(vms)
        assert [o.status for o in report.outcomes] == ["succeeded", *["not_started"] * 3]

    async def test_the_callback_sees_the_failure_before_the_next_start(self, client):
        """Nothing was started after the failure that spends the budget."""
        events = []
        bulk = client.bulk(
            limit=1, max_failures=0, on_event=lambda event: events.append(event.kind)
        )
        await bulk.shutdown(["no-0", "no-1"])
        assert events == ["started", "stopped", "finished", "finished"]

    async def test_the_caller_changes_the_list_meanwhile(self, client):
        """The items are those that were given."""
        vms = await fleet_of(client, 6)
        items = list(vms)
        bulk = client.bulk(limit=1, on_event=lambda event: items and items.pop())
        report = await bulk.shutdown(items)
        assert items == []
        assert [o.item for o in report.outcomes] == [vm.id for vm in vms]
        assert report.counts["succeeded"] == 6

    async def test_failures_hold_no_frames(self, client):
        """They keep no local variables alive."""
        report = await client.bulk().shutdown(["no-0", "no-1"])
        for outcome in report.failed:
            assert isinstance(outcome.exception, NotFound)
            at = outcome.exception
            while at is not None:
                assert (at.__traceback__, at.__context__) == (None, None)
                at = at.__cause__
        with pytest.raises(ExceptionGroup):
            report.raise_on_failure()

    async def test_failures_with_a_cause_hold_no_frames(self, api, client):
        """Nor do their causes, which are kept."""
        api.faults = FaultPlan([Fault(kind="drop_before", call="create", probability=1.0)])
        report = await client.bulk().create(requests(1), unique_name=True)
        error = report.outcomes[0].exception
        assert error.__cause__ is not None
        while error is not None:
            assert (error.__traceback__, error.__context__) == (None, None)
            error = error.__cause__

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="there are none before")
    async def test_eager_tasks(self, client):
        """An item that completes in its first step is in the report."""
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

        async def start(item):
            if item == 3:
                raise LookupError
            return item

        report = await asyncio.wait_for(client.bulk(limit=2).run(range(9), start), 100)
        assert report.counts == {"succeeded": 8, "failed": 1, "unknown": 0, "not_started": 0}
        report = await client.bulk(limit=2).create(requests(5), unique_name=True)
        assert report.counts["succeeded"] == 5


class TestRenames:
    async def test_missing_names_are_refused(self, api, client):
        """Nothing is sent."""
        vms = await fleet_of(client, 2)
        sent = api.requests.copy()
        with pytest.raises(ValueError, match="names has none for") as info:
            await client.bulk().run(vms, "rename", names={vms[0].id: "new"})
        assert info.value.argument == "names"
        report = await client.bulk().run((vm for vm in ["a"]), "rename", names={"b": "new"})
        assert report.outcomes[0].error == "InvalidArgument"
        assert api.requests == sent

    @pytest.mark.parametrize("key", ["\ud800", "", 5, None, "a/b"])
    async def test_names_must_be_keyed_by_ids(self, client, key):
        """A report in JSON could not hold other keys."""
        with pytest.raises(ValueError, match="names"):
            await client.bulk().rename({"a": "new", key: "new"})

    async def test_vms_as_keys_are_refused(self, client):
        """The keys are ids."""
        vms = await fleet_of(client, 1)
        with pytest.raises(ValueError, match="names"):
            await client.bulk().rename({vms[0]: "new"})

    async def test_a_report_resumes_renames(self, client):
        """It holds the names."""
        vms = await fleet_of(client, 3)
        bulk = client.bulk(limit=1)
        with anyio.move_on_after(0.01):
            await bulk.rename({vm.id: f"new-{n}" for n, vm in enumerate(vms)})
        assert bulk.report.counts["not_started"]
        report = BulkReport.from_json(bulk.report.to_json())
        report = await client.bulk().resume(report)
        assert report.counts["succeeded"] == 3
        assert {vm.label for vm in await client.vms.list()} == {"new-0", "new-1", "new-2"}
        assert attrs.evolve(report, seconds=0.0).complete
