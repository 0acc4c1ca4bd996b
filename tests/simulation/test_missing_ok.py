"""Deleting what is gone already: a success where that is asked for, and never a wrong one."""

import asyncio

import pytest

from async_vmapi import (
    APIError,
    BulkReport,
    Client,
    Evidence,
    InvalidArgument,
    NotFound,
    Response,
    TaskFailed,
)
from async_vmapi.emulator import CloudAPI, InMemoryTransport, Settings

pytestmark = pytest.mark.looptime

FORMS = ["json", "bare", "html", "gone", "success_false"]


def cloud_with(form):
    return CloudAPI(settings=Settings(not_found_form=form, not_found=0), seed=1)


async def gone_in(client, request_for, count=1):
    """Return VMs, as a list showed them, that were deleted since then."""
    tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(count)]
    vms = await asyncio.gather(*tasks)
    other = await asyncio.gather(*map(client.vms.delete, vms))
    await asyncio.gather(*other)
    return vms


class Denying:
    """A transport to a cloud that denies each DELETE as a proxy or a stale replica may."""

    def __init__(self, api):
        self._inner = InMemoryTransport(api, latency=0.02)

    async def send(self, method, *rest):
        if method == "DELETE":
            return Response(404, {}, b'{"success": false, "error": "no such VM"}')
        return await self._inner.send(method, *rest)

    async def close(self):
        pass


def through(transport, api):
    return Client(
        "https://vm.example.com",
        api_key=api.api_key,
        api_secret=api.api_secret,
        transport=transport,
        seed=1,
    )


class TestOne:
    @pytest.mark.parametrize("form", FORMS)
    async def test_a_vm_that_is_gone(self, request_for, form):
        """In whatever form the API says so; the end is inferred, for it was not seen to go."""
        async with Client.in_memory(cloud_with(form), latency=0.02, seed=1) as client:
            (vm,) = await gone_in(client, request_for)
            with pytest.raises(APIError) as caught:
                await client.vms.delete(vm)
            assert isinstance(caught.value, NotFound) is (form != "success_false")
            task = await client.vms.delete(vm, missing_ok=True)
            assert (task.was_missing, task.adopted, task.done()) == (True, False, False)
            assert client.resume(task.token()).was_missing
            assert await task is None
            assert task.evidence is Evidence.INFERRED
            assert client.unresolved == ()

    async def test_by_an_id_that_no_read_has_shown(self, client):
        """It may be of a VM that is not visible yet, so that takes a minute longer."""
        began = asyncio.get_running_loop().time()
        task = await client.vms.delete("never-was", missing_ok=True)
        await task
        assert 60 < asyncio.get_running_loop().time() - began < 90
        assert task.evidence is Evidence.INFERRED

    async def test_a_vm_that_is_there(self, client, request_for):
        """Nothing is different."""
        vm = await (await client.vms.create(request_for()))
        task = await client.vms.delete(vm, missing_ok=True)
        assert not task.was_missing
        await task
        assert task.evidence is Evidence.OBSERVED

    async def test_a_vm_that_is_there_although_the_api_denies_it(self, api, request_for):
        """The task fails as soon as a read proves it: nothing was deleted."""
        async with through(Denying(api), api) as client:
            vm = await (await client.vms.create(request_for()))
            began = asyncio.get_running_loop().time()
            task = await client.vms.delete(vm, missing_ok=True)
            with pytest.raises(TaskFailed, match="it was not deleted"):
                await task
            assert asyncio.get_running_loop().time() - began < 20
            report = await client.bulk().delete([vm])
            assert report.counts["failed"] == 1
        assert vm.id in api.cloud.vms

    async def test_a_vm_that_is_not_visible_yet(self, request_for):
        """Its delete is refused as that of an unknown VM: that it is gone would be wrong."""
        api = CloudAPI(settings=Settings(not_found=25, create=30), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vm_id = (await client.vms.create(request_for())).vm_id
            task = await client.vms.delete(vm_id, missing_ok=True)
            assert task.was_missing
            with pytest.raises(TaskFailed, match="it was not deleted"):
                await task
        assert vm_id in api.cloud.vms

    @pytest.mark.parametrize("fault", ["success_false", "rate_limited"])
    async def test_another_refusal(self, api, request_for, fault):
        """`success: false` with a VM that is there is raised, not watched until a timeout."""
        async with Client.in_memory(api, latency=0.02, seed=1, max_retries=0) as client:
            vm = await (await client.vms.create(request_for()))
            api.faults.fail_next("delete", fault)
            with pytest.raises(APIError):
                await client.vms.delete(vm, missing_ok=True)

    async def test_wrong_arguments(self, client):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument, match="missing_ok"):
            await client.vms.delete("17", missing_ok=1)
        with pytest.raises(InvalidArgument, match="missing_ok"):
            await client.bulk().delete(["17"], missing_ok="no")
        assert not client.requests


class TestMany:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("by_name", [False, True])
    async def test_what_is_gone_has_succeeded(self, request_for, form, by_name):
        """It costs nothing of the failure budget, and the report says of which."""
        api = cloud_with(form)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            gone = await gone_in(client, request_for, 6)
            there = [await (await client.vms.create(request_for(f"x-{n}"))) for n in range(3)]
            bulk = client.bulk(max_failures=0)
            vms = [*gone, *there]
            report = await (bulk.run(vms, "delete") if by_name else bulk.delete(vms))
            assert report.counts == {"succeeded": 9, "failed": 0, "unknown": 0, "not_started": 0}
            assert report.stopped is None
            said = [outcome.reason for outcome in report.outcomes]
            assert said == ["it was gone already"] * 6 + [""] * 3
            assert {o.evidence for o in report.outcomes[:6]} == {"inferred"}
            assert BulkReport.from_json(report.to_json()) == report
            report.raise_on_failure()
        assert api.cloud.vms == {}

    async def test_unless_that_is_not_wanted(self, request_for):
        """As for one VM."""
        async with Client.in_memory(cloud_with("json"), latency=0.02, seed=1) as client:
            report = await client.bulk().delete(
                await gone_in(client, request_for, 2), missing_ok=False
            )
            assert [outcome.error for outcome in report.failed] == ["NotFound"] * 2

    async def test_an_interrupted_call_goes_on(self, request_for):
        """The token of one that is watched knows that it was missing."""
        async with Client.in_memory(cloud_with("json"), latency=0.02, seed=1) as client:
            gone = await gone_in(client, request_for, 2)
            bulk = client.bulk()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await bulk.delete(gone)
            assert bulk.report.counts["unknown"] == 2
            report = await bulk.resume(BulkReport.from_json(bulk.report.to_json()))
            assert [outcome.reason for outcome in report.succeeded] == ["it was gone already"] * 2
