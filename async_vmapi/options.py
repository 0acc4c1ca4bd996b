"""The options of a `Client` with their defaults and checks, and its environment variables."""

import inspect
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypedDict, cast

import aiohttp

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.facts import Facts
from async_vmapi.redaction import Secret
from async_vmapi.telemetry.hooks import Telemetry
from async_vmapi.transport.http import MAX_BODY, HTTPTransport
from async_vmapi.transport.transport import Transport
from async_vmapi.writes.record import UnresolvedWrite
from async_vmapi.writes.shield import CANCEL_GRACE

__all__ = [
    "ClientOptions",
    "Environment",
    "checked",
    "environment",
    "transport_of",
]

_VARIABLES: Final = ("VMAPI_URL", "VMAPI_REGION", "VMAPI_API_KEY")
_API_SECRET: Final = "VMAPI_API_SECRET"  # noqa: S105 - its name
_MAX_STALENESS: Final = "VMAPI_MAX_STALENESS"
_FACTS: Final = "VMAPI_FACTS"


def _unchecked(_: str, value: object) -> object:
    return value


def _transport(name: str, value: object) -> object:
    # The likely mistake is a class instead of an instance.
    if isinstance(value, type) or not all(
        callable(getattr(value, method, None)) for method in ("send", "close")
    ):
        raise validation.refuse(name, value, "an object with the methods of Transport")
    return value


def _telemetry(name: str, value: object) -> object:
    # The likely mistake is a class, or a provider of OpenTelemetry.
    if isinstance(value, type) or not callable(getattr(value, "observe", None)):
        raise validation.refuse(name, value, "an async_vmapi.otel.OpenTelemetry()")
    return value


def _function(name: str, value: object) -> object:
    # The likely mistake is a coroutine function: its coroutine would never run.
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise validation.refuse(name, value, "a plain function")
    return value


class ClientOptions(TypedDict, total=False):
    """The options of a `Client`, besides its endpoint and credentials. Each has a default."""

    transport: Transport | None
    """What sends the requests, an object with the two methods of `Transport`; it is closed with the
    client. The default is None, for HTTP with the next three options, which a transport
    excludes."""

    session: aiohttp.ClientSession | None
    """An `aiohttp.ClientSession` to use instead of a new one. It is not closed. Its middlewares are
    not run: they could change what is signed, or resend a request. The default is None."""

    timeout: float | None
    """Timeout of a whole request in seconds, connecting included; infinity for no limit. The
    default is None, for 30 seconds."""

    connect_timeout: float | None
    """Timeout for getting a connection in seconds. The default is None, for 10 seconds."""

    max_response_size: int
    """Maximum size of a response's body in bytes, decompressed. The default is 67108864 (64 MB)."""

    max_connections: int
    """Maximum number of requests in flight. The default is 100."""

    max_requests_per_second: float | None
    """Maximum number of requests sent per second. Set it to the provider's limit, since staying
    below it is cheaper than being refused. The default is None, for no limit."""

    max_retries: int
    """Maximum number of retries per call; 0 for none. See `async_vmapi.vms` for which calls are
    retried. The default is 5."""

    reconcile_timeout: float
    """Seconds for which the client reconciles a create, reboot or reset whose response was lost,
    before it raises `OutcomeUnknown`. These calls and `Client.reconcile` can override it. The
    default is 60.0."""

    cancel_grace: float
    """Maximum seconds for which a cancelled call, and `Client.close`, wait for the responses to
    writes in flight; 0 for not at all. The default is 10.0."""

    max_staleness: float | None
    """Maximum age of the data in a response to a read, in seconds, for each VM. Use 0 if the
    provider's reads are never stale; see docs/completion.md. The default is None, for that of the
    facts, 10 seconds unless you give others."""

    facts: Facts | str | os.PathLike[str] | None
    """What is known about the provider, as `async_vmapi.facts.Facts` or the path of their file. The
    default is None, for what is assumed until it is measured; see docs/facts.md."""

    min_poll_interval: float
    """Minimum seconds between two polls of an awaited VM. The default is 1.0."""

    max_poll_interval: float
    """Maximum seconds between two polls of an awaited VM. The default is 15.0."""

    on_unresolved: Callable[[UnresolvedWrite], object] | None
    """A function, called in the event loop with each `UnresolvedWrite` that is added to
    `Client.unresolved`. An exception that it raises is logged once, and has no other effect. The
    default is None."""

    telemetry: Telemetry | None
    """An `async_vmapi.otel.OpenTelemetry` that receives traces and metrics. The default is None,
    for no telemetry at no cost."""

    seed: int | None
    """Makes the jitter of polling and retries reproducible. The default is None, for random
    jitter."""


