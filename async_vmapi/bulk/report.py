"""What became of many operations: `Outcome` for each, `BulkReport` for all. Pure."""

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
    """What became of one item of a bulk call.

    Attributes:
        index: The item's number in what was given, from 0.
        item: The machine's id, or the name of the one to be created; of a general `run`, the
            item's number.
        status: ``succeeded``; ``failed`` (refused, or seen to fail); ``unknown`` (nobody can tell
            whether the request was carried out, or the end was not seen); ``not_started``.
        vm_id: The machine's id, where it is known.
        wave: The wave's number, from 1.
        seconds: From the request's start to the seen end, of a success, in the call that saw it.
        evidence: How the end is known, of a success; see `Evidence`.
        adopted: Whether the API's answer was lost and the task found all the same.
        token: A text to go on with by ``client.reconcile``; it holds no secret.
        accepted: Of an unknown one, whether the API accepted it, so that its end can be watched
            for; else nobody knows whether it did.
        reason: Why it did not succeed, in words; of a delete that did, whether the VM was gone
            already.
        error: The error's class name.
        value: What the task returned, for instance the machine. Not in JSON.
        exception: The error itself. Not in JSON.
        source: The item itself. Not in JSON, for it may hold secrets.
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
    """An outcome as it is written down."""

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
    """Return an outcome as it is written down."""
    return msgspec.convert(outcome, OutcomeLine, from_attributes=True)


def outcome_of(line: OutcomeLine) -> Outcome:
    """Return the outcome that was written down."""
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
    """What became of every item of a bulk call: each is in exactly one of the four kinds.

    Attributes:
        operation: What was asked for, for instance ``"shutdown"``; ``"run"`` for a general one.
        arguments: With which arguments, the same for all.
        origin: The endpoint that it was asked of.
        outcomes: One for each item, in the order of their numbers.
        dry_run: Whether nothing was to be written.
        complete: Whether all that was given was taken up; False if an iterable without a length
            was left off in the middle.
        stopped: Why nothing new was started from some moment on; None if all was.
        seconds: From the start to the end.
        requests: How many requests the client sent in that time, by the call's name in WIRE §2;
            those of others who used it then are among them.
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
        """What was seen to end well."""
        return self._of("succeeded")

    @property
    def failed(self) -> list[Outcome]:
        """What was refused, or was seen to fail."""
        return self._of("failed")

    @property
    def unknown(self) -> list[Outcome]:
        """What may have been carried out, or may yet end well."""
        return self._of("unknown")

    @property
    def not_started(self) -> list[Outcome]:
        """Of what nothing was sent."""
        return self._of("not_started")

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {kind: found[kind] for kind in _KINDS}

    @property
    def median_seconds(self) -> float | None:
        """How long half of the successes took at most; None if there are none."""
        taken = self._durations()
        half = len(taken) // 2
        return (taken[half] + taken[~half]) / 2 if taken else None

    @property
    def p95_seconds(self) -> float | None:
        """How long 95 % of the successes took at most; None if there are none."""
        taken = self._durations()
        return taken[-(-95 * len(taken) // 100) - 1] if taken else None

    def _durations(self) -> list[float]:
        return sorted(o.seconds for o in self.succeeded if o.seconds is not None)

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in self.counts.items() if n)
        stopped = f"; stopped: {self.stopped}" if self.stopped else ""
        return f"{self.operation} of {len(self.outcomes)}: {counts or 'nothing to do'}{stopped}"

    def raise_on_failure(self) -> None:
        """Raise if something failed or is unknown.

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
        """Return it as JSON, without secrets and without the values and items themselves."""
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
        """Read what `to_json` returned.

        Raises:
            InvalidArgument: If it is damaged, or no report.
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
                "report is damaged: its counts do not fit its outcomes", argument="report"
            )
        return report


_KINDS: Final[tuple[Status, ...]] = ("succeeded", "failed", "unknown", "not_started")
