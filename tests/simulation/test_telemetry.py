"""Traces, metrics and log records of a client, in virtual time."""

import asyncio
import contextlib
import gc
import json
import logging
import re
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from async_vmapi import (
    APIError,
    AuthenticationError,
    Client,
    Conflict,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    TaskFailed,
    TaskTimeout,
    VMVanished,
)
from async_vmapi.emulator import (
    CloudAPI,
    Fault,
    FaultPlan,
    InMemoryTransport,
    Response,
    Settings,
)
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.otel import OpenTelemetry
from async_vmapi.tasks import token as tokens

from .in_memory import client_and_transport

pytestmark = pytest.mark.looptime


class Recorded:
    """What was exported, under short names."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider(metric_readers=[self.reader])
        self.telemetry = OpenTelemetry(tracer_provider=self.provider, meter_provider=meters)
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span

    def children(self, parent):
        return [s for s in self.spans if s.parent and s.parent.span_id == parent.context.span_id]

    def operations(self):
        """Count the operations by name and outcome."""
        return Counter(
            (s.name, s.attributes["vmapi.outcome"]) for s in self.spans if "vms." in s.name
        )

    def points(self, name):
        """Return the points of a metric."""
        data = self.reader.get_metrics_data()
        found = [
            metric.data.data_points
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        return list(found[0]) if found else []

    def count(self, name, **labels):
        """Return the sum of a counter, or the count of a histogram's values, where labels match."""
        fitting = [
            point
            for point in self.points(name)
            if all(point.attributes.get(key.replace("_", ".")) == v for key, v in labels.items())
        ]
        return sum(point.value if hasattr(point, "value") else point.count for point in fitting)


@pytest.fixture
def recorded():
    """The recorded telemetry."""
    return Recorded()


@pytest.fixture
async def client(api, recorded):
    """A client with telemetry, whose requests take twenty milliseconds."""
    async with Client.in_memory(
        api, latency=0.02, seed=1, max_retries=2, reconcile_timeout=10, telemetry=recorded.telemetry
    ) as client:
        yield client


def add(api):
    """Add a VM that is online already, and return its id."""
    return api.cloud.create(
        asyncio.get_running_loop().time() - 1000,
        label="old",
        cores=1,
        ram=1024,
        zone=next(iter(ZONES.values())),
        template=TEMPLATES[0],
    )


async def until(condition):
    """Let the loop run until a condition holds."""
    for _ in range(5):
        if condition():
            return
        gc.collect()
        await asyncio.sleep(0)
    raise AssertionError("it does not come")


