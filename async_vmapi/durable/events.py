"""A job's events, as written to and read from a DBOS stream. Pure."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.durable.spec import decode, encode

__all__ = ["STREAM", "Reader", "written"]

STREAM: Final = "events"


def written(events: Iterable[BulkEvent]) -> str:
    """Return events in their serialized form."""
    return encode(list(events))


class Reader:
    """Reads serialized events, without duplicates.

    A worker that resumes a job repeats it from the start, and writes its events again.
    """

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def read(self, text: str) -> Iterator[BulkEvent]:
        """Iterate over the new events in a text."""
        for event in decode(text, list[BulkEvent]):
            key = (event.kind, event.index)
            if key not in self._seen:
                self._seen.add(key)
                yield event
