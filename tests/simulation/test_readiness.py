"""Tasks with ``ready``: complete when the VM is online and meets all conditions."""

import asyncio
import itertools

import pytest

from async_vmapi import (
    CdromBoot,
    Client,
    CreateRequest,
    InvalidArgument,
    Ready,
    TaskFailed,
    TaskTimeout,
    VMVanished,
)
from async_vmapi.emulator import CloudAPI, Settings

pytestmark = pytest.mark.looptime


@pytest.fixture
def api():
    """A cloud in which a create takes 30 s, and the address follows 20 s later."""
    return CloudAPI(settings=Settings(create=30, not_found=0, address=20, reboot=10), seed=1)


def polls(client):
    return client.requests.get("get", 0) + client.requests.get("list", 0)


class Door:
    """A check that fails until a test opens it, and counts its calls."""

    def __init__(self):
        self.open = False
        self.seen = []

    async def __call__(self, vm):
        self.seen.append((asyncio.get_running_loop().time(), vm))
        return self.open


class Callable:
    """A check that is an object."""

    async def __call__(self, vm):
        return True


class TestAddress:
    async def test_a_create_waits_for_its_address(self, client, request_for):
        task = await client.vms.create(request_for(), ready=Ready.address())
        vm = await task
        assert vm.addresses
        assert vm.state == "online"
        assert 50 <= asyncio.get_running_loop().time() <= 57
        assert task.done()
        assert task.evidence == "observed"
        assert task not in client.pending

    async def test_without_it_a_create_ends_without_one(self, client, request_for):
        """The control: the emulator's address really is late."""
        assert not (await (await client.vms.create(request_for()))).addresses

    async def test_events_show_online_and_then_each_condition(self, client, request_for):
        task = await client.vms.create(request_for(), ready=Ready.address())
        events = [event async for event in task.events()]
        assert [(e.state, e.condition, e.final) for e in events] == [
            ("installing", None, False),
            ("online", "online", False),
            ("online", "address", True),
        ]
        assert [e.evidence for e in events] == [None, None, "observed"]
        assert events[-1].vm.addresses
        assert not events[1].vm.addresses

    async def test_a_fleet_costs_hardly_more_requests(self, request_for, stride):
        """At most a tenth more for 1,000 creates in a cloud with default durations."""
        count = 1000 if stride == 1 else 200

        async def sent(**options):
            async with Client.in_memory(CloudAPI(seed=1), latency=0.02, seed=1) as client:
                names = [f"web-{n:04}" for n in range(count)]
                zone = request_for().zone_id
                report = await client.bulk(limit=50).run(
                    names,
                    lambda name: client.vms.create(
                        name=name,
                        cpus=1,
                        ram=512,
                        zone_id=zone,
                        boot=CdromBoot(iso="x"),
                        **options,
                    ),
                )
                assert len(report.succeeded) == count
                if options:
                    assert all(outcome.value.addresses for outcome in report.succeeded)
                return sum(client.requests.values())

        assert await sent(ready=Ready.address()) <= 1.1 * await sent()