class TestOperations:
    async def test_one_span_from_the_write_to_the_observed_completion(
        self, client, recorded, request_for
    ):
        """Its parent is the caller's span, its child the request; changes are its events."""
        with recorded.tracer.start_as_current_span("job") as job:
            task = await client.vms.create(request_for())
            assert not recorded.named("vms.create")
            await task
        create = recorded.one("vms.create")
        assert create.parent.span_id == job.get_span_context().span_id
        assert create.kind is SpanKind.INTERNAL
        assert create.status.status_code is StatusCode.UNSET
        assert dict(create.attributes) == {
            "server.address": "in-memory.invalid",
            "server.port": 443,
            "vmapi.adopted": False,
            "vmapi.evidence": "observed",
            "vmapi.operation": "create",
            "vmapi.outcome": "done",
            "vmapi.resumed": False,
            "vmapi.vm.id": task.vm_id,
        }
        accepted, *changes = create.events
        assert accepted.name == "vmapi.accepted"
        shown = [(e.attributes["vmapi.vm.state"], e.attributes["vmapi.elapsed"]) for e in changes]
        assert shown == [(event.state, event.elapsed) for event in task.history]
        assert shown[-1][0] == "online"
        (request,) = recorded.children(create)
        assert request.name == "PUT /v2/virtual-machines"
        assert request.kind is SpanKind.CLIENT

    async def test_spans_do_not_grow_with_the_wait(self, api, client, recorded):
        """Polls make none: any wait is one span and its request."""
        vm = add(api)
        api.cloud.adjust("*", resize=3600, stale=0)
        await (await client.vms.resize(vm, cores=4, ram=4096)).wait(timeout=None)
        assert client.requests["get"] > 100
        assert len(recorded.spans) == 2
        assert recorded.count("vmapi.client.polls") == client.requests["get"]
        assert recorded.count("http.client.request.duration") == client.requests["get"] + 1
        (point,) = recorded.points("vmapi.client.operation.duration")
        assert point.sum > 1000

    async def test_a_fleet_is_one_span_and_one_request_each(self, client, recorded, request_for):
        """However many lists it takes."""
        requests = [request_for(f"w-{n}") for n in range(100)]
        tasks = await asyncio.gather(*map(client.vms.create, requests))
        await asyncio.gather(*tasks)
        assert recorded.operations() == {("vms.create", "done"): 100}
        assert len(recorded.spans) == 200
        lists = recorded.count("vmapi.client.polls", vmapi_call="list")
        assert 0 < lists < 100

    async def test_a_bulk_call_is_one_span_for_each_vm(self, api, client, recorded):
        """All under the caller's span."""
        vm_ids = [add(api) for _ in range(5)]
        with recorded.tracer.start_as_current_span("job"):
            await client.bulk(limit=2).power_off(vm_ids)
        below = recorded.children(recorded.one("job"))
        assert Counter(span.name for span in below) == {"vms.power_off": 5}
        assert {span.attributes["vmapi.vm.id"] for span in below} == {*vm_ids}

    async def test_a_span_is_named_like_its_method(self, api, client, recorded):
        """For every operation."""
        vm = add(api)
        await (await client.vms.shutdown(vm))
        await (await client.vms.power_on(vm))
        await (await client.vms.reboot(vm))
        await client.vms.rename(vm, "other")
        await (await client.vms.delete(vm))
        names = ["shutdown", "power_on", "reboot", "rename", "delete"]
        assert recorded.operations() == {(f"vms.{name}", "done"): 1 for name in names}
        assert recorded.one("vms.delete").events[-1].attributes["vmapi.vm.state"] == "gone"
        assert {span.name for span in recorded.spans if span.kind is SpanKind.CLIENT} == {
            f"POST /v2/virtual-machines/{{id}}/{verb}"
            for verb in ("shutdown", "poweron", "reboot", "rename")
        } | {"DELETE /v2/virtual-machines/{id}"}

    async def test_awaiting_a_completed_task_makes_no_span(self, api, client, recorded):
        """Its span has ended."""
        task = await client.vms.power_off(add(api))
        await asyncio.gather(*(task.wait() for _ in range(3)))
        await task
        assert len(recorded.spans) == 2

    async def test_events_taken_one_by_one_belong_to_one_span(self, client, recorded, request_for):
        """It stays open between two events, though nothing waits then."""
        task = await client.vms.create(request_for())
        async for event in task.events():
            assert event.final or not recorded.named("vms.create")
        assert recorded.operations() == {("vms.create", "done"): 1}


