"""`Rollout`: a bulk call in progress. It starts items wave by wave and collects their outcomes.

A pump takes the items one by one, waits until each may start, and creates a worker for it, which
sends the request and awaits its task. The iteration over the outcomes drives it; when the iteration
ends, nothing keeps running. `async_vmapi.bulk.states` has the states of a call.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final, Literal

import anyio

from async_vmapi.bulk import outcomes
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.online import OnlineVMs
from async_vmapi.bulk.outcomes import INTERRUPTED, Ended
from async_vmapi.bulk.plan import BulkEvent, BulkPlan, count_of, wave_sizes
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.bulk.states import TRANSITIONS, State
from async_vmapi.bulk.work import Work
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.guards import Guard
from async_vmapi.writes.operations import GENERAL, operation_spec

__all__ = ["Rollout"]

_MAX_UNCONSUMED: Final = 1000
"""Maximum number of unconsumed outcomes; beyond it, no further item is taken."""

_ACCEPT_TIMEOUT: Final = 5.0
"""Maximum seconds for which an item that is not accepted yet keeps others from starting: it may be
reconciling or waiting for a retry while connections are free."""


class Rollout:
    """Runs an operation on many items.

    Args:
        plan: The plan.
        operation: The operation's name.
        items: The items; taken lazily.
        total: The number of items, for percentages; None if unknown.
        at_once: Maximum number of items that are not accepted yet. More would only wait for a
            connection, and an item takes more memory before it is accepted than after. None for no
            limit.
    """

    def __init__(
        self,
        plan: BulkPlan,
        operation: str,
        items: Iterator[BulkItem] | AsyncIterator[BulkItem],
        total: int | None,
        at_once: int | None = None,
    ) -> None:
        self._plan = plan
        self._at_once = math.inf if at_once is None else at_once
        self._unaccepted = 0
        self._operation = operation
        self._worker_name = f"async_vmapi {operation}"
        self._items = items
        self._total = total
        self._online: OnlineVMs | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._workers: dict[asyncio.Task[Ended], Work] = {}
        self._current: BulkItem | None = None
        self._unconsumed: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._progress = asyncio.Event()
        self._taking = False
        self._fatal: BaseException | None = None
        self._started = 0
        self._wave = 1
        self._guard = Guard()
        self.state = State.RUNNING
        self.counts: Counter[Status] = Counter()
        self.stopped: str | None = None
        self.complete = False
        self.left_in_flight = False

    @property
    def in_flight(self) -> int:
        """The number of operations in progress."""
        return len(self._workers)

    @property
    def wave(self) -> int:
        """The number of the current wave, from 1."""
        return self._wave

    # --- control --------------------------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Pause or unpause starting items."""
        self._move_to(State.PAUSED if paused else State.RUNNING)

    def _move_to(self, state: State) -> bool:
        """Enter a state if the current one allows it, and return whether it does."""
        if state not in TRANSITIONS[self.state]:
            return False
        self.state = state
        self._changed.set()
        return True

    def keep_online(self, online: set[str], given: int) -> None:
        """Apply the plan's ``min_online`` to `given` VMs, of which these are online."""
        minimum = count_of(self._plan.min_online or 0, given, up=True)
        self._online = OnlineVMs(online, minimum)

    def stop(self, reason: str) -> None:
        """Start no further items; operations in progress are awaited to completion.

        A request that is still queued is not sent.
        """
        if self._move_to(State.STOPPING):
            self._stop_starting(reason)

    def _stop_starting(self, reason: str) -> None:
        self.stopped = reason
        self._emit("stopped", reason=reason)
        for worker, work in self._workers.items():
            if not work.running:
                worker.cancel()
            elif (write := work.context.last) is not None and self._operation != GENERAL:
                write.withdraw()
        pump = self._pump_task
        if self._taking and pump is not None and pump is not asyncio.current_task():
            # The next item may be long in coming.
            pump.cancel()

    def give_up(self, reason: str) -> None:
        """Start no item at all; `left` returns them all as not started."""
        self.stop(reason)
        self._skip_rest()

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Run the call, and iterate over the outcomes as they arrive.

        If the iteration is left early or cancelled, requests in flight get ten seconds for their
        responses; `left` returns the remaining outcomes.
        """
        pump = asyncio.get_running_loop().create_task(self._pump(), name="async_vmapi bulk")
        self._pump_task = pump
        pump.add_done_callback(lambda _: self._progress.set())
        try:
            while True:
                while self._unconsumed:
                    outcome = self._unconsumed.popleft()
                    self._changed.set()
                    yield outcome
                if pump.done() and not self._workers and not self._unconsumed:
                    break
                self._progress.clear()
                await self._progress.wait()
            if self._fatal is not None:
                raise self._fatal
            if not (pump.cancelled() and self.stopped):
                await pump
        finally:
            await self._shut_down(pump)

    def left(self) -> list[Outcome]:
        """Return the unconsumed outcomes, and the outcomes so far of operations in progress."""
        running = [self._end_of(worker, work).outcome for worker, work in self._workers.items()]
        return [*self._unconsumed, *running]

    # --- starting -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        sizes = wave_sizes(self._plan.waves or (), self._total)
        room = next(sizes)
        while (item := await self._take()) is not None:
            if room < 1 and self.stopped is None:
                await self._end_wave()
                room = next(sizes)
                self._wave += 1
            why_not = await self._wait_for_turn(item)
            if why_not is None:
                room -= 1
                self._start(item)
                continue
            while len(self._unconsumed) >= _MAX_UNCONSUMED:
                await self._wait_for_change()
            room -= self._plan.dry_run
            self._skip(item, why_not)
            if self.stopped is not None and self._total is None:
                return
        self.complete = True

    async def _take(self) -> BulkItem | None:
        if isinstance(self._items, Iterator):
            item = next(self._items, None)
        else:
            self._taking = True
            try:
                item = await anext(self._items, None)
            finally:
                self._taking = False
        self._current = item
        return item

    async def _wait_for_turn(self, item: BulkItem) -> str | None:
        """Wait until an item may start; return the reason if it never may."""
        minimum = 0 if self._online is None else self._online.minimum
        too_few = f"fewer than {minimum} VMs would stay online"
        if self._plan.dry_run:
            return self._dry_run_report(item) or too_few
        while item.begun and self.state is not State.INTERRUPTED:
            if self._has_room():
                return None
            await self._wait_for_change()
        while self.stopped is None:
            if self.state is State.RUNNING and self._has_room():
                if self._may_go_down(item):
                    return None
                if not self._workers:
                    return too_few
            await self._wait_for_change()
        return self.stopped

    def _dry_run_report(self, item: BulkItem) -> str | None:
        """Return a dry run's report of an item; None if ``min_online`` forbids it."""
        if not self._may_go_down(item):
            return None
        if self._online is not None and operation_spec(self._operation).stays_down:
            self._online.take(item.vm_id)
        done = "watched" if item.watched else "started"
        return f"dry run: it would be {done} in wave {self._wave}"

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _has_room(self) -> bool:
        return (
            len(self._workers) < self._plan.limit
            and len(self._unconsumed) < _MAX_UNCONSUMED
            and self._unaccepted < self._at_once
        )

    def _may_go_down(self, item: BulkItem) -> bool:
        return self._online is None or self._online.may_go_down(item.vm_id)

    async def _end_wave(self) -> None:
        while self._workers and self.stopped is None:
            await self._wait_for_change()
        tolerated = self._plan.max_failures is not None and self._wave > 1
        if self._failures and not tolerated:
            self.stop(f"wave {self._wave} had failures")

    @property
    def _failures(self) -> int:
        return self.counts["failed"] + self.counts["unknown"]

    def _start(self, item: BulkItem) -> None:
        loop = asyncio.get_running_loop()
        was_online = self._online is not None and self._online.take(item.vm_id)
        work = Work(self._operation, item, self._wave, loop.time(), was_online)
        self._current = None
        self._started += 1
        self._unaccepted += 1
        work.unaccepted = loop.call_later(_ACCEPT_TIMEOUT, self._mark_accepted, work)
        worker = loop.create_task(work.run(self), name=self._worker_name)
        self._workers[worker] = work
        worker.add_done_callback(self._finished)

    def _mark_accepted(self, work: Work) -> None:
        if work.unaccepted is not None:
            work.unaccepted.cancel()
            work.unaccepted = None
            self._unaccepted -= 1
            self._changed.set()

    def _skip(self, item: BulkItem, reason: str) -> None:
        self._current = None
        self._end(outcomes.outcome(item, "not_started", wave=self._wave, reason=reason))

    def _skip_rest(self) -> None:
        """Report all remaining items as not started."""
        reason = self.stopped or INTERRUPTED
        if self._current is not None:
            self._skip(self._current, reason)
        if self._total is None or not isinstance(self._items, Iterator):
            return
        for item in self._items:
            self._skip(item, reason)
        self.complete = True

    # --- one item -------------------------------------------------------------------------------

    def started(self, work: Work) -> None:
        """Note that an item's worker runs."""
        self._emit("started", work.item, work.wave)

    def accepted(self, work: Work) -> None:
        """Note that an item has a task; cancel its worker if completion is not awaited."""
        self._mark_accepted(work)
        self._emit("accepted", work.item, work.wave, task=work.task)
        if self.state is State.INTERRUPTED:
            raise asyncio.CancelledError  # completion is no longer awaited

    def why_cut_off(self) -> str:
        """Return why items in progress are no longer awaited."""
        return (self.stopped if self.state is State.STOPPING else None) or INTERRUPTED

    def _end_of(self, worker: asyncio.Task[Ended], work: Work) -> Ended:
        """Return how a worker ended, or what is known so far."""
        if worker.done() and not worker.cancelled() and worker.exception() is None:
            return worker.result()
        return work.cut_off(self.why_cut_off())

    def _finished(self, worker: asyncio.Task[Ended]) -> None:
        work = self._workers[worker]
        self._mark_accepted(work)
        ended = self._end_of(worker, work)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._fatal = self._fatal or error
            self.stop(f"a function raised {type(error).__name__}")
        if self.state is State.CLOSED:
            return
        del self._workers[worker]
        online = ended.online or (ended.untouched and work.was_online)
        if self._online is not None and online and ended.outcome.vm_id is not None:
            self._online.add(ended.outcome.vm_id)
        self._end(ended.outcome)

    # --- ending ---------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self._unconsumed.append(outcome)
        self._progress.set()
        self._changed.set()
        allowed = None if self._plan.dry_run else self._plan.max_failures
        if allowed is not None and outcome.status in ("failed", "unknown"):
            of = self._started if self._total is None else self._total
            if self._failures > count_of(allowed, of):
                self.stop(f"more than {allowed} failed")
        self._emit("finished", outcome=outcome)

    async def _shut_down(self, pump: asyncio.Task[None]) -> None:
        """Stop the pump and the workers, and wait for requests in flight."""
        self._pump_task = None
        if pump.done() and not pump.cancelled() and not self._workers:
            pump.exception()
            self._move_to(State.CLOSED)
            return
        self._move_to(State.INTERRUPTED)
        if self.stopped is None:
            self._stop_starting(INTERRUPTED)
        pump.cancel()
        for worker in self._workers:
            worker.cancel()
        try:
            # The shield is against anyio, which cancels repeatedly; a second explicit cancellation
            # still ends the wait.
            with anyio.CancelScope(shield=True):
                await asyncio.wait({pump, *self._workers})
        finally:
            self.left_in_flight = bool(self._workers)
            self._skip_rest()
            self._move_to(State.CLOSED)

    def _emit(
        self,
        kind: Literal["started", "accepted", "finished", "stopped"],
        item: BulkItem | None = None,
        wave: int | None = None,
        *,
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
            wave=wave or (outcome.wave if outcome else self._wave),
            vm_id=task.vm_id if task else subject.vm_id if subject else None,
            task=task,
            outcome=outcome,
            reason=reason,
            in_flight=len(self._workers),
            done=dict(self.counts),
        )
        on_event = self._plan.on_event
        self._guard.call("on_event", lambda: on_event(event))
