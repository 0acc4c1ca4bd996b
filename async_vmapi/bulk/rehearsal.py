"""The results of a rehearsal: a `RehearsalRun` for each run, and a `Rehearsal` of all. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeAlias

import attrs
import msgspec

from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Status
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.serialization import Document

__all__ = ["Figure", "Rehearsal", "RehearsalRun", "Spread", "Timeline", "WaveSpan", "worst_of"]

Figure: TypeAlias = Literal[
    "seconds", "requests", "requests_per_second", "peak_requests", "fewest_online"
]
"""A figure of a run, see `RehearsalRun`."""

Steps: TypeAlias = tuple[tuple[float, int], ...]
"""A number over time: seconds, and the number from then on."""

_FORMAT: Final = "async_vmapi rehearsal 1"


@attrs.frozen(kw_only=True)
class WaveSpan(Document):
    """When a wave's items were in progress.

    Attributes:
        number: The wave's number, from 1.
        domain: Its failure domain; empty without ``spread_by``.
        begins: Seconds from the start of the call to the first item's start.
        ends: Seconds to the last item's outcome.
    """

    number: int
    domain: str = ""
    begins: float
    ends: float


@attrs.frozen(kw_only=True)
class Timeline(Document):
    """The course of a run; times are seconds from the start of the call.

    Attributes:
        in_flight: Operations in progress.
        online: VMs of the call that were actually online, whatever reads showed. A reboot or reset
            that reads never show takes its VM offline for the second half of its duration.
        failed: Items that had failed or were unknown.
        waves: The waves.
    """

    in_flight: Steps
    online: Steps
    failed: Steps
    waves: tuple[WaveSpan, ...]


@attrs.frozen(kw_only=True)
class RehearsalRun(Document):
    """One run of a plan.

    Attributes:
        seed: Its random seed, with which it can be repeated.
        seconds: Its duration.
        requests: Number of requests sent.
        peak_requests: The most requests sent within one second.
        fewest_online: The fewest VMs of the call that were actually online; None for creates.
        counts: Number of items by status.
        failures: Number of failed and unknown items by the error's class name.
        assumed: Number of items that succeeded by ``assumed`` evidence.
        stopped: Why the call stopped, or would have waited for you after failures; None if it did
            not.
        timeline: Its course; None unless it was recorded.
    """

    seed: int
    seconds: float
    requests: int
    peak_requests: int
    fewest_online: int | None
    counts: Mapping[Status, int]
    failures: Mapping[str, int] = attrs.field(factory=dict[str, int])
    assumed: int = 0
    stopped: str | None = None
    timeline: Timeline | None = attrs.field(default=None, repr=False)

    @property
    def requests_per_second(self) -> float:
        """The mean number of requests sent in a second."""
        return self.requests / max(self.seconds, 1.0)


def worst_of(runs: Iterable[RehearsalRun]) -> RehearsalRun:
    """Return the run with the most failed and unknown items, then not started, then seconds."""

    def badness(run: RehearsalRun) -> tuple[int, int, float]:
        missed = sum(run.counts.values()) - run.counts.get("succeeded", 0)
        return run.counts.get("unknown", 0) + run.counts.get("failed", 0), missed, run.seconds

    return max(runs, key=badness)


@attrs.frozen
class Spread:
    """How a figure differs between runs."""

    least: float
    median: float
    p90: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of at least one value."""
        found = sorted(values)
        half = len(found) // 2
        p90 = found[math.ceil(0.9 * len(found)) - 1]
        return cls(found[0], (found[half] + found[~half]) / 2, p90, found[-1])


@attrs.frozen(kw_only=True)
class Rehearsal(Document):
    """The result of `BulkExecutor.rehearse`.

    Attributes:
        operation: The operation.
        arguments: Its arguments.
        origin: The client's endpoint.
        plan: The plan; without ``on_event``, and with the conditions of ``check`` as text.
        hazards: What went wrong in the runs, and how often.
        vms: Number of VMs that the endpoint's list showed.
        items: Number of items of the call.
        runs: The runs, in the order of their seeds; only the worst one has its `timeline`.
    """

    operation: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    origin: str
    plan: BulkPlan
    hazards: Hazards
    vms: int
    items: int
    runs: tuple[RehearsalRun, ...] = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.runs:
            raise InvalidArgument("runs is empty: a rehearsal has at least one", argument="runs")

    @property
    def worst(self) -> RehearsalRun:
        """The run with the most failed and unknown items, then not started, then seconds."""
        return worst_of(self.runs)

    @property
    def stops(self) -> dict[str, int]:
        """The number of runs that were stopped, by reason; the most frequent first."""
        return dict(Counter(run.stopped for run in self.runs if run.stopped).most_common())

    @property
    def failures(self) -> dict[str, int]:
        """The number of failed and unknown items of all runs, by the error's class name."""
        found = Counter[str]()
        for run in self.runs:
            found.update(run.failures)
        return dict(found.most_common())

    def count(self, status: Status) -> Spread:
        """Return how the number of items of a status differs between runs."""
        return Spread.of([run.counts.get(status, 0) for run in self.runs])

    def spread(self, figure: Figure) -> Spread | None:
        """Return how a figure of `RehearsalRun` differs between runs.

        Returns:
            The spread; None of ``fewest_online`` for creates.
        """
        values = [getattr(run, figure) for run in self.runs]
        return None if None in values else Spread.of(values)

    def to_json(self) -> str:
        """Return the rehearsal as JSON."""
        content = {"format": _FORMAT, **self.to_dict()}
        return msgspec.json.format(msgspec.json.encode(content)).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the rehearsal of a text from `to_json`.

        Raises:
            InvalidArgument: If it is none.
        """
        try:
            content = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            raise InvalidArgument("rehearsal is no JSON object", argument="rehearsal") from None
        if content.pop("format", None) != _FORMAT:
            raise InvalidArgument(
                f"rehearsal is not in the format {_FORMAT!r} that this release reads",
                argument="rehearsal",
            )
        return cls.from_dict(content)

    def to_svg(self) -> str:
        """Return a picture of the worst run: VMs online, in flight and failed, and the waves."""
        from async_vmapi.bulk.picture import picture_of

        return picture_of(self)

    def __str__(self) -> str:
        seconds = Spread.of([run.seconds for run in self.runs])
        succeeded = self.count("succeeded")
        return (
            f"{self.operation} of {self.items}, {len(self.runs)} runs: {seconds.median:.0f} s "
            f"({seconds.least:.0f} to {seconds.most:.0f}); {succeeded.least:.0f} to "
            f"{succeeded.most:.0f} succeeded; {sum(self.stops.values())} runs stopped"
        )
