"""`Findings`: what was measured, and the facts that it proves. Pure.

What is contradictory, or was measured too seldom, is left out: it is not known.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from async_vmapi.facts import SPECS, Fact, Facts
from async_vmapi.probe.samples import Form, Seen, Trace

__all__ = ["CASE", "LENGTH", "SPACES", "UNICODE", "Findings"]

CASE, SPACES, UNICODE, LENGTH = "case", "spaces", "unicode", "length"

_FEWEST_RENAMES: Final = 5
_DIGITS: Final = 2
_ANY: Final = frozenset({"reads.go_back", "reboot.shows", "reset.shows", "resize.shows_early"})
"""Flags that are true if it was ever seen; the others must agree."""


class Findings:
    """Collects measurements.

    Args:
        wait_for: Minutes that guests get to shut down.
        interval: Seconds between two reads.
    """

    def __init__(self, *, wait_for: int, interval: float) -> None:
        self._limit = 60.0 * wait_for
        self._interval = interval
        self._times = defaultdict[str, list[float]](list)
        self._flags = defaultdict[str, list[bool]](list)
        self._forms = defaultdict[str, list[str]](list)
        self._stages = defaultdict[str, dict[str, list[float]]](dict)
        self._fields: set[str] | None = None
        self._fields_seen = 0
        self._names: dict[str, tuple[str, str]] = {}
        self._renames = 0
        self._ages: dict[str, float] = {"get": 0.0, "list": 0.0}
        self._went_back = False
        self._states: dict[str, int] = {}
        self._honours: list[bool] = []
        self.offset: tuple[float, int] | None = None

    # --- measurements --------------------------------------------------------------------------

    def time(self, name: str, seconds: float | None) -> None:
        """Note a time; None is none."""
        if seconds is not None:
            self._times[name].append(max(0.0, seconds))

    def vote(self, name: str, value: bool | None) -> None:
        """Note a yes or no; None is neither."""
        if value is not None:
            self._flags[name].append(value)

    def knows(self, name: str) -> bool:
        """Return whether there was a vote."""
        return name in self._flags

    def form(self, name: str, value: str | None) -> None:
        """Note a form; None is none."""
        if value is not None:
            self._forms[name].append(value)

    def fields(self, names: Iterable[str]) -> None:
        """Note the new fields of one VM."""
        self._fields = (self._fields or set()) | set(names)
        self._fields_seen += 1

    @property
    def not_found(self) -> Form | None:
        """The form of a "not found", if it is known."""
        return cast("Form | None", self._agreed(self._forms["reads.not_found"]))

    @property
    def staleness(self) -> float:
        """The maximum age of a read so far."""
        return max(self._ages.values())

    def rename(self, trace: Trace, old: str, shown: str) -> None:
        """Note how long a rename's old label was read, if no read failed meanwhile."""
        if not trace.certain or trace.has_gaps:
            return
        self._renames += 1
        # It is carried out at once, so nothing but old reads shows the old label afterwards.
        ages = trace.ages(lambda vm: vm.label == old, lambda vm: vm.label == shown, trace.accepted)
        for by, age, back in ages:
            self._ages[by] = max(self._ages[by], age)
            self._went_back |= back

    @property
    def has_unclear_order(self) -> bool:
        """Whether reads were old, and none was seen to be older than the one before."""
        return self.staleness > 0 and not self._went_back

    def knows_name(self, kind: str) -> bool:
        """Return whether it is known what a kind of name comes back as."""
        return kind in self._names

    def name(self, kind: str, sent: str, shown: str) -> None:
        """Note what a name came back as."""
        self._names[kind] = sent, shown

    def states(self, operation: str, trace: Trace, before: str | None) -> None:
        """Note the states after a write, and when each was first seen."""
        final = trace.last(lambda vm: vm.state != before)
        for state in dict.fromkeys(s.vm.state for s in trace.samples if s.vm):
            self._states[state] = self._states.get(state, 0) + 1
            is_it = partial(_is_in, state=state)
            # As it was before, it counts only if it is so again.
            sample = trace.first(is_it) if state != before else trace.first_after(final, is_it)
            if state == before and sample is None:
                continue
            times = self._stages[operation].setdefault(state, [])
            if (seconds := trace.after(sample)) is not None:
                times.append(seconds)

    def switch(self, operation: str, trace: Trace, before: str, to: str, *, acpi: bool) -> None:
        """Note a shutdown, power-off or power-on that ended in another state."""
        seconds = trace.after(trace.first(lambda vm: vm.state == to))
        if acpi and seconds is not None:
            self._honours.append(seconds < self._limit - 1.0)
        if not acpi or (self._honours and self._honours[-1]):
            self.time(f"durations.{operation}", seconds)
        self.states(operation, trace, before)
        first = trace.first(lambda vm: vm.state == to)
        late = trace.last(lambda vm: vm.state == before)
        if first is not None and late is not None and late.sent >= first.received:
            self._went_back = True

    def cycle(self, operation: str, trace: Trace) -> None:
        """Note a reboot or reset of a VM that is online again, or never seemed to leave."""
        down = trace.last(lambda vm: vm.state != "online")
        if down is None:
            self.vote(f"{operation}.shows", None if trace.has_gaps or not trace.certain else False)
            return
        self.vote(f"{operation}.shows", True)
        back = trace.first_after(down, lambda vm: vm.state == "online")
        self.time(f"durations.{operation}", trace.after(back))
        self.states(operation, trace, "online")

    def resize(self, trace: Trace, size: tuple[int, int], *, is_back: bool) -> None:
        """Note a resize of a VM that was online, and is online again or stays offline."""

        def down(vm: Seen) -> bool:
            return vm.state != "online"

        first_down = trace.first(down)
        self.states("resize", trace, "online")
        if first_down is None:
            return
        self.vote("resize.restarts", is_back)
        early = self._early(trace, size)
        self.vote("resize.shows_early", early)
        went = trace.after(first_down)
        if went is None or early is None:
            return
        forced = went >= self._limit - 1.0
        self._honours.append(not forced)
        if is_back:
            back = trace.first_after(trace.last(down), lambda vm: vm.state == "online")
            ended = trace.after(back)
            sized = trace.after(trace.first(lambda vm: down(vm) and vm.size == size))
            if ended is not None:
                self.time("resize.change", ended - went)
                self.time("resize.back", ended - self._limit if forced else None)
                if sized is not None and not early:
                    self.time("resize.restart", ended - sized)
        else:
            # A size that shows early does not show when the resize has ended.
            ended = None if early else trace.after(trace.first(lambda vm: vm.size == size))
        self.time("durations.resize", None if forced else ended)

    def _early(self, trace: Trace, size: tuple[int, int]) -> bool | None:
        if trace.first(lambda vm: vm.state != "online" and vm.size != size):
            return False
        early = trace.first(lambda vm: vm.state == "online" and vm.size == size)
        late = trace.last(lambda vm: vm.state != "online")
        margin = 2 * self.staleness + 2 * self._interval
        # A resize that was sent twice takes the VM down again, with its new size.
        if trace.certain and early and late and late.sent > early.received + margin:
            return True
        return None

    # --- facts ---------------------------------------------------------------------------------

    def facts(self, today: str) -> Facts:
        """Return the facts that are known."""
        found: dict[str, Fact] = {}

        def add(name: str, value: Any, seen: int) -> None:
            found[name] = Fact(value, "measured", seen, today)

        for name, times in self._times.items():
            longest = round(max(times), _DIGITS)
            span = SPECS[name].kind == "span"
            add(name, (round(min(times), _DIGITS), longest) if span else longest, len(times))
        for name, flags in self._flags.items():
            agreed = set(flags) if name not in _ANY else {any(flags)}
            if len(agreed) == 1 and not (name == "reboot.shows" and self._is_silent(flags)):
                add(name, agreed.pop(), len(flags))
        for name, forms in self._forms.items():
            if (form := self._agreed(forms)) is not None and form != "other":
                add(name, int(form) if SPECS[name].kind == "count" else form, len(forms))
        if self._renames >= _FEWEST_RENAMES:
            for name, age in self._ages.items():
                add(f"reads.{name}_staleness", round(age, _DIGITS), self._renames)
            add("reads.max_staleness", round(self.staleness, _DIGITS), self._renames)
            # Old reads that came in order may have done so by chance.
            if self._went_back or not self.staleness:
                add("reads.go_back", self._went_back, self._renames)
        if self._fields is not None:
            add("reads.new_fields", tuple(sorted(self._fields)), self._fields_seen)
        for operation, stages in self._stages.items():
            timed = [(min(t), max(t), state, len(t)) for state, t in stages.items() if t]
            shown = [(s, round(a, _DIGITS), round(b, _DIGITS)) for a, b, s, _ in sorted(timed)]
            if shown:
                add(f"states.{operation}", tuple(shown), max(n for *_, n in timed))
        self._add_names(add)
        failures = Facts.default()["states.failures"].value
        if words := [state for state in self._states if state not in failures]:
            add("states.known", tuple(words), sum(self._states.values()))
        if self.offset is not None:
            add("clock.offset", round(self.offset[0], 1), self.offset[1])
        return Facts(found)

    def _is_silent(self, flags: list[bool]) -> bool:
        """Return whether reboots did not show because the guest may have ignored them."""
        return not any(flags) and not (self._honours and all(self._honours))

    @staticmethod
    def _agreed(values: list[str]) -> str | None:
        return values[0] if len(set(values)) == 1 else None

    def _add_names(self, add: Callable[[str, Any, int], None]) -> None:
        cut = None
        if LENGTH in self._names:
            sent, shown = self._names[LENGTH]
            if len(shown) < len(sent):
                cut = len(shown)
                if sent.startswith(shown):
                    add("names.cut_at", cut, 1)
        kinds = (CASE, SPACES, UNICODE)
        pairs = [self._names[kind] for kind in kinds if kind in self._names]
        if len(pairs) < len(kinds) or any(len(shown) == cut for _, shown in pairs):
            # So short that nothing else shows.
            return
        seen = len(self._names)
        if LENGTH in self._names:
            changed = [kind for kind, (sent, shown) in self._names.items() if sent != shown]
            add("names.changes", tuple(changed), seen)
        for change, rule in _CHANGES.items():
            if all(rule(sent) == shown for sent, shown in pairs):
                add("names.change", change, seen)
                return


_CHANGES: Final[dict[str, Callable[[str], str]]] = {
    "verbatim": lambda name: name,
    "lower": lambda name: name.lower(),
    "strip": lambda name: " ".join(name.split()),
    "nfc": lambda name: unicodedata.normalize("NFC", name),
}


def _is_in(vm: Seen, *, state: str) -> bool:
    return vm.state == state
