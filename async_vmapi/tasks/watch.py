"""`Watch`: one task's view of its VM: the changes that polls have shown, and the verdict so far."""

import asyncio
import contextlib
import logging
import math
import weakref
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, cast

import attrs

from async_vmapi.errors import DecodingError, VMAPIError
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.readiness.conditions import Address, Probe
from async_vmapi.tasks.completion import (
    Completion,
    Done,
    Evidence,
    Failed,
    Observation,
    Pending,
    Verdict,
    still_online,
)
from async_vmapi.tasks.explain import Explanation, Seen, SeenBy
from async_vmapi.tasks.readiness import Readiness
from async_vmapi.tasks.rules import Awaited, Target
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.codec import VMSnapshot, decode_vm

__all__ = ["TaskEvent", "Waiter", "Watch"]

_log: Final = logger_of(__name__)

_PENDING: Final = Pending()

_NO_CONDITION: Final[Sequence[None]] = (None,)

Waiter: TypeAlias = asyncio.Future[VMAPIError | bool]
"""Resolves to True for a change, False at its deadline, or an error."""


@attrs.frozen
class TaskEvent:
    """A change of a VM that a task observed.

    Attributes:
        elapsed: Seconds since the API accepted the request.
        state: The VM's state; None once it is gone.
        evidence: How completion is known; None for every event except a successful completion.
        final: Whether this is the task's last event.
        condition: For a task with ``ready``, what the VM was seen to meet: ``"online"`` at the
            operation's completion, then each condition, like ``"ssh:22"``. None for other events.
        by: How it was seen: by a GET, a list, or a probe of readiness.
        raw: The VM as the API returned it, undecoded; None once it is gone.
    """

    elapsed: float
    state: str | None
    evidence: Evidence | None = None
    final: bool = False
    condition: str | None = None
    by: SeenBy = "get"
    # Undecoded: most events are never read, and those of an entire fleet are in memory.
    raw: bytes | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def vm(self) -> VirtualMachine | None:
        """The VM at this event; None once it is gone.

        Raises:
            DecodingError: If the API returned it in a form that cannot be decoded.
        """
        return None if self.raw is None else decode_vm(self.raw)


