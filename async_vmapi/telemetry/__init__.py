"""What observes a client: the hooks, and OpenTelemetry behind them.

The transport and the rooms above call `hooks` and import nothing else from here. `opentelemetry`
needs the extra ``otel`` and is imported as `async_vmapi.otel`.
"""
