"""Call foreign code safely: callbacks, observers and hooks.

An exception that it raises is logged, once per type of exception and place, and suppressed: it
changes no outcome, and reaches neither the poller nor a caller.
"""

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Literal, TypeVar

from async_vmapi.telemetry.hooks import (
    Ending,
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


class _Guarded:
    """Calls the methods of an observer; `_inner` is None if creating that raised."""

    __slots__ = ("__weakref__", "_guard", "_inner")

    def __init__(self, inner: object, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard

    def _call(self, place: str, *arguments: Any, **keywords: Any) -> Any:
        """Call the method that a place names last."""
        if (inner := self._inner) is None:
            return None
        name = place.rpartition(".")[2]
        return self._guard.call(place, lambda: getattr(inner, name)(*arguments, **keywords))

    def _value(self, place: str) -> object:
        """Return the attribute that a place names last; None if it raises."""
        if (inner := self._inner) is None:
            return None
        return self._guard.call(place, lambda: getattr(inner, place.rpartition(".")[2]))


# The protocols in `hooks` have the signatures.


class GuardedObserver(_Guarded):
    """An observer that never raises, around one that may.

    Args:
        telemetry: The ``telemetry`` of the `Client`.
        origin: The client's endpoint.
        guard: Logs its exceptions.
    """

    __slots__ = ()

    def __init__(self, telemetry: Telemetry, origin: str, guard: Guard) -> None:
        super().__init__(guard.call("telemetry.observe", lambda: telemetry.observe(origin)), guard)

    def request(self, *call: Any, **known: Any) -> RequestObserver:
        """Note that a request is sent; see `Observer.request`."""
        return _GuardedRequest(self._call("telemetry.request", *call, **known), self._guard)

    def operation(self, *operation: Any, **known: Any) -> OperationObserver:
        """Note that an operation starts or is resumed; see `Observer.operation`."""
        inner = self._call("telemetry.operation", *operation, **known)
        return _GuardedOperation(inner, self._guard)

    def polled(self, how: Literal["get", "list"]) -> None:
        """Note a response to a poll; see `Observer.polled`."""
        self._call("telemetry.polled", how)

    def close(self) -> None:
        """Note that the client is closed."""
        self._call("telemetry.close")


class _GuardedRequest(_Guarded):
    __slots__ = ()

    def ended(self, seconds: float, **known: Any) -> None:
        self._call("telemetry.request.ended", seconds, **known)


class _GuardedOperation(_Guarded):
    __slots__ = ()

    @property
    def context(self) -> Context | None:
        found = self._value("telemetry.operation.context")
        return found if isinstance(found, Context) else None

    @property
    def trace(self) -> str | None:
        found = self._value("telemetry.operation.trace")
        # Tokens contain it.
        fits = isinstance(found, str) and found.isascii() and len(found) <= _LONGEST_TRACE
        return str(found) if fits else None

    def accepted(self, vm_id: str, **known: Any) -> None:
        self._call("telemetry.operation.accepted", vm_id, **known)

    def awaited(self) -> None:
        self._call("telemetry.operation.awaited")

    def seen(self, *event: Any, **known: Any) -> None:
        self._call("telemetry.operation.seen", *event, **known)

    def ended(self, how: Ending, error: BaseException | None = None) -> None:
        self._call("telemetry.operation.ended", how, error)
