"""What is known while it matters: pending tasks, notes of cancellations, unresolved writes."""

import asyncio
import gc
import logging

import pytest

from async_vmapi import Client, InvalidArgument, InvalidState, OutcomeUnknown
from async_vmapi.tasks import pending

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


def slow(api, **options):
    """A client whose requests take a second."""
    return Client.in_memory(api, latency=1, seed=1, **options)


async def cancelled(call, at):
    """Cancel a call at a time, and return the cancellation."""
    running = asyncio.ensure_future(call)
    await asyncio.sleep(at)
    running.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await running
    return caught.value


class TestPending:
    async def test_a_task_is_listed_until_it_is_complete(self, client, request_for):
        """The task itself is listed, while it is referenced."""
        assert client.pending == ()
        first = await client.vms.create(request_for("a"))
        second = await client.vms.create(request_for("b"))
        assert client.pending == (first, second)
        vm = await first
        assert client.pending == (second,)
        assert await second
        off = await client.vms.power_off(vm)
        assert client.pending == (off,)
        for _ in range(20):
            await off.refresh()
            await asyncio.sleep(2)
        assert client.pending == ()

    async def test_a_failed_task_is_complete(self, client, api, request_for):
        """It is no longer listed."""
        api.cloud.adjust("*", fail_state="error")
        task = await client.vms.create(request_for())
        with pytest.raises(Exception, match="create of"):
            await task
        assert client.pending == ()

    async def test_a_create_cancelled_in_its_second_await(self, client, api, request_for):
        """Only the note and the list have its id."""

        async def handler():
            await (await client.vms.create(request_for()))

        cancellation = await cancelled(handler(), 5)
        gc.collect()
        (task,) = client.pending
        assert [task.vm_id] == [*api.cloud.vms]
        (note,) = cancellation.__notes__
        assert f"create of {task.vm_id} was accepted" in note
        assert client.resume(note.rpartition(" ")[2]).vm_id == task.vm_id
        assert (await task).state == "online"
        assert task.evidence == "observed"
        assert client.pending == ()

    @pytest.mark.parametrize("how", ["wait", "events", "timeout"])
    async def test_each_cancelled_wait_has_a_note(self, client, request_for, how):
        """However the task is awaited, and however that ends."""
        task = await client.vms.create(request_for())

        async def events():
            async for _ in task.events():
                pass

        if how == "timeout":
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(3):
                    await task
            (note,) = caught.value.__cause__.__notes__
        else:
            (note,) = (await cancelled(events() if how == "events" else task.wait(), 3)).__notes__
        assert task.vm_id in note
        assert client.resume(note.rpartition(" ")[2]).operation == "create"

    async def test_an_abandoned_task_can_be_awaited_from_the_list(self, client, request_for):
        """With its history; telemetry aside, nothing is lost with the object."""
        task = await client.vms.create(request_for())
        vm_id = task.vm_id
        await task.refresh()
        del task
        gc.collect()
        again, same = client.pending[0], client.pending[0]
        assert again.vm_id == same.vm_id == vm_id
        assert (await again).id == vm_id
        assert same.done()

    async def test_a_resumed_task_is_listed_only_while_it_is_referenced(self, client, request_for):
        """A status endpoint resumes one for each request: they must not add up."""
        task = await client.vms.create(request_for())
        for _ in range(3):
            await client.resume(task.token()).refresh()
        gc.collect()
        assert client.pending == (task,)
        resumed = client.resume(task.token())
        assert client.pending == (task, resumed)

    async def test_the_list_is_bounded(self, client, request_for, monkeypatch):
        """The oldest tasks are dropped."""
        monkeypatch.setattr(pending, "MOST_PENDING", 3)
        tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(5)]
        assert client.pending == (*tasks[2:],)
        assert (await tasks[0]).label == "w-0"

    async def test_the_list_remains_after_close(self, api, request_for):
        """It shows what is left."""
        async with Client.in_memory(api, seed=1) as client:
            task = await client.vms.create(request_for())
        assert client.pending == (task,)

    async def test_writes_that_returned_no_task_are_not_listed(self, api, request_for):
        """An unknown reboot and an unresolved create have tokens in their errors."""
        async with slow(api, reconcile_timeout=5) as client:
            vm = await (await client.vms.create(request_for()))
            api.faults.fail_next("reboot", "drop_before")
            with pytest.raises(OutcomeUnknown):
                await client.vms.reboot(vm)
            await cancelled(client.vms.create(request_for("b"), unique_name=True), 0.5)
            assert len(client.unresolved) == 1
            assert client.pending == ()


