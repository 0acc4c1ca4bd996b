"""Providers whose reads are as stale as `max_staleness` allows, with every form of "not found"."""

import asyncio
from collections import Counter
from functools import partial

import looptime
import pytest

from async_vmapi import (
    Client,
    CreateRequest,
    Evidence,
    ImageBoot,
    InvalidArgument,
    TaskTimeout,
    TransportTimeout,
    VMVanished,
)
from async_vmapi.emulator import CloudAPI, InMemoryTransport, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from tests.virtual_time import JUMPING

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = [pytest.mark.looptime, pytest.mark.no_cover]

ZONE = next(iter(ZONES.values()))
REPLICAS = [
    {"replicas": (0, 10), "replica_choice": choice} for choice in ("random", "in_turn", "sticky")
]
STALE = [{"staleness": (0, 10)}, *REPLICAS]


def now():
    return asyncio.get_running_loop().time()


def place(api, count, **fields):
    """Add VMs that have been online all along."""
    size = {"cores": 1, "ram": 1024} | fields
    vms = [
        api.cloud.place(now(), label=f"w-{n}", zone=ZONE, template=TEMPLATES[0], **size)
        for n in range(count)
    ]
    return [vm.id for vm in vms]


def too_early(api, task, kind):
    """Return whether a task with observed evidence ended before the cloud did."""
    operation = next(
        o for o in reversed(api.cloud.operations) if o.vm_id == task.vm_id and o.kind == kind
    )
    finished = operation.finished_at
    return task.evidence is not Evidence.ASSUMED and (finished is None or finished > now())


