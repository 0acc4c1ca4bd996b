"""The results of a bulk call: an `Outcome` for each item, and a `BulkReport` for all. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import attrs
import msgspec

from async_vmapi.errors import InvalidArgument, VMAPIError

__all__ = ["BulkReport", "Outcome", "OutcomeLine", "Status", "line_of", "outcome_of"]

Status: TypeAlias = Literal["succeeded", "failed", "unknown", "not_started"]

_FORMAT: Final = "async_vmapi bulk report 1"


@attrs.frozen(kw_only=True)
class Outcome:
    """The outcome of one item of a bulk call.

    Attributes:
        index: The item's number, from 0.
        item: The VM's id, or the name of a VM to create; for `run` with a function, the item's
            number.
        status: ``succeeded``; ``failed`` (refused, or seen to fail); ``unknown`` (the request may
            have been carried out, or the operation was not seen to complete); ``not_started``.
        vm_id: The VM's id, if known.
        wave: The wave's number, from 1.
        seconds: For a success, the duration from the request to the observed completion, in the
            call that observed it.
        evidence: For a success, how completion is known; see `Evidence`.
        adopted: Whether the API's response was lost and its effect was found by reconciling.
        token: A token for ``client.reconcile``; it holds no secret.
        accepted: For an unknown outcome, whether the API accepted the request, so that its task can
            be watched.
        reason: Why the item did not succeed; for a successful delete, whether the VM was already
            gone.
        error: The error's class name.
        value: What the task returned, for instance the VM. Not in JSON.
        exception: The error. Not in JSON.
        source: The item as given. Not in JSON, because it may hold secrets.
    """

    index: int
    item: str
    status: Status
    vm_id: str | None = None
    wave: int = 1
    seconds: float | None = None
    evidence: str | None = None
    adopted: bool = False
    token: str | None = None
    accepted: bool = False
    reason: str = ""
    error: str | None = None
    value: Any = attrs.field(default=None, repr=False, eq=False)
    exception: Exception | None = attrs.field(default=None, repr=False, eq=False)
    source: Any = attrs.field(default=None, repr=False, eq=False)


class OutcomeLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An outcome, serialized."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    item: str
    status: Status
    vm_id: str | None = None
    wave: int = 1
    seconds: float | None = None
    evidence: str | None = None
    adopted: bool = False
    token: str | None = None
    accepted: bool = False
    reason: str = ""
    error: str | None = None


def line_of(outcome: Outcome) -> OutcomeLine:
    """Return an outcome in its serialized form."""
    return msgspec.convert(outcome, OutcomeLine, from_attributes=True)


def outcome_of(line: OutcomeLine) -> Outcome:
    """Return the outcome from its serialized form."""
    return Outcome(**msgspec.structs.asdict(line))


class _Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    operation: str
    arguments: dict[str, Any]
    origin: str
    dry_run: bool
    complete: bool
    stopped: str | None
    seconds: float
    requests: dict[str, int]
    counts: dict[str, int]
    outcomes: list[OutcomeLine]


_decode: Final = msgspec.json.Decoder(_Saved).decode


@attrs.frozen(kw_only=True)
class BulkReport:
    """The report of a bulk call; each item has exactly one of the four statuses.

    Attributes:
        operation: The operation, for instance ``"shutdown"``; ``"run"`` for a function.
        arguments: Its arguments, the same for all items.
        origin: The client's endpoint.
        outcomes: The outcome of each item, in the order of their numbers.
        dry_run: Whether it was a dry run.
        complete: Whether all items were taken; False if an iterable without a length was not
            exhausted.
        stopped: Why the call stopped starting items; None if it did not.
        seconds: The duration of the call.
        requests: Number of requests that the client sent in that time, by the call's name in WIRE
            §2, including requests outside this call.
    """

    operation: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    origin: str = ""
    outcomes: tuple[Outcome, ...] = attrs.field(default=(), repr=False)
    dry_run: bool = False
    complete: bool = True
    stopped: str | None = None
    seconds: float = 0.0
    requests: Mapping[str, int] = attrs.field(factory=dict[str, int])

    def _of(self, status: Status) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    @property
    def succeeded(self) -> list[Outcome]:
        """The items that were seen to succeed."""
        return self._of("succeeded")

    @property
    def failed(self) -> list[Outcome]:
        """The items that were refused, or seen to fail."""
        return self._of("failed")

    @property
    def unknown(self) -> list[Outcome]:
        """The items that may have been carried out, or may still succeed."""
        return self._of("unknown")

    @property
    def not_started(self) -> list[Outcome]:
        """The items for which nothing was sent."""
        return self._of("not_started")

    @property
    def counts(self) -> dict[str, int]:
        """The number of items by status."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {kind: found[kind] for kind in _KINDS}

    @property
    def median_seconds(self) -> float | None:
        """The median duration of the successes; None if there are none."""
        taken = self._durations()
        half = len(taken) // 2
        return (taken[half] + taken[~half]) / 2 if taken else None

    @property
    def p95_seconds(self) -> float | None:
        """The 95th percentile of the durations of the successes; None if there are none."""
        taken = self._durations()
        return taken[-(-95 * len(taken) // 100) - 1] if taken else None

    def _durations(self) -> list[float]:
        return sorted(o.seconds for o in self.succeeded if o.seconds is not None)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in self.counts.items() if n)
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{self.operation} of {len(self.outcomes)}: {counts or 'nothing to do'}{stopped}"

    def raise_on_failure(self) -> None:
        """Raise if an item failed or is unknown.

        Raises:
            ExceptionGroup: With the error of each item that failed or is unknown.
        """
        errors = [
            outcome.exception or VMAPIError(f"{outcome.item}: {outcome.reason}")
            for outcome in self.outcomes
            if outcome.status in ("failed", "unknown")
        ]
        if errors:
            raise ExceptionGroup(str(self), errors)

    def to_json(self) -> str:
        """Return the report as JSON, without secrets, values and items as given."""
        saved = _Saved(
            format=_FORMAT,
            operation=self.operation,
            arguments=dict(self.arguments),
            origin=self.origin,
            dry_run=self.dry_run,
            complete=self.complete,
            stopped=self.stopped,
            seconds=self.seconds,
            requests=dict(self.requests),
            counts=self.counts,
            outcomes=[line_of(outcome) for outcome in self.outcomes],
        )
        return msgspec.json.encode(saved).decode()

    @classmethod
    def from_json(cls, text: str) -> "BulkReport":
        """Read a report from the JSON that `to_json` returned.

        Raises:
            InvalidArgument: If the JSON is damaged, or is not a report.
        """
        try:
            saved = _decode(text)
        except (msgspec.MsgspecError, RecursionError, TypeError, UnicodeEncodeError):
            raise InvalidArgument(
                "report is damaged, or is no report of a bulk call", argument="report"
            ) from None
        if saved.format != _FORMAT:
            raise InvalidArgument(
                f"report is not in the format {_FORMAT!r} that this release reads",
                argument="report",
            )
        report = cls(
            operation=saved.operation,
            arguments=saved.arguments,
            origin=saved.origin,
            outcomes=tuple(outcome_of(line) for line in saved.outcomes),
            dry_run=saved.dry_run,
            complete=saved.complete,
            stopped=saved.stopped,
            seconds=saved.seconds,
            requests=saved.requests,
        )
        indexes = [outcome.index for outcome in report.outcomes]
        if report.counts != saved.counts or indexes != sorted(set(indexes)):
            raise InvalidArgument(
                "report is damaged: its counts do not match its outcomes", argument="report"
            )
        return report


_KINDS: Final[tuple[Status, ...]] = ("succeeded", "failed", "unknown", "not_started")
