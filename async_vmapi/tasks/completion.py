"""Decide from observations whether an operation is complete. Pure: no clock, no network.

The API returns "accepted" and nothing more (WIRE §4). A `Completion` takes each observation of the
VM and returns a verdict: pending, done with its evidence, or failed. `rules` has each operation's
rule. Times are seconds since the request was accepted.

There is one assumption about reads: **the response to a read sent at time t shows each VM as it was
at some moment between t - max_staleness and the arrival of the response**. It holds for each read
and each VM independently, for GET and list alike, in no order. With D for max_staleness:

1. A read sent at D or later shows a moment after the request (t - D >= 0).
2. A read sent at least D after another's response arrived shows a later moment than that one.
3. A read sent before D can show a moment before the request. It counts only if no older value can
   look the same: a VM that did not exist has no older ``online``. If this client changed nothing
   for D before the request, it can be one side of a transition, but never completes one.

docs/completion.md derives each rule; tests/simulation/test_exhaustion.py checks all of them
exhaustively on small worlds.
"""

import enum
import math
from typing import Final, TypeAlias

import attrs

from async_vmapi.models.vm import DELETING, OFFLINE, ONLINE
from async_vmapi.tasks.rules import DEFAULT_RULES, Rule, Rules, Target

__all__ = [
    "Completion",
    "Done",
    "Evidence",
    "Failed",
    "Observation",
    "Pending",
    "Verdict",
    "still_online",
]


class Evidence(enum.StrEnum):
    """How a task knows that its operation is done (WIRE §5.2)."""

    OBSERVED = "observed"
    """The transition was seen."""
    INFERRED = "inferred"
    """The target state holds, but the transition to it was missed."""
    ASSUMED = "assumed"
    """No transition was visible (a reboot may never leave ``online``); the grace period is over."""


@attrs.frozen
class Observation:
    """The result of one poll, by GET or by list.

    Attributes:
        sent_at: When the request was sent, in seconds since the operation was accepted.
        received_at: When the response had arrived.
        state: The VM's state; None if it was absent.
        cores: Number of CPUs.
        ram: Memory in MB.
    """

    sent_at: float
    received_at: float
    state: str | None
    cores: int = 0
    ram: int = 0


@attrs.frozen
class Pending:
    """The operation is neither done nor failed yet.

    Attributes:
        recheck_at: From then on, an unchanged observation counts too; None if only a change does.
        too_early: Whether no observation before `recheck_at` can complete the operation.
    """

    recheck_at: float | None = None
    too_early: bool = False


@attrs.frozen
class Done:
    """The operation is complete.

    Attributes:
        evidence: How that is known.
        rule: The name of the rule that decided; see `async_vmapi.tasks.explain`.
    """

    evidence: Evidence
    rule: str = attrs.field(default="", eq=False)


@attrs.frozen
class Failed:
    """The operation can no longer succeed.

    Attributes:
        reason: Why.
        gone: Whether the VM no longer exists.
        rule: The name of the rule that decided.
    """

    reason: str
    gone: bool = False
    rule: str = attrs.field(default="failing", eq=False)


Verdict: TypeAlias = Pending | Done | Failed

_PENDING: Final = Pending()


