"""A server of raw sockets that sends the responses of a test, and keeps the requests.

It knows just enough of HTTP to cut requests out of a connection. It shares nothing with the
package nor with aiohttp, so what it saw is evidence.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

CLOSE = None
"""A reply without a response: the connection is closed."""

HANG = b""
"""A reply that never comes."""


@dataclass
class Request:
    """A request as it was sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def is_signed_with(self, api_key: str, api_secret: str) -> bool:
        """Return whether the signature is the one that WIRE §1 describes."""
        lines = [self.method, self.headers["host"], self.headers["x-date"], self.target, ""]
        message = "\n".join(lines).encode() + self.body
        made = hmac.new(api_secret.encode(), message, hashlib.sha256).digest()
        return self.headers["authorization"] == f"{api_key}:{base64.b64encode(made).decode()}"


Reply = bytes | None | Callable[[Request], bytes | None]


def response(content: object, status: str = "200 OK", **headers: str) -> bytes:
    """Return a whole response: `content` as JSON, or unchanged if it is bytes."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


class OddServer:
    """The server: the nth request gets the nth reply, and the last reply from then on.

    ``connection: close`` among a response's headers closes the connection after it.
    """

    def __init__(self, *replies: Reply, port: int = 0) -> None:
        self.replies = replies or (response({"success": True}),)
        self.port = port
        self.requests: list[Request] = []
        self.connections = 0
        self._requested = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The address for a client."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._running):
            task.cancel()
        await self.drained()
        await self._server.wait_closed()

    async def requested(self) -> None:
        """Wait until a request has arrived."""
        await self._requested.wait()

    async def drained(self) -> None:
        """Wait until no connection is open."""
        if self._running:
            _, open_ = await asyncio.wait(self._running, timeout=5)
            assert not open_, "a connection is still open"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.connections += 1
        number = self.connections
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
            ):
                while await self._answer(await self._read(reader, number), writer):
                    pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._running.discard(task)

    async def _read(self, reader: asyncio.StreamReader, number: int) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} came twice"
            headers[name.lower()] = value.strip()
        assert "transfer-encoding" not in headers
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Request(method, target, headers, body, number)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        self.requests.append(request)
        self._requested.set()
        reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
        if callable(reply):
            reply = reply(request)
        if reply is None:
            return False
        writer.write(reply)
        await writer.drain()
        return b"connection: close" not in reply.partition(b"\r\n\r\n")[0].lower()
