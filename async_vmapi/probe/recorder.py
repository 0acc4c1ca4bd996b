"""`Recorder`: a transport around a client's own that keeps what the models leave out.

It keeps the latest response to each read of a VM and of the list, and when writes were sent. It
keeps no header or body of a request, and no response that can hold a secret.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Self

import attrs

from async_vmapi.client import Client
from async_vmapi.errors import VMAPIError
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.responses import http_date
from async_vmapi.transport.retries import Idempotency
from async_vmapi.transport.transport import Response, Transport
from async_vmapi.writes.requests import PATH, path_of

__all__ = ["Exchange", "Recorder"]

_KEPT: Final = re.compile(rf"GET {PATH}(/[^/?]+)?|POST {PATH}/[^/?]+/rename")
_QUICK: Final = 2.0
"""Seconds within which a response must come, for its date to show the server's clock."""


@attrs.frozen
class Exchange:
    """A request that was sent, on the event loop's clock.

    Attributes:
        method: The HTTP method.
        path: The path.
        sent: When it was sent.
        received: When its response came; None without one.
        status: Its status; None without one.
        html: Whether the response says that it is a page.
        body: The response's body, of reads of VMs and of renames.
    """

    method: str
    path: str
    sent: float
    received: float | None
    status: int | None
    html: bool = False
    body: bytes = attrs.field(default=b"", repr=False)


class Recorder:
    """Wraps the transport of a client while it is entered.

    Args:
        client: The client; it works as before, and again without this one afterwards.
    """

    def __init__(self, client: Client) -> None:
        self._pipeline = _pipeline_of(client)
        self._inner: Transport | None = None
        self._reads: dict[str, Exchange] = {}
        self._writes: list[Exchange] = []
        self._epoch: float | None = None
        self._offset = (float("-inf"), float("inf"))
        self.dates = 0
        """How many dates of the server were compared."""

    def __enter__(self) -> Self:
        self._inner = self._pipeline.transport
        self._pipeline.transport = self
        return self

    def __exit__(self, *_: object) -> None:
        if self._inner is not None:
            self._pipeline.transport = self._inner

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request, and record it; see `Transport.send`."""
        assert self._inner is not None  # noqa: S101 - it is entered
        loop = asyncio.get_running_loop()
        sent = loop.time()
        response: Response | None = None
        if self._epoch is None:
            # The wall clock is read once: it can be set meanwhile, and in tests time jumps.
            self._epoch = time.time() - sent
        try:
            return (response := await self._inner.send(method, target, headers, body))
        finally:
            self._record(method, target, sent, loop.time(), response)

    async def close(self) -> None:
        """Close the wrapped transport."""
        if self._inner is not None:
            await self._inner.close()

    def _record(
        self, method: str, target: str, sent: float, now: float, response: Response | None
    ) -> None:
        if response is None:
            exchange = Exchange(method, target, sent, None, None)
        else:
            found = {name.lower(): value for name, value in response.headers.items()}
            html = "html" in found.get("content-type", "")
            kept = response.body if _KEPT.fullmatch(f"{method} {target}") else b""
            exchange = Exchange(method, target, sent, now, response.status, html, kept)
            if now - sent <= _QUICK and (date := http_date(found.get("date"))) is not None:
                self._compare(date, sent, now)
        if method == "GET":
            self._reads[target] = exchange
        else:
            self._writes.append(exchange)

    def _compare(self, date: datetime, sent: float, received: float) -> None:
        # A date is cut to the second, and was made between the two moments.
        epoch, low, high = self._epoch or 0.0, *self._offset
        server = date.timestamp()
        self._offset = (
            max(low, server - (received + epoch)),
            min(high, server + 1.0 - (sent + epoch)),
        )
        self.dates += 1

    @property
    def offset(self) -> float | None:
        """The server's clock minus ours, in seconds; None if its dates do not agree."""
        low, high = self._offset
        return (low + high) / 2 if self.dates and low <= high else None

    @property
    def today(self) -> str:
        """The date by our clock, in UTC."""
        now = asyncio.get_running_loop().time() + (self._epoch or 0.0)
        return datetime.fromtimestamp(now, UTC).date().isoformat()

    def read(self, path: str, since: float) -> Exchange | None:
        """Return the latest read of a path; None if it was sent before `since`."""
        found = self._reads.get(path)
        return found if found is not None and found.sent >= since else None

    def clear(self) -> None:
        """Forget the writes so far."""
        self._writes.clear()

    @property
    def writes(self) -> tuple[Exchange, ...]:
        """The writes since `clear`, the oldest first."""
        return tuple(self._writes)

    async def refused_rename(self, vm_id: str) -> Exchange | None:
        """Rename a VM to nothing, which must be refused; return the exchange."""
        self.clear()
        path = f"{path_of(vm_id)}/rename"
        call = Call("rename", "POST", path, b"{}", idempotency=Idempotency.NON_IDEMPOTENT)
        try:
            await self._pipeline.call(call, codec.ACCEPTED)
        except VMAPIError:
            return self._writes[-1] if self._writes else None
        return None


def _pipeline_of(client: Client) -> Pipeline:
    # Not public: only a probe needs responses as they came.
    return client._pipeline  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
