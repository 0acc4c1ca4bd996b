"""`Assumptions`: what the rules of completion take for granted, from facts with a margin. Pure.

Facts sharpen timing and never weaken a proof below what was measured: a time that was measured is
doubled, and a little is added, since the worst case was hardly among the measurements.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from async_vmapi.facts.file import Facts

__all__ = ["DEFAULT", "Assumptions", "assumptions_of"]

_FACTOR: Final = 2.0
_STALENESS_MARGIN: Final = 1.0
_APPEARS_MARGIN: Final = 10.0
_LEAST_SEEN: Final = 5
"""How often a duration must have been measured before it decides when to poll."""


@attrs.frozen(kw_only=True)
class Assumptions:
    """What is assumed of the provider; times in seconds.

    Attributes:
        max_staleness: Maximum age of the data in a read.
        appears_within: Seconds within which a new VM becomes visible, if ever.
        known_states: States that are known.
        failure_states: States in which an operation has failed.
        failure_hold: Seconds for which a failing state must persist.
        unknown_polls: Consecutive observations after which an unknown state counts.
        absences: Consecutive observations that must show a VM absent.
        absences_of_delete: The same for a delete.
        reboot_grace: Seconds after which an unobserved reboot or reset is assumed.
        resize_restart: From the new size, seen to come while the VM was down, to the restart.
        resize_change: From the VM being down to its restart with the new size.
        resize_back: From the end of ``wait_for`` to the VM being online.
        durations: How long operations take: how often it was measured, shortest and longest.
    """

    max_staleness: float
    appears_within: float
    known_states: frozenset[str]
    failure_states: frozenset[str]
    failure_hold: float
    unknown_polls: int
    absences: int
    absences_of_delete: int
    reboot_grace: float
    resize_restart: float
    resize_change: float
    resize_back: float
    durations: Mapping[str, tuple[int, float, float]] = attrs.field(
        factory=dict[str, tuple[int, float, float]], hash=False
    )


def assumptions_of(facts: Facts) -> Assumptions:
    """Return what is assumed by facts, and by the default ones where they say nothing."""
    known = facts.over(Facts.default())

    def time(name: str, margin: float = 0.0) -> float:
        fact = known[name]
        measured: float = fact.value
        return _FACTOR * measured + margin if fact.is_measured else measured

    appears = time("reads.appears_within", _APPEARS_MARGIN)
    spans = [facts[name] for name in ("reads.appears", "reads.appears_in_list") if name in facts]
    if spans and "reads.appears_within" not in facts:
        appears = _FACTOR * max(span.value[1] for span in spans) + _APPEARS_MARGIN
    failures = frozenset(known["states.failures"].value)
    # Words that were seen are no surprise; the default ones stay known.
    words = (*known["states.known"].value, *Facts.default()["states.known"].value)
    return Assumptions(
        max_staleness=time("reads.max_staleness", _STALENESS_MARGIN),
        appears_within=appears,
        known_states=failures.union(words),
        failure_states=failures,
        failure_hold=time("states.failure_hold"),
        unknown_polls=known["states.unknown_polls"].value,
        absences=known["absence.polls"].value,
        absences_of_delete=known["absence.polls_of_delete"].value,
        reboot_grace=time("reboot.grace"),
        resize_restart=time("resize.restart"),
        resize_change=time("resize.change"),
        resize_back=time("resize.back"),
        durations={
            name.partition(".")[2]: (fact.seen, *fact.value)
            for name, fact in facts.items()
            if name.startswith("durations.") and fact.seen >= _LEAST_SEEN
        },
    )


DEFAULT: Final = assumptions_of(Facts.default())
"""What is assumed until it is measured."""