class TestEvidence:
    @pytest.mark.parametrize("stale", STALE)
    async def test_a_thousand_reboots(self, stale):
        """None is reported as observed before the VM is back."""
        api = CloudAPI(settings=Settings(**stale), seed=1)
        early, evidence = [], Counter()
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            ids = place(api, 1000)

            async def reboot(vm_id):
                task = await client.vms.reboot(vm_id)
                await task
                evidence[task.evidence.value] += 1
                if too_early(api, task, "reboot"):
                    early.append(task)

            await asyncio.gather(*map(reboot, ids))
        print(dict(evidence))
        assert early == []
        assert evidence["assumed"] < 100

    @pytest.mark.parametrize("stale", STALE)
    async def test_a_sequence_of_all_operations(self, stale, stride, request_for):
        """Each begins as soon as the previous one is reported complete."""
        early = []
        for seed in range(40 // stride):
            api = CloudAPI(settings=Settings(**stale), seed=seed)
            async with Client.in_memory(api, latency=0.02, seed=seed) as client:
                task = await client.vms.create(request_for(), unique_name=True)
                vm = await task
                steps = ["shutdown", "power_on", "reboot", "resize", "power_off", "delete"]
                for kind in ["create", *steps]:
                    if kind != "create":
                        sizes = {"cores": 2, "ram": 2048} if kind == "resize" else {}
                        task = await getattr(client.vms, kind)(vm.id, **sizes)
                        await task
                    if too_early(api, task, kind):
                        early.append((seed, task))
                assert api.cloud.vms == {}
        assert early == []

    @pytest.mark.parametrize("stale", STALE)
    async def test_a_fleet_of_creates(self, stale, request_for):
        """A VM that some reads show and others do not is not gone."""
        api = CloudAPI(settings=Settings(**stale), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            report = await client.bulk(limit=120).create(
                [request_for(f"w-{n}") for n in range(120)], unique_name=True
            )
        assert report.counts["succeeded"] == 120

    async def test_reboots_shorter_than_max_staleness_are_observed(self):
        """Nothing else explains what the reads showed."""
        api = CloudAPI(settings=Settings(reboot=(4, 10), stale=0), seed=1)
        began, evidence = now(), Counter()
        async with Client.in_memory(api, latency=0.02, seed=1, min_poll_interval=0.1) as client:
            report = await client.bulk(limit=60).reboot(place(api, 60))
            evidence = Counter(outcome.evidence for outcome in report.succeeded)
        print(dict(evidence))
        assert evidence.total() == 60
        assert set(evidence) <= {"observed", "inferred"}
        assert now() - began < 25

    async def test_an_early_new_size_does_not_complete_a_resize(self):
        """The guest shuts down after two minutes, so the resize is not complete before."""
        api = CloudAPI(settings=Settings(early_size=3, acpi=120, resize=30, stale=0), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            (vm_id,) = place(api, 1)
            task = await client.vms.resize(vm_id, cores=4, ram=4096, wait_for=4)
            vm = await task
            assert not too_early(api, task, "resize")
        assert (vm.state, vm.cores, vm.ram) == ("online", 4, 4096)
        assert task.evidence is Evidence.OBSERVED
        assert 120 < now() < 180

    @pytest.mark.parametrize("delay", [0.5, 3.0])
    async def test_a_delete_of_a_vm_that_is_not_visible_yet(self, delay, request_for):
        """It appears at 15 s, and the delete does not complete before it is gone."""
        settings = Settings(not_found=15, create=30, delete=40, writes_before_visible=True)
        api = CloudAPI(settings=settings, seed=1)
        async with Client.in_memory(api, seed=1) as client:
            created = await client.vms.create(request_for())
            await asyncio.sleep(delay)
            task = await client.vms.delete(created.vm_id)
            await task
            assert not too_early(api, task, "delete")
        assert api.cloud.vms == {}
        assert task.evidence is Evidence.OBSERVED


FORMS = ["json", "bare", "html", "gone", "success_false"]


class TestNotFound:
    @pytest.mark.parametrize("form", FORMS)
    async def test_a_delete_completes(self, form):
        """In whatever form "not found" comes, and at the cost of few lists."""
        api = CloudAPI(settings=Settings(not_found_form=form), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            place(api, 3000)
            vm_id = place(api, 1)[0]
            task = await client.vms.delete(vm_id)
            await task.wait(timeout=60)
        assert task.evidence is Evidence.OBSERVED
        # One that can be read shows that not everything is refused.
        assert 1 <= api.requests["list"] <= (1 if form == "json" else 8)

    @pytest.mark.parametrize("form", FORMS)
    async def test_a_shutdown_of_a_vm_that_is_deleted_fails(self, form):
        """With `VMVanished`, not by a timeout."""
        api = CloudAPI(settings=Settings(not_found_form=form, shutdown=500), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            vm_id = place(api, 20)[0]
            task = await client.vms.shutdown(vm_id, wait_for=10)
            api.cloud.operate("delete", vm_id, now() + 1)
            with pytest.raises(VMVanished) as caught:
                await task.wait(timeout=120)
        assert caught.value.vm_id == vm_id

    @pytest.mark.parametrize("status", [404, 410, 200])
    @pytest.mark.parametrize("lists", [True, False])
    async def test_a_proxy_that_refuses_everything_deletes_nothing(self, status, lists):
        """VMs are gone where the API can be read and does not show them."""
        api = CloudAPI(settings=Settings(delete=10_000), seed=1)
        handle = api.handle

        def handle_by_proxy(request, **when):
            response = handle(request, **when)
            is_list = request.target.endswith("machines")
            if request.method != "GET" or (is_list and lists):
                return response
            body = b'{"success": false, "error": "no such upstream"}' if status == 200 else b""
            return type(response)(status, {}, body)

        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            ids = place(api, 3)
            tasks = [await client.vms.delete(vm_id) for vm_id in ids[:2]]
            tasks.append(await client.vms.shutdown(ids[2], wait_for=100))
            api.cloud.adjust("*", acpi="ignore")
            api.handle = handle_by_proxy
            results = await asyncio.gather(
                *(task.wait(timeout=300) for task in tasks), return_exceptions=True
            )
        assert [type(result) for result in results] == [TaskTimeout] * 3
        assert set(ids) == set(api.cloud.vms)
        assert lists or "refused with status" in results[0].last_poll_error


class TestDeadlines:
    @pytest.mark.parametrize("before", [4.0, 2.0, 0.01])
    @pytest.mark.parametrize("count", [1, 60])
    async def test_a_completion_just_before_the_deadline_is_seen(self, before, count, request_for):
        """There is one more poll, sent at the deadline."""
        api = CloudAPI(settings=Settings(create=60 - before, not_found=0, stale=0), seed=1)
        async with Client.in_memory(api, latency=0.5, seed=1) as client:
            tasks = [
                await client.vms.create(request_for(f"w-{n}"), unique_name=True)
                for n in range(count)
            ]
            # As if all had been accepted now: the clouds' times differ by the requests' own.
            waiting = [asyncio.ensure_future(task.wait(timeout=60)) for task in tasks]
            vms = await asyncio.gather(*waiting)
        assert {vm.state for vm in vms} == {"online"}

    @pytest.mark.parametrize("count", [1, 60])
    async def test_the_poll_at_the_deadline_gets_a_few_seconds(self, count, request_for):
        """Without a response by then the wait ends; the task can be awaited again."""
        api = CloudAPI(settings=Settings(create=30, not_found=0), seed=1)
        transport = InMemoryTransport(api)

        class Stalling:
            async def send(self, method, target, headers, body):
                if method == "GET" and now() > 15:
                    await asyncio.sleep(100)
                    raise TransportTimeout("no response")
                return await transport.send(method, target, headers, body)

            async def close(self):
                pass

        client = Client(
            "https://vm.example.com",
            api_key=api.api_key,
            api_secret=api.api_secret,
            transport=Stalling(),
        )
        async with client:
            tasks = [
                await client.vms.create(request_for(f"w-{n}"), unique_name=True)
                for n in range(count)
            ]
            began = now()
            results = await asyncio.gather(
                *(task.wait(timeout=20) for task in tasks), return_exceptions=True
            )
            assert {type(result) for result in results} == {TaskTimeout}
            assert 20 <= now() - began <= 26

    async def test_a_fleet_that_times_out_is_polled_by_one_list(self, request_for):
        """Not by a GET each."""
        api = CloudAPI(settings=Settings(create=1000, not_found=0), seed=1)
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            tasks = [
                await client.vms.create(request_for(f"w-{n}"), unique_name=True) for n in range(200)
            ]
            waiting = [asyncio.ensure_future(task.wait(timeout=60)) for task in tasks]
            await asyncio.sleep(59)
            before = api.requests.copy()
            await asyncio.gather(*waiting, return_exceptions=True)
        assert api.requests["get"] == before["get"]
        assert api.requests["list"] - before["list"] <= 8

    async def test_an_unknown_reboot_gets_a_last_poll(self):
        """What shows just before the lookup gives up counts, too."""
        api = CloudAPI(settings=Settings(reboot=119, stale=0), seed=1)
        async with Client.in_memory(api, seed=1, max_retries=0, reconcile_timeout=60) as client:
            (vm_id,) = place(api, 1)
            api.faults.fail_next("reboot", "drop_after")
            task = await client.vms.reboot(vm_id)
        assert task.adopted


class TestMaxStalenessOption:
    @pytest.fixture
    def api(self, monkeypatch):
        """A cloud of quick operations, and an environment for it."""
        api = CloudAPI(settings=Settings(power_off=1, stale=0), seed=1)
        monkeypatch.setenv("VMAPI_URL", "https://vm.example.com")
        monkeypatch.delenv("VMAPI_REGION", raising=False)
        monkeypatch.setenv("VMAPI_API_KEY", api.api_key)
        monkeypatch.setenv("VMAPI_API_SECRET", api.api_secret)
        return api

    @pytest.mark.parametrize(
        ("variable", "options", "expected"),
        [(None, {}, 10), ("", {}, 10), ("4", {}, 4), ("4", {"max_staleness": 7}, 7)],
    )
    async def test_it_can_come_from_the_environment(
        self, api, monkeypatch, variable, options, expected
    ):
        """The client's option takes precedence."""
        monkeypatch.delenv("VMAPI_MAX_STALENESS", raising=False)
        if variable is not None:
            monkeypatch.setenv("VMAPI_MAX_STALENESS", variable)
        async with Client.from_env(transport=InMemoryTransport(api), **options) as client:
            task = await client.vms.power_off(place(api, 1)[0])
            await task
        assert expected <= task.history[-1].elapsed < expected + 2

    @pytest.mark.parametrize("wrong", ["soon", "-1", "nan"])
    def test_invalid_values_are_refused(self, api, monkeypatch, wrong):
        """The error has the name and the value."""
        monkeypatch.setenv("VMAPI_MAX_STALENESS", wrong)
        with pytest.raises(InvalidArgument, match=f"(?i)max_staleness.*{wrong}"):
            Client.from_env()


class Stopped(looptime.make_event_loop_class(asyncio.SelectorEventLoop)):
    """A loop of a process that can be stopped: then its clock jumps."""

    jumped = 0.0

    def time(self):
        return super().time() + self.jumped


class TestStoppedProcess:
    """Not under the plugin's loop, whose clock jumps over everything."""

    pytestmark = pytest.mark.looptime(False)

    def test_a_process_that_was_stopped_polls_before_it_times_out(self):
        """All deadlines have passed, and every VM is online."""
        request = CreateRequest(
            name="w", cpus=1, ram=512, zone_id=ZONE["id"], boot=ImageBoot(os=TEMPLATES[0]["id"])
        )

        async def main():
            loop = asyncio.get_running_loop()
            api = CloudAPI(settings=Settings(create=(30, 90)), seed=1)
            async with Client.in_memory(api, latency=0.05, seed=1) as client:
                bulk = client.bulk(limit=100)
                working = asyncio.ensure_future(bulk.create([request] * 100))
                shut = await client.vms.shutdown(place(api, 1)[0], wait_for=1)
                single = asyncio.ensure_future(shut.wait(timeout=100))
                await asyncio.sleep(5)
                loop.jumped = 7200.0
                report = await working
                return report.counts, (await single).state

        with asyncio.Runner(loop_factory=partial(Stopped, **JUMPING)) as runner:
            counts, state = runner.run(main())
        assert counts["succeeded"] == 100
        assert state == "offline"