class TestEndings:
    async def test_a_refused_write_fails_operation_and_request(self, client, recorded):
        """The API refused it."""
        with pytest.raises(NotFound):
            await client.vms.shutdown("no-such-vm")
        shutdown = recorded.one("vms.shutdown")
        assert shutdown.attributes["vmapi.outcome"] == "failed"
        assert shutdown.attributes["error.type"] == "NotFound"
        assert shutdown.status.status_code is StatusCode.ERROR
        (request,) = recorded.children(shutdown)
        assert request.attributes["http.response.status_code"] == 404
        assert request.attributes["error.type"] == "404"
        assert request.status.status_code is StatusCode.ERROR

    async def test_a_failure_state_ends_the_span_with_an_error(
        self, api, client, recorded, request_for
    ):
        """It was observed."""
        api.cloud.adjust("*", fail_state="error")
        task = await client.vms.create(request_for())
        with pytest.raises((TaskFailed, VMVanished)) as caught:
            await task
        create = recorded.one("vms.create")
        assert create.attributes["vmapi.outcome"] == "failed"
        assert create.attributes["error.type"] == type(caught.value).__name__
        assert create.status.status_code is StatusCode.ERROR

    async def test_a_vanished_vm_ends_the_span_with_an_error(self, api, client, recorded):
        """Another client deleted it."""
        vm = add(api)
        task = await client.vms.reboot(vm)
        elsewhere = Client.in_memory(api)
        await elsewhere.vms.delete(vm)
        with pytest.raises(VMVanished):
            await task
        assert recorded.one("vms.reboot").attributes["error.type"] == "VMVanished"

    async def test_a_timeout_ends_the_span_and_a_new_wait_links_to_it(self, api, client, recorded):
        """Both are recorded at once."""
        vm = add(api)
        api.cloud.adjust("*", resize=600)
        task = await client.vms.resize(vm, cores=2, ram=2048)
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=5)
        first = recorded.one("vms.resize")
        assert first.attributes["vmapi.outcome"] == "timeout"
        assert first.attributes["error.type"] == "TaskTimeout"
        with recorded.tracer.start_as_current_span("later") as later:
            await task
        _, second = recorded.named("vms.resize")
        assert second.attributes["vmapi.outcome"] == "done"
        assert second.attributes["vmapi.resumed"] is True
        assert second.attributes["vmapi.vm.id"] == vm
        assert second.parent.span_id == later.get_span_context().span_id
        assert [link.context for link in second.links] == [first.context]

    async def test_a_timeout_of_one_of_two_waits_ends_nothing(self, api, client, recorded):
        """The span stays open as long as one waits."""
        task = await client.vms.reset(add(api))
        patient = asyncio.create_task(task.wait())
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=0.5)
        assert not recorded.named("vms.reset")
        await patient
        assert recorded.operations() == {("vms.reset", "done"): 1}

    async def test_cancelling_the_last_wait_ends_the_span(self, api, client, recorded):
        """Without an error."""
        task = await client.vms.reset(add(api))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await task
        reset = recorded.one("vms.reset")
        assert reset.attributes["vmapi.outcome"] == "cancelled"
        assert reset.status.status_code is StatusCode.UNSET

    async def test_a_refresh_ends_no_span(self, api, client, recorded):
        """A refresh is no wait that ends."""
        task = await client.vms.reset(add(api))
        assert await task.refresh() is False
        assert recorded.operations() == {}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task.wait(), 2)
        assert recorded.operations() == {("vms.reset", "cancelled"): 1}

    async def test_a_collected_task_ends_its_span(self, api, client, recorded):
        """It cannot be awaited any more."""
        task = await client.vms.reset(add(api))
        del task
        await until(lambda: recorded.named("vms.reset"))
        assert recorded.operations() == {("vms.reset", "abandoned"): 1}

    async def test_a_task_that_is_not_awaited_ends_with_the_client(self, api, client, recorded):
        """Closing ends each span exactly once."""
        kept = await client.vms.reset(add(api))
        awaited = await client.vms.power_off(add(api))
        waiter = asyncio.create_task(awaited.wait())
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(InvalidState):
            await waiter
        assert recorded.operations() == {
            ("vms.reset", "closed"): 1,
            ("vms.power_off", "closed"): 1,
        }
        # The client can be opened again, and a resumed task has another span.
        async with client:
            await kept
        assert recorded.operations()["vms.reset", "done"] == 1

    async def test_a_write_cancelled_in_the_queue_has_no_request_span(self, api, recorded):
        """The operation has a span."""
        async with Client.in_memory(
            api, latency=1, max_connections=1, telemetry=recorded.telemetry, seed=1
        ) as client:
            busy = asyncio.create_task(client.vms.list())
            await asyncio.sleep(0.1)
            write = asyncio.create_task(client.vms.reset(add(api)))
            await asyncio.sleep(0.1)
            write.cancel()
            await asyncio.wait({write})
            await busy
        assert recorded.operations() == {("vms.reset", "cancelled"): 1}
        assert [span.name for span in recorded.spans if span.kind is SpanKind.CLIENT] == [
            "GET /v2/virtual-machines"
        ]

    async def test_a_create_whose_caller_is_cancelled_in_flight(
        self, client, recorded, request_for
    ):
        """It is accepted all the same, and its token links to its span."""
        write = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.01)
        write.cancel()
        await asyncio.wait({write})
        create = recorded.one("vms.create")
        assert create.attributes["vmapi.outcome"] == "cancelled"
        assert create.events[0].name == "vmapi.accepted"
        (left,) = client.unresolved
        await client.resume(left.token)
        _, resumed = recorded.named("vms.create")
        assert [link.context.span_id for link in resumed.links] == [create.context.span_id]

    async def test_refused_credentials_end_the_span(self, api, client, recorded):
        """The awaiter gets the error; the task can be awaited again."""
        vm = add(api)
        task = await client.vms.reset(vm)
        handle = api.handle
        api.handle = lambda *_, **__: Response(401, {}, b'{"success": false}')
        with pytest.raises(AuthenticationError):
            await task
        api.handle = handle
        await task
        assert recorded.operations() == {("vms.reset", "error"): 1, ("vms.reset", "done"): 1}

    async def test_every_span_ends_exactly_once_under_faults(self, recorded, request_for):
        """Whatever is refused, lost, cancelled or collected."""
        faults = FaultPlan(
            [
                Fault(kind="drop_after", probability=0.1),
                Fault(kind="rate_limited", probability=0.05),
                Fault(kind="server_error", status=503, probability=0.1),
            ],
            seed=3,
        )
        api = CloudAPI(settings=Settings(create=(5, 60)), seed=3, faults=faults)
        begun, ended = Counter(), Counter()

        class Counting(SimpleSpanProcessor):
            def on_start(self, span, parent_context=None):
                begun[span.context.span_id] += 1

            def on_end(self, span):
                ended[span.context.span_id] += 1

        recorded.provider.add_span_processor(Counting(recorded.exporter))
        client = Client.in_memory(
            api, latency=0.05, seed=3, reconcile_timeout=5, telemetry=recorded.telemetry
        )

        async def live(number):
            with contextlib.suppress(Exception):
                task = await client.vms.create(request_for(f"w-{number}"))
                if number % 5 == 0:
                    return
                await task.wait(timeout=10 if number % 5 == 1 else None)
                await (await client.vms.delete(task.vm_id))

        lives = [asyncio.create_task(live(number)) for number in range(120)]
        await asyncio.sleep(20)
        for victim in lives[::7]:
            victim.cancel()
        await asyncio.wait(lives, timeout=100)
        for victim in lives:
            victim.cancel()
        await asyncio.wait(lives)
        await client.close()
        del lives
        gc.collect()
        await asyncio.sleep(0)
        assert begun == ended
        assert set(ended.values()) == {1}
        outcomes = {outcome for _, outcome in recorded.operations()}
        assert {"done", "timeout", "cancelled", "abandoned"} <= outcomes