@attrs.define(eq=False, weakref_slot=False)
class Watch:
    """One task's view of its VM. The poller reports to it by `observe` and `poll_failed`.

    Attributes:
        vm_id: The VM.
        target: What was requested.
        elapsed: Seconds from the accepted request to the last observation.
        adopted: Whether the response to the request was lost.
        loop: The event loop in which it is polled.
        started: The loop's time when the request was accepted.
        last_sent_at: The loop's time when the last observation was requested.
        verdict: The verdict so far.
        history: The changes observed so far.
        waiters: Futures that wait for completion.
        event_waiters: Futures that wait for any change.
        refreshes: How many of the waiters want one poll only.
        readiness: The progress towards readiness; None if the task is only about the operation.
        absent_polls: Number of polls that showed the VM absent.
        failed_polls: Number of failed polls.
        last_error: The text of the last one's error.
    """

    vm_id: str
    target: Target
    _completion: Completion
    elapsed: float = 0.0
    adopted: bool = False
    readiness: Readiness | None = None
    loop: asyncio.AbstractEventLoop = attrs.field(init=False, factory=asyncio.get_running_loop)
    started: float = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: self.loop.time() - self.elapsed, takes_self=True),
    )
    last_sent_at: float = attrs.field(init=False, default=-math.inf)
    verdict: Verdict = attrs.field(init=False, default=_PENDING)
    history: list[TaskEvent] = attrs.field(init=False, factory=list[TaskEvent])
    waiters: list[Waiter] = attrs.field(init=False, factory=list[Waiter])
    event_waiters: list[Waiter] = attrs.field(init=False, factory=list[Waiter])
    refreshes: int = attrs.field(init=False, default=0)
    absent_polls: int = attrs.field(init=False, default=0)
    failed_polls: int = attrs.field(init=False, default=0)
    last_error: str | None = attrs.field(init=False, default=None)
    _last_snapshot: VMSnapshot | None = attrs.field(init=False, default=None)
    # Weak: only the task holds its observer; without it, the operation is no longer observed.
    _observer: weakref.ref[OperationObserver] | None = attrs.field(init=False, default=None)

    def move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Continue in another event loop; its clock starts from the known elapsed time."""
        if self.loop is not loop:
            self.loop, self.started = loop, loop.time() - self.elapsed
            self.last_sent_at = -math.inf

    @property
    def ended(self) -> bool:
        """Whether the operation is done or has failed."""
        return not isinstance(self.verdict, Pending)

    @property
    def evidence(self) -> Evidence | None:
        """How completion of the operation is known; None while it is not complete."""
        if self.readiness is not None:
            return self.readiness.evidence
        return self.verdict.evidence if isinstance(self.verdict, Done) else None

    @property
    def is_over_now(self) -> bool:
        """Whether the last observation showed that the operation is complete or has failed."""
        if self.readiness is None or isinstance(self.verdict, Failed):
            return self.ended
        return self.evidence is not None and self.readiness.complete_at == self.elapsed

    @property
    def is_awaited(self) -> bool:
        """Whether a waiter wants more than one poll."""
        return len(self.waiters) + len(self.event_waiters) > self.refreshes

    @property
    def awaits(self) -> tuple[Awaited, float]:
        """What is awaited now, and the loop's time since when: the operation, or readiness."""
        if self.readiness is None or self.readiness.evidence is None:
            return self.target.operation, self.started
        return "wait_ready", self.started + self.readiness.complete_at

    @property
    def needs_each_poll(self) -> bool:
        """Whether polls count even if the snapshot is unchanged, since it has no address."""
        return self.readiness is not None and self.readiness.needs_address

    @property
    def visible(self) -> bool:
        """Whether a read has shown the VM."""
        return self._completion.visible_at is not None

    @property
    def absence_counts(self) -> bool:
        """Whether absence means that the VM is gone; a new VM may not have appeared yet."""
        return self.visible or not self.target.rule.new_vm

    @property
    def left_online(self) -> bool:
        """Whether a reboot or reset was seen to leave ``online``."""
        if self.evidence is not None:
            return self.evidence is not Evidence.ASSUMED
        return self._completion.left_online

    def wake(self, error: VMAPIError | None = None) -> None:
        """Wake all awaiters, or fail them with `error`."""
        _wake(self.waiters, error or True)
        _wake(self.event_waiters, error or True)

    def observe(
        self,
        sent_at: float,
        received_at: float,
        snapshot: VMSnapshot | None,
        raw: bytes | None,
        by: SeenBy = "get",
    ) -> bool:
        """Process one observation, and return whether it counted.

        It is ignored if it was requested before the last one, or before the operation.

        Args:
            sent_at: The loop's time when it was requested.
            received_at: The loop's time when its response had arrived.
            snapshot: The VM; None for absent.
            raw: The VM undecoded.
            by: How it was requested.
        """
        at = sent_at - self.started
        if self.ended or at < self.elapsed:
            return self.ended
        self.elapsed, self.last_sent_at = at, sent_at
        received = received_at - self.started
        if snapshot is None:
            observation = Observation(at, received, None)
            self.absent_polls += 1
        else:
            observation = Observation(at, received, snapshot.state, snapshot.cores, snapshot.ram)
        self.verdict = self._completion.observe(observation)
        conditions: Sequence[str] = ()
        if (readiness := self.readiness) is not None:
            was_complete = readiness.evidence is not None
            self.verdict, conditions = readiness.judge(self.verdict, observation, raw)
            if readiness.evidence is not None and not was_complete:
                self._completion = still_online(
                    self._completion.max_staleness, at, self._completion.rules
                )
        changed = snapshot is not None and snapshot != self._last_snapshot
        if changed:
            self._last_snapshot = snapshot
        if changed or conditions or self.ended:
            for condition in conditions or _NO_CONDITION:
                self._note(at, observation.state, raw, condition, by)
        return True

    def _note(
        self,
        at: float,
        state: str | None,
        raw: bytes | None,
        condition: str | None,
        by: SeenBy,
    ) -> None:
        """Add an event, and wake the waiters."""
        verdict, evidence, ended = self.verdict, None, False
        if not isinstance(verdict, Pending):
            readiness = self.readiness
            # One observation can show several conditions; the last one ends the task.
            ended = readiness is None or condition in (None, readiness.last_name)
            if ended and isinstance(verdict, Done):
                evidence = verdict.evidence
        event = TaskEvent(at, state, evidence, ended, condition, by, raw)
        self.history.append(event)
        self._report(event)
        if ended:
            self.wake()
        else:
            _wake(self.event_waiters, True)

    def explain(self) -> Explanation:
        """Return what was seen, and which rule decided."""
        verdict = self.verdict
        pending = isinstance(verdict, Pending)
        status: Literal["complete", "failed", "pending"] = "pending" if pending else "failed"
        if isinstance(verdict, Done):
            status = "complete"
        return Explanation(
            operation=self.target.operation,
            vm_id=self.vm_id,
            status=status,
            evidence=None if self.evidence is None else self.evidence.value,
            rule="" if isinstance(verdict, Pending) else verdict.rule,
            seen=tuple(self._seen(event) for event in self.history),
            absent_polls=self.absent_polls,
            failed_polls=self.failed_polls,
            last_poll_error=self.last_error,
            missing=() if self.readiness is None or not pending else self.readiness.missing,
            max_staleness=self._completion.max_staleness,
        )

    def _seen(self, event: TaskEvent) -> Seen:
        size: dict[str, int] = {}
        if self.target.rule.resized:
            with contextlib.suppress(DecodingError):
                if (vm := event.vm) is not None:
                    size = {"cores": vm.cores, "ram": vm.ram}
        return Seen(
            elapsed=round(event.elapsed, 3),
            by=event.by,
            state=event.state,
            condition=event.condition,
            **size,
        )

    # --- probes ---------------------------------------------------------------------------------

    @property
    def next_probe(self) -> Probe | None:
        """The condition to probe next; None if there is nothing to probe now."""
        readiness = self.readiness
        if readiness is None or self.ended or not readiness.is_online:
            return None
        condition = readiness.next_condition
        return None if isinstance(condition, Address) else condition

    @property
    def probed_vm(self) -> VirtualMachine:
        """The VM as last seen, for a probe."""
        return cast(Readiness, self.readiness).vm()

    def condition_met(self) -> None:
        """Note that a probe showed the next condition to be met."""
        readiness = cast(Readiness, self.readiness)
        name = str(readiness.next_condition)
        self.verdict = readiness.met() or self.verdict
        at = self.loop.time() - self.started
        self._note(at, ONLINE, readiness.raw, name, "probe")

    def condition_unmet(self, reason: str) -> None:
        """Note why the next condition is not met."""
        cast(Readiness, self.readiness).reason = reason

    @property
    def observer(self) -> OperationObserver | None:
        """The operation's observer; None if there is none, or if it is no longer referenced."""
        return None if self._observer is None else self._observer()

    def observed_by(self, observer: OperationObserver) -> None:
        """Report all events to an observer, past ones first, while it is referenced elsewhere."""
        self._observer = weakref.ref(observer)
        for event in self.history:
            observer.seen(event.elapsed, event.state, event.evidence, end=event.final)

    def _report(self, event: TaskEvent) -> None:
        if (observer := self.observer) is not None:
            observer.seen(event.elapsed, event.state, event.evidence, end=event.final)
        if not _log.isEnabledFor(logging.INFO if event.final else logging.DEBUG):
            return
        operation, state = self.target.operation, event.state or "gone"
        shown = state if event.condition in (None, state) else f"{state}, {event.condition}"
        fields: dict[str, object] = {
            "vmapi_operation": operation,
            "vmapi_vm_id": self.vm_id,
            "vmapi_state": state,
            "vmapi_elapsed": event.elapsed,
        }
        if event.condition is not None:
            fields["vmapi_condition"] = event.condition
        values = (operation, self.vm_id, shown, event.elapsed)
        if not event.final:
            _log.debug("%s of %s: %s after %.1f s", *values, extra=fields)
            return
        fields["vmapi_evidence"] = event.evidence
        how = "failed" if event.evidence is None else f"done, {event.evidence}"
        _log.info("%s of %s: %s after %.1f s: %s", *values, how, extra=fields)

    def poll_failed(self, error: str) -> None:
        """Record a failed poll."""
        self.failed_polls += 1
        self.last_error = error


def _wake(waiters: list[Waiter], result: VMAPIError | Literal[True]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(result)
