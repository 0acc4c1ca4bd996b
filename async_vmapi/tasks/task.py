"""`Task`: an operation that the API accepted, to be awaited until it is really finished."""

import asyncio
import enum
import math
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final, Generic, TypeVar

from async_vmapi import validation
from async_vmapi.errors import (
    InvalidArgument,
    InvalidState,
    TaskError,
    TaskFailed,
    TaskTimeout,
    VMVanished,
)
from async_vmapi.models import Operation, VirtualMachine
from async_vmapi.tasks import token as tokens
from async_vmapi.tasks.completion import Done, Evidence, Failed, Target
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.token import DoubtToken, TaskToken
from async_vmapi.tasks.watch import TaskEvent, Watch
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.transport.pipeline import running_loop

__all__ = ["DEFAULT_TIMEOUT", "Task", "follow", "forget", "resume", "start", "start_delete"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=TaskError)


class _Default(enum.Enum):
    TIMEOUT = "the operation's own timeout"


DEFAULT_TIMEOUT: Final = _Default.TIMEOUT
"""Wait as long as the operation may take: see `Task.wait`."""


class Task(Generic[T_co]):
    """An accepted operation on a machine.

    ``await task`` waits until the operation is really finished, and returns the machine as it
    was seen at the end (a deletion returns None). Nothing is asked of the API while nobody
    awaits, nor after the end; any number may await, at no further cost. Cancelling an await
    stops the waiting, never the operation, and never another's waiting. `refresh` asks once.

    A task is no coroutine, for it can be awaited any number of times: `asyncio.gather`,
    `asyncio.wait_for` and `asyncio.ensure_future` take it; for `asyncio.create_task` and
    `asyncio.TaskGroup` write ``create_task(task.wait())``.

    Tasks come from the methods of ``client.vms`` and from `Client.resume`.
    """

    __slots__ = (
        "__weakref__",
        "_hub",
        "_observer",
        "_origin",
        "_result_of",
        "_watch",
        "adopted",
    )

    adopted: bool
    """Whether the API's answer to the request was lost, and what it started was found by looking.

    Of a create: the machine that appeared. Of the others: what shows that the request was carried
    out, or that a repetition was refused because the first one had been.
    """

    def __init__(
        self,
        hub: PollHub,
        watch: Watch,
        origin: str,
        result_of: Callable[[TaskEvent], T_co],
        *,
        adopted: bool = False,
    ) -> None:
        self.adopted = adopted
        self._observer: OperationObserver | None = None
        self._hub = hub
        self._watch = watch
        self._origin = origin
        self._result_of = result_of

    def __repr__(self) -> str:
        evidence = self.evidence
        if evidence is not None:
            how = f"done, {evidence}"
        elif self.done():
            how = "failed"
        else:
            # asyncio shows it in its error where a coroutine is expected.
            seen = self._last_state() or "never"
            how = f"pending, last seen {seen}; await it, or create_task(task.wait())"
        return f"<Task {self.operation} of {self.vm_id}: {how}>"

    @property
    def vm_id(self) -> str:
        """The machine's id."""
        return self._watch.vm_id

    @property
    def operation(self) -> Operation:
        """What was asked of the machine."""
        return self._watch.target.operation

    @property
    def was_missing(self) -> bool:
        """Whether the API refused a delete with ``missing_ok`` because the VM is not there.

        Then nothing was deleted by this call. The task waits until reads show that it is gone.
        """
        return self._watch.target.was_missing

    @property
    def history(self) -> tuple[TaskEvent, ...]:
        """Every change seen so far, the oldest first."""
        return tuple(self._watch.history)

    @property
    def last_seen(self) -> VirtualMachine | None:
        """The machine as it was when it was last seen to change; None if it never was seen."""
        return next((e.vm for e in reversed(self._watch.history) if e.raw is not None), None)

    @property
    def evidence(self) -> Evidence | None:
        """How it is known that the operation is done; None while it is not."""
        verdict = self._watch.verdict
        return verdict.evidence if isinstance(verdict, Done) else None

    def done(self) -> bool:
        """Return whether the operation has ended, well or not, as far as was seen.

        That changes only while somebody awaits the task, or by `refresh`.
        """
        return self._watch.ended

    def result(self) -> T_co:
        """Return what awaiting returns, without waiting.

        Raises:
            InvalidState: If the task has not ended.
            TaskFailed: If the machine was seen in a state that it does not come out of.
            VMVanished: If the machine is gone, and that was not what was asked for.
            DecodingError: If the API showed the machine in a form that cannot be read.
        """
        verdict = self._watch.verdict
        if isinstance(verdict, Done):
            return self._result_of(self._watch.history[-1])
        if isinstance(verdict, Failed):
            raise self._error(VMVanished if verdict.gone else TaskFailed, verdict.reason)
        raise InvalidState(f"{self!r} has no result yet: await it first")

    def __await__(self) -> Generator[object, None, T_co]:
        return self.wait().__await__()

    async def wait(self, timeout: float | _Default | None = DEFAULT_TIMEOUT) -> T_co:
        """Wait until the operation is really finished.

        Args:
            timeout: Seconds that this call waits in all; None for no limit. By default as long
                as the operation may take, which covers its ``wait_for``: half an hour for create
                and resize, less for the others.

        A cancellation that ends the waiting carries a note with the VM's id and the task's token.

        Returns:
            The machine as it was seen at the end; None for a deletion.

        Raises:
            TaskTimeout: If the end was not seen in time. The task can be awaited again.
            TaskFailed: If the machine was seen in a state that it does not come out of.
            VMVanished: If the machine is gone, and that was not what was asked for.
            AuthenticationError: If the API does not let this client look. The task can be
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
                raise self._error(TaskTimeout, f"not seen to be done within {limit:g} s")
        return self.result()

    async def refresh(self) -> bool:
        """Poll once, unless that was done just now, and return whether the operation has ended.

        Call it where somebody asks again and again and nothing awaits the task, as in a status
        endpoint: ``if await task.refresh(): ...``. Keep the task for that, and not its token
        alone: only a task knows how much time has passed and what was seen until now.

        At most one request is sent, for all that refresh or await the same task at the same
        moment; none if the last observation was asked less than ``min_poll_interval`` seconds ago,
        or if the operation has ended. Many tasks are polled by one list. A poll that fails raises
        nothing: it is retried as for any awaiter, and given up after five seconds.

        Raises:
            AuthenticationError: If the API does not let this client read.
            InvalidState: If the client is closed.
        """
        watch, loop = self._watch, running_loop()
        since = loop.time() - self._hub.min_interval
        fresh = watch.loop is loop and watch.asked > since
        if not (watch.ended or fresh):
            await self._hub.wait(watch, until=since)
        return watch.ended

    async def has_begun(self, *, within: float) -> bool:
        """Wait until a reboot or reset is seen to have left ``online``; return whether it was.

        Args:
            within: Seconds to wait at most.

        Raises:
            AuthenticationError: If the API does not let this client look.
        """
        watch = self._watch
        until = running_loop().time() + within
        while not (watch.left_online or watch.ended):
            if not await self._hub.wait(watch, until=until, news=True):
                break
        return watch.left_online

    def events(self) -> AsyncIterator[TaskEvent]:
        """Iterate over every change seen: those of the past first, then each as it comes.

        The last event has `TaskEvent.final` set; the iteration ends after it, also where the
        operation failed. It has no timeout of its own.

        Raises:
            AuthenticationError: If the API does not let this client look.
        """
        return _Events(self, self._hub, self._watch)

    def token(self) -> str:
        """Return a small text from which `Client.resume` makes this task again, anywhere.

        It names the endpoint, the machine and what was asked of it, and holds no secret.
        """
        watch = self._watch
        return tokens.seal(
            TaskToken(
                origin=self._origin,
                operation=watch.target.operation,
                vm=watch.vm_id,
                cores=watch.target.cores,
                ram=watch.target.ram,
                wait_for=watch.target.wait_for,
                elapsed=round(watch.elapsed, 1),
                seen=watch.seen,
                adopted=self.adopted,
                was_missing=watch.target.was_missing,
                trace=None if (observer := watch.observer) is None else observer.trace,
            )
        )

    def _note(self) -> str:
        return (
            f"the {self.operation} of {self.vm_id} was accepted, and goes on; "
            f"client.resume(token) waits for it, and its token is {self.token()}"
        )

    def _last_state(self) -> str | None:
        return next((e.state for e in reversed(self._watch.history) if e.state), None)

    def _error(self, kind: type[E], reason: str) -> E:
        watch = self._watch
        state = self._last_state()
        looks = f"; {watch.failed_looks} looks failed" if watch.failed_looks else ""
        return kind(
            f"{self.operation} of {self.vm_id}: {reason} (last seen {state or 'never'}{looks})",
            vm_id=self.vm_id,
            operation=self.operation,
            last_state=state,
            history=tuple((event.elapsed, event.state) for event in watch.history),
            last_poll_error=self._hub.last_error(watch),
            token=self.token(),
        )


class _Events:
    """Iterates over a watch's events; it awaits, and so is polled for, within ``anext`` alone."""

    def __init__(self, task: Task[Any], hub: PollHub, watch: Watch) -> None:
        self._task = task
        self._hub = hub
        self._watch = watch
        self._next = 0

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        return self

    async def __anext__(self) -> TaskEvent:
        watch = self._watch
        while self._next >= len(watch.history):
            if watch.ended:
                raise StopAsyncIteration
            try:
                await self._hub.wait(watch, news=True)
            except asyncio.CancelledError as cancellation:
                cancellation.add_note(self._task._note())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                raise
        self._next += 1
        return watch.history[self._next - 1]


