"""Tasks against a lifelike cloud, in virtual time."""

import asyncio
import base64
import json
import math
import re
import shlex
from urllib.parse import quote

import anyio
import pytest

from async_vmapi import (
    AuthenticationError,
    Client,
    Evidence,
    InvalidArgument,
    InvalidState,
    NotFound,
    Task,
    TaskFailed,
    TaskTimeout,
    VMVanished,
)
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.tasks import token as tokens

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


async def online(client, request_for, name="web-01"):
    return await (await client.vms.create(request_for(name)))


def finished(cloud_api, operation):
    """Return when the cloud really finished the last operation of a kind."""
    return [o for o in cloud_api.cloud.operations if o.kind == operation][-1].finished_at


class TestOperations:
    async def test_a_create_completes_online(self, memory_client, request_for):
        """Awaiting a create returns the VM as it was observed online."""
        task = await memory_client.vms.create(request_for())
        assert task.operation == "create"
        assert not task.done()
        vm = await task
        assert (vm.id, vm.label, vm.state) == (task.vm_id, "web-01", "online")
        assert task.done()
        assert task.result() == vm
        assert task.last_seen == vm
        assert task.evidence is Evidence.OBSERVED
        assert 30 <= now() <= 110

    @pytest.mark.parametrize("max_staleness", [0.0, 10.0])
    async def test_each_operation_reaches_its_target_state(
        self, max_staleness, cloud_api, request_for
    ):
        """Not before the cloud finished it."""
        client = Client.in_memory(cloud_api, seed=1, max_staleness=max_staleness)
        vms = client.vms
        vm = await online(client, request_for)
        for start, state in (
            (lambda: vms.resize(vm, cores=4, ram=4096), "online"),
            (lambda: vms.reboot(vm), "online"),
            (lambda: vms.reset(vm.id), "online"),
            (lambda: vms.shutdown(vm, wait_for=1), "offline"),
            (lambda: vms.power_on(vm), "online"),
            (lambda: vms.power_off(vm), "offline"),
        ):
            task = await start()
            seen = await task
            assert now() >= finished(cloud_api, task.operation), task
            assert seen.state == state, task
            # Both sides of what is over within max_staleness cannot be distinguished by time.
            assert task.evidence in {Evidence.OBSERVED, Evidence.INFERRED}, task
            if max_staleness == 0.0:
                assert task.evidence is Evidence.OBSERVED, task
        assert (seen.cores, seen.ram) == (4, 4096)
        task = await vms.delete(vm)
        assert await task is None
        assert now() >= finished(cloud_api, "delete")
        assert task.result() is None
        with pytest.raises(NotFound):
            await vms.get(vm)

    async def test_both_shapes_of_get_are_read(self, request_for):
        """A bare VM, and a list of one."""
        for shape in ("list", "object"):
            api = CloudAPI(settings=Settings(get_shape=shape, sparse=shape == "object"))
            async with Client.in_memory(api, seed=1) as client:
                vm = await online(client, request_for)
                assert (await client.vms.get(vm)).state == "online"

    async def test_unknown_states_are_passed_through(self, request_for):
        """An unknown state is shown unchanged, and polling continues."""
        api = CloudAPI(settings=Settings(create=60, not_found=0, extra_states=("warming-up",)))
        async with Client.in_memory(api, seed=1) as client:
            task = await client.vms.create(request_for())
            await task
            assert [event.state for event in task.history] == [
                "installing",
                "warming-up",
                "online",
            ]

    async def test_a_guest_that_ignores_acpi_is_turned_off(
        self, memory_client, cloud_api, request_for
    ):
        """A shutdown waits for as long as the guest has, and longer."""
        cloud_api.cloud.adjust("*", acpi="ignore")
        vm = await online(memory_client, request_for)
        began = now()
        vm = await (await memory_client.vms.shutdown(vm, wait_for=30))
        assert vm.state == "offline"
        assert now() - began >= 30 * 60

    async def test_a_reboot_that_does_not_show_is_assumed(
        self, memory_client, cloud_api, request_for
    ):
        """The evidence says that only time has passed."""
        cloud_api.cloud.adjust("*", reboot_visible=False)
        vm = await online(memory_client, request_for)
        task = await memory_client.vms.reboot(vm)
        assert (await task).state == "online"
        assert task.evidence is Evidence.ASSUMED
        assert "assumed" in repr(task)

    async def test_a_resize_may_complete_offline(self, memory_client, cloud_api, request_for):
        """The VM is not started again, and its state lasts."""
        cloud_api.cloud.adjust("*", restart_after_resize=False)
        vm = await online(memory_client, request_for)
        resized = await (await memory_client.vms.resize(vm, cores=2, ram=2048))
        assert (resized.state, resized.cores, resized.ram) == ("offline", 2, 2048)


