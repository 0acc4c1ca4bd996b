"""The configuration of a `Client`: keywords, region names and environment variables."""

import os
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypedDict

import aiohttp

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret
from async_vmapi.telemetry.hooks import Telemetry
from async_vmapi.transport.endpoint import check_transport
from async_vmapi.transport.http import CONNECT_TIMEOUT, TIMEOUT, HTTPTransport
from async_vmapi.transport.transport import Transport
from async_vmapi.writes.record import UnresolvedWrite

__all__ = [
    "ClientOptions",
    "Environment",
    "environment",
    "intervals_of",
    "transport_of",
    "url_of_region",
]

_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)

_VARIABLES: Final = ("VMAPI_URL", "VMAPI_REGION", "VMAPI_API_KEY")
_API_SECRET: Final = "VMAPI_API_SECRET"  # noqa: S105 - its name
_MAX_STALENESS: Final = "VMAPI_MAX_STALENESS"


class ClientOptions(TypedDict, total=False):
    """The options of a `Client`, other than its endpoint and credentials."""

    transport: Transport | None
    session: aiohttp.ClientSession | None
    timeout: float | None
    connect_timeout: float | None
    max_response_size: int
    max_connections: int
    max_requests_per_second: float | None
    max_retries: int
    reconcile_timeout: float
    cancel_grace: float
    max_staleness: float
    min_poll_interval: float
    max_poll_interval: float
    on_unresolved: Callable[[UnresolvedWrite], object] | None
    telemetry: Telemetry | None
    seed: int | None


class Environment(NamedTuple):
    """The settings from environment variables. Either `url` or `region` is set."""

    url: str | None
    region: str | None
    api_key: str
    api_secret: Secret


def transport_of(
    base_url: str,
    transport: Transport | None,
    *,
    session: aiohttp.ClientSession | None,
    timeout: float | None,
    connect_timeout: float | None,
    max_response_size: int,
    max_connections: int,
) -> Transport:
    """Return the given transport, or an `HTTPTransport`.

    Raises:
        InvalidArgument: If an argument is invalid, or is for HTTP and a transport is given.
    """
    if transport is None:
        return HTTPTransport(
            base_url,
            session=session,
            timeout=TIMEOUT if timeout is None else timeout,
            connect_timeout=CONNECT_TIMEOUT if connect_timeout is None else connect_timeout,
            max_response_size=max_response_size,
            max_connections=max_connections,
        )
    check_transport(transport)
    over_http = {"session": session, "timeout": timeout, "connect_timeout": connect_timeout}
    for name, value in over_http.items():
        if value is not None:
            raise InvalidArgument(
                f"{name} is an option for HTTP, and a transport is given: set it there",
                argument=name,
            )
    return transport


def intervals_of(min_poll_interval: float, max_poll_interval: float) -> tuple[float, float]:
    """Return the shortest and the longest interval between two polls, in seconds.

    Raises:
        InvalidArgument: If an argument is invalid, or the minimum exceeds the maximum.
    """
    shortest = validation.seconds("min_poll_interval", min_poll_interval)
    longest = validation.seconds("max_poll_interval", max_poll_interval)
    if longest < shortest:
        raise InvalidArgument(
            f"max_poll_interval={longest:g} is less than min_poll_interval={shortest:g}",
            argument="max_poll_interval",
        )
    return shortest, longest


def url_of_region(region: object) -> str:
    """Return the endpoint of a region (WIRE §1).

    Raises:
        InvalidArgument: If `region` is not a valid name.
    """
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise validation.refuse("region", region, "a name of lower-case letters, digits and '-'")
    return f"https://{region}.api.e24cloud.com"


def environment(options: ClientOptions) -> Environment:
    """Read the environment variables of `Client.from_env`; add ``max_staleness`` to `options`.

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
    return Environment(url, region, key, secret)
