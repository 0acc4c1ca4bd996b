"""`Rollout`: a bulk call in progress. It starts items wave by wave and collects their outcomes.

A pump takes the items one by one, waits until each may start, and creates a worker for it, which
sends the request and awaits its task. The iteration over the outcomes drives it; when the iteration
ends, nothing keeps running. `async_vmapi.bulk.states` has the states of a call, and
`async_vmapi.bulk.waves` decides when the next wave starts.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any, Final

import anyio

from async_vmapi.bulk import outcomes
from async_vmapi.bulk.control import Control
from async_vmapi.bulk.domains import Domains
from async_vmapi.bulk.health import Soak, Soaking, WaitReady, checked, cut_short
from async_vmapi.bulk.item import BulkItem, Source
from async_vmapi.bulk.outcomes import INTERRUPTED, Ended
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Outcome
from async_vmapi.bulk.states import State
from async_vmapi.bulk.waves import Progress, Waves
from async_vmapi.bulk.work import Work
from async_vmapi.writes.operations import GENERAL, operation_spec

__all__ = ["Rollout"]

_MAX_UNCONSUMED: Final = 1000
"""Maximum number of unconsumed outcomes; beyond it, no further item is taken."""

_ACCEPT_TIMEOUT: Final = 5.0
"""Maximum seconds for which an item that is not accepted yet keeps others from starting: it may be
reconciling or waiting for a retry while connections are free."""


class Rollout(Control):
    """Runs an operation on many items.

    Args:
        plan: The plan.
        operation: The operation's name.
        items: The items; taken lazily.
        total: The number of items, for percentages; None if unknown.
        at_once: Maximum number of items that are not accepted yet. More would only wait for a
            connection, and an item takes more memory before it is accepted than after. None for no
            limit.
        wait_ready: Waits until a VM is ready; needed for checks and soaks.
        max_staleness: Maximum age of the reads that it needs, in seconds.

    Attributes:
        soaking: How many VMs soak now.
        left_in_flight: Whether requests were left in flight.
    """

    def __init__(
        self,
        plan: BulkPlan,
        operation: str,
        items: Iterator[BulkItem] | AsyncIterator[BulkItem],
        total: int | None,
        at_once: int | None = None,
        *,
        wait_ready: WaitReady | None = None,
        max_staleness: float = 0.0,
    ) -> None:
        self._domains = Domains(total)
        super().__init__(plan, Waves(plan, self._domains, Progress()))
        self._at_once = math.inf if at_once is None else at_once
        self._unaccepted = 0
        self._operation = operation
        self._worker_name = f"async_vmapi {operation}"
        self._source = Source(items)
        self._total = total
        self._wait_ready = wait_ready
        self._max_staleness = max_staleness
        self._pump_task: asyncio.Task[None] | None = None
        self._workers: dict[asyncio.Task[Ended], Work | Soak] = {}
        self._unsoaked: list[Ended] = []
        self._unconsumed: deque[Outcome] = deque()
        self._progress = asyncio.Event()
        self._fatal: BaseException | None = None
        self.soaking = 0
        self.left_in_flight = False

    @property
    def in_flight(self) -> int:
        """The number of operations in progress."""
        return len(self._workers) - self.soaking

    # --- before the iteration ---------------------------------------------------------------------

    def spread(self, domains: Mapping[int, str]) -> None:
        """Go through one failure domain after the other; before the iteration.

        Args:
            domains: The name of each item's domain, by the item's number; also of items that an
                earlier call has done.
        """
        self._domains = Domains(len(domains), domains)
        self._waves = Waves(self._plan, self._domains, self.progress)
        self._source.sort(domains, self._domains.in_order())

    def keep_online(self, online: set[str], vm_ids: Mapping[int, str]) -> None:
        """Apply the plan's ``min_online``, in each failure domain; before the iteration.

        Args:
            online: The VMs that are online.
            vm_ids: All VMs given, by the item's number.
        """
        self._domains.keep_online(online, vm_ids, self._plan.min_online or 0)

    # --- running --------------------------------------------------------------------------------

    def _stop_starting(self, reason: str) -> None:
        for worker, work in self._workers.items():
            if isinstance(work, Soak) or not work.running:
                worker.cancel()
            elif (write := work.context.last) is not None and self._operation != GENERAL:
                write.withdraw()
        pump = self._pump_task
        if self._source.waiting and pump is not None and pump is not asyncio.current_task():
            # The next item may be long in coming.
            pump.cancel()
        unsoaked, self._unsoaked = self._unsoaked, []
        for ended in unsoaked:
            self._end(cut_short(ended, reason).outcome)

    def give_up(self, reason: str) -> None:
        """Start no item at all; `left` returns them all as not started."""
        self.stop(reason)
        self._skip_rest()

    async def outcomes(self) -> AsyncGenerator[Outcome, None]:
        """Run the call, and iterate over the outcomes as they arrive.

        If the iteration is left early or cancelled, requests in flight get ten seconds for their
        responses; `left` returns the remaining outcomes.
        """
        pump = asyncio.get_running_loop().create_task(self._take_all(), name="async_vmapi bulk")
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

    async def _take_all(self) -> None:
        try:
            await self._pump()
        except (Exception, asyncio.CancelledError):
            await self._soak()  # if the items raised it, those that have started are completed
            raise

    async def _pump(self) -> None:
        waves = self._waves
        while (item := await self._source.take()) is not None:
            if not waves.has_room(item.domain) and self.stopped is None:
                if not waves.is_empty:
                    await self._end_wave()
                waves.begin(item.domain)
            why_not = await self._wait_for_turn(item)
            if why_not is None:
                waves.take()
                self._start(item)
                continue
            while len(self._unconsumed) >= _MAX_UNCONSUMED:
                await self._wait_for_change()
            self._skip(item, why_not)
            if self.stopped is not None and self._total is None:
                return
        self.complete = self._repeats = True
        if self._plan.soak:
            await self._soak()
            self._halt(waves.exceeded())

    async def _wait_for_turn(self, item: BulkItem) -> str | None:
        """Wait until an item may start; return the reason if it never may."""
        too_few = f"fewer than {self._domains.minimum_of(item.domain)} VMs would stay online"
        if self._plan.dry_run:
            return self._dry_run_report(item) or too_few
        self._repeats = item.begun
        self._halt(self._waves.exceeded())
        while item.begun and self.state is not State.INTERRUPTED:
            if self._has_room():
                return None
            await self._wait_for_change()
        while self.stopped is None:
            if self.state is State.RUNNING and self._has_room():
                if self._domains.may_go_down(item.domain, item.vm_id):
                    return None
                if not self._workers:
                    return too_few
            await self._wait_for_change()
        return self.stopped

    def _dry_run_report(self, item: BulkItem) -> str | None:
        """Return a dry run's report of an item; None if ``min_online`` forbids it."""
        if not self._domains.may_go_down(item.domain, item.vm_id):
            return None
        self._waves.take()
        if operation_spec(self._operation).stays_down:
            self._domains.take_offline(item.domain, item.vm_id)
        return f"dry run: it would be {'watched' if item.watched else 'started'} in {self._waves}"

    def _has_room(self) -> bool:
        return (
            len(self._workers) < self._plan.limit
            and len(self._unconsumed) < _MAX_UNCONSUMED
            and self._unaccepted < self._at_once
        )

    async def _end_wave(self) -> None:
        """Wait until the next wave may start, or the call stops."""
        waves = self._waves
        while self._workers and self.stopped is None:
            await self._wait_for_change()
        await self._soak()
        try:
            while self.stopped is None:
                if self.state is not State.SUSPENDED:
                    self._halt(waves.refused())
                if waves.must_be_promoted:
                    self._hold()
                # What handles the event may have promoted it, or stopped the call.
                if self.state is not State.SUSPENDED and not waves.must_be_promoted:
                    return
                if self.stopped is None:
                    await self._wait_for_change()
        finally:
            self.held = None

    async def _soak(self) -> None:
        """Wait until the VMs of the wave have stayed healthy, or have failed."""
        while self._workers and self.stopped is None:
            await self._wait_for_change()
        if self.stopped is not None or not self._unsoaked or self._wait_ready is None:
            return
        soaking = Soaking(self._plan, self._wait_ready, self._max_staleness)
        self._emit("soaking", reason=f"{len(self._unsoaked)} VMs soak for {self._plan.soak:g} s")
        # What handles the event may have stopped the call; then there are none.
        unsoaked, self._unsoaked = self._unsoaked, []
        for ended in unsoaked:
            self._domains.take_offline(ended.outcome.domain, ended.outcome.vm_id)
            self._run(soak := Soak(ended, soaking), soak.run())
            self.soaking += 1
        while self._workers and self.stopped is None:
            await self._wait_for_change()

    def _start(self, item: BulkItem) -> None:
        loop = asyncio.get_running_loop()
        was_online = self._domains.take_offline(item.domain, item.vm_id)
        work = Work(self._operation, item, self.wave, loop.time(), was_online)
        self._source.used()
        self._unaccepted += 1
        work.unaccepted = loop.call_later(_ACCEPT_TIMEOUT, self._mark_accepted, work)
        self._run(work, work.run(self))

    def _run(self, work: Work | Soak, run: Coroutine[Any, Any, Ended]) -> None:
        worker = asyncio.get_running_loop().create_task(run, name=self._worker_name)
        self._workers[worker] = work
        worker.add_done_callback(self._finished)

    def _mark_accepted(self, work: Work) -> None:
        if work.unaccepted is not None:
            work.unaccepted.cancel()
            work.unaccepted = None
            self._unaccepted -= 1
            self._changed.set()

    def _skip(self, item: BulkItem, reason: str) -> None:
        self._source.used()
        self._end(outcomes.outcome(item, "not_started", wave=self.wave, reason=reason))

    def _skip_rest(self) -> None:
        """Report all remaining items as not started."""
        for item in self._source.rest(known=self._total is not None):
            self._skip(item, self.stopped or INTERRUPTED)
        self.complete = self.complete or self._source.exhausted

    # --- one item -------------------------------------------------------------------------------

    def started(self, work: Work) -> None:
        """Note that an item's worker runs."""
        self._emit("started", work.item, wave=work.wave)

    def accepted(self, work: Work) -> None:
        """Note that an item has a task; cancel its worker if completion is not awaited."""
        self._mark_accepted(work)
        self._emit("accepted", work.item, wave=work.wave, task=work.task)
        if self.state is State.INTERRUPTED:
            raise asyncio.CancelledError  # completion is no longer awaited

    async def checked(self, ended: Ended) -> Ended:
        """Return how an item ended, once its VM has passed the plan's check or has failed it."""
        if self._wait_ready is None:
            return ended
        return await checked(ended, self._operation, self._plan, self._wait_ready)

    def why_cut_off(self) -> str:
        """Return why items in progress are no longer awaited."""
        return (self.stopped if self.state is State.STOPPING else None) or INTERRUPTED

    def _end_of(self, worker: asyncio.Task[Ended], work: Work | Soak) -> Ended:
        """Return how a worker ended, or what is known so far."""
        if worker.done() and not worker.cancelled() and worker.exception() is None:
            return worker.result()
        return work.cut_off(self.why_cut_off())

    def _finished(self, worker: asyncio.Task[Ended]) -> None:
        work = self._workers[worker]
        if isinstance(work, Work):
            self._mark_accepted(work)
        ended = self._end_of(worker, work)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._fatal = self._fatal or error
            self.stop(f"a function raised {type(error).__name__}")
        if self.state is State.CLOSED:
            return
        del self._workers[worker]
        found = ended.outcome
        is_soaked = isinstance(work, Soak)
        self.soaking -= is_soaked
        was_online = isinstance(work, Work) and work.was_online
        if ended.online or (ended.untouched and was_online):
            self._domains.take_online(found.domain, found.vm_id)
        over = is_soaked or ended.final or found.status != "succeeded"
        if over or self._wait_ready is None or not self._plan.soak:
            self._end(found, judge=not is_soaked)
        elif self.stopped is None:
            self._unsoaked.append(ended)
            self._changed.set()
        else:
            self._end(cut_short(ended, self.stopped).outcome)

    # --- ending ---------------------------------------------------------------------------------

    def _end(self, outcome: Outcome, *, judge: bool = True) -> None:
        """Report an outcome.

        Args:
            outcome: The outcome.
            judge: Whether the failure budget is checked now, and not at the end of the soak.
        """
        self.counts[outcome.status] += 1
        self._unconsumed.append(outcome)
        self._progress.set()
        self._changed.set()
        if outcome.status in ("failed", "unknown"):
            self._waves.failures += 1
            if judge:
                self._halt(self._waves.exceeded())
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
            self._note_stop(INTERRUPTED)
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