class TestUnresolved:
    async def test_it_is_listed_as_soon_as_the_caller_is_cancelled(self, api, request_for, caplog):
        """Not only when the response arrives: the process may not live that long."""
        caplog.set_level(logging.INFO, "async_vmapi")
        reported = []
        async with slow(api, on_unresolved=lambda write: reported.append((now(), write))) as client:
            making = asyncio.ensure_future(client.vms.create(request_for(), unique_name=True))
            await asyncio.sleep(0.5)
            making.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            (write,) = client.unresolved
            assert not making.done()
            assert reported == [(0.5, write)]
            assert (write.operation, write.name, write.vm_id) == ("create", "web-01", None)
            assert write.token in caplog.text
            await asyncio.wait({making})
            (accepted,) = client.unresolved
            assert reported[1:] == [(1.0, accepted)]
            assert [accepted.vm_id] == [*api.cloud.vms]
            assert accepted.replaces == write.token
            assert accepted.token in caplog.text
            (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
            assert warning.vmapi_token == accepted.token
            assert (await client.resume(accepted.token)).state == "online"
            assert client.unresolved == ()

    @pytest.mark.parametrize("operation", ["power_off", "reboot", "delete"])
    async def test_it_is_removed_when_accepted_in_time(self, api, request_for, operation):
        """Its VM is known; the note has the token."""
        reported = []
        async with slow(api, on_unresolved=reported.append) as client:
            vm = await (await client.vms.create(request_for()))
            cancellation = await cancelled(getattr(client.vms, operation)(vm), 0.5)
            assert len(reported) == 1
            assert client.unresolved == ()
            (note,) = cancellation.__notes__
            assert f"{operation} of {vm.id} was accepted" in note
            assert client.resume(note.rpartition(" ")[2]).operation == operation
            task = client.pending[0]
            assert (task.vm_id, task.operation) == (vm.id, operation)
            await task

    async def test_it_is_removed_when_refused_in_time(self, api, request_for):
        """It was certainly not carried out."""
        reported = []
        async with slow(api, on_unresolved=reported.append) as client:
            api.faults.fail_next("create", "success_false")
            await cancelled(client.vms.create(request_for(), unique_name=True), 0.5)
            assert len(reported) == 1
            assert client.unresolved == ()

    async def test_it_is_listed_and_reported_once(self, api, request_for):
        """Its token stays the same."""
        reported = []
        async with slow(api, on_unresolved=reported.append) as client:
            api.faults.fail_next("create", "stall", seconds=100)
            await cancelled(client.vms.create(request_for(), unique_name=True), 0.5)
            assert now() == pytest.approx(10.5, abs=0.1)
            (write,) = client.unresolved
            assert [one.token for one in reported] == [write.token]

    async def test_it_stays_removed_once_it_was_dismissed(self, api, request_for):
        """The callback may have reconciled it elsewhere."""
        async with slow(api) as client:
            api.faults.fail_next("create", "stall", seconds=100)
            making = asyncio.ensure_future(client.vms.create(request_for(), unique_name=True))
            await asyncio.sleep(0.5)
            making.cancel()
            await asyncio.sleep(1)
            client.dismiss(*client.unresolved)
            await asyncio.wait({making})
            assert client.unresolved == ()

    async def test_a_write_that_was_not_sent_is_not_reported(self, api, request_for):
        """It waits for the list before the create."""
        reported = []
        async with slow(api, on_unresolved=reported.append) as client:
            await cancelled(client.vms.create(request_for()), 0.5)
            assert (reported, client.unresolved) == ([], ())


class TestGracePeriod:
    @pytest.mark.parametrize("grace", [0, 3, 25.0])
    async def test_cancelled_callers_and_close_wait_for_the_grace_period(
        self, api, request_for, grace
    ):
        """In seconds; a response that comes later is not awaited."""
        async with slow(api, cancel_grace=grace) as client:
            api.faults.fail_next("create", "stall", seconds=100)
            await cancelled(client.vms.create(request_for(), unique_name=True), 0.5)
            assert now() == pytest.approx(0.5 + grace, abs=0.1)
            api.faults.fail_next("create", "stall", seconds=100)
            making = asyncio.ensure_future(client.vms.create(request_for("b"), unique_name=True))
            await asyncio.sleep(0.5)
            began = now()
            await client.close()
            assert now() - began == pytest.approx(grace, abs=0.1)
            with pytest.raises(InvalidState, match="its token is"):
                await making
            assert len(client.unresolved) == 2

    @pytest.mark.parametrize("wrong", [-1, float("inf"), float("nan"), "10", None])
    def test_wrong_values_are_refused(self, api, wrong):
        """It is a finite number of seconds."""
        with pytest.raises(InvalidArgument, match="cancel_grace"):
            Client.in_memory(api, cancel_grace=wrong)


class TestReconcileTimeout:
    @pytest.mark.parametrize(("window", "seconds"), [(None, 60), (5, 5), (0, 0), (90, 90)])
    async def test_a_create_in_a_web_handler(self, client, api, request_for, window, seconds):
        """It raises as early as the handler wants, with a token for another request."""
        api.faults.fail_next("create", "drop_before")
        began = now()
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for(), unique_name=True, reconcile_timeout=window)
        assert now() - began == pytest.approx(seconds, abs=2)
        began = now()
        with pytest.raises(OutcomeUnknown):
            await client.reconcile(caught.value.token, reconcile_timeout=window)
        assert now() - began == pytest.approx(seconds, abs=2)

    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    async def test_a_reboot(self, client, api, request_for, operation):
        """It raises as early as the handler wants."""
        vm = await (await client.vms.create(request_for()))
        api.faults.fail_next(operation, "drop_before")
        began = now()
        with pytest.raises(OutcomeUnknown) as caught:
            await getattr(client.vms, operation)(vm, reconcile_timeout=7)
        assert now() - began == pytest.approx(7, abs=2)
        began = now()
        with pytest.raises(OutcomeUnknown):
            await client.reconcile(caught.value.token, reconcile_timeout=3)
        assert now() - began == pytest.approx(3, abs=2)

    async def test_a_vm_found_within_it_is_adopted(self, client, api, request_for):
        """Once `max_staleness` has passed, as always."""
        api.faults.fail_next("create", "drop_after")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for(), reconcile_timeout=5)
        assert [*caught.value.candidates] == [*api.cloud.vms]
        task = await client.reconcile(caught.value.token, reconcile_timeout=20)
        assert task.adopted

    @pytest.mark.parametrize("wrong", [-1, "5", True, float("nan")])
    async def test_wrong_values_are_refused(self, client, request_for, wrong):
        """Nothing is sent."""
        for call in (
            client.vms.create(request_for(), reconcile_timeout=wrong),
            client.vms.reboot("17", reconcile_timeout=wrong),
            client.vms.reset("17", reconcile_timeout=wrong),
        ):
            with pytest.raises(InvalidArgument, match="reconcile_timeout"):
                await call
        assert not client.requests
