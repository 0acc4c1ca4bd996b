"""How a bulk call goes about its machines: how many at once, in which waves, and when to stop.

Pure: values and sums.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import attrs

from async_vmapi import validation
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.errors import InvalidArgument

if TYPE_CHECKING:
    # A plan can be made, by the command line say, without what carries it out.
    from async_vmapi.tasks.task import Task

__all__ = ["BulkEvent", "BulkPlan", "Share", "count_of", "wave_sizes"]

Share: TypeAlias = int | str
"""A number of machines, or a percentage of a fleet like ``"5%"`` or ``"0.5%"``."""

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)


@attrs.frozen(kw_only=True)
class BulkEvent:
    """Something that happened in a bulk call.

    Attributes:
        kind: ``started`` (a wave begins, or an item's request is about to be sent), ``accepted``
            (the API took it), ``finished`` (with its `outcome`) or ``stopped`` (nothing new
            starts from now on; see `reason`).
        item: What it is about: a machine's id, or the name of one to be created; empty if the
            event is about all of them.
        index: The item's number, from 0.
        wave: The wave's number, from 1.
        vm_id: The machine's id, where it is known.
        task: What was accepted, to look at its `Task.history`; awaiting it is the call's affair.
        outcome: What became of the item.
        reason: Why it stopped.
        in_flight: How many operations are under way.
        done: How many have ended, by what became of them.
    """

    kind: Literal["started", "accepted", "finished", "stopped"]
    item: str = ""
    index: int | None = None
    wave: int = 1
    vm_id: str | None = None
    task: "Task[Any] | None" = None
    outcome: Outcome | None = None
    reason: str = ""
    in_flight: int = 0
    done: Mapping[Status, int] = attrs.field(factory=dict[Status, int])


def _percentage(value: object) -> float | None:
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    percent = float(found[1]) if found else math.inf
    return percent if percent <= 100 else None


def _share(argument: str, value: Any, *, minimum: int) -> Share:
    if isinstance(value, str):
        percent = _percentage(value)
        if percent is None or (minimum and not percent):
            least = "above 0%" if minimum else "from 0%"
            raise validation.refuse(argument, value, f"a percentage {least} to 100%, like '5%'")
        return value
    return validation.whole(argument, value, minimum=minimum)


def count_of(share: Share, total: int, *, up: bool = False) -> int:
    """Return how many a share of so many is; of a percentage the whole part, or one more."""
    if isinstance(share, int):
        return share
    # In millionths, for 0.1 x 30 is not 3 in binary fractions.
    exact = round((_percentage(share) or 0.0) * 1_000_000) * total
    return -(-exact // 100_000_000) if up else exact // 100_000_000


def wave_sizes(waves: Sequence[Share], total: int | None) -> Iterator[float]:
    """Iterate over the sizes of the waves; the last batch's size holds for all after it."""
    size: float = math.inf
    for share in waves:
        size = max(1, count_of(share, total or 0, up=True))
        yield size
    while True:
        yield size


def _batches(value: Sequence[Share] | None) -> tuple[Share, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise validation.refuse(
            "waves", cast(object, value), "a sequence of numbers or percentages"
        )
    return tuple(_share(f"waves[{n}]", batch, minimum=1) for n, batch in enumerate(value))


@attrs.frozen(kw_only=True)
class BulkPlan:
    """How a bulk call goes about its machines.

    Args:
        limit: How many operations are in flight at once at most, each from its request to its
            seen end. How many requests are on the wire is the client's ``max_connections``.
        max_failures: How many items may end as failed or unknown; with one more, nothing new is
            sent, and what was sent is watched to its end. A percentage is of the whole fleet
            given; of an iterable without a length, of the items started so far. None for no
            limit.
        waves: Sizes of waves, like ``[1, "10%", "100%"]``; percentages are of the whole fleet,
            rounded up, and the last size holds for all further waves. The next wave starts only
            when the last one has ended well: the first, the canary, without any failure; the
            others without any, or within `max_failures` if that is given.
        min_online: How many of the given machines are never fewer online by what this call does
            (reboot, reset, resize, shutdown, power_off, delete). Who is online is asked for once,
            at the start, by a list, which may lag behind; a machine counts again when its task
            has ended with it online, an ``assumed`` end included.
        dry_run: Whether to say what would be done, and write nothing.
        on_event: Called with each `BulkEvent`, in the event loop. What it raises is logged, once
            for each kind of exception, and changes nothing.

    Raises:
        InvalidArgument: If one of them is not as said above.
    """

    limit: int = 50
    max_failures: Share | None = None
    waves: Sequence[Share] | None = None
    min_online: Share | None = None
    dry_run: bool = False
    on_event: Callable[[BulkEvent], object] | None = attrs.field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        validation.whole("limit", self.limit, minimum=1)
        validation.boolean("dry_run", self.dry_run)
        for name in ("max_failures", "min_online"):
            if (share := getattr(self, name)) is not None:
                _share(name, share, minimum=0)
        object.__setattr__(self, "waves", _batches(self.waves))
        if self.on_event is not None and not callable(self.on_event):
            raise validation.refuse("on_event", self.on_event, "a callable")

    def require_length(self, total: int | None) -> None:
        """Refuse waves in percent of nobody knows what.

        Raises:
            InvalidArgument: If they are so.
        """
        if total is None and any(isinstance(batch, str) for batch in self.waves or ()):
            raise InvalidArgument(
                "waves in per cent take a fleet with a length, such as a list",
                argument="waves",
            )
