"""User code that raises: observers, span processors, callbacks, logging, headers.

It changes no outcome, reaches neither the poller nor anyone who awaits, and is logged once.
"""

import asyncio
import logging
from collections.abc import Mapping

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from async_vmapi import Client, InvalidArgument, OutcomeUnknown, Response
from async_vmapi.emulator import InMemoryTransport
from async_vmapi.otel import OpenTelemetry

pytestmark = pytest.mark.looptime

ERRORS = [KeyError, RuntimeError, asyncio.CancelledError]

PLACES = {
    "observe": "telemetry.observe",
    "request": "telemetry.request",
    "operation": "telemetry.operation",
    "polled": "telemetry.polled",
    "close": "telemetry.close",
    "request.ended": "telemetry.request.ended",
    "operation.context": "telemetry.operation.context",
    "operation.trace": "telemetry.operation.trace",
    "operation.accepted": "telemetry.operation.accepted",
    "operation.awaited": "telemetry.operation.awaited",
    "operation.seen": "telemetry.operation.seen",
    "operation.ended": "telemetry.operation.ended",
}


class Observing:
    """Telemetry of which one method raises, or none."""

    def __init__(self, place, error, prefix=""):
        self._place, self._error, self._prefix = place, error, prefix
        self.raised = 0

    def __getattr__(self, name):
        name = self._prefix + name
        if name == self._place and name in ("operation.context", "operation.trace"):
            return self._raise()
        if name in ("operation.context", "operation.trace"):
            return None

        def method(*_, **__):
            if name == self._place:
                self._raise()
            if name == "observe":
                return self
            made = Observing(self._place, self._error, f"{name}.")
            made._raise = self._raise
            return made

        return method

    def _raise(self):
        self.raised += 1
        raise self._error("planted-text")


async def work(client, request_for):
    """Create five VMs at once, await all, turn one off, and be refused once."""
    tasks = await asyncio.gather(*(client.vms.create(request_for(f"w-{n}")) for n in range(5)))
    vms = await asyncio.gather(*tasks)
    off = await (await client.vms.power_off(vms[0]))
    await client.vms.rename(vms[0], "renamed")
    report = await client.bulk().shutdown([vm.id for vm in vms[1:]])
    return [vm.state for vm in vms], off.state, report.counts["succeeded"]


DONE = ["online"] * 5, "offline", 4


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", PLACES)
async def test_an_observer_that_raises_changes_nothing(api, request_for, caplog, place, error):
    """One log line names the exception, however often it is raised."""
    caplog.set_level(logging.ERROR, "async_vmapi")
    telemetry = Observing(place, error)
    async with Client.in_memory(api, latency=0.02, seed=1, telemetry=telemetry) as client:
        assert await work(client, request_for) == DONE
        assert client.unresolved == ()
    assert telemetry.raised
    assert [(r.vmapi_callback, r.vmapi_error) for r in caplog.records] == [
        (PLACES[place], error.__name__)
    ]


@pytest.mark.parametrize("found", [None, object(), 17])
async def test_an_observer_of_a_wrong_type_changes_nothing(api, request_for, found):
    """What telemetry returns is not trusted; tokens hold no trace then."""

    class Telemetry:
        def observe(self, _):
            return self

        def __getattr__(self, _):
            return lambda *_, **__: found

    async with Client.in_memory(api, latency=0.02, seed=1, telemetry=Telemetry()) as client:
        assert await work(client, request_for) == DONE
        task = await client.vms.create(request_for("last"))
        assert client.resume(task.token()).vm_id == task.vm_id


@pytest.mark.parametrize("moment", ["on_start", "on_end", "_on_ending"])
@pytest.mark.parametrize("error", [KeyError, RuntimeError])
async def test_a_span_processor_that_raises_loses_no_create(
    api, request_for, caplog, moment, error
):
    """Polling continues for all tasks."""

    class Raising(SpanProcessor):
        pass

    def raising(*_, **__):
        raise error("planted-text")

    setattr(Raising, moment, raising)
    provider = TracerProvider()
    provider.add_span_processor(Raising())
    telemetry = OpenTelemetry(tracer_provider=provider)
    caplog.set_level(logging.ERROR)
    async with Client.in_memory(api, latency=0.02, seed=1, telemetry=telemetry) as client:
        assert await work(client, request_for) == DONE
        # An abandoned task ends its span by itself.
        await client.vms.create(request_for("abandoned"))
        await asyncio.sleep(0.1)
        awaited = asyncio.create_task((await client.vms.create(request_for("last"))).wait())
    with pytest.raises(Exception, match="the client was closed"):
        await awaited
    assert len(api.cloud.vms) == 7
    logged = [(r.name, r.vmapi_callback) for r in caplog.records]
    assert logged
    assert len(logged) == len(set(logged))
    assert {name for name, _ in logged} == {"async_vmapi.telemetry.guards"}


@pytest.mark.parametrize("error", ERRORS)
async def test_on_event_that_raises_stops_no_item(client, request_for, caplog, error):
    """One line for all events names the exception."""

    def on_event(_):
        raise error("planted-text")

    caplog.set_level(logging.ERROR, "async_vmapi")
    report = await client.bulk(on_event=on_event).create([request_for(f"w-{n}") for n in range(5)])
    assert report.counts["succeeded"] == 5
    (logged,) = caplog.records
    assert (logged.vmapi_callback, logged.vmapi_error) == ("on_event", error.__name__)


