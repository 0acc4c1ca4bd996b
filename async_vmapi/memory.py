"""The wire without sockets: requests go straight to the emulator's code that answers them.

They are signed and they are bytes, as on the network. Time is the event loop's, so on a loop
whose clock jumps an hour of the cloud passes in a moment.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

from async_vmapi.emulator.api import CloudAPI, Request, Response
from async_vmapi.emulator.delivery import Delivery, deliver
from async_vmapi.errors import ConnectFailed, DecodingError, TransportError, TransportTimeout
from async_vmapi.wire import DEFAULT_MAX_BODY, Answer

__all__ = ["MemoryWire"]


class MemoryWire:
    """A `Wire` to a cloud in the same process.

    Args:
        cloud: What answers.
        latency: Seconds that each request takes; half of them pass before it arrives.
        timeout: Seconds for a whole request.
        max_body: Bytes that an answer's body may have at most.
    """

    def __init__(
        self,
        cloud: CloudAPI,
        *,
        latency: float = 0.0,
        timeout: float = 30.0,
        max_body: int = DEFAULT_MAX_BODY,
    ) -> None:
        self._cloud = cloud
        self._latency = latency
        self._timeout = timeout
        self._max_body = max_body
        self._refused_until: float | None = None

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Hand one request over and return its answer; see `Wire.send`."""
        loop = asyncio.get_running_loop()
        path = target.partition("?")[0]
        if self._refused_until is not None and loop.time() < self._refused_until:
            await asyncio.sleep(self._latency)
            raise ConnectFailed("the connection was refused", method=method, path=path)
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
        response = self._whole(delivery, method, path)
        return Answer(response.status, response.headers, response.body)

    def _whole(self, delivery: Delivery, method: str, path: str) -> Response:
        response = delivery.response
        if response is None:
            raise TransportError("the connection was dropped", method=method, path=path)
        if delivery.cut:
            raise TransportError("the body ended early", method=method, path=path)
        if len(response.body) + delivery.padding > self._max_body:
            raise DecodingError(
                f"the body is larger than {self._max_body} bytes", method=method, path=path
            )
        return response

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""
