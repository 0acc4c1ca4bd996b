"""`Emulator`: the local cloud behind a socket, so that any client of the API can talk to it."""

import asyncio
import contextlib
import math
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from async_vmapi.emulator.api import CloudAPI, Request
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.delivery import Delivery, deliver
from async_vmapi.emulator.doors import is_loopback, names_this_server
from async_vmapi.emulator.faults import FaultPlan
from async_vmapi.emulator.settings import Settings
from async_vmapi.emulator.whole import whole

__all__ = ["Emulator"]


_ADMIN: Final = "/_emulator/faults"
_PIECE: Final = 64 * 1024
_PIECES: Final = 10


class Emulator:
    """A local cloud over HTTP, as an async context manager.

    Args:
        api: What answers; a new cloud's API if it is not given.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        allow_remote: Whether `host` may be other than loopback. Without it a request is refused
            with 421 whose ``Host`` is no loopback name or address with the port that it listens
            on, so that no web page gets in by DNS rebinding.
        speed: How many seconds pass on the cloud's clock in one second.
        settings: How a new cloud behaves.
        seed: Makes a new cloud repeatable.
        api_key: The only key that is let in; a new one if it is not given.
        api_secret: Its secret; likewise.
        faults: What goes wrong for which requests, of a new cloud; later, set ``api.faults``.
        admin: Whether ``/_emulator/faults`` answers, from this machine alone: GET shows the
            plan and what it did, PUT sets a plan (a JSON object like the TOML file of
            `FaultPlan.load`), POST adds one fault for a call's next request, DELETE clears all.
        patience: Seconds in which a request's head must have arrived, and its body; an idle
            connection is closed after as long.

    Raises:
        ValueError: If an argument is not as said above.

    Attributes:
        api: What answers.
    """

    def __init__(
        self,
        api: CloudAPI | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        speed: float = 1.0,
        settings: Settings | None = None,
        seed: int | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        faults: FaultPlan | None = None,
        admin: bool = False,
        patience: float = 75.0,
    ) -> None:
        if not (allow_remote or is_loopback(host)):
            raise ValueError(
                f"host {host!r} is not a loopback address; whoever can reach it could use this "
                "cloud, so it takes allow_remote"
            )
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be above 0, not {speed!r}")
        if not 0 < patience < math.inf:
            raise ValueError(f"patience must be a number of seconds above 0, not {patience!r}")
        new = (settings, seed, api_key, api_secret, faults)
        if api is not None and any(x is not None for x in new):
            raise ValueError(
                "settings, seed, credentials and faults are for a new API, and one was given"
            )
        self.api = api or CloudAPI(
            settings=settings, seed=seed, api_key=api_key, api_secret=api_secret, faults=faults
        )
        self._admin = admin
        self._allow_remote = allow_remote
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._host = host
        self._port = port
        self._speed = speed
        self._runner: web.ServerRunner | None = None
        self._began = self._start = 0.0

    @property
    def url(self) -> str:
        """Where it listens."""
        if self._runner is None:
            raise RuntimeError("the emulator is not running")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._listening_port}"

    @property
    def api_key(self) -> str:
        """The only key that is let in."""
        return self.api.api_key

    @property
    def api_secret(self) -> str:
        """The key's secret."""
        return self.api.api_secret

    @property
    def cloud(self) -> Cloud:
        """The machines."""
        return self.api.cloud

    @property
    def now(self) -> float:
        """The time on the cloud's clock, in seconds."""
        return self._start + (asyncio.get_running_loop().time() - self._began) * self._speed

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not (self._allow_remote or self._names_me(request)):
            port = self._listening_port
            return self._turn_away(421, f"Host must be a loopback name or address with port {port}")
        body = b""
        if request.body_exists:
            try:
                async with asyncio.timeout(self._patience):
                    body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                return self._turn_away(413, "body is too large")
            except TimeoutError:
                return self._turn_away(408, f"no whole body within {self._patience:g} s")
        if self._admin and request.path == _ADMIN:
            return self._administer(request, body)
        asked = Request(request.method, request.raw_path, request.headers, body)
        delivery = deliver(self.api, asked, now=self.now, today=datetime.now(UTC))
        if delivery.refuse:
            await self._refuse(delivery.refuse)
        if delivery.delay:
            await asyncio.sleep(delivery.delay)
        answer = delivery.response
        if answer is None:
            if request.transport is not None:
                request.transport.abort()
            # It goes nowhere, but a handler must return something.
            return web.Response()
        if delivery == Delivery(answer):
            return whole(request, answer)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        # Who asked may not want to hear the end of it.
        with contextlib.suppress(ConnectionError):
            await _send_broken(request, response, delivery, answer.body)
        return response

    def _names_me(self, request: web.BaseRequest) -> bool:
        host = request.headers.get("Host")
        return names_this_server(host, request.raw_path, self._listening_port)

    def _turn_away(self, status: int, words: str) -> web.Response:
        """Refuse a request before it reaches the cloud; the connection is closed behind it."""
        self.api.requests["refused"] += 1
        headers = {"Date": self.api.headers(self.now)["Date"]}
        content = {"success": False, "error": words}
        response = web.json_response(content, status=status, headers=headers)
        response.force_close()
        return response

    async def _listen(self, port: int) -> None:
        if self._runner is not None and (factory := self._runner.server) is not None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(factory, self._host, port)
            self._listening_port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self, seconds: float) -> None:
        """Let no new connection in for a while; those that are open stay."""
        server, self._server = self._server, None
        if server is None:
            return
        loop = asyncio.get_running_loop()
        self._reopening = loop.call_later(seconds, self._reopen)
        # asyncio may be about to let some in, and does not bear that the server closes then.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            for listener in server.sockets:
                loop.remove_reader(listener)
        await asyncio.sleep(0.01)
        server.close()

    def _reopen(self) -> None:
        self._reopening = None
        self._opening = asyncio.get_running_loop().create_task(self._listen(self._listening_port))

    def _administer(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """Show or change the faults."""
        # Also where others are let in, a page in a browser must not reach it.
        if not (is_loopback(request.remote or "") and self._names_me(request)):
            return web.json_response({"error": "this is for the local machine"}, status=403)
        api = self.api
        try:
            match request.method:
                case "GET":
                    return web.json_response(
                        {"plan": api.faults.to_dict(), "injected": api.faults.injected}
                    )
                case "DELETE":
                    api.faults.clear()
                case "PUT" | "POST" if request.content_type != "application/json":
                    words = "Content-Type must be application/json"
                    return web.json_response({"error": words}, status=415)
                case "PUT":
                    api.faults = FaultPlan.from_dict(msgspec.json.decode(body))
                case "POST":
                    fields = msgspec.json.decode(body, type=dict[str, Any])
                    FaultPlan.from_dict({"fault": [{"kind": "html", **fields, "probability": 1}]})
                    api.faults.fail_next(**fields)
                case _:
                    return web.json_response({"error": "GET, PUT, POST or DELETE"}, status=405)
        except (ValueError, TypeError, RecursionError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"success": True})

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("the emulator is running already")
        self._began = asyncio.get_running_loop().time()
        # The cloud may have been used before, and its clock must not go back.
        self._start = self.cloud.now
        # A body is signed as it was sent, so it is not to be unpacked here.
        server = web.Server(
            self._handle,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=self._patience,
            lingering_time=min(10.0, self._patience),
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        try:
            await self._runner.setup()
            await self._listen(self._port)
        except BaseException:
            runner, self._runner = self._runner, None
            await runner.cleanup()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        runner, self._runner = self._runner, None
        if self._reopening is not None:
            self._reopening.cancel()
        if self._opening is not None:
            await self._opening
        listening, self._server = self._server, None
        self._reopening = self._opening = None
        if listening is not None:
            listening.close()
        if runner is not None:
            await runner.cleanup()


async def _send_broken(
    request: web.BaseRequest, response: web.StreamResponse, delivery: Delivery, body: bytes
) -> None:
    """Send an answer as a fault wants it."""
    size = len(body)
    response.content_length = size + delivery.padding
    await response.prepare(request)
    if delivery.cut:
        await response.write(body[: size // 2])
    else:
        step = max(1, math.ceil(size / _PIECES)) if delivery.spread else size or 1
        for start in range(0, size, step):
            await asyncio.sleep(delivery.spread / _PIECES)
            await response.write(body[start : start + step])
        for left in range(delivery.padding, 0, -_PIECE):
            await response.write(b" " * min(_PIECE, left))
        await response.write_eof()
    if (delivery.cut or delivery.close_after) and request.transport is not None:
        request.transport.close()
