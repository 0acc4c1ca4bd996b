"""What this client knows of VMs from its own operations. Pure.

What was read of a VM just after a request can be from before it (see
`async_vmapi.tasks.completion`). It still counts for something where nothing had changed the VM;
this is the client's own part of that.
And a VM that this client has seen cannot be one that is yet to appear.
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
        operation: The last one that began.
        was_quiet: Whether nothing was changed for a while before that.
    """

    until: float = -math.inf
    visible: bool = False
    operation: Operation | None = None
    was_quiet: bool = True


class OwnChanges:
    """What is known of the VMs that this client changed, for a while after the last change.

    Args:
        max_staleness: Seconds after which no read shows a value from before a change.
    """

    def __init__(self, max_staleness: float) -> None:
        self._max_staleness = max_staleness
        self._known: dict[str, _Known] = {}
        self._room = 0

    def is_quiet(self, vm_id: str, now: float, *, besides: Operation | None = None) -> bool:
        """Return whether this client changed nothing about a VM that a read may still show.

        Args:
            vm_id: The VM.
            now: The loop's time.
            besides: An operation under way that does not count, since it is the one in question.
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
        """Note an operation; without an `end` it may change the VM until then."""
        known = self._known.setdefault(vm_id, _Known())
        known.was_quiet = self.is_quiet(vm_id, now, besides=operation)
        known.operation = operation
        known.until = max(until, known.until)
        self._tidy(now)

    def end(self, vm_id: str, now: float, *, visible: bool) -> None:
        """Note that an operation was seen to be over, and whether the VM is there."""
        self._known[vm_id] = _Known(now, visible)

    def move_to(self, now: float) -> None:
        """Go on with another clock, by which each of them may have ended just now."""
        for known in self._known.values():
            known.until = now

    def _tidy(self, now: float) -> None:
        # As seldom as makes the cost of each entry constant.
        if len(self._known) <= 2 * self._room + 1000:
            return
        old = now - APPEARS_WITHIN - self._max_staleness
        self._known = {vm_id: known for vm_id, known in self._known.items() if known.until > old}
        self._room = len(self._known)
