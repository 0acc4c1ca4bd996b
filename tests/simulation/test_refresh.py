"""`Task.refresh`: one shared poll for callers that ask repeatedly and await nothing."""

import asyncio

import pytest

from async_vmapi import AuthenticationError, Client, InvalidState
from async_vmapi.emulator import CloudAPI, Settings

pytestmark = pytest.mark.looptime


@pytest.fixture
def api():
    """A cloud in which a create takes 30 s and is visible at once."""
    return CloudAPI(settings=Settings(create=30, not_found=0, address=0), seed=1)


def polls(client):
    return client.requests.get("get", 0), client.requests.get("list", 0)


class TestRefresh:
    async def test_a_status_endpoint_sees_the_completion(self, api, client, request_for):
        """Each call costs one GET; nothing is sent in between or after completion."""
        token = (await client.vms.create(request_for())).token()
        task = client.resume(token)
        before, asked = polls(client), 0
        while not await task.refresh():
            asked += 1
            assert polls(client) == (before[0] + asked, before[1])
            await asyncio.sleep(4)
        assert (await task).label == "web-01"
        assert 7 <= asked <= 9
        sent = client.requests
        total = sum(sent.values())
        assert await task.refresh()
        await asyncio.sleep(100)
        assert sum(sent.values()) == total
        assert task.done()

    async def test_simultaneous_calls_share_a_poll(self, client, request_for):
        """Of one task or several of the same VM, also with one that is awaited."""
        task = await client.vms.create(request_for())
        other = client.resume(task.token())
        waiting = asyncio.ensure_future(other.wait())
        await asyncio.sleep(0)
        before = polls(client)
        both = [task.refresh() for _ in range(50)] + [other.refresh() for _ in range(50)]
        assert await asyncio.gather(*both) == [False] * 100
        assert polls(client) == (before[0] + 1, before[1])
        assert (await waiting).label == "web-01"

    async def test_a_poll_in_flight_is_shared(self, api, request_for):
        """A call meanwhile gets its result."""
        async with Client.in_memory(api, latency=0.5, seed=1) as client:
            task = await client.vms.create(request_for())
            before = polls(client)
            first = asyncio.ensure_future(task.refresh())
            await asyncio.sleep(0.3)
            assert await task.refresh() is False
            assert await first is False
            assert polls(client) == (before[0] + 1, before[1])

    async def test_a_recent_observation_is_enough(self, client, request_for):
        """No poll within `min_poll_interval` of the last one."""
        task = await client.vms.create(request_for())
        before = polls(client)
        assert await task.refresh() is False
        assert polls(client) == (before[0] + 1, before[1])
        for _ in range(20):
            await asyncio.sleep(0.04)
            assert await task.refresh() is False
        assert polls(client) == (before[0] + 1, before[1])
        await asyncio.sleep(0.2)
        assert await task.refresh() is False
        assert polls(client) == (before[0] + 2, before[1])

    async def test_many_tasks_are_refreshed_by_one_list(self, client, request_for):
        """As awaited tasks are."""
        tasks = [await client.vms.create(request_for()) for _ in range(40)]
        await asyncio.sleep(5)
        before = polls(client)
        assert await asyncio.gather(*(task.refresh() for task in tasks)) == [False] * 40
        assert polls(client) == (before[0], before[1] + 1)

    async def test_a_failing_server_is_no_error(self, api, client, request_for):
        """It is polled less and less, and the task stays pending."""
        task = await client.vms.create(request_for())
        for _ in range(20):
            api.faults.fail_next("get", "server_error")
        before, began = polls(client), asyncio.get_running_loop().time()
        assert await task.refresh() is False
        assert asyncio.get_running_loop().time() - began < 6
        assert 1 <= polls(client)[0] - before[0] <= 4
        api.faults.clear()
        await asyncio.sleep(60)
        assert await task.refresh()

    async def test_a_failed_task_raises_nothing(self, api, client, request_for):
        """The task has the reason."""
        api.cloud.adjust("*", fail_state="error")
        task = await client.vms.create(request_for())
        for _ in range(20):
            await asyncio.sleep(30)
            if await task.refresh():
                break
        assert task.done()
        assert "failed" in repr(task)

    async def test_refused_credentials_raise(self, api, client, request_for):
        """Waiting does not help."""
        task = await client.vms.create(request_for())
        api.api_secret = "another"
        with pytest.raises(AuthenticationError):
            await task.refresh()

    async def test_a_closed_client_raises(self, client, request_for):
        """The call does not open it."""
        task = await client.vms.create(request_for())
        await client.close()
        with pytest.raises(InvalidState, match="closed"):
            await task.refresh()