def _vm_at_end(event: TaskEvent) -> VirtualMachine:
    if event.vm is None:
        raise InvalidState("the machine was not there at the end")
    return event.vm


def _nothing(_: TaskEvent) -> None:
    return None


def _vm_if_any(event: TaskEvent) -> VirtualMachine | None:
    return event.vm


def start(
    hub: PollHub,
    origin: str,
    vm_id: str,
    target: Target,
    *,
    visible: bool = False,
    adopted: bool = False,
) -> Task[VirtualMachine]:
    """Return the task of an operation that the API accepted just now.

    `visible` says whether some read has shown the VM before.
    """
    watch = hub.watch(vm_id, target, visible=visible, reconciled=adopted)

    def make() -> Task[VirtualMachine]:
        return Task(hub, watch, origin, _vm_at_end, adopted=adopted)

    return _listed(hub, watch, make)


def start_delete(
    hub: PollHub,
    origin: str,
    vm_id: str,
    *,
    visible: bool = False,
    adopted: bool = False,
    was_missing: bool = False,
) -> Task[None]:
    """Return the task of a deletion that the API accepted just now, or for which it was late."""
    watch = hub.watch(vm_id, Target("delete", was_missing=was_missing), visible=visible)

    def make() -> Task[None]:
        return Task(hub, watch, origin, _nothing, adopted=adopted)

    return _listed(hub, watch, make)