class TestFailures:
    async def test_a_failure_state_fails_the_task(self, memory_client, cloud_api, request_for):
        """The error holds all observations."""
        cloud_api.cloud.adjust("bad-*", fail_state="error")
        task = await memory_client.vms.create(request_for("bad-1"))
        with pytest.raises(TaskFailed, match="error") as caught:
            await task
        error = caught.value
        assert (error.vm_id, error.operation, error.last_state) == (task.vm_id, "create", "error")
        assert [state for _, state in error.history][:2] == ["installing", "error"]
        assert error.token
        assert task.done()
        assert "failed" in repr(task)
        with pytest.raises(TaskFailed):
            task.result()

    async def test_a_vm_that_is_deleted_meanwhile_has_vanished(
        self, memory_client, cloud_api, request_for
    ):
        """The task raises `VMVanished`."""
        cloud_api.cloud.adjust("*", delete=0.5, stale=0)
        vm = await online(memory_client, request_for)
        task = await memory_client.vms.shutdown(vm, wait_for=30)
        cloud_api.cloud.operate("delete", vm.id, now())
        with pytest.raises(VMVanished, match="gone") as caught:
            await task
        assert caught.value.operation == "shutdown"

    async def test_a_task_can_be_awaited_again_after_a_timeout(self, memory_client, request_for):
        """To its completion."""
        task = await memory_client.vms.create(request_for())
        with pytest.raises(TaskTimeout, match=r"within 10 s") as caught:
            await task.wait(timeout=10)
        assert isinstance(caught.value, TimeoutError)
        assert now() == pytest.approx(10, abs=0.1)
        assert caught.value.last_state in {None, "installing"}
        assert not task.done()
        assert (await task).state == "online"

    @pytest.mark.parametrize("timeout", [None, math.inf])
    async def test_no_timeout(self, memory_client, cloud_api, request_for, timeout):
        """None, or infinity, waits for as long as it takes."""
        cloud_api.cloud.adjust("*", create=20_000)
        task = await memory_client.vms.create(request_for())
        assert (await task.wait(timeout=timeout)).state == "online"

    async def test_the_default_timeout(self, memory_client, cloud_api, request_for):
        """A create that takes hours times out after half an hour."""
        cloud_api.cloud.adjust("*", create=20_000)
        task = await memory_client.vms.create(request_for())
        with pytest.raises(TaskTimeout):
            await task
        assert now() == pytest.approx(1800, abs=1)

    @pytest.mark.parametrize("timeout", [0, -1, "5", True, math.nan])
    async def test_a_wrong_timeout_is_refused(self, memory_client, request_for, timeout):
        """It is a number above zero."""
        task = await memory_client.vms.create(request_for())
        with pytest.raises(InvalidArgument, match="timeout"):
            await task.wait(timeout=timeout)

    async def test_the_result_of_a_pending_task_is_an_error(self, memory_client, request_for):
        """The task has none yet."""
        task = await memory_client.vms.create(request_for())
        with pytest.raises(InvalidState, match="await it"):
            task.result()
        assert task.evidence is None
        assert task.last_seen is None

    @pytest.mark.parametrize("count", [1, 3])
    async def test_failed_polls_do_not_fail_the_task(
        self, memory_client, cloud_api, request_for, count
    ):
        """Unreadable responses are skipped, GETs and lists, and reported if the time runs out."""
        tasks = [await memory_client.vms.create(request_for(f"w-{n}")) for n in range(count)]
        handle, cloud_api.handle = cloud_api.handle, unavailable(cloud_api.handle)
        waits = [task.wait(timeout=300) for task in tasks]
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, TaskTimeout)
            assert re.search(r"[1-9]\d* polls failed", str(error))
            assert "status 503" in error.last_poll_error
        assert cloud_api.requests["get" if count == 1 else "list"] > 5
        assert cloud_api.requests.total() < 60
        cloud_api.handle = handle
        assert [vm.state for vm in await asyncio.gather(*tasks)] == ["online"] * count

    async def test_unreadable_responses_do_not_fail_the_task(
        self, memory_client, cloud_api, request_for
    ):
        """They are skipped like failed polls."""
        task = await memory_client.vms.create(request_for())
        handle, cloud_api.handle = cloud_api.handle, garbled(cloud_api.handle)
        with pytest.raises(TaskTimeout, match="polls failed") as caught:
            await task.wait(timeout=300)
        assert "cannot decode the response" in caught.value.last_poll_error
        assert cloud_api.requests["get"] < 60
        cloud_api.handle = handle
        assert (await task).state == "online"

    async def test_a_refused_key_ends_the_wait(self, memory_client, cloud_api, request_for):
        """Awaiters get the error at once; the task can be awaited again."""
        tasks = [await memory_client.vms.create(request_for(f"w-{n}")) for n in range(3)]
        secret, cloud_api.api_secret = cloud_api.api_secret, "another"
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [AuthenticationError] * 3
        assert cloud_api.requests["refused"] <= 3
        cloud_api.api_secret = secret
        assert [vm.state for vm in await asyncio.gather(*tasks)] == ["online"] * 3


