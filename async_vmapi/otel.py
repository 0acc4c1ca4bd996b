"""OpenTelemetry for a client (extra: otel): ``Client(telemetry=OpenTelemetry())``."""

from async_vmapi.telemetry.opentelemetry import OpenTelemetry

__all__ = ["OpenTelemetry"]
