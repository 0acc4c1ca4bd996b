"""Lists of VMs that the poller and creates share."""

import asyncio
import json

import pytest

from async_vmapi import Client, DecodingError, ServerError
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.transport.codec import VMSnapshot
from async_vmapi.transport.rate_limit import Priority

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


class FakePipeline:
    """Responds to lists after a while; each is of one VM, named after when it was sent."""

    def __init__(self, latency=0.1):
        self.latency = latency
        self.sent = []
        self.errors = []
        self.label = None

    async def call(self, call, spec, attempts):
        attempts.before_sending()
        sent_at = now()
        self.sent.append((sent_at, "poll" if call.priority is Priority.POLLS else "create"))
        await asyncio.sleep(self.latency)
        if self.errors:
            raise self.errors.pop(0)
        vm = {"id": "vm-1", "state": "online", "cores": 1, "ram": 1}
        label = self.label or f"at {sent_at:g}"
        body = json.dumps({"virtual_machines": [vm | {"label": label}]}).encode()
        return [VMSnapshot(**vm)], body


@pytest.fixture
def pipeline():
    return FakePipeline()


@pytest.fixture
def vm_lists(pipeline):
    return VMListSource(pipeline, Schedule(min_interval=1.0, max_interval=15.0, seed=1))


class TestForCreates:
    async def test_all_callers_share_one_list(self, pipeline, vm_lists):
        """It is a little older than some of them need, at first."""
        found = await asyncio.gather(*(vm_lists.get(0.0) for _ in range(10)))
        assert pipeline.sent == [(0, "create")]
        assert {vm_list.named("at 0")[0].id for vm_list in found} == {"vm-1"}
        assert (await vm_lists.get(0.0)).sent_at == 0

    async def test_a_list_that_was_sent_too_early_is_followed_by_another(self, pipeline, vm_lists):
        """After the minimum interval."""
        first = asyncio.ensure_future(vm_lists.get(0.0))
        await asyncio.sleep(0.05)
        assert (await vm_lists.get(0.05)).sent_at == 1
        assert (await first).sent_at == 0
        assert pipeline.sent == [(0, "create"), (1, "create")]

    async def test_a_list_is_dropped_after_a_while(self, vm_lists):
        """Its names take memory."""
        await vm_lists.get(0.0)
        await asyncio.sleep(4.8)
        assert vm_lists.recent().sent_at == 0
        await asyncio.sleep(0.2)
        assert vm_lists.recent() is None
        await asyncio.sleep(1)
        assert (await vm_lists.get(0.0)).sent_at > 5

    async def test_an_error_is_raised_in_all_callers(self, pipeline, vm_lists):
        """The next caller requests another list."""
        pipeline.errors = [ServerError("busy", status=503)]
        found = await asyncio.gather(*(vm_lists.get(0.0) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in found] == 3 * [ServerError]
        assert (await vm_lists.get(0.0)).sent_at == 1

    async def test_a_label_that_is_no_text(self, pipeline, vm_lists):
        """The error names the request and the place."""
        pipeline.label = 7
        with pytest.raises(DecodingError, match=r"virtual_machines\[0\]\.label") as caught:
            await vm_lists.get(0.0)
        assert (caught.value.method, caught.value.path) == ("GET", "/v2/virtual-machines")

    async def test_without_callers_the_request_is_cancelled(self, pipeline, vm_lists):
        """The last one cancels it."""
        waiting = [asyncio.ensure_future(vm_lists.get(0.0)) for _ in range(2)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        assert (await waiting[1]).sent_at == 0
        waiting = [asyncio.ensure_future(vm_lists.get(now())) for _ in range(2)]
        await asyncio.sleep(1)
        before = asyncio.all_tasks()
        for caller in waiting:
            caller.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.sleep(0)
        assert len(pipeline.sent) == 2
        assert len(before) == 4
        assert asyncio.all_tasks() == {asyncio.current_task()}


class TestForBoth:
    async def test_creates_use_the_list_that_the_poller_has_in_flight(self, pipeline, vm_lists):
        """It was sent since they asked, or not long before."""
        polling = asyncio.ensure_future(vm_lists.poll())
        await asyncio.sleep(0.05)
        assert (await vm_lists.get(now() - 5)).sent_at == 0
        assert (await polling).sent_at == 0
        assert pipeline.sent == [(0, "poll")]

    async def test_creates_use_the_lists_that_arrive_while_they_wait(self, pipeline, vm_lists):
        """The poller's next list is due when theirs would be."""
        await vm_lists.poll()
        waiting = asyncio.ensure_future(vm_lists.get(now()))
        await asyncio.sleep(0.87)
        polling = asyncio.ensure_future(vm_lists.poll())
        assert (await waiting).sent_at == (await polling).sent_at == pytest.approx(0.97)
        assert [who for _, who in pipeline.sent] == ["poll", "poll"]

    async def test_lists_of_the_poller_are_kept_while_creates_need_some(self, pipeline, vm_lists):
        """Not otherwise, and not each: decoding names takes a while."""
        await vm_lists.poll()
        assert vm_lists.recent() is None
        ages = []
        for _ in range(5):
            await asyncio.sleep(0.9)
            await vm_lists.poll()
            ages.append(round(now() - vm_lists.recent().sent_at, 1))
        assert ages == [0.1, 1.1, 2.1, 0.1, 1.1]
        await asyncio.sleep(5)
        await vm_lists.poll()
        assert vm_lists.recent() is None

    async def test_a_failed_poll_is_replaced(self, pipeline, vm_lists):
        """A create's list is retried; the poller's next one may come much later."""
        pipeline.errors = [ServerError("busy", status=503)]
        polling = asyncio.ensure_future(vm_lists.poll())
        await asyncio.sleep(0)
        assert (await vm_lists.get(0.0)).sent_at == 1
        with pytest.raises(ServerError):
            await polling
        assert pipeline.sent == [(0, "poll"), (1, "create")]

    async def test_a_poll_that_stalls_is_replaced(self, pipeline, vm_lists):
        """After five seconds."""
        pipeline.latency = 100
        polling = asyncio.ensure_future(vm_lists.poll())
        await asyncio.sleep(0.5)
        pipeline.latency = 0.1
        assert (await vm_lists.get(0.0)).sent_at == 5.5
        await polling

    async def test_labels_that_the_poller_does_not_read(self, pipeline, vm_lists):
        """Polls need no names; a create gets the error of its own list, however often it polls."""
        pipeline.label = 7

        async def poll():
            while True:
                await asyncio.sleep(max(0.0, vm_lists.sent_at + 1 - now()))
                await vm_lists.poll()

        polling = asyncio.ensure_future(poll())
        await asyncio.sleep(3)
        with pytest.raises(DecodingError):
            await vm_lists.get(now())
        assert now() < 10
        polling.cancel()

    async def test_the_poller_gets_the_lists_of_creates(self, vm_lists):
        """Each one, with the times between which it shows the VMs."""
        offered = []
        vm_lists.listener = offered.append
        await vm_lists.get(0.0)
        await vm_lists.get(now())
        await vm_lists.poll()
        assert [(one.sent_at, one.received_at) for one in offered] == [
            (0, pytest.approx(0.1)),
            (1, pytest.approx(1.1)),
        ]


def cloud_of(count, settings):
    """Return a cloud with VMs that are online."""
    api = CloudAPI(settings=settings, seed=1)
    zone = next(iter(ZONES.values()))
    ids = [
        api.cloud.create(
            -1000.0, label=f"old-{n}", cores=1, ram=1, zone=zone, template=TEMPLATES[0]
        )
        for n in range(count)
    ]
    return api, ids


async def test_a_list_for_names_completes_tasks(request_for):
    """A create finds its VM by lists, which show the ends of other operations."""
    settings = Settings(power_off=(18, 18.1), stale=0, create=100, not_found=25)
    api, ids = cloud_of(3, settings)
    async with Client.in_memory(api, seed=1, max_poll_interval=1000) as client:
        tasks = await asyncio.gather(*map(client.vms.power_off, ids))
        waiting = asyncio.gather(*tasks)
        await asyncio.sleep(16)
        before = client.requests["list"]
        api.faults.fail_next("create", "drop_after")
        creating = asyncio.ensure_future(client.vms.create(request_for(), unique_name=True))
        await waiting
        # The poller alone would have waited for much longer.
        assert now() < 21
        assert client.requests["list"] - before < 5
        assert (await creating).adopted
