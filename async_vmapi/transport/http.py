"""`HTTPTransport`: send requests over HTTP with aiohttp, the default transport of a `Client`.

It applies the timeouts, and neither signs nor decodes nor retries.
"""

import asyncio
import math
import os
import traceback
from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from async_vmapi import validation
from async_vmapi.errors import (
    ConnectError,
    DecodingError,
    InvalidState,
    TransportError,
    TransportTimeout,
    VMAPIError,
)
from async_vmapi.redaction import without_frames
from async_vmapi.telemetry.guards import Guard
from async_vmapi.transport.endpoint import check_session, origin_of
from async_vmapi.transport.responses import MAX_REFUSAL
from async_vmapi.transport.transport import Response

__all__ = ["MAX_BODY", "HTTPTransport"]

MAX_BODY: Final = 64 * 1024 * 1024

_FRAMES_NAMED: Final = 3


class HTTPTransport:
    """Sends requests over HTTP: the default `Transport` of a `Client`.

    Create one to wrap it in another transport. It never resends a request, as aiohttp does by
    default for ``GET``, ``PUT`` and ``DELETE``.

    The first request opens an aiohttp session, which belongs to the running event loop until
    `close`. The next request after that opens a new one.

    Args:
        base_url: Scheme and host, and optionally a port, as for `Client`.
        session: An `aiohttp.ClientSession` to use instead of a new one. It is not closed. Its
            middlewares are not run: they could change what is signed, or resend a request.
        timeout: Timeout of a whole request in seconds, connecting included; infinity for none.
        connect_timeout: Timeout for getting a connection, in seconds.
        max_response_size: Maximum size of a response's body in bytes, decompressed. Of a
            refusal's body, only 64 kB are read.
        max_connections: Maximum number of connections, unless a session is given.

    Raises:
        InvalidArgument: If an argument is invalid.
    """

    def __init__(
        self,
        base_url: str,
        *,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_response_size: int = MAX_BODY,
        max_connections: int = 100,
    ) -> None:
        self._origin = origin_of(base_url)
        check_session(session)
        self._lent = session
        self._own: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = None if session is None else os.getpid()
        self._guard = Guard()
        timeout = validation.seconds("timeout", timeout)
        self._timeout = aiohttp.ClientTimeout(
            total=timeout if timeout < math.inf else None,
            connect=min(timeout, validation.seconds("connect_timeout", connect_timeout)),
        )
        self._max_body = validation.whole("max_response_size", max_response_size, minimum=1)
        self._max_connections = validation.whole("max_connections", max_connections, minimum=1)

    def __repr__(self) -> str:
        return f"<HTTPTransport to {str(self._origin).rstrip('/')}>"

    def _session(self) -> aiohttp.ClientSession:
        loop, process = asyncio.get_running_loop(), os.getpid()
        if self._process is None:
            self._process = process
        elif self._process != process:
            raise InvalidState(
                "this client was used before the process forked, and its connections belong to "
                "the parent; create a client in each process"
            )
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise InvalidState(
                "this client was used in another event loop and not closed there; "
                "close it in that loop before you use it in another"
            )
        if self._lent is not None:
            if self._lent.closed:
                raise InvalidState("the aiohttp session passed to this client is closed")
            return self._lent
        if self._own is None:
            self._own = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            # Or it resends reads, too. It is private to aiohttp, and its own test client sets it.
            self._own._retry_connection = False  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return self._own

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        """Send one request and return its response; see `Transport.send`."""
        session = self._session()
        # A read on the own session, which has no hooks and no `.netrc`, needs no middleware.
        attempt = None
        if method != "GET" or self._lent is not None:
            attempt = _Attempt(headers, self._max_body)
        failure: BaseException
        try:
            received = await session.request(
                method,
                self._url(target),
                data=body or None,
                headers=headers if attempt is None else attempt.headers,
                timeout=self._timeout,
                allow_redirects=False,
                raise_for_status=False,
                middlewares=() if attempt is None else (attempt,),
            )
            try:
                # A mocked session (aioresponses) may run no middleware.
                if attempt is None or (response := attempt.response) is None:
                    body_read = await _read(received, self._max_body)
                    response = Response(received.status, received.headers, body_read)
                return response
            finally:
                # A response that was read completely has released its connection already.
                if body or not received.closed:
                    received.release()
                    await received.wait_for_close()
        except (asyncio.CancelledError, DecodingError, InvalidState) as error:
            failure = error
        except Exception as error:
            if attempt is not None and attempt.response is not None:
                # Raised by a hook after the response was read: log it and ignore it.
                self._note_hook(error)
                return attempt.response
            known = self._known(error, attempt)
            if known is None:
                # Raised by a hook of the caller's session; the pipeline handles it.
                raise
            failure = known
        if isinstance(failure, TransportError | DecodingError):
            failure.method, failure.path = method, target.partition("?")[0]
        # Raised outside `except`: aiohttp's errors and frames hold the signature.
        raise without_frames(failure)

    def _known(self, error: Exception, attempt: "_Attempt | None") -> BaseException | None:
        """Return the error or the cancellation to raise; None for a foreign error."""
        cause = error if attempt is None else attempt.take_cause(error)
        if cause is not error and error.__cause__ is not cause:
            # aiohttp sets the cause when it wraps an error, so a hook raised this one.
            self._note_hook(error)
        if isinstance(cause, VMAPIError) or not isinstance(cause, Exception):
            return cause
        reached = attempt is not None and attempt.reached
        return _error_for(cause, self._timeout.total, reached=reached)

    def _note_hook(self, error: Exception) -> None:
        # Its text can hold the headers, which trace hooks receive.
        where = "".join(traceback.format_tb(error.__traceback__)[-_FRAMES_NAMED:]).rstrip()
        self._guard.note("a hook of the aiohttp session", error, where=where)

    def _url(self, target: str) -> URL:
        if "?" in target:
            return URL(str(self._origin) + target, encoded=True)
        # Four times as fast, since the origin is not parsed again.
        return self._origin.with_path(target, encoded=True)

    async def close(self) -> None:
        """Close the session, unless the caller passed it."""
        if self._process not in (None, os.getpid()):
            # The connections belong to the parent process: closing them here would break them.
            return
        own, self._own, self._loop = self._own, None, None
        if self._lent is None:
            self._process = None
        if own is not None:
            await own.close()


