"""The control API over HTTP, with its stream of events."""

import asyncio
import contextlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

import msgspec
from aiohttp import web

from async_vmapi.emulator.control.access import check_token, refusal
from async_vmapi.emulator.control.control import Control
from async_vmapi.emulator.control.dispatch import PREFIX, respond
from async_vmapi.emulator.control.events import Listener
from async_vmapi.emulator.control.openapi import EVENTS
from async_vmapi.emulator.control.request_log import LoggedRequest
from async_vmapi.emulator.delivery import Delivery

__all__ = ["Arrival", "ControlServer"]

Arrival: TypeAlias = tuple[float, datetime, float]
"""When a request arrived: on the cloud's clock, the date, and on the event loop's clock."""

_LISTENERS: Final = 16
_TICK: Final = 0.1
"""Seconds after which the cloud of a listener is advanced."""
_PING: Final = 15.0
_TEXTS: Final = 2000
_MILLISECOND: Final = 0.001
_SNAPSHOT: Final = 256 * 1024 * 1024
"""Maximum size of a snapshot, in bytes."""
_JSON: Final = "application/json"


class ControlServer:
    """Serves the control API of an emulator.

    Args:
        control: What it acts on.
        token: The only valid token.

    Raises:
        ValueError: If it is no good token.
    """

    def __init__(self, control: Control, token: str) -> None:
        check_token(token)
        self._control = control
        self._token = token
        self._listeners: list[web.BaseRequest] = []
        self._texts: dict[str, str] = {}
        # The latest date, and when it was read on the event loop's clock.
        self._date, self._dated_at = datetime.now(UTC), -math.inf

    def open(self) -> None:
        """Begin to serve."""
        self._control.open()

    async def close(self) -> None:
        """Disconnect all listeners."""
        self._control.events.ended = True
        for request in self._listeners:
            # One that does not read would otherwise block until it disconnects.
            if request.transport is not None:
                request.transport.abort()
        while self._listeners:  # noqa: ASYNC110 - they end at once
            await asyncio.sleep(0)

    @staticmethod
    def serves(request: web.BaseRequest) -> bool:
        """Return whether a request is for the control API."""
        # Most are not; parsing their URL would take a tenth of their time.
        if request.raw_path.startswith("/v2/"):
            return False
        return request.path == PREFIX or request.path.startswith(f"{PREFIX}/")

    @staticmethod
    def readable(request: web.BaseRequest) -> web.BaseRequest:
        """Return a request whose body may be as large as the path allows."""
        if request.path != f"{PREFIX}/restore":
            return request
        return request.clone(client_max_size=_SNAPSHOT)

    def refuse(self, request: web.BaseRequest, port: int) -> web.Response | None:
        """Return the refusal of a request, or None if it is allowed; its body is not needed."""
        refused = refusal(request.headers, request.raw_path, port=port, token=self._token)
        if refused is None:
            return None
        status, words = refused
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        response = _json(status, msgspec.json.encode({"error": words}), headers)
        response.force_close()
        return response

    async def respond(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        """Handle an allowed request."""
        url = request.rel_url
        if request.method == "GET" and url.raw_path == f"{PREFIX}/events":
            return await self._stream(request)
        target = f"{url.raw_path}?{url.raw_query_string}"
        return _json(*respond(self._control, request.method, target, body))

    def arrival(self) -> Arrival:
        """Note the arrival of a request to the cloud's API, for `log`."""
        now = asyncio.get_running_loop().time()
        if now - self._dated_at > _MILLISECOND:
            self._date, self._dated_at = datetime.now(UTC), now
        return self._control.now, self._date, now

    def log(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        delivery: Delivery | None,
        arrival: Arrival,
    ) -> None:
        """Log a request to the cloud's API, and what came of it."""
        at, date, began = arrival
        dropped, fault, delay = False, None, 0.0
        # Its response may be large, so it is not kept.
        if delivery is not None and delivery.fault is not None:
            dropped, fault = delivery.response is None, delivery.fault
            delay = delivery.delay + delivery.spread
        transport = request.transport
        self._control.log(
            LoggedRequest(
                self._control.count_request(),
                at,
                date,
                request.method,
                self._shared(request.raw_path),
                None if dropped else response.status,
                asyncio.get_running_loop().time() - began,
                fault,
                delay,
                None if transport is None else transport.get_extra_info("peername"),
                self._shared(request.headers.get("User-Agent", "")),
            )
        )

    def _shared(self, text: str) -> str:
        """Return an equal text that many logged requests share, as there are thousands of them."""
        texts = self._texts
        found = texts.get(text)
        if found is None:
            if len(texts) >= _TEXTS:
                texts.clear()
            found = texts[text] = text
        return found

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send events until the listener disconnects."""
        kinds = frozenset(filter(None, request.query.get("kinds", "").split(",")))
        if unknown := kinds - EVENTS.keys():
            words = f"kinds={','.join(sorted(unknown))} is not of {', '.join(EVENTS)}"
            return _json(400, msgspec.json.encode({"error": words}))
        if len(self._listeners) >= _LISTENERS:
            words = f"there are {_LISTENERS} listeners already; disconnect one"
            return _json(503, msgspec.json.encode({"error": words}))
        listener = Listener(self._control.events, request.headers.get("Last-Event-ID"), kinds)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        self._listeners.append(request)
        try:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            with contextlib.suppress(ConnectionError):
                await self._send(request, response, listener)
        finally:
            self._listeners.remove(request)
        return response

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, listener: Listener
    ) -> None:
        loop, events = asyncio.get_running_loop(), self._control.events
        silent_since = loop.time()
        while not events.ended and request.transport and not request.transport.is_closing():
            chunk = listener.take()
            if not chunk and loop.time() - silent_since >= _PING:
                # Otherwise, proxies and listeners may take the connection for broken.
                chunk = b": ping\n\n"
            if chunk:
                # A slow listener waits here, and misses events if there are too many.
                await response.write(chunk)
                silent_since = loop.time()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await listener.wait()
            # The cloud advances only when it is used.
            self._control.cloud()


def _json(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(
        status=status, body=body, content_type=_JSON, headers=safe | dict(headers or {})
    )
