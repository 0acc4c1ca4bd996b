"""Make writes so that none is carried out twice and none is lost (WIRE §5.4, §5.5).

A write runs in a task of its own, which `async_vmapi.writes.shield` protects from its caller's
cancellation. If its outcome is unknown, an idempotent write is retried; a create is looked for, a
reboot or reset is watched for, and none of these is ever sent again without proof.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

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
from async_vmapi.models import CreateRequest, VirtualMachine
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.reads import is_missing
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.token import DoubtToken, read, seal
from async_vmapi.tasks.vm_list import FRESH, VMList, VMListSource
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.retries import BEFORE_SENDING, AttemptLog, is_explained, repeatable_trail
from async_vmapi.writes.lookup import Lookup, LookupResult, unknown, unnoticed
from async_vmapi.writes.pending_create import PendingCreate, PendingCreates, intended_by
from async_vmapi.writes.record import Write
from async_vmapi.writes.shield import Shield

__all__ = ["Writes"]

T = TypeVar("T")

_log: Final = logger_of(__name__)


class Writes:
    """Makes the writes of a client.

    Args:
        pipeline: What sends.
        hub: What watches.
        rosters: What lists the VMs.
        shield: What runs the writes.
        window: Seconds for which the outcome of a write is looked for.
        max_staleness: How old a response's content can be, in seconds.

    Attributes:
        shield: As above.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        hub: PollHub,
        rosters: VMListSource,
        shield: Shield,
        *,
        window: float,
        max_staleness: float = 10.0,
    ) -> None:
        self._pipeline = pipeline
        self._hub = hub
        self._rosters = rosters
        self.shield = shield
        self._window = window
        self._creates = PendingCreates(pipeline, max_staleness=max_staleness)
        self._closing = False

    # --- the three kinds of writes --------------------------------------------------------------

    async def prepare(self, request: CreateRequest, *, unique: bool) -> str:
        """Return the token of a create that is about to be made; see `VirtualMachines.prepare`."""
        creation = PendingCreate(
            request.name, request.cpus, request.ram, unique, self._pipeline.origin, self._window
        )
        if unique:
            creation.known = frozenset()
        elif (roster := await self._list_before(creation)) is not None:
            creation.known = roster.ids_named(creation.name)
        return seal(self._creates.token(creation))

    async def create(
        self,
        request: CreateRequest,
        call: Call,
        *,
        unique: bool,
        retry: bool,
        intent: str | None = None,
        maybe_sent: bool = False,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]:
        """Make a create; see `VirtualMachines.create`."""
        window = self._window_of(reconcile_timeout)
        intended = (
            None
            if intent is None
            else intended_by(intent, request, unique=unique, origin=self._pipeline.origin)
        )
        creation = self._creates.begin(
            request.name,
            request.cpus,
            request.ram,
            unique=unique,
            origin=self._pipeline.origin,
            window=window,
        )
        check = BEFORE_SENDING.get()

        def before_sending() -> None:
            if check is not None:
                check()
            self._creates.sets_out(creation)

        creation.trail.before_sending = before_sending
        if intended is not None and intended.known is not None:
            creation.known = frozenset(intended.known)
        write = Write(
            "create",
            name=request.name,
            trail=creation.trail,
            token=lambda: seal(self._creates.token(creation)),
        )
        try:
            if maybe_sent:
                self._creates.resume(creation)
                body = self._create_on_doubt(creation, call, None, retry=retry)
            else:
                ask = retry or creation.known is None
                body = self._create(creation, call, retry=retry, ask=ask)
            return await self.shield.run(write, body)
        finally:
            self._creates.end(creation)

    def _window_of(self, reconcile_timeout: float | None) -> float:
        if reconcile_timeout is None:
            return self._window
        return validation.number("reconcile_timeout", reconcile_timeout, least=0.0)

    async def _create(
        self, creation: PendingCreate, call: Call, *, retry: bool, ask: bool
    ) -> Task[VirtualMachine]:
        roster = await self._list_before(creation) if ask else self._rosters.recent()
        if roster is not None:
            creation.baseline = roster.ids
            if creation.known is None:
                creation.known = roster.ids_named(creation.name)
        try:
            return self._created(await self._send(creation, call))
        except Exception as error:
            # Of whatever kind: once it may have been sent, its outcome is unknown.
            if not creation.trail.doubtful:
                raise
            return await self._create_on_doubt(creation, call, error, retry=retry)

    async def _create_on_doubt(
        self, creation: PendingCreate, call: Call, cause: Exception | None, *, retry: bool
    ) -> Task[VirtualMachine]:
        found = await self._look_for(creation, retry=retry)
        if retry and found.is_proof:
            about = {"vmapi_call": call.name, "vmapi_name": creation.name}
            _log.info("there is no VM %r; its create is retried", creation.name, extra=about)
            creation.retried = True
            try:
                return self._created(await self._send(creation, call))
            except Exception as error:  # noqa: BLE001 - of whatever kind, it is looked for again
                cause = error
            found = await self._look_for(creation)
        if found.vm_id is None:
            raise unknown(self._creates, creation, found) from cause
        return self._created(found.vm_id, adopted=True)

    async def _look_for(self, creation: PendingCreate, *, retry: bool = False) -> LookupResult:
        return await Lookup(
            self._creates, creation, self._pipeline, self._rosters, retry=retry
        ).run()

    async def _list_before(self, creation: PendingCreate) -> VMList | None:
        try:
            roster = await self._rosters.get(asyncio.get_running_loop().time() - FRESH)
        except (ConnectError, RateLimited):
            # So would the create fail.
            raise
        except (APIError, DecodingError, TransportError) as error:
            # Not reason enough to create nothing; but then its VM may not be recognized.
            kind = type(error).__name__
            about = {"vmapi_name": creation.name, "vmapi_error": kind}
            _log.debug("the list before a create failed: %s", kind, extra=about)
            return None
        self._creates.history.compare(roster)
        return roster

    async def _send(self, creation: PendingCreate, call: Call) -> str:
        creation.answered.clear()
        creation.in_doubt = False
        try:
            vm_id = await self._pipeline.call(call, codec.CREATED, creation.trail)
            self._creates.history.created(vm_id, creation.name)
        except Exception:
            creation.in_doubt = creation.trail.doubtful
            raise
        finally:
            creation.answered.set()
        return vm_id

    def _created(self, vm_id: str, *, adopted: bool = False) -> Task[VirtualMachine]:
        # Of one that is adopted, reads have shown that it is there.
        return tasks.start(
            self._hub,
            self._pipeline.origin,
            vm_id,
            Target("create"),
            visible=adopted,
            adopted=adopted,
        )

    async def repeatable(
        self,
        call: Call,
        vm_id: str,
        target: Target,
        begin: Callable[[bool], Task[T]],
        missing: Callable[[], Task[T]] | None = None,
    ) -> Task[T]:
        """Make a write that names its end; on doubt it is repeated.

        Args:
            call: The call.
            vm_id: The machine.
            target: What is requested.
            begin: Makes the task, told whether the answer that accepted it was lost.
            missing: Makes the task if the API says that the VM is not there; None to raise that.
        """
        trail = repeatable_trail()
        write = Write(call.name, vm_id=vm_id, trail=trail, token=lambda: begin(True).token())

        async def make() -> Task[T]:
            # Its VM is no create's, from now on: the request may be carried out at any moment.
            noted = call.name == "delete" and self._creates.history.deleted(vm_id)
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except VMAPIError as error:
                explained = is_explained(call.name, error)
                if not write.trail.doubtful:
                    if missing and await is_missing(self._pipeline, vm_id, error):
                        return missing()
                    if noted and not explained:
                        self._creates.history.not_deleted(vm_id)
                    raise
                if not explained:
                    self._hub.may_have_changed(vm_id, target)
                    raise
                return begin(True)
            if write.trail.doubtful:
                # It may be carried out a second time; what shows early may be of the first.
                self._hub.may_have_changed(vm_id, target)
            return begin(False)

        return await self.shield.run(write, make())

    async def rename(self, call: Call, vm_id: str, name: str, get: Call) -> None:
        """Make a rename; `get` is the call that shows the machine."""
        write = Write("rename", vm_id=vm_id, name=name, trail=repeatable_trail())
        self._creates.history.renamed(vm_id)

        async def make() -> None:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except Conflict:
                if not write.trail.doubtful:
                    raise
                if (await self._pipeline.call(get, codec.VM)).label != name:
                    raise

        await self.shield.run(write, make())

    async def once(
        self,
        operation: Literal["reboot", "reset"],
        call: Call,
        vm_id: str,
        *,
        visible: bool,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]:
        """Make a reboot or reset, which is never repeated on doubt."""
        window = self._window_of(reconcile_timeout)
        trail = AttemptLog(before_sending=BEFORE_SENDING.get())

        def token() -> DoubtToken:
            return DoubtToken(self._pipeline.origin, operation, vm=vm_id, trace=trail.trace)

        write = Write(operation, vm_id=vm_id, trail=trail, token=lambda: seal(token()))

        async def make() -> Task[VirtualMachine]:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except Exception as error:
                if not write.trail.doubtful:
                    raise
                cause = error
            else:
                return tasks.start(
                    self._hub, self._pipeline.origin, vm_id, Target(operation), visible=visible
                )
            return await self._watch_for(token(), cause, window)

        return await self.shield.run(write, make())

    async def _watch_for(
        self, token: DoubtToken, cause: Exception | None, window: float
    ) -> Task[VirtualMachine]:
        """Return the task of a reboot or reset once the machine is seen to leave ``online``."""
        task = tasks.start(self._hub, token.origin, token.vm, Target(token.operation), adopted=True)
        try:
            if not self._closing and await task.has_begun(within=window):
                return task
        except VMAPIError as error:
            cause = cause or error
        tasks.forget(task)
        raise unnoticed(token) from cause

    # --- going on -------------------------------------------------------------------------------

    async def reconcile(
        self,
        text: str,
        *,
        besides: frozenset[str] = frozenset(),
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine | None]:
        """Find out what became of a write; see `Client.reconcile`.

        Args:
            text: The token.
            besides: Machines that surely are not what a create made.
            reconcile_timeout: Seconds to look for; None for the client's own.
        """
        window = self._window_of(reconcile_timeout)
        token = read(text, self._pipeline.origin)
        task: Task[Any]
        if isinstance(token, DoubtToken):
            task = await self._settled(token, besides, window)
        else:
            task = tasks.resume(self._hub, self._pipeline.origin, text)
        self.shield.taken_up(text)
        return task

    async def _settled(
        self, token: DoubtToken, besides: frozenset[str], window: float
    ) -> Task[VirtualMachine]:
        followed = None
        if (observer := self._pipeline.observer) is not None:
            followed = observer.operation(
                token.operation, token.vm or None, elapsed=0.0, trace=token.trace
            )
        try:
            if token.operation == "create":
                task = await self._found(token, besides, window)
            else:
                task = await self._watch_for(token, None, window)
        except BaseException as error:
            if followed is not None:
                gone = isinstance(error, asyncio.CancelledError)
                followed.ended("cancelled" if gone else "error", None if gone else error)
            raise
        if followed is not None:
            tasks.follow(task, followed)
        return task

    async def _found(
        self, token: DoubtToken, besides: frozenset[str], window: float
    ) -> Task[VirtualMachine]:
        creation = self._creates.take_up(token, besides, window)
        try:
            found = await self._look_for(creation)
            if found.vm_id is None:
                raise unknown(self._creates, creation, found)
        finally:
            self._creates.end(creation)
        return self._created(found.vm_id, adopted=True)

    async def close(self) -> None:
        """Wait, for a while, for what is in flight; then let go of it."""
        self._closing = True
        self._creates.stop()
        try:
            await self.shield.close()
        finally:
            self._creates.start()
            self._closing = False