async def _read(response: aiohttp.ClientResponse, max_response_size: int) -> bytes:
    content = response.content
    refused = not 200 <= response.status < 300
    limit = MAX_REFUSAL if refused else max_response_size
    pieces: list[bytes] = []
    size = 0
    if content.is_eof():
        # The common case: the body arrived together with the headers.
        pieces.append(content.read_nowait())
        size = len(pieces[0])
    else:
        async for piece in content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                break
    if size > limit:
        # The rest is not read, so the connection cannot be reused.
        response.close()
        if not refused:
            raise DecodingError(f"the body is larger than {limit} bytes")
    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return whole[: limit + 1] if refused else whole


class _Interrupted(aiohttp.ClientError):
    """The connection was lost during the request; aiohttp does not retry this type."""


class _Attempt:
    """A middleware that sends one request exactly once, with our ``Authorization``.

    aiohttp rejects a request that has this header if the session has ``trust_env`` and the host is
    in ``.netrc``, so it is set here, and replaces the one from there.

    Attributes:
        reached: Whether the request was passed on to be sent; before that, nothing was sent.
        response: The response, once it was read completely.
    """

    __slots__ = ("_cancellations", "_failure", "_headers", "_max_body", "reached", "response")

    def __init__(self, headers: Mapping[str, str], max_response_size: int) -> None:
        self._headers = headers
        self._max_body = max_response_size
        self.reached = False
        self.response: Response | None = None
        self._failure: BaseException | None = None
        self._cancellations = 0

    @property
    def headers(self) -> dict[str, str]:
        """All headers but ``Authorization``."""
        return {name: value for name, value in self._headers.items() if name != "Authorization"}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if (authorization := self._headers.get("Authorization")) is not None:
            request.headers["Authorization"] = authorization
        self.reached, self._cancellations = True, _cancellations()
        # aiohttp resends PUT and DELETE if a kept-alive connection turns out to be closed (RFC 9110
        # §9.2.2 defines them as idempotent). Here PUT creates a VM (WIRE §2), so such an error is
        # raised as a type that aiohttp does not retry.
        try:
            received = await handler(request)
            try:
                # Before hooks and cookie jars of the session can raise.
                body = await _read(received, self._max_body)
            except BaseException:
                received.close()
                raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._failure = error
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            description = _describe(error)
        except BaseException as error:
            self._failure = error
            raise
        else:
            self.response = Response(received.status, received.headers, body)
            return received
        self._failure = _Interrupted(description)
        raise self._failure

    def take_cause(self, error: Exception) -> BaseException:
        """Return the error of the request itself, if a hook of the session raised `error` later.

        Otherwise a hook that cannot connect to a collector would make a create look unsent.
        """
        # Do not keep it: its frames hold the headers.
        failure, self._failure = self._failure, None
        if failure is None or isinstance(failure, Exception):
            return failure or error
        # Cancelled by its caller or by aiohttp's timer.
        return failure if _cancellations() > self._cancellations else TimeoutError()


