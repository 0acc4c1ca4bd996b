"""What happens in a job, as it is written into DBOS's stream and read from it. Pure."""

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
    """Return some events as they are written down."""
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
    """Reads what was written down, and tells each event once.

    A worker that goes on with a job goes through it from the start, and writes what it finds.
    """

    def __init__(self) -> None:
        self._told: set[Hashable] = set()

    def read(self, text: str) -> Iterator[BulkEvent]:
        """Iterate over those events of a text that are new."""
        for line in _decode(text):
            which = (line.kind, line.index)
            if which in self._told:
                continue
            self._told.add(which)
            fields = msgspec.structs.asdict(line)
            fields["outcome"] = None if line.outcome is None else outcome_of(line.outcome)
            yield BulkEvent(**fields)
