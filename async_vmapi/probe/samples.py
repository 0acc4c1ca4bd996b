"""What reads showed of a VM after a write, and when: `Sample`, `Trace`. Pure.

A read is asked for at one moment and responded to at another; both are kept, so that every time is
measured with its error. A time whose error is too large is not known.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias, cast

import attrs
import msgspec

from async_vmapi.facts import Facts
from async_vmapi.probe.recorder import Exchange

__all__ = [
    "By",
    "Form",
    "Sample",
    "Seen",
    "Trace",
    "Words",
    "form_of",
    "items_of",
    "object_of",
    "sample_of",
]

By: TypeAlias = Literal["get", "list"]
Form: TypeAlias = Literal["json", "bare", "html", "gone", "success_false"]

_LONGEST: Final = 40
_IN_A_ROW: Final = 5
_VANISHED: Final = 12


@attrs.frozen
class Seen:
    """What a read showed of a VM."""

    label: str | None
    state: str
    cores: int
    ram: int
    has_address: bool

    @property
    def size(self) -> tuple[int, int]:
        """Cores and memory."""
        return self.cores, self.ram


@attrs.frozen
class Sample:
    """One read of a VM; `vm` is None if it showed none."""

    by: By
    sent: float
    received: float
    vm: Seen | None


class Words:
    """The states that count: a word that is seen once can be a fault of one response.

    Attributes:
        known: States that are known, or were seen five times in a row.
    """

    def __init__(self) -> None:
        default = Facts.default()
        self.failures = frozenset(default["states.failures"].value)
        self.known = self.failures | set(default["states.known"].value)
        self.seen = dict[str, int]()
        self._last, self._count = "", 0

    def note(self, state: str) -> None:
        """Note the state of a sample."""
        self._count = self._count + 1 if state == self._last else 1
        self._last = state
        if self._count >= _IN_A_ROW and len(state) <= _LONGEST and state.isprintable():
            self.known |= {state}


@attrs.define(eq=False)
class Trace:
    """A write, and the samples after it.

    Attributes:
        sent: When the write was sent.
        accepted: When its response came.
        certain: Whether it was sent once, and accepted.
        interval: Seconds between two reads.
        words: The states that count.
        raw: All samples.
    """

    sent: float
    accepted: float
    certain: bool
    interval: float
    words: Words
    raw: list[Sample] = attrs.field(factory=list[Sample])
    left_online: bool = False

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self.raw.append(sample)
        if sample.vm is not None:
            self.words.note(sample.vm.state)
            if sample.vm.state != "online" and sample.vm.state in self.words.known:
                self.left_online = True

    @property
    def samples(self) -> list[Sample]:
        """The samples that count: no unknown words, and no absence of a VM that is there."""
        words = self.words.known
        return [s for s in self.raw if s.vm is not None and s.vm.state in words]

    @property
    def has_vanished(self) -> bool:
        """Whether many reads in a row show no VM."""
        return len(self.raw) >= _VANISHED and all(s.vm is None for s in self.raw[-_VANISHED:])

    def holds(self, seconds: float, condition: Callable[[Seen], bool]) -> bool:
        """Return whether all samples of the last seconds meet a condition, by GET and by list."""
        return self._all_of(
            seconds,
            (s for s in reversed(self.raw) if s.vm and s.vm.state in self.words.known),
            lambda sample: sample.vm is not None and condition(sample.vm),
        )

    def absent_for(self, seconds: float) -> bool:
        """Return whether all samples of the last seconds show no VM, by GET and by list."""
        return self._all_of(seconds, reversed(self.raw), lambda sample: sample.vm is None)

    def _all_of(
        self, seconds: float, latest: Iterator[Sample], condition: Callable[[Sample], bool]
    ) -> bool:
        # Few samples with long gaps prove nothing: each may be old.
        gap = max(4 * self.interval, seconds / 5)
        by, end, after = set[By](), None, 0.0
        for sample in latest:
            if not condition(sample):
                return False
            if end is None:
                end = sample.received
            elif after - sample.sent > gap:
                return False
            after = sample.sent
            by.add(sample.by)
            if sample.received <= end - seconds:
                return len(by) > 1
        return False

    # --- times ---------------------------------------------------------------------------------

    def after(self, sample: Sample | None, by: By | None = None) -> float | None:
        """Return the seconds from the write to a sample; None if that is not known well enough.

        It is not known if the write may have been sent more than once, or if the two reads before
        the sample are too long ago, so that what it shows may have come long before. One of them
        alone may have been wrong.
        """
        if sample is None or not self.certain:
            return None
        before = [s for s in self.raw if s.received <= sample.sent and by in (None, s.by)]
        usable = [s for s in before if s.vm is None or s.vm.state in self.words.known]
        times = [self.sent, self.sent, *(s.sent for s in usable)]
        took = sample.received - sample.sent
        allowed = (5 if by else 3) * self.interval + took
        if sample.received - times[-1] > allowed or sample.received - times[-2] > 2 * allowed:
            return None
        return sample.received - self.sent

    def first(self, condition: Callable[[Seen], bool], by: By | None = None) -> Sample | None:
        """Return the first sample that meets a condition."""
        return next((s for s in self._those(by) if s.vm and condition(s.vm)), None)

    def last(self, condition: Callable[[Seen], bool], by: By | None = None) -> Sample | None:
        """Return the last sample that meets a condition."""
        return next((s for s in reversed(self._those(by)) if s.vm and condition(s.vm)), None)

    def first_after(
        self, sample: Sample | None, condition: Callable[[Seen], bool]
    ) -> Sample | None:
        """Return the first sample after the last of another kind that meets a condition.

        Between them, old and new reads mix. If reads failed afterwards, the last one of the other
        kind may have been among them; then None is returned.
        """
        late = [s for s in self.samples if sample is not None and s.sent >= sample.received]
        if sample is None or self._gap([sample, *late]) > 3 * self.interval:
            return None
        return next((s for s in late if s.vm and condition(s.vm)), None)

    def appears(self, by: By | None = None) -> Sample | None:
        """Return the first sample that shows the VM, in whatever state."""
        return next((s for s in self.raw if s.vm and by in (None, s.by)), None)

    @property
    def gone(self) -> Sample | None:
        """The first sample after the last that shows the VM."""
        there = max((n for n, s in enumerate(self.raw) if s.vm), default=-1)
        return self.raw[there + 1] if there + 1 < len(self.raw) else None

    @property
    def has_gaps(self) -> bool:
        """Whether reads failed for so long that a short change can have been missed."""
        samples = self.samples
        first = samples[0].sent - self.sent if samples else math.inf
        return max(first, self._gap(samples)) > 3 * self.interval

    @staticmethod
    def _gap(samples: list[Sample]) -> float:
        return max((b.sent - a.sent for a, b in itertools.pairwise(samples)), default=0.0)

    def ages(
        self, is_old: Callable[[Seen], bool], is_new: Callable[[Seen], bool], since: float
    ) -> Iterator[tuple[By, float, bool]]:
        """Yield how old reads were at least that showed what was there before a change.

        Args:
            is_old: What was there before.
            is_new: What is there afterwards.
            since: From when on the change was made.

        Yields:
            What read it was, its age, and whether an earlier read had shown the change.
        """
        new = self.first(is_new)
        for sample in self.samples:
            if sample.vm is None or not is_old(sample.vm):
                continue
            if sample.sent > since:
                back = new is not None and sample.sent >= new.received
                yield sample.by, sample.sent - since, back

    def _those(self, by: By | None) -> list[Sample]:
        return self.samples if by is None else [s for s in self.samples if s.by == by]


# --- responses as they came ---------------------------------------------------------------------


def object_of(body: bytes) -> dict[str, object] | None:
    """Return the JSON object of a body; None if it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def items_of(value: object) -> list[object]:
    """Return the items of a JSON list, or a value as the only one; none of null."""
    if isinstance(value, list):
        return cast("list[object]", value)
    return [] if value is None else [value]


