"""The latest events, for listeners that each read at their pace.

The memory is bounded, however many listeners there are and however slowly they read: they share one
buffer, and one that falls behind by more than its size gets a ``lost`` event.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from async_vmapi.emulator.control.models import Lost

__all__ = ["KEPT", "Events", "Listener"]

KEPT: Final = 10_000
"""Number of latest events to keep."""

_AT_ONCE: Final = 100


class Events:
    """A buffer of the latest events.

    Args:
        describe: Returns what is sent of a content. As listeners are few, it is called late.
        kept: Number of events to keep.
    """

    def __init__(
        self, describe: Callable[[msgspec.Struct], msgspec.Struct], kept: int = KEPT
    ) -> None:
        self.describe = describe
        # Ids of an emulator that ran before must not be valid.
        self.run: Final = secrets.token_hex(4)
        self._kept: deque[tuple[str, msgspec.Struct]] = deque(maxlen=kept)
        self._published = 0
        self._news = asyncio.Event()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether no listener waits any more."""
        return self._ended

    @ended.setter
    def ended(self, ended: bool) -> None:
        self._ended = ended
        self._news.set()

    @property
    def published(self) -> int:
        """Number of events published so far; the number of the next one."""
        return self._published

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is kept."""
        return self._published - len(self._kept)

    def publish(self, kind: str, content: msgspec.Struct) -> None:
        """Publish an event; `content` must not change afterwards."""
        self._kept.append((kind, content))
        self._published += 1
        self._news.set()

    def since(self, number: int, most: int) -> list[tuple[str, msgspec.Struct]]:
        """Return up to `most` events from a number that is kept."""
        start = number - self.oldest
        return [self._kept[at] for at in range(start, min(start + most, len(self._kept)))]

    async def wait(self, number: int) -> None:
        """Wait for the event of a number."""
        while not self._ended and self._published <= number:
            self._news.clear()
            await self._news.wait()


class Listener:
    """Reads events, as Server-Sent Events.

    Args:
        events: The events.
        last_id: The id of the last event received before; None to begin with the next one.
        kinds: The kinds of events to read; empty for all.
    """

    def __init__(self, events: Events, last_id: str | None, kinds: frozenset[str]) -> None:
        self._events = events
        self._kinds = kinds
        after = events.published if last_id is None else self._after(last_id)
        # Whether it is unknown how many events it has missed.
        self._unknown = after is None
        self._next = after or 0

    def _after(self, last_id: str) -> int | None:
        run, _, number = last_id.partition("-")
        if run != self._events.run or not (number.isascii() and number.isdecimal()):
            return None
        return min(int(number), self._events.published)

    async def wait(self) -> None:
        """Wait until `take` has something to return."""
        await self._events.wait(self._next)

    def take(self) -> bytes:
        """Return the next events; nothing if there are none."""
        events = self._events
        oldest, chunks = events.oldest, list[bytes]()
        if self._unknown or self._next < oldest:
            missed = None if self._unknown else oldest - self._next
            chunks.append(self._encoded(oldest, "lost", Lost(missed)))
            self._unknown, self._next = False, oldest
        for kind, content in events.since(self._next, _AT_ONCE):
            self._next += 1
            if not self._kinds or kind in self._kinds:
                chunks.append(self._encoded(self._next, kind, content))
        return b"".join(chunks)

    def _encoded(self, following: int, kind: str, content: msgspec.Struct) -> bytes:
        # The id is the number of the event that follows.
        head = f"id: {self._events.run}-{following}\nevent: {kind}\ndata: ".encode()
        return head + msgspec.json.encode(self._events.describe(content)) + b"\n\n"
