"""A clock that is told the time, and what is due on it."""

import heapq
import itertools
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Action", "Timeline"]

Action: TypeAlias = Callable[[float], None]
"""What happens at a time. It is called with the time at which it was due."""


class Timeline:
    """Calls each action at its time, in the order of the times.

    Attributes:
        now: The latest time that it was told, in seconds; 0 before the first.
        began: The first time that it was told; None before.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.began: float | None = None
        self._due: list[tuple[float, int, Action]] = []
        self._ties = itertools.count()

    def at(self, at: float, action: Action) -> None:
        """Let `action` happen at `at`; of several at one time the first added comes first."""
        heapq.heappush(self._due, (at, next(self._ties), action))

    def advance(self, now: float) -> None:
        """Let everything happen that is due by `now`."""
        if self.began is None:
            self.began = self.now = now
        self.now = max(self.now, now)
        while self._due and self._due[0][0] <= now:
            at, _, action = heapq.heappop(self._due)
            action(at)
