"""The interface of a `Client`'s transport: `Transport` and `Response`.

`async_vmapi.transport.http` has the default transport, and `async_vmapi.emulator` the in-memory
one. `async_vmapi.transport.pipeline` calls it.
"""

from collections.abc import Mapping
from typing import Protocol

import attrs

__all__ = ["Response", "Transport"]


@attrs.frozen
class Response:
    """A response as a transport received it.

    The headers and the body may hold secrets, so they are not in the ``repr``.

    Attributes:
        status: The HTTP status of the final response, 200 to 999.
        headers: The headers. `Client` ignores the case of their names, so a plain dict is enough.
        body: The whole body, decompressed; empty if there is none.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)


class Transport(Protocol):
    """Sends requests for a `Client`: what ``Client(transport=)`` takes.

    Any object with these two methods is one; it need not inherit from this class. Several
    requests can be in flight at the same time.
    """

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, /
    ) -> Response:
        """Send one request **once**, and return its response, whatever the status is.

        Never resend it: a second ``PUT`` creates a second VM (WIRE §2). `Client` retries where
        that is safe. Do not follow redirects: the signature is bound to the host.

        Give it a timeout: `Client` sets none. A call that never returns blocks its caller, a poll
        that never returns blocks further polls of its VM, and each occupies one of
        ``max_connections``.

        After any exception other than those below, the outcome is unknown, too: `Client` raises a
        `TransportError` instead, which names only the exception's type, since its text may show a
        signature. Cancellation passes through.

        Args:
            method: The HTTP method, in capitals.
            target: The path, with its query if it has one, exactly as it was signed.
            headers: The headers to send, including ``Host`` and the signature (WIRE §1). You may
                add others; do not change these.
            body: The body, exactly as it was signed; empty if there is none. It may hold
                passwords and user data.

        Raises:
            ConnectError: The request was certainly not sent; `Client` may retry it, even a create.
            TransportTimeout: No response arrived in time. The outcome is unknown.
            TransportError: No response arrived for another reason. The outcome is unknown.
            DecodingError: The response cannot be used, for example because it is too large. The
                outcome is unknown.
            InvalidState: The transport cannot be used now, for example because it was closed;
                the request was not sent. `Client` lets it pass.
        """
        ...

    async def close(self) -> None:
        """Release what the transport itself opened; called by `Client.close`.

        It may be called more than once, or before any request. A client that is reopened after
        `close` calls `send` again.
        """
        ...
