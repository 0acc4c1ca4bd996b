"""Which failed calls are retried, and after how long."""

import random

import pytest

from async_vmapi.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    Conflict,
    ConnectError,
    DecodingError,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    TransportError,
    TransportTimeout,
)
from async_vmapi.transport.retries import (
    CALL_BUDGET,
    AttemptLog,
    Idempotency,
    Retries,
)

SAFE, IDEMPOTENT, NON_IDEMPOTENT = Idempotency
ALL, NONE = {SAFE, IDEMPOTENT, NON_IDEMPOTENT}, set()

# What went wrong, for which kinds of calls it is retried, and whether a write may have
# been carried out.
TABLE = {
    "connection refused": (ConnectError("x"), ALL, False),
    "a certificate": (ConnectError("x", permanent=True), NONE, False),
    "too many requests": (RateLimited("x", status=429), ALL, False),
    "connection lost": (TransportError("x"), {SAFE, IDEMPOTENT}, True),
    "timeout": (TransportTimeout("x"), {SAFE, IDEMPOTENT}, True),
    **{
        f"status {status}": (ServerError("x", status=status), {SAFE, IDEMPOTENT}, True)
        for status in (500, 502, 503, 504)
    },
    "status 501": (ServerError("x", status=501), NONE, True),
    "status 507": (ServerError("x", status=507), NONE, True),
    "status 408": (BadRequest("x", status=408), NONE, True),
    "status 400": (BadRequest("x", status=400), NONE, False),
    "status 401": (AuthenticationError("x", status=401), NONE, False),
    "status 404": (NotFound("x", status=404), NONE, False),
    "status 409": (Conflict("x", status=409), NONE, False),
    "success: false": (APIError("x", status=200), NONE, False),
    "a redirect": (APIError("x", status=302), NONE, False),
    "no JSON": (DecodingError("x", malformed=True), {SAFE, IDEMPOTENT}, True),
    "JSON of another form": (DecodingError("x"), {IDEMPOTENT}, True),
    "an unknown outcome": (OutcomeUnknown("x"), NONE, True),
    "a client of another loop": (InvalidState("x"), NONE, False),
}


@pytest.fixture
def retries():
    """The rule, with five retries and its own random numbers."""
    return Retries(5, random.Random(1))


class TestRule:
    @pytest.mark.parametrize("idempotency", Idempotency)
    @pytest.mark.parametrize(("error", "kinds", "_"), TABLE.values(), ids=TABLE)
    def test_retried_errors(self, retries, error, kinds, _, idempotency):
        """Only what is idempotent, or was certainly not sent."""
        assert (retries.wait(error, idempotency, 0, 0.0) is not None) == (idempotency in kinds)

    @pytest.mark.parametrize(("error", "_", "unknown"), TABLE.values(), ids=TABLE)
    def test_errors_that_leave_the_outcome_unknown(self, error, _, unknown):
        """A refusal is final; all else may hide a write that was carried out."""
        assert error.may_have_happened == unknown

    def test_a_write_with_an_unknown_outcome_is_retried_only_if_idempotent(self, retries):
        """The two tables above never contradict each other."""
        for error, kinds, unknown in TABLE.values():
            assert not (unknown and NON_IDEMPOTENT in kinds), error

    @pytest.mark.parametrize("limit", [0, 1, 5])
    def test_max_retries(self, limit):
        """Zero means never, also for what was certainly not sent."""
        retries = Retries(limit, random.Random(1))
        waits = [retries.wait(ConnectError("x"), SAFE, made, 0.0) for made in range(9)]
        assert [wait is not None for wait in waits] == [made < limit for made in range(9)]

    def test_retry_after_does_not_count_as_a_retry(self, retries):
        """Only the call's time limit ends it."""
        error = RateLimited("x", status=429)
        assert retries.wait(error, NON_IDEMPOTENT, 50, 0.0) is not None
        assert retries.wait(error, NON_IDEMPOTENT, 50, CALL_BUDGET) is None

    def test_delays_grow_and_differ(self, retries):
        """Twice as long each time, up to ten seconds, with jitter."""
        waits = [
            [retries.wait(TransportError("x"), SAFE, made, 0.0) for _ in range(20)]
            for made in range(5)
        ]
        for made, some in enumerate(waits):
            assert len(set(some)) == 20
            assert min(10, 0.5 * 2**made) / 2 <= min(some)
            assert max(some) <= min(10, 0.5 * 2**made)

    @pytest.mark.parametrize(("held", "least"), [(-5, 0.25), (0, 0.25), (7.5, 7.5), (120, 120)])
    def test_a_retry_waits_for_a_hold(self, retries, held, least):
        """One that could not be sent before the hold ends is sent then."""
        wait = retries.wait(TransportError("x"), SAFE, 0, 0.0, held=held)
        assert least <= wait <= max(least, 0.5)

    @pytest.mark.parametrize("made", [0, 1])
    def test_a_hold_beyond_the_calls_time_ends_it(self, retries, made):
        """It raises at once, and does not wait in vain."""
        error = RateLimited("x", status=429)
        assert retries.wait(error, SAFE, made, 0.0, held=CALL_BUDGET + 1) is None

    def test_a_call_has_a_time_limit(self, retries):
        """No attempt begins after it, except the first retry: the process may have been stopped."""
        assert retries.wait(TransportError("x"), SAFE, 1, CALL_BUDGET - 1) is not None
        assert retries.wait(TransportError("x"), SAFE, 1, CALL_BUDGET - 0.1) is None
        assert retries.wait(TransportError("x"), SAFE, 0, 3600.0) is not None
        assert retries.wait(TransportError("x"), IDEMPOTENT, 0, 3600.0) is not None
        assert retries.wait(TransportError("x"), NON_IDEMPOTENT, 0, 3600.0) is None

    def test_a_client_has_a_retry_budget(self, retries):
        """Failures spend it; responses refill it, by halves."""
        error = TransportError("x")
        waits = [retries.wait(error, SAFE, 0, 0.0) for _ in range(600)]
        assert sum(wait is not None for wait in waits) == 500
        for _ in range(3):
            retries.successes += 1
        assert retries.wait(error, SAFE, 0, 0.0) is not None
        assert retries.wait(error, SAFE, 0, 0.0) is None


class TestAttemptLog:
    @pytest.mark.parametrize(
        ("attempts", "unknown"),
        [
            (AttemptLog(), False),
            (AttemptLog(in_flight=True), True),
            (AttemptLog(unknown_attempts=2), True),
        ],
    )
    def test_when_the_outcome_is_unknown(self, attempts, unknown):
        """If an attempt is in flight, or failed after it may have been carried out."""
        assert attempts.outcome_unknown == unknown
