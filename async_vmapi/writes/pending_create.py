"""The creates of a client, told apart (WIRE §5.4).

A create whose outcome is unknown is looked for by `async_vmapi.writes.lookup`. What another create
of this client made is not what it made: responses tell whose a VM is, and creates in flight are
waited for.
"""

import asyncio
from datetime import datetime
from typing import Final

import attrs

from async_vmapi.errors import InvalidArgument
from async_vmapi.models import CreateRequest
from async_vmapi.tasks.token import DoubtToken, read
from async_vmapi.transport.codec import Named
from async_vmapi.transport.pipeline import Pipeline
from async_vmapi.transport.retries import AttemptLog
from async_vmapi.writes.attach_times import server_time
from async_vmapi.writes.history import History

__all__ = ["PendingCreate", "PendingCreates", "intended_by"]

_KEPT: Final = 600.0
"""Seconds for which it is known what this client did to a VM, at least."""


@attrs.define(eq=False)
class PendingCreate:
    """A create under way.

    Attributes:
        name: The VM's name.
        cores: Its number of CPUs.
        ram: Its memory in MB.
        unique: Whether a VM of that name can only be what this create made.
        origin: The endpoint.
        window: Seconds for which its VM is looked for.
        resumed: Whether its first attempt was another process's, or may have been.
        known: Ids that had the name before; None if that is not known.
        baseline: All ids of a list that was asked for before the create; None without one.
        attempts: What became of its attempts.
        answered: Set unless an attempt is under way.
        outcome_unknown: Whether its VM is looked for.
        retried: Whether it was sent again as it was proved that there was no VM.
        sent: The loop's time when the last attempt set out; None if none did here.
        server_sent: The server's time when the first attempt set out whose outcome is unknown.
    """

    name: str
    cores: int
    ram: int
    unique: bool
    origin: str
    window: float
    resumed: bool = False
    known: frozenset[str] | None = None
    baseline: frozenset[str] | None = None
    attempts: AttemptLog = attrs.field(factory=AttemptLog)
    answered: asyncio.Event = attrs.field(factory=asyncio.Event)
    outcome_unknown: bool = False
    retried: bool = False
    sent: float | None = None
    server_sent: datetime | None = None

    def fits(self, vm: Named) -> bool:
        """Return whether a VM is of the right size."""
        return (vm.cores, vm.ram) == (self.cores, self.ram)


class PendingCreates:
    """The creates of a client that are under way.

    Args:
        pipeline: What sends them.
        max_staleness: How old a response's content can be, in seconds.

    Attributes:
        max_staleness: As above.
        history: What this client did to which VM.
    """

    def __init__(self, pipeline: Pipeline, *, max_staleness: float = 10.0) -> None:
        self._pipeline = pipeline
        self.max_staleness = max_staleness
        self._under_way: dict[str, dict[PendingCreate, None]] = {}
        self.history = History(kept=max(_KEPT, 2 * max_staleness))
        self._stopped = asyncio.Event()

    def begin(
        self, name: str, cores: int, ram: int, *, unique: bool, origin: str, window: float
    ) -> PendingCreate:
        """Note a create.

        Raises:
            InvalidArgument: If its name is said to be unique and is in use by another create.
        """
        pending = PendingCreate(name, cores, ram, unique, origin, window)
        if unique:
            pending.known = frozenset()
        return self._note(pending)

    def resume(self, token: DoubtToken, besides: frozenset[str], window: float) -> PendingCreate:
        """Note a create of a token, which made none of the VMs `besides`."""
        pending = PendingCreate(
            token.name, token.cores, token.ram, token.unique, token.origin, window
        )
        pending.known = None if token.known is None else besides.union(token.known)
        self.mark_maybe_sent(pending)
        return self._note(pending)

    def mark_maybe_sent(self, pending: PendingCreate) -> None:
        """Note that a create may have been sent before, perhaps by another process."""
        pending.resumed = pending.outcome_unknown = True
        pending.answered.set()

    def _note(self, pending: PendingCreate) -> PendingCreate:
        # Where one of them is unique, it is the only one.
        others = self._under_way.get(pending.name, {})
        if others and (pending.unique or next(iter(others)).unique):
            raise InvalidArgument(
                f"unique_name: another create of {pending.name!r} is under way",
                argument="unique_name",
            )
        self._under_way.setdefault(pending.name, {})[pending] = None
        # For as long as reads can show what was before.
        self.history.keep_for(pending.window + 2 * self.max_staleness)
        return pending

    def end(self, pending: PendingCreate) -> None:
        """Note that a create is no longer under way."""
        others = self._under_way[pending.name]
        del others[pending]
        if not others:
            del self._under_way[pending.name]

    def sets_out(self, pending: PendingCreate) -> None:
        """Note that an attempt of a create is about to be sent."""
        pending.sent = now = asyncio.get_running_loop().time()
        if pending.resumed or pending.attempts.outcome_unknown:
            # The VM may be of an earlier attempt, and as old.
            return
        # Not a later response's date: the process may be stopped until then.
        pending.server_sent = None
        if (dated := self._pipeline.server_date()) is not None:
            at, date = dated
            pending.server_sent = server_time(date, now - at)

    def token(self, pending: PendingCreate) -> DoubtToken:
        """Return what to go on with, in this process or another."""
        known = pending.known
        if known is not None and not pending.unique:
            # Those that no list shows yet, too.
            known = known.union(self.history.created_with(pending.name))
        return DoubtToken(
            pending.origin,
            "create",
            name=pending.name,
            cores=pending.cores,
            ram=pending.ram,
            unique=pending.unique,
            known=None if known is None else tuple(sorted(known)),
            trace=pending.attempts.trace,
        )

    # --- while one is looked for ----------------------------------------------------------------

    def alike(self, pending: PendingCreate) -> list[PendingCreate]:
        """Return the creates that cannot be told apart from this one, and need not be."""
        return [
            other
            for other in self._under_way[pending.name]
            if other.outcome_unknown and (other.cores, other.ram) == (pending.cores, pending.ram)
        ]

    async def others_answered(self, pending: PendingCreate, until: float) -> bool:
        """Wait for the responses to creates of the same name whose VMs a list may show already."""
        try:
            async with asyncio.timeout_at(until):
                for other in tuple(self._under_way[pending.name]):
                    if other.attempts.in_flight and not other.outcome_unknown:
                        await other.answered.wait()
        except TimeoutError:
            return False
        return True

    @property
    def stopping(self) -> bool:
        """Whether everybody who looks is to stop."""
        return self._stopped.is_set()

    async def stopped(self) -> None:
        """Wait until everybody who looks is to stop."""
        await self._stopped.wait()

    def stop(self) -> None:
        """Let everybody who looks stop now."""
        self._stopped.set()

    def start(self) -> None:
        """Let looking be possible again, in another event loop too."""
        self._stopped = asyncio.Event()


def intended_by(intent: str, request: CreateRequest, *, unique: bool, origin: str) -> DoubtToken:
    """Read the token that was made for a create before it was sent.

    Raises:
        InvalidArgument: If it was made for something else.
    """
    token = read(intent, origin)
    asked = (request.name, request.cpus, request.ram, unique)
    if (
        not isinstance(token, DoubtToken)
        or token.operation != "create"
        or (token.name, token.cores, token.ram, token.unique) != asked
    ):
        raise InvalidArgument("intent is not that of this create", argument="intent")
    return token
