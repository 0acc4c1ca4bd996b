"""The tasks of a client that were returned and are not complete yet. Pure.

So that an id is known while it matters: a task whose caller was cancelled before it could keep it
is found here, and can be awaited.
"""

import weakref
from collections.abc import Callable
from typing import Any, Final

from async_vmapi.tasks.watch import Watch

__all__ = ["MOST_PENDING", "PendingTasks"]

MOST_PENDING: Final = 10_000
"""How many are kept; with one more, the oldest is dropped."""


class PendingTasks:
    """Keeps what is needed to return each task again, whether or not the caller kept it.

    It does not hold the tasks themselves, so that telemetry learns when no one holds one.
    """

    def __init__(self) -> None:
        self._kept: dict[Watch, tuple[weakref.ref[Any], Callable[[], Any] | None]] = {}

    def add(self, watch: Watch, task: object, again: Callable[[], Any] | None) -> None:
        """Keep a task until it is complete.

        Args:
            watch: What it observes.
            task: The task.
            again: Returns it again once no one holds it; None if it is to be dropped then.
        """
        if again is None:
            self._kept[watch] = weakref.ref(task, lambda _: self.discard(watch)), None
        else:
            self._kept[watch] = weakref.ref(task), again
        if len(self._kept) > MOST_PENDING:
            self.discard(next(iter(self._kept)))

    def discard(self, watch: Watch) -> None:
        """Drop a task: it is complete, or was not returned to anyone."""
        self._kept.pop(watch, None)

    def tasks(self) -> list[Any]:
        """Return the tasks, the oldest first."""
        found: list[Any] = []
        for kept, again in list(self._kept.values()):
            if (task := kept()) is not None:
                found.append(task)
            elif again is not None:
                found.append(again())
        return found
