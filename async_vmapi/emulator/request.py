"""A request to the emulator, as it was received."""

from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["MOST_BODY", "Request"]

MOST_BODY: Final = 1024 * 1024
"""Maximum size of a request's body, in bytes."""


@attrs.frozen
class Request:
    """A received request.

    Attributes:
        method: The HTTP method.
        target: The path and query, as in the request line.
        headers: The headers; names are case-insensitive.
        body: The body.
    """

    method: str
    target: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
