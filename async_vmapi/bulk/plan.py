"""`BulkPlan`: the settings of a bulk call (concurrency, waves, when to stop). Pure.

`async_vmapi.bulk.scheduler` applies them.
"""

import contextlib
import math
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

import attrs

from async_vmapi import validation
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.serialization import Document, stored
from async_vmapi.readiness.conditions import CheckFunction, Ready, ready_of

if TYPE_CHECKING:
    # So that the command line can create a plan without importing tasks.
    from async_vmapi.tasks.task import Task
else:
    Task = Awaitable

__all__ = [
    "BulkEvent",
    "BulkPlan",
    "EventKind",
    "OnFailure",
    "Promote",
    "Share",
    "SpreadBy",
    "count_of",
    "plan_of",
    "wave_sizes",
]

Share: TypeAlias = int | str
"""A number of VMs, or a percentage of a fleet like ``"5%"`` or ``"0.5%"``."""

EventKind: TypeAlias = Literal[
    "started", "accepted", "finished", "soaking", "held", "paused", "stopped"
]
Promote: TypeAlias = Literal["auto", "manual", "each"]
SpreadBy: TypeAlias = Literal["zone", "group"]
OnFailure: TypeAlias = Literal["stop", "pause"]

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)


@attrs.frozen(kw_only=True)
class BulkEvent(Document):
    """An event of a bulk call.

    Attributes:
        kind: Of an item: ``started`` (its request is about to be sent), ``accepted`` (the API
            accepted it) or ``finished`` (with its `outcome`). Of a wave: ``soaking`` (its VMs must
            stay healthy) or ``held`` (it must be promoted before the next one starts). Of the call:
            ``paused`` (nothing new starts until `BulkExecutor.unpause`) or ``stopped`` (nothing new
            starts).
        item: The VM's id, or the name of a VM to create; empty if the event is not about one item.
        index: The item's number, from 0.
        wave: The wave's number, from 1.
        domain: The wave's failure domain; empty without ``spread_by``.
        vm_id: The VM's id, if known.
        task: The accepted task, for its `Task.history`; the call itself awaits it.
        outcome: The item's outcome.
        reason: Of ``soaking`` and ``held``, what is waited for; of ``paused`` and ``stopped``, why.
        in_flight: Number of operations in progress.
        done: Number of finished items by status.
    """

    kind: EventKind
    item: str = ""
    index: int | None = None
    wave: int = 1
    domain: str = ""
    vm_id: str | None = None
    task: Task[Any] | None = attrs.field(default=None, metadata=stored(omit=True))
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
        if percent is not None and (percent or not minimum):
            return value
    else:
        with contextlib.suppress(InvalidArgument):
            return validation.whole(argument, value, minimum=minimum)
    least = "above 0%" if minimum else "from 0%"
    raise validation.refuse(
        argument,
        value,
        f"a percentage {least} to 100%, like '5%', or an integer of at least {minimum}, like 5",
    )