class TestTokens:
    async def test_a_resumed_task_links_to_the_span_of_the_write(self, api, client, recorded):
        """Also in another process: the token carries what the link needs, and no more."""
        task = await client.vms.power_off(add(api))
        token = task.token()
        del task
        await until(lambda: recorded.named("vms.power_off"))
        first = recorded.one("vms.power_off").context
        assert tokens.peek(token).trace == (
            f"00-{first.trace_id:032x}-{first.span_id:016x}-{first.trace_flags:02x}"
        )
        async with Client.in_memory(api, telemetry=recorded.telemetry, seed=1) as other:
            with recorded.tracer.start_as_current_span("other process"):
                await other.resume(token)
        _, resumed = recorded.named("vms.power_off")
        assert resumed.attributes["vmapi.resumed"] is True
        assert [link.context.span_id for link in resumed.links] == [first.span_id]
        assert resumed.parent.span_id == recorded.one("other process").context.span_id

    async def test_tokens_work_with_and_without_telemetry(self, api, client):
        """In both directions."""
        token = (await client.vms.power_off(add(api))).token()
        async with Client.in_memory(api, seed=1) as plain:
            await plain.resume(token)
            other = await plain.vms.power_on(add(api))
            assert tokens.peek(other.token()).trace is None
            await client.resume(other.token())

    async def test_an_invalid_trace_is_no_link(self, api, client, recorded):
        """The task is resumed all the same."""
        token = tokens.TaskToken(client.origin, "power_off", add(api), 0.0, trace="00-nonsense\n")
        task = client.resume(tokens.seal(token))
        with pytest.raises(TaskTimeout):
            await task.wait(timeout=1)
        assert recorded.one("vms.power_off").links == ()

    async def test_reconciling_a_create_links_to_it(self, api, client, recorded, request_for):
        """Reconciling is an operation; its lists are no spans."""
        api.faults.fail_next("create", "drop_before")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for())
        with pytest.raises(OutcomeUnknown):
            await client.reconcile(caught.value.token)
        first, second = recorded.named("vms.create")
        assert first.attributes["vmapi.outcome"] == second.attributes["vmapi.outcome"] == "error"
        assert first.attributes["error.type"] == "OutcomeUnknown"
        assert [link.context.span_id for link in second.links] == [first.context.span_id]
        assert client.requests["list"] > 5
        assert len(recorded.spans) == 3

    async def test_reconciling_a_reboot_continues_to_its_completion(self, api, client, recorded):
        """One span for the lookup and the operation that it finds."""
        vm = add(api)
        api.cloud.adjust("*", reboot=20, stale=12)
        api.faults.fail_next("reboot", "drop_after")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.reboot(vm)
        await (await client.reconcile(caught.value.token))
        first, second = recorded.named("vms.reboot")
        assert [link.context.span_id for link in second.links] == [first.context.span_id]
        assert second.attributes["vmapi.outcome"] == "done"
        assert second.attributes["vmapi.adopted"] is True
        assert [e.name for e in second.events].count("vmapi.state") >= 2


