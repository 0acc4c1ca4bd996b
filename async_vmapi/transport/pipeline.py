"""Make a call: pace it, sign it, send it, open the envelope, and retry it where that is safe.

Every call of the package goes through `Pipeline.call`. A `Transport` sends the bytes; what they
mean is the codec's.
"""

import asyncio
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

import attrs

from async_vmapi.errors import (
    ConnectError,
    DecodingError,
    InvalidState,
    RateLimited,
    ServerError,
    TransportError,
    TransportTimeout,
    VMAPIError,
)
from async_vmapi.redaction import Secret, without_frames
from async_vmapi.signing import Credentials, Signer
from async_vmapi.telemetry.hooks import Observer
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.codec import ResponseSpec
from async_vmapi.transport.rate_limit import Pace, Priority
from async_vmapi.transport.responses import http_date, open_envelope, retry_after
from async_vmapi.transport.retries import AttemptLog, Idempotency, Retries
from async_vmapi.transport.transport import Response, Transport

__all__ = ["Call", "Pipeline", "running_loop"]

T = TypeVar("T")

_log: Final = logger_of(__name__)

_DEFAULT_HOLD: Final = 1.0
"""Seconds to hold back for a 429 that does not say how long."""


@attrs.frozen
class Call:
    """One call of the API, ready to be sent.

    Attributes:
        name: What it is called in WIRE §2, for counts and logs.
        method: The HTTP method.
        path: The path, safe to be put on the request line as it is.
        body: The body's bytes; it may hold secrets, so it shows in no ``repr``.
        secrets: What it carries that no error may show, should the server repeat it.
        idempotency: Whether it may be made again when it failed.
        priority: Whose it is, where requests must wait for their turn.
        first: Whether it goes before the others of its priority.
        shared: Whether its response serves all waiters, and so belongs to none of them.
    """

    name: str
    method: str
    path: str
    body: bytes = attrs.field(default=b"", repr=False)
    secrets: tuple[Secret, ...] = ()
    idempotency: Idempotency = Idempotency.SAFE
    priority: Priority = Priority.CALLS
    first: bool = False
    shared: bool = False


