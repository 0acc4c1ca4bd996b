"""One awaited VM: the state of its polling, and when it is polled next. Pure.

Two modes: in list mode one list serves all VMs; in GET mode each VM has a timer.

========== ============================================= ==========================================
state      meaning                                       leaves it by
========== ============================================= ==========================================
LISTED     the next list shows it                        GET mode → PLANNED; last poll → QUEUED
PLANNED    a timer runs until its GET                    timer or last poll → QUEUED; list mode, or
                                                         only a list shows it → LISTED
QUEUED     its GET waits for a free slot                 slot free → IN_FLIGHT; list mode, or only
                                                         a list shows it → LISTED
IN_FLIGHT  its GET was sent                              response or failure → LISTED or PLANNED;
                                                         last waiter leaves → ABANDONED
ABANDONED  its GET was sent, but none of its tasks is    a waiter joins → IN_FLIGHT;
           awaited any more                              response or failure → LEFT
LEFT       none of its tasks is awaited any more         (it is dropped)
========== ============================================= ==========================================

In the first three states, the VM becomes LEFT when its last waiter leaves.
"""

import enum
import math
from collections.abc import Mapping
from typing import Final, Protocol

import attrs

from async_vmapi.tasks.completion import Pending
from async_vmapi.tasks.schedule import TIMER_TOLERANCE, Schedule
from async_vmapi.tasks.watch import Waiter, Watch
from async_vmapi.transport.codec import VMSnapshot

__all__ = ["NEVER_LISTED", "TRANSITIONS", "PolledVM", "State", "time_out"]

NEVER_LISTED: Final = VMSnapshot(id="", state="", cores=0, ram=0)
"""Differs from anything that a list shows of a VM, and from its absence."""


class State(enum.Enum):
    """See the module's table."""

    LISTED = enum.auto()
    PLANNED = enum.auto()
    QUEUED = enum.auto()
    IN_FLIGHT = enum.auto()
    ABANDONED = enum.auto()
    LEFT = enum.auto()


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.LISTED: frozenset({State.PLANNED, State.QUEUED, State.LEFT}),
    State.PLANNED: frozenset({State.LISTED, State.QUEUED, State.LEFT}),
    State.QUEUED: frozenset({State.LISTED, State.IN_FLIGHT, State.LEFT}),
    State.IN_FLIGHT: frozenset({State.LISTED, State.PLANNED, State.ABANDONED}),
    State.ABANDONED: frozenset({State.IN_FLIGHT, State.LEFT}),
    State.LEFT: frozenset(),
}
"""The module's table. Entering the current state again resets the plan."""


class _Timer(Protocol):
    def cancel(self) -> None: ...


@attrs.define(eq=False)
class PolledVM:
    """A VM with one or more watches.

    Attributes:
        timer: The timer that fires at `due`, if one is set.
        due: The loop's time of its next GET; infinity if none is planned.
        last_listed: What the last list showed: None for absent, `NEVER_LISTED` before the first.
        recheck_at: From then on, report unchanged lists too.
        too_early: Whether no poll before `recheck_at` can complete any operation.
        expired: Deadlines that have passed, each with its waiter, which the next poll sent since
            then releases.
        needs_list: Whether only a list can show if the VM exists, because its GET was refused
            ambiguously.
        is_unclear: Whether the form of that refusal may mean anything.
        absent_since: When the first of the consecutive GETs that showed it absent was sent.
        failures: Consecutive failed GETs.
    """

    vm_id: str
    state: State = State.LISTED
    watches: tuple[Watch, ...] = ()
    timer: _Timer | None = None
    due: float = math.inf
    last_listed: VMSnapshot | None = NEVER_LISTED
    recheck_at: float = math.inf
    too_early: bool = False
    expired: list[tuple[float, Waiter]] = attrs.field(factory=list[tuple[float, Waiter]])
    needs_list: bool = False
    is_unclear: bool = False
    absent_since: float | None = None
    failures: int = 0

    def move_to(self, state: State) -> None:
        """Enter a state, and cancel the planned poll."""
        if state is not self.state and state not in TRANSITIONS[self.state]:
            raise RuntimeError(
                f"{self.vm_id} is {self.state.name}, which {state.name} cannot follow"
            )
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.due, self.state = math.inf, state

    def join(self, watch: Watch) -> None:
        """Add a watch; it has not seen the last list."""
        if self.state is State.ABANDONED:
            self.move_to(State.IN_FLIGHT)
        self.watches += (watch,)
        self.last_listed = NEVER_LISTED

    def leave(self, watch: Watch) -> None:
        """Remove a watch."""
        self.watches = tuple(other for other in self.watches if other is not watch)
        if not self.watches:
            self.expired.clear()
            in_flight = self.state is State.IN_FLIGHT
            self.move_to(State.ABANDONED if in_flight else State.LEFT)

    def plan(
        self, now: float, schedule: Schedule, *, list_mode: bool, latest: float = math.inf
    ) -> None:
        """Plan the next poll from what the watches wait for.

        Args:
            now: The time from which intervals count.
            schedule: The intervals.
            list_mode: Whether list mode is on.
            latest: The latest time for the next poll.
        """
        due = self.recheck_at = math.inf
        self.too_early = True
        for watch in self.watches:
            verdict = watch.verdict
            if not isinstance(verdict, Pending):
                continue
            recheck = math.inf
            if verdict.recheck_at is not None:
                recheck = watch.started + verdict.recheck_at + TIMER_TOLERANCE
                self.recheck_at = min(self.recheck_at, recheck)
            self.too_early = self.too_early and verdict.too_early
            if list_mode:
                continue
            if not verdict.too_early:
                operation, since = watch.awaits
                between = schedule.get_interval(operation, now - since)
                recheck = min(recheck, now + between)
            due = min(due, max(recheck, now + schedule.min_interval))
        self.move_to(State.LISTED if list_mode else State.PLANNED)
        if not list_mode:
            self.due = min(latest, max(due, now + schedule.backoff(self.failures)))

    def poll_failed(self, error: str) -> None:
        """Report a failed poll to the watches."""
        for watch in self.watches:
            watch.poll_failed(error)

    def release_expired(self, sent_at: float) -> bool:
        """Release waiters whose deadline a poll was sent after; return whether others remain."""
        for deadline, waiter in self.expired:
            if sent_at >= deadline:
                time_out(waiter)
        self.expired = [entry for entry in self.expired if not entry[1].done()]
        return bool(self.expired)


def time_out(waiter: Waiter) -> None:
    """Release a waiter whose deadline has passed."""
    if not waiter.done():
        waiter.set_result(False)
