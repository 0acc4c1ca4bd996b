"""That a large fleet does not hold the event loop: others get their turn in between.

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
    """Count how often somebody else has a turn."""
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
    async with Client.in_memory(cloud_of(count)) as client:
        async with turns() as counted:
            machines = await client.vms.list()
        assert len(machines) == count
        return len(counted)


class TestList:
    async def test_others_have_their_turn_while_a_large_one_is_read(self):
        """The more machines, the more often."""
        assert await turns_of_a_list(2000) >= await turns_of_a_list(10) + 5

    async def test_a_small_one_is_read_at_once(self):
        """To take turns is not for nothing."""
        assert await turns_of_a_list(200) == await turns_of_a_list(10)

    async def test_what_cannot_be_read_is_told_with_its_place(self):
        """Also far behind in a long list."""
        api = cloud_of(400)
        handle = api.handle

        def spoilt(*arguments, **keywords):
            response = handle(*arguments, **keywords)
            before, cores, after = response.body.rpartition(b'"cores":1')
            assert cores
            return Response(response.status, response.headers, before + b'"cores":"x"' + after)

        api.handle = spoilt
        async with Client.in_memory(api) as client:
            with pytest.raises(DecodingError) as caught:
                await client.vms.list()
        error = caught.value
        assert (error.method, error.path) == ("GET", "/v2/virtual-machines")
        assert error.where.startswith("$.virtual_machines[399]")
        assert error.__context__ is None
        assert gc.isenabled()

    async def test_who_has_switched_off_garbage_collection_keeps_it_so(self):
        """It is paused for some milliseconds, and then as it was."""
        gc.disable()
        try:
            async with Client.in_memory(cloud_of(300)) as client:
                await client.vms.list()
                assert not gc.isenabled()
        finally:
            gc.enable()


class TestTick:
    async def test_others_have_their_turn_while_many_are_told_of_their_ends(self):
        """Those who awaited them, among others, before the last one is told."""
        api = cloud_of(1000)
        async with Client.in_memory(api, min_poll_interval=1) as client:
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
        # The first who awaited was told when few had ended.
        assert woke[0] <= 100
