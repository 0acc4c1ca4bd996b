"""The cost of watching a fleet, counted in virtual time."""

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
from collections import Counter

import attrs
import pytest

from async_vmapi import Client, CreateRequest, ImageBoot, InvalidState
from async_vmapi.emulator import CloudAPI, Response, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.tasks.schedule import Schedule
from tests.forked import unmeasured

from .in_memory import client_and_transport

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = [pytest.mark.looptime, pytest.mark.no_cover]


def now():
    return asyncio.get_running_loop().time()


class Recorder:
    """A cloud that records when each request came."""

    def __init__(self, **options):
        self.api = CloudAPI(**options)
        self.asked = []
        self._handle = self.api.handle
        self.api.handle = self.handle

    def handle(self, request, *, now, today):
        before = self.api.requests.copy()
        response = self._handle(request, now=now, today=today)
        (call,) = (self.api.requests - before).keys()
        self.asked.append((now, call))
        return response

    def times(self, call):
        return [at for at, asked in self.asked if asked == call]

    def client(self, **options):
        return Client.in_memory(self.api, **({"latency": 0.02, "seed": 1} | options))


def fill(api, count):
    """Put VMs into a cloud that are online already."""
    zone = next(iter(ZONES.values()))
    return [
        api.cloud.create(
            now() - 1000, label=f"old-{n}", cores=1, ram=1024, zone=zone, template=TEMPLATES[0]
        )
        for n in range(count)
    ]


async def start(count, seconds, make):
    """Start tasks evenly within some seconds, await each at once; return when each completed."""
    woke = {}

    async def one(number):
        await asyncio.sleep(seconds * number / count)
        task = await make(number)
        await task
        woke[task.vm_id] = now()

    await asyncio.gather(*(one(number) for number in range(count)))
    return woke


async def tokens(client, ids):
    """Start operations that stay pending for a while, and return the tasks' tokens."""
    return [(await client.vms.resize(i, cores=1, ram=1024, wait_for=60)).token() for i in ids]


def lags(api, woke, kind):
    finished = {o.vm_id: o.finished_at for o in api.cloud.operations if o.kind == kind}
    return sorted(woke[vm_id] - finished[vm_id] for vm_id in woke)


def naive_requests(api, kind, interval):
    """Count the requests that one loop per task would have sent for the same delay."""
    return sum(
        int((o.finished_at - o.accepted_at) / interval) + 1
        for o in api.cloud.operations
        if o.kind == kind
    )


