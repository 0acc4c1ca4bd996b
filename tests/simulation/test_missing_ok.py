"""Deleting VMs that are gone: a success where `missing_ok` is set, and never a wrong one."""

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
    """Return VMs, as a list showed them, that have been deleted since."""
    tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(count)]
    vms = await asyncio.gather(*tasks)
    other = await asyncio.gather(*map(client.vms.delete, vms))
    await asyncio.gather(*other)
    return vms


class Denying:
    """A transport that refuses each DELETE, as a proxy or a stale replica may."""

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


class TestOneVM:
    @pytest.mark.parametrize("form", FORMS)
    async def test_a_missing_vm_succeeds(self, request_for, form):
        """In every form of the refusal; evidence is inferred, as no deletion was observed."""
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

    async def test_an_id_that_no_read_has_shown_takes_a_minute_longer(self, client):
        """The VM may be not visible yet."""
        began = asyncio.get_running_loop().time()
        task = await client.vms.delete("never-was", missing_ok=True)
        await task
        assert 60 < asyncio.get_running_loop().time() - began < 90
        assert task.evidence is Evidence.INFERRED

    async def test_an_existing_vm_is_deleted_as_usual(self, client, request_for):
        """`missing_ok` changes nothing."""
        vm = await (await client.vms.create(request_for()))
        task = await client.vms.delete(vm, missing_ok=True)
        assert not task.was_missing
        await task
        assert task.evidence is Evidence.OBSERVED

    async def test_an_existing_vm_that_the_api_denies_fails(self, api, request_for):
        """The task fails as soon as a read proves that nothing was deleted."""
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

    async def test_a_vm_that_is_not_visible_yet_fails(self, request_for):
        """Its delete is refused as that of an unknown VM; success would be wrong."""
        api = CloudAPI(settings=Settings(not_found=25, create=30), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vm_id = (await client.vms.create(request_for())).vm_id
            task = await client.vms.delete(vm_id, missing_ok=True)
            assert task.was_missing
            with pytest.raises(TaskFailed, match="it was not deleted"):
                await task
        assert vm_id in api.cloud.vms

    @pytest.mark.parametrize("fault", ["success_false", "rate_limited"])
    async def test_another_refusal_is_raised(self, api, request_for, fault):
        """`success: false` about an existing VM is not watched until a timeout."""
        async with Client.in_memory(api, latency=0.02, seed=1, max_retries=0) as client:
            vm = await (await client.vms.create(request_for()))
            api.faults.fail_next("delete", fault)
            with pytest.raises(APIError):
                await client.vms.delete(vm, missing_ok=True)

    async def test_wrong_arguments_are_refused(self, client):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument, match="missing_ok"):
            await client.vms.delete("17", missing_ok=1)
        with pytest.raises(InvalidArgument, match="missing_ok"):
            await client.bulk().delete(["17"], missing_ok="no")
        assert not client.requests


class TestManyVMs:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("by_name", [False, True])
    async def test_missing_vms_have_succeeded(self, request_for, form, by_name):
        """They do not spend the failure budget, and the report names them."""
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

    async def test_missing_vms_fail_without_missing_ok(self, request_for):
        """As for one VM."""
        async with Client.in_memory(cloud_with("json"), latency=0.02, seed=1) as client:
            report = await client.bulk().delete(
                await gone_in(client, request_for, 2), missing_ok=False
            )
            assert [outcome.error for outcome in report.failed] == ["NotFound"] * 2

    async def test_a_resumed_report_keeps_what_was_missing(self, request_for):
        """The token of a watched item holds that the VM was missing."""
        async with Client.in_memory(cloud_with("json"), latency=0.02, seed=1) as client:
            gone = await gone_in(client, request_for, 2)
            bulk = client.bulk()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2):
                    await bulk.delete(gone)
            assert bulk.report.counts["unknown"] == 2
            report = await bulk.resume(BulkReport.from_json(bulk.report.to_json()))
            assert [outcome.reason for outcome in report.succeeded] == ["it was gone already"] * 2
