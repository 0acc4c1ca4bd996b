"""A manually advanced clock with scheduled actions."""

import heapq
import itertools
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Action", "Timeline"]

Action: TypeAlias = Callable[[float], None]
"""A scheduled action. It is called with the time at which it was due."""


class Timeline:
    """Calls actions in the order of their times.

    Attributes:
        now: The latest time passed to `advance`, in seconds; initially 0.
        began: The first time passed to `advance`; initially None.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.began: float | None = None
        self._due: list[tuple[float, int, Action]] = []
        self._ties = itertools.count()

    def at(self, at: float, action: Action) -> None:
        """Schedule `action` at `at`; actions at the same time run in the order added."""
        heapq.heappush(self._due, (at, next(self._ties), action))

    def advance(self, now: float) -> None:
        """Run everything that is due by `now`."""
        if self.began is None:
            self.began = self.now = now
        self.now = max(self.now, now)
        while self._due and self._due[0][0] <= now:
            at, _, action = heapq.heappop(self._due)
            action(at)
