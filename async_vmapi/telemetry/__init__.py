"""Observability of a client: the hooks, and their OpenTelemetry implementation.

Other packages call `hooks`, through `guards`, and log through `logs`. `opentelemetry` needs the
extra ``otel`` and is imported as `async_vmapi.otel`.
"""
