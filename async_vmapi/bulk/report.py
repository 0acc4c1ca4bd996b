"""The results of a bulk call: an `Outcome` for each item, and a `BulkReport` for all. Pure."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, TypeAlias

import attrs
import msgspec

from async_vmapi.errors import InvalidArgument, VMAPIError
from async_vmapi.models.serialization import Document, Serializable, stored
from async_vmapi.tasks.explain import Explanation

__all__ = ["BulkReport", "Outcome", "Status"]

Status: TypeAlias = Literal["succeeded", "failed", "unknown", "not_started"]

_FORMAT: Final = "async_vmapi bulk report 1"


@attrs.frozen(kw_only=True)
class Outcome(Document):
    """The outcome of one item of a bulk call.

    Attributes:
        index: The item's number, from 0.
        item: The VM's id, or the name of a VM to create; for `run` with a function, the item's
            number.
        status: ``succeeded``; ``failed`` (refused, seen to fail, or not healthy
            afterwards); ``unknown`` (the request may have been carried out, or the operation was
            not seen to complete, or its check was not); ``not_started``.
        vm_id: The VM's id, if known.
        wave: The wave's number, from 1.
        domain: The failure domain, a zone's or group's name; empty without ``spread_by``.
        seconds: For a success, the duration from the request to the observed completion, in the
            call that observed it.
        evidence: For a success, how completion is known; see `Evidence`.
        adopted: Whether the API's response was lost and its effect was found by reconciling.
        token: A token for ``client.reconcile``; it holds no secret.
        accepted: For an unknown outcome, whether the API accepted the request, so that its task can
            be watched.
        reason: Why the item did not succeed; for a successful delete, whether the VM was already
            gone; for another success, whether its soak was cut short.
        error: The error's class name.
        explanation: What was seen, and which rule decided; None without a task.
        value: What the task returned, for instance the VM. Not in JSON.
        exception: The error. Not in JSON.
        source: The item as given. Not in JSON, because it may hold secrets.
    """

    index: int
    item: str
    status: Status
    vm_id: str | None = None
    wave: int = 1
    domain: str = ""
    seconds: float | None = None
    evidence: str | None = None
    adopted: bool = False
    token: str | None = None
    accepted: bool = False
    reason: str = ""
    error: str | None = None
    explanation: Explanation | None = attrs.field(default=None, repr=False)
    value: Any = attrs.field(default=None, repr=False, eq=False, metadata=stored(omit=True))
    exception: Exception | None = attrs.field(
        default=None, repr=False, eq=False, metadata=stored(omit=True)
    )
    source: Any = attrs.field(default=None, repr=False, eq=False, metadata=stored(omit=True))


@attrs.frozen(kw_only=True)
class BulkReport(Serializable):
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
        approved: The hash of the plan file that was carried out; None without one.
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
    approved: str | None = attrs.field(default=None, metadata=stored(omit_if_default=True))
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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON; see `to_json`."""
        fields = super().to_dict()
        outcomes = fields.pop("outcomes")
        return {"format": _FORMAT, **fields, "counts": self.counts, "outcomes": outcomes}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read a report from the data that `to_dict` returned.

        Raises:
            InvalidArgument: If the data is damaged, or is not a report.
        """
        fields = dict(content) if isinstance(content, Mapping) else {}
        version, counts = fields.pop("format", None), fields.pop("counts", None)
        if isinstance(version, str) and version != _FORMAT:
            raise InvalidArgument(
                f"report is not in the format {_FORMAT!r} that this release reads",
                argument="report",
            )
        if version is None or fields.keys() | {"approved"} != attrs.fields_dict(cls).keys():
            raise _damaged("its fields are not those of one")
        try:
            report = super().from_dict(fields)
        except InvalidArgument as error:
            raise _damaged(str(error)) from None
        indexes = [outcome.index for outcome in report.outcomes]
        if (
            report.counts != counts
            or indexes != sorted(set(indexes))
            or min(indexes, default=0) < 0
        ):
            raise _damaged("its counts do not match its outcomes")
        return report

    def to_json(self) -> str:
        """Return the report as JSON, without secrets, values and items as given."""
        return msgspec.json.encode(self.to_dict()).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a report from the JSON that `to_json` returned.

        Raises:
            InvalidArgument: If the JSON is damaged, or is not a report.
        """
        try:
            content = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError, TypeError, UnicodeEncodeError):
            raise _damaged("it is no JSON") from None
        return cls.from_dict(content)


def _damaged(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"report is damaged, or is no report of a bulk call: {why}", argument="report"
    )


_KINDS: Final[tuple[Status, ...]] = ("succeeded", "failed", "unknown", "not_started")
