"""Decide from what was seen whether an operation is done. Pure: no clock, no network (WIRE §4, §5).

The API says "accepted" and no more. A `Completion` takes each look at the machine in the order in
which they were asked and answers with a verdict: pending, done with its evidence, or failed. What
is awaited of each operation stands in `RULES` as data. Times are seconds since the request was
accepted; an observation's time is when the look was *asked*, so that nothing older than the write
can pass for news.

Looks by GET and by list are judged apart, since a list may lag behind a GET: what a list showed
within `LIST_LAG` of the write may be from before it, and proves no transition. For the same reason
a list proves what a GET proved that was asked `LIST_LAG` before it: where a GET is what would
decide and none comes, because a whole fleet waits for one, a list decides that much later.
"""

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from async_vmapi.models import DELETING, INSTALLING, OFFLINE, ONLINE, Operation

__all__ = [
    "LIST_LAG",
    "RULES",
    "STALE",
    "Completion",
    "Done",
    "Evidence",
    "Failed",
    "Observation",
    "Pending",
    "Rule",
    "Source",
    "Target",
    "Verdict",
]

STALE: Final = 10.0
"""Seconds after a write in which its old values may still be read (WIRE §4 gives no figure)."""

LIST_LAG: Final = 10.0
"""Seconds by which a list is thought to lag behind a GET at most."""

FAILURE_HOLD: Final = 5.0
"""Seconds for which a failing state must stay before it is believed."""


ODD_LOOKS: Final = 3
"""Looks in a row at which an unknown word is taken for a state, and not for a server's slip."""


class Evidence(enum.StrEnum):
    """How a task knows that its operation is done (WIRE §5.2)."""

    OBSERVED = "observed"
    """The transition was seen."""
    INFERRED = "inferred"
    """The wanted end holds, but the transition to it was missed."""
    ASSUMED = "assumed"
    """There was nothing to see, as where a reboot never left ``online``, and its time is over."""


class Source(enum.Flag):
    """How a look was asked; also a set of such ways."""

    NONE = 0
    GET = 1
    LIST = 2


@attrs.frozen
class Observation:
    """One look at the machine.

    Attributes:
        at: When it was asked, in seconds since the request was accepted.
        source: How it was asked.
        state: The state's word; None if the machine was absent.
        cores: Number of CPUs then.
        ram: Memory in MB then.
    """

    at: float
    source: Source
    state: str | None
    cores: int = 0
    ram: int = 0


@attrs.frozen
class Pending:
    """Not decided yet.

    Attributes:
        confirm: Whether a GET is what would decide it.
        look_at: Not before this time; None for at once.
        list_at: From this time on a list that shows the same decides it too; None for never.
    """

    confirm: bool = False
    look_at: float | None = None
    list_at: float | None = None


@attrs.frozen
class Done:
    """The operation is done."""

    evidence: Evidence


@attrs.frozen
class Failed:
    """The operation cannot succeed any more.

    Attributes:
        reason: Why, in words.
        gone: Whether the machine is no longer there.
    """

    reason: str
    gone: bool = False


Verdict: TypeAlias = Pending | Done | Failed

_PENDING: Final = Pending()
_CONFIRM: Final = Pending(confirm=True)

# WIRE §4: "any other word can come, failure words too". These mean nothing else in any API.
_FAILURE_WORDS: Final = frozenset({"error", "failed", "failure"})


@attrs.frozen(kw_only=True)
class Rule:
    """What an operation passes through and where it ends.

    Attributes:
        expected: The states that can be the end; empty where absence is.
        passing: States known to lie on the way. Any word in none of the three sets is kept
            and watched on, just as these are.
        failing: States from which the end cannot come.
        fresh: The machine is new: nothing about it is older than the write, and not being
            found is at first "not yet" (WIRE §5.3).
        cycle: The end is to leave ``online`` and to come back.
        resized: The end has the wanted cores and ram.
        absences: GETs in a row that must say "not found" where no list agrees with them.
        settle: Seconds after which a cycle that did not show is assumed to be over.
        timeout: Seconds to wait by default, besides the operation's own ``wait_for``.
    """

    expected: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    fresh: bool = False
    cycle: bool = False
    resized: bool = False
    absences: int = 5
    settle: float = 0.0
    timeout: float


_LOST: Final = _FAILURE_WORDS | {DELETING}
_KNOWN: Final = _LOST | {INSTALLING, ONLINE, OFFLINE}