class TestChecks:
    """Conditions that are checked from the client's host."""

    async def test_conditions_are_met_in_order(self, api, client, request_for):
        """Each only after the ones before it; the VM is passed as last seen."""
        first, second = Door(), Door()
        first.open = True
        ready = Ready.check(first) & Ready.check(second) & Ready.address()
        task = await client.vms.create(request_for(), ready=ready)
        waiting = asyncio.ensure_future(task.wait())
        await asyncio.sleep(100)
        assert not task.done()
        assert [e.condition for e in task.history][-3:] == ["online", "address", "check:Door"]
        second.open = True
        await waiting
        assert len(first.seen) == 1
        assert 5 <= len(second.seen) <= 15
        assert second.seen[0][1].addresses
        assert task.history[-1].condition == "check:Door"
        assert task.history[-1].final

    async def test_a_failing_check_is_repeated_ever_more_rarely(self, client, request_for):
        door = Door()
        task = await client.vms.create(request_for(), ready=Ready.check(door))
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=300)
        times = [time for time, _ in door.seen]
        gaps = [late - early for early, late in itertools.pairwise(times)]
        assert gaps[0] == pytest.approx(1, abs=0.1)
        assert gaps == pytest.approx(sorted(gaps))
        assert gaps[-1] == pytest.approx(10, abs=0.1)

    async def test_what_is_missing_is_named(self, client, request_for):
        """With the reason, in an error from which the task can be awaited again."""
        door = Door()
        ready = Ready.check(door) & Ready.tcp(443)
        task = await client.vms.create(request_for(), ready=ready)
        with pytest.raises(
            TaskTimeout, match="missing online, address, check:Door, tcp:443"
        ) as early:
            await task.wait(timeout=10)
        assert early.value.missing == ("online", "address", "check:Door", "tcp:443")
        with pytest.raises(TaskTimeout, match=r"missing address \(the VM has none yet\), check"):
            await task.wait(timeout=30)
        with pytest.raises(
            TaskTimeout, match=r"missing check:Door \(it returned False\), tcp:443"
        ) as late:
            await task.wait(timeout=60)
        assert late.value.missing == ("check:Door", "tcp:443")
        assert client.resume(late.value.token).operation == "create"

    @pytest.mark.parametrize(
        ("result", "shown"),
        [
            (ValueError("hunter2"), "it raised ValueError"),
            (TimeoutError("hunter2"), "it raised TimeoutError"),
            (asyncio.CancelledError("hunter2"), "it raised CancelledError"),
            (None, "it returned NoneType; return True once the VM is ready"),
            ("hunter2", "it returned str; return True once the VM is ready"),
            (False, "it returned False"),
        ],
    )
    async def test_what_a_function_does_wrong_is_shown_without_secrets(
        self, client, request_for, result, shown
    ):
        async def check(vm):
            if isinstance(result, BaseException):
                raise result
            return result

        task = await client.vms.create(request_for(), ready=Ready.check(check))
        with pytest.raises(TaskTimeout) as caught:
            await task.wait(timeout=60)
        assert shown in str(caught.value)
        assert "hunter2" not in str(caught.value)

    async def test_a_function_that_hangs_has_its_own_timeout(self, client, request_for):
        """It is called again, and holds up no other VM."""
        calls = []

        async def hang(vm):
            calls.append(vm)
            await asyncio.sleep(10_000)
            return True

        slow = await client.vms.create(request_for(), ready=Ready.check(hang, timeout=20))
        other = await client.vms.create(request_for("web-02"), ready=Ready.address())
        waiting = asyncio.ensure_future(slow.wait(timeout=300))
        await other
        assert asyncio.get_running_loop().time() < 60
        with pytest.raises(TaskTimeout, match="no response within 20 s"):
            await waiting
        assert 5 <= len(calls) <= 13

    async def test_nothing_is_checked_while_nothing_is_awaited(self, client, request_for):
        """Probes stop with the last waiter, and are shared by all."""
        door = Door()
        task = await client.vms.create(request_for(), ready=Ready.check(door))
        waiting = [asyncio.ensure_future(task.wait()) for _ in range(10)]
        await asyncio.sleep(60)
        for waiter in waiting[1:]:
            waiter.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        calls = len(door.seen)
        assert calls < 15
        await asyncio.sleep(60)
        assert len(door.seen) > calls
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        calls = len(door.seen)
        await asyncio.sleep(600)
        assert len(door.seen) == calls
        door.open = True
        await task
        assert len(door.seen) == calls + 1

    async def test_a_reader_of_events_disturbs_no_check(self, client, request_for):
        """It leaves and returns at each event; a check in progress goes on."""
        started, ended = [], []

        async def check(vm):
            started.append(vm)
            await asyncio.sleep(20)
            ended.append(vm)
            return True

        ready = Ready.check(check) & Ready.check(Callable())
        task = await client.vms.create(request_for(), ready=ready)
        conditions = [event.condition async for event in task.events()]
        assert conditions == [None, "online", f"check:{check.__qualname__}", "check:Callable"]
        assert len(started) == len(ended) == 1

    async def test_a_check_that_cancels_itself_is_repeated_with_a_pause(self, client, request_for):
        """It holds up nothing, and the task ends with its timeout."""
        calls = []

        async def check(vm):
            calls.append(vm)
            asyncio.current_task().cancel()
            await asyncio.sleep(1)

        task = await client.vms.create(request_for(), ready=Ready.check(check))
        with pytest.raises(TaskTimeout, match="missing check:"):
            await task.wait(timeout=100)
        assert 2 <= len(calls) <= 100

    async def test_each_condition_is_logged(self, client, request_for, caplog):
        """With the condition in a field of its own."""
        door = Door()
        door.open = True
        with caplog.at_level("DEBUG", "async_vmapi"):
            await (await client.vms.create(request_for(), ready=Ready.check(door)))
        logged = [r for r in caplog.records if getattr(r, "vmapi_condition", "") == "check:Door"]
        assert len(logged) == 1
        assert "online, check:Door after" in logged[0].getMessage()
        assert logged[0].vmapi_state == "online"

    async def test_a_status_endpoint_probes_too(self, client, request_for):
        """`refresh` polls and probes once; with simultaneous calls, once for all."""
        door = Door()
        task = await client.vms.create(request_for(), ready=Ready.check(door))
        await asyncio.sleep(40)
        assert await asyncio.gather(*[task.refresh() for _ in range(20)]) == [False] * 20
        assert len(door.seen) == 1
        door.open = True
        await asyncio.sleep(5)
        assert await asyncio.gather(*[task.refresh() for _ in range(20)]) == [True] * 20
        assert len(door.seen) == 2
        assert task.result().label == "web-01"


