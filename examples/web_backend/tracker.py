"""The tasks that this worker was asked about. All of it comes from the tokens."""

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Final

from async_vmapi import (
    Client,
    InvalidArgument,
    OutcomeUnknown,
    Task,
    TaskError,
    VMAPIError,
)

MOST: Final = 1000
"""How many tasks are kept in mind; one that is not is taken up again from its token."""


def pack(token: str) -> str:
    """Return a token of the SDK, which is JSON, as a text that fits into a path."""
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def unpack(packed: str) -> str:
    """Return the SDK's token; what it says is for the SDK to check."""
    try:
        return base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    except (binascii.Error, ValueError):
        raise InvalidArgument("token is damaged, or is no token", argument="token") from None


class Tracker:
    """Takes tasks up from their tokens, and remembers them for the next question.

    Args:
        client: The client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._settling: OrderedDict[str, asyncio.Task[Task[Any]]] = OrderedDict()

    async def find(self, packed: str, within: float | None = None) -> Task[Any] | None:
        """Return the task, or None if it is in doubt and was not found in so many seconds.

        None, too, if this worker gave up looking.

        Args:
            packed: The token.
            within: Seconds; None for as long as the client looks.

        Raises:
            InvalidArgument: If it is no token of this endpoint.
            OutcomeUnknown: If it was looked for in vain. The next call looks again.
        """
        settling = self._begin(packed)
        # Who asks may go away; the others who asked the same still want to know.
        done, _ = await asyncio.wait({settling}, timeout=within)
        if not done:
            return None
        if settling.cancelled():  # one too many, or the end: whoever asks is not cancelled by it
            return None
        if settling.exception() is not None and self._settling.get(packed) is settling:
            del self._settling[packed]
        return settling.result()

    def _begin(self, packed: str) -> asyncio.Task[Task[Any]]:
        settling = self._settling.get(packed)
        if settling is None:
            settling = asyncio.create_task(self._client.settle(unpack(packed)))
            self._settling[packed] = settling
            while len(self._settling) > MOST:
                self._settling.popitem(last=False)[1].cancel()
        self._settling.move_to_end(packed)
        return settling

    async def status(self, packed: str, wait: float) -> dict[str, Any]:
        """Return what has become of a task, after so many seconds at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        try:
            task = await self.find(packed, wait)
        except OutcomeUnknown as error:
            return told_doubt(error)
        if task is None:
            return {"status": "in doubt"}
        try:
            await task.wait(timeout=max(0.001, until - loop.time()))
        except TaskError as error:  # a TaskTimeout among them: then it goes on
            return told(task) if not task.done() else {**told(task), "error": str(error)}
        return told(task)

    async def changes(self, packed: str) -> AsyncIterator[dict[str, Any]]:
        """Iterate over what becomes of a task, to its end."""
        try:
            task = await self.find(packed, 0.1)
            if task is None:
                yield {"status": "in doubt"}
                task = await self.find(packed)
            if task is None:  # given up: the page asks again, here or elsewhere
                return
            yield told(task)
            async for _ in task.events():
                yield told(task)
        except OutcomeUnknown as error:
            yield told_doubt(error)
        except VMAPIError as error:
            yield {"status": "unknown", "error": str(error)}

    def close(self) -> None:
        """Look for nothing any more."""
        for settling in self._settling.values():
            settling.cancel()


def told(task: Task[Any]) -> dict[str, Any]:
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
        "next_token": pack(task.token()),
        "history": [
            {"elapsed": round(event.elapsed, 1), "state": event.state or "gone"}
            for event in task.history
        ],
    }


def told_doubt(error: OutcomeUnknown) -> dict[str, Any]:
    """Return a doubt in words for a browser."""
    return {
        "status": "unknown",
        "operation": error.operation,
        "name": error.name,
        "candidates": error.candidates,
        "error": str(error),
    }
