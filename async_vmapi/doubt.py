"""Find the machine that a create made whose answer was lost (WIRE §5.4).

What appeared under the create's name and was not there before can be ours. It surely is not if
another create of this client made it, so those are told apart first: ids that were answered are
claimed, and creates that are still on the wire are waited for.
"""

import asyncio
from collections import deque
from typing import Final

import attrs

from async_vmapi.codec import Named
from async_vmapi.errors import AuthenticationError, InvalidArgument, OutcomeUnknown, VMAPIError
from async_vmapi.models import DELETING
from async_vmapi.retries import Trail
from async_vmapi.roster import Roster, Rosters
from async_vmapi.tokens import DoubtToken, seal

__all__ = ["Creates", "Creation", "Found", "unknown"]

_PROOF: Final = 3
"""Lists without the machine that count as proof that there is none."""

_CLAIMED_FOR: Final = 600.0
"""Seconds after which a machine that a create made is surely in every list."""


@attrs.define(eq=False)
class Creation:
    """A create under way.

    Attributes:
        name: The machine's name.
        cores: Its number of CPUs.
        ram: Its memory in MB.
        unique: Whether a machine of that name can only be what this create made.
        origin: The endpoint.
        known: Ids that bore the name before; None if that is not known.
        trail: What became of its attempts.
        answered: Set unless an attempt is under way.
        in_doubt: Whether it is looked for.
    """

    name: str
    cores: int
    ram: int
    unique: bool
    origin: str
    known: frozenset[str] | None = None
    trail: Trail = attrs.field(factory=Trail)
    answered: asyncio.Event = attrs.field(factory=asyncio.Event)
    in_doubt: bool = False

    @property
    def token(self) -> DoubtToken:
        """What to go on with."""
        return DoubtToken(
            self.origin,
            "create",
            name=self.name,
            cores=self.cores,
            ram=self.ram,
            unique=self.unique,
            known=None if self.known is None else tuple(sorted(self.known)),
            trace=self.trail.trace,
        )

    def could_be(self, machine: Named) -> bool:
        """Return whether this create may have made a machine of its name."""
        if machine.state == DELETING:
            return False
        return self.unique or (machine.cores, machine.ram) == (self.cores, self.ram)


@attrs.frozen
class Found:
    """What looking for a create's machine showed.

    Attributes:
        vm_id: The machine; None if none was found, or it is not sure.
        candidates: Ids of machines that may be the one.
        looks: How many lists were seen.
        last_error: The text of the last list that failed; None if none did.
    """

    vm_id: str | None
    candidates: tuple[str, ...] = ()
    looks: int = 0
    last_error: str | None = None

    @property
    def is_proof(self) -> bool:
        """Whether it is as good as sure that there is no machine."""
        return self.vm_id is None and not self.candidates and self.looks >= _PROOF


