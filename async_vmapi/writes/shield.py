"""Shield writes from cancellation, and account for each whose caller is gone (WIRE §5.4).

A write runs in a task of its own, so that cancelling its caller does not abort the request. What
the caller can no longer be given is kept in `Shield.unresolved`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import attrs

from async_vmapi.errors import InvalidArgument, InvalidState, OutcomeUnknown
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.guards import Guard
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import Pipeline
from async_vmapi.writes.record import WRITES, UnresolvedWrite, Write

__all__ = ["CANCEL_GRACE", "Shield"]

T = TypeVar("T")

_log: Final = logger_of(__name__)

CANCEL_GRACE: Final = 10.0
"""Seconds for which a cancelled caller, or closing, waits for the outcome of what was sent."""

_MOST_NAMED: Final = 20


class Shield:
    """Runs the writes of a client to their end.

    Args:
        pipeline: What sends.
        grace: Seconds for which a cancelled caller, or `close`, waits for what was sent.
        on_unresolved: Called with each write that becomes unresolved; None for nothing.
        guard: Calls it.
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

    # --- what is unresolved ---------------------------------------------------------------------

    @property
    def unresolved(self) -> tuple[UnresolvedWrite, ...]:
        """Writes of whose outcome their callers do not know, since they were cancelled."""
        return tuple(self._unresolved)

    def resumed(self, token: str) -> None:
        """Forget what is unresolved under this token: somebody goes on with it."""
        self._unresolved = [write for write in self._unresolved if write.token != token]

    def dismiss(self, write: UnresolvedWrite) -> None:
        """Forget an unresolved write."""
        if write not in self._unresolved:
            raise InvalidArgument("write is not among the unresolved ones", argument="write")
        self._unresolved.remove(write)

    def _add(self, write: UnresolvedWrite) -> None:
        self._unresolved.append(write)
        if (on_unresolved := self._on_unresolved) is not None:
            self._guard.call("on_unresolved", lambda: on_unresolved(write))

    def _replace(self, before: UnresolvedWrite | None, write: UnresolvedWrite | None) -> None:
        """List what is known in the end of a write in place of what was known before."""
        was_there = before is not None and before in self._unresolved
        if before is not None and was_there:
            self._unresolved.remove(before)
        if write is None:
            return
        if before is None or write.token != before.token:
            self._add(write)
        elif was_there:
            # `on_unresolved` knows it.
            self._unresolved.append(write)
        else:
            # Someone goes on with it.
            return
        extra = {"vmapi_operation": write.operation, "vmapi_token": write.token}
        _log.warning("unresolved: %s; its token: %s", write, write.token, extra=extra)

    # --- running them ---------------------------------------------------------------------------

    async def run(self, write: Write, body: Coroutine[Any, Any, T]) -> T:
        """Return what a write returns; see the module for what cancelling does."""
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
            # Also where nobody is left who waits for it.
            inner.add_done_callback(lambda _: write.tell())
        if (noted := WRITES.get()) is not None:
            noted.append(write)
        self._running[inner] = write
        inner.add_done_callback(self._running.pop)
        try:
            await asyncio.wait({inner})
        except asyncio.CancelledError as cancellation:
            write.left = True
            before: UnresolvedWrite | None = None
            if write.outcome_unknown:
                # At once: the process may not live for as long as the response takes.
                before = _unresolved_write(
                    write, "its caller was cancelled, and no response came yet"
                )
                extra = {"vmapi_operation": write.operation, "vmapi_token": before.token}
                _log.info("in doubt: %s; its token: %s", before, before.token, extra=extra)
                self._add(before)
            elif not write.attempts.outcome_unknown:
                # Nothing was sent.
                inner.cancel()
            await _wait_out({inner}, self._grace)
            if note := self._account_for(write, inner, before):
                cancellation.add_note(note)
            raise
        if inner.cancelled():
            # By "cancel all tasks", or by close.
            note = self._account_for(write, inner)
            if write.closed:
                raise InvalidState(note or "the client was closed before the request was sent")
        # An eager task is over before it has a callback, and its caller is told of it first.
        write.tell()
        return inner.result()

    def _account_for(
        self, write: Write, inner: asyncio.Task[Any], before: UnresolvedWrite | None = None
    ) -> str | None:
        """Keep what the caller of a write cannot be told, and return it in words."""
        write.tell()
        kept: UnresolvedWrite | None = None
        note: str | None = None
        error = None if inner.cancelled() else inner.exception()
        if inner.cancelled() or (error is not None and not isinstance(error, OutcomeUnknown)):
            if write.attempts.outcome_unknown:
                kept = _unresolved_write(write, "no answer told whether it was carried out")
        elif isinstance(error, OutcomeUnknown):
            reason = "no answer told whether it was carried out, and looking did not either"
            kept = UnresolvedWrite(
                error.operation, error.name, error.vm_id, reason, error.candidates, error.token
            )
        elif write.operation == "create":
            task: Task[Any] = inner.result()
            reason = f"it was accepted as {task.vm_id}, and its caller cancelled"
            kept = UnresolvedWrite("create", write.name, task.vm_id, reason, token=task.token())
            # It is in one of the two lists.
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
        """Wait, for a while, for what is in flight; then let go of it."""
        loop = asyncio.get_running_loop()
        running = {task: write for task, write in self._running.items() if task.get_loop() is loop}
        for task, write in running.items():
            write.closed = True
            if not write.attempts.outcome_unknown:
                task.cancel()
        cancellation = await _wait_out(set(running), self._grace) if running else None
        # Let their callers learn of it first.
        await anyio.lowlevel.cancel_shielded_checkpoint()
        if self._unresolved:
            named = [str(write) for write in self._unresolved[:_MOST_NAMED]]
            more = len(self._unresolved) - len(named)
            named += [f"and {more} more"] if more else []
            count = len(self._unresolved)
            told = "closed with %d writes unresolved: %s"
            _log.warning(told, count, "; ".join(named), extra={"vmapi_unresolved": count})
        if cancellation is not None:
            raise cancellation


def _unresolved_write(write: Write, reason: str) -> UnresolvedWrite:
    return UnresolvedWrite(write.operation, write.name, write.vm_id, reason, token=write.token())


async def _wait_out(running: set[asyncio.Task[Any]], grace: float) -> asyncio.CancelledError | None:
    """Wait until writes are at their end, and let go of them after `grace` seconds.

    Cancelling does not shorten it, but is returned.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    cancellation: asyncio.CancelledError | None = None
    # anyio cancels again and again, but for what is shielded; others may cancel once more.
    with anyio.CancelScope(shield=True):
        while late := [task for task in running if not task.done()]:
            left = until - loop.time()
            over = left <= 0.001  # timers may go off this much early
            if over:
                for task in late:
                    task.cancel()
            try:
                await asyncio.wait(late, timeout=None if over else left)
            except asyncio.CancelledError as error:
                cancellation = error
    return cancellation