@pytest.mark.parametrize("error", ERRORS)
async def test_on_unresolved_that_raises_keeps_the_cancellation(api, request_for, caplog, error):
    """The writes are listed as unresolved."""

    def on_unresolved(_):
        raise error("planted-text")

    caplog.set_level(logging.ERROR, "async_vmapi")
    async with Client.in_memory(api, latency=1, on_unresolved=on_unresolved, seed=1) as client:
        for number in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.vms.create(request_for(f"w-{number}"), unique_name=True)
        assert {write.vm_id for write in client.unresolved} == {*api.cloud.vms}
    (logged,) = caplog.records
    assert (logged.vmapi_callback, logged.vmapi_error) == ("on_unresolved", error.__name__)


@pytest.mark.parametrize("wrong", [17, "print", asyncio.sleep])
def test_on_unresolved_must_be_a_plain_callable(api, wrong):
    """A coroutine function is refused: its coroutine would never run."""
    with pytest.raises(InvalidArgument, match="on_unresolved"):
        Client.in_memory(api, on_unresolved=wrong)


class TestLogging:
    @pytest.fixture(params=["filter", "handler", "factory"])
    def broken_logging(self, request):
        """An application whose logging raises on each record of this package."""

        class BrokenLogging(Exception):
            """Another class for each test, as each is reported once."""

        def breaks(*args, **_):
            if request.param != "factory" or str(args[0]).startswith("async_vmapi"):
                raise BrokenLogging(request.param)
            return logging.LogRecord(*args)

        logger = logging.getLogger("async_vmapi")
        loggers = [
            logging.getLogger(f"async_vmapi.{name}")
            for name in ("transport.pipeline", "tasks.watch")
        ]
        handler, factory = logging.NullHandler(), logging.getLogRecordFactory()
        handler.handle = breaks
        logger.setLevel(logging.DEBUG)
        if request.param == "filter":
            for one in loggers:
                one.addFilter(breaks)
        elif request.param == "handler":
            logger.addHandler(handler)
        else:
            logging.setLogRecordFactory(breaks)
        yield request.param
        logging.setLogRecordFactory(factory)
        logger.removeHandler(handler)
        for one in loggers:
            one.removeFilter(breaks)
        logger.setLevel(logging.NOTSET)

    async def test_a_logging_handler_that_raises_changes_nothing(
        self, client, request_for, broken_logging
    ):
        """Not even a response that has just arrived is lost."""
        assert await work(client, request_for) == DONE

    async def test_a_logging_handler_that_raises_is_reported_once(
        self, client, request_for, broken_logging, capsys
    ):
        """On standard error, as `logging` does."""
        await work(client, request_for)
        shown = capsys.readouterr()
        assert shown.err.count(f"BrokenLogging: {broken_logging}") == 1
        assert shown.out == ""

    async def test_records_name_the_line_that_logged_them(self, client, request_for, caplog):
        """Not the wrapper's line."""
        caplog.set_level(logging.DEBUG, "async_vmapi")
        await (await client.vms.create(request_for()))
        assert {"pipeline.py", "watch.py"} <= {record.filename for record in caplog.records}
        assert "logs.py" not in {record.filename for record in caplog.records}


class Headers(Mapping):
    """Headers of a transport that cannot be read."""

    def __getitem__(self, _):
        raise KeyError("planted-text")

    __iter__ = __len__ = __getitem__

    def items(self):
        raise LookupError("planted-text")


class OddHeaders:
    """A transport whose responses have such headers."""

    def __init__(self, api):
        self._inner = InMemoryTransport(api, latency=0.02)

    async def send(self, *request):
        response = await self._inner.send(*request)
        return Response(response.status, Headers(), response.body)

    async def close(self):
        pass


async def test_headers_that_raise_change_nothing(api, request_for):
    """No header is required."""
    async with Client(
        "https://vm.example.com",
        api_key=api.api_key,
        api_secret=api.api_secret,
        transport=OddHeaders(api),
        seed=1,
    ) as client:
        assert await work(client, request_for) == DONE


class TestUnexpectedExceptions:
    """The last line of defence: any exception, from any code that handles the response."""

    @pytest.fixture(params=[KeyError, RuntimeError, ZeroDivisionError])
    def broken_decoding(self, request, monkeypatch):
        """The code that opens a response raises, for writes alone."""
        from async_vmapi.transport import pipeline

        opened = pipeline.open_envelope

        def breaks(shape, status, body, *, method, **known):
            if method in ("PUT", "POST"):
                raise request.param("planted-text")
            return opened(shape, status, body, method=method, **known)

        monkeypatch.setattr(pipeline, "open_envelope", breaks)

    async def test_a_create_is_reconciled(self, client, api, request_for, broken_decoding):
        """It was sent, so its outcome is unknown until its VM is found."""
        task = await client.vms.create(request_for())
        assert task.adopted
        assert [*api.cloud.vms] == [task.vm_id]

    async def test_a_create_that_is_not_found_has_a_token(
        self, client, api, request_for, broken_decoding
    ):
        """The token finds it later."""
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for(), reconcile_timeout=0)
        task = await client.reconcile(caught.value.token)
        assert [*api.cloud.vms] == [task.vm_id]

    async def test_a_bulk_item_is_unknown_with_a_token(
        self, client, api, request_for, broken_decoding
    ):
        """Never failed: creating failed items again would make a second VM."""
        vm_id = (await client.vms.create(request_for())).vm_id
        assert not (await client.bulk().reset([vm_id])).failed
        report = await client.bulk().power_off([vm_id])
        assert [bool(outcome.token) for outcome in report.unknown] == [True]