@attrs.define
class Completion:
    """Decides from observations of one VM whether one operation is complete.

    Args:
        target: What was requested.
        max_staleness: Maximum age of a read, in seconds.
        visible_at: When a read first showed the VM; 0 if before the request, None if this client
            has never seen it.
        quiet: Whether this client changed nothing about the VM in the `max_staleness` seconds
            before the request.
        rules: The rules that follow from the facts.
        rule: The operation's rule; by default that of `rules`.
    """

    target: Target
    max_staleness: float
    visible_at: float | None = None
    quiet: bool = False
    rules: Rules = attrs.field(default=DEFAULT_RULES, kw_only=True)
    rule: Rule = attrs.field(
        default=attrs.Factory(lambda self: self.rules.rule(self.target.operation), takes_self=True),
        kw_only=True,
    )
    # Whether the VM was seen since the request.
    seen: bool = attrs.field(default=False, init=False)
    # The next three: when the response arrived of the earliest observation that counts.
    # Before the transition: not in a target state; of a cycle, online; of a resize, another size.
    _before: float | None = attrs.field(default=None, init=False)
    # Of a cycle or resize: not online. The first suffices for `inferred`. The second is certainly
    # after the request, and for a cycle after `_before`.
    _away: float | None = attrs.field(default=None, init=False)
    _surely_away: float | None = attrs.field(default=None, init=False)
    # Of a resize: since when the VM has been offline with the requested size; and whether the size
    # changed while the VM was down.
    _offline: float | None = attrs.field(default=None, init=False)
    _was_down_before: bool = attrs.field(default=False, init=False)
    # Consecutive absences, and when the first was requested.
    _absences: tuple[int, float] = attrs.field(default=(0, 0.0), init=False)
    # The failing state of consecutive observations, and when the first one's response arrived.
    _failing: tuple[str, float] | None = attrs.field(default=None, init=False)
    # The unknown state of the last observation, if it was one; how many consecutive ones showed it.
    _unknown: str | None = attrs.field(default=None, init=False)
    _unknown_count: int = attrs.field(default=0, init=False)

    @property
    def left_online(self) -> bool:
        """Whether a reboot or reset was seen to leave ``online``."""
        return self._away is not None

    def observe(self, observation: Observation) -> Verdict:
        """Process one observation and return the verdict after it."""
        if observation.state is None:
            return self._judge_absence(observation)
        self.seen = True
        if self.visible_at is None:
            self.visible_at = observation.received_at
        self._absences = (0, 0.0)
        self._count_unknown(observation.state)
        if observation.state in self.rule.failing_states:
            return self._judge_failing_state(observation, observation.state)
        self._failing = None
        if not self.rule.target_states:
            return self._judge_delete(observation)
        if self.rule.cycle:
            return self._judge_cycle(observation)
        if self.rule.resized:
            return self._judge_resize(observation, observation.state)
        return self._judge_target_state(observation)

    # --- what an observation proves -------------------------------------------------------------

    def _is_after_request(self, observation: Observation) -> bool:
        any_read = self.rule.new_vm or (self.quiet and not self.rule.is_write)
        return any_read or observation.sent_at >= self.max_staleness

    def _is_later(self, observation: Observation, moment: float | None) -> bool:
        """Return whether it is certainly later than an observation received at `moment`."""
        return moment is not None and observation.sent_at >= moment + self.max_staleness

    def _counts(self, observation: Observation) -> bool:
        """Return whether it can be one side of this operation's transition."""
        return self._is_trusted and (self.quiet or self._is_after_request(observation))

    @property
    def _is_trusted(self) -> bool:
        return self._unknown is None or self._unknown_count >= self.rules.assume.unknown_polls

    def _count_unknown(self, state: str) -> None:
        unknown = None if state in self.rules.assume.known_states else state
        self._unknown_count = self._unknown_count + 1 if unknown == self._unknown else 1
        self._unknown = unknown

    def _note_before(self, observation: Observation) -> None:
        if self._before is None and self._counts(observation):
            self._before = observation.received_at

    def _note_away(self, observation: Observation, *, after: float | None) -> None:
        """Record that the VM is not online; `after` is when it was online, if that matters."""
        if not self._counts(observation):
            return
        if self._away is None:
            self._away = observation.received_at
        in_order = after is None or self._is_later(observation, after)
        if self._surely_away is None and in_order and self._is_after_request(observation):
            self._surely_away = observation.received_at

    def _not_yet(
        self, observation: Observation, side: float | None, *, certain_at: float
    ) -> Pending:
        """Return the verdict for an intermediate observation.

        Args:
            observation: The observation.
            side: When this side of the transition was recorded; None if it was not.
            certain_at: From when on the same observation would be recorded.
        """
        if side is not None:
            return _PENDING
        if not self._is_trusted:
            certain_at = observation.sent_at
        return Pending(recheck_at=certain_at)

    # --- verdicts -------------------------------------------------------------------------------

    def _judge_absence(self, observation: Observation) -> Verdict:
        deleting = not self.rule.target_states
        if self.visible_at is None and self.rule.new_vm:
            return _PENDING
        since = math.inf if self.visible_at is None else self.visible_at
        if not self.rule.new_vm:
            since = min(since, self.rules.assume.appears_within)
        since += self.max_staleness
        if observation.sent_at < since:
            self._absences = (0, 0.0)
            # The VM may still appear.
            return Pending(recheck_at=since, too_early=deleting and self.visible_at is not None)
        count, first = self._absences
        count, first = count + 1, first if count else observation.sent_at
        self._absences = (count, first)
        # So that neither a lagging replica nor one wrong response decides.
        span, least = self.max_staleness / 2, self.rule.absences
        if count < least or observation.sent_at < first + span:
            next_at = first + span * min(1.0, count / (least - 1)) if least > 1 else first + span
            return Pending(recheck_at=max(observation.sent_at, next_at), too_early=deleting)
        if deleting:
            return Done(_evidence(self.seen), "absent")
        return Failed("the VM is gone", gone=True, rule="absent")

    def _judge_delete(self, observation: Observation) -> Verdict:
        missing = self.target.was_missing and observation.state != DELETING
        if missing and self._is_trusted and self._is_after_request(observation):
            reason = "the API reported the VM as missing, but it exists; it was not deleted"
            return Failed(reason, rule="not-deleted")
        return _PENDING

    def _judge_failing_state(self, observation: Observation, state: str) -> Verdict:
        self._offline = None
        if self._failing is None or self._failing[0] != state:
            self._failing = (state, observation.received_at)
        certain_at = self._failing[1] + self.rules.assume.failure_hold + self.max_staleness
        if observation.sent_at < certain_at:
            return Pending(recheck_at=certain_at, too_early=True)
        return Failed(f"the VM is {state!r}")

    def _judge_target_state(self, observation: Observation) -> Verdict:
        """Judge an operation that completes in an expected state."""
        if observation.state not in self.rule.target_states:
            self._note_before(observation)
            return self._not_yet(observation, self._before, certain_at=self.max_staleness)
        if not self._is_after_request(observation):
            return Pending(recheck_at=self.max_staleness, too_early=True)
        certain = self.rule.new_vm or self._is_later(observation, self._before)
        return Done(_evidence(certain), "new" if self.rule.new_vm else "target")

    def _judge_cycle(self, observation: Observation) -> Verdict:
        """Judge an operation that completes when the VM has left ``online`` and returned."""
        if observation.state != ONLINE:
            # A VM that was not seen online cannot be seen to leave it: that is inferred.
            if self._before is None:
                self._note_away(observation, after=math.inf)
                return self._not_yet(observation, self._away, certain_at=self.max_staleness)
            self._note_away(observation, after=self._before)
            certain_at = self._before + self.max_staleness
            return self._not_yet(observation, self._surely_away, certain_at=certain_at)
        self._note_before(observation)
        if self._away is None:
            grace = max(self.rule.grace, self.max_staleness)
            if observation.sent_at >= grace:
                return Done(Evidence.ASSUMED, "grace")
            return Pending(recheck_at=grace if self._before is not None else self.max_staleness)
        back_at = self._away + self.max_staleness
        if observation.sent_at < back_at:
            return Pending(recheck_at=back_at, too_early=True)
        return Done(_evidence(self._is_later(observation, self._surely_away)), "cycle")

    def _judge_resize(self, observation: Observation, state: str) -> Verdict:
        """Judge a resize: the requested size, in a state that holds."""
        if state != ONLINE:
            self._note_away(observation, after=None)
        if (observation.cores, observation.ram) != (self.target.cores, self.target.ram):
            self._note_before(observation)
            self._offline = None
            self._was_down_before = self._was_down_before or (
                state != ONLINE and self._counts(observation)
            )
            return self._not_yet(observation, self._before, certain_at=self.max_staleness)
        if state not in self.rule.target_states:
            self._offline = None
            return self._not_yet(observation, self._surely_away, certain_at=self.max_staleness)
        if not self._is_after_request(observation):
            self._offline = None
            return Pending(recheck_at=self.max_staleness)
        certain = self._is_later(observation, self._before)
        if state == OFFLINE:
            if self._offline is None:
                self._offline = observation.received_at
            # WIRE §4 does not say whether a resized VM is restarted, so `offline` must hold: as
            # long as a restart takes if the size was seen to change while the VM was down, else as
            # long as the entire change takes.
            assume = self.rules.assume
            hold = assume.resize_restart if self._was_down_before else assume.resize_change
            rule = "resized-offline"
            end = self._offline + hold + self.max_staleness
        else:
            self._offline = None
            # Nor does it say whether the new size shows before the VM shuts down, which it does
            # after `wait_for` at the latest.
            back = self.rules.assume.resize_back
            end = 60.0 * self.target.wait_for + back + self.max_staleness
            rule = "resized-running" if self._away is None else "resized"
            if self._away is not None:
                end = min(end, self._away + self.max_staleness)
                certain = certain and self._is_later(observation, self._surely_away)
        if observation.sent_at < end:
            too_early = state == ONLINE and self._away is not None
            return Pending(recheck_at=end, too_early=too_early)
        return Done(_evidence(certain), rule)


def still_online(max_staleness: float, seen_at: float, rules: Rules) -> Completion:
    """Return what decides whether a VM, seen online at `seen_at`, is online."""
    target = Target("wait_ready")
    return Completion(target, max_staleness, visible_at=seen_at, quiet=True, rules=rules)


def _evidence(certain: bool) -> Evidence:
    return Evidence.OBSERVED if certain else Evidence.INFERRED