def count_of(share: Share, total: int, *, up: bool = False) -> int:
    """Return a share of `total` as a number; a percentage is rounded down, or `up`."""
    if isinstance(share, int):
        return share
    # In millionths: in binary floating point, 0.1 x 30 is not 3.
    exact = round((_percentage(share) or 0.0) * 1_000_000) * total
    return -(-exact // 100_000_000) if up else exact // 100_000_000


def wave_sizes(waves: Sequence[Share], total: int | None) -> Iterator[float]:
    """Iterate over the sizes of the waves; the last size applies to all further waves."""
    size: float = math.inf
    for share in waves:
        size = max(1, count_of(share, total or 0, up=True))
        yield size
    while True:
        yield size


def _checked_waves(value: Sequence[Share] | None) -> tuple[Share, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise validation.refuse(
            "waves", cast(object, value), "a sequence of sizes, like [1, '10%', '100%']"
        )
    if not value:
        raise InvalidArgument(
            "waves is empty: give at least one size, like [1, '10%', '100%'], or None for no waves",
            argument="waves",
        )
    return tuple(_share(f"waves[{n}]", wave, minimum=1) for n, wave in enumerate(value))


def _one_of(argument: str, value: object, allowed: Any) -> None:
    if value not in get_args(allowed):
        words = [repr(word) for word in get_args(allowed)]
        raise validation.refuse(argument, value, f"{', '.join(words[:-1])} or {words[-1]}")


def _checked(value: Ready | CheckFunction | None) -> Ready | None:
    return None if value is None else ready_of("check", value)


def _text_of(check: Ready | None) -> str | None:
    if check is not None and check.has_functions:
        raise InvalidArgument(
            "check holds a function, which cannot be stored: use conditions like Ready.ssh()",
            argument="check",
        )
    return None if check is None else str(check)


def _check_of(text: Any, _: object) -> Ready | None:
    return None if text is None else Ready.parse(text)


@attrs.frozen(kw_only=True)
class BulkPlan(Document):
    """The plan of a bulk call.

    Args:
        limit: Maximum number of operations in flight, each from its request to its completion,
            including its check. The client's ``max_connections`` limits the requests in flight.
        max_failures: Failure budget: how many items may end as failed or unknown. If it is
            exceeded, nothing new is sent, and operations in progress are watched to completion. A
            percentage refers to all items given or, for an iterable without a length, to the items
            started so far. None for no limit.
        waves: Sizes of waves, like ``[1, "10%", "100%"]``. Percentages refer to all items and are
            rounded up; the last size applies to all further waves. A wave starts only if the
            previous one succeeded: the first, the canary, without any failure; later ones without
            any, or within `max_failures` if that is given.
        min_online: Minimum number of the given VMs that this call keeps online while it takes
            others down (reboot, reset, resize, shutdown, power_off, delete). The online VMs are
            listed once, at the start, and the list may lag. A VM counts as online again when its
            task completes with it online, even if by ``assumed`` evidence, and it passed `check`.
        check: What each VM must do after its operation, besides being online: a `Ready` or a
            coroutine function that takes the VM and returns True. A VM that does not has failed. A
            function cannot be stored. Not for operations after which VMs are offline.
        check_timeout: Seconds that a VM gets to pass `check`.
        soak: Seconds that the VMs of each wave, including the last, must stay online and pass
            `check` before the next wave starts. They are checked repeatedly, every 5 to 30 s, and
            one more time at the end. Probes of `check` are current, but a read that shows a VM
            online may be ``max_staleness`` seconds old. Outcomes of successes wait for the end. An
            iterable without a length needs `waves`.
        promote: When the next wave starts: ``"auto"``, when the previous one succeeded;
            ``"manual"``, if the first wave was also promoted by `BulkExecutor.promote`; ``"each"``,
            if each was. It waits without limit, and sends no request.
        spread_by: Go through one failure domain after the other, in the order of their first VMs:
            the VMs of a ``"zone"``, or of the same ``"group"`` or groups. `waves`, `max_failures`
            and `min_online` then apply within each domain. Needs a list of items. Zones and groups
            of ids are looked up by one list at the start. Creates have no group.
        on_failure: Whether too many failures ``"stop"`` or ``"pause"`` the call;
            `BulkExecutor.unpause` then continues, and the failure budget starts again.
        dry_run: Whether to report what would be done, and write nothing.
        on_event: Called with each `BulkEvent`, in the event loop. Exceptions that it raises are
            logged, once for each type, and otherwise ignored.

    Raises:
        InvalidArgument: If an argument is wrong.
    """

    limit: int = attrs.field(default=50, metadata=stored(omit_if_default=False))
    max_failures: Share | None = None
    waves: Sequence[Share] | None = None
    min_online: Share | None = None
    check: Ready | None = attrs.field(
        default=None,
        converter=_checked,
        metadata=stored(unstruct_hook=_text_of, struct_hook=_check_of),
    )
    check_timeout: float = 300.0
    soak: float = 0.0
    promote: Promote = "auto"
    spread_by: SpreadBy | None = None
    on_failure: OnFailure = "stop"
    dry_run: bool = False
    on_event: Callable[[BulkEvent], object] | None = attrs.field(
        default=None, repr=False, metadata=stored(omit=True)
    )

    def __attrs_post_init__(self) -> None:
        validation.whole("limit", self.limit, minimum=1)
        validation.boolean("dry_run", self.dry_run)
        for name in ("max_failures", "min_online"):
            if (share := getattr(self, name)) is not None:
                _share(name, share, minimum=0)
        object.__setattr__(self, "waves", _checked_waves(self.waves))
        validation.number(
            "check_timeout", self.check_timeout, above=0.0, finite=True, what="a number of seconds"
        )
        validation.duration("soak", self.soak)
        _one_of("promote", self.promote, Promote)
        _one_of("on_failure", self.on_failure, OnFailure)
        if self.spread_by is not None:
            _one_of("spread_by", self.spread_by, SpreadBy)
        if self.promote != "auto" and self.waves is None and self.spread_by is None:
            raise InvalidArgument(
                "promote needs waves, like waves=[1, '100%'], or spread_by: there is only one wave",
                argument="promote",
            )
        if self.on_event is not None and not callable(self.on_event):
            raise validation.refuse("on_event", self.on_event, "a function that takes a BulkEvent")


def plan_of(plan: BulkPlan | None, fields: dict[str, Any]) -> BulkPlan:
    """Return the plan of a call, which takes it as one value or by its fields.

    Raises:
        InvalidArgument: If both are given, or a field is wrong.
    """
    if plan is None:
        known = attrs.fields_dict(BulkPlan)
        if unknown := [name for name in fields if name not in known]:
            raise InvalidArgument(
                f"a plan has no argument {validation.unknown(unknown, known)}",
                argument=unknown[0],
            )
        return BulkPlan(**fields)
    if not isinstance(plan, BulkPlan):
        raise validation.refuse("plan", plan, "a BulkPlan; give its fields by name, like limit=5")
    if fields:
        raise InvalidArgument(
            "pass a plan or its fields, not both: attrs.evolve(plan, limit=5) changes a field",
            argument="plan",
        )
    return plan
