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
        self._kept: dict[Watch, tuple[weakref.ref[Any], Callable[[], Any] | None]] = {}

    def add(self, watch: Watch, task: object, recreate: Callable[[], Any] | None) -> None:
        """Keep a task until it is complete.

        Args:
            watch: The task's watch.
            task: The task.
            recreate: Creates the task again once it is no longer referenced; None to drop it then.
        """
        if recreate is None:
            self._kept[watch] = weakref.ref(task, lambda _: self.discard(watch)), None
        else:
            self._kept[watch] = weakref.ref(task), recreate
        if len(self._kept) > MOST_PENDING:
            self.discard(next(iter(self._kept)))

    def discard(self, watch: Watch) -> None:
        """Drop a task that is complete, or was not returned to a caller."""
        self._kept.pop(watch, None)

    def tasks(self) -> list[Any]:
        """Return the tasks, the oldest first."""
        found: list[Any] = []
        for kept, recreate in list(self._kept.values()):
            if (task := kept()) is not None:
                found.append(task)
            elif recreate is not None:
                found.append(recreate())
        return found