def _listed(hub: PollHub, watch: Watch, make: Callable[[], Task[T]]) -> Task[T]:
    """Return a task that is pending until it is complete."""
    task = make()
    hub.pending.add(watch, task, make)
    return task


def forget(task: Task[Any]) -> None:
    """Note that a task is not returned to anyone."""
    # No part of what users have of a task.
    task._hub.pending.discard(task._watch)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def follow(task: Task[Any], observer: OperationObserver) -> None:
    """Let somebody follow a task from here on."""
    observer.accepted(task.vm_id, adopted=task.adopted)
    # Held by the task alone: when that is gone, no one follows the operation.
    task._observer = observer  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    task._watch.observed_by(observer)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def resume(hub: PollHub, origin: str, token: str) -> Task[VirtualMachine | None]:
    """Make a task again from its token; see `Client.resume`."""
    content = tokens.read(token, origin)
    if isinstance(content, DoubtToken):
        raise InvalidArgument(
            "token is of a write in doubt, which has no task yet; hand it to client.reconcile",
            argument="token",
        )
    target = Target(
        content.operation,
        cores=content.cores,
        ram=content.ram,
        wait_for=content.wait_for,
        was_missing=content.was_missing,
    )
    watch = hub.watch(
        content.vm,
        target,
        elapsed=max(0.0, content.elapsed),
        visible=content.seen,
        resumed=True,
    )
    task = Task(hub, watch, origin, _vm_if_any, adopted=content.adopted)
    # Only while someone holds it: whoever resumed it has its token.
    hub.pending.add(watch, task, None)
    if hub.observer is not None:
        followed = hub.observer.operation(
            content.operation, content.vm, elapsed=watch.elapsed, trace=content.trace
        )
        follow(task, followed)
    return task
