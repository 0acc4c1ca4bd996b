"""The VMs that this client recently created, renamed and deleted.

A list that is up to ``max_staleness`` old still shows deleted VMs, and VMs of other creates. A
create whose response was lost must adopt none of them.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Collection
from typing import Final, Generic, TypeVar

from async_vmapi.tasks.vm_list import VMList

__all__ = ["History"]

T = TypeVar("T")

_MOST: Final = 100_000
"""Maximum number of ids of each kind."""


class History:
    """Ids of VMs, kept for a limited time after each write.

    Args:
        kept: Minimum seconds to keep them.

    Attributes:
        changes_names: Whether the provider changes names: a VM was observed with another name than
            its create requested.
    """

    def __init__(self, *, kept: float) -> None:
        self.changes_names = False
        self._created: _Recent[str] = _Recent(kept)
        self._deleted: _Recent[None] = _Recent(kept)
        self._by_name: dict[str, set[str]] = {}
        # The labels that VMs must have unless the provider changes names.
        self._labels: dict[str, str] = {}
        self._compared = -math.inf

    def keep_for(self, seconds: float) -> None:
        """Keep ids for at least this many seconds."""
        self._created.kept = max(self._created.kept, seconds)
        self._deleted.kept = max(self._deleted.kept, seconds)

    def created(self, vm_id: str, name: str) -> None:
        """Note the VM that a create made."""
        for old, its_name in self._created.add(vm_id, name):
            self._labels.pop(old, None)
            self._by_name[its_name].discard(old)
            if not self._by_name[its_name]:
                del self._by_name[its_name]
        self._labels[vm_id] = name
        self._by_name.setdefault(name, set()).add(vm_id)

    def created_as(self, vm_id: str) -> str | None:
        """Return the name of this client's create that made a VM; None if there is none."""
        return self._created.get(vm_id)

    def created_with(self, name: str) -> Collection[str]:
        """Return the VMs that this client created with a name."""
        return self._by_name.get(name, ())

    def renamed(self, vm_id: str) -> None:
        """Note that a VM may have another label from now on."""
        self._labels.pop(vm_id, None)

    def deleted(self, vm_id: str) -> bool:
        """Note that a VM is, or may be, deleted; return whether that is new."""
        is_new = vm_id not in self._deleted
        self._deleted.add(vm_id, None)
        return is_new

    def not_deleted(self, vm_id: str) -> None:
        """Note that the delete of a VM was refused."""
        self._deleted.remove(vm_id)

    def is_deleted(self, vm_id: str) -> bool:
        """Return whether a VM is, or may be, deleted."""
        return vm_id in self._deleted

    def compare(self, vm_list: VMList) -> None:
        """Update `changes_names` from a list."""
        if self.changes_names or self._compared == vm_list.sent_at:
            return
        self._compared = vm_list.sent_at
        expected = self._labels
        self.changes_names = any(
            expected.get(vm.id, label) != label for label, vms in vm_list.vms.items() for vm in vms
        )


class _Recent(Generic[T]):
    """A mapping from id to value, in the order in which ids were last added."""

    def __init__(self, kept: float) -> None:
        self.kept = kept
        self._noted: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def __contains__(self, vm_id: str) -> bool:
        return vm_id in self._noted

    def get(self, vm_id: str) -> T | None:
        found = self._noted.get(vm_id)
        return None if found is None else found[1]

    def remove(self, vm_id: str) -> None:
        self._noted.pop(vm_id, None)

    def add(self, vm_id: str, value: T) -> list[tuple[str, T]]:
        """Add an id, and return the expired entries that it removes."""
        now = asyncio.get_running_loop().time()
        self._noted[vm_id] = now, value
        self._noted.move_to_end(vm_id)
        expired: list[tuple[str, T]] = []
        while now - next(iter(self._noted.values()))[0] > self.kept or len(self._noted) > _MOST:
            old, (_, its_value) = self._noted.popitem(last=False)
            expired.append((old, its_value))
        return expired