class Pipeline:
    """Signs calls, has them sent, and decodes the responses.

    Args:
        transport: What sends the requests; closed with the pipeline.
        origin: Where calls go, as text, for errors and tokens.
        host: The Host header's value, which is signed.
        credentials: The key and the secret to sign with.
        pace: How many requests may be on the wire, and how many set out in a second.
        max_retries: How often a call is retried, at most.
        max_response_size: Bytes that a response's body may have at most.
        seed: Makes the waits before retries repeatable.
        observer: Who is told of requests; None for nobody.

    Attributes:
        origin: As above.
        observer: As above.
        requests: How many requests were sent, by the call's name.
        closed: Whether it is closed; to be reset by whoever opens it again.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        origin: str,
        host: str,
        credentials: Credentials,
        pace: Pace,
        max_retries: int,
        max_response_size: int,
        seed: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._transport = transport
        self._max_body = max_response_size
        self._signer = Signer(credentials, host)
        self._credentials = credentials
        self._pace = pace
        # Not from a generator whose state processes share after a fork: they would wait alike.
        dice = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
        self._retries = Retries(max_retries, dice)
        self.origin = origin
        self.observer = observer
        self.requests: Counter[str] = Counter()
        self._answered: tuple[float, Secret] | None = None
        self.closed = False

    def ensure_usable(self, unstarted: Coroutine[Any, Any, object] | None = None) -> None:
        """Check that the client is open, and that asyncio runs.

        Args:
            unstarted: A coroutine that is not needed if it is not so.

        Raises:
            InvalidState: If it is not so.
        """
        try:
            if self.closed:
                raise InvalidState(
                    "this client is closed: use it inside its `async with` block, or open it "
                    "again with `async with client:`"
                )
            running_loop()
        except InvalidState:
            if unstarted is not None:
                unstarted.close()
            raise

    async def call(self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog | None = None) -> T:
        """Make a call and return what `spec` wants of its response.

        Args:
            call: The call.
            spec: What is wanted.
            attempts: Is kept up to date about what became of the attempts.

        Raises:
            APIError: If the server refused it.
            TransportError: If no whole response came.
            DecodingError: If the response makes no sense.
        """
        return (await self.call_raw(call, spec, attempts))[0]

    async def call_raw(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog | None = None
    ) -> tuple[T, bytes]:
        """Make a call like `call`, and return the response's body besides."""
        self.ensure_usable()
        attempts = attempts or AttemptLog()
        try:
            return await self._attempt(call, spec, attempts, again=False)
        except VMAPIError as error:
            # The hub polls again by itself, and knows better when.
            if call.priority is Priority.POLLS:
                raise
            failure = error
        return await self._retry(call, spec, attempts, failure)

    async def _retry(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog, failure: VMAPIError
    ) -> tuple[T, bytes]:
        """Make a call again that has failed, for as long as that is allowed and of use."""
        loop = asyncio.get_running_loop()
        began, made, informed = loop.time(), 0, False
        while True:
            now = loop.time()
            held = self.held_until - now
            seconds = self._retries.wait(failure, call.idempotency, made, now - began, held=held)
            if seconds is None:
                raise failure
            fields = {"vmapi_call": call.name, "vmapi_retry_delay": seconds}
            if not informed and isinstance(failure, ConnectError):
                informed = True
                fields |= {"vmapi_error": type(failure).__name__}
                _log.info("%s; retrying in %.1f s", failure, seconds, extra=fields)
            else:
                _log.debug("%s is retried in %.1f s", call.name, seconds, extra=fields)
            made += 1
            await asyncio.sleep(seconds)
            try:
                return await self._attempt(call, spec, attempts, again=True)
            except VMAPIError as error:
                failure = error

    async def _attempt(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog, *, again: bool
    ) -> tuple[T, bytes]:
        async with self._pace.admit(call.priority, first=again or call.first):
            loop = asyncio.get_running_loop()
            headers = self._signer.sign(call.method, call.path, call.body, time.time())
            # A transport may do with the headers what it likes.
            signed = headers["Authorization"]
            if attempts.before_sending is not None:
                attempts.before_sending()
            self.requests[call.name] += 1
            began = loop.time()
            # Stays so if the call is cancelled here: then nobody knows.
            attempts.in_flight = True
            seen = None
            if self.observer is not None:
                seen = self.observer.request(
                    call.name, call.method, call.path, resends=attempts.sent, shared=call.shared
                )
            attempts.sent += 1
            try:
                response = await self._send(call, headers)
            except BaseException as error:
                if isinstance(error, VMAPIError):
                    attempts.in_flight = False
                    attempts.unknown_attempts += error.may_have_happened
                    _log_failure(call, error)
                if seen is not None:
                    seen.ended(loop.time() - began, error=error)
                raise
        # Its attempt stays in flight until the response is understood: whatever goes wrong before
        # leaves a write in doubt.
        # The headers as a secret: a server can repeat the signature in them.
        self._answered = loop.time(), Secret(response.headers)
        seconds = loop.time() - began
        if _log.isEnabledFor(logging.DEBUG):
            _log_response(call, response, seconds)
        try:
            opened = self._opened(call, spec, response, signed)
        except VMAPIError as error:
            attempts.in_flight = False
            attempts.unknown_attempts += error.may_have_happened
            self._heed(error)
            if seen is not None:
                seen.ended(seconds, status=response.status, error=error)
            raise
        attempts.in_flight = False
        if seen is not None:
            seen.ended(seconds, status=response.status)
        self._retries.succeeded()
        self._pace.grow()
        return opened, response.body

    async def _send(self, call: Call, headers: Mapping[str, str]) -> Response:
        """Have a request sent; whatever goes wrong comes out as an error of this package."""
        failure: BaseException
        try:
            response = await self._transport.send(call.method, call.path, headers, call.body)
        except (TransportError, DecodingError) as error:
            error.method, error.path = error.method or call.method, error.path or call.path
            failure = error
        except InvalidState as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - it is a transport of the user's
            failure = _unexpected(error, call)
        except BaseException as error:  # noqa: BLE001 - a cancellation, raised below
            failure = error
        else:
            problem = self._problem_of(response)
            if problem is None:
                return response
            failure = DecodingError(problem, method=call.method, path=call.path)
        # Raised out here: a transport's frames and errors can hold the headers and the body.
        raise without_frames(failure)

    def _problem_of(self, response: object) -> str | None:
        """Return why a transport's response cannot be used; None if it can."""
        if not isinstance(response, Response):
            return f"the transport returned <{type(response).__name__}>, not a Response"
        status = response.status
        if not isinstance(status, int) or not 200 <= status <= 999:
            return "the response's status is not an integer from 200 to 999"
        if not isinstance(response.body, bytes):
            return f"the response's body is <{type(response.body).__name__}>, not bytes"
        if not isinstance(response.headers, Mapping):
            return f"the response's headers are <{type(response.headers).__name__}>, not a mapping"
        if 200 <= status < 300 and len(response.body) > self._max_body:
            return f"the body is larger than {self._max_body} bytes"
        return None

    def server_date(self) -> tuple[float, str] | None:
        """Return the loop's time when the last response arrived, and its ``Date`` if it had one."""
        if self._answered is None:
            return None
        at, headers = self._answered
        date = _header(cast("Mapping[str, str]", headers.reveal()), "date")
        return None if date is None else (at, date)

    @property
    def held_until(self) -> float:
        """The loop's time before which the server asked that nothing be sent."""
        return self._pace.held_until

    def _heed(self, error: VMAPIError) -> None:
        """Hold the whole client back where the server asks for it (WIRE §1)."""
        if not isinstance(error, RateLimited | ServerError):
            self._pace.grow()
        elif error.retry_after is not None:
            self._pace.hold(error.retry_after)
        elif isinstance(error, RateLimited):
            self._pace.hold(_DEFAULT_HOLD)

    def _opened(self, call: Call, spec: ResponseSpec[T], response: Response, signed: str) -> T:
        failure: VMAPIError
        try:
            return open_envelope(
                spec,
                response.status,
                response.body,
                method=call.method,
                path=call.path,
                secrets=call.secrets,
                credentials=(self._credentials.api_secret, Secret(signed.rpartition(":")[2])),
            )
        except VMAPIError as error:
            if isinstance(error, RateLimited | ServerError):
                asked = _header(response.headers, "retry-after")
                # By the server's clock, where it shows it: it may differ from ours.
                now = http_date(_header(response.headers, "date"))
                error.retry_after = retry_after(asked, now or datetime.now(UTC))
            failure = error
        # Raised out here: the frames of decoding hold the body.
        raise without_frames(failure)

    async def close(self) -> None:
        """Close the transport."""
        self._answered = None
        self.closed = True
        if self.observer is not None:
            self.observer.close()
        await self._transport.close()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop; raises `InvalidState` if asyncio runs none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidState(
            "this client needs a running asyncio event loop, and none is running here: use "
            "asyncio.run, or anyio.run with its asyncio backend (trio is not supported)"
        ) from None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header, by its name in small letters; a transport's mapping may be a plain dict."""
    try:
        for key, value in headers.items():
            if isinstance(key, str) and isinstance(value, str) and key.lower() == name:
                return value
    except Exception as error:  # noqa: BLE001 - it may be a mapping of the user's own
        kind = type(error).__name__
        _log.debug("the response's headers raised %s", kind, extra={"vmapi_error": kind})
    return None


