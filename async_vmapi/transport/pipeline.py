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
from async_vmapi.transport.rate_limit import Gate, Pace, Priority
from async_vmapi.transport.responses import http_date, open_envelope, retry_after
from async_vmapi.transport.retries import AttemptLog, Idempotency, Retries
from async_vmapi.transport.transport import Response, Transport

__all__ = ["Call", "Pipeline", "running_loop"]

T = TypeVar("T")

_log: Final = logger_of(__name__)

_DEFAULT_HOLD: Final = 1.0
"""Seconds to hold all requests after a 429 without ``Retry-After``."""


@attrs.define(eq=False)
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
        self.transport = transport
        self._max_body = max_response_size
        self._signer = Signer(credentials, host)
        self._api_secret = credentials.api_secret
        self._pace = pace
        # SystemRandom: forked processes would share another generator's state, and its jitter.
        source = random.SystemRandom() if seed is None else random.Random(seed)  # noqa: S311
        self._retries = Retries(max_retries, random=source)
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
        if self.closed:
            self.ensure_usable()
        loop = running_loop()
        attempts = attempts or AttemptLog()
        made, since, informed = 0, 0.0, False
        while True:
            try:
                return await self._attempt(call, spec, attempts, first=made > 0 or call.first)
            except VMAPIError as error:
                # The hub schedules the next poll itself.
                if call.priority is Priority.POLLS:
                    raise
                failure = error
            now = loop.time()
            since = since if made else now
            held = self.held_until - now
            seconds = self._retries.wait(failure, call.idempotency, made, now - since, held=held)
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

    async def _attempt(
        self, call: Call, spec: ResponseSpec[T], attempts: AttemptLog, *, first: bool
    ) -> T:
        loop = asyncio.get_running_loop()
        gate = self._pace.gate()
        if not gate.try_enter():
            await gate.enter(call.priority, first=first)
        try:
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
            response: Response | BaseException
            try:
                response = self._checked(
                    await self.transport.send(call.method, call.path, headers, call.body), call
                )
            except BaseException as error:  # noqa: BLE001 - raised below
                response = _failure_of(error, call)
        finally:
            gate.leave()
        seconds, status = loop.time() - began, None
        failure: BaseException
        if isinstance(response, Response):
            status = response.status
            # The headers are secret: a server can repeat the signature in them.
            self._last_response = began + seconds, Secret(response.headers)
            if _log.logger.isEnabledFor(logging.DEBUG):
                _log_response(call, response, seconds)
            try:
                value = open_envelope(
                    spec,
                    status,
                    response.body,
                    method=call.method,
                    path=call.path,
                    secrets=call.secrets,
                    credentials=lambda: (self._api_secret, Secret(signed.rpartition(":")[2])),
                )
            except VMAPIError as error:
                _heed(gate, error, response)
                failure = error
            else:
                # Not earlier: if decoding fails, the outcome of a write is unknown.
                attempts.in_flight = False
                if seen is not None:
                    seen.ended(seconds, status=status)
                self._retries.successes += 1
                if gate.is_narrow:
                    gate.grow()
                return value
        else:
            failure = response
            if isinstance(failure, VMAPIError):
                _log_failure(call, failure)
        if isinstance(failure, VMAPIError):
            attempts.in_flight = False
            attempts.unknown_attempts += failure.may_have_happened
        if seen is not None:
            seen.ended(seconds, status=status, error=failure)
        # Raised outside `except`: the frames and errors of decoding and of a transport can hold
        # headers and bodies.
        raise without_frames(failure)

    def _checked(self, response: object, call: Call) -> Response | DecodingError:
        """Return a transport's response, or an error if it is invalid."""
        if not isinstance(response, Response):
            problem = f"the transport returned <{type(response).__name__}>, not a Response"
        elif not isinstance(response.status, int) or not 200 <= response.status <= 999:
            problem = "the response's status is not an integer from 200 to 999"
        elif not isinstance(response.body, bytes):
            problem = f"the response's body is <{type(response.body).__name__}>, not bytes"
        # Not `isinstance(..., Mapping)`, which takes longer than all the other checks.
        elif not hasattr(response.headers, "items"):
            kind = type(response.headers).__name__
            problem = f"the response's headers are <{kind}>, not a mapping"
        elif response.status < 300 and len(response.body) > self._max_body:
            problem = f"the body is larger than {self._max_body} bytes"
        else:
            return response
        return DecodingError(problem, method=call.method, path=call.path)

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
        return self._pace.gate().held_until

    async def close(self) -> None:
        """Close the transport."""
        self._last_response = None
        self.closed = True
        if self.observer is not None:
            self.observer.close()
        await self.transport.close()


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


def _heed(gate: Gate, error: VMAPIError, response: Response) -> None:
    """Hold all requests of the client if the server asks for it (WIRE §1)."""
    if not isinstance(error, RateLimited | ServerError):
        gate.grow()
        return
    asked = _header(response.headers, "retry-after")
    # By the server's clock if known: it may differ from ours.
    now = http_date(_header(response.headers, "date"))
    error.retry_after = retry_after(asked, now or datetime.now(UTC))
    if error.retry_after is not None:
        gate.hold(error.retry_after)
    elif isinstance(error, RateLimited):
        gate.hold(_DEFAULT_HOLD)


def _failure_of(error: BaseException, call: Call) -> BaseException:
    """Return the error to raise for an exception of a transport.

    For an undocumented one, it names only the exception's type and place, since its text may show a
    header.
    """
    if isinstance(error, TransportError | DecodingError):
        error.method, error.path = error.method or call.method, error.path or call.path
    if isinstance(error, TransportError | DecodingError | InvalidState) or not isinstance(
        error, Exception
    ):
        return error
    kind = TransportTimeout if isinstance(error, TimeoutError) else TransportError
    message = f"the transport raised {type(error).__name__}"
    failure = kind(message, method=call.method, path=call.path)
    # Skip the frame of `_attempt`.
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
