"""Spans over real HTTP."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from async_vmapi import Client, ConnectError
from async_vmapi.otel import OpenTelemetry


@pytest.fixture
def exporter():
    """Where spans go."""
    return InMemorySpanExporter()


@pytest.fixture
def telemetry(exporter):
    """Telemetry that goes there."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OpenTelemetry(tracer_provider=provider)


class TestOverHTTP:
    async def test_an_operation_and_its_request(self, emulator, exporter, telemetry, request_for):
        """With the server as the client addresses it."""
        async with Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            min_poll_interval=0.01,
            max_staleness=0.0,
            telemetry=telemetry,
        ) as client:
            task = await client.vms.create(request_for(), unique_name=True)
            await task
        request, create = exporter.get_finished_spans()
        assert create.attributes["vmapi.outcome"] == "done"
        assert request.parent.span_id == create.context.span_id
        assert request.attributes["url.full"] == f"{emulator.url}/v2/virtual-machines"
        address, _, port = emulator.url.partition("//")[2].partition(":")
        assert request.attributes["server.address"] == address
        assert request.attributes["server.port"] == int(port)

    async def test_a_server_that_is_unavailable(self, exporter, telemetry, unused_tcp_port):
        """The request's span ends with the error that the caller gets."""
        url = f"http://127.0.0.1:{unused_tcp_port}"
        async with Client(
            url, api_key="k", api_secret="s", max_retries=0, telemetry=telemetry
        ) as client:
            with pytest.raises(ConnectError):
                await client.vms.list()
        (request,) = exporter.get_finished_spans()
        assert request.attributes["error.type"] == "ConnectError"
        assert "http.response.status_code" not in request.attributes
