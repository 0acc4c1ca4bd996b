"""The creates of a client that are in progress (WIRE §5.4).

`async_vmapi.writes.lookup` searches for the VM of a create whose outcome is unknown. It must not
adopt a VM of another create of this client: responses show which create made a VM, and the lookup
waits for those of creates in flight.
"""

import asyncio
from datetime import datetime
from functools import partial

import attrs

from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CreateRequest
from async_vmapi.tasks.changes import OwnChanges
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.token import IntentToken, read, ready_of, stored
from async_vmapi.transport.codec import NamedVM
from async_vmapi.transport.pipeline import Pipeline
from async_vmapi.transport.retries import AttemptLog
from async_vmapi.writes.attach_times import server_time

__all__ = ["PendingCreate", "PendingCreates", "read_intent"]


@attrs.define(eq=False)
class PendingCreate:
    """A create in progress.

    Attributes:
        name: The VM's name.
        cores: Its number of CPUs.
        ram: Its memory in MB.
        unique: Whether only this create can have made a VM of that name.
        window: Seconds to search for its VM.
        target: What its task waits for.
        resumed: Whether an earlier process may have sent it.
        known: Ids of VMs that had the name before; None if unknown.
        baseline: All ids of a list that was requested before the create; None without one.
        attempts: Its attempts.
        responded: Set unless an attempt is in flight.
        outcome_unknown: Whether a lookup searches for its VM.
        retried: Whether it was sent again after proof that there was no VM.
        sent: The loop's time when the last attempt was sent; None if this process sent none.
        server_sent: The server's time when the first attempt with an unknown outcome was sent.
    """

    name: str
    cores: int
    ram: int
    unique: bool
    window: float
    target: Target = attrs.field(factory=partial(Target, "create"))
    resumed: bool = False
    known: frozenset[str] | None = attrs.field(
        default=attrs.Factory(lambda self: frozenset() if self.unique else None, takes_self=True)
    )
    baseline: frozenset[str] | None = None
    attempts: AttemptLog = attrs.field(factory=AttemptLog)
    responded: asyncio.Event = attrs.field(factory=asyncio.Event)
    outcome_unknown: bool = False
    retried: bool = False
    sent: float | None = None
    server_sent: datetime | None = None

    def has_size_of(self, vm: NamedVM) -> bool:
        """Return whether its VM and another one have the same size."""
        return (vm.cores, vm.ram) == (self.cores, self.ram)


class PendingCreates:
    """The creates of a client that are in progress.

    Args:
        pipeline: Sends them.
        changes: The VMs that this client created, renamed and deleted.
        max_staleness: Maximum age of the data in a response, in seconds.

    Attributes:
        changes: As above.
        max_staleness: As above.
        stopping: Set while lookups must stop.
    """

    def __init__(
        self, pipeline: Pipeline, changes: OwnChanges, *, max_staleness: float = 10.0
    ) -> None:
        self._pipeline = pipeline
        self.max_staleness = max_staleness
        self._in_progress: dict[str, dict[PendingCreate, None]] = {}
        self.changes = changes
        self.stopping = asyncio.Event()

    def begin(
        self, request: CreateRequest, target: Target, *, unique: bool, window: float
    ) -> PendingCreate:
        """Add a create.

        Raises:
            InvalidArgument: If another create of that name is in progress, and one is unique.
        """
        size = request.cpus, request.ram
        return self._note(PendingCreate(request.name, *size, unique, window, target))

    def resume(self, token: IntentToken, besides: frozenset[str], window: float) -> PendingCreate:
        """Add the create of a token, which made none of the VMs `besides`."""
        target = Target("create", ready=ready_of(token))
        size = token.cores, token.ram
        pending = PendingCreate(token.name, *size, token.unique, window, target)
        pending.known = None if token.known is None else besides.union(token.known)
        self.mark_maybe_sent(pending)
        return self._note(pending)

    def mark_maybe_sent(self, pending: PendingCreate) -> None:
        """Note that an earlier process may have sent a create."""
        pending.resumed = pending.outcome_unknown = True
        pending.responded.set()

    def _note(self, pending: PendingCreate) -> PendingCreate:
        # A unique create excludes others of its name.
        others = self._in_progress.get(pending.name, {})
        if others and (pending.unique or next(iter(others)).unique):
            raise InvalidArgument(
                f"unique_name: another create of {pending.name!r} is in progress: await it, or "
                "use another name",
                argument="unique_name",
            )
        self._in_progress.setdefault(pending.name, {})[pending] = None
        # For as long as reads can show the state before the create.
        self.changes.keep_for(pending.window + 2 * self.max_staleness)
        return pending

    def end(self, pending: PendingCreate) -> None:
        """Remove a create that is finished."""
        others = self._in_progress[pending.name]
        del others[pending]
        if not others:
            del self._in_progress[pending.name]

    def note_sending(self, pending: PendingCreate) -> None:
        """Note the time of an attempt that is about to be sent."""
        pending.sent = now = asyncio.get_running_loop().time()
        if pending.resumed or pending.attempts.outcome_unknown:
            # An earlier attempt may have made the VM: keep that attempt's time.
            return
        # Do not use the date of a later response: the process may be stopped until then.
        pending.server_sent = None
        if (dated := self._pipeline.server_date()) is not None:
            at, date = dated
            pending.server_sent = server_time(date, now - at)

    def token(self, pending: PendingCreate) -> IntentToken:
        """Return the token to reconcile a create, in this process or another."""
        known = pending.known
        if known is not None and not pending.unique:
            # Include VMs that no list shows yet.
            known = known.union(self.changes.created_with(pending.name))
        return IntentToken(
            self._pipeline.origin,
            "create",
            name=pending.name,
            cores=pending.cores,
            ram=pending.ram,
            unique=pending.unique,
            known=None if known is None else tuple(sorted(known)),
            trace=pending.attempts.trace,
            ready=stored(pending.target.ready),
        )

    # --- during a lookup ------------------------------------------------------------------------

    def with_same_request(self, pending: PendingCreate) -> list[PendingCreate]:
        """Return all creates of this name and size whose outcome is unknown."""
        return [
            other
            for other in self._in_progress[pending.name]
            if other.outcome_unknown and (other.cores, other.ram) == (pending.cores, pending.ram)
        ]

    async def others_responded(self, pending: PendingCreate, until: float) -> bool:
        """Wait for the responses to other creates of the same name; return False at `until`."""
        try:
            async with asyncio.timeout_at(until):
                for other in tuple(self._in_progress[pending.name]):
                    if other.attempts.in_flight and not other.outcome_unknown:
                        await other.responded.wait()
        except TimeoutError:
            return False
        return True


def read_intent(intent: str, request: CreateRequest, *, unique: bool, origin: str) -> IntentToken:
    """Decode the intent token of a create.

    Raises:
        InvalidArgument: If it does not match the request.
    """
    token = read(intent, origin)
    asked = (request.name, request.cpus, request.ram, unique)
    if (
        not isinstance(token, IntentToken)
        or token.operation != "create"
        or (token.name, token.cores, token.ram, token.unique) != asked
    ):
        raise InvalidArgument(
            "intent does not match this create: pass the request and unique_name of its prepare",
            argument="intent",
        )
    return token
