"""What watching a fleet costs, counted on a clock that jumps."""

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
from collections import Counter

import anyio.lowlevel
import pytest

from async_vmapi import Client, CreateRequest, ImageBoot, InvalidState
from async_vmapi.emulator import CloudAPI, Response, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


class Recorder:
    """A cloud that notes when it was asked for what."""

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
    """Put machines into a cloud that are online already."""
    zone = next(iter(ZONES.values()))
    return [
        api.cloud.create(
            now() - 1000, label=f"old-{n}", cores=1, ram=1024, zone=zone, template=TEMPLATES[0]
        )
        for n in range(count)
    ]


async def start(count, seconds, make):
    """Start tasks evenly within some seconds, each awaited at once; return when each woke up."""
    woke = {}

    async def one(number):
        await asyncio.sleep(seconds * number / count)
        task = await make(number)
        await task
        woke[task.vm_id] = now()

    await asyncio.gather(*(one(number) for number in range(count)))
    return woke


async def tokens(client, ids):
    """Start what shows no end for a while, and return the tasks' tokens."""
    return [(await client.vms.resize(i, cores=1, ram=1024, wait_for=60)).token() for i in ids]


def lags(api, woke, kind):
    finished = {o.vm_id: o.finished_at for o in api.cloud.operations if o.kind == kind}
    return sorted(woke[vm_id] - finished[vm_id] for vm_id in woke)


def naive_requests(api, kind, interval):
    """Count what a loop per task would have asked for the same delay."""
    return sum(
        int((o.finished_at - o.accepted_at) / interval) + 1
        for o in api.cloud.operations
        if o.kind == kind
    )