def form_of(exchange: Exchange) -> Form | None:
    """Return the form of a "not found"; None if it is none that is known."""
    content = object_of(exchange.body)
    if exchange.status == 410:
        return "gone"
    if exchange.status == 404:
        if content is not None:
            return "json"
        if not exchange.body.strip():
            return "bare"
        return "html" if exchange.html or exchange.body.lstrip()[:1] == b"<" else None
    refused = exchange.status == 200 and (content or {}).get("success") is False
    return "success_false" if refused else None


def sample_of(
    exchange: Exchange, by: By, vm_id: str, slowest: float, form: Form | None
) -> Sample | None:
    """Return what a read showed of a VM; None if it cannot be used.

    Args:
        exchange: The read.
        by: What read it is.
        vm_id: The VM.
        slowest: Maximum seconds that it may have taken.
        form: How "not found" is responded, if that is known.
    """
    received = exchange.received
    if received is None or received - exchange.sent > slowest:
        return None
    if exchange.status in (404, 410) or (form == "success_false" and form_of(exchange) == form):
        return Sample(by, exchange.sent, received, None) if by == "get" else None
    content = object_of(exchange.body)
    if exchange.status != 200 or content is None:
        return None
    vms = items_of(content.get("virtual_machine" if by == "get" else "virtual_machines"))
    try:
        shown = [msgspec.convert(vm, _VM) for vm in vms]
        found = next((vm for vm in shown if str(vm.id) == vm_id), None)
        if found is None:
            return Sample(by, exchange.sent, received, None) if by == "list" else None
        return Sample(by, exchange.sent, received, found.seen())
    except (msgspec.ValidationError, ValueError):
        return None


class _Interface(msgspec.Struct):
    primary_ip_ipv4address: str | None = None
    ipv4_addresses: list[object] = []


class _VM(msgspec.Struct):
    id: str | int
    state: str
    cores: int | str
    ram: int | str
    label: str | None = None
    public_interface: _Interface | None = None

    def seen(self) -> Seen:
        place = self.public_interface or _Interface()
        has_address = bool(place.primary_ip_ipv4address or place.ipv4_addresses)
        return Seen(self.label, self.state, int(self.cores), int(self.ram), has_address)
