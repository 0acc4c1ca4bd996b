"""What is known of each write, for whoever must account for it when its caller is gone."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeGuard

import attrs

from async_vmapi.errors import APIError
from async_vmapi.tasks.task import Task, follow
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.transport.retries import AttemptLog

__all__ = ["WRITES", "UnresolvedWrite", "Write", "is_task"]


@attrs.frozen
class UnresolvedWrite:
    """A write that its caller could not be told of, since the caller was cancelled.

    Attributes:
        operation: What was asked for, for instance ``"create"``.
        name: The name that a create, or a rename, was to give; None for others.
        vm_id: The machine; None for a create of which nobody knows whether it was carried out.
        reason: What is known of it, in words.
        candidates: Ids of machines that may be what a create made.
        token: To go on with, by ``client.reconcile``; None for a rename, which is to be repeated.
        replaces: The token under which it was listed while no response had come; None if it was
            not. `token` is newer.
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
    """A write under way or over, and what is known of it whether or not its caller is there.

    Attributes:
        operation: What is asked for.
        vm_id: The machine, but of a create.
        name: The name that is given, of a create or rename.
        attempts: What became of its attempts.
        token: Makes a text to go on with while no answer tells what came of it.
        done: What carries it out, once that has begun.
        left: Whether its caller was cancelled, and so was not told what came of it.
        closed: Whether the client was closed meanwhile.
        observer: Who is to be told what comes of it; None for nobody, or once that is done.
    """

    operation: str
    vm_id: str | None = None
    name: str | None = None
    attempts: AttemptLog = attrs.field(factory=AttemptLog)
    token: Callable[[], str | None] = lambda: None
    done: asyncio.Task[Any] | None = None
    left: bool = False
    closed: bool = False
    observer: OperationObserver | None = None

    @property
    def accepted(self) -> bool:
        """Whether the API is known to have accepted it."""
        done = self.done
        return done is not None and done.done() and not done.cancelled() and not done.exception()

    @property
    def error(self) -> Exception | None:
        """What it failed with; None while it is under way, and where it was cancelled."""
        done = self.done
        if done is None or not done.done() or done.cancelled():
            return None
        error = done.exception()
        return error if isinstance(error, Exception) else None

    @property
    def task(self) -> Task[Any] | None:
        """What came of it; None if it was not accepted, and for a rename."""
        result: object = self.done.result() if self.done is not None and self.accepted else None
        return result if is_task(result) else None

    @property
    def made(self) -> str | None:
        """The machine, that which a create made included."""
        return self.vm_id if self.task is None else self.task.vm_id

    def resume_token(self) -> str | None:
        """Return a text to go on with; None for a rename, which has no end to be watched."""
        return self.token() if self.task is None else self.task.token()

    @property
    def outcome_unknown(self) -> bool:
        """Whether it may have been carried out although no answer says so."""
        return self.attempts.outcome_unknown and not self.accepted

    def tell(self) -> None:
        """Tell who observes it, once it is over, what came of it."""
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
                # Nobody got it.
                observer.ended("cancelled")

    def withdraw(self) -> None:
        """Give it up, if nothing was sent that may have been carried out."""
        if self.done is not None and not self.attempts.outcome_unknown:
            self.done.cancel()


WRITES: Final[ContextVar[list[Write] | None]] = ContextVar("WRITES", default=None)
"""Where writes are noted when they begin: the accounts of a bulk call's item."""


def is_task(value: object) -> TypeGuard[Task[Any]]:
    """Return whether a value is a task to be watched."""
    return isinstance(value, Task)
