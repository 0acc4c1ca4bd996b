"""Traces and metrics of a client with OpenTelemetry (extra: otel).

Enable it with ``Client(..., telemetry=OpenTelemetry())``; docs/telemetry.md lists every span,
attribute and metric. It requires only the API package: without an SDK, nothing is recorded. No
attribute holds a header, a body, a signature or a query.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Mapping
from functools import partial
from typing import Final, Literal, TypeAlias
from weakref import WeakSet

try:
    from opentelemetry import context as otel_context
except ModuleNotFoundError as error:
    if error.name != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "async_vmapi.otel needs an extra: pip install 'async-vmapi[otel]'", name="opentelemetry"
    ) from None

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from yarl import URL

from async_vmapi import __version__, validation
from async_vmapi.telemetry.guards import Guard
from async_vmapi.telemetry.hooks import Ending

__all__ = ["OpenTelemetry"]

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.23.1"
"""The first version with stable conventions for HTTP."""

_REQUEST_BUCKETS: Final = [
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25),
    *(0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
]
_OPERATION_BUCKETS: Final = [
    *(1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0),
    *(120.0, 180.0, 300.0, 600.0, 900.0, 1800.0, 3600.0),
]

_PROPAGATOR: Final = TraceContextTextMapPropagator()

_Outcome: TypeAlias = Ending | Literal["abandoned"]
_Attributes: TypeAlias = dict[str, str | int | float | bool]


class OpenTelemetry:
    """OpenTelemetry as the ``telemetry`` of any number of clients.

    Args:
        tracer_provider: Receives the spans; the global provider by default.
        meter_provider: Receives the metrics; the global provider by default.

    Raises:
        InvalidArgument: If an argument is not a provider.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
            raise validation.refuse("tracer_provider", tracer_provider, "a TracerProvider")
        if meter_provider is not None and not isinstance(meter_provider, MeterProvider):
            raise validation.refuse("meter_provider", meter_provider, "a MeterProvider")
        self.tracer = trace.get_tracer("async_vmapi", __version__, tracer_provider, _SCHEMA)
        meter = metrics.get_meter("async_vmapi", __version__, meter_provider, _SCHEMA)
        self.request_seconds = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_REQUEST_BUCKETS,
        )
        self.operation_seconds = meter.create_histogram(
            "vmapi.client.operation.duration",
            unit="s",
            description="Duration from the write to completion, or until it is abandoned.",
            explicit_bucket_boundaries_advisory=_OPERATION_BUCKETS,
        )

        def counter(name: str, unit: str, description: str) -> metrics.Counter:
            return meter.create_counter(f"vmapi.client.{name}", unit=unit, description=description)

        self.retries = counter("retries", "{request}", "Requests sent as retries.")
        self.polls = counter("polls", "{poll}", "Responses to polls.")

    def observe(self, origin: str) -> "_ClientObserver":
        """Return an observer for a client of this endpoint; called by `Client`."""
        return _ClientObserver(self, URL(origin))


class _ClientObserver:
    """Observes one client."""

    def __init__(self, telemetry: OpenTelemetry, origin: URL) -> None:
        self.telemetry = telemetry
        self.guard = Guard()
        self.origin = str(origin).rstrip("/")
        self.server: _Attributes = {"server.address": origin.host or ""}
        if origin.port is not None:
            self.server["server.port"] = origin.port
        # Weak: an operation without references is abandoned.
        self.open: WeakSet[_Operation] = WeakSet()

    def request(
        self, name: str, method: str, path: str, *, resends: int, shared: bool
    ) -> "_Request":
        if resends:
            self.telemetry.retries.add(1, {"vmapi.call": name, **self.server})
        span = None
        if not shared:
            path = path.partition("?")[0]
            template = _template_of(path)
            attributes: _Attributes = {
                "http.request.method": method,
                "url.full": self.origin + path,
                "url.template": template,
                "vmapi.call": name,
                **self.server,
            }
            if resends:
                attributes["http.request.resend_count"] = resends
            span = self.telemetry.tracer.start_span(
                f"{method} {template}", kind=SpanKind.CLIENT, attributes=attributes
            )
        return _Request(self, method, span)

    def operation(
        self,
        name: str,
        vm_id: str | None,
        *,
        elapsed: float | None = None,
        trace: str | None = None,
    ) -> "_Operation":
        return _Operation(self, name, vm_id, elapsed, trace)

    def polled(self, how: Literal["get", "list"]) -> None:
        self.telemetry.polls.add(1, {"vmapi.call": how, **self.server})

    def close(self) -> None:
        for operation in list(self.open):
            self.guard.call("OpenTelemetry", partial(operation.ended, "closed"))


