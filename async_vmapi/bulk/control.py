"""`Control`: the state of a bulk call, what changes it, and the events that show it."""

import abc
import asyncio
from collections import Counter
from typing import Any

from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.plan import BulkEvent, BulkPlan, EventKind
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.bulk.states import TRANSITIONS, State
from async_vmapi.bulk.waves import Progress, Waves
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.guards import Guard

__all__ = ["Control"]


class Control(abc.ABC):
    """Pauses, stops and promotes a bulk call, and reports events.

    Args:
        plan: The plan.
        waves: Counts waves and failures.

    Attributes:
        state: The state.
        counts: The number of finished items by status.
        stopped: Why no further item starts; None if the call did not stop.
        held: The wave that must be promoted before the next one starts; None if none must be now.
        complete: Whether all items were taken.
    """

    def __init__(self, plan: BulkPlan, waves: Waves) -> None:
        self._plan = plan
        self._waves = waves
        self._changed = asyncio.Event()
        self._suspended_by: str | None = None
        self._guard = Guard()
        # Whether the next item, if there is one, was started by an earlier process.
        self._repeats = False
        self.state = State.RUNNING
        self.counts: Counter[Status] = Counter()
        self.stopped: str | None = None
        self.held: int | None = None
        self.complete = False

    @property
    @abc.abstractmethod
    def in_flight(self) -> int:
        """The number of operations in progress."""

    @abc.abstractmethod
    def _stop_starting(self, reason: str) -> None:
        """Withdraw what was not sent yet."""

    @property
    def wave(self) -> int:
        """The number of the current wave, from 1."""
        return self._waves.number

    @property
    def domain(self) -> str:
        """The failure domain of the current wave; empty without ``spread_by``."""
        return self._waves.domain

    @property
    def failures(self) -> int:
        """How many items failed or are unknown."""
        return self._waves.failures

    @property
    def progress(self) -> Progress:
        """What happened between waves; another rollout that repeats this one needs it."""
        return self._waves.progress

    @property
    def suspended(self) -> str | None:
        """The failures because of which nothing starts until `forgive`; None if there are none."""
        return self._suspended_by if self.state is State.SUSPENDED else None

    # --- control --------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Pause or unpause starting items; a pause because of failures needs `forgive`."""
        if self.state is not State.SUSPENDED:
            self._move_to(State.PAUSED if paused else State.RUNNING)

    def forgive(self, failures: int) -> None:
        """Continue after a pause because of failures, and take them out of the failure budget.

        Args:
            failures: How many of the call's failures, the first ones, are forgiven. If there were
                more in the meantime, the call may pause again.
        """
        if self._plan.on_failure == "stop":
            return  # a call that failures stop is never paused because of them
        forgiven = self.progress.forgiven
        self._waves.forgive(failures)
        if self.state is State.SUSPENDED and self.progress.forgiven > forgiven:
            self._move_to(State.RUNNING)
            self._halt(self._waves.exceeded())

    def promote(self, wave: int) -> None:
        """Let the next wave start after a wave that is held, or will be."""
        self._waves.promote(wave)
        self._changed.set()

    def stop(self, reason: str) -> None:
        """Start no further items; operations in progress are awaited to completion.

        A request that is still queued is not sent.
        """
        if self._move_to(State.STOPPING):
            self._note_stop(reason)

    def _note_stop(self, reason: str) -> None:
        self.stopped = reason
        self._emit("stopped", reason=reason)
        self._stop_starting(reason)

    def _halt(self, reason: str | None) -> None:
        """Stop, or pause, because of failures; None for none."""
        if reason is not None and self._plan.on_failure == "stop":
            self.stop(reason)
        # If all items have started, here or in an earlier process, there is nothing to pause.
        elif reason is not None and not self._repeats and self._move_to(State.SUSPENDED):
            self._suspended_by = reason
            self._emit("paused", reason=reason)

    def _hold(self) -> None:
        if self.held is None and self.stopped is None:
            self.held = self._waves.number
            self._emit("held", reason=f"wave {self.held} is to be promoted")

    def _move_to(self, state: State) -> bool:
        """Enter a state if the current one allows it, and return whether it does."""
        if state not in TRANSITIONS[self.state]:
            return False
        self.state = state
        self._changed.set()
        return True

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # --- events ---------------------------------------------------------------------------------

    def _emit(
        self,
        kind: EventKind,
        item: BulkItem | None = None,
        *,
        wave: int | None = None,
        task: Task[Any] | None = None,
        outcome: Outcome | None = None,
        reason: str = "",
    ) -> None:
        if self._plan.on_event is None or self.state is State.CLOSED:
            return
        subject = item or outcome
        event = BulkEvent(
            kind=kind,
            item=item.label if item else outcome.item if outcome else "",
            index=subject.index if subject else None,
            wave=wave or (outcome.wave if outcome else self.wave),
            domain=subject.domain if subject else self.domain,
            vm_id=task.vm_id if task else subject.vm_id if subject else None,
            task=task,
            outcome=outcome,
            reason=reason,
            in_flight=self.in_flight,
            done=dict(self.counts),
        )
        on_event = self._plan.on_event
        self._guard.call("on_event", lambda: on_event(event))