class TestRequests:
    async def test_a_thousand_creates(self, request_for):
        """A thousand creates of 30 to 90 s complete with 150 requests."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            woke = await start(1000, 10, lambda n: client.vms.create(request_for(f"w-{n}")))
        assert len(woke) == 1000
        counts = cloud.api.requests
        beyond = counts.total() - counts["create"]
        naive = naive_requests(cloud.api, "create", 1.0)
        print(f"creates: {beyond} requests beyond the PUTs, a loop per task: {naive}")
        assert counts["create"] == 1000
        assert beyond <= 150
        assert naive > 100 * beyond

    async def test_a_thousand_creates_in_bulk(self, request_for):
        """The lists that poll the tasks also show the names before each create."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            report = await client.bulk(limit=50).create(request_for(f"w-{n}") for n in range(1000))
        assert len(report.succeeded) == 1000
        print(f"creates, fifty at a time: {cloud.api.requests}")
        # There were 721 when creates had lists of their own.
        assert cloud.api.requests["list"] <= 570

    async def test_a_thousand_deletes(self):
        """A thousand deletes cost a GET each to confirm, and few lists."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            ids = fill(cloud.api, 1000)
            woke = await start(1000, 10, lambda n: client.vms.delete(ids[n]))
        assert len(woke) == 1000
        beyond = cloud.api.requests.total() - cloud.api.requests["delete"]
        print(f"deletes: {beyond} requests beyond the DELETEs")
        assert beyond <= 1150
        assert cloud.api.cloud.vms == {}

    async def test_reboots_that_show_for_seconds_are_observed(self):
        """By GETs, and by lists."""
        cloud = Recorder(settings=Settings(reboot=6, acpi=20.0, stale=0), seed=1)
        async with cloud.client() as client:
            ids = fill(cloud.api, 20)
            for some in (ids, ids[:4]):
                asked = cloud.api.requests.copy()
                tasks = await asyncio.gather(*map(client.vms.reboot, some))
                await asyncio.gather(*tasks)
                assert {task.evidence for task in tasks} <= {"observed", "inferred"}
        asked = cloud.api.requests - asked
        print(asked)
        assert asked["get"] == 0
        assert asked["list"] <= 15

    async def test_three_tasks_in_a_large_account(self):
        """For three VMs among ten thousand no list is fetched."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            ids = fill(cloud.api, 10_000)
            await start(3, 1, lambda n: client.vms.reboot(ids[n]))
        assert cloud.api.requests["list"] == 0
        assert cloud.api.requests["get"] < 3 * 40

    @pytest.mark.parametrize("count", [2, 5, 10])
    async def test_a_few_creates_in_a_small_account(self, request_for, count):
        """The list fetched for the names before a create also shows what a list costs."""
        cloud = Recorder(settings=Settings(create=(30, 90)), seed=1)
        async with cloud.client() as client:
            woke = await start(count, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        delays = lags(cloud.api, woke, "create")
        print(f"{count}: {cloud.api.requests}, {statistics.median(delays):.1f} s")
        assert cloud.api.requests["list"] + cloud.api.requests["get"] <= 9 + count
        assert max(delays) < 12

    async def test_a_few_creates_in_a_large_account(self, request_for):
        """Lists of many unrelated VMs are fetched for the names alone."""
        cloud = Recorder(settings=Settings(create=(30, 90)), seed=1)
        async with cloud.client() as client:
            fill(cloud.api, 2000)
            await start(10, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        assert cloud.api.requests["list"] == 1

    async def test_a_hundred_simultaneous_starts_do_not_poll_in_lockstep(self, request_for):
        """No two lists within `min_poll_interval`, and not all GETs at once."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            await start(100, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        lists = cloud.times("list")
        assert len(lists) > 5
        assert min(b - a for a, b in itertools.pairwise(lists)) >= 1.0

    async def test_the_end_of_a_fleet_switches_once_from_lists_to_gets(self, request_for):
        """As VMs complete one after another, the mode does not alternate."""
        cloud = Recorder(seed=3)
        async with cloud.client() as client:
            await start(60, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        kinds = [call for _, call in cloud.asked if call in {"list", "get"}]
        changes = sum(a != b for a, b in itertools.pairwise(kinds))
        assert changes <= 4


class TestLatency:
    async def test_completion_is_seen_within_about_half_an_interval(self, request_for, stride):
        """Median one interval, p95 one and a half."""
        for floor in (1.0, 5.0, 0.5, 2.0)[: 4 if stride == 1 else 2]:
            cloud = Recorder(seed=2)
            async with cloud.client(min_poll_interval=floor) as client:
                woke = await start(
                    1000, 10, lambda n, c=client: c.vms.create(request_for(f"w-{n}"))
                )
            delays = lags(cloud.api, woke, "create")
            median, p95 = statistics.median(delays), delays[949]
            requests = cloud.api.requests.total() - 1000
            print(f"floor {floor} s: median {median:.2f} s, p95 {p95:.2f} s, {requests} requests")
            assert median <= floor
            assert p95 <= 1.5 * floor
            assert min(delays) >= 0

    async def test_a_single_task_is_seen_soon(self, request_for):
        """Within a small part of the operation's own duration."""
        cloud = Recorder(seed=2)
        async with cloud.client() as client:
            for number in range(10):
                woke = await start(1, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
                (delay,) = lags(cloud.api, woke, "create")
                assert 0 <= delay <= 90 / 8 * 1.2 + 0.1, number
        # Once the durations are known there is no poll before the shortest of them.
        assert cloud.api.requests["get"] <= 10 * 25


class TestDeterminism:
    async def test_a_seed_makes_a_long_rollout_repeatable(self, stride, request_for):
        """To the time of each event."""

        async def rollout():
            cloud = Recorder(seed=4)
            began = now()
            tasks = []
            async with cloud.client() as client:

                async def one(number):
                    await asyncio.sleep(3.6 * number)
                    tasks.append(await client.vms.create(request_for(f"w-{number}")))
                    await tasks[-1]

                await asyncio.gather(*(one(number) for number in range(1000 // stride)))
            history = [(task.vm_id, event) for task in tasks for event in task.history]
            events = [(vm_id, event.state) for vm_id, event in history]
            times = [event.elapsed for _, event in history] + [at - began for at, _ in cloud.asked]
            return events, [call for _, call in cloud.asked], times

        first, second = await rollout(), await rollout()
        assert now() > 2 * 3600 / stride
        assert first[:2] == second[:2]
        # The second run begins later, where the clock has other fractions.
        assert first[2] == pytest.approx(second[2], abs=1e-4)


class TestTrouble:
    async def test_a_failing_list_is_retried_less_and_less(self, request_for):
        """What was missed meanwhile is seen later."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(50)]
            waiting = [asyncio.create_task(task.wait()) for task in tasks]
            handle, broken_from = cloud.api.handle, now()

            def failing(request, **when):
                response = handle(request, **when)
                return type(response)(503, {}, b"busy") if request.method == "GET" else response

            cloud.api.handle = failing
            await asyncio.sleep(200)
            looks = len(cloud.times("list") + cloud.times("get"))
            assert looks <= 25, broken_from
            cloud.api.handle = handle
            assert {vm.state for vm in await asyncio.gather(*waiting)} == {"online"}

    @pytest.mark.parametrize("status", [302, 400, 404, 409, 429, 503])
    async def test_a_refused_list_is_retried_less_and_less(self, request_for, status):
        """Whatever the refusal."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            cloud.api.cloud.adjust("*", resize=10_000)
            ids = fill(cloud.api, 40)
            handle = cloud.api.handle

            def refusing(request, **when):
                response = handle(request, **when)
                if request.target.endswith("machines"):
                    return Response(status, {}, b'{"success": false}')
                return response

            cloud.api.handle = refusing
            waiting = [
                asyncio.create_task(client.resume(t).wait()) for t in await tokens(client, ids)
            ]
            await asyncio.sleep(300)
            assert 1 < len(cloud.times("list")) <= 40
            # Where only the list is refused, GETs take its place.
            assert (cloud.api.requests["get"] > 40) is (status < 429)
            for waiter in waiting:
                waiter.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_vm_that_makes_the_list_unreadable_hides_no_other(self, request_for):
        """VMs are then polled one by one."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            handle = cloud.api.handle

            def odd(request, **when):
                response = handle(request, **when)
                if request.method == "GET" and request.target.endswith("machines"):
                    body = response.body.replace(b'"virtual_machines":[', b'"virtual_machines":[7,')
                    return type(response)(response.status, response.headers, body)
                return response

            cloud.api.handle = odd
            woke = await start(40, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        assert len(woke) == 40
        assert cloud.api.requests["list"] <= 3

    async def test_a_get_of_another_vm_is_no_observation(self, memory_client, request_for):
        """A response with another VM is discarded."""
        api = CloudAPI(seed=1)
        async with Client.in_memory(api, seed=1) as client:
            other = await client.vms.create(request_for("other"))
            await other
            task = await client.vms.create(request_for("wanted"))
            handle = api.handle

            def lying(request, **when):
                response = handle(request, **when)
                if not request.target.endswith(task.vm_id):
                    return response
                body = response.body.replace(task.vm_id.encode(), other.vm_id.encode())
                return attrs.evolve(response, body=body)

            api.handle = lying
            with pytest.raises(TimeoutError) as caught:
                await task.wait(timeout=100)
            assert "another VM" in caught.value.last_poll_error

    async def test_a_bug_in_the_poller_does_not_hang_awaiters(
        self, memory_client, request_for, monkeypatch, caplog
    ):
        """Awaiters get an error; the next await polls again."""
        task = await memory_client.vms.create(request_for())
        with monkeypatch.context() as patch:
            patch.setattr(Schedule, "measured_get", lambda *_: 1 / 0)
            await asyncio.sleep(20)
            with pytest.raises(InvalidState, match="ZeroDivisionError"):
                await task
        assert "polling broke off" in caplog.text
        assert (await task).state == "online"


class TestHoldingBack:
    @pytest.mark.parametrize("waits", [40, 1_000_000])
    async def test_retry_after_holds_all_polls_back(self, request_for, waits):
        """After a 429 nothing is sent for as long as the server asks, within reason."""
        cloud = Recorder(seed=1)
        # So many that GETs are sent, for which a list would cost too much.
        fill(cloud.api, 400)
        async with cloud.client() as client:
            tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(3)]
            handle, refused = cloud.api.handle, []

            def limited(request, **when):
                if not refused:
                    refused.append(now())
                    body = b'{"success": false, "error": "slow down"}'
                    return Response(429, {"Retry-After": str(waits)}, body)
                return handle(request, **when)

            cloud.api.handle = limited
            waiting = [asyncio.create_task(task.wait()) for task in tasks]
            await asyncio.gather(*waiting)
        (at,) = refused
        # Requests in flight at the refusal may still arrive.
        later = [time for time in cloud.times("get") if time > at + 0.1]
        assert min(waits, 300) <= later[0] - at <= min(waits, 300) + 5

    async def test_one_unreadable_vm_holds_up_no_other(self, request_for):
        """An error of one VM does not count against the server."""
        cloud = Recorder(seed=1)
        fill(cloud.api, 400)
        async with cloud.client() as client:
            bad = await client.vms.create(request_for("bad"))
            good = await client.vms.create(request_for("good"))
            handle = cloud.api.handle

            def odd(request, **when):
                response = handle(request, **when)
                if request.target.endswith(bad.vm_id):
                    return Response(200, {}, b'{"success": true, "virtual_machine": 7}')
                return response

            cloud.api.handle = odd
            waiter = asyncio.create_task(bad.wait())
            await good
            gaps = [b - a for a, b in itertools.pairwise(cloud.times("get"))]
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
        assert now() < 110
        assert bad.history == ()
        assert gaps

    async def test_closing_during_a_poll_opens_no_connection(self, request_for):
        """Whenever the client is closed, nothing is sent afterwards."""
        for tick in range(40):
            cloud = Recorder(seed=1)
            async with cloud.client(latency=0.2) as client:
                task = await client.vms.create(request_for())
                waiter = asyncio.create_task(task.wait())
                await asyncio.sleep(0.05 * tick)
            asked = sum(client.requests.values())
            with pytest.raises(InvalidState, match="closed"):
                await waiter
            await asyncio.sleep(100)
            assert sum(client.requests.values()) == asked


class TestTwoSources:
    """Lists and GETs may disagree, and one of them may fail."""

    async def test_a_get_that_lags_behind_the_list_delays_no_completion(self):
        """Lists decide by themselves: no GET confirms them."""
        cloud = Recorder(settings=Settings(power_off=(2, 3), stale=0), seed=1)
        ids, began = fill(cloud.api, 100), now()
        async with cloud.client(latency=0.3) as client:
            report = await client.bulk(limit=100).power_off(ids)
        assert report.counts["succeeded"] == 100
        assert 10 < now() - began < 15
        assert cloud.times("get") == []

    @pytest.mark.parametrize("operation", ["power_off", "delete"])
    async def test_a_fleet_completes_without_a_get_each(self, operation):
        """Two thousand short operations cost a dozen lists beyond their own requests."""
        durations = Settings(power_off=(0.5, 1), delete=(0.5, 1), stale=0)
        cloud = Recorder(settings=durations, seed=1)
        fill(cloud.api, 2000)
        async with cloud.client(latency=0.5) as client:
            # As VMs, not as ids: so they are known to have been visible.
            vms, began = await client.vms.list(), now()
            tasks = await asyncio.gather(*map(getattr(client.vms, operation), vms))
            await asyncio.gather(*tasks)
            asked = client.requests.copy()
        assert {vm.state for vm in cloud.api.cloud.vms.values()} <= {"offline"}
        assert now() - began < 35
        assert asked["get"] == 0
        assert asked["list"] <= 20

    async def test_a_fleet_in_its_hold_is_not_polled(self):
        """Once all show the target state, nothing is polled until that can count."""
        cloud = Recorder(settings=Settings(power_off=(0.5, 1), stale=0), seed=1)
        ids = fill(cloud.api, 1000)
        async with cloud.client(max_staleness=60.0) as client:
            tasks = await asyncio.gather(*map(client.vms.power_off, ids))
            await asyncio.gather(*tasks)
        lists = cloud.times("list")
        assert max(b - a for a, b in itertools.pairwise(lists)) > 50
        assert len(lists) < 12

    @pytest.mark.parametrize("same", [True, False])
    async def test_an_await_right_after_closing_is_served(self, request_for, same):
        """The client is opened again in the moment in which it was closed."""
        cloud = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client, closing = cloud.client(latency=0.5), asyncio.Event()
        task = await client.vms.create(request_for())
        other = task if same else client.resume(task.token())

        async def close_and_await_again():
            await closing.wait()
            await client.close()
            async with client:
                return await other.wait(timeout=100)

        first, again = map(asyncio.ensure_future, (task.wait(), close_and_await_again()))
        await asyncio.sleep(1.2)
        assert client.requests["get"] > len(cloud.times("get"))
        closing.set()
        with pytest.raises(InvalidState, match="closed"):
            await first
        assert (await again).state == "online"


def gets_at_once(transport):
    """Record how many GETs of each VM are in flight, and the most at once."""
    send, under_way, most = transport.send, Counter(), Counter()

    async def noted(method, target, *rest):
        if method != "GET" or target.endswith("machines"):
            return await send(method, target, *rest)
        under_way[target] += 1
        most[target] = max(most[target], under_way[target])
        most["all"] = max(most["all"], under_way.total())
        try:
            return await send(method, target, *rest)
        finally:
            under_way[target] -= 1

    transport.send = noted
    return most


class TestQueue:
    """GETs wait for a slot while waiters leave, join or are cancelled."""

    @pytest.mark.parametrize("what", ["cancel", "leave", "join"])
    async def test_waiters_change_while_a_list_is_reported(self, monkeypatch, what):
        """No VM is lost or polled by two requests, whatever runs while the poller yields."""
        cloud = Recorder(settings=Settings(delete=(3, 4), stale=0), seed=1)
        ids, joined, acted = fill(cloud.api, 120), [], []
        sleep = asyncio.sleep

        client, transport = client_and_transport(cloud.api, latency=0.5, seed=1)
        most = gets_at_once(transport)
        async with client:
            tasks = await asyncio.gather(*map(client.vms.delete, ids))
            tokens_of = {task.vm_id: task.token() for task in tasks}
            waiting = {t.vm_id: asyncio.ensure_future(t.wait(timeout=300)) for t in tasks}

            async def acting(seconds, *rest):
                # Within the poll itself, as other tasks would while it yields.
                yields = seconds == 0 and asyncio.current_task().get_name() == "async_vmapi poll"
                lists = cloud.api.requests["list"]
                if yields and lists == 2 + len(acted) < 5:
                    some = ids[30 * len(acted) : 30 * len(acted) + 30]
                    acted.append(lists)
                    for vm_id in some:
                        if what == "leave":
                            waiting.pop(vm_id).cancel()
                        elif what == "join":
                            again = client.resume(tokens_of[vm_id])
                            joined.append(asyncio.ensure_future(again.wait(timeout=300)))
                    if what == "cancel":
                        asyncio.current_task().cancel()
                await sleep(seconds, *rest)

            monkeypatch.setattr(asyncio, "sleep", acting)
            await asyncio.sleep(12)
            await asyncio.gather(*waiting.values(), *joined)
            assert len(acted) == 3
            assert len(waiting) == (30 if what == "leave" else 120)
            assert len(joined) == (90 if what == "join" else 0)
            assert max(most.values(), default=0) <= 1
            # A resumed task has not seen its VM, which may be yet to appear.
            assert now() < (100 if what == "join" else 40)

    async def test_a_get_serves_a_waiter_that_came_back(self, request_for):
        """Waits shorter than a poll see the completion; no second poll of a VM is in flight."""
        cloud = Recorder(settings=Settings(create=(30, 31)), seed=1)
        fill(cloud.api, 400)
        client, transport = client_and_transport(cloud.api, latency=3.0, seed=1)
        most = gets_at_once(transport)
        async with client:
            task, other = [await client.vms.create(request_for(f"w-{n}")) for n in range(2)]
            staying = asyncio.ensure_future(other.wait())
            began = now()
            while not task.done():
                assert now() < began + 60
                with contextlib.suppress(TimeoutError):
                    await task.wait(timeout=1)
            await staying
        assert max(most[target] for target in most if target != "all") == 1

    async def test_a_lone_waiter_that_leaves_and_returns_is_served(self, request_for):
        """The next poll is due by the last one, though the poller stops each time."""
        cloud = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client = cloud.client()
        task = await client.vms.create(request_for())
        while not task.done():
            assert now() < 80
            with contextlib.suppress(TimeoutError):
                await task.wait(timeout=2)
            await asyncio.sleep(0.5)
        assert task.evidence == "observed"

    async def test_queued_gets_spare_a_failing_server(self):
        """Queued GETs are held back like any other poll."""
        cloud = Recorder(settings=Settings(delete=(0.5, 0.6), stale=0), seed=1)
        ids, handle, failed = fill(cloud.api, 500), cloud.api.handle, []

        def failing(request, **when):
            if request.method != "GET":
                return handle(request, **when)
            if request.target.endswith("machines"):
                return Response(200, {}, b'{"success": true, "virtual_machines": [7]}')
            failed.append(now())
            return Response(500, {}, b"")

        cloud.api.handle = failing
        async with cloud.client(latency=0.1) as client:
            tasks = await asyncio.gather(*map(client.vms.delete, ids))
            waiting = [asyncio.ensure_future(task.wait()) for task in tasks]
            await asyncio.sleep(20)
            assert 16 <= len(failed) <= 16 * 10
            cloud.api.handle = handle
            await asyncio.gather(*waiting)
        assert cloud.api.cloud.vms == {}

    async def test_a_poll_cancelled_by_the_transport_is_repeated(self, request_for):
        """A transport may raise CancelledError without a cancellation; no VM is lost."""
        cloud = Recorder(seed=1)
        fill(cloud.api, 400)
        client, transport = client_and_transport(cloud.api, latency=0.02, seed=1)
        async with client:
            task = await client.vms.create(request_for())
            send, cancelled = transport.send, []

            def cancelling(*call):
                if len(cancelled) < 20:
                    cancelled.append(call)
                    raise asyncio.CancelledError
                return send(*call)

            transport.send = cancelling
            assert (await task.wait(timeout=300)).state == "online"
        assert len(cancelled) == 20


class TestStalling:
    @pytest.mark.parametrize("alone", [0, 30])
    async def test_a_stalled_get_delays_no_other_vm(self, cloud_api, request_for, alone):
        """While one VM's GET hangs, the others are polled as usual, late ones too."""
        client, transport = client_and_transport(cloud_api, seed=1)
        send = transport.send

        async def stalling(method, target, headers, body):
            if target.endswith(stalled.vm_id):
                await asyncio.sleep(10_000)
            return await send(method, target, headers, body)

        async with client:
            tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(3)]
            stalled, *others = tasks
            transport.send = stalling
            waiter = asyncio.create_task(stalled.wait(timeout=5000))
            await asyncio.sleep(2 + alone)
            await asyncio.gather(*others)
            assert now() < 120 + alone
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)


class TestJoining:
    async def test_a_task_that_joins_during_a_list_waits_for_the_next(self, request_for):
        """A list sent before the task joined says nothing about it."""
        cloud = Recorder(seed=1)
        async with cloud.client(latency=0.8) as client:
            ids = fill(cloud.api, 60)
            others = [asyncio.create_task((await client.vms.reboot(i)).wait()) for i in ids]
            await asyncio.sleep(20)
            target = await client.vms.power_off(ids[0])
            await target
            for part in range(8):
                # Both tasks' target states hold already, at any moment of a list's flight.
                await asyncio.sleep(0.13 * part)
                task = await client.vms.power_off(ids[0])
                began = now()
                assert (await task.wait(timeout=60)).state == "offline"
                assert now() - began < 20
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


class TestShortWaits:
    """A web service that waits briefly for a task, now and then."""

    async def test_many_short_waits_see_what_a_long_one_sees(self, request_for):
        """Leaving and returning postpones no poll: it is due by the last one."""
        recorder = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client = recorder.client()
        task = await client.vms.create(request_for())
        while not task.done():
            assert now() < 75
            with contextlib.suppress(TimeoutError):
                await task.wait(timeout=2)
        assert task.evidence == "observed"
        # One at each deadline, and the regular ones.
        assert len(recorder.times("get")) < 60 / 2 + 20

    async def test_short_waits_do_not_delay_a_long_one(self, request_for):
        """It completes as early as if it were alone."""
        recorder = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client = recorder.client()
        task = await client.vms.create(request_for())
        other = client.resume(task.token())
        waiting = asyncio.create_task(task.wait())
        while not waiting.done():
            assert now() < 75
            with contextlib.suppress(TimeoutError):
                await other.wait(timeout=2)
            await asyncio.sleep(0.1)
        assert (await waiting).state == "online"


class TestLoops:
    async def test_awaiting_in_two_loops_is_an_error(self, memory_client, request_for):
        """A client serves one loop at a time."""
        task = await memory_client.vms.create(request_for())
        waiter = asyncio.create_task(task.wait())
        await asyncio.sleep(1)

        def elsewhere():
            with asyncio.Runner() as runner:
                runner.run(task.wait())

        with pytest.raises(InvalidState, match="another event loop"):
            await asyncio.to_thread(elsewhere)
        assert (await waiter).state == "online"


MEASURE = """
import asyncio, gc, sys, tracemalloc

import looptime

from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.emulator.catalogue import ZONES

async def grown(count, make):
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    waiting = [asyncio.ensure_future(make(number)) for number in range(count)]
    await asyncio.sleep(2.5)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    for waiter in waiting:
        waiter.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return (after - before) / count

async def main(count):
    api = CloudAPI(settings=Settings(create=100_000, not_found=0))
    async with Client.in_memory(api, seed=1) as client:
        request = CreateRequest(
            name="w", cpus=1, ram=512, zone_id=next(iter(ZONES)), boot=ImageBoot(os="2268")
        )
        tokens = [(await client.vms.create(request)).token() for _ in range(count)]
        await client.vms.list()
        tracemalloc.start()
        tasks = []

        async def bare(_):
            await asyncio.get_running_loop().create_future()

        async def watched(number):
            tasks.append(client.resume(tokens[number]))
            await tasks[-1]

        plain = await grown(count, bare)
        whole = await grown(count, watched)
        assert all(task.history for task in tasks)
        print(whole - plain)

loop_class = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
with asyncio.Runner(loop_factory=loop_class) as runner:
    runner.run(main(int(sys.argv[1])))
"""


class TestMemory:
    def test_a_pending_task_takes_three_kilobytes_at_most(self):
        """Beyond asyncio's own cost per awaiter; without debug mode and coverage."""
        asyncio_debug = ("PYTHONDEVMODE", "PYTHONASYNCIODEBUG")
        plain = {n: v for n, v in unmeasured(os.environ).items() if n not in asyncio_debug}
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, "3000"],
            capture_output=True,
            text=True,
            check=True,
            env=plain,
        )
        print(f"{float(measured.stdout):.0f} bytes")
        assert float(measured.stdout) <= 3 * 1024


def test_a_loop_closed_under_its_awaiters():
    """Their tasks raise a clear error, and are gone once the client is closed."""
    api = CloudAPI(settings=Settings(create=0.2, not_found=0))
    client = Client.in_memory(api, min_poll_interval=0.01)
    request = CreateRequest(
        name="w", cpus=1, ram=512, zone_id=next(iter(ZONES)), boot=ImageBoot(os="2268")
    )

    async def leave_behind():
        tasks = [await client.vms.create(request) for _ in range(2)]
        waiting = [asyncio.ensure_future(task.wait()) for task in tasks]
        await asyncio.sleep(0.05)
        return tasks[0], waiting

    loop = asyncio.new_event_loop()
    task, waiting = loop.run_until_complete(leave_behind())
    everything = asyncio.all_tasks(loop)
    loop.close()
    with pytest.raises(InvalidState, match="another event loop"):
        asyncio.run(task.wait())
    # Its list of names is of no use to the poller of the closed loop.
    asyncio.run(client.vms.create(request))
    asyncio.run(client.close())

    async def wait_again():
        async with client:
            return await task

    assert asyncio.run(wait_again()).state == "online"
    for left in everything:
        # They can never complete; nothing is to be logged when they are collected.
        left._log_destroy_pending = False  # noqa: SLF001 - asyncio has no public way
        with contextlib.suppress(BaseException):
            left.get_coro().close()
    del waiting
