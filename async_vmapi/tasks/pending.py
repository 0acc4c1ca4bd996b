"""A client's returned tasks that are not complete yet. Pure.

A caller that is cancelled before it can store its task finds it here and can await it.
"""

import weakref
from collections.abc import Callable
from typing import Any, Final

from async_vmapi.tasks.watch import Watch

__all__ = ["MOST_PENDING", "PendingTasks"]

MOST_PENDING: Final = 10_000
"""Maximum number of tasks to keep; beyond it, the oldest is dropped."""


class PendingTasks:
    """Keeps what is needed to return each task again, whether or not the caller kept it.

    It holds no references to the tasks themselves: their release ends their telemetry.
    """

    def __init__(self) -> None:
        self._kept: dict[Watch, weakref.ref[Any]] = {}

    def add(self, watch: Watch, task: object) -> None:
        """Keep a task until it is complete."""
        self._add(watch, weakref.ref(task))

    def add_while_referenced(self, watch: Watch, task: object) -> None:
        """Keep a task until it is complete or no longer referenced elsewhere."""
        self._add(watch, weakref.ref(task, lambda _: self.discard(watch)))

    def _add(self, watch: Watch, task: weakref.ref[Any]) -> None:
        self._kept[watch] = task
        if len(self._kept) > MOST_PENDING:
            self.discard(next(iter(self._kept)))

    def discard(self, watch: Watch) -> None:
        """Drop a task that is complete, or was not returned to a caller."""
        self._kept.pop(watch, None)

    def tasks(self, recreate: Callable[[Watch], Any]) -> list[Any]:
        """Return the tasks, the oldest first; `recreate` makes those not referenced any more."""
        kept = [(watch, task()) for watch, task in list(self._kept.items())]
        return [recreate(watch) if task is None else task for watch, task in kept]
