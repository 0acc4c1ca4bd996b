"""How many requests are sent, and when, in virtual time."""

import asyncio
import contextlib
import itertools
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from async_vmapi import Client, InvalidArgument, RateLimited, ServerError, TransportError
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Response, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.transport.rate_limit import Pace, Priority

from .in_memory import client_and_transport

pytestmark = pytest.mark.looptime


def now():
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def admitted(pace, priority, *, first=False):
    """Send a request inside it."""
    gate = pace.gate()
    if not gate.try_enter():
        await gate.enter(priority, first=first)
    try:
        yield
    finally:
        gate.leave()


class Recorder:
    """A cloud that records when each request came, and can respond to it itself."""

    def __init__(self, **options):
        self.api = CloudAPI(**options)
        self.came = []
        self.respond = lambda number: None
        self._handle = self.api.handle
        self.api.handle = self.handle

    def handle(self, request, **when):
        self.came.append((now(), self.api.call_of(request)))
        return self.respond(len(self.came)) or self._handle(request, **when)

    def client(self, **options):
        return Client.in_memory(self.api, **({"latency": 0.02, "seed": 1} | options))


def refusal(status, **headers):
    return Response(status, headers, b'{"success": false, "error": "later"}')


class TestRate:
    @pytest.mark.parametrize("operation", ["create", "shutdown"])
    async def test_five_hundred_operations_within_ten_requests_a_second(
        self, request_for, operation
    ):
        """Few are refused, and all complete hardly later than they can."""
        api = CloudAPI(seed=1, max_requests_per_second=10)
        async with Client.in_memory(
            api, latency=0.05, seed=1, max_requests_per_second=10
        ) as client:
            if operation == "create":
                writes = [
                    client.vms.create(request_for(f"w-{n}"), unique_name=True) for n in range(500)
                ]
            else:
                zone = next(iter(ZONES.values()))
                for n in range(500):
                    api.cloud.create(
                        now() - 1000,
                        label=f"w-{n}",
                        cores=1,
                        ram=1024,
                        zone=zone,
                        template=TEMPLATES[0],
                    )
                writes = [client.vms.shutdown(vm_id) for vm_id in list(api.cloud.vms)]
            began = now()

            async def whole(write):
                await (await write)

            await asyncio.gather(*map(whole, writes))
            took = now() - began
        done = sorted(
            (o for o in api.cloud.operations if o.kind == operation), key=lambda o: o.accepted_at
        )
        assert len(done) == 500
        optimum = max(
            n / 10 + operation.finished_at - operation.accepted_at
            for n, operation in enumerate(done)
        )
        print(f"{operation}: {took:.1f} s, the optimum is {optimum:.1f} s, {api.requests}")
        assert took <= 1.15 * optimum
        assert api.requests["rate_limited"] < 0.01 * api.requests.total()

    async def test_requests_are_spread_evenly(self):
        """At most two at once, neither at the start nor after a pause."""
        cloud = Recorder()
        async with cloud.client(max_requests_per_second=4) as client:
            for _ in range(2):
                await asyncio.gather(*(client.regions.list() for _ in range(8)))
                await asyncio.sleep(100)
        times = [at for at, _ in cloud.came]
        steps = [b - a for a, b in itertools.pairwise(times)]
        for some in steps[:7], steps[8:]:
            assert some == pytest.approx([0, *[0.25] * 6], abs=0.001)

    @pytest.mark.parametrize("most", [1, 7])
    async def test_the_connection_limit_holds_for_calls_and_polls_together(self, most):
        """Never are more requests in flight."""
        out = peak = 0
        cloud = Recorder()
        client, transport = client_and_transport(cloud.api, latency=0.1, max_connections=most)
        async with client:
            send = transport.send

            async def counted(*request):
                nonlocal out, peak
                out += 1
                peak = max(peak, out)
                try:
                    return await send(*request)
                finally:
                    out -= 1

            transport.send = counted
            await asyncio.gather(*(client.regions.list() for _ in range(50)))
        assert peak == most

    @pytest.mark.parametrize(
        ("options", "argument"),
        [
            ({"max_connections": 0}, "max_connections"),
            ({"max_requests_per_second": 0}, "max_requests_per_second"),
            ({"max_requests_per_second": float("nan")}, "max_requests_per_second"),
            ({"max_retries": -1}, "max_retries"),
            ({"max_retries": True}, "max_retries"),
            ({"reconcile_timeout": -1}, "reconcile_timeout"),
            ({"reconcile_timeout": "60"}, "reconcile_timeout"),
            ({"max_staleness": -1}, "max_staleness"),
            ({"max_staleness": float("inf")}, "max_staleness"),
            ({"max_staleness": float("nan")}, "max_staleness"),
            ({"max_staleness": "10"}, "max_staleness"),
            ({"max_staleness": True}, "max_staleness"),
            ({"facts": 10}, "facts"),
            ({"facts": "/nowhere/cloud.toml"}, "facts"),
            ({"max_response_size": 0}, "max_response_size"),
            ({"seed": -1}, "seed"),
            ({"seed": 1.0}, "seed"),
            ({"seed": "x"}, "seed"),
        ],
    )
    async def test_wrong_limits_are_refused(self, options, argument):
        """The error names the argument and what is allowed."""
        with pytest.raises(InvalidArgument) as caught:
            Client.in_memory(CloudAPI(), **options)
        assert caught.value.argument == argument


