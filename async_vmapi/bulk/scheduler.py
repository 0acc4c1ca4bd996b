"""A bulk call in progress: which item may start when, and what became of each.

A pump takes the items one by one, waits until each may start, and creates a worker for it, which
sends the request and awaits its task. Iterating over the outcomes drives it; when the iteration
ends, nothing keeps running.

=============== =========================================== ====================================
state           what happens in it                          left by
=============== =========================================== ====================================
``RUNNING``     items start                                 ``pause``, ``stop``, the end
``PAUSED``      no item starts; operations in progress go   ``pause(False)``, ``stop``, the end
                on
``STOPPING``    no item starts any more; operations in      the end
                progress are awaited
``INTERRUPTED`` the iteration was left early; operations    the workers' end
                in progress are no longer awaited
``CLOSED``      nothing, and no event is reported
=============== =========================================== ====================================
"""

import asyncio
import enum
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final, Literal

import anyio
import attrs

from async_vmapi.bulk import outcomes
from async_vmapi.bulk.item import GENERAL, STAYS_DOWN, BulkItem
from async_vmapi.bulk.outcomes import INTERRUPTED, Ended
from async_vmapi.bulk.plan import BulkEvent, BulkPlan, count_of, wave_sizes
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.guards import Guard
from async_vmapi.writes.record import WRITES, Write, is_task

__all__ = ["TRANSITIONS", "Rollout", "State"]

_UNTAKEN: Final = 1000
"""Outcomes that nobody has taken yet: with more, no further item is taken."""

_SETTING_OUT: Final = 5.0
"""Seconds for which one that is not accepted yet keeps others from starting, at most: it may be
looked for, or repeated, while the wire is free."""


