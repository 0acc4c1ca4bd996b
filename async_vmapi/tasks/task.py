"""`Task`: an operation that the API accepted; await it for its completion."""

import asyncio
import enum
import math
from collections.abc import AsyncIterator, Generator
from typing import Any, Final, Generic, TypeVar, cast

from async_vmapi import validation
from async_vmapi.errors import (
    InvalidArgument,
    InvalidState,
    TaskError,
    TaskFailed,
    TaskTimeout,
    VMVanished,
)
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.tasks import token as tokens
from async_vmapi.tasks.completion import Done, Evidence, Failed
from async_vmapi.tasks.events import Events
from async_vmapi.tasks.explain import Explanation
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.rules import Awaited, Target
from async_vmapi.tasks.token import IntentToken, TaskToken
from async_vmapi.tasks.watch import TaskEvent, Watch
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.transport.pipeline import running_loop

__all__ = ["DEFAULT_TIMEOUT", "Task", "follow", "forget", "has_begun", "resume", "start"]

T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=TaskError)


class _Default(enum.Enum):
    TIMEOUT = "the operation's own timeout"


DEFAULT_TIMEOUT: Final = _Default.TIMEOUT
"""The operation's default timeout: see `Task.wait`."""


class Task(Generic[T_co]):
    """An accepted operation on a VM.

    ``await task`` waits until the operation is really complete, and returns the VM as last seen
    (None for a delete). The client polls only while a task is awaited and not complete; any number
    of callers can await a task with the same requests. Cancelling an await stops that wait, but
    neither the operation nor other waits. `refresh` polls once.

    A task can be awaited any number of times, so it is not a coroutine: pass it to
    `asyncio.gather`, `asyncio.wait_for` or `asyncio.ensure_future`. With `asyncio.create_task` and
    `asyncio.TaskGroup`, use ``create_task(task.wait())``.

    Tasks come from the methods of ``client.vms`` and from `Client.resume`.
    """

    __slots__ = ("__weakref__", "_hub", "_observer", "_watch")

    def __init__(self, hub: PollHub, watch: Watch) -> None:
        self._observer: OperationObserver | None = None
        self._hub = hub
        self._watch = watch

    def __repr__(self) -> str:
        evidence = self.evidence
        if evidence is not None:
            how = f"done, {evidence}"
        elif self.done():
            how = "failed"
        else:
            # asyncio shows this in its error if it expects a coroutine.
            seen = self._last_state() or "never"
            how = f"pending, last seen {seen}; await it, or create_task(task.wait())"
        return f"<Task {self.operation} of {self.vm_id}: {how}>"

    @property
    def vm_id(self) -> str:
        """The VM's id."""
        return self._watch.vm_id

    @property
    def operation(self) -> Awaited:
        """The operation's name; ``"wait_ready"`` for the task of such a wait."""
        return self._watch.target.operation

    @property
    def adopted(self) -> bool:
        """Whether the response to the request was lost and its effect was found by reconciling.

        For a create, that is the VM that appeared. For other operations, it is evidence that the
        request was carried out, or that a retry was refused because the first attempt had been.
        """
        return self._watch.adopted

    @property
    def was_missing(self) -> bool:
        """Whether the API refused a delete with ``missing_ok`` because the VM does not exist.

        Then this call deleted nothing. The task waits until reads confirm that the VM is gone.
        """
        return self._watch.target.was_missing

    @property
    def history(self) -> tuple[TaskEvent, ...]:
        """Every change observed so far, the oldest first."""
        return tuple(self._watch.history)

    @property
    def last_seen(self) -> VirtualMachine | None:
        """The VM at its last observed change; None if it was never seen."""
        return next((e.vm for e in reversed(self._watch.history) if e.raw is not None), None)

    @property
    def evidence(self) -> Evidence | None:
        """How the task knows that the operation is done; None while it is not."""
        verdict = self._watch.verdict
        return verdict.evidence if isinstance(verdict, Done) else None

    @property
    def missing(self) -> tuple[str, ...]:
        """For a task with ``ready``, what the VM does not meet yet, as in `TaskTimeout.missing`."""
        readiness = self._watch.readiness
        return () if readiness is None or self.done() else readiness.missing

    def done(self) -> bool:
        """Return whether the operation was seen to succeed or fail.

        This changes only while the task is awaited, or by `refresh`.
        """
        return self._watch.ended

    def result(self) -> T_co:
        """Return the same as awaiting, without waiting.

        Raises:
            InvalidState: If the operation is not complete.
            TaskFailed: If the VM is in a state from which the operation cannot succeed.
            VMVanished: If the VM is gone and the operation is not a delete.
            DecodingError: If the API returned the VM in a form that cannot be decoded.
        """
        verdict = self._watch.verdict
        if isinstance(verdict, Done):
            # None after a delete: the VM is gone.
            return cast("T_co", self._watch.history[-1].vm)
        if isinstance(verdict, Failed):
            raise self._error(VMVanished if verdict.gone else TaskFailed, verdict.reason)
        raise InvalidState(f"{self!r} has no result yet: await it first")

    def __await__(self) -> Generator[object, None, T_co]:
        return self.wait().__await__()

    async def wait(self, timeout: float | _Default | None = DEFAULT_TIMEOUT) -> T_co:
        """Wait until the operation is really complete.

        If the wait is cancelled, the cancellation carries a note with the VM's id and the task's
        token.

        Args:
            timeout: Total seconds to wait; None for no limit. The default depends on the operation
                and includes its ``wait_for``: half an hour for create and resize, less for others.

        Returns:
            The VM as last seen; None for a delete.

        Raises:
            TaskTimeout: If completion was not seen in time. The task can be awaited again.
            TaskFailed: If the VM is in a state from which the operation cannot succeed.
            VMVanished: If the VM is gone and the operation is not a delete.
            AuthenticationError: If the API refuses reads with these credentials. The task can be
                awaited again.
        """
        if timeout is DEFAULT_TIMEOUT:
            limit = self._watch.target.timeout
        else:
            limit = math.inf if timeout is None else validation.seconds("timeout", timeout)
        until = running_loop().time() + limit if limit < math.inf else None
        while not self._watch.ended:
            try:
                in_time = await self._hub.wait(self._watch, until=until)
            except asyncio.CancelledError as cancellation:
                cancellation.add_note(self._note())
                raise
            if not (in_time or self._watch.ended):
                raise self._timeout(limit)
        return self.result()

    async def refresh(self) -> bool:
        """Poll once unless the last poll is recent, and return whether the operation has ended.

        Use it where clients ask for the state repeatedly and nothing awaits the task, as in a
        status endpoint: ``if await task.refresh(): ...``. Keep the task for that, not only its
        token, which has the elapsed time and observations of the moment of its creation.

        Concurrent refreshes and awaits of a task share one request. No request is sent if the last
        observation is less than ``min_poll_interval`` seconds old, or if the operation has ended.
        Many tasks are polled by one list. A failed poll raises no error: it is retried as for any
        awaiter, for up to five seconds.

        Raises:
            AuthenticationError: If the API refuses reads with these credentials.
            InvalidState: If the client is closed.
        """
        watch, loop = self._watch, running_loop()
        since = loop.time() - self._hub.min_interval
        fresh = watch.loop is loop and watch.last_sent_at > since
        if not (watch.ended or fresh):
            await self._hub.wait(watch, until=since)
        return watch.ended

    def events(self) -> AsyncIterator[TaskEvent]:
        """Iterate over all observed changes: past ones first, then each one as it is observed.

        The last event has `TaskEvent.final` set; the iteration ends after it, even if the operation
        failed. It has no timeout.

        Raises:
            AuthenticationError: If the API refuses reads with these credentials.
        """
        return Events(self._hub, self._watch, self._note)

    def explain(self) -> Explanation:
        """Return what polls have shown so far, and which rule decided; ``str`` is a timeline."""
        return self._watch.explain()

    def token(self) -> str:
        """Return a short text from which `Client.resume` recreates this task in any process.

        It contains the endpoint, the VM and the operation, and no secret.
        """
        watch = self._watch
        return tokens.seal(
            TaskToken(
                origin=self._hub.origin,
                operation=watch.target.operation,
                vm=watch.vm_id,
                cores=watch.target.cores,
                ram=watch.target.ram,
                wait_for=watch.target.wait_for,
                elapsed=round(watch.elapsed, 1),
                seen=watch.visible,
                adopted=self.adopted,
                was_missing=watch.target.was_missing,
                ready=tokens.stored(watch.target.ready),
                completed=None if (r := watch.readiness) is None else r.evidence,
                trace=None if (observer := watch.observer) is None else observer.trace,
            )
        )

    def _timeout(self, limit: float) -> TaskTimeout:
        readiness = self._watch.readiness
        if readiness is None:
            return self._error(TaskTimeout, f"not complete within {limit:g} s")
        missing = readiness.missing
        why = f" ({readiness.reason})" if readiness.reason else ""
        # The reason is about the first one.
        names = f"{missing[0]}{why}{''.join(f', {name}' for name in missing[1:])}"
        error = self._error(TaskTimeout, f"not ready within {limit:g} s: missing {names}")
        error.missing = missing
        return error

    def _note(self) -> str:
        return (
            f"the {self.operation} of {self.vm_id} was accepted and is still running; "
            f"client.resume(token) waits for it; its token is {self.token()}"
        )

    def _last_state(self) -> str | None:
        return next((e.state for e in reversed(self._watch.history) if e.state), None)

    def _error(self, kind: type[E], reason: str) -> E:
        watch = self._watch
        state = self._last_state()
        failed = f"; {watch.failed_polls} polls failed" if watch.failed_polls else ""
        return kind(
            f"{self.operation} of {self.vm_id}: {reason} (last seen {state or 'never'}{failed})",
            vm_id=self.vm_id,
            operation=self.operation,
            last_state=state,
            history=tuple((event.elapsed, event.state) for event in watch.history),
            last_poll_error=watch.last_error,
            token=self.token(),
        )


