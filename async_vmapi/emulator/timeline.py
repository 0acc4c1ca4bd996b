"""A manually advanced clock with scheduled events of VMs."""

import heapq
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from async_vmapi.emulator.vm import CloudOperation, CloudVM, Due, DueKind

__all__ = ["Changes", "Handler", "Timeline"]

Handler: TypeAlias = Callable[[CloudVM, Any, float], None]
"""Called with the VM, the detail of what is due, and the time at which it was due."""


@attrs.frozen
class Changes:
    """What changed since it was last saved."""

    vms: set[CloudVM] = attrs.field(factory=set[CloudVM])
    operations: set[CloudOperation] = attrs.field(factory=set[CloudOperation])


class Timeline:
    """Handles what is due in the order of its times.

    Attributes:
        now: The latest time passed to `advance`, in seconds; initially 0.
        began: The first time passed to `advance`; initially None.
        ties: How much was scheduled until now.
        handlers: What to call, by kind.
        changes: What changed; None if it is not recorded.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.began: float | None = None
        self.ties = 0
        self.handlers: Mapping[DueKind, Handler] = {}
        self.changes: Changes | None = None
        self._heap: list[tuple[float, int, CloudVM, Due]] = []

    def record(self, vm: CloudVM, operation: CloudOperation | None = None) -> None:
        """Record that a VM changes, and an operation."""
        if self.changes is not None:
            self.changes.vms.add(vm)
            if operation is not None:
                self.changes.operations.add(operation)

    def at(self, at: float, vm: CloudVM, kind: DueKind, detail: int | bytes | None = None) -> None:
        """Schedule something; what is due at the same time is handled in the order added."""
        self.ties += 1
        due = Due(at, self.ties, kind, detail)
        vm.due += (due,)
        self.add(vm, due)

    def add(self, vm: CloudVM, due: Due) -> None:
        """Schedule what a VM has in ``due``."""
        heapq.heappush(self._heap, (due.at, due.tie, vm, due))

    @property
    def next(self) -> float | None:
        """When something is due next, in seconds; None if nothing is."""
        return self._heap[0][0] if self._heap else None

    def advance(self, now: float) -> None:
        """Handle everything that is due by `now`."""
        if self.began is None:
            self.began = self.now = now
        self.now = max(self.now, now)
        while self._heap and self._heap[0][0] <= now:
            at, _, vm, due = heapq.heappop(self._heap)
            vm.due = tuple(other for other in vm.due if other is not due)
            self.record(vm)
            self.handlers[due.kind](vm, due.detail, at)
