"""A transport that passes requests to the emulator in memory, without sockets.

Requests are signed and encoded as over HTTP. Time is the event loop's, so an hour of the cloud
takes no time on a loop whose clock jumps.
"""

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import attrs

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.delivery import deliver
from async_vmapi.emulator.request import Request
from async_vmapi.errors import (
    ConnectError,
    DecodingError,
    InvalidArgument,
    TransportError,
    TransportTimeout,
)
from async_vmapi.transport.transport import Response

__all__ = ["InMemoryTransport"]

_LARGEST: Final = 64 * 1024 * 1024
"""Maximum bytes of a padded body; a larger one is refused without building it."""


class InMemoryTransport:
    """A `Transport` to a cloud in the same process; `Client.in_memory` uses it.

    Args:
        cloud: Handles the requests.
        latency: Seconds that each request takes; half of them pass before it is handled.
        timeout: Maximum seconds for a request.

    Raises:
        InvalidArgument: If one of them is invalid.
    """

    def __init__(self, cloud: CloudAPI, *, latency: float = 0.0, timeout: float = 30.0) -> None:
        if not isinstance(cloud, CloudAPI):
            kind = type(cloud).__name__
            raise InvalidArgument(
                f"cloud=<{kind}> is not a CloudAPI, such as CloudAPI() or a VMCloud()",
                argument="cloud",
            )
        for name, value in (("latency", latency), ("timeout", timeout)):
            if not 0 <= value < math.inf:
                raise InvalidArgument(
                    f"{name}={value!r} is not a finite number of seconds, 0 or more",
                    argument=name,
                )
        self._cloud = cloud
        self._latency = latency
        self._timeout = timeout
        self._refused_until: float | None = None

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return the response; see `Transport.send`."""
        loop = asyncio.get_running_loop()
        path = target.partition("?")[0]
        if self._refused_until is not None and loop.time() < self._refused_until:
            await asyncio.sleep(self._latency)
            raise ConnectError("the connection was refused", method=method, path=path)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.sleep(self._latency / 2)
                delivery = deliver(
                    self._cloud,
                    Request(method, target, headers, body),
                    now=loop.time(),
                    today=datetime.now(UTC),
                )
                await asyncio.sleep(self._latency / 2 + delivery.delay + delivery.spread)
        except TimeoutError:
            words = f"not within {self._timeout:g} s"
            raise TransportTimeout(words, method=method, path=path) from None
        if delivery.refuse:
            self._refused_until = loop.time() + delivery.refuse
        response = delivery.response
        if response is None:
            raise TransportError("the connection was dropped", method=method, path=path)
        if delivery.cut:
            raise TransportError("the body ended early", method=method, path=path)
        if delivery.padding:
            if len(response.body) + delivery.padding > _LARGEST:
                words = f"the body is larger than {_LARGEST} bytes"
                raise DecodingError(words, method=method, path=path)
            response = attrs.evolve(response, body=response.body + b" " * delivery.padding)
        return response

    async def close(self) -> None:
        """Do nothing; there is nothing to release."""
