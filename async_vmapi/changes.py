"""Which VMs this client changed itself, and until when it may have. Pure.

What was read of a VM just after a request can be from before it (see `async_vmapi.completion`). It
still counts for something where nothing had changed the VM; this is the client's own part of that.
"""

import math

__all__ = ["OwnChanges"]


class OwnChanges:
    """The end of this client's last change of each VM, for `max_staleness` seconds after it.

    Args:
        max_staleness: Seconds after which no read shows a value from before a change.
    """

    def __init__(self, max_staleness: float) -> None:
        self._max_staleness = max_staleness
        self._until: dict[str, float] = {}
        self._room = 0

    def is_quiet(self, vm_id: str, now: float) -> bool:
        """Return whether this client changed nothing about a VM that a read may still show."""
        return now - self._until.get(vm_id, -math.inf) >= self._max_staleness

    def begin(self, vm_id: str, now: float, until: float) -> None:
        """Note an operation; without an `end` it may change the VM until then."""
        self._until[vm_id] = max(until, self._until.get(vm_id, -math.inf))
        self._tidy(now)

    def end(self, vm_id: str, now: float) -> None:
        """Note that an operation was seen to be over."""
        self._until[vm_id] = now

    def move_to(self, now: float) -> None:
        """Go on with another clock, by which each of them may have ended just now."""
        self._until = dict.fromkeys(self._until, now)

    def _tidy(self, now: float) -> None:
        # As seldom as makes the cost of each entry constant.
        if len(self._until) <= 2 * self._room + 1000:
            return
        old = now - self._max_staleness
        self._until = {vm_id: until for vm_id, until in self._until.items() if until > old}
        self._room = len(self._until)