class TestRetryAfter:
    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    async def test_the_whole_client_waits(self, status, form):
        """No request is sent in the time that the server asked for."""
        cloud = Recorder()
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
        value = "8" if form == "seconds" else date

        def respond(number):
            return refusal(status, **{"Retry-After": value}) if number == 3 else None

        cloud.respond = respond
        async with cloud.client(max_connections=2) as client:
            await asyncio.gather(*(client.regions.list() for _ in range(20)))
        (hit, _), later = cloud.came[2], cloud.came[4:]
        # The other one of the two connections may have been in use already.
        assert min(at for at, _ in later) >= hit + 6.5
        assert len(cloud.came) == 21

    async def test_it_resumes_without_a_burst(self):
        """One request comes first, and more only as responses come."""
        cloud = Recorder()
        cloud.respond = lambda number: (
            refusal(429, **{"Retry-After": "5"}) if number <= 100 else None
        )
        async with cloud.client(latency=0.2) as client:
            await asyncio.gather(*(client.regions.list() for _ in range(200)))
        after = [at for at, _ in cloud.came[100:]]
        first = after[0]
        assert first >= 5
        by_round = [
            sum(first + 0.2 * n - 0.01 <= at < first + 0.2 * (n + 1) - 0.01 for at in after)
            for n in range(5)
        ]
        assert by_round[0] == 1
        assert all(b <= 2 * a for a, b in itertools.pairwise(by_round))

    @pytest.mark.parametrize("refused", ["call", "poll"])
    @pytest.mark.parametrize("polls", ["get", "list"])
    async def test_neither_calls_nor_polls_are_sent(self, request_for, refused, polls):
        """Whichever was refused, both wait until then, and no longer."""
        cloud = Recorder(seed=1, settings=Settings(create=50, not_found=0))
        if polls == "get":
            # A list would cost more.
            for n in range(400):
                cloud.api.cloud.create(
                    now() - 1000,
                    label=f"old-{n}",
                    cores=1,
                    ram=1024,
                    zone=next(iter(ZONES.values())),
                    template=TEMPLATES[0],
                )
        async with cloud.client() as client:
            tasks = [await client.vms.create(request_for(f"w-{n}")) for n in range(3)]
            waiting = [asyncio.create_task(task.wait()) for task in tasks]
            await asyncio.sleep(10)
            assert [call for _, call in cloud.came][-1] == polls
            hit, is_hit = [], asyncio.Event()

            def respond(number):
                if not hit and (cloud.came[-1][1] == "regions") == (refused == "call"):
                    hit.append(now())
                    is_hit.set()
                    return refusal(429, **{"Retry-After": "200"})
                return None

            cloud.respond = respond
            if refused == "call":
                with pytest.raises(RateLimited) as caught:
                    await client.regions.list()
                assert caught.value.retry_after == 200
            await is_hit.wait()
            await asyncio.sleep(1)
            await asyncio.gather(client.regions.list(), *waiting)
        later = [(at, call) for at, call in cloud.came if at > hit[0] + 0.05]
        assert {call for at, call in later if at < hit[0] + 203} >= {"regions", polls}
        assert min(at for at, _ in later) >= hit[0] + 200

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    async def test_a_call_waits_within_its_time_limit(self, status):
        """A hundred seconds of its two minutes; then it succeeds."""
        cloud = Recorder()
        cloud.respond = lambda number: (
            refusal(status, **{"Retry-After": "100"}) if number == 1 else None
        )
        async with cloud.client() as client:
            await client.regions.list()
        assert [at for at, _ in cloud.came] == pytest.approx([0.01, 100.03], abs=0.05)

    @pytest.mark.parametrize("ahead", [-3600, -40, 40, 3600])
    async def test_a_date_is_read_by_the_servers_clock(self, ahead):
        """Its `Date` header gives its time, so a wrong clock on either side changes nothing."""
        there = datetime.now(UTC) + timedelta(seconds=ahead)
        headers = {
            "Date": format_datetime(there, usegmt=True),
            "Retry-After": format_datetime(there + timedelta(seconds=30), usegmt=True),
        }
        cloud = Recorder()
        cloud.respond = lambda number: refusal(503, **headers) if number == 1 else None
        async with cloud.client() as client:
            await client.regions.list()
        assert [at for at, _ in cloud.came] == pytest.approx([0.01, 30.03], abs=0.05)

    @pytest.mark.parametrize("value", ["3600", "9" * 9, "Fri, 31 Dec 9999 23:59:59 GMT"])
    async def test_an_hour_is_too_long(self, value):
        """The call fails, as it would wait too long; the next one is sent after 5 min."""
        cloud = Recorder()
        cloud.respond = lambda number: (
            refusal(429, **{"Retry-After": value}) if number == 1 else None
        )
        async with cloud.client() as client:
            with pytest.raises(RateLimited) as caught:
                await client.regions.list()
            assert caught.value.retry_after >= 3600
            await client.regions.list()
        assert [at for at, _ in cloud.came] == pytest.approx([0.01, 300.03], abs=0.05)

    @pytest.mark.parametrize("value", ["-200", "soon", "", "nan", "1e3", "Mon, 99 Nov 2026"])
    @pytest.mark.parametrize("status", [429, 503])
    async def test_an_invalid_value_is_ignored(self, status, value):
        """As if the header was missing."""
        cloud = Recorder()
        cloud.respond = lambda number: (
            refusal(status, **{"Retry-After": value}) if number == 1 else None
        )
        async with cloud.client() as client:
            await client.regions.list()
        assert cloud.came[1][0] < 1.1

    async def test_a_server_that_always_refuses_ends_the_call(self):
        """The call's time is limited; its error holds what the server asked for."""
        cloud = Recorder()
        cloud.respond = lambda number: refusal(429, **{"Retry-After": "30"})
        async with cloud.client() as client:
            with pytest.raises(RateLimited) as caught:
                await client.regions.list()
        assert caught.value.retry_after == 30
        assert 90 <= now() <= 155
        assert len(cloud.came) == 4

    async def test_a_failing_server_is_not_hammered(self):
        """A thousand calls to a server that only fails are not five thousand requests."""
        cloud = Recorder()
        cloud.respond = lambda number: refusal(500)
        async with cloud.client() as client:
            results = await asyncio.gather(
                *(client.regions.list() for _ in range(1000)), return_exceptions=True
            )
        assert all(isinstance(result, ServerError) for result in results)
        assert len(cloud.came) <= 1500

    async def test_passing_failures_are_retried(self, request_for):
        """Calls that fail now and then succeed in the end."""
        api = CloudAPI(
            seed=1,
            faults=FaultPlan(
                [
                    Fault(kind=kind, probability=0.03)
                    for kind in ("drop_before", "drop_after", "html", "truncated", "rate_limited")
                ],
                seed=1,
            ),
        )
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            regions = await asyncio.gather(*(client.regions.list() for _ in range(200)))
        assert regions[0] != []
        assert regions == [regions[0]] * 200

    async def test_the_last_failure_is_raised(self):
        """After five retries."""
        api = CloudAPI(faults=FaultPlan([Fault(kind="drop_before", probability=1)]))
        async with Client.in_memory(api, latency=0.02, seed=1) as client:
            with pytest.raises(TransportError):
                await client.regions.list()
            assert client.requests["regions"] == 6