_GOES_OFF: Final = Rule(
    expected=frozenset({OFFLINE}), passing=frozenset({ONLINE}), failing=_LOST, timeout=600.0
)
_COMES_BACK: Final = Rule(
    expected=frozenset({ONLINE}),
    passing=frozenset({OFFLINE}),
    failing=_LOST,
    cycle=True,
    settle=60.0,
    timeout=900.0,
)

RULES: Final[Mapping[Operation, Rule]] = {
    "create": Rule(
        expected=frozenset({ONLINE}),
        passing=frozenset({INSTALLING, OFFLINE}),
        failing=_LOST,
        fresh=True,
        timeout=1800.0,
    ),
    "resize": Rule(
        expected=frozenset({ONLINE, OFFLINE}), failing=_LOST, resized=True, timeout=1800.0
    ),
    "shutdown": _GOES_OFF,
    "power_off": _GOES_OFF,
    "power_on": Rule(
        expected=frozenset({ONLINE}), passing=frozenset({OFFLINE}), failing=_LOST, timeout=600.0
    ),
    "reboot": _COMES_BACK,
    "reset": _COMES_BACK,
    "delete": Rule(
        passing=frozenset({ONLINE, OFFLINE, INSTALLING, DELETING}), absences=4, timeout=900.0
    ),
}

# WIRE §4 does not say whether a resized machine is started again, nor whether its new size
# shows before it goes down. So an end that may be a passing place must stay for a while.
_RESIZED_ONLINE_HOLD: Final = 20.0
_RESIZED_OFFLINE_HOLD: Final = 60.0
# Without a change of size to see, being down may be any part of the way.
_UNCHANGED_OFFLINE_HOLD: Final = 120.0
_RESIZE_SLACK: Final = 60.0


@attrs.frozen
class Target:
    """What was asked of the machine, as far as the end depends on it.

    Attributes:
        operation: The operation.
        cores: The wanted number of CPUs of a resize.
        ram: The wanted memory in MB of a resize.
        wait_for: Minutes that the guest was given to go down.
    """

    operation: Operation
    cores: int | None = None
    ram: int | None = None
    wait_for: int = 0

    @property
    def rule(self) -> Rule:
        """The operation's rule."""
        return RULES[self.operation]

    @property
    def timeout(self) -> float:
        """Seconds to wait for the end by default; what the guest is given comes on top."""
        return self.rule.timeout + 60.0 * self.wait_for


