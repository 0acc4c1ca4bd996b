"""The telemetry interface of a client. Pure.

A client without an observer only checks for None. Observers receive plain values, never a body, a
header or a signature.
"""

from contextvars import Context
from typing import Literal, Protocol, TypeAlias

__all__ = ["Ending", "Observer", "OperationObserver", "RequestObserver", "Telemetry"]

Ending: TypeAlias = Literal["done", "failed", "timeout", "cancelled", "closed", "error"]
"""Why the observation of an operation ends.

done: completion was observed. failed: a failure was observed, or the write was refused. timeout,
cancelled: its waiter timed out or was cancelled. closed: the client was closed. error: another
error was raised to the caller.
"""


class RequestObserver(Protocol):
    """Observes one request in flight."""

    def ended(
        self, seconds: float, *, status: int | None = None, error: BaseException | None = None
    ) -> None:
        """Note its end; called once, by the asyncio task that sent it.

        Args:
            seconds: Its duration by the loop's clock.
            status: The response's HTTP status; None without a response.
            error: Its error; None if it succeeded.
        """
        ...


class OperationObserver(Protocol):
    """Observes one operation on a VM, from the write to completion.

    If its last reference is dropped before `ended` is called, the operation was abandoned.
    """

    @property
    def context(self) -> Context | None:
        """The context for the write's requests; None for a copy of the caller's context."""
        ...

    @property
    def trace(self) -> str | None:
        """A trace context for the operation's tokens, to which another process can link."""
        ...

    def accepted(self, vm_id: str, *, adopted: bool) -> None:
        """Note that the API accepted the write."""
        ...

    def awaited(self) -> None:
        """Note that the operation is awaited; after `ended` it is observed again."""
        ...

    def seen(self, elapsed: float, state: str | None, evidence: str | None, *, end: bool) -> None:
        """Note a change of the VM.

        Args:
            elapsed: Seconds since the API accepted the request.
            state: The VM's state; None once it is gone.
            evidence: The evidence of a successful completion; None for any other change.
            end: Whether the operation is over.
        """
        ...

    def ended(self, how: Ending, error: BaseException | None = None) -> None:
        """Note the end of the observation; further calls have no effect."""
        ...


class Observer(Protocol):
    """Observes one client."""

    def request(
        self, name: str, method: str, path: str, *, resends: int, shared: bool
    ) -> RequestObserver:
        """Note that a request is sent.

        Args:
            name: The call's name in WIRE §2.
            method: The HTTP method.
            path: The path.
            resends: How often the call was sent before.
            shared: Whether the response serves several waiters, so that it is in no one's trace.
        """
        ...

    def operation(
        self,
        name: str,
        vm_id: str | None,
        *,
        elapsed: float | None = None,
        trace: str | None = None,
    ) -> OperationObserver:
        """Note that an operation starts or is resumed.

        Args:
            name: The name of the operation's method in ``client.vms``.
            vm_id: The VM's id; None for a create.
            elapsed: Seconds since the write of a resumed operation; None for a new one.
            trace: The `OperationObserver.trace` of a resumed operation.
        """
        ...

    def polled(self, how: Literal["get", "list"]) -> None:
        """Note a response to a poll."""
        ...

    def close(self) -> None:
        """Note that the client is closed; it may be reopened."""
        ...


class Telemetry(Protocol):
    """The type of a `Client`'s ``telemetry``."""

    def observe(self, origin: str) -> Observer:
        """Return an observer for a client of this endpoint."""
        ...