class TestClocks:
    @pytest.mark.parametrize("rate", [None, 10])
    @pytest.mark.parametrize("early", [1e-9, 1e-4, 9e-4])
    async def test_timers_that_fire_early_do_not_spin(self, monkeypatch, rate, early):
        """A remainder too small for a timer ends the wait, or a stopped clock never ends it."""
        sleeps = []
        sleep = asyncio.sleep

        async def hasty(seconds):
            sleeps.append(seconds)
            assert len(sleeps) < 100
            await sleep(max(0.0, seconds - early))

        pace = Pace(1, rate)
        passed = []

        async def ask():
            async with admitted(pace, Priority.CALLS):
                passed.append(now())

        await ask()
        monkeypatch.setattr("async_vmapi.transport.rate_limit.asyncio.sleep", hasty)
        pace.gate().hold(5)
        await asyncio.gather(*(ask() for _ in range(20)))
        assert passed[1] == pytest.approx(5, abs=0.001)
        # One wait for each request that is not sent at once.
        assert len(sleeps) == (1 if rate is None else 19)
        if rate is not None:
            # Nothing is lost by it: the next ones wait longer.
            assert passed[-1] == pytest.approx(5 + 18 / rate, abs=0.002)

    async def test_a_hold_counts_for_a_request_that_waits_for_its_rate(self):
        """A Retry-After that arrives while the next request waits delays it, too."""
        pace = Pace(5, 0.5)
        passed = []

        async def ask():
            async with admitted(pace, Priority.CALLS):
                passed.append(now())

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(1)
        pace.gate().hold(30)
        await asyncio.gather(*asking)
        assert passed == pytest.approx([0, 0, 31], abs=0.001)

    async def test_a_stopped_process_sends_no_burst(self):
        """After an hour's stop no more requests are sent at once than after a second."""
        pace = Pace(50, 4)
        passed = []

        async def ask():
            async with admitted(pace, Priority.CALLS):
                passed.append(now())

        await ask()
        await asyncio.sleep(3600)
        await asyncio.gather(*(ask() for _ in range(6)))
        assert passed[1:] == pytest.approx([3600 + 0.25 * n for n in (0, 0, 1, 2, 3, 4)], abs=0.001)