@attrs.define
class Completion:
    """Judges the looks at one machine for one operation; see the module.

    Args:
        target: What was asked.
        seen: Whether the machine was seen since the write, for one taken up from a token.
    """

    target: Target
    seen: bool = False
    # Sources that credibly showed the machine before its end, since the write; and whether any
    # source showed it so at all.
    _before: Source = attrs.field(default=Source.NONE, init=False)
    _contrary: bool = attrs.field(default=False, init=False)
    # Of a cycle: sources that showed online; that showed it left. Of a resize: that it was down.
    _was_online: Source = attrs.field(default=Source.NONE, init=False)
    _was_down: Source = attrs.field(default=Source.NONE, init=False)
    _listed: bool = attrs.field(default=False, init=False)
    _list_absent: bool = attrs.field(default=False, init=False)
    _gets_absent: int = attrs.field(default=0, init=False)
    # The unknown word of this look, if it is one, and how often it came in a row.
    _odd: tuple[Source, str | None] | None = attrs.field(default=None, init=False)
    _odd_looks: int = attrs.field(default=0, init=False)
    _failing: tuple[str, float] | None = attrs.field(default=None, init=False)
    # The end that is shown, and since when.
    _held: tuple[str | None, float] | None = attrs.field(default=None, init=False)

    @property
    def left_online(self) -> bool:
        """Whether the machine was seen to leave ``online`` in a cycle, by one source's word."""
        return bool(self._was_down)

    def observe(self, seen: Observation) -> Verdict:
        """Take one look into account and return the verdict after it.

        Args:
            seen: The look; never asked earlier than the one before it.
        """
        if seen.state is None:
            return self._absent(seen)
        self.seen = True
        self._listed = self._listed or seen.source is Source.LIST
        self._list_absent, self._gets_absent = False, 0
        self._note_odd(seen)
        rule = self.target.rule
        if seen.state in rule.failing:
            return self._fails(seen, seen.state)
        self._failing = None
        if not rule.expected:
            return _PENDING
        if rule.cycle:
            return self._cycled(seen)
        if rule.resized:
            return self._resized(seen, seen.state)
        return self._arrived(seen)

    def _credible(self, seen: Observation) -> bool:
        """Return whether a look can stand for one side of a transition."""
        fresh = self.target.rule.fresh or seen.source is Source.GET or seen.at >= LIST_LAG
        return fresh and self._believed

    @property
    def _believed(self) -> bool:
        return self._odd is None or self._odd_looks >= ODD_LOOKS

    def _note_odd(self, seen: Observation) -> None:
        odd = None if seen.state in _KNOWN else (seen.source, seen.state)
        self._odd_looks = self._odd_looks + 1 if odd == self._odd else 1
        self._odd = odd

    def _absent(self, seen: Observation) -> Verdict:
        fresh = self.target.rule.fresh
        if fresh and not self.seen:
            return _PENDING
        if seen.source is Source.GET:
            self._gets_absent += 1
        elif fresh and not self._listed:
            # This list is older than the machine.
            return _PENDING
        else:
            self._list_absent = True
        agreed = self._gets_absent >= (1 if self._list_absent else self.target.rule.absences)
        if not agreed:
            return _CONFIRM
        if self.target.rule.expected:
            return Failed("the machine is gone", gone=True)
        return Done(Evidence.OBSERVED if self.seen else Evidence.INFERRED)

    def _fails(self, seen: Observation, state: str) -> Verdict:
        # It is no end, whatever comes of it.
        self._contrary, self._held = True, None
        if self._credible(seen):
            self._before |= seen.source
        if seen.source is Source.LIST:
            return _CONFIRM
        if self._failing is None or self._failing[0] != state:
            self._failing = (state, seen.at)
        believed = max(self._failing[1] + FAILURE_HOLD, STALE)
        if seen.at < believed:
            return Pending(confirm=True, look_at=believed)
        return Failed(f"the machine is {state!r}")

    def _arrived(self, seen: Observation) -> Verdict:
        """Judge an operation that is done when an expected state is reached."""
        if seen.state not in self.target.rule.expected:
            self._contrary, self._held = self._contrary or self._believed, None
            if self._credible(seen):
                self._before |= seen.source
            return _PENDING
        if self.target.rule.fresh or seen.source in self._before:
            return Done(Evidence.OBSERVED)
        # Until then it may be an old value still, or the operation had nothing to do.
        return self._holds(seen, 0.0 if self._contrary else STALE, Evidence.INFERRED)

    def _cycled(self, seen: Observation) -> Verdict:
        """Judge an operation that is done when the machine left ``online`` and came back."""
        source = seen.source
        if seen.state != ONLINE:
            self._held = None
            if self._credible(seen):
                self._contrary = True
                if source in self._was_online:
                    self._was_down |= source
            return _PENDING
        if self._credible(seen):
            self._was_online |= source
        if source in self._was_down:
            return Done(Evidence.OBSERVED)
        if self._contrary:
            return self._holds(seen, STALE, Evidence.INFERRED)
        return self._holds(seen, self.target.rule.settle, Evidence.ASSUMED)

    def _resized(self, seen: Observation, state: str) -> Verdict:
        """Judge a resize: the wanted size, in a state that lasts."""
        target = self.target
        if state != ONLINE and self._credible(seen):
            self._was_down |= seen.source
        if (seen.cores, seen.ram) != (target.cores, target.ram):
            self._contrary, self._held = True, None
            if self._credible(seen):
                self._before |= seen.source
            return _PENDING
        if state not in target.rule.expected:
            self._held = None
            return _PENDING
        end = self._held_since(seen) + self._resize_hold(state)
        if not self._contrary and state == ONLINE and not self._was_down:
            # It had that size already: only the time that it may take tells.
            end = max(end, 60.0 * target.wait_for + _RESIZE_SLACK)
        if seen.at >= end and seen.source in self._before:
            return Done(Evidence.OBSERVED)
        return self._holds(seen, end, Evidence.INFERRED)

    def _resize_hold(self, state: str) -> float:
        if state == OFFLINE:
            return _RESIZED_OFFLINE_HOLD if self._contrary else _UNCHANGED_OFFLINE_HOLD
        return 0.0 if self._was_down else _RESIZED_ONLINE_HOLD

    def _held_since(self, seen: Observation) -> float:
        """Return since when the end is shown that this look shows."""
        if self._held is None or self._held[0] != seen.state:
            self._held = (seen.state, seen.at)
        return self._held[1]

    def _holds(self, seen: Observation, end: float, evidence: Evidence) -> Verdict:
        """Judge an end that was not seen to come, and that counts from `end` on."""
        list_at = max(self._held_since(seen), end) + LIST_LAG
        if seen.at < end:
            return Pending(confirm=True, look_at=end, list_at=list_at)
        if seen.source is Source.LIST and seen.at < list_at:
            return Pending(confirm=True, list_at=list_at)
        return Done(evidence)
