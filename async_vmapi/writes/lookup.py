"""Find the VM of a create whose outcome is unknown (WIRE §5.4).

The rules follow from one assumption: the response to a read requested at time t shows each VM as it
was at some moment between t - ``max_staleness`` and the response. docs/guarantees.md explains
them.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from async_vmapi.errors import AuthenticationError, NotFound, OutcomeUnknown, VMAPIError
from async_vmapi.models.vm import DELETING
from async_vmapi.tasks.schedule import TIMER_TOLERANCE
from async_vmapi.tasks.token import IntentToken, seal
from async_vmapi.tasks.vm_list import VMList, VMListSource
from async_vmapi.transport import codec
from async_vmapi.transport.codec import NamedVM
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.writes.attach_times import is_older
from async_vmapi.writes.pending_create import PendingCreate, PendingCreates

__all__ = ["Lookup", "unobserved"]

_LISTS_FOR_PROOF: Final = 3
"""Lists without the VM that prove that there is none: a single one may be wrong."""

_INVISIBLE: Final = 60.0
"""Additional seconds by which a VM may be older than the create although the list before it does
not show the VM: that list is some seconds old, and a new VM is invisible at first."""

_MAX_READS: Final = 8
"""Maximum number of VMs of one name that are read to find out which are older."""

_MAX_CANDIDATES: Final = 100
_LONGEST: Final = 600.0

_LAST_LIST: Final = 5.0
"""Timeout in seconds for the list at the end of the window."""

_NO_IDS: Final = frozenset[str]()


class Lookup:
    """Searches for the VM of one create.

    Args:
        creates: All creates of the client.
        pending: The create.
        pipeline: Reads a single VM.
        vm_lists: Reads lists.
        retry: Whether the create is resent after proof that there is no VM.

    Attributes:
        proves_absence: Whether there is proof that the create made no VM.
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
        self._changes = creates.changes
        self._pending = pending
        self._pipeline = pipeline
        self._vm_lists = vm_lists
        self._retry = retry
        self.proves_absence = False
        # Ids that a list has shown, and no GET since reported missing; ids that a GET has shown
        # since `_conclusive_from`; ids of VMs older than the create.
        self._shown: set[str] = set()
        self._read: set[str] = set()
        self._older: set[str] = set()
        # All candidates; the value is whether the VM has exactly the name.
        self._candidates: dict[str, bool] = {}
        # Number of lists read, and of those since `_conclusive_from`.
        self._lists = self._conclusive_lists = 0
        self._last_error: str | None = None

    async def run(self) -> str | None:
        """Search until the window is over; return the VM's id if it is found and certain."""
        loop = asyncio.get_running_loop()
        began, window = loop.time(), self._pending.window
        until, conclusive_from = began + window, self._conclusive_from(began)
        window = min(window, _LONGEST)
        pause = max(1.0, window / 60)
        while True:
            now = loop.time()
            # Always read a list at the end, even if the clock has jumped there.
            last = now >= until - TIMER_TOLERANCE
            try:
                async with asyncio.timeout_at(max(until, now) + _LAST_LIST):
                    vm_list = await self._vm_lists.get(now)
            except AuthenticationError as error:
                self._last_error = str(error)
                return None
            except VMAPIError as error:
                self._last_error = str(error)
            except TimeoutError:
                self._last_error = f"a list took longer than {_LAST_LIST:g} s"
            else:
                responded = await self._creates.others_responded(self._pending, until)
                self._lists += 1
                self._remember_candidates(vm_list)
                if vm_list.sent_at >= conclusive_from:
                    self._conclusive_lists += 1
                    if responded and (adopted := await self._adoptable(vm_list)) is not None:
                        self._changes.created(adopted, self._pending.name)
                        return adopted
                    if last and self._conclusive_lists >= _LISTS_FOR_PROOF:
                        self.proves_absence = not self._remaining_candidates()
                self._shown.update(vm.id for vm in self._fitting(vm_list))
            if last or self._creates.stopping.is_set():
                return None
            now = loop.time()
            if now < conclusive_from:
                wait = min(pause, until - now, conclusive_from - now + TIMER_TOLERANCE)
            else:
                # Leave time for the lists that are needed as proof.
                wait = min(pause, (until - now) / max(1, _LISTS_FOR_PROOF - self._conclusive_lists))
            await self._sleep(max(0.0, wait))
            pause = min(1.5 * pause, max(pause, window / 6))

    def _conclusive_from(self, began: float) -> float:
        """Return the time from which reads show no VM that was deleted before the create."""
        pending = self._pending
        sent = began if pending.sent is None else pending.sent
        # Without a baseline, a VM that another client is deleting looks like ours. After twice the
        # time, reads show it as `deleting`, or not at all.
        times = 2 if pending.unique and pending.baseline is None else 1
        return sent + times * self._creates.max_staleness

    def outcome_unknown(self) -> OutcomeUnknown:
        """Return the error for a create whose VM was not found."""
        pending, candidates = self._pending, self._remaining_candidates()
        renamed = len(candidates) - sum(candidates.values())
        vms = "1 VM" if len(candidates) == 1 else f"{len(candidates)} VMs"
        if not candidates:
            seen = f"no VM that it may have created was found in {self._lists} lists"
        elif pending.known is None:
            seen = f"{vms} may be the one, and it is unknown which existed before"
        else:
            seen = f"{vms} may be the one"
        if renamed:
            seen += f", {renamed} of them if the provider changed the name"
        if self._last_error is not None:
            seen += f" (latest read error: {self._last_error})"
        return OutcomeUnknown(
            f"the outcome of the create of {pending.name!r} is unknown: its response was lost, and "
            f"{seen}; it was {'retried once' if pending.retried else 'not retried'}. Call "
            "client.reconcile(error.token) to try again, or check yourself before you create it "
            "again",
            operation="create",
            name=pending.name,
            candidates=tuple(candidates),
            token=seal(self._creates.token(pending)),
        )

    def _remaining_candidates(self) -> dict[str, bool]:
        """Return the candidates that no other create has made meanwhile, the likely ones first."""
        remaining = [(i, exact) for i, exact in self._candidates.items() if self._is_new(i)]
        remaining.sort(key=lambda candidate: not candidate[1])
        return dict(remaining[:_MAX_CANDIDATES])

    # --- candidates -----------------------------------------------------------------------------

    def _remember_candidates(self, vm_list: VMList) -> None:
        self._changes.compare(vm_list)
        pending = self._pending
        for vm in self._possible(vm_list.named(pending.name)):
            self._candidates[vm.id] = True
        new = vm_list.new_since(pending.baseline or _NO_IDS)
        # Without a baseline every VM counts as new: then make all of them candidates only to
        # prevent a retry of the create.
        whole = self._changes.provider_renames and (self._retry or pending.baseline is not None)
        for vm in self._possible(new.vms if whole else new.like(pending.name)):
            if pending.has_size_of(vm):
                self._candidates.setdefault(vm.id, False)

    def _fitting(self, vm_list: VMList) -> list[NamedVM]:
        """Return the VMs that can be adopted if they are not ambiguous."""
        if self._pending.known is None:
            return []
        return [
            vm
            for vm in self._possible(vm_list.named(self._pending.name))
            if vm.id not in self._older and (self._pending.unique or self._pending.has_size_of(vm))
        ]

    def _possible(self, vms: Iterable[NamedVM]) -> list[NamedVM]:
        """Return the VMs that are new, without duplicates."""
        found: dict[str, NamedVM] = {}
        for vm in vms:
            if self._is_new(vm.id):
                found.setdefault(vm.id, vm)
                if vm.state == DELETING:
                    # Later reads can still show an earlier state.
                    self._changes.deleted(vm.id)
        return [vm for vm in found.values() if not self._changes.is_deleted(vm.id)]

    def _is_new(self, vm_id: str) -> bool:
        """Return whether a VM is neither older, nor deleted, nor made by another create."""
        pending = self._pending
        for before in (pending.known, pending.baseline):
            if before is not None and vm_id in before:
                return False
        if self._changes.is_deleted(vm_id):
            return False
        name = self._changes.created_as(vm_id)
        # A resumed create may be the one that made it.
        resumed = pending.resumed and pending.unique
        return name is None or (resumed and name == pending.name)

    # --- adoption -------------------------------------------------------------------------------

    async def _adoptable(self, vm_list: VMList) -> str | None:
        """Return the VM to adopt, which two reads must show; `vm_list` is one of them."""
        dated = self._pending.server_sent is not None
        read = set(self._read)
        while True:
            creates = self._creates.with_same_request(self._pending)
            fitting = self._fitting(vm_list)
            if not fitting:
                return None
            if len(fitting) > len(creates):
                # Ambiguous, unless reading them shows that some are older.
                unread = [vm.id for vm in fitting if vm.id not in read]
                if not dated or not unread or len(read) >= _MAX_READS:
                    return None
                vm_id = unread[0]
            else:
                vm_id = fitting[creates.index(self._pending) % len(fitting)].id
                seen_twice = vm_id in self._read or vm_id in self._shown
                if vm_id in read or (seen_twice and not dated):
                    return vm_id if seen_twice else None
            read.add(vm_id)
            await self._get(vm_id)

    async def _get(self, vm_id: str) -> None:
        """Read a VM, and note whether it exists and whether it is older than the create."""
        call = Call("get", "GET", f"/v2/virtual-machines/{vm_id}")
        try:
            vm = await self._pipeline.call(call, codec.VM)
        except NotFound:
            self._shown.discard(vm_id)
            return
        except VMAPIError as error:
            # Two lists decide instead.
            self._last_error = str(error)
            return
        if vm.state == DELETING:
            self._changes.deleted(vm_id)
        elif vm.id == vm_id:
            self._read.add(vm_id)
            invisible = max(_INVISIBLE, self._changes.appears_within)
            sent, span = self._pending.server_sent, self._creates.max_staleness + invisible
            if sent is not None and is_older(vm, sent, span):
                # It stays a candidate: clocks may differ, so times can only prevent an adoption.
                self._older.add(vm_id)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._creates.stopping.wait()
        except TimeoutError:
            pass


def unobserved(token: IntentToken) -> OutcomeUnknown:
    """Return the error for a reboot or reset whose VM was not observed to leave ``online``."""
    return OutcomeUnknown(
        f"the outcome of the {token.operation} of {token.vm} is unknown: its response was lost, "
        "and the VM's state does not show it; it was not retried. Call "
        f"client.reconcile(error.token) to poll again, or {token.operation} the VM again",
        operation=token.operation,
        vm_id=token.vm,
        token=seal(token),
    )