class TestRequests:
    async def test_a_read_is_a_request_under_the_callers_span(self, api, client, recorded):
        """With the stable attributes of an HTTP client, and no operation."""
        vm = add(api)
        with recorded.tracer.start_as_current_span("job") as job:
            await client.vms.get(vm)
        (get,) = [span for span in recorded.spans if span.kind is SpanKind.CLIENT]
        assert get.parent.span_id == job.get_span_context().span_id
        assert dict(get.attributes) == {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": "in-memory.invalid",
            "server.port": 443,
            "url.full": f"https://in-memory.invalid/v2/virtual-machines/{vm}",
            "url.template": "/v2/virtual-machines/{id}",
            "vmapi.call": "get",
        }
        (point,) = recorded.points("http.client.request.duration")
        assert dict(point.attributes) == {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": "in-memory.invalid",
            "server.port": 443,
        }
        assert point.sum == pytest.approx(0.02)
        assert point.explicit_bounds[0] == 0.005

    async def test_each_retry_is_a_request_span(self, api, client, recorded):
        """Retries are counted, and a 429 is one of the statuses."""
        api.faults.fail_next("list", "rate_limited")
        api.faults.fail_next("list", "server_error")
        await client.vms.list()
        lists = recorded.named("GET /v2/virtual-machines")
        assert [s.attributes["http.response.status_code"] for s in lists] == [429, 500, 200]
        assert [s.attributes.get("http.request.resend_count") for s in lists] == [None, 1, 2]
        assert [s.attributes.get("error.type") for s in lists] == ["429", "500", None]
        assert recorded.count("vmapi.client.retries", vmapi_call="list") == 2
        assert recorded.count("http.client.request.duration") == 3
        assert recorded.count("http.client.request.duration", error_type="429") == 1

    async def test_a_refusal_with_status_200_is_an_error(self, api, client, recorded):
        """The status alone is not enough (WIRE §1)."""
        api.faults.fail_next("list", "success_false")
        with pytest.raises(APIError):
            await client.vms.list()
        span = recorded.spans[0]
        assert span.attributes["http.response.status_code"] == 200
        assert span.attributes["error.type"] == "APIError"
        assert span.status.status_code is StatusCode.ERROR

    async def test_a_request_without_a_response(self, api, client, recorded):
        """It has the kind of failure, and no status."""
        api.faults.fail_next("list", "drop_before")
        await client.vms.list()
        lost = recorded.spans[0]
        assert lost.attributes["error.type"] == "TransportError"
        assert "http.response.status_code" not in lost.attributes

    async def test_a_cancelled_request(self, client, recorded):
        """Its span ends, and the previous span is current again."""
        with recorded.tracer.start_as_current_span("job") as job:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await client.vms.list()
            assert trace.get_current_span() is job
        (request, _) = recorded.spans
        assert request.attributes["error.type"] == "CancelledError"

    async def test_spans_of_the_transport_are_children_of_the_request(self, api, recorded):
        """So the session's own instrumentation works."""
        client, transport = client_and_transport(api, telemetry=recorded.telemetry)
        send = transport.send

        async def traced(*arguments):
            with recorded.tracer.start_as_current_span("socket"):
                return await send(*arguments)

        transport.send = traced
        async with client:
            await client.vms.list()
        socket = recorded.one("socket")
        assert socket.parent.span_id == recorded.one("GET /v2/virtual-machines").context.span_id

    async def test_no_trace_header_is_sent(self, api, client, recorded, request_for):
        """The provider does not use trace ids, and must not see baggage."""
        seen = []
        handle = api.handle

        def look(request, **when):
            seen.append({name.lower() for name in request.headers})
            return handle(request, **when)

        api.handle = look
        with recorded.tracer.start_as_current_span("job"):
            await (await client.vms.create(request_for()))
        assert not {"traceparent", "tracestate", "baggage"} & set().union(*seen)