def start(
    hub: PollHub,
    vm_id: str,
    target: Target,
    *,
    visible: bool = False,
    adopted: bool = False,
) -> Task[Any]:
    """Return the task of an operation that was accepted just now, and list it as pending.

    Args:
        hub: Polls the VM.
        vm_id: The VM.
        target: What was requested.
        visible: Whether a read has shown the VM before.
        adopted: See `Task.adopted`.
    """
    watch = hub.watch(vm_id, target, visible=visible, adopted=adopted)
    task: Task[Any] = Task(hub, watch)
    hub.pending.add(watch, task)
    return task


def pending(hub: PollHub) -> tuple[Task[Any], ...]:
    """Return the tasks of a client that are not complete, the oldest first."""

    def recreate(watch: Watch) -> Task[Any]:
        return Task(hub, watch)

    return tuple(hub.pending.tasks(recreate))


def forget(task: Task[Any]) -> None:
    """Drop a task that is not returned to a caller."""
    # Not a method: it is not for users of a task.
    task._hub.pending.discard(task._watch)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


async def has_begun(task: Task[Any], within: float) -> bool:
    """Wait up to `within` seconds until a reboot or reset is seen to leave ``online``."""
    watch, hub = task._watch, task._hub  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    until = running_loop().time() + within
    while not (watch.left_online or watch.ended):
        if not await hub.wait(watch, until=until, any_change=True):
            break
    return watch.left_online


