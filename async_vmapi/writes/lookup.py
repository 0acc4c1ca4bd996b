"""Find the VM that a create made whose outcome is unknown (WIRE §5.4).

The rules follow from one assumption: a response to a read that was asked at time t shows each VM
as it was at some moment between t - ``max_staleness`` and the response. docs/guarantees.md has
them with their reasons.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import attrs

from async_vmapi.errors import AuthenticationError, NotFound, OutcomeUnknown, VMAPIError
from async_vmapi.models import DELETING
from async_vmapi.tasks.token import DoubtToken, seal
from async_vmapi.tasks.vm_list import VMList, VMListSource
from async_vmapi.transport import codec
from async_vmapi.transport.codec import Named
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.writes.attach_times import is_older
from async_vmapi.writes.pending_create import PendingCreate, PendingCreates

__all__ = ["Lookup", "LookupResult", "unknown", "unnoticed"]

_PROOF: Final = 3
"""Lists without the VM that are taken as proof that there is none: one may be wrong."""

_HIDDEN: Final = 60.0
"""Seconds by which a VM may be older still that the list before the create does not show: the
list is some seconds old, and a new VM is hidden for a while."""

_MOST_READ: Final = 8
"""VMs of one name that are read at most to find out which of them are older."""

_MOST_CANDIDATES: Final = 100
_LONGEST: Final = 600.0

_LAST_LIST: Final = 5.0
"""Seconds that the list at the end of the window gets to be answered."""

_CLOCK: Final = 0.001
_NO_IDS: Final = frozenset[str]()


@attrs.frozen
class LookupResult:
    """What looking for a create's VM showed.

    Attributes:
        vm_id: The VM; None if none was found, or it is not sure.
        candidates: Ids of VMs that may be the one.
        renamed: How many of them have another name than the create asked for.
        lists: How many lists were seen.
        last_error: The text of the last read that failed; None if none did.
        is_proof: Whether it is proved that there is no VM.
    """

    vm_id: str | None
    candidates: tuple[str, ...] = ()
    renamed: int = 0
    lists: int = 0
    last_error: str | None = None
    is_proof: bool = False


class Lookup:
    """Looks for what one create made.

    Args:
        creates: All creates.
        pending: The one.
        pipeline: What reads one VM.
        vm_lists: What lists all of them.
        retry: Whether the create is sent again if it is proved that there is no VM.
    """

    def __init__(
        self,
        creates: PendingCreates,
        pending: PendingCreate,
        pipeline: Pipeline,
        vm_lists: VMListSource,
        *,
        retry: bool = False,
    ) -> None:
        self._creates = creates
        self._history = creates.history
        self._pending = pending
        self._pipeline = pipeline
        self._vm_lists = vm_lists
        self._retry = retry
        # Ids that a list has shown and no GET has denied since; that a GET has shown since
        # `_settled`; that are older than the create.
        self._shown: set[str] = set()
        self._read: set[str] = set()
        self._older: set[str] = set()
        # All candidates, each with whether it has exactly the name.
        self._candidates: dict[str, bool] = {}
        # How many lists were seen, and how many of them since `_settled`.
        self._lists = self._settled_lists = 0
        self._last_error: str | None = None

    async def run(self) -> LookupResult:
        """Look until the VM is found or the window is over."""
        loop = asyncio.get_running_loop()
        began, window = loop.time(), self._pending.window
        until, settled = began + window, self._settled(began)
        window = min(window, _LONGEST)
        pause = max(1.0, window / 60)
        while True:
            now = loop.time()
            # One list is asked for at the end in any case, also after the clock has jumped there.
            last, proof = now >= until - _CLOCK, False
            try:
                async with asyncio.timeout_at(max(until, now) + _LAST_LIST):
                    vm_list = await self._vm_lists.get(now)
            except AuthenticationError as error:
                self._last_error = str(error)
                return self._found()
            except VMAPIError as error:
                self._last_error = str(error)
            except TimeoutError:
                self._last_error = f"a list took longer than {_LAST_LIST:g} s"
            else:
                answered = await self._creates.others_answered(self._pending, until)
                self._lists += 1
                self._remember_candidates(vm_list)
                if vm_list.asked >= settled:
                    self._settled_lists += 1
                    if answered and (adopted := await self._adoptable(vm_list)) is not None:
                        self._history.created(adopted, self._pending.name)
                        return self._found(adopted)
                    proof = last and self._settled_lists >= _PROOF
                self._shown.update(vm.id for vm in self._fitting(vm_list))
            if last or self._creates.stopping:
                return self._found(proof=proof)
            now = loop.time()
            if now < settled:
                wait = min(pause, until - now, settled - now + _CLOCK)
            else:
                # So that there can be proof at the end.
                wait = min(pause, (until - now) / max(1, _PROOF - self._settled_lists))
            await self._sleep(max(0.0, wait))
            pause = min(1.5 * pause, max(pause, window / 6))

    def _settled(self, began: float) -> float:
        """Return from when on a read shows no VM that was deleted before the create was sent."""
        pending = self._pending
        sent = began if pending.sent is None else pending.sent
        # Where it is not known which VMs there were, one that another client is deleting just now
        # looks like ours; after as much time again, it is shown as `deleting`, or not at all.
        times = 2 if pending.unique and pending.baseline is None else 1
        return sent + times * self._creates.max_staleness

    def _found(self, vm_id: str | None = None, *, proof: bool = False) -> LookupResult:
        # Meanwhile a response may have told whose a candidate is.
        left = {vm_id: exact for vm_id, exact in self._candidates.items() if self._is_new(vm_id)}
        candidates = sorted(left, key=lambda candidate: not left[candidate])[:_MOST_CANDIDATES]
        return LookupResult(
            vm_id,
            tuple(candidates),
            sum(not left[candidate] for candidate in candidates),
            self._lists,
            self._last_error,
            is_proof=proof and not left,
        )

    # --- which VMs may be the one ---------------------------------------------------------------

    def _remember_candidates(self, vm_list: VMList) -> None:
        self._history.compare(vm_list)
        pending = self._pending
        for vm in self._possible(vm_list.named(pending.name)):
            self._candidates[vm.id] = True
        new = vm_list.new_since(pending.baseline or _NO_IDS)
        # Where each VM of the list counts as new, all of them are named only if that keeps the
        # create from being sent again.
        whole = self._history.changes_names and (self._retry or pending.baseline is not None)
        for vm in self._possible(new.vms if whole else new.like(pending.name)):
            if pending.fits(vm):
                self._candidates.setdefault(vm.id, False)

    def _fitting(self, vm_list: VMList) -> list[Named]:
        """Return the VMs that may be adopted, were there no others."""
        if self._pending.known is None:
            return []
        return [
            vm
            for vm in self._possible(vm_list.named(self._pending.name))
            if vm.id not in self._older and (self._pending.unique or self._pending.fits(vm))
        ]

    def _possible(self, vms: Iterable[Named]) -> list[Named]:
        """Return those that nothing else explains, each once."""
        found: dict[str, Named] = {}
        for vm in vms:
            if self._is_new(vm.id):
                found.setdefault(vm.id, vm)
                if vm.state == DELETING:
                    # Later reads can still show it as it was before.
                    self._history.deleted(vm.id)
        return [vm for vm in found.values() if not self._history.is_deleted(vm.id)]

    def _is_new(self, vm_id: str) -> bool:
        """Return whether neither it was there before, nor it is another create's, nor deleted."""
        pending = self._pending
        for before in (pending.known, pending.baseline):
            if before is not None and vm_id in before:
                return False
        if self._history.is_deleted(vm_id):
            return False
        name = self._history.created_as(vm_id)
        # A create that is resumed may be the very one that made it.
        resumed = pending.resumed and pending.unique
        return name is None or (resumed and name == pending.name)

    # --- adopting one of them -------------------------------------------------------------------

    async def _adoptable(self, vm_list: VMList) -> str | None:
        """Return the VM to adopt: two reads show it, of which the vm_list is one."""
        dated = self._pending.server_sent is not None
        asked = set(self._read)
        while True:
            fitting, alike = self._fitting(vm_list), self._creates.alike(self._pending)
            if not fitting:
                return None
            if len(fitting) > len(alike):
                # Too many, unless reading them shows that some are older.
                unread = [vm.id for vm in fitting if vm.id not in asked]
                if not dated or not unread or len(asked) >= _MOST_READ:
                    return None
                vm_id = unread[0]
            else:
                vm_id = fitting[alike.index(self._pending) % len(fitting)].id
                seen_twice = vm_id in self._read or vm_id in self._shown
                if vm_id in asked or (seen_twice and not dated):
                    return vm_id if seen_twice else None
            asked.add(vm_id)
            await self._get(vm_id)

    async def _get(self, vm_id: str) -> None:
        """Read a VM: whether it is there, and whether it was before the create."""
        call = Call("get", "GET", f"/v2/virtual-machines/{vm_id}")
        try:
            vm = await self._pipeline.call(call, codec.VM)
        except NotFound:
            self._shown.discard(vm_id)
            return
        except VMAPIError as error:
            # Then two lists decide.
            self._last_error = str(error)
            return
        if vm.state == DELETING:
            self._history.deleted(vm_id)
        elif vm.id == vm_id:
            self._read.add(vm_id)
            sent, span = self._pending.server_sent, self._creates.max_staleness + _HIDDEN
            if sent is not None and is_older(vm, sent, span):
                # It stays a candidate: clocks may differ, so they can only prevent an adoption.
                self._older.add(vm_id)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._creates.stopped()
        except TimeoutError:
            pass