class _Request:
    """Observes one request. Spans started during it become children of its span."""

    __slots__ = ("_client", "_method", "_span", "_token")

    def __init__(self, client: _ClientObserver, method: str, span: Span | None) -> None:
        self._client = client
        self._method = method
        self._span = span
        self._token = None if span is None else otel_context.attach(trace.set_span_in_context(span))

    def ended(
        self, seconds: float, *, status: int | None = None, error: BaseException | None = None
    ) -> None:
        telemetry, server = self._client.telemetry, self._client.server
        # Detach first, whatever fails below. A discarded coroutine is closed in an arbitrary
        # context, where detaching is not possible.
        if self._token is not None and not isinstance(error, GeneratorExit):
            otel_context.detach(self._token)
        attributes: _Attributes = {}
        if status is not None:
            attributes["http.response.status_code"] = status
        if status is not None and status >= 400:
            attributes["error.type"] = str(status)
        elif error is not None:
            attributes["error.type"] = type(error).__name__
        labels = {"http.request.method": self._method, **server, **attributes}
        telemetry.request_seconds.record(seconds, labels)
        if self._span is None:
            return
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Operation:
    """Observes one operation with one span, and with another if it is awaited after its end."""

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_began",
        "_client",
        "_loop",
        "_name",
        "_over",
        "_span",
    )

    def __init__(
        self,
        client: _ClientObserver,
        name: str,
        vm_id: str | None,
        elapsed: float | None,
        trace: str | None,
    ) -> None:
        self._client = client
        self._name = name
        # The VM's id and whether it was adopted, for each span.
        self._accepted: _Attributes = {} if vm_id is None else {"vmapi.vm.id": vm_id}
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time() - (elapsed or 0.0)
        link = None if trace is None else _link_to({"traceparent": trace})
        self._span = self._begin(link, again=elapsed is not None)

    def _begin(self, link: Link | None, *, again: bool) -> Span:
        attributes: _Attributes = {
            "vmapi.operation": self._name,
            "vmapi.resumed": again,
            **self._client.server,
            **self._accepted,
        }
        span = self._client.telemetry.tracer.start_span(
            f"vms.{self._name}", attributes=attributes, links=[link] if link else None
        )
        # Set this last: a span processor may raise.
        self._over = False
        self._client.open.add(self)
        return span

    @property
    def context(self) -> contextvars.Context:
        span, context = self._span, contextvars.copy_context()
        context.run(lambda: otel_context.attach(trace.set_span_in_context(span)))
        return context

    @property
    def trace(self) -> str | None:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def accepted(self, vm_id: str, *, adopted: bool) -> None:
        self._accepted = {"vmapi.vm.id": vm_id, "vmapi.adopted": adopted}
        self._span.set_attributes(self._accepted)
        self._span.add_event("vmapi.accepted", self._accepted)

    def awaited(self) -> None:
        if not self._over:
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The clocks of event loops differ.
            self._loop, self._began = loop, loop.time()
        before = self._span.get_span_context()
        self._span = self._begin(Link(before) if before.is_valid else None, again=True)

    def seen(self, elapsed: float, state: str | None, evidence: str | None, *, end: bool) -> None:
        if self._over:
            return
        self._span.add_event(
            "vmapi.state", {"vmapi.vm.state": state or "gone", "vmapi.elapsed": elapsed}
        )
        if not end:
            return
        if evidence is None:
            kind = "VMVanished" if state is None else "TaskFailed"
            self._end("failed", kind, elapsed)
        else:
            self._span.set_attribute("vmapi.evidence", str(evidence))
            self._end("done", None, elapsed)

    def ended(self, how: _Outcome, error: BaseException | None = None) -> None:
        kind = type(error).__name__ if error is not None else None
        self._end(how, "TaskTimeout" if how == "timeout" else kind, None)

    def _end(self, how: _Outcome, kind: str | None, seconds: float | None) -> None:
        if self._over:
            return
        self._over = True
        self._client.open.discard(self)
        labels: _Attributes = {"vmapi.operation": self._name, "vmapi.outcome": how}
        self._span.set_attribute("vmapi.outcome", how)
        if kind is not None:
            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR)
            labels["error.type"] = kind
        if seconds is None:
            seconds = max(0.0, self._loop.time() - self._began)
        labels |= self._client.server
        self._client.telemetry.operation_seconds.record(seconds, labels)
        self._span.end()

    def __del__(self) -> None:
        if getattr(self, "_over", True):
            return
        # The garbage collector may run while the lock for ending spans is held, so the event loop
        # ends the span.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._abandon)
            return
        self._abandon()

    def _abandon(self) -> None:
        self._client.guard.call("OpenTelemetry", lambda: self.ended("abandoned"))


def _link_to(carrier: Mapping[str, str]) -> Link | None:
    """Return a link to a token's trace context; None if that is invalid."""
    found = _PROPAGATOR.extract(carrier, otel_context.Context())
    before = trace.get_current_span(found).get_span_context()
    return Link(before) if before.is_valid else None


def _template_of(path: str) -> str:
    parts = path.split("/")
    if len(parts) > 3 and parts[2] == "virtual-machines":
        parts[3] = "{id}"
    return "/".join(parts)
