"""The tasks that this worker was asked about. All of it comes from the tokens."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

from async_vmapi import Client, OutcomeUnknown, Task, TaskError, VMAPIError
from web_backend.seal import Seal

MOST: Final = 1000
"""How many tasks are kept in mind; one that is not is taken up again from its token."""


class Tracker:
    """Takes tasks up from their tokens, and remembers them for the next question.

    Args:
        client: The client.
        seal: Opens the tokens that come in, and seals those that go out.
    """

    def __init__(self, client: Client, seal: Seal) -> None:
        self._client = client
        self._seal = seal
        self._settling: OrderedDict[str, asyncio.Task[Task[Any]]] = OrderedDict()

    async def find(self, sealed: str, within: float | None = None) -> Task[Any] | None:
        """Return the task, or None if it is in doubt and was not found in so many seconds.

        None, too, if this worker gave up looking.

        Args:
            sealed: The sealed token.
            within: Seconds; None for as long as the client looks.

        Raises:
            InvalidArgument: If it is no token of this service and endpoint.
            OutcomeUnknown: If it was looked for in vain. The next call looks again.
        """
        settling = self._begin(sealed)
        # Who asks may go away; the others who asked the same still want to know.
        done, _ = await asyncio.wait({settling}, timeout=within)
        if not done:
            return None
        if settling.cancelled():  # one too many, or the end: whoever asks is not cancelled by it
            return None
        if settling.exception() is not None and self._settling.get(sealed) is settling:
            del self._settling[sealed]
        return settling.result()

    def _begin(self, sealed: str) -> asyncio.Task[Task[Any]]:
        settling = self._settling.get(sealed)
        if settling is None:
            # A forged token is refused here, before the SDK sees it.
            settling = asyncio.create_task(self._client.reconcile(self._seal.open(sealed)))
            self._settling[sealed] = settling
            while len(self._settling) > MOST:
                self._settling.popitem(last=False)[1].cancel()
        self._settling.move_to_end(sealed)
        return settling

    async def status(self, sealed: str, wait: float) -> dict[str, Any]:
        """Return what has become of a task, after so many seconds at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        try:
            task = await self.find(sealed, wait)
        except OutcomeUnknown as error:
            return told_doubt(error)
        if task is None:
            return {"status": "in doubt"}
        try:
            await task.wait(timeout=max(0.001, until - loop.time()))
        except TaskError as error:  # a TaskTimeout among them: then it goes on
            shown = self._shown(task)
            return {**shown, "error": str(error)} if task.done() else shown
        return self._shown(task)

    async def changes(self, sealed: str) -> AsyncIterator[dict[str, Any]]:
        """Iterate over what becomes of a task, to its end."""
        try:
            task = await self.find(sealed, 0.1)
            if task is None:
                yield {"status": "in doubt"}
                task = await self.find(sealed)
            if task is None:  # given up: the page asks again, here or elsewhere
                return
            yield self._shown(task)
            async for _ in task.events():
                yield self._shown(task)
        except OutcomeUnknown as error:
            yield told_doubt(error)
        except VMAPIError as error:
            yield {"status": "unknown", "error": str(error)}

    def _shown(self, task: Task[Any]) -> dict[str, Any]:
        """Return a task in words for a browser."""
        ended = "done" if task.evidence is not None else "failed"
        vm = task.last_seen
        return {
            "status": ended if task.done() else "running",
            "operation": task.operation,
            "vm_id": task.vm_id,
            "name": vm.label if vm else None,
            "evidence": task.evidence,
            # With what was seen until now; the one that was asked by is good too.
            "next_token": self._seal.close(task.token()),
            "history": [
                {"elapsed": round(event.elapsed, 1), "state": event.state or "gone"}
                for event in task.history
            ],
        }

    def close(self) -> None:
        """Look for nothing any more."""
        for settling in self._settling.values():
            settling.cancel()


def told_doubt(error: OutcomeUnknown) -> dict[str, Any]:
    """Return a doubt in words for a browser."""
    return {
        "status": "unknown",
        "operation": error.operation,
        "name": error.name,
        "candidates": error.candidates,
        "error": str(error),
    }
