"""The wire without sockets: requests go straight to the emulator's code that answers them.

They are signed and they are bytes, as on the network. Time is the event loop's, so on a loop
whose clock jumps an hour of the cloud passes in a moment.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import anyio

from async_vmapi.emulator.api import CloudAPI, Request
from async_vmapi.wire import Answer

__all__ = ["MemoryWire"]


class MemoryWire:
    """A `Wire` to a cloud in the same process.

    Args:
        cloud: What answers.
        latency: Seconds that each request takes; half of them pass before it arrives.
    """

    def __init__(self, cloud: CloudAPI, *, latency: float = 0.0) -> None:
        self._cloud = cloud
        self._latency = latency

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Hand one request over and return its answer; see `Wire.send`."""
        await anyio.sleep(self._latency / 2)
        response = self._cloud.handle(
            Request(method, target, headers, body),
            now=anyio.current_time(),
            today=datetime.now(UTC),
        )
        await anyio.sleep(self._latency / 2)
        return Answer(response.status, response.headers, response.body)

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""
