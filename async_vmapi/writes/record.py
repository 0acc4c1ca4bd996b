"""The record of each write, which stays available when the write's caller is cancelled."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeGuard

import attrs

from async_vmapi.errors import APIError
from async_vmapi.tasks.task import Task, follow
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.transport.retries import AttemptLog

__all__ = ["FUNCTION", "UnresolvedWrite", "Write", "WriteContext", "is_task"]


@attrs.frozen
class UnresolvedWrite:
    """A write whose outcome was not returned to its caller, since that was cancelled.

    Attributes:
        operation: The operation, for example ``"create"``.
        name: The requested name of a create or rename; None for others.
        vm_id: The VM's id; None for a create whose outcome is unknown.
        reason: What is known of the outcome.
        candidates: Ids of VMs that a create may have made.
        token: A token for ``client.reconcile``; None for a rename, which you can just retry.
        replaces: The token with which it was listed before a response arrived, which `token`
            replaces; None if it was not listed.
    """

    operation: str
    name: str | None
    vm_id: str | None
    reason: str
    candidates: tuple[str, ...] = ()
    token: str | None = None
    replaces: str | None = None

    def __str__(self) -> str:
        which = self.vm_id if self.name is None else repr(self.name)
        return f"{self.operation} of {which}: {self.reason}"


@attrs.define(eq=False)
class Write:
    """A write in progress or finished, and its outcome.

    Attributes:
        operation: The operation.
        vm_id: The VM's id; None for a create.
        name: The requested name of a create or rename.
        attempts: Its attempts.
        token: Returns the token for an unknown outcome.
        done: The asyncio task that makes it, once started.
        left: Whether its caller was cancelled, so that it did not get the outcome.
        closed: Whether the client was closed meanwhile.
        observer: Gets the outcome; None without telemetry, or after that.
    """

    operation: str
    vm_id: str | None
    name: str | None
    attempts: AttemptLog
    token: Callable[[], str | None]
    done: asyncio.Task[Any] | None = None
    left: bool = False
    closed: bool = False
    observer: OperationObserver | None = None

    @property
    def accepted(self) -> bool:
        """Whether the API confirmed that it accepted the write."""
        done = self.done
        return done is not None and done.done() and not done.cancelled() and not done.exception()

    @property
    def error(self) -> Exception | None:
        """Its error; None while it is in progress, and if it was cancelled."""
        done = self.done
        if done is None or not done.done() or done.cancelled():
            return None
        error = done.exception()
        return error if isinstance(error, Exception) else None

    @property
    def task(self) -> Task[Any] | None:
        """Its task; None if it was not accepted, and for a rename."""
        result: object = self.done.result() if self.done is not None and self.accepted else None
        return result if is_task(result) else None

    @property
    def made(self) -> str | None:
        """The VM's id, including that of a created VM."""
        return self.vm_id if self.task is None else self.task.vm_id

    def resume_token(self) -> str | None:
        """Return a token to resume it; None for a rename, which returns no task."""
        return self.token() if self.task is None else self.task.token()

    @property
    def outcome_unknown(self) -> bool:
        """Whether it may have been carried out although no response confirms it."""
        return self.attempts.outcome_unknown and not self.accepted

    def notify_observer(self) -> None:
        """Pass the outcome to the observer, once."""
        observer, self.observer = self.observer, None
        if observer is None or self.done is None:
            return
        if self.done.cancelled():
            observer.ended("closed" if self.closed else "cancelled")
        elif (error := self.done.exception()) is not None:
            observer.ended("failed" if isinstance(error, APIError) else "error", error)
        elif self.task is None:
            observer.ended("done")
        else:
            follow(self.task, observer)
            if self.left:
                # Its caller did not get the task.
                observer.ended("cancelled")

    def withdraw(self) -> None:
        """Cancel it, unless a request that may be carried out was sent."""
        if self.done is not None and not self.attempts.outcome_unknown:
            self.done.cancel()


@attrs.define(eq=False)
class WriteContext:
    """What the methods of ``client.vms`` need to know of the item that they write for.

    Bulk calls and durable jobs create one for each item; see `async_vmapi.vms.bound`.

    Attributes:
        before_sending: Called immediately before each request is sent; see `AttemptLog`.
        maybe_sent: Whether an earlier process may have sent the write already.
        last: The last write made for the item.
    """

    before_sending: Callable[[], None] | None = None
    maybe_sent: bool = False
    last: Write | None = None

    def begin(
        self,
        operation: str,
        token: Callable[[], str | None],
        *,
        vm_id: str | None = None,
        name: str | None = None,
    ) -> Write:
        """Record a write that is about to be made, and return its record."""
        attempts = AttemptLog(
            unknown_attempts=int(self.maybe_sent), before_sending=self.before_sending
        )
        self.last = Write(operation, vm_id, name, attempts, token)
        return self.last


FUNCTION: Final[ContextVar[WriteContext | None]] = ContextVar("FUNCTION", default=None)
"""The context of a bulk item that is a caller's own function.

The function takes only the item and uses ``client.vms``, so this cannot be an argument. It only
records writes.
"""


def is_task(value: object) -> TypeGuard[Task[Any]]:
    """Return whether a value is a `Task`."""
    return isinstance(value, Task)