class TestSecrets:
    async def test_telemetry_holds_no_secret(self, recorded, request_for, caplog):
        """Not in attributes, events, links, statuses, metrics or log records."""
        caplog.set_level(logging.DEBUG, "async_vmapi")
        planted = ["planted-secret", "planted-password", "planted-user-data", "planted-key"]
        api = CloudAPI(seed=1, api_key=planted[3], api_secret=planted[0])
        signatures = set()
        handle = api.handle

        def repeat(request, **when):
            signatures.add(request.headers["Authorization"].partition(":")[2])
            response = handle(request, **when)
            if len(signatures) % 3 == 2:
                words = {"success": False, "error": {**request.headers, "b": request.body.decode()}}
                return Response(409, {}, json.dumps(words).encode())
            return response

        api.handle = repeat
        boot = ImageBoot(os="2268", password=planted[1], user_data=planted[2])
        async with Client.in_memory(api, seed=1, telemetry=recorded.telemetry) as client:
            for number in range(9):
                with contextlib.suppress(Conflict):
                    task = await client.vms.create(request_for(f"w-{number}", boot=boot))
                    with contextlib.suppress(TaskTimeout):
                        await task.wait(timeout=5)
                    await client.vms.console(task.vm_id)
        text = "".join(span.to_json() for span in recorded.spans)
        text += recorded.reader.get_metrics_data().to_json()
        text += "".join(f"{record.getMessage()} {vars(record)!r}" for record in caplog.records)
        assert "409" in text
        assert "vms.create" in text
        for hidden in (*planted, *signatures, "planted"):
            assert hidden not in text, hidden


