"""Make a call: sign it, send it over a wire, open the envelope of what comes back.

Every call of the package goes through `Transport.call`. What carries the bytes is a `Wire`; what
they mean is the codec's.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

import anyio
import attrs

from async_vmapi.codec import Shape
from async_vmapi.envelope import open_envelope, retry_after
from async_vmapi.errors import APIError, RateLimited, ServerError, VMAPIError
from async_vmapi.signing import Credentials, sign
from async_vmapi.wire import Answer, Wire

__all__ = ["Call", "Transport"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


@attrs.frozen
class Call:
    """One call of the API, ready to be sent.

    Attributes:
        name: What it is called in WIRE §2, for counts and logs.
        method: The HTTP method.
        path: The path, safe to be put on the request line as it is.
        body: The body's bytes; it may hold secrets, so it shows in no ``repr``.
        secrets: What no error may show, should the server repeat it.
    """

    name: str
    method: str
    path: str
    body: bytes = attrs.field(default=b"", repr=False)
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)


class Transport:
    """Signs calls and sends them.

    Args:
        wire: What carries the bytes; closed with the transport.
        host: The Host header's value, which is signed.
        credentials: The key and the secret to sign with.

    Attributes:
        origin: Where calls go, as text, for errors and tokens.
        requests: How many requests were sent, by the call's name.
    """

    def __init__(self, wire: Wire, *, origin: str, host: str, credentials: Credentials) -> None:
        self._wire = wire
        self._host = host
        self._credentials = credentials
        self.origin = origin
        self.requests: Counter[str] = Counter()

    async def call(self, call: Call, shape: Shape[T]) -> T:
        """Make a call and return what `shape` wants of its answer.

        Raises:
            APIError: If the server refused it.
            TransportError: If no whole answer came.
            DecodingError: If the answer makes no sense.
        """
        return (await self.call_raw(call, shape))[0]

    async def call_raw(self, call: Call, shape: Shape[T]) -> tuple[T, bytes]:
        """Make a call like `call`, and return the answer's body besides."""
        headers = sign(
            self._credentials, call.method, self._host, call.path, call.body, datetime.now(UTC)
        )
        self.requests[call.name] += 1
        began = anyio.current_time()
        try:
            answer = await self._wire.send(call.method, call.path, headers, call.body)
        except VMAPIError as error:
            _log.debug("%s failed: %s", call.name, type(error).__name__)
            raise
        _log.debug(
            "%s %s: status %d, %d bytes, %.3f s",
            call.method,
            call.path,
            answer.status,
            len(answer.body),
            anyio.current_time() - began,
        )
        return self._opened(call, shape, answer, headers), answer.body

    def _opened(self, call: Call, shape: Shape[T], answer: Answer, headers: Mapping[str, str]) -> T:
        signed = headers["Authorization"]
        hidden = (*call.secrets, self._credentials.api_secret, signed, signed.rpartition(":")[2])
        try:
            return open_envelope(
                shape,
                answer.status,
                answer.body,
                method=call.method,
                path=call.path,
                secrets=hidden,
            )
        except APIError as error:
            if isinstance(error, RateLimited | ServerError):
                error.retry_after = retry_after(
                    answer.headers.get("Retry-After"), datetime.now(UTC)
                )
            raise

    async def close(self) -> None:
        """Close the wire."""
        await self._wire.close()