class State(enum.Enum):
    """Where a bulk call is; the table above has what happens in each state."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"


TRANSITIONS: Final = {
    State.RUNNING: {State.PAUSED, State.STOPPING, State.INTERRUPTED, State.CLOSED},
    State.PAUSED: {State.RUNNING, State.STOPPING, State.INTERRUPTED, State.CLOSED},
    State.STOPPING: {State.INTERRUPTED, State.CLOSED},
    State.INTERRUPTED: {State.CLOSED},
    State.CLOSED: set[State](),
}
"""The states that may follow each state; an event that leads to another one does nothing."""


@attrs.define(eq=False)
class _Work:
    """A job in progress."""

    job: BulkItem
    wave: int
    began: float
    was_online: bool
    running: bool = False
    # While it counts among those that are not accepted yet.
    setting_out: asyncio.TimerHandle | None = None
    task: Task[Any] | None = None
    writes: list[Write] = attrs.field(factory=list[Write])

    @property
    def write(self) -> Write | None:
        return self.writes[-1] if self.writes else None


class Rollout:
    """Takes jobs through their operation.

    Args:
        plan: How.
        operation: Which, as writes call it.
        jobs: The items; taken lazily.
        total: How many the fleet has, of which shares are counted; None if nobody knows.
        at_once: How many requests are worth having under way; more would only wait for the wire,
            and each takes more memory until it is accepted than after. None for no limit.
    """

    def __init__(
        self,
        plan: BulkPlan,
        operation: str,
        jobs: Iterator[BulkItem] | AsyncIterator[BulkItem],
        total: int | None,
        at_once: int | None = None,
    ) -> None:
        self._plan = plan
        self._at_once = math.inf if at_once is None else at_once
        self._setting_out = 0
        self._operation = operation
        self._jobs = jobs
        self._total = total
        self._online: set[str] | None = None
        self._least = 0
        self._pump_task: asyncio.Task[None] | None = None
        self._workers: dict[asyncio.Task[Ended], _Work] = {}
        self._in_hand: BulkItem | None = None
        self._untaken: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._taking = False
        self._fatal: BaseException | None = None
        self._started = 0
        self._wave = 1
        self._guard = Guard()
        self.state = State.RUNNING
        self.counts: Counter[Status] = Counter()
        self.stopped: str | None = None
        self.complete = False
        self.in_the_air = False

    @property
    def in_flight(self) -> int:
        """How many operations are under way."""
        return len(self._workers)

    @property
    def wave(self) -> int:
        """The number of the wave under way, from 1."""
        return self._wave

    # --- what others do with it -----------------------------------------------------------------

    def pause(self, paused: bool) -> None:
        """Start no further items, or start them again."""
        self._move_to(State.PAUSED if paused else State.RUNNING)

    def _move_to(self, state: State) -> bool:
        """Move to a state if that may follow the present one, and return whether it did."""
        if state not in TRANSITIONS[self.state]:
            return False
        self.state = state
        self._changed.set()
        return True

    def keep_online(self, online: set[str], given: int) -> None:
        """Keep as many online, of so many given, as the plan says; these are so now."""
        self._online = online
        self._least = count_of(self._plan.min_online or 0, given, up=True)

    def stop(self, reason: str) -> None:
        """Start no further items; operations in progress are awaited to their end.

        A request that still waits for its turn is not sent.
        """
        if self._move_to(State.STOPPING):
            self._stop_starting(reason)

    def _stop_starting(self, reason: str) -> None:
        self.stopped = reason
        self._tell("stopped", reason=reason)
        for worker, work in self._workers.items():
            if not work.running:
                worker.cancel()
            elif work.write is not None and self._operation != GENERAL:
                work.write.withdraw()
        pump = self._pump_task
        if self._taking and pump is not None and pump is not asyncio.current_task():
            # Nobody knows when it would give the next one.
            pump.cancel()

    def give_up(self, reason: str) -> None:
        """Start none at all; `left` tells so."""
        self.stop(reason)
        self._pass_over_the_rest()

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Run it, and iterate over the outcomes as they come.

        When the iteration is left early or cancelled, what is in flight is let go of: requests on
        the wire get ten seconds to be answered, and `left` tells what became of the rest.
        """
        pump = asyncio.get_running_loop().create_task(self._pump(), name="async_vmapi bulk")
        self._pump_task = pump
        pump.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._untaken:
                    outcome = self._untaken.popleft()
                    self._changed.set()
                    yield outcome
                if pump.done() and not self._workers and not self._untaken:
                    break
                self._news.clear()
                await self._news.wait()
            if self._fatal is not None:
                raise self._fatal
            if not (pump.cancelled() and self.stopped):
                await pump
        finally:
            await self._let_go(pump)

    def left(self) -> list[Outcome]:
        """Return the outcomes that nobody has taken, and what is known of those in flight."""
        flying = [self._end_of(worker, work).outcome for worker, work in self._workers.items()]
        return [*self._untaken, *flying]

    # --- starting -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        sizes = wave_sizes(self._plan.waves or (), self._total)
        room = next(sizes)
        while (job := await self._take()) is not None:
            if room < 1 and self.stopped is None:
                await self._end_wave()
                room = next(sizes)
                self._wave += 1
            why_not = await self._turn(job)
            if why_not is None:
                room -= 1
                self._start(job)
                continue
            while len(self._untaken) >= _UNTAKEN:
                await self._change()
            room -= self._plan.dry_run
            self._pass_over(job, why_not)
            if self.stopped is not None and self._total is None:
                return
        self.complete = True

    async def _take(self) -> BulkItem | None:
        if isinstance(self._jobs, Iterator):
            job = next(self._jobs, None)
        else:
            self._taking = True
            try:
                job = await anext(self._jobs, None)
            finally:
                self._taking = False
        self._in_hand = job
        return job

    async def _turn(self, job: BulkItem) -> str | None:
        """Wait until a job may start; return why it never may."""
        floor = f"then fewer than {self._least} would be online"
        if self._plan.dry_run:
            return self._in_theory(job) or floor
        while job.begun and self.state is not State.INTERRUPTED:
            if self._has_room():
                return None
            await self._change()
        while self.stopped is None:
            if self.state is State.RUNNING and self._has_room():
                if self._may_go_down(job):
                    return None
                if not self._workers:
                    return floor
            await self._change()
        return self.stopped

    def _in_theory(self, job: BulkItem) -> str | None:
        """Return what a dry run says of a job; None if the floor forbids it."""
        if not self._may_go_down(job):
            return None
        if self._online is not None and self._operation in STAYS_DOWN:
            self._online.discard(job.vm_id or "")
        done = "watched" if job.watched else "started"
        return f"dry run: it would be {done} in wave {self._wave}"

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _has_room(self) -> bool:
        return (
            len(self._workers) < self._plan.limit
            and len(self._untaken) < _UNTAKEN
            and self._setting_out < self._at_once
        )

    def _may_go_down(self, job: BulkItem) -> bool:
        if self._online is None or job.vm_id not in self._online:
            return True
        return len(self._online) > self._least

    async def _end_wave(self) -> None:
        while self._workers and self.stopped is None:
            await self._change()
        tolerated = self._plan.max_failures is not None and self._wave > 1
        if self._failures and not tolerated:
            self.stop(f"wave {self._wave} did not end well")

    @property
    def _failures(self) -> int:
        return self.counts["failed"] + self.counts["unknown"]

    def _start(self, job: BulkItem) -> None:
        loop = asyncio.get_running_loop()
        online = self._online is not None and job.vm_id in self._online
        work = _Work(job, self._wave, loop.time(), was_online=online)
        if online and self._online is not None:
            self._online.discard(job.vm_id or "")
        self._in_hand = None
        self._started += 1
        self._setting_out += 1
        work.setting_out = loop.call_later(_SETTING_OUT, self._is_out, work)
        worker = loop.create_task(self._work(work), name=f"async_vmapi {self._operation}")
        self._workers[worker] = work
        worker.add_done_callback(self._gone)

    def _is_out(self, work: _Work) -> None:
        if work.setting_out is not None:
            work.setting_out.cancel()
            work.setting_out = None
            self._setting_out -= 1
            self._changed.set()

    def _pass_over(self, job: BulkItem, reason: str) -> None:
        self._in_hand = None
        self._end(outcomes.outcome(job, "not_started", wave=self._wave, reason=reason))

    def _pass_over_the_rest(self) -> None:
        """Say of all that are at hand that they were not started."""
        reason = self.stopped or INTERRUPTED
        if self._in_hand is not None:
            self._pass_over(self._in_hand, reason)
        if self._total is None or not isinstance(self._jobs, Iterator):
            return
        for job in self._jobs:
            self._pass_over(job, reason)
        self.complete = True

    # --- one item -------------------------------------------------------------------------------

    async def _work(self, work: _Work) -> Ended:
        work.running = True
        WRITES.set(work.writes)
        self._tell("started", work.job, work.wave)
        try:
            started = await work.job.start()
            if is_task(started):
                work.task = started
                self._is_out(work)
                if self._operation != GENERAL:
                    # The task tells all that there is to know from now on.
                    work.writes.clear()
                self._tell("accepted", work.job, work.wave, task=started)
                if self.state is State.INTERRUPTED:
                    raise asyncio.CancelledError  # the end is not awaited any more
                started = await started
            elif isinstance(started, Ended):
                return self._ended_elsewhere(work, started)
        except asyncio.CancelledError:
            return self._cut_off(work)
        except Exception as error:  # noqa: BLE001 - whatever a caller's own function raises
            write = work.write
            if self._operation == GENERAL and write is not None and not write.left:
                # The function was told what came of it, and it is for the function to tell.
                write = None
            return outcomes.failed(work.job, work.task, error, wave=work.wave, write=write)
        return outcomes.succeeded(
            work.job, work.task, started, seconds=self._seconds(work), wave=work.wave
        )

    def _ended_elsewhere(self, work: _Work, ended: Ended) -> Ended:
        known = {"index": work.job.index, "item": work.job.item, "source": work.job.source}
        return attrs.evolve(ended, outcome=attrs.evolve(ended.outcome, wave=work.wave, **known))

    def _seconds(self, work: _Work) -> float:
        return asyncio.get_running_loop().time() - work.began

    def _cut_off(self, work: _Work) -> Ended:
        return outcomes.cut_off(
            self._operation,
            work.job,
            work.task,
            work.write,
            wave=work.wave,
            running=work.running,
            seconds=self._seconds(work),
            why=(self.stopped if self.state is State.STOPPING else None) or INTERRUPTED,
        )

    def _end_of(self, worker: asyncio.Task[Ended], work: _Work) -> Ended:
        """Return how a worker ended; or what is known of it if it did not, or could not say so."""
        if worker.done() and not worker.cancelled() and worker.exception() is None:
            return worker.result()
        return self._cut_off(work)

    def _gone(self, worker: asyncio.Task[Ended]) -> None:
        work = self._workers[worker]
        self._is_out(work)
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
        self._untaken.append(outcome)
        self._news.set()
        self._changed.set()
        allowed = None if self._plan.dry_run else self._plan.max_failures
        if allowed is not None and outcome.status in ("failed", "unknown"):
            of = self._started if self._total is None else self._total
            if self._failures > count_of(allowed, of):
                self.stop(f"more than {allowed} failed")
        self._tell("finished", outcome=outcome)

    async def _let_go(self, pump: asyncio.Task[None]) -> None:
        """Stop the pump and the workers, and wait for what is on the wire."""
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
            # anyio cancels again and again, but for what is shielded; one who cancels once more,
            # by hand, wants to be gone.
            with anyio.CancelScope(shield=True):
                await asyncio.wait({pump, *self._workers})
        finally:
            self.in_the_air = bool(self._workers)
            self._pass_over_the_rest()
            self._move_to(State.CLOSED)

    def _tell(
        self,
        kind: Literal["started", "accepted", "finished", "stopped"],
        job: BulkItem | None = None,
        wave: int | None = None,
        *,
        task: Task[Any] | None = None,
        outcome: Outcome | None = None,
        reason: str = "",
    ) -> None:
        if self._plan.on_event is None or self.state is State.CLOSED:
            return
        about = job or outcome
        event = BulkEvent(
            kind=kind,
            item=about.item if about else "",
            index=about.index if about else None,
            wave=wave or (outcome.wave if outcome else self._wave),
            vm_id=task.vm_id if task else about.vm_id if about else None,
            task=task,
            outcome=outcome,
            reason=reason,
            in_flight=len(self._workers),
            done=dict(self.counts),
        )
        on_event = self._plan.on_event
        self._guard.call("on_event", lambda: on_event(event))