class TestRequests:
    async def test_a_thousand_creates(self, request_for):
        """A thousand creates of 30 to 90 s are seen to their ends with 150 requests."""
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

    async def test_reboots_that_show_for_seconds(self):
        """A few are seen to go and to come back, also where it is lists that show them."""
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
        """For three machines among ten thousand the list is never asked for."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            ids = fill(cloud.api, 10_000)
            await start(3, 1, lambda n: client.vms.reboot(ids[n]))
        assert cloud.api.requests["list"] == 0
        assert cloud.api.requests["get"] < 3 * 40

    @pytest.mark.parametrize("count", [2, 5, 10])
    async def test_a_few_creates_in_a_small_account(self, request_for, count):
        """The list that tells the names before a create also tells what a list costs."""
        cloud = Recorder(settings=Settings(create=(30, 90)), seed=1)
        async with cloud.client() as client:
            woke = await start(count, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        delays = lags(cloud.api, woke, "create")
        print(f"{count}: {cloud.api.requests}, {statistics.median(delays):.1f} s")
        assert cloud.api.requests["list"] + cloud.api.requests["get"] <= 9 + count
        assert max(delays) < 12

    async def test_a_few_creates_in_a_large_account(self, request_for):
        """Lists of many others' machines are not asked for but for the names."""
        cloud = Recorder(settings=Settings(create=(30, 90)), seed=1)
        async with cloud.client() as client:
            fill(cloud.api, 2000)
            await start(10, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        assert cloud.api.requests["list"] == 1

    async def test_a_hundred_simultaneous_starts_do_not_poll_in_lockstep(self, request_for):
        """No two lists come within one floor interval, and GETs not all at once."""
        cloud = Recorder(seed=1)
        async with cloud.client() as client:
            await start(100, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        lists = cloud.times("list")
        assert len(lists) > 5
        assert min(b - a for a, b in itertools.pairwise(lists)) >= 1.0

    async def test_the_last_of_a_fleet_do_not_make_it_go_to_and_fro(self, request_for):
        """As machines end one after another, lists give way to GETs once."""
        cloud = Recorder(seed=3)
        async with cloud.client() as client:
            await start(60, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
        kinds = [call for _, call in cloud.asked if call in {"list", "get"}]
        changes = sum(a != b for a, b in itertools.pairwise(kinds))
        assert changes <= 4


class TestLag:
    @pytest.mark.parametrize("floor", [0.5, 1.0, 2.0, 5.0])
    async def test_the_delay_is_about_half_an_interval(self, request_for, floor):
        """From finished at the cloud to the awaiter: median one interval, p95 one and a half."""
        cloud = Recorder(seed=2)
        async with cloud.client(min_poll_interval=floor) as client:
            woke = await start(1000, 10, lambda n: client.vms.create(request_for(f"w-{n}")))
        delays = lags(cloud.api, woke, "create")
        median, p95 = statistics.median(delays), delays[949]
        requests = cloud.api.requests.total() - 1000
        print(f"floor {floor} s: median {median:.2f} s, p95 {p95:.2f} s, {requests} requests")
        assert median <= floor
        assert p95 <= 1.5 * floor
        assert min(delays) >= 0

    async def test_a_single_task_is_seen_soon(self, request_for):
        """One machine's end is seen within a small part of what it took."""
        cloud = Recorder(seed=2)
        async with cloud.client() as client:
            for number in range(10):
                woke = await start(1, 0, lambda n: client.vms.create(request_for(f"w-{n}")))
                (delay,) = lags(cloud.api, woke, "create")
                assert 0 <= delay <= 90 / 8 * 1.2 + 0.1, number
        # Once the durations are known there is no look before the shortest of them.
        assert cloud.api.requests["get"] <= 10 * 25


class TestDeterminism:
    async def test_a_long_rollout_is_the_same_for_a_seed(self, stride, request_for):
        """Seeds make a whole rollout repeatable, to the time of each event."""

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
        # The second begins later, where the clock's fractions are others.
        assert first[2] == pytest.approx(second[2], abs=1e-4)


class TestTrouble:
    async def test_a_failing_list_is_backed_off_from(self, request_for):
        """A server that fails is asked less and less; what it missed is seen later."""
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
    async def test_a_list_that_is_refused_is_not_asked_for_in_haste(self, request_for, status):
        """Whatever the list is refused with, it is asked for less and less."""
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
            # Where it is the list that is refused and not everything, GETs take its place.
            assert (cloud.api.requests["get"] > 40) is (status < 429)
            for waiter in waiting:
                waiter.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def test_a_machine_that_makes_the_list_unreadable_hides_no_other(self, request_for):
        """When the list cannot be read, machines are asked for one by one."""
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

    async def test_an_answer_about_another_machine_is_no_look(self, memory_client, request_for):
        """A server that responds with another VM is not believed."""
        api = CloudAPI(seed=1)
        async with Client.in_memory(api) as client:
            other = await client.vms.create(request_for("other"))
            await other
            task = await client.vms.create(request_for("wanted"))
            handle = api.handle

            def lying(request, **when):
                target = request.target.replace(task.vm_id, other.vm_id)
                forged = type(request)(request.method, target, request.headers, request.body)
                api._check = lambda *_: None
                return handle(forged, **when)

            api.handle = lying
            with pytest.raises(TimeoutError) as caught:
                await task.wait(timeout=100)
            assert "another VM" in caught.value.last_poll_error

    async def test_a_fault_of_the_hub_itself_does_not_hang_awaiters(
        self, memory_client, request_for, monkeypatch, caplog
    ):
        """If the polling breaks off, who awaits is told; the next await polls again."""
        task = await memory_client.vms.create(request_for())
        schedule = memory_client._hub._schedule
        with monkeypatch.context() as patch:
            patch.setattr(schedule, "measured_get", lambda _: 1 / 0)
            await asyncio.sleep(20)
            with pytest.raises(InvalidState, match="ZeroDivisionError"):
                await task
        assert "polling broke off" in caplog.text
        assert (await task).state == "online"


class TestHoldingBack:
    @pytest.mark.parametrize("waits", [40, 1_000_000])
    async def test_a_servers_retry_after_holds_all_looks_back(self, request_for, waits):
        """After a 429 nothing is asked for as long as the server says, within reason."""
        cloud = Recorder(seed=1)
        # So many that GETs are asked, for which a list would be too dear.
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
        # Those under way when the refusal came may still arrive.
        later = [time for time in cloud.times("get") if time > at + 0.1]
        assert min(waits, 300) <= later[0] - at <= min(waits, 300) + 5

    async def test_one_machine_that_cannot_be_read_holds_up_no_other(self, request_for):
        """What is wrong with one machine's answers is not held against the server."""
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

    async def test_closing_amid_a_look_opens_nothing_again(self, request_for):
        """Whenever the client is closed, nothing is asked afterwards."""
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
    """The list and a machine's own page need not agree, and not both need answer."""

    async def test_a_get_that_lags_behind_the_list_hides_no_end(self):
        """Lists decide by themselves: no GET confirms them."""
        cloud = Recorder(settings=Settings(power_off=(2, 3), stale=0), seed=1)
        ids, began = fill(cloud.api, 100), now()
        async with cloud.client(latency=0.3) as client:
            report = await client.bulk(limit=100).power_off(ids)
        assert report.counts["succeeded"] == 100
        assert 10 < now() - began < 15
        assert cloud.times("get") == []

    @pytest.mark.parametrize("operation", ["power_off", "delete"])
    async def test_a_fleet_ends_without_a_get_each(self, operation):
        """Two thousand short operations cost a dozen lists beyond their requests."""
        durations = Settings(power_off=(0.5, 1), delete=(0.5, 1), stale=0)
        cloud = Recorder(settings=durations, seed=1)
        fill(cloud.api, 2000)
        async with cloud.client(latency=0.5) as client:
            # As machines, not as ids: so they are known to have been visible.
            vms, began = await client.vms.list(), now()
            tasks = await asyncio.gather(*map(getattr(client.vms, operation), vms))
            await asyncio.gather(*tasks)
            asked = client.requests.copy()
        assert {vm.state for vm in cloud.api.cloud.vms.values()} <= {"offline"}
        assert now() - began < 35
        assert asked["get"] == 0
        assert asked["list"] <= 20

    async def test_a_fleet_that_cannot_end_yet_is_not_polled(self):
        """Once all show the end, nothing is asked until it can be from after the request."""
        cloud = Recorder(settings=Settings(power_off=(0.5, 1), stale=0), seed=1)
        ids = fill(cloud.api, 1000)
        async with cloud.client(max_staleness=60.0) as client:
            tasks = await asyncio.gather(*map(client.vms.power_off, ids))
            await asyncio.gather(*tasks)
        lists = cloud.times("list")
        assert max(b - a for a, b in itertools.pairwise(lists)) > 50
        assert len(lists) < 12

    @pytest.mark.parametrize("same", [True, False])
    async def test_who_awaits_in_the_very_moment_of_closing_is_served(self, request_for, same):
        """After the others were told to go, and before they are gone."""
        cloud = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client, closing = cloud.client(latency=0.5), asyncio.Event()
        task = await client.vms.create(request_for())
        other = task if same else client.resume(task.token())

        async def close():
            await closing.wait()
            client._hub.close()

        async def await_again():
            await closing.wait()
            return await other.wait(timeout=100)

        first, closer, again = map(asyncio.ensure_future, (task.wait(), close(), await_again()))
        await asyncio.sleep(1.2)
        assert client.requests["get"] > len(cloud.times("get"))
        closing.set()
        with pytest.raises(InvalidState, match="closed"):
            await first
        assert (await again).state == "online"
        await closer
        await client.close()


def gets_at_once(client):
    """Note how many GETs of each machine are on their way, and how many there were at most."""
    wire = client._pipeline._transport
    send, under_way, most = wire.send, Counter(), Counter()

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

    wire.send = noted
    return most


class TestQueue:
    """GETs wait for their turns, and whoever is waited for may be left, joined or broken off."""

    @pytest.mark.parametrize("what", ["cancel", "leave", "join"])
    async def test_what_happens_while_a_list_is_reported(self, monkeypatch, what):
        """Nothing is lost or asked for twice, whatever others do while others have their turn."""
        cloud = Recorder(settings=Settings(delete=(3, 4), stale=0), seed=1)
        ids, joined, acted = fill(cloud.api, 120), [], []
        checkpoint = anyio.lowlevel.checkpoint

        async with cloud.client(latency=0.5) as client:
            most = gets_at_once(client)
            tasks = await asyncio.gather(*map(client.vms.delete, ids))
            tokens_of = {task.vm_id: task.token() for task in tasks}
            waiting = {t.vm_id: asyncio.ensure_future(t.wait(timeout=300)) for t in tasks}

            async def acting():
                # Within the poll itself, as others would while it yields.
                lists = cloud.api.requests["list"]
                if lists == 2 + len(acted) < 5:
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
                await checkpoint()

            monkeypatch.setattr(anyio.lowlevel, "checkpoint", acting)
            await asyncio.sleep(12)
            await asyncio.gather(*waiting.values(), *joined)
            assert len(acted) == 3
            assert len(waiting) == (30 if what == "leave" else 120)
            assert len(joined) == (90 if what == "join" else 0)
            assert max(most.values(), default=0) <= 1
            # A resumed task has not seen its machine, which may be yet to appear.
            assert now() < (100 if what == "join" else 40)

    async def test_a_get_serves_who_came_back_meanwhile(self, request_for):
        """Waits shorter than a poll takes see the end, and no second poll of a VM is in flight."""
        cloud = Recorder(settings=Settings(create=(30, 31)), seed=1)
        fill(cloud.api, 400)
        async with cloud.client(latency=3.0) as client:
            most = gets_at_once(client)
            task, other = [await client.vms.create(request_for(f"w-{n}")) for n in range(2)]
            staying = asyncio.ensure_future(other.wait())
            began = now()
            while not task.done():
                assert now() < began + 60
                with contextlib.suppress(TimeoutError):
                    await task.wait(timeout=1)
            await staying
        assert max(most[target] for target in most if target != "all") == 1

    async def test_who_comes_and_goes_alone_is_served(self, request_for):
        """The hub stops each time, and yet the next look is due from the last one on."""
        cloud = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client = cloud.client()
        task = await client.vms.create(request_for())
        while not task.done():
            assert now() < 80
            with contextlib.suppress(TimeoutError):
                await task.wait(timeout=2)
            await asyncio.sleep(0.5)
        assert task.evidence == "observed"

    async def test_gets_in_the_queue_leave_a_failing_server_alone(self):
        """What waits for its turn is held back like any other poll."""
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

    async def test_a_look_that_is_cancelled_alone_is_asked_again(self, request_for):
        """A wire that ends as cancelled, though nobody cancelled it, loses no machine."""
        cloud = Recorder(seed=1)
        fill(cloud.api, 400)
        async with cloud.client() as client:
            task = await client.vms.create(request_for())
            wire, cancelled = client._pipeline._transport, []
            send = wire.send

            def cancelling(*call):
                if len(cancelled) < 20:
                    cancelled.append(call)
                    raise asyncio.CancelledError
                return send(*call)

            wire.send = cancelling
            assert (await task.wait(timeout=300)).state == "online"
        assert len(cancelled) == 20


class TestStalling:
    @pytest.mark.parametrize("alone", [0, 30])
    async def test_a_look_that_stalls_holds_up_no_other_machine(
        self, memory_client, request_for, alone
    ):
        """While one machine's GET hangs, the others are looked at as ever, late ones too."""
        tasks = [await memory_client.vms.create(request_for(f"w-{n}")) for n in range(3)]
        stalled, *others = tasks
        wire = memory_client._pipeline._transport
        send = wire.send

        async def stalling(method, target, headers, body):
            if target.endswith(stalled.vm_id):
                await asyncio.sleep(10_000)
            return await send(method, target, headers, body)

        wire.send = stalling
        waiter = asyncio.create_task(stalled.wait(timeout=5000))
        await asyncio.sleep(2 + alone)
        await asyncio.gather(*others)
        assert now() < 120 + alone
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)


class TestJoining:
    async def test_who_comes_while_a_list_is_under_way_is_served_by_the_next(self, request_for):
        """A task of a machine that changes no more is told by a list asked after it came."""
        cloud = Recorder(seed=1)
        async with cloud.client(latency=0.8) as client:
            ids = fill(cloud.api, 60)
            others = [asyncio.create_task((await client.vms.reboot(i)).wait()) for i in ids]
            await asyncio.sleep(20)
            target = await client.vms.power_off(ids[0])
            await target
            for part in range(8):
                # Both tasks are about an end that holds already, at any moment of a list's way.
                await asyncio.sleep(0.13 * part)
                task = await client.vms.power_off(ids[0])
                began = now()
                assert (await task.wait(timeout=60)).state == "offline"
                assert now() - began < 20
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


class TestShortWaits:
    """A web service asks a task for its state, now and then, and waits a moment for it."""

    async def test_many_short_waits_see_what_a_long_one_sees(self, request_for):
        """Coming and going puts no look off: the next one is due from the last one on."""
        recorder = Recorder(settings=Settings(create=60, not_found=0), seed=1)
        client = recorder.client()
        task = await client.vms.create(request_for())
        while not task.done():
            assert now() < 75
            with contextlib.suppress(TimeoutError):
                await task.wait(timeout=2)
        assert task.evidence == "observed"
        # One at each deadline, and those that come anyway.
        assert len(recorder.times("get")) < 60 / 2 + 20

    async def test_who_comes_and_goes_keeps_nobody_waiting(self, request_for):
        """One who waits on is told as early as if no other were there."""
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
    async def test_another_loop_while_awaited_is_an_error(self, memory_client, request_for):
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
    async with Client.in_memory(api) as client:
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
    def test_an_outstanding_task_takes_three_kilobytes_at_most(self):
        """Beyond what asyncio takes for any awaiter; without its debug mode and coverage."""
        plain = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COVERAGE_", "COV_", "PYTHONDEVMODE", "PYTHONASYNCIODEBUG"))
        }
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, "3000"],
            capture_output=True,
            text=True,
            check=True,
            env=plain,
        )
        print(f"{float(measured.stdout):.0f} bytes")
        assert float(measured.stdout) <= 3 * 1024


def test_a_loop_that_was_closed_under_awaiters():
    """Awaiters left behind in a dead loop are a clear error, and gone once the client is closed."""
    api = CloudAPI(settings=Settings(create=0.2, not_found=0))
    client = Client.in_memory(api, min_poll_interval=0.01)
    request = CreateRequest(
        name="w", cpus=1, ram=512, zone_id=next(iter(ZONES)), boot=ImageBoot(os="2268")
    )

    async def leave_behind():
        task = await client.vms.create(request)
        waiting = asyncio.get_running_loop().create_task(task.wait())
        await asyncio.sleep(0.05)
        return task, waiting

    loop = asyncio.new_event_loop()
    task, waiting = loop.run_until_complete(leave_behind())
    everything = asyncio.all_tasks(loop)
    loop.close()
    with pytest.raises(InvalidState, match="another event loop"):
        asyncio.run(task.wait())
    asyncio.run(client.close())

    async def wait_again():
        async with client:
            return await task

    assert asyncio.run(wait_again()).state == "online"
    for left in everything:
        # They can never end; nothing is to be logged when they are thrown away.
        left._log_destroy_pending = False
        with contextlib.suppress(BaseException):
            left.get_coro().close()
    del waiting