def unknown(creates: PendingCreates, pending: PendingCreate, found: LookupResult) -> OutcomeUnknown:
    """Return the error for a create whose outcome a lookup did not show."""
    count = len(found.candidates)
    vms = "1 VM" if count == 1 else f"{count} VMs"
    if not count:
        seen = f"no VM that it may have created was in {found.lists} lists"
    elif pending.known is None:
        seen = f"{vms} may be it, and it is not known which there were before"
    else:
        seen = f"{vms} may be it"
    if found.renamed:
        seen += f", {found.renamed} of them if the provider changed the name"
    if found.last_error is not None:
        seen += f" (the last read that failed: {found.last_error})"
    return OutcomeUnknown(
        f"the outcome of the create of {pending.name!r} is unknown: no response told it, and "
        f"{seen}; it was {'retried once' if pending.retried else 'not retried'}. Call "
        "client.reconcile(error.token) to try again, or check yourself before you create it again",
        operation="create",
        name=pending.name,
        candidates=found.candidates,
        token=seal(creates.token(pending)),
    )


def unnoticed(token: DoubtToken) -> OutcomeUnknown:
    """Return the error for a reboot or reset whose outcome its VM's state did not show."""
    return OutcomeUnknown(
        f"nobody can tell whether the {token.operation} of {token.vm} was carried out: no "
        f"answer said so, and its state did not show it; it was not sent again. Call "
        f"client.reconcile(error.token) to look on, or {token.operation} it once more",
        operation=token.operation,
        vm_id=token.vm,
        token=seal(token),
    )
