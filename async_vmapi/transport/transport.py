"""What a `Client` needs of the thing that sends its requests: `Transport` and `Response`.

`async_vmapi.transport.http` has the transport that a client uses unless another is given, and
`async_vmapi.emulator` the one without sockets. `async_vmapi.transport.pipeline` calls it.
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
        headers: The headers. `Client` compares their names without case, so a plain dict will do.
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
        """Send one request **once**, and return the response to it, whatever its status is.

        Never send it again: a second ``PUT`` creates a second VM (WIRE §2). `Client` retries
        where that is safe. Do not follow redirects either: the signature is bound to the host.

        It must return or raise by itself, so give it a timeout: `Client` sets none. A call that
        never ends keeps its caller waiting, a poll that never ends keeps its VM from being polled
        by the same means, and each keeps one of ``max_connections``.

        Any other exception than those below means that the outcome is unknown, too: `Client`
        raises a `TransportError` in its place, which names its type alone, since its text might
        show a signature. Cancellation passes.

        Args:
            method: The HTTP method, in capitals.
            target: The path, with its query if it has one, exactly as it was signed.
            headers: The headers to send, ``Host`` and the signature included (WIRE §1). More
                may be added; these must not be changed.
            body: The body, exactly as it was signed; empty if there is none. It may hold
                passwords and user data.

        Raises:
            ConnectError: The request was not sent, for sure; `Client` may send it again, creates
                included.
            TransportTimeout: The response did not come in time. The outcome is unknown.
            TransportError: It did not come for another reason. The outcome is unknown.
            DecodingError: It came and cannot be used, for instance because it is too large. The
                outcome is unknown.
            InvalidState: The transport cannot be used now, for instance because it was closed;
                the request was not sent. `Client` raises it as it is.
        """
        ...

    async def close(self) -> None:
        """Release what the transport itself opened; called by `Client.close`.

        It may be called more than once, or without any request before. A client that is used
        again after it was closed calls `send` again.
        """
        ...
