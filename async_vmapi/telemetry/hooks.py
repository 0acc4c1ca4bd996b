"""What somebody who observes a client is told: the seam for telemetry. Pure.

A client that nobody observes has None in its place, and pays one look at that. The floors above
hand on plain values, never a body, a header or a signature.
"""

from contextvars import Context
from typing import Literal, Protocol, TypeAlias

__all__ = ["Ending", "Observer", "OperationObserver", "RequestObserver", "Telemetry"]

Ending: TypeAlias = Literal["done", "failed", "timeout", "cancelled", "closed", "error"]
"""How it ends that an operation is followed.

done: the end was seen. failed: it was seen to fail, or was refused. timeout, cancelled: who
awaited it went away. closed: the client was. error: its caller was told another error.
"""


class RequestObserver(Protocol):
    """Follows one request that is on the wire."""

    def ended(
        self, seconds: float, *, status: int | None = None, error: BaseException | None = None
    ) -> None:
        """Note its end; called once, by the asyncio task that began it.

        Args:
            seconds: How long it was on the wire, by the loop's clock.
            status: The answer's HTTP status; None if no answer came.
            error: What it ended with; None if it was granted.
        """
        ...


class OperationObserver(Protocol):
    """Follows one operation on a machine, from the write to the seen end.

    When the last reference to it is gone before an ending, nobody can await the operation any
    more.
    """

    @property
    def context(self) -> Context | None:
        """What to make the write in, so that its requests belong to this operation.

        None for a copy of the caller's context.
        """
        ...

    @property
    def trace(self) -> str | None:
        """A text for the tokens of this operation, by which another process refers to it."""
        ...

    def accepted(self, vm_id: str, *, adopted: bool) -> None:
        """Note that the API accepted the write."""
        ...

    def awaited(self) -> None:
        """Note that somebody waits for the end: after an `ended` it is followed anew."""
        ...

    def seen(self, elapsed: float, state: str | None, evidence: str | None, *, end: bool) -> None:
        """Note a change of the machine.

        Args:
            elapsed: Seconds since the API accepted the request.
            state: The state's word; None once the machine is gone.
            evidence: How a good end is known; None for every other change.
            end: Whether it is the operation's end.
        """
        ...

    def ended(self, how: Ending, error: BaseException | None = None) -> None:
        """Note that it is no longer followed; what comes after the first time changes nothing."""
        ...


class Observer(Protocol):
    """Observes one client."""

    def request(
        self, name: str, method: str, path: str, *, resends: int, shared: bool
    ) -> RequestObserver:
        """Note that a request sets out.

        Args:
            name: The call's name in WIRE §2.
            method: The HTTP method.
            path: The path.
            resends: How often the call was sent before.
            shared: Whether the answer serves many, so that it is no part of what one of them does.
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
        """Note that an operation begins, or is taken up again.

        Args:
            name: The operation, as its method in ``client.vms`` is called.
            vm_id: The machine; None for a create.
            elapsed: Seconds since the write of one that is taken up; None for a new one.
            trace: What `OperationObserver.trace` was, of one that is taken up.
        """
        ...

    def looked(self, how: Literal["get", "list"], served: int) -> None:
        """Note an answer to the poll hub, and for how many awaited operations it was."""
        ...

    def close(self) -> None:
        """Note that the client is closed; it may be used again."""
        ...


class Telemetry(Protocol):
    """What `Client` takes as ``telemetry``."""

    def observe(self, origin: str) -> Observer:
        """Return what observes a client of this endpoint."""
        ...
