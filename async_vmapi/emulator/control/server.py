"""The control API over HTTP, with its stream of events."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
from aiohttp import web

from async_vmapi.emulator.control.access import check_token, refusal
from async_vmapi.emulator.control.control import Control, as_text
from async_vmapi.emulator.control.dispatch import PREFIX, respond
from async_vmapi.emulator.control.events import Listener
from async_vmapi.emulator.control.models import RequestEntry
from async_vmapi.emulator.control.openapi import EVENTS
from async_vmapi.emulator.delivery import Delivery
from async_vmapi.emulator.request import Request

__all__ = ["ControlServer"]

_LISTENERS: Final = 16
_TICK: Final = 0.1
"""Seconds after which the cloud of a listener is advanced."""
_PING: Final = 15.0
_AGENT: Final = 200
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
        self._listeners = 0

    @staticmethod
    def serves(path: str) -> bool:
        """Return whether a path is one of the control API."""
        return path == PREFIX or path.startswith(f"{PREFIX}/")

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

    async def logged(
        self,
        request: web.BaseRequest,
        handle: Callable[[web.BaseRequest], Awaitable[tuple[web.StreamResponse, Delivery | None]]],
    ) -> web.StreamResponse:
        """Handle a request to the cloud's API, and log it."""
        control, loop = self._control, asyncio.get_running_loop()
        number, at, began = control.count_request(), control.now, loop.time()
        date = datetime.now(UTC)
        response, delivery = await handle(request)
        dropped = delivery is not None and delivery.response is None
        received = Request(request.method, request.raw_path, {})
        address = request.transport and request.transport.get_extra_info("peername")
        control.log(
            RequestEntry(
                number=number,
                at=at,
                date=as_text(date),
                method=request.method,
                path=request.path,
                call=control.api.call_of(received),
                vm=control.api.vm_id_of(received),
                status=None if dropped else response.status,
                duration=loop.time() - began,
                fault=delivery.fault if delivery else None,
                delay=delivery.delay + delivery.spread if delivery else 0.0,
                client="{}:{}".format(*address) if address else "",
                agent=request.headers.get("User-Agent", "")[:_AGENT],
            )
        )
        return response

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Send events until the listener disconnects."""
        kinds = frozenset(filter(None, request.query.get("kinds", "").split(",")))
        if unknown := kinds - EVENTS.keys():
            words = f"kinds={','.join(sorted(unknown))} is not of {', '.join(EVENTS)}"
            return _json(400, msgspec.json.encode({"error": words}))
        if self._listeners >= _LISTENERS:
            words = f"there are {_LISTENERS} listeners already; disconnect one"
            return _json(503, msgspec.json.encode({"error": words}))
        listener = Listener(self._control.events, request.headers.get("Last-Event-ID"), kinds)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        response = web.StreamResponse(headers=headers)
        self._listeners += 1
        try:
            await response.prepare(request)
            await response.write(b"retry: 1000\n\n")
            with contextlib.suppress(ConnectionError):
                await self._send(request, response, listener)
        finally:
            self._listeners -= 1
        return response

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, listener: Listener
    ) -> None:
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while request.transport is not None and not request.transport.is_closing():
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
            # Nothing happens in the cloud before someone looks at it.
            self._control.cloud()


def _json(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    safe = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(
        status=status, body=body, content_type=_JSON, headers=safe | dict(headers or {})
    )