class TestRetryDelays:
    async def test_delays_grow(self):
        """Half a second, then twice as long, each less up to half of it by chance."""
        cloud = Recorder(seed=1)
        cloud.respond = lambda number: refusal(500) if number <= 3 else None
        async with cloud.client(max_retries=3) as client:
            await client.vms.list()
        waits = [b - a - 0.02 for (a, _), (b, _) in itertools.pairwise(cloud.came)]
        assert len(waits) == 3
        for wait, longest in zip(waits, [0.5, 1.0, 2.0], strict=True):
            assert longest / 2 <= wait <= longest + 0.01

    async def test_retry_after_sets_the_delay(self):
        """It takes precedence over the backoff."""
        cloud = Recorder(seed=1)
        cloud.respond = lambda number: refusal(429, **{"Retry-After": "7"}) if number == 1 else None
        async with cloud.client() as client:
            await client.vms.list()
        (first, _), (second, _) = cloud.came
        assert 7 <= second - first <= 8


class TestPriorities:
    @pytest.mark.parametrize(
        ("crowd", "few", "most"),
        [(Priority.CALLS, Priority.POLLS, 9), (Priority.POLLS, Priority.CALLS, 1)],
    )
    async def test_priorities_alternate(self, crowd, few, most):
        """However many requests wait, a poll is sent after nine calls at most."""
        pace = Pace(1, None)
        order = []

        async def ask(lane):
            async with admitted(pace, lane):
                order.append(lane)
                await asyncio.sleep(0.1)

        many = [asyncio.create_task(ask(crowd)) for _ in range(50)]
        await asyncio.sleep(0.25)
        others = [asyncio.create_task(ask(few)) for _ in range(5)]
        await asyncio.gather(*many, *others)
        places = [place for place, lane in enumerate(order) if lane is few]
        assert places[0] <= 3 + most
        assert all(b - a <= 1 + most for a, b in itertools.pairwise(places))

    async def test_polls_pass_a_crowd_of_writes(self, request_for):
        """A completion is seen in time though hundreds of writes wait, and those continue."""
        settings = Settings(create=20, not_found=0, stale=0)
        api = CloudAPI(seed=1, settings=settings)
        async with Client.in_memory(api, latency=0.02, seed=1, max_requests_per_second=5) as client:
            task = await client.vms.create(request_for("first"), unique_name=True)
            began = now()
            crowd = [
                asyncio.create_task(client.vms.create(request_for(f"w-{n}"), unique_name=True))
                for n in range(400)
            ]
            await task
            assert now() - began < 20 + 3
            made = len(api.cloud.vms)
            assert made >= 60
            for one in crowd:
                one.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)

    async def test_a_retry_is_sent_first(self):
        """It has waited already."""
        pace = Pace(1, None)
        order = []

        async def ask(name, *, first=False):
            async with admitted(pace, Priority.CALLS, first=first):
                order.append(name)
                await asyncio.sleep(0.1)

        tasks = [asyncio.create_task(ask(n)) for n in range(4)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(ask("again", first=True)))
        await asyncio.gather(*tasks)
        assert order.index("again") <= 2

    @pytest.mark.parametrize("rate", [None, 5])
    @pytest.mark.parametrize("at", [0.01 * n for n in range(0, 60, 3)])
    async def test_a_cancelled_request_holds_up_no_other(self, rate, at):
        """At whatever point of its wait."""
        pace = Pace(2, rate)
        passed = []

        async def ask(number):
            async with admitted(pace, Priority.CALLS if number % 2 else Priority.POLLS):
                await asyncio.sleep(0.1)
                passed.append(number)

        tasks = [asyncio.create_task(ask(n)) for n in range(12)]
        await asyncio.sleep(at)
        if at > 0.2:
            pace.gate().hold(3)
        for victim in tasks[2:7]:
            victim.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert {0, 1, 7, 8, 9, 10, 11} <= set(passed)
        async with asyncio.timeout(10):
            await ask(99)

    def test_another_loop_starts_afresh(self):
        """Requests that waited in a closed loop block none in the next."""
        pace = Pace(1, 100)

        async def stay():
            async with admitted(pace, Priority.CALLS):
                await asyncio.sleep(3600)

        async def leave_it():
            task = asyncio.create_task(stay())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return task

        async def use():
            async with asyncio.timeout(1), admitted(pace, Priority.CALLS):
                return True

        for what in (leave_it, use):
            with asyncio.Runner() as runner:
                result = runner.run(what())
        assert result is True