def garbled(handle):
    def garble(request, **when):
        response = handle(request, **when)
        return type(response)(response.status, response.headers, b"<html>")

    return garble


def unavailable(handle):
    def fail(request, **when):
        return type(handle(request, **when))(503, {}, b"")

    return fail


class TestAwaiting:
    async def test_a_task_is_an_awaitable(self, memory_client, request_for):
        """gather, wait_for, as_completed, TaskGroup and move_on_after take a task."""
        create = memory_client.vms.create
        one, two = await asyncio.gather(
            await create(request_for("a")), await create(request_for("b"))
        )
        assert {one.label, two.label} == {"a", "b"}
        assert (await asyncio.wait_for(await create(request_for("c")), 1000)).label == "c"
        for first in asyncio.as_completed([await create(request_for("d"))]):
            assert (await first).label == "d"
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task((await create(request_for("e"))).wait())
        assert waiting.result().label == "e"
        task = await create(request_for("f"))
        with anyio.move_on_after(5) as scope:
            await task
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 5)
        assert (await task).label == "f"

    async def test_a_hundred_awaiters_cost_what_one_costs(self, request_for):
        """The same requests are sent; after completion none."""
        asked = []
        for awaiters in (1, 100):
            api = CloudAPI(seed=1)
            async with Client.in_memory(api, seed=1) as client:
                task = await client.vms.create(request_for())
                results = await asyncio.gather(*(task.wait() for _ in range(awaiters)))
                assert all(vm == results[0] for vm in results)
                asked.append(dict(api.requests))
                await task
                await asyncio.gather(*(task.wait() for _ in range(awaiters)))
                assert dict(api.requests) == asked[-1]
        assert asked[0] == asked[1]

    async def test_a_task_without_awaiters_is_not_polled(
        self, memory_client, cloud_api, request_for
    ):
        """Nothing is sent, and nothing is left running."""
        task = await memory_client.vms.create(request_for(), unique_name=True)
        await asyncio.sleep(1000)
        assert cloud_api.requests == {"create": 1}
        assert len(asyncio.all_tasks()) == 1
        waiter = asyncio.create_task(task.wait())
        await asyncio.sleep(10)
        waiter.cancel()
        await asyncio.sleep(0.001)
        asked = dict(cloud_api.requests)
        await asyncio.sleep(1000)
        assert dict(cloud_api.requests) == asked
        assert len(asyncio.all_tasks()) == 1

    async def test_cancelling_one_awaiter_does_not_touch_another(self, memory_client, request_for):
        """The second one gets its result."""
        task = await memory_client.vms.create(request_for())
        first, second = asyncio.create_task(task.wait()), asyncio.create_task(task.wait())
        await asyncio.sleep(3)
        first.cancel()
        assert (await second).state == "online"
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_events_yield_every_change_until_completion(self, memory_client, request_for):
        """A late iteration gets the past events first."""
        vm = await online(memory_client, request_for)
        task = await memory_client.vms.reboot(vm)
        live = [event async for event in task.events()]
        # Once back online, it must be so in a read that cannot be older than its being away.
        assert [event.state for event in live] == ["online", "offline", "online", "online"]
        assert [event.final for event in live] == [False, False, False, True]
        assert live[-1].evidence in {Evidence.OBSERVED, Evidence.INFERRED}
        assert [event.vm.state for event in live] == [event.state for event in live]
        assert sorted(event.elapsed for event in live) == [event.elapsed for event in live]
        assert [event async for event in task.events()] == live
        assert task.history == tuple(live)

    async def test_leaving_the_events_early_leaves_nothing_behind(
        self, memory_client, cloud_api, request_for
    ):
        """Breaking out of the loop stops the polling."""
        task = await memory_client.vms.create(request_for())
        async for event in task.events():
            assert event.state == "installing"
            break
        await asyncio.sleep(0.001)
        asked = dict(cloud_api.requests)
        await asyncio.sleep(500)
        assert dict(cloud_api.requests) == asked
        assert len(asyncio.all_tasks()) == 1

    async def test_events_end_with_a_failure(self, memory_client, cloud_api, request_for):
        """The last event shows the failure; only awaiting the task raises."""
        cloud_api.cloud.adjust("*", fail_state="error", create=20)
        task = await memory_client.vms.create(request_for())
        events = [event async for event in task.events()]
        assert events[-1].final
        assert events[-1].state == "error"
        assert events[-1].evidence is None

    async def test_the_vm_of_an_event_is_none_once_it_is_gone(self, memory_client, request_for):
        """The last event of a deletion has none."""
        task = await memory_client.vms.delete(await online(memory_client, request_for))
        events = [event async for event in task.events()]
        assert (events[-1].state, events[-1].vm) == (None, None)
        assert task.last_seen.state == "deleting"

    async def test_two_tasks_of_one_vm_share_its_polls(self, memory_client, cloud_api, request_for):
        """No VM is polled by two requests at once."""
        vm = await online(memory_client, request_for)
        before = cloud_api.requests["get"]
        one = await memory_client.vms.shutdown(vm)
        two = memory_client.resume(one.token())
        results = await asyncio.gather(one, two)
        assert results[0] == results[1]
        shared = cloud_api.requests["get"] - before
        await (await memory_client.vms.power_on(vm))
        before = cloud_api.requests["get"]
        await (await memory_client.vms.shutdown(vm))
        assert shared <= 2 * (cloud_api.requests["get"] - before)

    async def test_closing_the_client_releases_awaiters(self, memory_client, request_for):
        """They get an error."""
        task = await memory_client.vms.create(request_for())
        waiter = asyncio.create_task(task.wait())
        await asyncio.sleep(1)
        await memory_client.close()
        with pytest.raises(InvalidState, match="closed"):
            await waiter

    async def test_polling_survives_the_cancellation_of_all_other_tasks(
        self, memory_client, request_for
    ):
        """An awaiter that was not cancelled is still served."""
        task = await memory_client.vms.create(request_for())

        async def cancel_the_rest():
            await asyncio.sleep(3)
            for other in asyncio.all_tasks():
                if other.get_name() == "async_vmapi poll":
                    other.cancel()

        canceller = asyncio.create_task(cancel_the_rest())
        assert (await task).state == "online"
        await canceller

    async def test_cancelled_polls_of_missing_vms_are_repeated(self, request_for):
        """Deletes are confirmed all the same."""
        api = CloudAPI(settings=Settings(delete=(2, 3), stale=0), seed=1)
        async with Client.in_memory(api, latency=0.5, seed=1) as client:
            vms = await asyncio.gather(*(client.vms.create(request_for()) for _ in range(40)))
            await asyncio.gather(*vms)
            tasks = await asyncio.gather(*(client.vms.delete(vm.vm_id) for vm in vms))
            waiting = [asyncio.ensure_future(task.wait(timeout=60)) for task in tasks]
            for _ in range(10):
                await asyncio.sleep(1.7)
                for other in asyncio.all_tasks():
                    if other.get_name() == "async_vmapi poll":
                        other.cancel()
            await asyncio.gather(*waiting)
        assert api.cloud.vms == {}