_OPTIONS: Final[dict[str, tuple[Any, Callable[[str, Any], object]]]] = {
    "transport": (None, _transport),
    # The default transport checks the next three.
    "session": (None, _unchecked),
    "timeout": (None, _unchecked),
    "connect_timeout": (None, _unchecked),
    "max_response_size": (MAX_BODY, partial(validation.whole, minimum=1)),
    "max_connections": (100, partial(validation.whole, minimum=1)),
    "max_requests_per_second": (None, partial(validation.number, above=0.0)),
    "max_retries": (5, partial(validation.whole, minimum=0)),
    "reconcile_timeout": (60.0, partial(validation.number, least=0.0)),
    "cancel_grace": (CANCEL_GRACE, validation.duration),
    "max_staleness": (None, validation.duration),
    "facts": (None, lambda _, value: Facts.of(value)),
    "min_poll_interval": (1.0, validation.seconds),
    "max_poll_interval": (15.0, validation.seconds),
    "on_unresolved": (None, _function),
    "telemetry": (None, _telemetry),
    "seed": (None, partial(validation.whole, minimum=0)),
}
"""The default of each option, and its check; where the default is None, None is valid."""


def checked(options: ClientOptions) -> dict[str, Any]:
    """Return all options by name, with the defaults of those that are missing.

    Raises:
        InvalidArgument: If an option is invalid.
        TypeError: If there is no option of that name.
    """
    if unknown := sorted(options.keys() - _OPTIONS.keys()):
        # They may be secrets, and are in the frame of the constructor.
        cast("dict[str, object]", options).clear()
        raise TypeError(f"Client has no option {validation.unknown(unknown, _OPTIONS)}")
    found: dict[str, Any] = {}
    for name, (default, check) in _OPTIONS.items():
        value = cast("dict[str, object]", options).get(name, default)
        found[name] = None if value is default is None else check(name, value)
    shortest, longest = found["min_poll_interval"], found["max_poll_interval"]
    if longest < shortest:
        raise InvalidArgument(
            f"max_poll_interval={longest:g} is less than min_poll_interval={shortest:g}",
            argument="max_poll_interval",
        )
    return found


def transport_of(base_url: str, options: dict[str, Any]) -> Transport:
    """Return the transport of checked options, or an `HTTPTransport`.

    Raises:
        InvalidArgument: If an option for HTTP is invalid, or given with a transport.
    """
    over_http = {
        name: options[name]
        for name in ("session", "timeout", "connect_timeout")
        if options[name] is not None
    }
    transport: Transport | None = options["transport"]
    if transport is None:
        return HTTPTransport(
            base_url,
            max_response_size=options["max_response_size"],
            max_connections=options["max_connections"],
            **over_http,
        )
    if over_http:
        name = next(iter(over_http))
        raise InvalidArgument(
            f"{name} is an option for HTTP, and a transport is given: set it there", argument=name
        )
    return transport


class Environment(NamedTuple):
    """The settings from environment variables. Either `url` or `region` is set."""

    url: str | None
    region: str | None
    api_key: str
    api_secret: Secret


def environment(options: ClientOptions) -> Environment:
    """Read the environment variables of `Client.from_env`; add ``max_staleness`` and ``facts``.

    Raises:
        InvalidArgument: If a variable is missing or invalid, or both URL and region are set.
    """
    url, region, key = (os.environ.get(name) or None for name in _VARIABLES)
    secret = Secret(os.environ.get(_API_SECRET) or "")
    missing = ["VMAPI_API_KEY"] if key is None else []
    missing += [] if secret.text() else [_API_SECRET]
    if url is None and region is None:
        missing.insert(0, "VMAPI_URL or VMAPI_REGION")
    if missing or key is None:
        raise InvalidArgument(
            f"not set in the environment: {', '.join(missing)}", argument=missing[0]
        )
    if url is not None and region is not None:
        raise InvalidArgument(
            "VMAPI_URL and VMAPI_REGION are both set; set one", argument="VMAPI_URL"
        )
    if staleness := os.environ.get(_MAX_STALENESS):
        try:
            options.setdefault("max_staleness", float(staleness))
        except ValueError:
            raise validation.refuse(_MAX_STALENESS, staleness, "a number of seconds") from None
    if facts := os.environ.get(_FACTS):
        options.setdefault("facts", facts)
    return Environment(url, region, key, secret)
