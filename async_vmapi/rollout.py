"""One bulk call under way: which item may start when, and what became of each.

A pump takes the items one by one, waits for each one's turn, and starts a worker for it, which
sends the request and watches it to its end. Whoever iterates over the outcomes drives it; when
they stop, nothing is left behind.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeGuard

import anyio
import attrs

from async_vmapi import outcomes
from async_vmapi.jobs import GENERAL, Job
from async_vmapi.outcomes import Ended
from async_vmapi.plan import BulkEvent, BulkPlan, count_of, wave_sizes
from async_vmapi.report import Outcome, Status
from async_vmapi.tasks import Task
from async_vmapi.writes import TELL, Told, UnresolvedWrite

__all__ = ["INTERRUPTED", "Rollout"]

_log: Final = logging.getLogger(__name__)

INTERRUPTED: Final = "it was interrupted"

# Outcomes that nobody has taken yet: with more, nothing new starts. A pause for the loop's other
# work after so many items that are passed over.
_UNTAKEN: Final = 1000


@attrs.define(eq=False)
class _Work:
    """A job under way."""

    job: Job
    wave: int
    began: float
    task: Task[Any] | None = None
    told: list[Told] = attrs.field(factory=list[Told])
    was_online: bool = False
    running: bool = False


class Rollout:
    """Takes jobs through their operation.

    Args:
        plan: How.
        operation: Which, as writes call it.
        jobs: The items; taken lazily.
        total: How many they are; None if nobody knows.
        in_air: Tells the writes that are sent and not answered.
    """

    def __init__(
        self,
        plan: BulkPlan,
        operation: str,
        jobs: AsyncIterator[Job],
        total: int | None,
        *,
        in_air: Callable[[], Sequence[UnresolvedWrite]] = tuple,
    ) -> None:
        self._plan = plan
        self._operation = operation
        self._jobs = jobs
        self._total = total
        self._online: set[str] | None = None
        self._least = 0
        self._in_air = in_air
        self._workers: dict[asyncio.Task[None], _Work] = {}
        self._untaken: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._paused = False
        self._taking = False
        self._interrupting = False
        self._started = 0
        self._wave = 1
        self._failures_before_wave = 0
        self.counts: Counter[Status] = Counter()
        self.stopped: str | None = None
        self.complete = False

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
        """Let nothing new start, or let it start again."""
        self._paused = paused
        self._changed.set()

    def keep_online(self, online: set[str], given: int) -> None:
        """Keep as many online, of so many given, as the plan says; these are so now."""
        self._online = online
        self._least = count_of(self._plan.min_online or 0, given, up=True)

    def stop(self, reason: str) -> None:
        """Let nothing new start any more; what is in flight goes on."""
        if self.stopped is None:
            self.stopped = reason
            self._tell("stopped", reason=reason)
        self._changed.set()

    async def give_up(self) -> None:
        """Start none at all; `left` tells so."""
        self.stop(INTERRUPTED)
        with anyio.CancelScope(shield=True):
            await self._pump()

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Run it, and iterate over the outcomes as they come.

        When the iteration is left early or cancelled, what is in flight is let go of: requests on
        the wire get ten seconds to be answered, and `left` tells what became of the rest.
        """
        pump = asyncio.get_running_loop().create_task(self._pump(), name="async_vmapi bulk")
        pump.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                while self._untaken:
                    outcome = self._untaken.popleft()
                    self._changed.set()
                    yield outcome
                if pump.done() and not self._workers:
                    break
                self._news.clear()
                await self._news.wait()
            await pump
        finally:
            await self._let_go(pump)

    def left(self) -> list[Outcome]:
        """Return the outcomes that nobody has taken, and what is known of those in flight."""
        return [*self._untaken, *(self._snapshot(work) for work in self._workers.values())]

    # --- starting -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        sizes = wave_sizes(self._plan.batches or (), self._total)
        room = next(sizes)
        passed_over = 0
        while (job := await self._take()) is not None:
            if room < 1 and self.stopped is None:
                await self._end_wave()
                room = next(sizes)
                self._wave += 1
                self._failures_before_wave = self._failures
            why_not = await self._turn(job)
            if why_not is None:
                room -= 1
                self._start(job)
                continue
            room -= self._plan.dry_run
            self._end(self._outcome(job, "not_started", reason=why_not))
            if self.stopped is not None and self._total is None:
                return
            passed_over += 1
            if passed_over % _UNTAKEN == 0:
                await asyncio.sleep(0)
        self.complete = True

    async def _take(self) -> Job | None:
        self._taking = True
        try:
            return await anext(self._jobs)
        except StopAsyncIteration:
            return None
        finally:
            self._taking = False

    async def _turn(self, job: Job) -> str | None:
        """Wait until a job may start; return why it never may."""
        if self._plan.dry_run:
            return f"dry run: it would be started in wave {self._wave}"
        while job.begun and not self._interrupting:
            if self._has_room():
                return None
            self._changed.clear()
            await self._changed.wait()
        while self.stopped is None:
            if not self._paused and self._has_room():
                if self._may_go_down(job):
                    return None
                if not self._workers:
                    return f"then fewer than {self._least} would be online"
            self._changed.clear()
            await self._changed.wait()
        return self.stopped

    def _has_room(self) -> bool:
        return len(self._workers) < self._plan.limit and len(self._untaken) < _UNTAKEN

    def _may_go_down(self, job: Job) -> bool:
        if self._online is None or job.vm_id not in self._online:
            return True
        return len(self._online) > self._least

    async def _end_wave(self) -> None:
        while self._workers:
            self._changed.clear()
            await self._changed.wait()
        tolerated = self._plan.max_failures is not None and self._wave > 1
        if self._failures > self._failures_before_wave and not tolerated:
            self.stop(f"wave {self._wave} did not end well")

    @property
    def _failures(self) -> int:
        return self.counts["failed"] + self.counts["unknown"]

    def _start(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        work = _Work(job, self._wave, loop.time())
        if self._online is not None and job.vm_id in self._online:
            work.was_online = True
            self._online.remove(job.vm_id)
        self._started += 1
        worker = loop.create_task(self._work(work), name=f"async_vmapi {self._operation}")
        self._workers[worker] = work
        worker.add_done_callback(self._gone)

    def _gone(self, worker: asyncio.Task[None]) -> None:
        work = self._workers.pop(worker, None)
        if work is not None and (worker.cancelled() or worker.exception()):
            # Cancelled before its first step, or by others: then it could not say so itself.
            self._end(self._cancelled(work))

    # --- one item -------------------------------------------------------------------------------

    async def _work(self, work: _Work) -> None:
        work.running = True
        TELL.set(work.told.append)
        self._tell("started", work.job, work.wave)
        try:
            started = await work.job.start()
            if _is_task(started):
                task = work.task = started
                self._tell("accepted", work.job, work.wave, vm_id=task.vm_id)
                value: Any = None if self._interrupting else await task
                if self._interrupting:
                    raise asyncio.CancelledError  # the end is not awaited any more
                ended = self._succeeded(work, value)
            elif isinstance(started, Ended):
                ended = self._ended_elsewhere(work, started)
            else:
                ended = self._succeeded(work, started)
            outcome = self._account(work, ended)
        except asyncio.CancelledError:
            outcome = self._cancelled(work)
        except Exception as error:  # noqa: BLE001 - whatever a caller's own function raises
            ended = outcomes.failed(work.job, work.task, error, wave=work.wave)
            outcome = self._account(work, ended)
        worker = asyncio.current_task()
        if worker is not None and self._workers.pop(worker, None) is not None:
            self._end(outcome)

    def _outcome(self, job: Job, status: Status, **known: Any) -> Outcome:
        return outcomes.outcome(job, status, **({"wave": self._wave} | known))

    def _account(self, work: _Work, ended: Ended) -> Outcome:
        """Count a machine as online again if it is, or if nothing was done to it."""
        found = ended.outcome
        if self._online is not None and (ended.online or (ended.untouched and work.was_online)):
            self._online.add(found.vm_id or "")
        return found

    def _succeeded(self, work: _Work, value: Any) -> Ended:
        seconds = asyncio.get_running_loop().time() - work.began
        return outcomes.succeeded(work.job, work.task, value, seconds=seconds, wave=work.wave)

    def _ended_elsewhere(self, work: _Work, ended: Ended) -> Ended:
        known = {"index": work.job.index, "item": work.job.item, "source": work.job.source}
        return attrs.evolve(ended, outcome=attrs.evolve(ended.outcome, wave=work.wave, **known))

    def _cancelled(self, work: _Work) -> Outcome:
        """Return what is known of an operation whose worker was cancelled."""
        told = work.told[-1] if work.told else None
        task = told if isinstance(told, Task) else work.task
        known: dict[str, Any] = {"wave": work.wave, "error": None, "reason": INTERRUPTED}
        if task is not None:
            known |= {"vm_id": task.vm_id, "token": task.token(), "adopted": task.adopted}
            known["reason"] = f"it was accepted, and {INTERRUPTED} before its end was seen"
            return self._outcome(work.job, "unknown", **known)
        if isinstance(told, UnresolvedWrite):
            known |= {"token": told.token, "reason": told.reason}
            known["vm_id"] = told.vm_id or work.job.vm_id
            return self._outcome(work.job, "unknown", **known)
        if work.told:
            # A rename has no end to be watched.
            return self._outcome(work.job, "succeeded", wave=work.wave)
        if work.running and self._operation == GENERAL:
            known["reason"] = f"{INTERRUPTED} in the midst of it"
            return self._outcome(work.job, "unknown", **known)
        known["reason"] = f"{INTERRUPTED} before anything was carried out"
        return self._outcome(work.job, "not_started", **known)

    def _snapshot(self, work: _Work) -> Outcome:
        """Return what is known of an operation under way."""
        if work.task is None and not work.told:
            for write in self._in_air():
                which = (
                    (write.vm_id, work.job.vm_id) if write.vm_id else (write.name, work.job.item)
                )
                if write.operation == self._operation and which[0] == which[1]:
                    work.told.append(write)
                    break
        return self._cancelled(work)

    # --- ending ---------------------------------------------------------------------------------

    def _end(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        self._untaken.append(outcome)
        self._news.set()
        self._changed.set()
        self._tell("finished", outcome=outcome)
        allowed = self._plan.max_failures
        if allowed is not None and outcome.status in ("failed", "unknown"):
            of = self._started if self._total is None else self._total
            if self._failures > count_of(allowed, of):
                self.stop(f"more than {allowed} failed")

    async def _let_go(self, pump: asyncio.Task[None]) -> None:
        """Stop the pump and the workers, and wait for what is on the wire."""
        if pump.done() and not self._workers:
            return
        self._interrupting = True
        self.stop(INTERRUPTED)
        if self._taking and self._total is None:
            # Nobody knows when it would give the next one.
            pump.cancel()
        for worker in self._workers:
            worker.cancel()
        # anyio cancels again and again, but for what is shielded; one who cancels once more, by
        # hand, wants to be gone.
        with anyio.CancelScope(shield=True):
            await asyncio.wait({pump, *self._workers})
        with suppress(Exception):
            pump.result()

    def _tell(
        self,
        kind: Literal["started", "accepted", "finished", "stopped"],
        job: Job | None = None,
        wave: int | None = None,
        *,
        vm_id: str | None = None,
        outcome: Outcome | None = None,
        reason: str = "",
    ) -> None:
        if self._plan.on_event is None:
            return
        about = job or outcome
        event = BulkEvent(
            kind=kind,
            item=about.item if about else "",
            index=about.index if about else None,
            wave=wave or (outcome.wave if outcome else self._wave),
            vm_id=vm_id or (about.vm_id if about else None),
            outcome=outcome,
            reason=reason,
            in_flight=len(self._workers),
            done=dict(self.counts),
        )
        try:
            self._plan.on_event(event)
        except Exception:  # noqa: BLE001 - what a caller's function raises stops no rollout
            _log.exception("on_event of a bulk call raised")


def _is_task(started: object) -> TypeGuard[Task[Any]]:
    return isinstance(started, Task)