def _cancellations() -> int:
    """Return the number of pending cancellations of the running task."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


_LASTING_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"}
)
"""Permanent causes of a failed TLS handshake: no TLS on that port, or no common version."""


_PROXY_TRANSIENT: Final = frozenset({408, 425, 429})


def _error_for(error: Exception, limit: float | None, *, reached: bool) -> VMAPIError | None:
    """Return the error of this package for one of aiohttp; None for a foreign error.

    It contains no text of the server or a proxy, which can repeat the request. It is
    `ConnectError.permanent` if no retry can help. An unknown host name, a refused connection or a
    firewall is not permanent: these pass while a network or server comes up.
    """
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        failed = error.certificate_error
        reason = getattr(failed, "verify_message", None) or str(failed)
        return ConnectError(
            f"the certificate of {error.host}:{error.port} is not valid: {reason}",
            permanent=True,
        )
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        message = f"the certificate of {error.host}:{error.port} has an unexpected fingerprint"
        return ConnectError(message, permanent=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = getattr(error.os_error, "reason", None)
        return ConnectError(_describe(error), permanent=reason in _LASTING_TLS)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectError(_describe(error))
    if isinstance(error, aiohttp.ClientHttpProxyError):
        status = error.status
        permanent = 400 <= status < 500 and status not in _PROXY_TRANSIENT
        return ConnectError(f"the proxy refused with status {status}", permanent=permanent)
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        # Its text may hold a proxy's password.
        return ConnectError("the host's or the proxy's address is not valid", permanent=True)
    if isinstance(error, TimeoutError):
        return TransportTimeout(f"not within {limit:g} s" if limit else "the connection timed out")
    if isinstance(error, aiohttp.ClientError | OSError | HttpProcessingError):
        return TransportError(_describe(error))
    if not reached:
        return _unusable(error)
    return None


def _unusable(error: Exception) -> InvalidState:
    """Return the error for an exception of the session before the request was passed on."""
    message = f"nothing was sent: the session cannot be used here ({type(error).__name__}"
    if isinstance(error, RuntimeError):
        # The session is closed, or belongs to another event loop.
        message += f": {error}"
    elif isinstance(error, ValueError):
        # Its text may hold a proxy's password.
        message += ": its default headers and .netrc conflict, or a proxy's address is invalid"
    return InvalidState(f"{message})")


def _describe(error: Exception) -> str:
    if isinstance(error, _Interrupted | aiohttp.ClientConnectorError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return "the response is not valid HTTP"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"{name}: the body ended early, or is not encoded as its headers say"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return f"{name}: {_WORDS.get(type(error), 'the connection failed')}"


_WORDS: Final[dict[type[Exception], str]] = {
    aiohttp.ServerDisconnectedError: "the server closed the connection",
    aiohttp.ConnectionTimeoutError: "no connection in time",
}
