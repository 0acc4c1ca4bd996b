"""Make writes so that none is carried out twice and none is lost (WIRE §5.4, §5.5).

A write runs in a task of its own, so that cancelling its caller does not tear it off the wire.
If its outcome is unknown, an idempotent write is retried; a create is looked for, a reboot or
reset is watched for, and none of these is ever sent again without proof.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.lowlevel

from async_vmapi import codec, tasks
from async_vmapi.accounts import WRITES, UnresolvedWrite, Write
from async_vmapi.completion import Target
from async_vmapi.doubt import Creates, Creation
from async_vmapi.errors import (
    APIError,
    Conflict,
    ConnectFailed,
    DecodingError,
    InvalidArgument,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    TransportError,
    VMAPIError,
)
from async_vmapi.hub import PollHub
from async_vmapi.lookup import Found, Lookup, unknown
from async_vmapi.models import CreateRequest, VirtualMachine
from async_vmapi.pipeline import Call, Pipeline
from async_vmapi.retries import Trail
from async_vmapi.roster import FRESH, Roster, Rosters
from async_vmapi.tasks import Task
from async_vmapi.tokens import DoubtToken, read, seal

__all__ = ["BEFORE_SENDING", "CANCEL_GRACE", "PERHAPS_SENT", "Writes", "is_explained"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)

CANCEL_GRACE: Final = 10.0
"""Seconds for which a cancelled caller, or closing, waits for the outcome of what was sent."""

_MOST_NAMED: Final = 20


BEFORE_SENDING: Final[ContextVar[Callable[[], None] | None]] = ContextVar(
    "BEFORE_SENDING", default=None
)
"""Who is asked at the moment that a write sets out, which may be long after it was made."""

PERHAPS_SENT: Final[ContextVar[bool]] = ContextVar("PERHAPS_SENT", default=False)
"""Whether a process that is gone may have sent the write already, of one that may be repeated."""


class Writes:
    """Makes the writes of a client.

    Args:
        pipeline: What sends.
        hub: What watches.
        rosters: What lists the VMs.
        window: Seconds for which the outcome of a write is looked for.
        max_staleness: How old a response's content can be, in seconds.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        hub: PollHub,
        rosters: Rosters,
        *,
        window: float,
        max_staleness: float = 10.0,
    ) -> None:
        self._pipeline = pipeline
        self._hub = hub
        self._rosters = rosters
        self._window = window
        self._creates = Creates(pipeline, window=window, max_staleness=max_staleness)
        self._running: dict[asyncio.Task[Any], Write] = {}
        self._unresolved: list[UnresolvedWrite] = []
        self._closing = False

    @property
    def unresolved(self) -> tuple[UnresolvedWrite, ...]:
        """Writes whose callers were cancelled before they could be told of them."""
        return tuple(self._unresolved)

    # --- the three kinds of writes --------------------------------------------------------------

    async def intend(self, request: CreateRequest, *, unique: bool) -> str:
        """Return the token of a create that is about to be made; see `VirtualMachines.intend`."""
        creation = Creation(request.name, request.cpus, request.ram, unique, self._pipeline.origin)
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
        perhaps_sent: bool = False,
    ) -> Task[VirtualMachine]:
        """Make a create; see `VirtualMachines.create`."""
        intended = None if intent is None else self._intended(request, intent, unique=unique)
        creation = self._creates.begin(
            request.name, request.cpus, request.ram, unique=unique, origin=self._pipeline.origin
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
            if perhaps_sent:
                self._creates.resume(creation)
                body = self._create_on_doubt(creation, call, None, retry=retry)
            else:
                ask = retry or creation.known is None
                body = self._create(creation, call, retry=retry, ask=ask)
            return await self._shielded(write, body)
        finally:
            self._creates.end(creation)

    def _intended(self, request: CreateRequest, intent: str, *, unique: bool) -> DoubtToken:
        token = read(intent, self._pipeline.origin)
        asked = (request.name, request.cpus, request.ram, unique)
        if (
            not isinstance(token, DoubtToken)
            or token.operation != "create"
            or (token.name, token.cores, token.ram, token.unique) != asked
        ):
            raise InvalidArgument("intent is not that of this create", argument="intent")
        return token

    async def _create(
        self, creation: Creation, call: Call, *, retry: bool, ask: bool
    ) -> Task[VirtualMachine]:
        roster = await self._list_before(creation) if ask else self._rosters.recent()
        if roster is not None:
            creation.baseline = roster.ids
            if creation.known is None:
                creation.known = roster.ids_named(creation.name)
        try:
            return self._created(await self._send(creation, call))
        except VMAPIError as error:
            if not creation.trail.doubtful:
                raise
            return await self._create_on_doubt(creation, call, error, retry=retry)

    async def _create_on_doubt(
        self, creation: Creation, call: Call, cause: VMAPIError | None, *, retry: bool
    ) -> Task[VirtualMachine]:
        found = await self._look_for(creation, retry=retry)
        if retry and found.is_proof:
            about = {"vmapi_call": call.name, "vmapi_name": creation.name}
            _log.info("there is no VM %r; its create is retried", creation.name, extra=about)
            creation.retried = True
            try:
                return self._created(await self._send(creation, call))
            except VMAPIError as error:
                cause = error
            found = await self._look_for(creation)
        if found.vm_id is None:
            raise unknown(self._creates, creation, found) from cause
        return self._created(found.vm_id, adopted=True)

    async def _look_for(self, creation: Creation, *, retry: bool = False) -> Found:
        return await Lookup(
            self._creates, creation, self._pipeline, self._rosters, retry=retry
        ).run()

    async def _list_before(self, creation: Creation) -> Roster | None:
        try:
            roster = await self._rosters.get(asyncio.get_running_loop().time() - FRESH)
        except (ConnectFailed, RateLimited):
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

    async def _send(self, creation: Creation, call: Call) -> str:
        creation.answered.clear()
        creation.in_doubt = False
        try:
            vm_id = await self._pipeline.call(call, codec.CREATED, creation.trail)
            self._creates.history.created(vm_id, creation.name)
        except VMAPIError:
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
    ) -> Task[T]:
        """Make a write that names its end; on doubt it is repeated.

        Args:
            call: The call.
            vm_id: The machine.
            target: What is requested.
            begin: Makes the task, told whether the answer that accepted it was lost.
        """
        trail = _repeatable_trail()
        write = Write(call.name, vm_id=vm_id, trail=trail, token=lambda: begin(True).token())

        async def make() -> Task[T]:
            # Its VM is no create's, from now on: the request may be carried out at any moment.
            noted = call.name == "delete" and self._creates.history.deleted(vm_id)
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except VMAPIError as error:
                explained = is_explained(call.name, error)
                if not write.trail.doubtful:
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

        return await self._shielded(write, make())

    async def rename(self, call: Call, vm_id: str, name: str, get: Call) -> None:
        """Make a rename; `get` is the call that shows the machine."""
        write = Write("rename", vm_id=vm_id, name=name, trail=_repeatable_trail())
        self._creates.history.renamed(vm_id)

        async def make() -> None:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except Conflict:
                if not write.trail.doubtful:
                    raise
                if (await self._pipeline.call(get, codec.VM)).label != name:
                    raise

        await self._shielded(write, make())

    async def once(
        self, operation: Literal["reboot", "reset"], call: Call, vm_id: str, *, visible: bool
    ) -> Task[VirtualMachine]:
        """Make a reboot or reset, which is never repeated on doubt."""
        trail = Trail(before_sending=BEFORE_SENDING.get())

        def token() -> DoubtToken:
            return DoubtToken(self._pipeline.origin, operation, vm=vm_id, trace=trail.trace)

        write = Write(operation, vm_id=vm_id, trail=trail, token=lambda: seal(token()))

        async def make() -> Task[VirtualMachine]:
            try:
                await self._pipeline.call(call, codec.ACCEPTED, write.trail)
            except VMAPIError as error:
                if not write.trail.doubtful:
                    raise
                cause = error
            else:
                return tasks.start(
                    self._hub, self._pipeline.origin, vm_id, Target(operation), visible=visible
                )
            return await self._watch_for(token(), cause)

        return await self._shielded(write, make())

    async def _watch_for(self, token: DoubtToken, cause: VMAPIError | None) -> Task[VirtualMachine]:
        """Return the task of a reboot or reset once the machine is seen to leave ``online``."""
        task = tasks.start(self._hub, token.origin, token.vm, Target(token.operation), adopted=True)
        try:
            if not self._closing and await task.has_begun(within=self._window):
                return task
        except VMAPIError as error:
            cause = cause or error
        raise OutcomeUnknown(
            f"nobody can tell whether the {token.operation} of {token.vm} was carried out: no "
            f"answer said so, and its state did not show it; it was not sent again. Call "
            f"client.settle(error.token) to look on, or {token.operation} it once more",
            operation=token.operation,
            vm_id=token.vm,
            token=seal(token),
        ) from cause

    # --- going on -------------------------------------------------------------------------------

    async def settle(
        self, text: str, *, besides: frozenset[str] = frozenset()
    ) -> Task[VirtualMachine | None]:
        """Find out what became of a write; see `Client.settle`.

        Args:
            text: The token.
            besides: Machines that surely are not what a create made.
        """
        token = read(text, self._pipeline.origin)
        task: Task[Any]
        if isinstance(token, DoubtToken):
            task = await self._settled(token, besides)
        else:
            task = tasks.resume(self._hub, self._pipeline.origin, text)
        self.taken_up(text)
        return task

    async def _settled(self, token: DoubtToken, besides: frozenset[str]) -> Task[VirtualMachine]:
        followed = None
        if (observer := self._pipeline.observer) is not None:
            followed = observer.operation(
                token.operation, token.vm or None, elapsed=0.0, trace=token.trace
            )
        try:
            if token.operation == "create":
                task = await self._found(token, besides)
            else:
                task = await self._watch_for(token, None)
        except BaseException as error:
            if followed is not None:
                gone = isinstance(error, asyncio.CancelledError)
                followed.ended("cancelled" if gone else "error", None if gone else error)
            raise
        if followed is not None:
            tasks.follow(task, followed)
        return task

    async def _found(self, token: DoubtToken, besides: frozenset[str]) -> Task[VirtualMachine]:
        creation = self._creates.take_up(token, besides)
        try:
            found = await self._look_for(creation)
            if found.vm_id is None:
                raise unknown(self._creates, creation, found)
        finally:
            self._creates.end(creation)
        return self._created(found.vm_id, adopted=True)

    def taken_up(self, token: str) -> None:
        """Forget what is unresolved under this token: somebody goes on with it."""
        self._unresolved = [write for write in self._unresolved if write.token != token]

    def dismiss(self, write: UnresolvedWrite) -> None:
        """Forget an unresolved write."""
        if write not in self._unresolved:
            raise InvalidArgument("write is not among the unresolved ones", argument="write")
        self._unresolved.remove(write)

    # --- cancellation ---------------------------------------------------------------------------

    async def _shielded(self, write: Write, body: Coroutine[Any, Any, T]) -> T:
        self._pipeline.ensure_usable(body)
        context = None
        if (observer := self._pipeline.observer) is not None:
            write.observer = observer.operation(write.operation, write.vm_id)
            write.trail.trace = write.observer.trace
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
            if not write.trail.doubtful:
                # Nothing was sent.
                inner.cancel()
            await _wait_out({inner})
            if note := self._account_for(write, inner):
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

    def _account_for(self, write: Write, inner: asyncio.Task[Any]) -> str | None:
        """Keep what the caller of a write cannot be told, and return it in words."""
        write.tell()
        what = f"{write.operation} of {write.vm_id or write.name}"
        kept: UnresolvedWrite | None = None
        error = None if inner.cancelled() else inner.exception()
        if inner.cancelled() or (error is not None and not isinstance(error, OutcomeUnknown)):
            if write.trail.doubtful:
                reason = "no answer told whether it was carried out"
                kept = UnresolvedWrite(
                    write.operation, write.name, write.vm_id, reason, token=write.token()
                )
        elif isinstance(error, OutcomeUnknown):
            reason = "no answer told whether it was carried out, and looking did not either"
            kept = UnresolvedWrite(
                error.operation, error.name, error.vm_id, reason, error.candidates, error.token
            )
        elif write.operation == "create":
            task: Task[VirtualMachine] = inner.result()
            reason = f"it was accepted as {task.vm_id}, and its caller cancelled"
            kept = UnresolvedWrite("create", write.name, task.vm_id, reason, token=task.token())
        else:
            return f"the {what} was accepted"
        if kept is None:
            return None
        self._unresolved.append(kept)
        return f"the {kept}; see client.unresolved"

    async def close(self) -> None:
        """Wait, for a while, for what is on the wire; then let go of it."""
        loop = asyncio.get_running_loop()
        self._closing = True
        self._creates.stop()
        running = {task: write for task, write in self._running.items() if task.get_loop() is loop}
        for task, write in running.items():
            write.closed = True
            if not write.trail.doubtful:
                task.cancel()
        cancellation = await _wait_out(set(running)) if running else None
        # Let their callers learn of it first.
        await anyio.lowlevel.cancel_shielded_checkpoint()
        self._creates.start()
        self._closing = False
        if self._unresolved:
            named = [str(write) for write in self._unresolved[:_MOST_NAMED]]
            more = len(self._unresolved) - len(named)
            named += [f"and {more} more"] if more else []
            count = len(self._unresolved)
            told = "closed with %d writes unresolved: %s"
            _log.warning(told, count, "; ".join(named), extra={"vmapi_unresolved": count})
        if cancellation is not None:
            raise cancellation


async def _wait_out(running: set[asyncio.Task[Any]]) -> asyncio.CancelledError | None:
    """Wait until writes are at their end, and let go of them after a while.

    Cancelling does not shorten it, but is returned.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + CANCEL_GRACE
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


def _repeatable_trail() -> Trail:
    return Trail(doubts=int(PERHAPS_SENT.get()), before_sending=BEFORE_SENDING.get())


def is_explained(operation: str, error: VMAPIError) -> bool:
    """Return whether an earlier attempt that was carried out explains the refusal of a retry."""
    if operation == "delete" and isinstance(error, APIError):
        # An unknown VM is refused in any of these forms (WIRE §1).
        refused_with_200 = 200 <= error.status < 300
        return isinstance(error, Conflict | NotFound) or refused_with_200
    return isinstance(error, Conflict)