class Creates:
    """The creates of a client, told apart by name.

    Args:
        rosters: What tells which machines bear a name.
        window: Seconds for which a machine is looked for.
    """

    def __init__(self, rosters: Rosters, *, window: float) -> None:
        self._rosters = rosters
        self._window = window
        self._under_way: dict[str, set[Creation]] = {}
        self._claimed: dict[str, set[str]] = {}
        self._claims: deque[tuple[float, str, str]] = deque()
        self._stopping = False
        self._stopped: asyncio.Event | None = None

    # --- telling creates apart ------------------------------------------------------------------

    def begin(self, name: str, cores: int, ram: int, *, unique: bool, origin: str) -> Creation:
        """Note a create.

        Raises:
            InvalidArgument: If its name is said to be unique and is in use by another create.
        """
        creation = Creation(name, cores, ram, unique, origin)
        if unique:
            creation.known = frozenset()
        return self._note(creation)

    def take_up(self, token: DoubtToken, besides: frozenset[str]) -> Creation:
        """Note a create that was in doubt before, and made none of the machines `besides`."""
        creation = Creation(token.name, token.cores, token.ram, token.unique, token.origin)
        creation.known = None if token.known is None else besides.union(token.known)
        creation.in_doubt = True
        creation.answered.set()
        return self._note(creation)

    def _note(self, creation: Creation) -> Creation:
        # Where one of them is unique, it is the only one.
        others = self._under_way.get(creation.name, set())
        if others and (creation.unique or next(iter(others)).unique):
            raise InvalidArgument(
                f"unique_name: another create of {creation.name!r} is under way",
                argument="unique_name",
            )
        self._under_way.setdefault(creation.name, set()).add(creation)
        return creation

    def end(self, creation: Creation) -> None:
        """Note that a create is no longer under way."""
        others = self._under_way[creation.name]
        others.remove(creation)
        if not others:
            del self._under_way[creation.name]

    def known(self, roster: Roster, name: str) -> frozenset[str]:
        """Return all ids that are known to bear a name, those not yet listed among them."""
        listed = {machine.id for machine in roster.named(name)}
        return frozenset(listed | self._claimed.get(name, set()))

    def claim(self, creation: Creation, vm_id: str) -> None:
        """Note that a machine is what a create made, and so not what another one did."""
        if creation.unique:
            return
        now = asyncio.get_running_loop().time()
        while self._claims and now - self._claims[0][0] > _CLAIMED_FOR:
            _, name, old = self._claims.popleft()
            self._claimed[name].discard(old)
            if not self._claimed[name]:
                del self._claimed[name]
        self._claims.append((now, creation.name, vm_id))
        self._claimed.setdefault(creation.name, set()).add(vm_id)

    # --- looking --------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let everybody who looks stop now."""
        self._stopping = True
        if self._stopped is not None:
            self._stopped.set()

    def start(self) -> None:
        """Let looking be possible again."""
        self._stopping, self._stopped = False, None

    async def look_for(self, creation: Creation) -> Found:
        """Look for what a create made, until it is found or the window is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._window
        pause, looks = max(1.0, self._window / 60), 0
        candidates: tuple[str, ...] = ()
        last_error: str | None = None
        while True:
            last = loop.time() >= until or self._stopping
            try:
                roster = await self._rosters.get(loop.time())
            except AuthenticationError as error:
                return Found(None, candidates, looks, str(error))
            except VMAPIError as error:
                last_error = str(error)
            else:
                looks += 1
                others_told = await self._others_told(creation, until)
                candidates, fitting = self._candidates(creation, roster)
                if fitting is not None and others_told:
                    self.claim(creation, fitting)
                    return Found(fitting, candidates, looks)
            if last:
                return Found(None, candidates, looks, last_error)
            await self._sleep(max(0.0, min(pause, until - loop.time())))
            pause = min(1.5 * pause, max(pause, self._window / 6))

    def _candidates(self, creation: Creation, roster: Roster) -> tuple[tuple[str, ...], str | None]:
        """Return who may be the machine, and who is."""
        claimed = self._claimed.get(creation.name, set())
        known = (creation.known or frozenset[str]()) | claimed
        free = [machine for machine in roster.named(creation.name) if machine.id not in known]
        fitting = [machine.id for machine in free if creation.could_be(machine)]
        candidates = tuple(machine.id for machine in free)
        if creation.known is None:
            return candidates, None
        # Creates of one name and size that are in doubt cannot be told apart, and need not be.
        alike = [
            other
            for other in self._under_way[creation.name]
            if other.in_doubt and (other.cores, other.ram) == (creation.cores, creation.ram)
        ]
        return candidates, fitting[0] if 1 <= len(fitting) <= len(alike) else None

    async def _others_told(self, creation: Creation, until: float) -> bool:
        """Wait for the answers to creates of the same name that a list may show already."""
        try:
            async with asyncio.timeout_at(until):
                for other in tuple(self._under_way[creation.name]):
                    if other.trail.in_air and not other.in_doubt:
                        await other.answered.wait()
        except TimeoutError:
            return False
        return True

    async def _sleep(self, seconds: float) -> None:
        if self._stopping:
            return
        if self._stopped is None:
            self._stopped = asyncio.Event()
        stopping = self._stopped
        try:
            async with asyncio.timeout(seconds):
                await stopping.wait()
        except TimeoutError:
            pass


def unknown(creation: Creation, found: Found) -> OutcomeUnknown:
    """Return the error for a create that looking did not settle."""
    if not found.candidates:
        seen = f"no machine of that name appeared in {found.looks} lists"
    elif creation.known is None:
        seen = (
            f"{len(found.candidates)} machines bear that name, and it is not known which did before"
        )
    else:
        seen = f"{len(found.candidates)} machines appeared that may be the one"
    if found.last_error is not None:
        seen += f" (the last list that failed: {found.last_error})"
    return OutcomeUnknown(
        f"nobody can tell whether the create of {creation.name!r} was carried out: no answer said "
        f"so, and {seen}; it was not sent again. Call client.settle(error.token) to look on, or "
        f"look at the candidates yourself before you create it anew",
        operation="create",
        name=creation.name,
        candidates=found.candidates,
        token=seal(creation.token),
    )
