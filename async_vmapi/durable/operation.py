"""One item of a durable job, on the worker that dequeued it: prepare, send, watch, check.

Anything needed after a crash is stored before it matters: an intent before a write that must not be
sent twice, and the task's token after it. See docs/durable.md for each moment at which a worker can
die.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import attrs
from dbos import DBOS

from async_vmapi.bulk import outcomes
from async_vmapi.bulk.health import checked, unchecked
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.durable.rows import decoding
from async_vmapi.durable.spec import Order, decode, encode
from async_vmapi.durable.store import operation_id
from async_vmapi.errors import APIError, AuthenticationError, OutcomeUnknown, VMAPIError
from async_vmapi.models.serialization import Document
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.tasks.task import Task, forget
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.retries import is_explained
from async_vmapi.vms import bound
from async_vmapi.writes.operations import operation_spec
from async_vmapi.writes.record import Write, WriteContext, is_task

if TYPE_CHECKING:
    from async_vmapi.durable.worker import Worker

__all__ = ["CANCELLED", "Operation"]

_log: Final = logger_of(__name__)

CANCELLED: Final = "the job was cancelled"

_ATTEMPTS: Final = 3
"""Maximum attempts of a create that may be retried; each first reconciles the previous one."""


@attrs.frozen
class _Step(Document):
    """The stored result of a step.

    Attributes:
        token: The token of the intent, or of the accepted task.
        ended: How the operation ended, if there is nothing more to do.
        began: When it began, in seconds since the epoch.
        refused: Whether the API refused both the write and that worker's credentials altogether.
            Then the worker that resumes the item starts it again.
    """

    token: str | None = None
    ended: str | None = None
    began: float = 0.0
    refused: bool = False


class _NoLease(VMAPIError):
    """The lease was no longer certain by the time that a queued request could be sent."""


class Operation:
    """Runs an item's operation from its first unfinished step.

    Args:
        worker: The worker.
        order: The item's operation.
    """

    def __init__(self, worker: "Worker", order: Order) -> None:
        self._worker = worker
        self._order = order
        label = order.label
        vm_id = None if order.operation == "create" else label
        self._item = BulkItem(order.index, label, _never, vm_id)
        self._key = operation_id(order.job, order.index)
        self._prepared_here = False
        self._task: Task[Any] | None = None
        self._refused_here = False
        # The loop's time when this worker dequeued the item, and when it sent the request.
        self._taken = self._sent = 0.0

    @property
    def task(self) -> Task[Any] | None:
        """The accepted task, if this worker knows it."""
        return self._task

    async def run(self) -> str:
        """Run the operation, and return its result, encoded."""
        self._taken = _now()
        turn, sent = 1, await self._prepare_and_send("")
        while sent.refused:
            if self._refused_here:
                # It is stored that nothing was done; another worker runs the item.
                raise asyncio.CancelledError
            turn += 1
            sent = await self._prepare_and_send(f" {turn}")
        order = self._order
        if sent.ended is not None:
            ended = decode(sent.ended, Ended)
        elif order.plan.check is None:
            ended = await self._watch(sent)
        else:
            # Stored, so that a worker that takes over repeats only the check.
            watched = await _step("watch", partial(self._watch_to_step, sent))
            ended = decode(watched.ended, Ended)
        try:
            return encode(await checked(ended, order.operation, order.plan, self._wait_ready))
        except VMAPIError as error:
            why = f"its check broke off: {error}"
            return encode(unchecked(ended, order.operation, why, sent.token, error))

    async def _prepare_and_send(self, turn: str) -> _Step:
        intent: str | None = None
        with self._worker.sending():
            if not operation_spec(self._order.operation).idempotent:
                intended = await _step(f"prepare{turn}", self._prepare)
                if intended.ended is not None:
                    return intended
                intent = intended.token
            sent = await _step(f"send{turn}", partial(self._send, intent))
            self._worker.unrecorded.pop(self._key, None)
        return sent

    # --- steps ----------------------------------------------------------------------------------

    async def _prepare(self) -> _Step:
        if (early := await self._if_stopped()) is not None:
            return early
        # An expired worker must not record an intent.
        await self._worker.leases.wait_until_held()
        vms, order = self._worker.client.vms, self._order
        operation = cast(Literal["create", "reboot", "reset"], order.operation)
        try:
            if isinstance(order.item, str):
                token = await vms.prepare(operation, order.item)
            else:
                unique = bool(order.arguments.get("unique_name"))
                token = await vms.prepare(operation, order.item, unique_name=unique)
        except VMAPIError as error:
            await self._hand_over_if_refused(error)
            # Preparing sends only reads.
            return self._failed(error)
        # If this process dies now, the step runs again; only a read was sent.
        self._prepared_here = True
        return _Step(token=token)

    async def _send(self, intent: str | None) -> _Step:
        if (kept := self._worker.unrecorded.get(self._key)) is not None:
            return decode(kept, _Step)
        began, self._sent = time.time(), _now()
        if intent is not None and not self._prepared_here:
            return await self._reconcile(intent, began)
        if intent is None and (early := await self._if_stopped()) is not None:
            return early
        context = WriteContext(self._require_lease)
        try:
            started = await self._start_or_reconcile(intent, context)
        except Exception as error:  # noqa: BLE001 - it would end the workflow, unexplained
            write = context.last
            if intent is None:
                await self._hand_over_if_refused(error)
            elif isinstance(error, AuthenticationError) and not (write and write.outcome_unknown):
                self._refused_here = await self._worker.access.is_refused()
                if self._refused_here:
                    return _Step(refused=True)
            return self._failed(error, write)
        if not is_task(started):
            seconds = _now() - self._sent
            done = outcomes.succeeded(self._item, None, started, seconds=seconds, wave=1)
            return _Step(ended=encode(done))
        self._task = started
        return self._accepted(began)

    def _accepted(self, began: float) -> _Step:
        task = cast("Task[Any]", self._task)
        step = _Step(token=task.token(), began=began)
        # If the database is unavailable now, this worker repeats the step without reconciling.
        self._worker.unrecorded[self._key] = encode(step)
        return step

    async def _start_or_reconcile(self, intent: str | None, context: WriteContext) -> Any:
        try:
            started = await self._start(intent, context)
            missing = is_task(started) and started.was_missing
            if not (missing and await self._worker.has_begun_before()):
                return started
            forget(started)
        except APIError as error:
            if intent is not None or not is_explained(self._order.operation, error):
                raise
            if not await self._worker.has_begun_before():
                raise
        # The refusal may be due to an earlier worker's request; send it again with that known.
        context.maybe_sent = True
        return await self._start(None, context)

    async def _start(
        self, intent: str | None, context: WriteContext, *, maybe_sent: bool = False
    ) -> Any:
        while True:
            await self._worker.leases.wait_until_held()
            try:
                return await self._make(intent, context, maybe_sent=maybe_sent)
            except _NoLease:
                # An earlier attempt may have been carried out before this one was held back.
                write = context.last
                context.maybe_sent |= write is not None and write.outcome_unknown

    def _require_lease(self) -> None:
        """Raise if another worker may have taken over the item by now."""
        if not self._worker.leases.holds():
            raise _NoLease

    async def _make(self, intent: str | None, context: WriteContext, *, maybe_sent: bool) -> Any:
        order, vms = self._order, bound(self._worker.client.vms, context)
        if isinstance(order.item, str):
            method: Callable[..., Awaitable[Any]] = getattr(vms, order.operation)
            keywords = {**operation_spec(order.operation).bulk_defaults, **order.arguments}
            return await method(order.item, **keywords)
        request = await self._worker.secrets.resolved(order.item)
        rounds = _ATTEMPTS if order.arguments.get("on_unknown") == "retry" else 1
        while True:
            try:
                return await vms.create(
                    request, intent=intent, maybe_sent=maybe_sent, **order.arguments
                )
            except OutcomeUnknown:
                rounds, maybe_sent = rounds - 1, True
                if not rounds:
                    raise

    async def _reconcile(self, intent: str, began: float) -> _Step:
        """Reconcile a write that an earlier worker may have made."""
        try:
            if self._order.arguments.get("on_unknown") == "retry":
                context = WriteContext(self._require_lease)
                self._task = await self._start(intent, context, maybe_sent=True)
            else:
                self._task = await self._worker.client.reconcile(intent)
        except Exception as error:  # noqa: BLE001 - it would end the workflow, without the token
            await self._hand_over_if_refused(error)
            if not isinstance(error, OutcomeUnknown):
                why = str(error) if isinstance(error, VMAPIError) else type(error).__name__
                error = OutcomeUnknown(
                    f"a worker died during the {self._order.operation} of {self._item.label}, and "
                    f"its outcome could not be reconciled: {why}",
                    operation=self._order.operation,
                    token=intent,
                )
            return self._failed(error)
        return self._accepted(began)

    async def _watch_to_step(self, sent: _Step) -> _Step:
        return _Step(ended=encode(await self._watch(sent)))

    async def _watch(self, sent: _Step) -> Ended:
        token, task = sent.token or "", self._task
        try:
            task = self._task = task or self._worker.client.resume(token)
            value: VirtualMachine | None = await task
        except Exception as error:  # noqa: BLE001 - it would end the workflow, unexplained
            await self._hand_over_if_refused(error)
            if task is None:
                error = OutcomeUnknown(f"it was accepted, but: {error}", token=token)
            return outcomes.failed(self._item, task, error, wave=1)
        seconds = self._seconds(sent.began)
        return outcomes.succeeded(self._item, task, value, seconds=seconds, wave=1)

    async def _wait_ready(self, vm_id: str, ready: Ready, timeout: float) -> VirtualMachine:
        try:
            return await self._worker.client.vms.wait_ready(vm_id, ready, timeout=timeout)
        except VMAPIError as error:
            await self._hand_over_if_refused(error)
            raise

    def _seconds(self, began: float) -> float:
        """Return how long the operation took."""
        if self._sent:
            return _now() - self._sent
        # Another process sent it, so there is only the wall clock, which can be set. A coordinator
        # that was running all the time limits the duration.
        return max(_now() - self._taken, time.time() - began)

    # --- results --------------------------------------------------------------------------------

    async def _hand_over_if_refused(self, error: Exception) -> None:
        """Cancel the item if the API refuses this worker, so that another worker runs it."""
        if isinstance(error, AuthenticationError) and await self._worker.access.is_refused():
            raise asyncio.CancelledError

    async def _if_stopped(self) -> _Step | None:
        if (why := await self._worker.stopped(self._order.job)) is None:
            return None
        ended = Ended(outcomes.outcome(self._item, "not_started", reason=why), untouched=True)
        return _Step(ended=encode(ended))

    def _failed(self, error: Exception, write: Write | None = None) -> _Step:
        if not isinstance(error, VMAPIError):
            kind = type(error).__name__
            fields = {"vmapi_operation": self._order.operation, "vmapi_error": kind}
            _log.error("%s of an item raised %s", self._order.operation, kind, extra=fields)
        return _Step(ended=encode(outcomes.failed(self._item, None, error, wave=1, write=write)))


async def _step(name: str, body: Callable[[], Awaitable[_Step]]) -> _Step:
    """Run a step unless its result is stored; afterwards it is."""

    async def run() -> str:
        return encode(await body())

    with decoding(f"the result of step {name!r}"):
        return decode(await DBOS.run_step_async({"name": name}, run), _Step)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _never(*_: object) -> None:
    """Fill in for `BulkItem.begin`, which is unused here."""
