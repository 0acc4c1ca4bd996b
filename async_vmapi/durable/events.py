"""A job's events, as written to and read from a DBOS stream. Pure."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Literal

import msgspec

from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import OutcomeLine, Status, line_of, outcome_of

__all__ = ["STREAM", "Reader", "written"]

STREAM: Final = "events"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    kind: Literal["started", "accepted", "finished", "stopped"]
    item: str = ""
    index: int | None = None
    wave: int = 1
    vm_id: str | None = None
    outcome: OutcomeLine | None = None
    reason: str = ""
    in_flight: int = 0
    done: dict[Status, int] = {}


_decode: Final = msgspec.json.Decoder(list[_Line]).decode


def written(events: Iterable[BulkEvent]) -> str:
    """Return events in their serialized form."""
    lines = [
        _Line(
            kind=event.kind,
            item=event.item,
            index=event.index,
            wave=event.wave,
            vm_id=event.vm_id,
            outcome=None if event.outcome is None else line_of(event.outcome),
            reason=event.reason,
            in_flight=event.in_flight,
            done=dict(event.done),
        )
        for event in events
    ]
    return msgspec.json.encode(lines).decode()


class Reader:
    """Reads serialized events, without duplicates.

    A worker that resumes a job repeats it from the start, and writes its events again.
    """

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def read(self, text: str) -> Iterator[BulkEvent]:
        """Iterate over the new events in a text."""
        for line in _decode(text):
            key = (line.kind, line.index)
            if key in self._seen:
                continue
            self._seen.add(key)
            fields = msgspec.structs.asdict(line)
            fields["outcome"] = None if line.outcome is None else outcome_of(line.outcome)
            yield BulkEvent(**fields)
