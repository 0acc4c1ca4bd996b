"""Decide from observations whether an operation is complete. Pure: no clock, no network.

The API answers "accepted" and nothing more (WIRE §4). A `Completion` takes each observation of the
VM and returns a verdict: pending, done with its evidence, or failed. `RULES` says as data what each
operation waits for. Times are seconds since the request was accepted.

One assumption about reads, and no other: **a response asked at time t shows each VM as it was at
some moment from t - max_staleness until it was answered**; each read and each VM for itself, GET
and list alike, in no order. D stands for max_staleness below. From it follows:

1. Asked at D or later, a read shows a moment after the request (t - D >= 0).
2. Asked at least D after another read was answered, a read shows a later moment than that one.
3. Asked before D, a read can show a moment before the request. It counts only where no older value
   can look like it: a VM that did not exist has no older ``online``. Where this client changed
   nothing for D before the request, it can be one side of a transition, never an end.

docs/completion.md derives each operation's rule; tests/simulation/test_exhaustion.py checks them
against every small world.
"""

import enum
import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from async_vmapi.models import DELETING, INSTALLING, OFFLINE, ONLINE, Operation

__all__ = [
    "APPEARS_WITHIN",
    "RULES",
    "Completion",
    "Done",
    "Evidence",
    "Failed",
    "Observation",
    "Pending",
    "Rule",
    "Target",
    "Verdict",
]

APPEARS_WITHIN: Final = 60.0
"""Seconds after which a VM that was never visible does not appear any more (WIRE §4: "[?]")."""

_FAILURE_HOLD: Final = 5.0
"""Seconds for which a failing state must be shown before it is believed."""

_ODD_IN_A_ROW: Final = 3
"""Observations in a row that make an unknown word a state, and not a slip of the server."""


class Evidence(enum.StrEnum):
    """How a task knows that its operation is done (WIRE §5.2)."""

    OBSERVED = "observed"
    """The transition was seen."""
    INFERRED = "inferred"
    """The target state holds, but the transition to it was missed."""
    ASSUMED = "assumed"
    """There was nothing to see, as where a reboot never left ``online``; its grace period is over.
    """


@attrs.frozen
class Observation:
    """The result of one poll, by GET or by list.

    Attributes:
        asked: When the request was made, in seconds since the operation was accepted.
        answered: When its response had arrived.
        state: The state's word; None if the VM was absent.
        cores: Number of CPUs.
        ram: Memory in MB.
    """

    asked: float
    answered: float
    state: str | None
    cores: int = 0
    ram: int = 0


@attrs.frozen
class Pending:
    """Not decided yet.

    Attributes:
        recheck_at: Asked at this time or later, an observation counts although it shows nothing
            new. None if only a change counts.
        waiting: Whether no observation asked earlier can complete the operation.
    """

    recheck_at: float | None = None
    waiting: bool = False


@attrs.frozen
class Done:
    """The operation is complete."""

    evidence: Evidence


@attrs.frozen
class Failed:
    """The operation cannot succeed any more.

    Attributes:
        reason: Why, in words.
        gone: Whether the VM is no longer there.
    """

    reason: str
    gone: bool = False


Verdict: TypeAlias = Pending | Done | Failed

_PENDING: Final = Pending()

# WIRE §4: "any other word can come, failure words too". These mean nothing else in any API.
_FAILURE_WORDS: Final = frozenset({"error", "failed", "failure"})


@attrs.frozen(kw_only=True)
class Rule:
    """What an operation passes through and where it ends.

    Attributes:
        expected: The states that can be the end; empty where absence is.
        passing: States known to lie on the way. Any word in none of the three sets is kept
            and polled on, just as these are.
        failing: States from which the end cannot come.
        new_vm: The VM is new: nothing about it is older than the request, and absence is at
            first "not yet" (WIRE §5.3).
        cycle: The end is to leave ``online`` and to come back.
        resized: The end has the requested cores and ram.
        absences: Observations in a row that must show the VM absent.
        grace: Seconds after which a cycle that did not show is assumed to be over.
        timeout: Seconds to wait by default, besides the operation's own ``wait_for``.
    """

    expected: frozenset[str] = frozenset()
    passing: frozenset[str] = frozenset()
    failing: frozenset[str] = frozenset()
    new_vm: bool = False
    cycle: bool = False
    resized: bool = False
    absences: int = 8
    grace: float = 0.0
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
    grace=60.0,
    timeout=900.0,
)

