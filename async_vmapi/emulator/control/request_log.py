"""A request to the cloud's API, logged at little cost and described when somebody asks. Pure."""

from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.control.models import RequestEntry
from async_vmapi.emulator.faults import FaultKind
from async_vmapi.emulator.request import Request

__all__ = ["LoggedRequest", "as_text"]

_AGENT: Final = 200


class LoggedRequest(msgspec.Struct, frozen=True, gc=False):
    """A request, and what came of it.

    Attributes:
        number: Counts from 1, in the order of the responses.
        at: When it arrived, in seconds on the cloud's clock.
        date: The real date then.
        method: Its HTTP method.
        target: Its path and query, or its URL.
        status: HTTP status of the response; None if the connection was dropped.
        duration: Seconds until the response was ready.
        fault: The fault that was injected.
        delay: Seconds that the client waited due to it.
        client: Address of the client, its port, and more for IPv6.
        agent: Its ``User-Agent``.
    """

    number: int
    at: float
    date: datetime
    method: str
    target: str
    status: int | None
    duration: float
    fault: FaultKind | None
    delay: float
    client: tuple[Any, ...] | None
    agent: str

    def entry(self, api: CloudAPI) -> RequestEntry:
        """Return its description."""
        request = Request(self.method, self.target, {})
        return RequestEntry(
            number=self.number,
            at=self.at,
            date=as_text(self.date),
            method=self.method,
            path=unquote(self.target.partition("?")[0]),
            call=api.call_of(request),
            vm=api.vm_id_of(request),
            status=self.status,
            duration=self.duration,
            fault=self.fault,
            delay=self.delay,
            client="{}:{}".format(*self.client) if self.client else "",
            agent=self.agent[:_AGENT],
        )


def as_text(date: datetime) -> str:
    """Return a date in UTC as in RFC 3339."""
    return date.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
