"""Iterate over the changes that a `Watch` records."""

import asyncio
from collections.abc import AsyncIterator, Callable

from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.watch import TaskEvent, Watch

__all__ = ["Events"]


class Events:
    """Iterates over a watch's events; the VM is polled only while ``anext`` is awaited.

    Args:
        hub: Polls for the watch.
        watch: The watch.
        note: Returns the note that a cancellation carries.
    """

    def __init__(self, hub: PollHub, watch: Watch, note: Callable[[], str]) -> None:
        self._hub = hub
        self._watch = watch
        self._note = note
        self._next = 0

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        return self

    async def __anext__(self) -> TaskEvent:
        watch = self._watch
        while self._next >= len(watch.history):
            if watch.ended:
                raise StopAsyncIteration
            try:
                await self._hub.wait(watch, any_change=True)
            except asyncio.CancelledError as cancellation:
                cancellation.add_note(self._note())
                raise
        self._next += 1
        return watch.history[self._next - 1]
