"""Carry one signed request to the API over HTTP, and bring the raw answer back.

The only module of the client that knows aiohttp. It neither signs nor decodes nor repeats.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import Final, Protocol

import aiohttp
import attrs
from yarl import URL

from async_vmapi.errors import (
    ConnectFailed,
    DecodingError,
    InvalidState,
    TransportError,
    TransportTimeout,
)

__all__ = ["DEFAULT_MAX_BODY", "Answer", "HTTPWire", "Wire"]

DEFAULT_MAX_BODY: Final = 64 * 1024 * 1024


@attrs.frozen
class Answer:
    """An answer as it came: the body may hold secrets, so it shows in no ``repr``."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


class Wire(Protocol):
    """What the transport needs of the thing that carries its bytes."""

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """Send one request, once, and return its answer.

        Raises:
            ConnectFailed: If the request surely never left.
            TransportError: If it may have arrived, but no whole answer came.
            DecodingError: If the answer is larger than allowed.
        """
        ...

    async def close(self) -> None:
        """Give back what the wire itself opened."""
        ...


class HTTPWire:
    """The wire over HTTP, on an `aiohttp.ClientSession` of its own or one that is lent to it.

    A session of its own is opened by the first request, in the event loop that runs then, and
    belongs to that loop until `close`; afterwards the next loop's first request opens another.

    Args:
        origin: Scheme, host and port.
        session: A session to use in place of an own one. It is never closed from here, and its
            middlewares, cookies aside, do not touch what is signed: they are not run.
        timeout: Seconds for a whole request, connecting included.
        connect_timeout: Seconds to get a connection.
        max_body: Bytes that an answer's body may have at most.
        max_connections: How many connections an own session opens at most.
    """

    def __init__(
        self,
        origin: URL,
        *,
        session: aiohttp.ClientSession | None = None,
        timeout: float,
        connect_timeout: float,
        max_body: int = DEFAULT_MAX_BODY,
        max_connections: int = 100,
    ) -> None:
        self._origin = origin.origin()
        self._lent = session
        self._own: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timeout = aiohttp.ClientTimeout(
            total=timeout if timeout < math.inf else None, connect=connect_timeout
        )
        self._max_body = max_body
        self._max_connections = max_connections

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
    ) -> Answer:
        """Send one request and return its answer; see `Wire.send`."""
        session = self._session()
        path = target.partition("?")[0]
        failure: tuple[type[TransportError], str]
        limit = self._timeout.total
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
            try:
                content = await self._read(response, method, path)
                return Answer(response.status, response.headers, content)
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
        except RuntimeError as error:
            # aiohttp's way to say that the session is closed, or of another event loop.
            raise InvalidState(f"the session cannot be used here: {error}") from None
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
        """Close the own session, if there is one."""
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
