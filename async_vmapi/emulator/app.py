"""`Emulator`: the local cloud behind a socket, so that any client of the API can talk to it."""

import asyncio
import ipaddress
import math
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from aiohttp import web

from async_vmapi.emulator.api import CloudAPI, Request
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.settings import Settings

__all__ = ["Emulator"]


class Emulator:
    """A local cloud over HTTP, as an async context manager.

    Args:
        api: What answers; a new cloud's API if it is not given.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        allow_remote: Whether `host` may be other than loopback.
        speed: How many seconds pass on the cloud's clock in one second.
        settings: How a new cloud behaves.
        seed: Makes a new cloud repeatable.
        api_key: The only key that is let in; a new one if it is not given.
        api_secret: Its secret; likewise.

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
    ) -> None:
        if not (allow_remote or _is_loopback(host)):
            raise ValueError(
                f"host {host!r} is not a loopback address; whoever can reach it could use this "
                "cloud, so it takes allow_remote"
            )
        if not 0 < speed < math.inf:
            raise ValueError(f"speed must be above 0, not {speed!r}")
        if api is not None and any(x is not None for x in (settings, seed, api_key, api_secret)):
            raise ValueError("settings, seed and credentials are for a new API, and one was given")
        self.api = api or CloudAPI(
            settings=settings, seed=seed, api_key=api_key, api_secret=api_secret
        )
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
        port: int = self._runner.addresses[0][1]
        return f"http://{host}:{port}"

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
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            self.api.requests["refused"] += 1
            return web.json_response({"success": False, "error": "body is too large"}, status=413)
        asked = Request(request.method, request.raw_path, request.headers, body)
        answer = self.api.handle(asked, now=self.now, today=datetime.now(UTC))
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def __aenter__(self) -> Self:
        if self._runner is not None:
            raise RuntimeError("the emulator is running already")
        self._began = asyncio.get_running_loop().time()
        # The cloud may have been used before, and its clock must not go back.
        self._start = self.cloud.now
        # A body is signed as it was sent, so it is not to be unpacked here.
        server = web.Server(self._handle, access_log=None, auto_decompress=False)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