class TestTokens:
    async def test_another_client_resumes_a_task(self, memory_client, cloud_api, request_for):
        """A token is enough to see the completion; resuming never writes."""
        token = (await memory_client.vms.create(request_for())).token()
        async with Client.in_memory(cloud_api, seed=1) as other:
            task = other.resume(token)
            assert task.operation == "create"
            assert (await task).state == "online"
        assert cloud_api.requests["create"] == 1

    async def test_an_unobserved_transition_is_inferred(self, memory_client, request_for):
        """It happened before the task was resumed."""
        vm = await online(memory_client, request_for)
        token = (await memory_client.vms.shutdown(vm)).token()
        await asyncio.sleep(3600)
        task = memory_client.resume(token)
        assert (await task).state == "offline"
        assert task.evidence is Evidence.INFERRED

    async def test_resizes_and_deletes_can_be_resumed(self, memory_client, request_for):
        """A token carries what their completion depends on."""
        vm = await online(memory_client, request_for)
        resize = await memory_client.vms.resize(vm, cores=3, ram=3000, wait_for=1)
        resized = await memory_client.resume(resize.token())
        assert (resized.cores, resized.ram) == (3, 3000)
        delete = await memory_client.vms.delete(vm)
        assert await memory_client.resume(delete.token()) is None

    async def test_a_token_holds_no_secret(self, memory_client, cloud_api, request_for):
        """It is a short text without the credentials, however it is decoded."""
        token = (await memory_client.vms.create(request_for())).token()
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        for secret in (cloud_api.api_secret, cloud_api.api_key):
            assert secret not in token
            assert secret.encode() not in content

    async def test_a_token_is_url_safe(self, memory_client, request_for):
        """A path, a query and a shell take it unchanged; it is no longer than plain JSON."""
        token = (await memory_client.vms.create(request_for())).token()
        assert re.fullmatch("[A-Za-z][A-Za-z0-9_-]+", token)
        assert quote(token, safe="") == shlex.quote(token) == token
        content = tokens.peek(token)
        plain = {name: getattr(content, name) for name in ("origin", "operation", "vm", "elapsed")}
        assert len(token) <= len(json.dumps(plain)) + len('{"v":1,"sum":4294967295,"about":}')

    async def test_a_trailing_newline_is_ignored(self, memory_client, request_for):
        """Files and shells add one."""
        task = await memory_client.vms.create(request_for())
        assert memory_client.resume(f"{task.token()}\n").vm_id == task.vm_id

    async def test_a_damaged_token_is_refused(self, memory_client, request_for):
        """Whatever single character is changed or lost."""
        token = (await memory_client.vms.create(request_for())).token()
        for place, character in enumerate(token):
            for damage in ("", "0" if character != "0" else "1"):
                damaged = token[:place] + damage + token[place + 1 :]
                with pytest.raises(InvalidArgument, match="token"):
                    memory_client.resume(damaged)

    @pytest.mark.parametrize(
        "token",
        ["", "{}", "null", "[1]", "x", "x" * 100, "A" * 9, "AgAAAAA", "\ud800", b"{}", None],
    )
    async def test_other_texts_are_refused(self, memory_client, token):
        """The error says that it is no token."""
        with pytest.raises(InvalidArgument, match="token"):
            memory_client.resume(token)

    async def test_a_token_of_another_endpoint_is_refused(self, memory_client, request_for):
        """The error names both."""
        token = (await memory_client.vms.create(request_for())).token()
        async with Client("https://vm.example", api_key="k", api_secret="s") as other:
            with pytest.raises(InvalidArgument, match=r"in-memory.*vm\.example"):
                other.resume(token)

    async def test_a_token_of_another_version_is_refused(self, memory_client, request_for):
        """One of a later release says so; one of an earlier form is no token."""
        token = (await memory_client.vms.create(request_for())).token()
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        later = base64.urlsafe_b64encode(b"\3" + content[1:]).decode().rstrip("=")
        with pytest.raises(
            InvalidArgument, match="version 3; use the release that made it: this one reads 2"
        ):
            memory_client.resume(later)
        with pytest.raises(InvalidArgument, match="no token"):
            memory_client.resume(content[5:].decode())


