"""Decide whether a call that failed is made again (WIRE §5.4, §5.5). Pure, but for the dice."""

import enum
import random
from collections.abc import Callable
from contextvars import ContextVar
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
    "BEFORE_SENDING",
    "CALL_BUDGET",
    "PERHAPS_SENT",
    "AttemptLog",
    "Repeat",
    "Retries",
    "is_explained",
    "may_have_happened",
    "repeatable_trail",
]

CALL_BUDGET: Final = 120.0
"""Seconds in which a call may be retried. What the first attempt took does not count for the first
retry: the process may have been stopped, or the clock may have jumped, while it was in flight."""

_PASSING: Final = frozenset({500, 502, 503, 504})
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 10.0

# A client's stock of repetitions, and what each answer adds to it: while a server fails, at most
# half as many requests again as it answers well.
_STOCK: Final = 500.0
_REFUND: Final = 0.5


class Repeat(enum.Enum):
    """What happens if a call reaches the server twice (WIRE §5.5)."""

    SAFE = "it reads"
    REPEATABLE = "it is idempotent in effect: the target state is named"
    ONCE = "it is not idempotent: a second VM, a second reboot"


@attrs.define
class AttemptLog:
    """What became of a call's attempts, for whoever must know what may have happened.

    Attributes:
        in_air: Whether one is on its way, or was when the call was cancelled.
        sent: How many were sent.
        doubts: How many ended without telling whether they were carried out.
        before_sending: Called at the moment that a request sets out, which may be long after the
            call was made; what it raises keeps the request back.
        trace: What a token of this call refers to it by, for whoever observes the client.
    """

    in_air: bool = False
    sent: int = 0
    doubts: int = 0
    before_sending: Callable[[], None] | None = None
    trace: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the call may have been carried out although no answer says so."""
        return self.in_air or self.doubts > 0


BEFORE_SENDING: Final[ContextVar[Callable[[], None] | None]] = ContextVar(
    "BEFORE_SENDING", default=None
)
"""Who is asked at the moment that a write sets out, which may be long after it was made."""

PERHAPS_SENT: Final[ContextVar[bool]] = ContextVar("PERHAPS_SENT", default=False)
"""Whether a process that is gone may have sent the write already, of one that may be repeated."""


def repeatable_trail() -> AttemptLog:
    """Return what is known of the attempts of a write that may be repeated, before it is made."""
    return AttemptLog(doubts=int(PERHAPS_SENT.get()), before_sending=BEFORE_SENDING.get())


def is_explained(operation: str, error: VMAPIError) -> bool:
    """Return whether an earlier attempt that was carried out explains the refusal of a retry."""
    if operation == "delete" and isinstance(error, APIError):
        # An unknown VM is refused in any of these forms (WIRE §1).
        refused_with_200 = 200 <= error.status < 300
        return isinstance(error, Conflict | NotFound) or refused_with_200
    return isinstance(error, Conflict)


def may_have_happened(error: VMAPIError) -> bool:
    """Return whether a write that failed so may have been carried out all the same.

    A refusal is believed, and 429 is one. What only a proxy may have said (5xx, 408), what
    cannot be read, and what is missing tell nothing.
    """
    if isinstance(error, APIError):
        return error.status >= 500 or error.status == 408
    return isinstance(error, TransportError | DecodingError) and not isinstance(error, ConnectError)


class Retries:
    """The rule for all calls of a client, and their common stock of repetitions.

    Args:
        limit: How often a call is repeated, at most; being told to come later (429) does not
            count, and is limited by time alone.
        dice: What makes the waits differ.
    """

    def __init__(self, limit: int, dice: random.Random) -> None:
        self.limit = limit
        self._dice = dice
        self._stock = _STOCK

    def succeeded(self) -> None:
        """Add to the stock: a request was answered."""
        self._stock = min(_STOCK, self._stock + _REFUND)

    def wait(
        self, error: VMAPIError, repeat: Repeat, made: int, elapsed: float, *, held: float = 0.0
    ) -> float | None:
        """Return how many seconds to wait before the next attempt, or None for "no more".

        Args:
            error: What the last attempt ended with.
            repeat: What kind of call it is.
            made: How many repetitions were made.
            elapsed: Seconds since the first attempt.
            held: Seconds for which `Pace` still lets nothing out.
        """
        if self.limit == 0 or not _is_worth_it(error, repeat):
            return None
        if made >= self.limit and not isinstance(error, RateLimited):
            return None
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(made, 10))
        wait = max(held, longest * self._dice.uniform(0.5, 1.0))
        if (elapsed if made else 0.0) + wait > CALL_BUDGET or self._stock < 1:
            return None
        self._stock -= 1
        return wait


def _is_worth_it(error: VMAPIError, repeat: Repeat) -> bool:
    if isinstance(error, ConnectError | RateLimited):
        # It never left, or was not let in.
        return not (isinstance(error, ConnectError) and error.permanent)
    if repeat is Repeat.ONCE:
        return False
    if isinstance(error, ServerError):
        return error.status in _PASSING
    if isinstance(error, DecodingError):
        # A write that may be repeated is in doubt; reading once more what is JSON is no use.
        return repeat is Repeat.REPEATABLE or error.malformed
    return isinstance(error, TransportError)
