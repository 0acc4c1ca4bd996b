"""Shield writes from cancellation, and keep each whose caller was cancelled (WIRE §5.4).

A write runs in its own asyncio task, so cancelling its caller does not abort the request. If the
caller cannot get the outcome, `Shield.unresolved` keeps it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio
import attrs

from async_vmapi.errors import InvalidArgument, InvalidState, OutcomeUnknown
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.guards import Guard
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import Pipeline
from async_vmapi.writes.record import UnresolvedWrite, Write

__all__ = ["CANCEL_GRACE", "Shield"]

T = TypeVar("T")

_log: Final = logger_of(__name__)

CANCEL_GRACE: Final = 10.0
"""Seconds for which a cancelled caller, or closing, waits for responses to writes."""

_MOST_NAMED: Final = 20


class Shield:
    """Runs the writes of a client until their outcome is known.

    Args:
        pipeline: Sends the requests.
        grace: Seconds for which a cancelled caller, or `close`, waits for responses.
        on_unresolved: Called with each write that becomes unresolved, unless it is None.
        guard: Calls `on_unresolved`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        grace: float = CANCEL_GRACE,
        on_unresolved: Callable[[UnresolvedWrite], object] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._grace = grace
        self._on_unresolved = on_unresolved
        self._guard = guard or Guard()
        self._running: dict[asyncio.Task[Any], Write] = {}
        self._unresolved: list[UnresolvedWrite] = []

    # --- unresolved writes ----------------------------------------------------------------------

    @property
    def unresolved(self) -> tuple[UnresolvedWrite, ...]:
        """Writes whose outcome their callers did not get, since they were cancelled."""
        return tuple(self._unresolved)

    def resumed(self, token: str) -> None:
        """Remove the write with this token: it was resumed or reconciled."""
        self._unresolved = [write for write in self._unresolved if write.token != token]

    def dismiss(self, write: UnresolvedWrite) -> None:
        """Remove an unresolved write."""
        if write not in self._unresolved:
            raise InvalidArgument("write is not in `unresolved`", argument="write")
        self._unresolved.remove(write)

    def _add(self, write: UnresolvedWrite) -> None:
        self._unresolved.append(write)
        if (on_unresolved := self._on_unresolved) is not None:
            self._guard.call("on_unresolved", lambda: on_unresolved(write))

    def _replace(self, before: UnresolvedWrite | None, write: UnresolvedWrite | None) -> None:
        """Replace an unresolved write by its latest state; None removes it."""
        was_there = before is not None and before in self._unresolved
        if before is not None and was_there:
            self._unresolved.remove(before)
        if write is None:
            return
        if before is None or write.token != before.token:
            self._add(write)
        elif was_there:
            # `on_unresolved` was called for it already.
            self._unresolved.append(write)
        else:
            # It was resumed or dismissed.
            return
        extra = {"vmapi_operation": write.operation, "vmapi_token": write.token}
        _log.warning("unresolved: %s; its token: %s", write, write.token, extra=extra)

    # --- running writes -------------------------------------------------------------------------

    async def run(self, write: Write, body: Coroutine[Any, Any, T]) -> T:
        """Run a write and return its result; for cancellation see the module."""
        self._pipeline.ensure_usable(body)
        context = None
        if (observer := self._pipeline.observer) is not None:
            write.observer = observer.operation(write.operation, write.vm_id)
            write.attempts.trace = write.observer.trace
            context = write.observer.context
        inner = asyncio.get_running_loop().create_task(
            body, name=f"async_vmapi {write.operation}", context=context
        )
        write.done = inner
        if write.observer is not None:
            # Even if no caller waits for it any longer.
            inner.add_done_callback(lambda _: write.notify_observer())
        self._running[inner] = write
        inner.add_done_callback(self._running.pop)
        try:
            await asyncio.wait({inner})
        except asyncio.CancelledError as cancellation:
            write.left = True
            before: UnresolvedWrite | None = None
            if write.outcome_unknown:
                # At once: the process may end before the response arrives.
                reason = "its caller was cancelled before a response arrived"
                before = _unresolved_write(write, reason)
                extra = {"vmapi_operation": write.operation, "vmapi_token": before.token}
                _log.info("outcome unknown: %s; its token: %s", before, before.token, extra=extra)
                self._add(before)
            elif not write.attempts.outcome_unknown:
                # Nothing was sent.
                inner.cancel()
            await _wait_out({inner}, self._grace)
            if note := self._account_for(write, inner, before):
                cancellation.add_note(note)
            raise
        if inner.cancelled():
            # By code that cancels all tasks, or by `close`.
            note = self._account_for(write, inner)
            if write.closed:
                raise InvalidState(note or "the client was closed before the request was sent")
        # An eager task may finish before it has a callback; the caller comes last.
        write.notify_observer()
        return inner.result()

    def _account_for(
        self, write: Write, inner: asyncio.Task[Any], before: UnresolvedWrite | None = None
    ) -> str | None:
        """Keep the outcome that a cancelled caller does not get, and return a note about it."""
        write.notify_observer()
        kept: UnresolvedWrite | None = None
        note: str | None = None
        error = None if inner.cancelled() else inner.exception()
        if inner.cancelled() or (error is not None and not isinstance(error, OutcomeUnknown)):
            if write.attempts.outcome_unknown:
                kept = _unresolved_write(write, "no response shows whether it was carried out")
        elif isinstance(error, OutcomeUnknown):
            reason = "neither a response nor polling shows whether it was carried out"
            kept = UnresolvedWrite(
                error.operation, error.name, error.vm_id, reason, error.candidates, error.token
            )
        elif write.operation == "create":
            task: Task[Any] = inner.result()
            reason = f"it was accepted as {task.vm_id}, and its caller was cancelled"
            kept = UnresolvedWrite("create", write.name, task.vm_id, reason, token=task.token())
            # Listed in `unresolved`, it need not be in `pending`.
            tasks.forget(task)
        else:
            note = f"the {write.operation} of {write.vm_id or write.name} was accepted"
            if (accepted := write.task) is not None:
                note += f"; its token is {accepted.token()}"
        if kept is not None:
            if before is not None:
                kept = attrs.evolve(kept, replaces=before.token)
            note = f"the {kept}; its token is {kept.token}; see client.unresolved"
        self._replace(before, kept)
        return note

    async def close(self) -> None:
        """Wait for responses to writes in flight, for the grace period; then cancel the rest."""
        loop = asyncio.get_running_loop()
        running = {task: write for task, write in self._running.items() if task.get_loop() is loop}
        for task, write in running.items():
            write.closed = True
            if not write.attempts.outcome_unknown:
                task.cancel()
        cancellation = await _wait_out(set(running), self._grace) if running else None
        try:
            # Let their callers run first: they update `unresolved`.
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            cancellation = error
        if self._unresolved:
            named = [str(write) for write in self._unresolved[:_MOST_NAMED]]
            more = len(self._unresolved) - len(named)
            named += [f"and {more} more"] if more else []
            count = len(self._unresolved)
            text = "closed with %d writes unresolved: %s"
            _log.warning(text, count, "; ".join(named), extra={"vmapi_unresolved": count})
        if cancellation is not None:
            raise cancellation


def _unresolved_write(write: Write, reason: str) -> UnresolvedWrite:
    return UnresolvedWrite(write.operation, write.name, write.vm_id, reason, token=write.token())


async def _wait_out(running: set[asyncio.Task[Any]], grace: float) -> asyncio.CancelledError | None:
    """Wait until writes are finished, and cancel them after `grace` seconds.

    A cancellation does not shorten the wait; it is returned.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    cancellation: asyncio.CancelledError | None = None
    # anyio repeats a cancellation unless shielded; other code may cancel again.
    with anyio.CancelScope(shield=True):
        while late := [task for task in running if not task.done()]:
            left = until - loop.time()
            over = left <= 0.001  # timers may fire this early
            if over:
                for task in late:
                    task.cancel()
            try:
                await asyncio.wait(late, timeout=None if over else left)
            except asyncio.CancelledError as error:
                cancellation = error
    return cancellation