class TestOperations:
    async def test_a_reboot_is_ready_only_after_it(self, api, client, request_for):
        """The conditions are not checked before the VM is back, although it was ready before."""
        vm = await (await client.vms.create(request_for(), ready=Ready.address()))
        door = Door()
        door.open = True
        began = asyncio.get_running_loop().time()
        task = await client.vms.reboot(vm, ready=Ready.check(door))
        await task
        assert door.seen[0][0] - began >= 10
        assert [e.condition for e in task.history][-2:] == ["online", "check:Door"]

    async def test_a_reboot_that_shows_nothing_is_still_assumed(self, request_for):
        """Readiness does not prove that it rebooted."""
        api = CloudAPI(settings=Settings(reboot_visible=False, address=0), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            vm = await (await client.vms.create(request_for()))
            task = await client.vms.reboot(vm, ready=Ready.address())
            await task
            assert task.evidence == "assumed"

    @pytest.mark.parametrize("operation", ["power_on", "reset"])
    async def test_others_take_it_too(self, client, request_for, operation):
        vm = await (await client.vms.create(request_for()))
        if operation == "power_on":
            await (await client.vms.power_off(vm))
        door = Door()
        task = await getattr(client.vms, operation)(vm, ready=Ready.check(door))
        with pytest.raises(TaskTimeout, match="missing check:Door"):
            await task.wait(timeout=120)
        door.open = True
        assert (await task).state == "online"

    async def test_a_resize_that_leaves_the_vm_offline_fails(self, request_for):
        settings = Settings(restart_after_resize=False, address=0)
        async with Client.in_memory(CloudAPI(settings=settings, seed=1), seed=1) as client:
            vm = await (await client.vms.create(request_for()))
            task = await client.vms.resize(vm, cores=2, ram=2048, ready=Ready.address())
            with pytest.raises(TaskFailed, match="complete, but the VM is 'offline'"):
                await task

    async def test_a_vm_that_is_deleted_meanwhile_has_vanished(self, api, client, request_for):
        """The task does not wait for its timeout."""
        task = await client.vms.create(request_for(), ready=Ready.check(Door()))
        waiting = asyncio.ensure_future(task.wait(timeout=3000))
        await asyncio.sleep(60)
        async with Client.in_memory(api, seed=2) as other:
            await (await other.vms.delete(task.vm_id))
        with pytest.raises((VMVanished, TaskFailed)):
            await waiting
        assert asyncio.get_running_loop().time() < 300
        assert task.done()

    async def test_a_vm_that_goes_offline_is_not_ready(self, api, client, request_for):
        """A check that would pass is not called while the VM is seen offline."""
        door = Door()
        task = await client.vms.create(request_for(), ready=Ready.check(door))
        waiting = asyncio.ensure_future(task.wait(timeout=3000))
        await asyncio.sleep(60)
        async with Client.in_memory(api, seed=2) as other:
            await (await other.vms.power_off(task.vm_id))
            await asyncio.sleep(60)
            calls = len(door.seen)
            door.open = True
            await asyncio.sleep(100)
            assert len(door.seen) == calls
            assert not waiting.done()
            await other.vms.power_on(task.vm_id)
        assert (await waiting).state == "online"

    async def test_a_lost_response_loses_no_condition(self, api, client, request_for):
        """The adopted task waits for them, and so does the one from the token."""
        api.faults.fail_next("create")
        task = await client.vms.create(request_for(), unique_name=True, ready=Ready.address())
        assert task.adopted
        assert (await task).addresses


class TestWaitReady:
    async def test_a_vm_that_is_ready_costs_one_poll(self, client, request_for):
        vm = await (await client.vms.create(request_for(), ready=Ready.address()))
        before = polls(client)
        assert (await client.vms.wait_ready(vm, Ready.address())).id == vm.id
        assert polls(client) == before + 1
        assert not client.pending

    async def test_without_conditions_it_waits_for_online(self, api, client, request_for):
        vm = await (await client.vms.create(request_for()))
        await (await client.vms.power_off(vm))
        waiting = asyncio.ensure_future(client.vms.wait_ready(vm))
        await asyncio.sleep(100)
        assert not waiting.done()
        async with Client.in_memory(api, seed=2) as other:
            await other.vms.power_on(vm)
        assert (await waiting).state == "online"

    async def test_a_read_from_before_a_change_of_this_client_does_not_count(self, request_for):
        """Reads may show the VM as it was before the power-off."""
        settings = Settings(staleness=(0, 10), power_off=0, address=0)
        async with Client.in_memory(CloudAPI(settings=settings, seed=1), seed=1) as client:
            vm = await (await client.vms.create(request_for()))
            await asyncio.sleep(20)
            await client.vms.power_off(vm)
            with pytest.raises(TaskTimeout, match="missing online"):
                await client.vms.wait_ready(vm, timeout=120)

    async def test_many_are_polled_together(self, client, request_for):
        vms = [
            await (await client.vms.create(request_for(f"web-{n}"), ready=Ready.address()))
            for n in range(30)
        ]
        before = polls(client)
        await asyncio.gather(*[client.vms.wait_ready(vm, Ready.address()) for vm in vms])
        assert polls(client) <= before + 16

    async def test_what_is_no_readiness_is_refused(self, client):
        for wrong in ("ssh", 22, lambda vm: True, Ready):
            with pytest.raises(InvalidArgument, match="ready="):
                await client.vms.wait_ready("x", wrong)
        assert not client.requests


class TestTokens:
    async def test_a_token_carries_what_can_be_stored(self, client, request_for):
        """A function is left out."""
        ready = Ready.address() & Ready.check(Door())
        task = await client.vms.create(request_for(), ready=ready)
        resumed = client.resume(task.token())
        assert (await resumed).addresses
        assert not task.done()

    async def test_a_token_of_a_complete_operation_does_not_wait_for_it_again(
        self, client, request_for
    ):
        """Its evidence is kept; only readiness is awaited."""
        vm = await (await client.vms.create(request_for(), ready=Ready.address()))
        await asyncio.sleep(30)
        door = Door()
        task = await client.vms.reboot(vm, ready=Ready.address() & Ready.check(door))
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=40)
        resumed = client.resume(task.token())
        before = asyncio.get_running_loop().time()
        await resumed
        assert asyncio.get_running_loop().time() - before <= 2
        door.open = True
        await task
        assert resumed.evidence == task.evidence != "assumed"

    async def test_an_unknown_reboot_is_reconciled_with_its_conditions(
        self, api, client, request_for
    ):
        vm = await (await client.vms.create(request_for()))
        await asyncio.sleep(30)
        api.faults.fail_next("reboot")
        task = await client.vms.reboot(vm, ready=Ready.address())
        assert task.adopted
        assert (await task).addresses
        assert task.history[-1].condition == "address"


class TestRequests:
    def test_a_request_needs_no_readiness(self):
        """A `CreateRequest` is what is sent; readiness is an argument of the call."""
        with pytest.raises(TypeError):
            CreateRequest(name="a", cpus=1, ram=1, zone_id="z", boot=CdromBoot(iso="x"), ready=None)