def _unexpected(error: Exception, call: Call) -> TransportError:
    """Return what to raise for an exception that no transport should raise.

    Its text might show a header, so there is its type alone, and where it was raised.
    """
    kind = TransportTimeout if isinstance(error, TimeoutError) else TransportError
    words = f"the transport raised {type(error).__name__}"
    failure = kind(words, method=call.method, path=call.path)
    # The first entry is `_send`, which everybody knows.
    if frames := traceback.format_tb(error.__traceback__)[1:]:
        failure.add_note("".join(["It was raised here:\n", *frames]).rstrip())
    return failure


def _log_failure(call: Call, error: VMAPIError) -> None:
    kind = type(error).__name__
    about = {
        "vmapi_call": call.name,
        "vmapi_method": call.method,
        "vmapi_path": call.path,
        "vmapi_error": kind,
    }
    _log.debug("%s failed: %s", call.name, kind, extra=about)


def _log_response(call: Call, response: Response, seconds: float) -> None:
    size = len(response.body)
    about = {
        "vmapi_call": call.name,
        "vmapi_method": call.method,
        "vmapi_path": call.path,
        "vmapi_status": response.status,
        "vmapi_response_size": size,
        "vmapi_duration": seconds,
    }
    told = (call.method, call.path, response.status, size, seconds)
    _log.debug("%s %s: status %d, %d bytes, %.3f s", *told, extra=about)
