"""Misuse: each mistake gets a clear error that says what to do."""

import asyncio
import gc
import warnings

import anyio
import pytest

from async_vmapi import Client, InvalidState
from async_vmapi.emulator import CloudAPI, Settings

pytestmark = pytest.mark.looptime


@pytest.fixture
def api():
    """A cloud in which a create takes 30 s."""
    return CloudAPI(settings=Settings(create=30, not_found=0, address=0), seed=1)


@pytest.fixture
def uses(request_for):
    """Every use of a client, by name."""

    async def bulk(client):
        report = await client.bulk().create([request_for()])
        raise report.outcomes[0].exception

    return {
        "list": lambda client, task: client.vms.list(),
        "get": lambda client, task: client.vms.get(task.vm_id),
        "create": lambda client, task: client.vms.create(request_for("new")),
        "reboot": lambda client, task: client.vms.reboot(task.vm_id),
        "delete": lambda client, task: client.vms.delete(task.vm_id),
        "rename": lambda client, task: client.vms.rename(task.vm_id, "new"),
        "console": lambda client, task: client.vms.console(task.vm_id),
        "regions": lambda client, task: client.regions.list(),
        "keys": lambda client, task: client.account.ssh_keys(),
        "wait": lambda client, task: task.wait(),
        "refresh": lambda client, task: task.refresh(),
        "events": lambda client, task: anext(task.events()),
        "resume": lambda client, task: client.resume(task.token()).wait(),
        "bulk": lambda client, task: bulk(client),
    }


class TestClosedClients:
    async def test_using_a_closed_client_is_an_error(self, api, uses):
        """Nothing is sent or left open."""
        for name, use in uses.items():
            async with Client.in_memory(api, seed=1) as client:
                task = await client.vms.create(request_of("web-01"), unique_name=True)
            sent = dict(client.requests)
            with pytest.raises(InvalidState, match=r"closed.*`async with client:`"):
                await use(client, task)
            assert client.requests == sent, name
            assert client.unresolved == (), name

    async def test_close_closes_a_client_that_was_not_entered(self, api, uses):
        """As after `async with`."""
        client = Client.in_memory(api, seed=1)
        task = await client.vms.create(request_of("web-01"))
        await client.close()
        for use in uses.values():
            with pytest.raises(InvalidState, match="closed"):
                await use(client, task)

    async def test_entering_opens_it_again(self, api):
        """Any number of times; its tasks continue."""
        client = Client.in_memory(api, seed=1)
        async with client:
            task = await client.vms.create(request_of("web-01"))
        for _ in range(2):
            async with client:
                assert (await task).label == "web-01"
                assert len(await client.vms.list()) == 1
            with pytest.raises(InvalidState, match="closed"):
                await client.vms.list()

    async def test_closing_releases_awaiters(self, api):
        """They do not resume on a closed client."""
        client = Client.in_memory(api, seed=1)
        async with client:
            task = await client.vms.create(request_of("web-01"))
            waiting = asyncio.ensure_future(task.wait())
            await asyncio.sleep(1)
        with pytest.raises(InvalidState, match="closed"):
            await waiting


class TestTasksAreNotCoroutines:
    async def test_create_task_says_what_to_do(self, client, request_for):
        """The TypeError is asyncio's own; the task's repr is the hint."""
        task = await client.vms.create(request_for())
        with pytest.raises(TypeError, match=r"await it, or create_task\(task\.wait\(\)\)"):
            asyncio.create_task(task)  # noqa: RUF006
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(task)
        assert "create_task(task.wait())" in str(caught.value.exceptions[0])

    async def test_the_hint_works(self, client, request_for):
        """As does everything that takes awaitables."""
        task = await client.vms.create(request_for())
        async with asyncio.TaskGroup() as group:
            one = group.create_task(task.wait())
            other = asyncio.ensure_future(task)
            third = await asyncio.wait_for(task, 1000)
        assert one.result() == other.result() == third
        assert "create_task" not in repr(task)


def outside_asyncio(awaitable):
    """Run to the first suspension without any event loop, as under trio."""
    awaitable.__await__().send(None)


class TestWithoutAsyncio:
    @pytest.fixture
    def raises_a_hint(self):
        with warnings.catch_warnings(action="error"):
            yield pytest.raises(InvalidState, match=r"needs a running asyncio event loop.*trio")
            gc.collect()

    @pytest.mark.looptime(False)
    def test_entering_a_client(self, api, raises_a_hint):
        """The first thing that most programs do."""
        with raises_a_hint:
            outside_asyncio(Client.in_memory(api).__aenter__())

    @pytest.mark.looptime(False)
    @pytest.mark.parametrize(
        "name", ["list", "create", "reboot", "regions", "wait", "resume", "bulk"]
    )
    def test_a_request_of_a_client_that_was_not_entered(self, api, raises_a_hint, uses, name):
        """The first request raises the error."""
        client = Client.in_memory(api, seed=1)
        task = asyncio.run(begun(client))
        with raises_a_hint:
            outside_asyncio(uses[name](client, task))
        assert client.requests == {"create": 1}

    @pytest.mark.looptime(False)
    def test_anyio_on_asyncio_works(self, api):
        """The error suggests it."""

        async def run():
            async with Client.in_memory(api, seed=1) as client:
                return await client.vms.list()

        assert anyio.run(run, backend="asyncio") == []


async def begun(client):
    return await client.vms.create(request_of("web-01"), unique_name=True)


def request_of(name):
    from async_vmapi import CreateRequest, ImageBoot
    from async_vmapi.emulator.catalogue import ZONES

    return CreateRequest(
        name=name, cpus=1, ram=512, zone_id=next(iter(ZONES)), boot=ImageBoot(os="2268")
    )
