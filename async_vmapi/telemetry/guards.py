"""Call foreign code safely: callbacks, observers and hooks.

An exception that it raises is logged, once per type of exception and place, and suppressed: it
changes no outcome, and reaches neither the poller nor a caller.
"""

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import Context
from typing import Final, Literal, TypeVar

from async_vmapi.telemetry.hooks import (
    Ending,
    Observer,
    OperationObserver,
    RequestObserver,
    Telemetry,
)
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Guard", "GuardedObserver"]

T = TypeVar("T")

_log: Final = logger_of(__name__)

_LONGEST_TRACE: Final = 256
"""Maximum length of an observer's text in a token."""


class Guard:
    """Calls foreign code, and suppresses and logs its exceptions."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, type[BaseException]]] = set()

    def call(self, place: str, function: Callable[[], T]) -> T | None:
        """Return a function's result; None if it raises.

        Args:
            place: The name of the foreign code, for the log.
            function: Looks it up and calls it: attribute access can raise, too.
        """
        try:
            return function()
        # A plain function cannot be cancelled, so its CancelledError is an error like others.
        except (Exception, CancelledError) as error:  # noqa: BLE001 - foreign code
            self.note(place, error)
            return None

    def note(self, place: str, error: BaseException, *, where: str | None = None) -> None:
        """Log an exception of foreign code, unless one of this type was logged for that place.

        Args:
            place: The name of the foreign code.
            error: The exception.
            where: A traceback to log instead of the exception, whose text may hold a secret.
        """
        kind = type(error)
        if (place, kind) in self._logged:
            return
        self._logged.add((place, kind))
        extra = {"vmapi_callback": place, "vmapi_error": kind.__name__}
        message = "%s raised %s, which has no effect; this is logged once"
        if where is None:
            _log.error(message, place, kind.__name__, exc_info=error, extra=extra)
        else:
            _log.error(f"{message}\n%s", place, kind.__name__, where, extra=extra)


class GuardedObserver:
    """An observer that never raises, around one that may.

    Args:
        telemetry: The ``telemetry`` of the `Client`.
        origin: The client's endpoint.
        guard: Logs its exceptions.
    """

    def __init__(self, telemetry: Telemetry, origin: str, guard: Guard) -> None:
        self._guard = guard
        self._inner: Observer | None = guard.call(
            "telemetry.observe", lambda: telemetry.observe(origin)
        )

    def request(
        self, name: str, method: str, path: str, *, resends: int, shared: bool
    ) -> RequestObserver:
        """Note that a request is sent; see `Observer.request`."""
        inner, found = self._inner, None
        if inner is not None:
            found = self._guard.call(
                "telemetry.request",
                lambda: inner.request(name, method, path, resends=resends, shared=shared),
            )
        return _GuardedRequest(found, self._guard)

    def operation(
        self,
        name: str,
        vm_id: str | None,
        *,
        elapsed: float | None = None,
        trace: str | None = None,
    ) -> OperationObserver:
        """Note that an operation starts or is resumed; see `Observer.operation`."""
        inner, found = self._inner, None
        if inner is not None:
            found = self._guard.call(
                "telemetry.operation",
                lambda: inner.operation(name, vm_id, elapsed=elapsed, trace=trace),
            )
        return _GuardedOperation(found, self._guard)

    def polled(self, how: Literal["get", "list"]) -> None:
        """Note a response to a poll; see `Observer.polled`."""
        if (inner := self._inner) is not None:
            self._guard.call("telemetry.polled", lambda: inner.polled(how))

    def close(self) -> None:
        """Note that the client is closed."""
        if (inner := self._inner) is not None:
            self._guard.call("telemetry.close", lambda: inner.close())


class _GuardedRequest:
    """A guarded `RequestObserver`; its inner one is None if creating it raised."""

    __slots__ = ("_guard", "_inner")

    def __init__(self, inner: RequestObserver | None, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard

    def ended(
        self, seconds: float, *, status: int | None = None, error: BaseException | None = None
    ) -> None:
        if (inner := self._inner) is not None:
            self._guard.call(
                "telemetry.request.ended",
                lambda: inner.ended(seconds, status=status, error=error),
            )


class _GuardedOperation:
    """A guarded `OperationObserver`; its inner one is None if creating it raised."""

    __slots__ = ("__weakref__", "_guard", "_inner")

    def __init__(self, inner: OperationObserver | None, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard

    @property
    def context(self) -> Context | None:
        if (inner := self._inner) is None:
            return None
        found: object = self._guard.call("telemetry.operation.context", lambda: inner.context)
        return found if isinstance(found, Context) else None

    @property
    def trace(self) -> str | None:
        if (inner := self._inner) is None:
            return None
        found: object = self._guard.call("telemetry.operation.trace", lambda: inner.trace)
        # Tokens contain it.
        fits = isinstance(found, str) and found.isascii() and len(found) <= _LONGEST_TRACE
        return str(found) if fits else None

    def accepted(self, vm_id: str, *, adopted: bool) -> None:
        self._call("accepted", lambda inner: inner.accepted(vm_id, adopted=adopted))

    def awaited(self) -> None:
        self._call("awaited", lambda inner: inner.awaited())

    def seen(self, elapsed: float, state: str | None, evidence: str | None, *, end: bool) -> None:
        self._call("seen", lambda inner: inner.seen(elapsed, state, evidence, end=end))

    def ended(self, how: Ending, error: BaseException | None = None) -> None:
        self._call("ended", lambda inner: inner.ended(how, error))

    def _call(self, method: str, call: Callable[[OperationObserver], None]) -> None:
        if (inner := self._inner) is not None:
            self._guard.call(f"telemetry.operation.{method}", lambda: call(inner))