class TestSetup:
    @pytest.mark.parametrize("wrong", [OpenTelemetry, TracerProvider(), "otel", 1])
    def test_wrong_telemetry_is_refused(self, api, wrong):
        """A class, or a provider, is the likely mistake."""
        with pytest.raises(InvalidArgument, match="telemetry"):
            Client.in_memory(api, telemetry=wrong)

    @pytest.mark.parametrize("argument", ["tracer_provider", "meter_provider"])
    def test_a_wrong_provider_is_refused(self, argument):
        """The error has the argument's name."""
        with pytest.raises(InvalidArgument, match=argument):
            OpenTelemetry(**{argument: "https://collector.example.com"})

    async def test_without_an_sdk_nothing_is_recorded(self, api, request_for):
        """Tokens are the same as without telemetry."""
        async with Client.in_memory(api, telemetry=OpenTelemetry(), seed=1) as client:
            task = await client.vms.create(request_for())
            assert "trace" not in task.token()
            await task
            await client.vms.list()

    async def test_one_telemetry_serves_many_clients(self, api, recorded, client):
        """Each has its own server; closing one leaves the other's operations open."""
        task = await client.vms.power_off(add(api))
        waiter = asyncio.create_task(task.wait())
        other = Client(
            "https://vm.example.com:8443",
            api_key="k",
            api_secret="s",
            telemetry=recorded.telemetry,
            transport=InMemoryTransport(api),
        )
        async with other:
            with pytest.raises(AuthenticationError):
                await other.vms.list()
        attributes = recorded.named("GET /v2/virtual-machines")[-1].attributes
        assert (attributes["server.address"], attributes["server.port"]) == ("vm.example.com", 8443)
        assert recorded.operations() == {}
        await waiter
        assert recorded.operations() == {("vms.power_off", "done"): 1}


class TestLogging:
    KEYS = re.compile(r"vmapi_[a-z_]+")

    async def test_an_operation_logs_its_changes_and_its_completion(
        self, client, request_for, caplog
    ):
        """Completion at INFO, the rest at DEBUG, with the fields in the record."""
        caplog.set_level(logging.DEBUG, "async_vmapi")
        task = await client.vms.create(request_for())
        await task
        records = [record for record in caplog.records if record.name == "async_vmapi.tasks.watch"]
        *changes, end = records
        assert {record.levelno for record in changes} == {logging.DEBUG}
        assert end.levelno == logging.INFO
        assert end.vmapi_operation == "create"
        assert end.vmapi_vm_id == task.vm_id
        assert end.vmapi_state == "online"
        assert end.vmapi_evidence == "observed"
        assert end.vmapi_elapsed == task.history[-1].elapsed
        assert end.getMessage() == (
            f"create of {task.vm_id}: online after {end.vmapi_elapsed:.1f} s: done, observed"
        )

    async def test_requests_are_logged_with_their_fields(self, api, client, caplog):
        """At DEBUG, with failures and retries."""
        caplog.set_level(logging.DEBUG, "async_vmapi")
        api.faults.fail_next("list", "drop_before")
        await client.vms.list()
        lost, again, succeeded = (
            r for r in caplog.records if r.name == "async_vmapi.transport.pipeline"
        )
        assert (lost.vmapi_call, lost.vmapi_error) == ("list", "TransportError")
        assert again.vmapi_retry_delay > 0
        assert succeeded.vmapi_status == 200
        assert succeeded.vmapi_response_size > 0
        assert succeeded.vmapi_duration == pytest.approx(0.02)
        assert succeeded.vmapi_path == "/v2/virtual-machines"

    async def test_a_failed_connection_is_logged_once(self, api, client, caplog):
        """At INFO, for the retries may take long, and the reason is for a person to fix."""
        caplog.set_level(logging.INFO, "async_vmapi")
        api.faults.fail_next("list", "refuse", seconds=0.6)
        await client.vms.list()
        (record,) = (r for r in caplog.records if r.name == "async_vmapi.transport.pipeline")
        assert record.levelno == logging.INFO
        assert (record.vmapi_call, record.vmapi_error) == ("list", "ConnectError")
        assert "the connection was refused; retrying in" in record.getMessage()

    async def test_requests_are_not_logged_at_info(self, client, caplog):
        """Frequent and normal records are at DEBUG."""
        caplog.set_level(logging.INFO, "async_vmapi")
        await client.vms.list()
        assert caplog.records == []
