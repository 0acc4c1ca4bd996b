"""What this client did to VMs, since a read soon after it can show them as they were before.

Two parts of the client have to know it:

- Completion: such a read is still evidence if this client had not changed the VM before
  (see `async_vmapi.tasks.completion`). And a VM that was seen cannot be yet to appear.
- A create whose response was lost: it made neither a VM that this client deleted, although lists
  still show it, nor one of another create.
"""

import asyncio
import math
from collections.abc import Collection
from typing import Final

import attrs

from async_vmapi.tasks.rules import Awaited, Target
from async_vmapi.tasks.vm_list import VMList

__all__ = ["OwnChanges"]

_KEPT: Final = 600.0
"""Minimum seconds to know a VM after it was created or deleted."""


@attrs.define(weakref_slot=False)
class _VM:
    """What this client did to one VM.

    Attributes:
        changing_until: Until when this client may change it.
        visible: Whether a read has shown it.
        operation: The operation in progress.
        was_quiet: Whether the VM was quiet before that operation.
        noted_at: When it was last created or deleted.
        name: The name with which this client created it.
        renamed: Whether this client renamed it.
        deleted: Whether it is, or may be, deleted.
    """

    changing_until: float = -math.inf
    visible: bool = False
    operation: Awaited | None = None
    was_quiet: bool = True
    noted_at: float = -math.inf
    name: str | None = None
    renamed: bool = False
    deleted: bool = False


class OwnChanges:
    """The VMs that this client changed recently.

    Args:
        max_staleness: Maximum age of a read, in seconds.
        appears_within: Seconds within which a new VM becomes visible, if ever.

    Attributes:
        provider_renames: Whether a list showed a VM with another name than its create
            requested.
    """

    def __init__(self, max_staleness: float, appears_within: float = 60.0) -> None:
        self.provider_renames = False
        self._max_staleness = max_staleness
        self.appears_within = appears_within
        self._kept = max(_KEPT, 2 * max_staleness)
        self._vms: dict[str, _VM] = {}
        self._ids_by_name: dict[str, list[str]] = {}
        self._size_after_tidying = 0
        self._compared_at = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_now = -math.inf

    def _now(self) -> float:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._loop is not loop:
            # Another clock, and unknown time has passed: what ended may have ended just before.
            for vm in self._vms.values():
                vm.changing_until = now + max(0.0, vm.changing_until - self._last_now)
                vm.noted_at = now
            self._loop = loop
        self._last_now = now
        return now

    def _get(self, vm_id: str) -> _VM:
        if (vm := self._vms.get(vm_id)) is None:
            # Rarely enough to keep the cost of each VM constant.
            if len(self._vms) > 2 * self._size_after_tidying + 1000:
                self._tidy()
            vm = self._vms[vm_id] = _VM()
        return vm

    def _tidy(self) -> None:
        now = self._now()
        old = now - self.appears_within - self._max_staleness
        self._vms = {
            vm_id: vm
            for vm_id, vm in self._vms.items()
            if vm.changing_until > old or self._is_recent(vm, now)
        }
        self._size_after_tidying = len(self._vms)
        self._ids_by_name = {}
        for vm_id, vm in self._vms.items():
            if vm.name is not None:
                self._ids_by_name.setdefault(vm.name, []).append(vm_id)

    # --- for completion -------------------------------------------------------------------------

    def is_quiet(self, vm_id: str, *, besides: Awaited | None = None) -> bool:
        """Return whether no change by this client is recent enough to be missing from a read.

        Args:
            vm_id: The VM.
            besides: An operation in progress to ignore, because it is the one in question.
        """
        now, vm = self._now(), self._vms.get(vm_id)
        if vm is None:
            return True
        if besides is not None and vm.operation == besides and vm.changing_until > now:
            return vm.was_quiet
        return now - vm.changing_until >= self._max_staleness

    def is_visible(self, vm_id: str) -> bool:
        """Return whether this client has seen a VM."""
        vm = self._vms.get(vm_id)
        return vm is not None and vm.visible

    def begin(self, vm_id: str, target: Target) -> None:
        """Note an operation that was, or may have been, accepted."""
        was_quiet = self.is_quiet(vm_id, besides=target.operation)
        vm = self._get(vm_id)
        vm.was_quiet, vm.operation = was_quiet, target.operation
        vm.changing_until = max(vm.changing_until, self._now() + target.timeout)

    def end(self, vm_id: str, *, visible: bool) -> None:
        """Note that an operation was seen to complete, and whether the VM exists."""
        vm = self._get(vm_id)
        vm.changing_until, vm.visible, vm.operation = self._now(), visible, None

    # --- for creates ----------------------------------------------------------------------------

    def keep_for(self, seconds: float) -> None:
        """Know VMs for at least this many seconds after they were created or deleted."""
        self._kept = max(self._kept, seconds)

    def _is_recent(self, vm: _VM, now: float) -> bool:
        return now - vm.noted_at <= self._kept

    def created(self, vm_id: str, name: str) -> None:
        """Note the VM that a create made."""
        vm = self._get(vm_id)
        if vm.name is None:
            self._ids_by_name.setdefault(name, []).append(vm_id)
        vm.name, vm.noted_at = name, self._now()

    def created_as(self, vm_id: str) -> str | None:
        """Return the name of this client's create that made a VM; None if there is none."""
        vm = self._vms.get(vm_id)
        return vm.name if vm is not None and self._is_recent(vm, self._now()) else None

    def created_with(self, name: str) -> Collection[str]:
        """Return the VMs that this client created with a name."""
        now, vms = self._now(), self._vms
        return [i for i in self._ids_by_name.get(name, ()) if self._is_recent(vms[i], now)]

    def renamed(self, vm_id: str) -> None:
        """Note that a VM may have another label from now on."""
        if (vm := self._vms.get(vm_id)) is not None:
            vm.renamed = True

    def deleted(self, vm_id: str) -> bool:
        """Note that a VM is, or may be, deleted; return whether that is new."""
        is_new = not self.is_deleted(vm_id)
        vm = self._get(vm_id)
        vm.deleted, vm.noted_at = True, self._now()
        return is_new

    def not_deleted(self, vm_id: str) -> None:
        """Note that the delete of a VM was refused."""
        if (vm := self._vms.get(vm_id)) is not None:
            vm.deleted = False

    def is_deleted(self, vm_id: str) -> bool:
        """Return whether a VM is, or may be, deleted."""
        vm = self._vms.get(vm_id)
        return vm is not None and vm.deleted and self._is_recent(vm, self._now())

    def compare(self, vm_list: VMList) -> None:
        """Update `provider_renames` from a list."""
        if self.provider_renames or self._compared_at == vm_list.sent_at:
            return
        self._compared_at = vm_list.sent_at
        now, known = self._now(), self._vms
        for label, vms in vm_list.vms.items():
            for listed in vms:
                vm = known.get(listed.id)
                if vm is None or vm.name in (None, label) or vm.renamed:
                    continue
                if self._is_recent(vm, now):
                    self.provider_renames = True
                    return