class TestCancellation:
    async def test_an_awaiter_at_every_moment(self, request_for):
        """Also during a request: nothing leaks or is lost."""
        amid_a_request = 0
        for tick in range(1, 10_000):
            api = CloudAPI(seed=1, settings=Settings(create=4, not_found=1))
            async with Client.in_memory(api, latency=0.1, seed=1) as client:
                task = await client.vms.create(request_for())
                victim, other = (asyncio.create_task(task.wait()) for _ in range(2))
                await asyncio.sleep(0.03 * tick)
                if victim.done():
                    break
                amid_a_request += sum(client.requests.values()) > sum(api.requests.values())
                victim.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await victim
                assert (await other).state == "online"
                await asyncio.sleep(0.001)
                assert len(asyncio.all_tasks()) == 1
        assert tick > 100
        assert amid_a_request > 3

    async def test_the_only_awaiter_at_every_moment(self, request_for):
        """Polling stops, and can start again."""
        for tick in range(1, 10_000):
            api = CloudAPI(seed=1, settings=Settings(create=4, not_found=1))
            async with Client.in_memory(api, latency=0.1, seed=1) as client:
                task = await client.vms.create(request_for())
                victim = asyncio.create_task(task.wait())
                await asyncio.sleep(0.03 * tick)
                if victim.done():
                    break
                victim.cancel()
                await asyncio.sleep(0.001)
                assert len(asyncio.all_tasks()) == 1
                assert (await task).state == "online"
        assert tick > 100


def test_a_task_is_generic_in_its_result():
    """`Task[VirtualMachine]` can be written in annotations."""
    assert Task[int].__origin__ is Task
