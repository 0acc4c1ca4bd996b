"""Decide whether a failed call is retried (WIRE §5.4, §5.5). No I/O; the jitter is random."""

import enum
from collections.abc import Callable
from random import Random
from typing import Final

import attrs

from async_vmapi.errors import (
    APIError,
    Conflict,
    ConnectError,
    DecodingError,
    NotFound,
    RateLimited,
    ServerError,
    TransportError,
    VMAPIError,
)

__all__ = [
    "CALL_BUDGET",
    "AttemptLog",
    "Idempotency",
    "Retries",
    "is_explained",
]

CALL_BUDGET: Final = 120.0
"""Seconds in which a call may be retried. The first retry ignores how long the first attempt took:
the process may have been stopped, or the clock may have jumped, while it was in flight."""

_TRANSIENT: Final = frozenset({500, 502, 503, 504})
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 10.0

# A client's retry budget, and what each success refunds: while a server fails, there are at most
# half as many retries as successful requests.
_BUDGET: Final = 500.0
_REFUND: Final = 0.5


class Idempotency(enum.Enum):
    """The effect of a call that reaches the server twice (WIRE §5.5)."""

    SAFE = "a read"
    IDEMPOTENT = "a write that names its target state"
    NON_IDEMPOTENT = "a second VM, or a second reboot"


@attrs.define
class AttemptLog:
    """The attempts of a call and their results.

    Attributes:
        in_flight: Whether an attempt is in flight, or was when the call was cancelled.
        sent: Number of attempts sent.
        unknown_attempts: Number of failed attempts that may have been carried out.
        before_sending: Called immediately before each request is sent, which may be long after
            the call was made. If it raises, the request is not sent.
        trace: The trace context to put into this call's tokens.
    """

    in_flight: bool = False
    sent: int = 0
    unknown_attempts: int = 0
    before_sending: Callable[[], None] | None = None
    trace: str | None = None

    @property
    def outcome_unknown(self) -> bool:
        """Whether the call may have been carried out although no response confirms it."""
        return self.in_flight or self.unknown_attempts > 0


def is_explained(operation: str, error: VMAPIError) -> bool:
    """Return whether a retry may have been refused because an earlier attempt was carried out."""
    if operation == "delete" and isinstance(error, APIError):
        # An unknown VM is refused in any of these forms (WIRE §1).
        refused_with_200 = 200 <= error.status < 300
        return isinstance(error, Conflict | NotFound) or refused_with_200
    return isinstance(error, Conflict)


class Retries:
    """The retry policy of a client, with a retry budget that all its calls share.

    Args:
        limit: Maximum number of retries per call. Retries after a 429 do not count; only
            `CALL_BUDGET` limits them.
        random: The source of jitter.
    """

    def __init__(self, limit: int, random: Random) -> None:
        self.limit = limit
        self._random = random
        self._budget = _BUDGET
        self.successes = 0

    def wait(
        self,
        error: VMAPIError,
        idempotency: Idempotency,
        made: int,
        elapsed: float,
        *,
        held: float = 0.0,
    ) -> float | None:
        """Return the seconds to wait before the next attempt; None for no retry.

        Args:
            error: The last attempt's error.
            idempotency: The kind of call.
            made: Number of retries made so far.
            elapsed: Seconds since the first attempt.
            held: Seconds for which nothing is sent.
        """
        if self.limit == 0 or not _is_worth_it(error, idempotency):
            return None
        if made >= self.limit and not isinstance(error, RateLimited):
            return None
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(made, 10))
        wait = max(held, longest * self._random.uniform(0.5, 1.0))
        self._budget = min(_BUDGET, self._budget + _REFUND * self.successes)
        self.successes = 0
        if (elapsed if made else 0.0) + wait > CALL_BUDGET or self._budget < 1:
            return None
        self._budget -= 1
        return wait


def _is_worth_it(error: VMAPIError, idempotency: Idempotency) -> bool:
    if isinstance(error, ConnectError | RateLimited):
        # The server did not process the request.
        return not (isinstance(error, ConnectError) and error.permanent)
    if idempotency is Idempotency.NON_IDEMPOTENT:
        return False
    if isinstance(error, ServerError):
        return error.status in _TRANSIENT
    if isinstance(error, DecodingError):
        # A write's outcome is unknown; a read that returned valid JSON will return it again.
        return idempotency is Idempotency.IDEMPOTENT or error.malformed
    return isinstance(error, TransportError)