def follow(task: Task[Any], observer: OperationObserver) -> None:
    """Report a task's events to an observer."""
    observer.accepted(task.vm_id, adopted=task.adopted)
    # Only the task references the observer, so both are released together.
    task._observer = observer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    task._watch.observed_by(observer)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def resume(hub: PollHub, token: str) -> Task[VirtualMachine | None]:
    """Recreate a task from its token; see `Client.resume`."""
    content = tokens.read(token, hub.origin)
    if isinstance(content, IntentToken):
        raise InvalidArgument(
            "token is of a write whose outcome is unknown; pass it to client.reconcile",
            argument="token",
        )
    target = Target(
        content.operation,
        cores=content.cores,
        ram=content.ram,
        wait_for=content.wait_for,
        was_missing=content.was_missing,
        ready=tokens.ready_of(content),
    )
    watch = hub.watch(
        content.vm,
        target,
        elapsed=max(0.0, content.elapsed),
        visible=content.seen,
        adopted=content.adopted,
        resumed=True,
        completed=content.completed,
    )
    task: Task[VirtualMachine | None] = Task(hub, watch)
    # Only while it is referenced: the caller has its token.
    hub.pending.add_while_referenced(watch, task)
    if hub.observer is not None:
        followed = hub.observer.operation(
            content.operation, content.vm, elapsed=watch.elapsed, trace=content.trace
        )
        follow(task, followed)
    return task
