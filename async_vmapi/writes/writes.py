"""Make writes at most once, and lose none (WIRE §5.4, §5.5).

A write runs in its own asyncio task, which `async_vmapi.writes.shield` protects from its caller's
cancellation. If the outcome is unknown, an idempotent write is retried. For a create the client
searches for the VM, for a reboot or reset it polls the VM. It sends none of these again, except a
create that certainly made no VM.
"""

import asyncio
from typing import Any, Final, Literal, cast

import attrs

from async_vmapi import validation
from async_vmapi.errors import (
    APIError,
    Conflict,
    ConnectError,
    DecodingError,
    RateLimited,
    TransportError,
    VMAPIError,
)
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.reads import is_missing
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.token import IntentToken, read, ready_of, seal, stored
from async_vmapi.tasks.vm_list import FRESH, VMList, VMListSource
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.retries import is_explained
from async_vmapi.writes.lookup import Lookup, unobserved
from async_vmapi.writes.pending_create import PendingCreate, PendingCreates, read_intent
from async_vmapi.writes.record import FUNCTION, WriteContext
from async_vmapi.writes.shield import Shield

__all__ = ["Writes"]

_log: Final = logger_of(__name__)


class Writes:
    """Makes the writes of a client.

    Args:
        pipeline: Sends the requests.
        hub: Polls the VMs.
        vm_lists: Reads lists.
        shield: Runs the writes.
        window: Seconds for which an unknown outcome is reconciled.
        max_staleness: Maximum age of the data in a response, in seconds.

    Attributes:
        shield: As above.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        hub: PollHub,
        vm_lists: VMListSource,
        shield: Shield,
        *,
        window: float,
        max_staleness: float = 10.0,
    ) -> None:
        self._pipeline = pipeline
        self._hub = hub
        self._vm_lists = vm_lists
        self.shield = shield
        self._window = window
        self._creates = PendingCreates(pipeline, hub.changes, max_staleness=max_staleness)

    # --- the three kinds of writes --------------------------------------------------------------

    async def prepare(self, request: CreateRequest, *, unique: bool) -> str:
        """Return the intent token of a create; see `VirtualMachines.prepare`."""
        pending = PendingCreate(request.name, request.cpus, request.ram, unique, self._window)
        if not unique and (vm_list := await self._list_before(pending)) is not None:
            pending.known = vm_list.ids_named(pending.name)
        return seal(self._creates.token(pending))

    async def create(
        self,
        context: WriteContext | None,
        request: CreateRequest,
        call: Call,
        target: Target,
        *,
        unique: bool,
        retry: bool,
        intent: str | None = None,
        maybe_sent: bool = False,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]:
        """Make a create; see `VirtualMachines.create`."""
        window = self._window_of(reconcile_timeout)
        known = None
        if intent is not None:
            known = read_intent(intent, request, unique=unique, origin=self._pipeline.origin).known
        pending = self._creates.begin(request, target, unique=unique, window=window)
        if known is not None:
            pending.known = frozenset(known)
        write = _context(context).begin(
            "create", lambda: seal(self._creates.token(pending)), name=request.name
        )
        check = write.attempts.before_sending

        def before_sending() -> None:
            if check is not None:
                check()
            self._creates.note_sending(pending)

        pending.attempts = write.attempts
        pending.attempts.before_sending = before_sending
        try:
            if maybe_sent:
                self._creates.mark_maybe_sent(pending)
                body = self._reconcile_create(pending, None, call if retry else None)
            else:
                ask = retry or pending.known is None
                body = self._create(pending, call, retry=retry, ask=ask)
            return await self.shield.run(write, body)
        finally:
            self._creates.end(pending)

    def _window_of(self, reconcile_timeout: float | None) -> float:
        if reconcile_timeout is None:
            return self._window
        return validation.number("reconcile_timeout", reconcile_timeout, least=0.0)

    async def _create(
        self, pending: PendingCreate, call: Call, *, retry: bool, ask: bool
    ) -> Task[VirtualMachine]:
        vm_list = await self._list_before(pending) if ask else self._vm_lists.recent()
        if vm_list is not None:
            pending.baseline = vm_list.ids
            if pending.known is None:
                pending.known = vm_list.ids_named(pending.name)
        try:
            return self._created(pending, await self._send(pending, call))
        except Exception as error:
            # Any exception: once the request may have been sent, the outcome is unknown.
            if not pending.attempts.outcome_unknown:
                raise
            return await self._reconcile_create(pending, error, call if retry else None)

    async def _reconcile_create(
        self, pending: PendingCreate, cause: Exception | None, resend: Call | None = None
    ) -> Task[VirtualMachine]:
        """Find the VM of a create, or make the call `resend` after proof that there is none."""
        retry = resend is not None
        lookup = Lookup(self._creates, pending, self._pipeline, self._vm_lists, retry=retry)
        if (vm_id := await lookup.run()) is not None:
            return self._created(pending, vm_id, adopted=True)
        if resend is None or not lookup.proves_absence:
            raise lookup.outcome_unknown() from cause
        extra = {"vmapi_call": resend.name, "vmapi_name": pending.name}
        _log.info("there is no VM %r; its create is retried", pending.name, extra=extra)
        pending.retried = True
        try:
            return self._created(pending, await self._send(pending, resend))
        except Exception as error:  # noqa: BLE001 - whatever it is, search again
            cause = error
        return await self._reconcile_create(pending, cause)

    async def _list_before(self, pending: PendingCreate) -> VMList | None:
        try:
            vm_list = await self._vm_lists.get(asyncio.get_running_loop().time() - FRESH)
        except (ConnectError, RateLimited):
            # The create would fail, too.
            raise
        except (APIError, DecodingError, TransportError) as error:
            # Create the VM nevertheless, although a lookup may not recognize it.
            kind = type(error).__name__
            extra = {"vmapi_name": pending.name, "vmapi_error": kind}
            _log.debug("the list before a create failed: %s", kind, extra=extra)
            return None
        self._hub.changes.compare(vm_list)
        return vm_list

    async def _send(self, pending: PendingCreate, call: Call) -> str:
        pending.responded.clear()
        pending.outcome_unknown = False
        try:
            vm_id = await self._pipeline.call(call, codec.CREATED, pending.attempts)
            self._hub.changes.created(vm_id, pending.name)
        except Exception:
            pending.outcome_unknown = pending.attempts.outcome_unknown
            raise
        finally:
            pending.responded.set()
        return vm_id

    def _created(
        self, pending: PendingCreate, vm_id: str, *, adopted: bool = False
    ) -> Task[VirtualMachine]:
        # Reads have shown a VM that is adopted.
        return tasks.start(self._hub, vm_id, pending.target, visible=adopted, adopted=adopted)

    async def idempotent(
        self,
        context: WriteContext | None,
        call: Call,
        vm_id: str,
        target: Target,
        *,
        visible: bool,
        missing_ok: bool = False,
    ) -> Task[Any]:
        """Make an idempotent write, which is retried if its outcome is unknown.

        Args:
            context: What bulk calls and durable jobs pass.
            call: The call.
            vm_id: The VM's id.
            target: The target state.
            visible: Whether a read has shown the VM.
            missing_ok: Whether to return a task if the VM does not exist, too.
        """

        def begin(*, adopted: bool = False) -> Task[Any]:
            return tasks.start(self._hub, vm_id, target, visible=visible, adopted=adopted)

        write = _context(context).begin(call.name, lambda: begin(adopted=True).token(), vm_id=vm_id)

        async def make() -> Task[Any]:
            # No create may adopt the VM from now on: the request may be carried out at any moment.
            noted = call.name == "delete" and self._hub.changes.deleted(vm_id)
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.attempts)
            except VMAPIError as error:
                explained = is_explained(call.name, error)
                if not write.attempts.outcome_unknown:
                    if missing_ok and await is_missing(self._pipeline, vm_id, error):
                        missing = attrs.evolve(target, was_missing=True)
                        return tasks.start(self._hub, vm_id, missing, visible=visible)
                    if noted and not explained:
                        self._hub.changes.not_deleted(vm_id)
                    raise
                if not explained:
                    self._hub.changes.begin(vm_id, target)
                    raise
                return begin(adopted=True)
            if write.attempts.outcome_unknown:
                # It may be carried out again; early observations may be of the first time.
                self._hub.changes.begin(vm_id, target)
            return begin()

        return await self.shield.run(write, make())

    async def rename(
        self, context: WriteContext | None, call: Call, vm_id: str, name: str, get: Call
    ) -> None:
        """Make a rename; `get` is the call that reads the VM."""
        write = _context(context).begin("rename", lambda: None, vm_id=vm_id, name=name)
        self._hub.changes.renamed(vm_id)

        async def make() -> None:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.attempts)
            except Conflict:
                if not write.attempts.outcome_unknown:
                    raise
                if (await self._pipeline.call(get, codec.VM)).label != name:
                    raise

        await self.shield.run(write, make())

    async def once(
        self,
        context: WriteContext | None,
        call: Call,
        vm_id: str,
        target: Target,
        *,
        visible: bool,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]:
        """Make a reboot or reset, which is never retried if its outcome is unknown."""
        window = self._window_of(reconcile_timeout)
        operation = cast(Literal["reboot", "reset"], target.operation)

        def token() -> IntentToken:
            trace = write.attempts.trace
            text = stored(target.ready)
            return IntentToken(self._pipeline.origin, operation, vm=vm_id, trace=trace, ready=text)

        write = _context(context).begin(operation, lambda: seal(token()), vm_id=vm_id)

        async def make() -> Task[VirtualMachine]:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.attempts)
            except Exception as error:
                if not write.attempts.outcome_unknown:
                    raise
                cause = error
            else:
                return tasks.start(self._hub, vm_id, target, visible=visible)
            return await self._watch(token(), cause, window, target)

        return await self.shield.run(write, make())

    async def _watch(
        self, token: IntentToken, cause: Exception | None, window: float, target: Target
    ) -> Task[VirtualMachine]:
        """Return the task of a reboot or reset once its VM is observed to leave ``online``."""
        task = tasks.start(self._hub, token.vm, target, adopted=True)
        try:
            if not self._creates.stopping.is_set() and await tasks.has_begun(task, window):
                return task
        except VMAPIError as error:
            cause = cause or error
        tasks.forget(task)
        raise unobserved(token) from cause

    def wait_ready(self, vm_id: str, target: Target) -> Task[VirtualMachine]:
        """Return the task that waits for a VM to be ready; it makes no write."""
        self._pipeline.ensure_usable()
        task = tasks.start(self._hub, vm_id, target)
        tasks.forget(task)
        if (observer := self._pipeline.observer) is not None:
            tasks.follow(task, observer.operation("wait_ready", vm_id))
        return task

    # --- reconciling ----------------------------------------------------------------------------

    async def reconcile(
        self,
        text: str,
        *,
        besides: frozenset[str] = frozenset(),
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine | None]:
        """Find out the outcome of a write; see `Client.reconcile`.

        Args:
            text: The token.
            besides: Ids of VMs that the create certainly did not make.
            reconcile_timeout: Maximum seconds to search; None for the client's setting.
        """
        window = self._window_of(reconcile_timeout)
        token = read(text, self._pipeline.origin)
        task: Task[Any]
        if isinstance(token, IntentToken):
            task = await self._reconcile_write(token, besides, window)
        else:
            task = tasks.resume(self._hub, text)
        self.shield.resumed(text)
        return task

    async def _reconcile_write(
        self, token: IntentToken, besides: frozenset[str], window: float
    ) -> Task[VirtualMachine]:
        observed = None
        if (observer := self._pipeline.observer) is not None:
            observed = observer.operation(
                token.operation, token.vm or None, elapsed=0.0, trace=token.trace
            )
        try:
            if token.operation == "create":
                task = await self._find_vm(token, besides, window)
            else:
                target = Target(token.operation, ready=ready_of(token))
                task = await self._watch(token, None, window, target)
        except BaseException as error:
            if observed is not None:
                gone = isinstance(error, asyncio.CancelledError)
                observed.ended("cancelled" if gone else "error", None if gone else error)
            raise
        if observed is not None:
            tasks.follow(task, observed)
        return task

    async def _find_vm(
        self, token: IntentToken, besides: frozenset[str], window: float
    ) -> Task[VirtualMachine]:
        pending = self._creates.resume(token, besides, window)
        try:
            return await self._reconcile_create(pending, None)
        finally:
            self._creates.end(pending)

    async def close(self) -> None:
        """Stop reconciling, and wait for responses to writes in flight for the grace period."""
        self._creates.stopping.set()
        try:
            await self.shield.close()
        finally:
            # It may be opened again in another event loop.
            self._creates.stopping = asyncio.Event()


def _context(context: WriteContext | None) -> WriteContext:
    return context or FUNCTION.get() or WriteContext()
