"""The tasks of this worker, resumed from their tokens."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

from async_vmapi import Client, OutcomeUnknown, Task, TaskError, VMAPIError
from web_backend.seal import Seal

MOST: Final = 1000
"""Maximum number of tasks to keep; others are resumed from their tokens again."""


class Tracker:
    """Resumes tasks from their tokens, and keeps them for the next request.

    Args:
        client: The client.
        seal: Verifies the tokens received, and signs those sent.
    """

    def __init__(self, client: Client, seal: Seal) -> None:
        self._client = client
        self._seal = seal
        self._reconciling: OrderedDict[str, asyncio.Task[Task[Any]]] = OrderedDict()

    async def find(self, sealed: str, within: float | None = None) -> Task[Any] | None:
        """Return the task, or None if it is not reconciled within so many seconds.

        Also returns None if this worker stopped reconciling it.

        Args:
            sealed: The sealed token.
            within: Seconds; None for as long as the client takes.

        Raises:
            InvalidArgument: If it is not a token of this service and endpoint.
            OutcomeUnknown: If it cannot be reconciled. The next call tries again.
        """
        reconciling = self._begin(sealed)
        # If this request is cancelled, others still wait for the same token.
        done, _ = await asyncio.wait({reconciling}, timeout=within)
        if not done or reconciling.cancelled():  # cancelled: too many tasks, or shutdown
            return None
        if reconciling.exception() is not None and self._reconciling.get(sealed) is reconciling:
            del self._reconciling[sealed]
        return reconciling.result()

    def _begin(self, sealed: str) -> asyncio.Task[Task[Any]]:
        reconciling = self._reconciling.get(sealed)
        if reconciling is None:
            # A forged token is rejected here, before the SDK gets it.
            reconciling = asyncio.create_task(self._client.reconcile(self._seal.open(sealed)))
            self._reconciling[sealed] = reconciling
            while len(self._reconciling) > MOST:
                self._reconciling.popitem(last=False)[1].cancel()
        self._reconciling.move_to_end(sealed)
        return reconciling

    async def status(self, sealed: str, wait: float) -> dict[str, Any]:
        """Return the status of a task, after waiting up to `wait` seconds for its completion."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        try:
            task = await self.find(sealed, wait)
        except OutcomeUnknown as error:
            return unknown(error)
        if task is None:
            return {"status": "reconciling"}
        try:
            await task.wait(timeout=max(0.001, until - loop.time()))
        except TaskError as error:  # including TaskTimeout: then it is still running
            shown = self._shown(task)
            return {**shown, "error": str(error)} if task.done() else shown
        return self._shown(task)

    async def changes(self, sealed: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the status of a task whenever it changes, until it ends."""
        try:
            task = await self.find(sealed, 0.1)
            if task is None:
                yield {"status": "reconciling"}
                task = await self.find(sealed)
            if task is None:  # this worker stopped; the page will reconnect
                return
            yield self._shown(task)
            async for _ in task.events():
                yield self._shown(task)
        except OutcomeUnknown as error:
            yield unknown(error)
        except VMAPIError as error:
            yield {"status": "unknown", "error": str(error)}

    def _shown(self, task: Task[Any]) -> dict[str, Any]:
        """Return the status of a task for the page."""
        ended = "done" if task.evidence is not None else "failed"
        vm = task.last_seen
        return {
            "status": ended if task.done() else "running",
            "operation": task.operation,
            "vm_id": task.vm_id,
            "name": vm.label if vm else None,
            "evidence": task.evidence,
            # Includes what was observed so far; the previous token stays valid.
            "next_token": self._seal.close(task.token()),
            "history": [
                {"elapsed": round(event.elapsed, 1), "state": event.state or "gone"}
                for event in task.history
            ],
        }

    def close(self) -> None:
        """Stop reconciling."""
        for reconciling in self._reconciling.values():
            reconciling.cancel()


def unknown(error: OutcomeUnknown) -> dict[str, Any]:
    """Return the status of a write whose outcome stays unknown."""
    return {
        "status": "unknown",
        "operation": error.operation,
        "name": error.name,
        "candidates": error.candidates,
        "error": str(error),
    }
