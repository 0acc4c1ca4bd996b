"""Track this client's own changes to VMs. Pure.

A read soon after a request can show the VM before it (see `async_vmapi.tasks.completion`). Such a
read is still evidence if nothing had changed the VM before the request; this module knows whether
this client did. It also knows which VMs this client has seen: those cannot be yet to appear.
"""

import math

import attrs

from async_vmapi.models import Operation
from async_vmapi.tasks.completion import APPEARS_WITHIN

__all__ = ["OwnChanges"]


@attrs.define
class _Known:
    """What is known of one VM.

    Attributes:
        until: Until when this client may have changed it.
        visible: Whether a read has shown it.
        operation: The last operation.
        was_quiet: Whether the VM was quiet before that operation.
    """

    until: float = -math.inf
    visible: bool = False
    operation: Operation | None = None
    was_quiet: bool = True


class OwnChanges:
    """The VMs that this client changed recently.

    Args:
        max_staleness: Maximum age of a read, in seconds.
    """

    def __init__(self, max_staleness: float) -> None:
        self._max_staleness = max_staleness
        self._known: dict[str, _Known] = {}
        self._room = 0

    def is_quiet(self, vm_id: str, now: float, *, besides: Operation | None = None) -> bool:
        """Return whether no change by this client is recent enough to be missing from a read.

        Args:
            vm_id: The VM.
            now: The loop's time.
            besides: An operation in progress to ignore, because it is the one in question.
        """
        known = self._known.get(vm_id)
        if known is None:
            return True
        if besides is not None and known.operation == besides and known.until > now:
            return known.was_quiet
        return now - known.until >= self._max_staleness

    def is_visible(self, vm_id: str) -> bool:
        """Return whether this client has seen a VM."""
        known = self._known.get(vm_id)
        return known is not None and known.visible

    def begin(self, vm_id: str, operation: Operation, now: float, until: float) -> None:
        """Record an operation; it may change the VM until `until` or its `end`."""
        known = self._known.setdefault(vm_id, _Known())
        known.was_quiet = self.is_quiet(vm_id, now, besides=operation)
        known.operation = operation
        known.until = max(until, known.until)
        self._tidy(now)

    def end(self, vm_id: str, now: float, *, visible: bool) -> None:
        """Record that an operation was seen to complete, and whether the VM exists."""
        self._known[vm_id] = _Known(now, visible)

    def move_to(self, now: float) -> None:
        """Switch to another clock; each operation may have completed just before."""
        for known in self._known.values():
            known.until = now

    def _tidy(self, now: float) -> None:
        # Rarely enough to keep the cost of each entry constant.
        if len(self._known) <= 2 * self._room + 1000:
            return
        old = now - APPEARS_WITHIN - self._max_staleness
        self._known = {vm_id: known for vm_id, known in self._known.items() if known.until > old}
        self._room = len(self._known)
