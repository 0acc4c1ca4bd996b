"""Make calls: limit the rate, sign, send, open the envelope, and retry where that is safe.

Every call of the package goes through `Pipeline.call`.
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
"""Seconds to hold all requests after a 429 without ``Retry-After``."""


@attrs.frozen
class Call:
    """One call of the API, ready to be sent.

    Attributes:
        name: Its name in WIRE §2, for counts and logs.
        method: The HTTP method.
        path: The path, already quoted.
        body: The body; it may hold secrets, so it is not in the ``repr``.
        secrets: Secrets in the request that no error may show, even if the server repeats them.
        idempotency: Decides which errors are retried.
        priority: The queue it waits in.
        first: Whether it goes to the front of that queue.
        shared: Whether its response serves several waiters, so that it is in no one's trace.
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
    """Signs calls, sends them, and decodes the responses.

    Args:
        transport: Sends the requests; closed with the pipeline.
        origin: The endpoint as text, for errors and tokens.
        host: The Host header's value, which is signed.
        credentials: The key and the secret to sign with.
        pace: Limits the requests in flight and per second.
        max_retries: Maximum number of retries per call.
        max_response_size: Maximum size of a response's body in bytes.
        seed: Makes the jitter of retries reproducible.
        observer: Observes the requests; None for no telemetry.

    Attributes:
        origin: As above.
        observer: As above.
        requests: Number of requests sent, by the call's name.
        closed: Whether it is closed; set to False to open it again.
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
        # SystemRandom: forked processes would share another generator's state, and its jitter.
        dice = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
        self._retries = Retries(max_retries, dice)
        self.origin = origin
        self.observer = observer
        self.requests: Counter[str] = Counter()
        self._last_response: tuple[float, Secret] | None = None
        self.closed = False

    def ensure_usable(self, unstarted: Coroutine[Any, Any, object] | None = None) -> None:
        """Check that the client is open and an asyncio event loop is running.

        Args:
            unstarted: A coroutine to close if the check fails.

        Raises:
            InvalidState: If the check fails.
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

    async def call(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog | None = None
    ) -> T:
        """Make a call and return the value that `spec` extracts from its response.

        Args:
            call: The call.
            spec: The value to extract.
            attempts: Records the attempts.

        Raises:
            APIError: If the server refused it.
            TransportError: If no complete response was received.
            DecodingError: If the response cannot be decoded.
        """
        return (await self.call_raw(call, spec, attempts))[0]

    async def call_raw(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog | None = None
    ) -> tuple[T, bytes]:
        """Make a call like `call`, and return the response's body too."""
        self.ensure_usable()
        attempts = attempts or AttemptLog()
        try:
            return await self._attempt(call, spec, attempts, again=False)
        except VMAPIError as error:
            # The hub schedules the next poll itself.
            if call.priority is Priority.POLLS:
                raise
            failure = error
        return await self._retry(call, spec, attempts, failure)

    async def _retry(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog, failure: VMAPIError
    ) -> tuple[T, bytes]:
        """Retry a failed call until it succeeds or the policy allows no retry."""
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
            # A transport may change the headers.
            signed = headers["Authorization"]
            if attempts.before_sending is not None:
                attempts.before_sending()
            self.requests[call.name] += 1
            began = loop.time()
            # Stays set if the call is cancelled here: its outcome is unknown then.
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
        # The attempt stays in flight until its response is decoded: if anything fails before that,
        # the outcome of a write is unknown.
        # The headers are secret: a server can repeat the signature in them.
        self._last_response = loop.time(), Secret(response.headers)
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
        """Send a request; any failure is raised as an error of this package."""
        failure: BaseException
        try:
            response = await self._transport.send(call.method, call.path, headers, call.body)
        except (TransportError, DecodingError) as error:
            error.method, error.path = error.method or call.method, error.path or call.path
            failure = error
        except InvalidState as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the transport may be the user's
            failure = _unexpected(error, call)
        except BaseException as error:  # noqa: BLE001 - a cancellation, raised below
            failure = error
        else:
            problem = self._problem_of(response)
            if problem is None:
                return response
            failure = DecodingError(problem, method=call.method, path=call.path)
        # Raised outside `except`: a transport's frames and errors can hold headers and body.
        raise without_frames(failure)

    def _problem_of(self, response: object) -> str | None:
        """Return why a transport's response is invalid; None if it is valid."""
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
        """Return the loop's time of the last response, and its ``Date``; None without one."""
        if self._last_response is None:
            return None
        at, headers = self._last_response
        date = _header(cast("Mapping[str, str]", headers.reveal()), "date")
        return None if date is None else (at, date)

    @property
    def held_until(self) -> float:
        """The loop's time until which the server asked to send nothing."""
        return self._pace.held_until

    def _heed(self, error: VMAPIError) -> None:
        """Hold all requests of the client if the server asks for it (WIRE §1)."""
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
                # By the server's clock if known: it may differ from ours.
                now = http_date(_header(response.headers, "date"))
                error.retry_after = retry_after(asked, now or datetime.now(UTC))
            failure = error
        # Raised outside `except`: the frames of decoding hold the body.
        raise without_frames(failure)

    async def close(self) -> None:
        """Close the transport."""
        self._last_response = None
        self.closed = True
        if self.observer is not None:
            self.observer.close()
        await self._transport.close()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop; raise `InvalidState` if there is none of asyncio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise InvalidState(
            "this client needs a running asyncio event loop, and none is running here: use "
            "asyncio.run, or anyio.run with its asyncio backend (trio is not supported)"
        ) from None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header by its lower-case name; a transport's mapping may be a plain dict."""
    try:
        for key, value in headers.items():
            if isinstance(key, str) and isinstance(value, str) and key.lower() == name:
                return value
    except Exception as error:  # noqa: BLE001 - the mapping may be the user's
        kind = type(error).__name__
        _log.debug("the response's headers raised %s", kind, extra={"vmapi_error": kind})
    return None


def _unexpected(error: Exception, call: Call) -> TransportError:
    """Return the error to raise for an undocumented exception of a transport.

    It names only the exception's type and place, since its text may show a header.
    """
    kind = TransportTimeout if isinstance(error, TimeoutError) else TransportError
    message = f"the transport raised {type(error).__name__}"
    failure = kind(message, method=call.method, path=call.path)
    # Skip the frame of `_send`.
    if frames := traceback.format_tb(error.__traceback__)[1:]:
        failure.add_note("".join(["It was raised here:\n", *frames]).rstrip())
    return failure


def _log_failure(call: Call, error: VMAPIError) -> None:
    kind = type(error).__name__
    _log.debug("%s failed: %s", call.name, kind, extra=_log_fields(call) | {"vmapi_error": kind})


def _log_response(call: Call, response: Response, seconds: float) -> None:
    size = len(response.body)
    extra = _log_fields(call) | {
        "vmapi_status": response.status,
        "vmapi_response_size": size,
        "vmapi_duration": seconds,
    }
    shown = (call.method, call.path, response.status, size, seconds)
    _log.debug("%s %s: status %d, %d bytes, %.3f s", *shown, extra=extra)


def _log_fields(call: Call) -> dict[str, object]:
    return {"vmapi_call": call.name, "vmapi_method": call.method, "vmapi_path": call.path}
