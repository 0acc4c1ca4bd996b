"""That a large fleet does not block the event loop: other tasks run in between.

Counted in turns of the loop, not in time; how long each is, `benchmarks/decoding.py` measures.
"""

import asyncio
import contextlib
import gc

import pytest

from async_vmapi import Client, DecodingError
from async_vmapi.emulator import CloudAPI, Response
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.tasks.token import TaskToken, seal

pytestmark = pytest.mark.looptime


def cloud_of(count):
    api = CloudAPI(seed=1)
    zone, template = next(iter(ZONES.values())), TEMPLATES[0]
    for number in range(count):
        label = f"w-{number}"
        api.cloud.create(-1000.0, label=label, cores=1, ram=1024, zone=zone, template=template)
    return api


@contextlib.asynccontextmanager
async def turns():
    """Count how often another task runs."""
    counted = []

    async def count():
        while True:
            counted.append(1)
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    try:
        yield counted
    finally:
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting


async def turns_of_a_list(count):
    async with Client.in_memory(cloud_of(count), seed=1) as client:
        async with turns() as counted:
            vms = await client.vms.list()
        assert len(vms) == count
        return len(counted)


class TestList:
    async def test_other_tasks_run_while_a_large_list_is_read(self):
        """The more VMs, the more often."""
        assert await turns_of_a_list(2000) >= await turns_of_a_list(10) + 5

    async def test_a_small_list_is_read_at_once(self):
        """Yielding has a cost."""
        assert await turns_of_a_list(200) == await turns_of_a_list(10)

    async def test_an_unreadable_vm_is_named_by_its_place(self):
        """Also far behind in a long list."""
        api = cloud_of(400)
        handle = api.handle

        def spoilt(*arguments, **keywords):
            response = handle(*arguments, **keywords)
            before, cores, after = response.body.rpartition(b'"cores":1')
            assert cores
            return Response(response.status, response.headers, before + b'"cores":"x"' + after)

        api.handle = spoilt
        async with Client.in_memory(api, seed=1) as client:
            with pytest.raises(DecodingError) as caught:
                await client.vms.list()
        error = caught.value
        assert (error.method, error.path) == ("GET", "/v2/virtual-machines")
        assert error.where.startswith("$.virtual_machines[399]")
        assert error.__context__ is None
        assert gc.isenabled()

    async def test_disabled_garbage_collection_stays_disabled(self):
        """It is paused for some milliseconds, then restored."""
        gc.disable()
        try:
            async with Client.in_memory(cloud_of(300), seed=1) as client:
                await client.vms.list()
                assert not gc.isenabled()
        finally:
            gc.enable()


class TestUpdates:
    async def test_other_tasks_run_while_many_tasks_complete(self):
        """The first awaiters resume before the last task is completed."""
        api = cloud_of(1000)
        # With some seeds the last VMs change so late that a GET each is cheaper than a list.
        async with Client.in_memory(api, min_poll_interval=1, seed=1) as client:
            awaited = [
                client.resume(seal(TaskToken(client.origin, "shutdown", vm=vm_id, elapsed=100.0)))
                for vm_id in api.cloud.vms
            ]
            woke = []

            async def one(task):
                await task
                woke.append(sum(other.done() for other in awaited))

            waiting = [asyncio.create_task(one(task)) for task in awaited]
            await asyncio.sleep(30)
            assert client.requests["list"] > 1
            assert not any(task.done() for task in awaited)
            now = asyncio.get_running_loop().time()
            for vm_id in api.cloud.vms:
                api.cloud.operate("power_off", vm_id, now)
            await asyncio.gather(*waiting)
        assert client.requests["get"] == 0
        # The first awaiter resumed when few had completed.
        assert woke[0] <= 100