RULES: Final[Mapping[Operation, Rule]] = {
    "create": Rule(
        expected=frozenset({ONLINE}),
        passing=frozenset({INSTALLING, OFFLINE}),
        failing=_LOST,
        new_vm=True,
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
    # A wrong "deleted" costs less than a wrong "vanished": nothing else was wanted.
    "delete": Rule(
        passing=frozenset({ONLINE, OFFLINE, INSTALLING, DELETING}), absences=5, timeout=900.0
    ),
}

# WIRE §4 does not say whether a resized VM is started again. So `offline` with the new size must
# last: for a restart where the size was seen to change while the VM was down, for the whole of the
# change where it was not.
_RESTART: Final = 60.0
_CHANGE: Final = 120.0
# Nor does it say whether the new size shows before the VM goes down, which it does after `wait_for`
# at the latest. Then it takes this long to be back.
_RESIZE_SLACK: Final = 60.0


@attrs.frozen
class Target:
    """What was requested, as far as the end depends on it.

    Attributes:
        operation: The operation.
        cores: The requested number of CPUs of a resize.
        ram: The requested memory in MB of a resize.
        wait_for: Minutes that the guest was given to go down.
        was_missing: Whether a delete was refused because the VM is not there.
    """

    operation: Operation
    cores: int | None = None
    ram: int | None = None
    wait_for: int = 0
    was_missing: bool = False

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
    """Judges the observations of one VM for one operation; see the module.

    Args:
        target: What was requested.
        max_staleness: Seconds by which any read may be old.
        visible_at: When some read had shown the VM; 0 for one that was visible before the request,
            None for one that this client has never seen.
        quiet: Whether this client changed nothing about the VM in the last `max_staleness`
            seconds before the request.
        rule: How the operation ends; by default that of `RULES`.
    """

    target: Target
    max_staleness: float
    visible_at: float | None = None
    quiet: bool = False
    rule: Rule = attrs.field(
        default=attrs.Factory(lambda self: self.target.rule, takes_self=True), kw_only=True
    )
    # Whether the VM was seen since the request.
    seen: bool = attrs.field(default=False, init=False)
    # When the earliest observation of each kind was answered that counts; None before it.
    # Before the transition: not at the end; of a cycle, online; of a resize, another size.
    _before: float | None = attrs.field(default=None, init=False)
    # Of a cycle or resize: not online. The first counts for `inferred`; of the second it is certain
    # that it was after the request, and for a cycle after `_before`.
    _away: float | None = attrs.field(default=None, init=False)
    _surely_away: float | None = attrs.field(default=None, init=False)
    # Of a resize: offline with the requested size, in a row; and whether the size changed while
    # the VM was down.
    _offline: float | None = attrs.field(default=None, init=False)
    _was_down_before: bool = attrs.field(default=False, init=False)
    # Absences in a row, and when the first was asked.
    _absences: tuple[int, float] = attrs.field(default=(0, 0.0), init=False)
    # The failing state of the observations in a row, and when the first was answered.
    _failing: tuple[str, float] | None = attrs.field(default=None, init=False)
    # The unknown word of this observation, if it is one, and how often it came in a row.
    _odd: str | None = attrs.field(default=None, init=False)
    _odd_count: int = attrs.field(default=0, init=False)

    @property
    def left_online(self) -> bool:
        """Whether a reboot or reset was seen to leave ``online``."""
        return self._away is not None

    def observe(self, seen: Observation) -> Verdict:
        """Take one observation into account and return the verdict after it."""
        if seen.state is None:
            return self._absent(seen)
        self.seen = True
        if self.visible_at is None:
            self.visible_at = seen.answered
        self._absences = (0, 0.0)
        self._count_odd(seen.state)
        if seen.state in self.rule.failing:
            return self._fails(seen, seen.state)
        self._failing = None
        if not self.rule.expected:
            return self._is_deleting(seen)
        if self.rule.cycle:
            return self._cycled(seen)
        if self.rule.resized:
            return self._resized(seen, seen.state)
        return self._arrived(seen)

    # --- what an observation proves -------------------------------------------------------------

    def _is_after_request(self, seen: Observation) -> bool:
        return self.rule.new_vm or seen.asked >= self.max_staleness

    def _is_later(self, seen: Observation, moment: float | None) -> bool:
        """Return whether `seen` shows a later moment than an observation answered at `moment`."""
        return moment is not None and seen.asked >= moment + self.max_staleness

    def _counts(self, seen: Observation) -> bool:
        """Return whether an observation can be one side of this operation's transition."""
        return self._is_believed and (self.quiet or self._is_after_request(seen))

    @property
    def _is_believed(self) -> bool:
        return self._odd is None or self._odd_count >= _ODD_IN_A_ROW

    def _count_odd(self, state: str) -> None:
        odd = None if state in _KNOWN else state
        self._odd_count = self._odd_count + 1 if odd == self._odd else 1
        self._odd = odd

    def _note_before(self, seen: Observation) -> None:
        if self._before is None and self._counts(seen):
            self._before = seen.answered

    def _note_away(self, seen: Observation, *, after: float | None) -> None:
        """Note that the VM is not online; `after` is when it was online, where that matters."""
        if not self._counts(seen):
            return
        if self._away is None:
            self._away = seen.answered
        in_order = after is None or self._is_later(seen, after)
        if self._surely_away is None and in_order and self._is_after_request(seen):
            self._surely_away = seen.answered

    def _not_yet(self, seen: Observation, side: float | None, *, certain_at: float) -> Pending:
        """Return the verdict on a VM that is on the way.

        Args:
            seen: The observation.
            side: When the side of the transition that it may be was noted; None if it was not.
            certain_at: From when on the same observation would be.
        """
        if side is not None:
            return _PENDING
        if not self._is_believed:
            certain_at = seen.asked
        return Pending(recheck_at=certain_at)

    def _evidence(self, *, certain: bool) -> Evidence:
        return Evidence.OBSERVED if certain else Evidence.INFERRED

    # --- the ends -------------------------------------------------------------------------------

    def _absent(self, seen: Observation) -> Verdict:
        deleting = not self.rule.expected
        if self.visible_at is None and self.rule.new_vm:
            return _PENDING
        since = math.inf if self.visible_at is None else self.visible_at
        if not self.rule.new_vm:
            since = min(since, APPEARS_WITHIN)
        since += self.max_staleness
        if seen.asked < since:
            self._absences = (0, 0.0)
            # It may appear, which would be news.
            return Pending(recheck_at=since, waiting=deleting and self.visible_at is not None)
        count, first = self._absences
        count, first = count + 1, first if count else seen.asked
        self._absences = (count, first)
        # So that one replica without it, or one wrong response, decides nothing.
        span, least = self.max_staleness / 2, self.rule.absences
        if count < least or seen.asked < first + span:
            next_at = first + span * min(1.0, count / (least - 1)) if least > 1 else first + span
            return Pending(recheck_at=max(seen.asked, next_at), waiting=deleting)
        if deleting:
            return Done(self._evidence(certain=self.seen))
        return Failed("the VM is gone", gone=True)

    def _is_deleting(self, seen: Observation) -> Verdict:
        missing = self.target.was_missing and seen.state != DELETING
        if missing and self._is_believed and self._is_after_request(seen):
            return Failed("the API said that the VM was not there, but it is; it is not deleted")
        return _PENDING

    def _fails(self, seen: Observation, state: str) -> Verdict:
        self._offline = None
        if self._failing is None or self._failing[0] != state:
            self._failing = (state, seen.answered)
        believed_at = self._failing[1] + _FAILURE_HOLD + self.max_staleness
        if seen.asked < believed_at:
            return Pending(recheck_at=believed_at, waiting=True)
        return Failed(f"the VM is {state!r}")

    def _arrived(self, seen: Observation) -> Verdict:
        """Judge an operation that is done when an expected state is reached."""
        if seen.state not in self.rule.expected:
            self._note_before(seen)
            return self._not_yet(seen, self._before, certain_at=self.max_staleness)
        if not self._is_after_request(seen):
            return Pending(recheck_at=self.max_staleness, waiting=True)
        certain = self.rule.new_vm or self._is_later(seen, self._before)
        return Done(self._evidence(certain=certain))

    def _cycled(self, seen: Observation) -> Verdict:
        """Judge an operation that is done when the VM left ``online`` and came back."""
        if seen.state != ONLINE:
            # Without having been seen online, it cannot be seen to leave; that is inferred then.
            if self._before is None:
                self._note_away(seen, after=math.inf)
                return self._not_yet(seen, self._away, certain_at=self.max_staleness)
            self._note_away(seen, after=self._before)
            certain_at = self._before + self.max_staleness
            return self._not_yet(seen, self._surely_away, certain_at=certain_at)
        self._note_before(seen)
        if self._away is None:
            grace = max(self.rule.grace, self.max_staleness)
            if seen.asked >= grace:
                return Done(Evidence.ASSUMED)
            return Pending(recheck_at=grace if self._before is not None else self.max_staleness)
        back_at = self._away + self.max_staleness
        if seen.asked < back_at:
            return Pending(recheck_at=back_at, waiting=True)
        return Done(self._evidence(certain=self._is_later(seen, self._surely_away)))

    def _resized(self, seen: Observation, state: str) -> Verdict:
        """Judge a resize: the requested size, in a state that lasts."""
        if state != ONLINE:
            self._note_away(seen, after=None)
        if (seen.cores, seen.ram) != (self.target.cores, self.target.ram):
            self._note_before(seen)
            self._offline = None
            self._was_down_before = self._was_down_before or (
                state != ONLINE and self._counts(seen)
            )
            return self._not_yet(seen, self._before, certain_at=self.max_staleness)
        if state not in self.rule.expected:
            self._offline = None
            return self._not_yet(seen, self._surely_away, certain_at=self.max_staleness)
        if not self._is_after_request(seen):
            self._offline = None
            return Pending(recheck_at=self.max_staleness)
        certain = self._is_later(seen, self._before)
        if state == OFFLINE:
            if self._offline is None:
                self._offline = seen.answered
            hold = _RESTART if self._was_down_before else _CHANGE
            end = self._offline + hold + self.max_staleness
        else:
            self._offline = None
            # A guest that is still running goes down when its time is over, at the latest.
            end = 60.0 * self.target.wait_for + _RESIZE_SLACK + self.max_staleness
            if self._away is not None:
                end = min(end, self._away + self.max_staleness)
                certain = certain and self._is_later(seen, self._surely_away)
        if seen.asked < end:
            waiting = state == ONLINE and self._away is not None
            return Pending(recheck_at=end, waiting=waiting)
        return Done(self._evidence(certain=certain))
