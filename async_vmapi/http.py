"""Send requests over HTTP with aiohttp: the transport that a `Client` uses by default.

The only module of the client that knows aiohttp. It neither signs nor decodes nor retries.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from async_vmapi import arguments
from async_vmapi.endpoint import check_session, origin_of
from async_vmapi.errors import (
    ConnectFailed,
    DecodingError,
    InvalidState,
    TransportError,
    TransportTimeout,
)
from async_vmapi.transport import Response

__all__ = ["CONNECT_TIMEOUT", "MAX_BODY", "TIMEOUT", "HTTPTransport"]

TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 10.0
MAX_BODY: Final = 64 * 1024 * 1024


class HTTPTransport:
    """Sends requests over HTTP: the `Transport` that a `Client` makes for itself.

    Make one to put another transport around it. It never sends a request twice, which aiohttp
    does by itself with ``PUT`` and ``DELETE``.

    A session of its own is opened by the first request, in the event loop that runs then, and
    belongs to that loop until `close`. The first request after that opens another one.

    Args:
        base_url: Scheme and host, and a port if need be, as for `Client`.
        session: An `aiohttp.ClientSession` to use in place of an own one. It is not closed.
            Its middlewares are not run: they could change what is signed, or send it twice.
        timeout: Seconds for a whole request, connecting included; infinity for no limit.
        connect_timeout: Seconds to get a connection.
        max_body: Bytes that a response's body may have at most, decompressed.
        max_connections: How many connections a session of its own opens at most.

    Raises:
        InvalidArgument: If one of them is not as said above.
    """

    def __init__(
        self,
        base_url: str,
        *,
        session: aiohttp.ClientSession | None = None,
        timeout: float = TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        max_body: int = MAX_BODY,
        max_connections: int = 100,
    ) -> None:
        self._origin = origin_of(base_url)
        check_session(session)
        self._lent = session
        self._own: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        timeout = arguments.seconds("timeout", timeout)
        self._timeout = aiohttp.ClientTimeout(
            total=timeout if timeout < math.inf else None,
            connect=min(timeout, arguments.seconds("connect_timeout", connect_timeout)),
        )
        self._max_body = arguments.whole("max_body", max_body, minimum=1)
        self._max_connections = arguments.whole("max_connections", max_connections, minimum=1)

    def __repr__(self) -> str:
        return f"<HTTPTransport to {str(self._origin).rstrip('/')}>"

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidState(
                "this client was used in another event loop and not closed there; "
                "close it in its loop before using it in the next"
            )
        if self._lent is not None:
            if self._lent.closed:
                raise InvalidState("the aiohttp session lent to this client is closed")
            return self._lent
        if self._own is None:
            self._own = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._own

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return its response; see `Transport.send`."""
        session = self._session()
        path = target.partition("?")[0]
        failure: tuple[type[TransportError], str]
        limit = self._timeout.total
        try:
            try:
                response = await session.request(
                    method,
                    self._url(target),
                    data=body or None,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    raise_for_status=False,
                    middlewares=(_send_once,),
                )
            except RuntimeError as error:
                # aiohttp's way to say that the session is closed, or of another event loop.
                raise InvalidState(f"the session cannot be used here: {error}") from None
            try:
                content = await self._read(response, method, path)
                return Response(response.status, response.headers, content)
            finally:
                # An answer that was read to its end has given its connection back by itself.
                if body or not response.closed:
                    response.release()
                    await response.wait_for_close()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            failure = ConnectFailed, _describe(error)
        except TimeoutError:
            failure = (
                TransportTimeout,
                f"not within {limit:g} s" if limit else "the connection timed out",
            )
        except (aiohttp.ClientError, OSError) as error:
            failure = TransportError, _describe(error)
        # Raised out here: aiohttp's errors can hold the request's headers, signature included.
        kind, message = failure
        raise kind(message, method=method, path=path)

    def _url(self, target: str) -> URL:
        if "?" in target:
            return URL(str(self._origin) + target, encoded=True)
        # A quarter of the time, for the origin is not taken apart again.
        return self._origin.with_path(target, encoded=True)

    async def _read(self, response: aiohttp.ClientResponse, method: str, path: str) -> bytes:
        content = response.content
        pieces: list[bytes] = []
        size = 0
        if content.is_eof():
            # All of it came along with the head, as with most answers: there is nothing to await.
            pieces.append(content.read_nowait())
            size = len(pieces[0])
        else:
            async for piece in content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > self._max_body:
                    break
        if size > self._max_body:
            # The rest is not read; the connection cannot be used again.
            response.close()
            raise DecodingError(
                f"the body is larger than {self._max_body} bytes", method=method, path=path
            )
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def close(self) -> None:
        """Close the session of its own, if there is one."""
        own, self._own, self._loop = self._own, None, None
        if own is not None:
            await own.close()


class _Interrupted(aiohttp.ClientError):
    """A connection was lost under way."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    # aiohttp itself sends PUT and DELETE a second time when a kept-alive connection turns out
    # to be closed (RFC 9110 §9.2.2 holds them for idempotent). Here PUT creates a machine
    # (WIRE §2), so such an error must reach us as one that aiohttp does not repeat.
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        description = _describe(error)
    raise _Interrupted(description)


def _describe(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer is no valid HTTP ({error.message})"
    if isinstance(error, _Interrupted):
        return str(error)
    return f"{type(error).__name__}: {error}"
