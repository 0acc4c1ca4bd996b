"""Poll the fleet for all tasks of a client at once.

The API has no events (WIRE §4), so waiting means polling, which the hub shares across all waiters.
It runs only while a task is awaited, and belongs to no waiter, so cancelling one harms no other.

A polled VM is a small state machine. In list mode one list serves all VMs; in GET mode each VM has
a timer; whichever costs less is chosen anew as VMs come and go.

========== ============================================= ==========================================
state      meaning                                       leaves it by
========== ============================================= ==========================================
LISTED     the next list shows it                        GET mode → PLANNED; last poll → QUEUED
PLANNED    a timer runs until its GET                    timer or last poll → QUEUED;
                                                         list mode → LISTED
QUEUED     its GET waits for a free slot                 slot free → IN_FLIGHT; list mode → LISTED
IN_FLIGHT  its GET was sent                              response or failure → LISTED or PLANNED;
                                                         last waiter leaves → ABANDONED
ABANDONED  its GET was sent, and no task of it is        a waiter joins → IN_FLIGHT;
           awaited any more                              response or failure → LEFT
LEFT       no task of it is awaited any more             (it is forgotten)
========== ============================================= ==========================================
"""

import asyncio
import contextvars
import copy
import enum
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

import anyio.lowlevel
import attrs

from async_vmapi.changes import OwnChanges
from async_vmapi.codec import Glimpse
from async_vmapi.completion import Done, Evidence, Pending, Target
from async_vmapi.errors import (
    AuthenticationError,
    InvalidState,
    RateLimited,
    ServerError,
    TransportError,
    VMAPIError,
)
from async_vmapi.looks import Listing, look_at, look_at_all
from async_vmapi.observers import Observer, OperationObserver
from async_vmapi.pipeline import Pipeline
from async_vmapi.roster import Rosters
from async_vmapi.schedule import Schedule
from async_vmapi.watch import Condition, Waiter, Watch

__all__ = ["PollHub"]

_log: Final = logging.getLogger(__name__)

_LONGEST_HOLD: Final = 300.0
"""Seconds for which a server's ``Retry-After`` is honoured at most."""

_CLOCK: Final = 0.001
"""Timers may go off this much early, by what the loop's clock can resolve."""

_LAST_POLL: Final = 5.0
"""Seconds that the poll at a deadline gets to be answered."""

_GETS_AT_ONCE: Final = 16
_NEVER: Final = Glimpse(id="", state="", cores=0, ram=0)

_AT_A_STRETCH: Final = 50
"""Yield to the event loop after this many updates: what waits for them runs too."""

_IN_ONE_GO: Final = 5000
"""VMs looked through before others get their turn."""


class _State(enum.Enum):
    """See the module's table."""

    LISTED = enum.auto()
    PLANNED = enum.auto()
    QUEUED = enum.auto()
    IN_FLIGHT = enum.auto()
    ABANDONED = enum.auto()
    LEFT = enum.auto()


@attrs.define(eq=False)
class _PolledVM:
    """A VM that is awaited now, by one watch or several."""

    vm_id: str
    watches: tuple[Watch, ...] = ()
    state: _State = _State.PLANNED
    timer: asyncio.TimerHandle | None = None
    # When its timer goes off.
    due: float = math.inf
    # What the last list showed: None for absent, _NEVER before the first.
    listed: Glimpse | None = _NEVER
    # From then on, report unchanged lists too; and whether nothing earlier can complete it.
    recheck_at: float = math.inf
    waiting: bool = False
    # Waiters whose deadline has passed, and when: the next poll asked since then is their last.
    last_polls: list[tuple[float, Waiter]] = attrs.field(factory=list[tuple[float, Waiter]])
    # Whether only a list can show whether it is there: its GET was refused without saying so.
    by_list: bool = False
    failures: int = 0


class PollHub:
    """Polls for all tasks of a client.

    Args:
        pipeline: Sends the requests.
        rosters: Asks for lists too, of names.
        max_staleness: Seconds by which any read may be old.
        floor: Seconds between two polls of the same VM, or two lists, at least.
        ceiling: Seconds between two polls of the same VM at most.
        seed: Makes the jitter repeatable.
        rate: How many requests a second there are for everything; None for no limit.

    Attributes:
        min_interval: The `floor`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        rosters: Rosters,
        *,
        max_staleness: float = 10.0,
        floor: float = 1.0,
        ceiling: float = 15.0,
        seed: int | None = None,
        rate: float | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._rosters = rosters
        self._max_staleness = max_staleness
        self.min_interval = floor
        self._schedule = Schedule(floor=floor, ceiling=ceiling, seed=seed, rate=rate)
        self._changes = OwnChanges(max_staleness)
        self._vms: dict[str, _PolledVM] = {}
        self._abandoned: dict[str, _PolledVM] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        # What the hub does is no part of what its first waiter does.
        self._context = contextvars.Context()
        self._reset()

    def _reset(self) -> None:
        """Forget everything that belongs to an event loop, or to its clock."""
        # VMs whose GET waits for a slot, and the requests in flight.
        self._queue: deque[_PolledVM] = deque()
        self._requests: set[asyncio.Task[None]] = set()
        self._list_request: asyncio.Task[None] | None = None
        self._list_timer: asyncio.TimerHandle | None = None
        self._pump_timer: asyncio.TimerHandle | None = None
        self._deadlines: set[_PolledVM] = set()
        self._listing = False
        # Watches of reboots and resets.
        self._cycling = 0
        self._list_due = math.inf
        # Whether the next list comes later than usual, since no VM can use it earlier.
        self._list_put_off = False
        self._blind_until = self._hold_until = -math.inf
        self._failures = self._list_failures = 0
        self._list_error: tuple[float, str] | None = None

    @property
    def observer(self) -> Observer | None:
        """What observes the client; None for nothing."""
        return self._pipeline.observer

    # --- waiters ----------------------------------------------------------------------------

    def watch(
        self,
        vm_id: str,
        target: Target,
        *,
        elapsed: float = 0.0,
        visible: bool = False,
        resumed: bool = False,
        reconciled: bool = False,
    ) -> Watch:
        """Return what observes one operation.

        Args:
            vm_id: The VM.
            target: What was requested.
            elapsed: Seconds since the request was accepted.
            visible: Whether some read has shown the VM until then.
            resumed: Whether the request was accepted some time ago.
            reconciled: Whether it may have been sent, and even carried out, before.
        """
        now = asyncio.get_running_loop().time()
        besides = target.operation if reconciled else None
        quiet = not resumed and self._changes.is_quiet(vm_id, now, besides=besides)
        visible = visible or (not resumed and self._changes.is_visible(vm_id))
        self._changes.begin(vm_id, target.operation, now, now + target.timeout)
        return Watch(
            vm_id,
            target,
            max_staleness=self._max_staleness,
            elapsed=elapsed,
            visible_at=elapsed if visible else None,
            quiet=quiet,
        )

    def may_have_changed(self, vm_id: str, target: Target) -> None:
        """Note a write on a VM whose outcome is not known."""
        now = asyncio.get_running_loop().time()
        self._changes.begin(vm_id, target.operation, now, now + target.timeout)

    def end(self, watch: Watch, *, until: float | None = None) -> Awaitable[bool]:
        """Wait until a watch ends that has not ended.

        Returns False where the time was over first. Before that the VM is polled once more: the
        request is sent at that time or later, and gets a few seconds to be answered.

        Args:
            watch: What to wait for.
            until: The loop's time at which to give up; None for never. With a time that is past,
                a poll that has been in flight since then is enough.

        Raises:
            AuthenticationError: If the API does not let this client read.
            InvalidState: If the client is in use in another event loop, or closed meanwhile.
        """
        return self._wait(watch, watch.waiters, until)

    def news(self, watch: Watch, *, until: float | None = None) -> Awaitable[bool]:
        """Wait until something new is seen of a watch that has not ended; as `end` does."""
        return self._wait(watch, watch.readers, until)

    async def _wait(self, watch: Watch, waiters: list[Waiter], until: float | None) -> bool:
        self._pipeline.ensure_usable()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move_to(loop)
        waiter: Waiter = loop.create_future()
        timer = None
        # A refresh: whoever takes what one poll shows is no awaiter that gives up.
        in_passing = until is not None and until < loop.time()
        if until is not None:
            # Of a whole fleet's timers none needs a copy of its waiter's context.
            timer = loop.call_at(until, self._deadline, watch, waiter, until, context=self._context)
        waiters.append(waiter)
        if len(watch.waiters) + len(watch.readers) == 1:
            self._join(watch, loop)
        # Cancelled waiters get no result.
        reported: VMAPIError | bool | None = None
        try:
            result = reported = await waiter
        finally:
            if timer is not None:
                timer.cancel()
            # It is not there any more where `close` freed a client of a dead loop's waiters.
            if waiter in waiters:
                waiters.remove(waiter)
                if not (watch.waiters or watch.readers):
                    self._leave(watch, loop)
                    if watch.observer is not None and not (reported is True or in_passing):
                        _report_leaving(watch.observer, reported)
        if isinstance(result, VMAPIError):
            raise result
        return result

    def last_error(self, watch: Watch) -> str | None:
        """Return the text of the last poll for `watch` that failed, if one did."""
        if self._list_error is not None and self._list_error[0] >= watch.started:
            return watch.last_error or self._list_error[1]
        return watch.last_error

    def close(self) -> None:
        """Let every waiter go, with an `InvalidState`, and stop polling."""
        watches = [watch for vm in self._vms.values() for watch in vm.watches]
        for watch in watches:
            if watch.observer is not None:
                watch.observer.ended("closed")
        if self._loop is not None and self._loop.is_closed():
            # Its waiters were left behind, and cannot be woken any more.
            for watch in watches:
                watch.waiters.clear()
                watch.readers.clear()
            self._vms.clear()
            self._reset()
        elif self._loop is asyncio.get_running_loop():
            self._stop()
        self._release(lambda: InvalidState("the client was closed while this task was awaited"))

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._vms:
            raise InvalidState(
                "tasks of this client are awaited in another event loop; "
                "a client serves one loop at a time"
            )
        if self._loop is not None:
            self._changes.move_to(loop.time())
        self._loop = loop
        self._reset()

    def _join(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        watch.move_to(loop)
        vm = self._vms.get(watch.vm_id)
        if vm is None:
            vm = self._abandoned.pop(watch.vm_id, None)
            if vm is not None:
                vm.state = _State.IN_FLIGHT
            else:
                vm = _PolledVM(watch.vm_id)
                vm.state = _State.LISTED if self._listing else _State.PLANNED
            self._vms[watch.vm_id] = vm
        vm.watches += (watch,)
        if watch.observer is not None:
            watch.observer.awaited()
        self._cycling += watch.target.rule.cycle
        vm.listed = _NEVER
        self._choose()
        now = loop.time()
        if not self._listing and vm.state in (_State.PLANNED, _State.LISTED):
            # From the last poll on, and never later than it was: else one that waits a little,
            # again and again, would put the next poll off each time, for the others too.
            self._plan(vm, min(now, watch.started + watch.elapsed), latest=vm.due)
        if self._listing and self._list_put_off:
            self._list_put_off = False
            self._list_by(now + self._between_lists())

    def _leave(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        vm = self._vms[watch.vm_id]
        self._cycling -= watch.target.rule.cycle
        vm.watches = tuple(other for other in vm.watches if other is not watch)
        if vm.watches:
            return
        del self._vms[watch.vm_id]
        vm.last_polls.clear()
        if vm.state is _State.IN_FLIGHT:
            vm.state = _State.ABANDONED
            self._abandoned[vm.vm_id] = vm
        else:
            self._set(vm, _State.LEFT)
        self._choose()
        if not self._vms:
            # Not at once: a reader of one event after the other is back in the same moment.
            loop.call_soon(self._stop_if_idle, context=self._context)

    def _release(self, problem: Callable[[], VMAPIError]) -> None:
        for vm in self._vms.values():
            for watch in vm.watches:
                watch.wake(problem())

    def _stop_if_idle(self) -> None:
        if not self._vms:
            self._stop()

    def _stop(self) -> None:
        """Cancel what is in flight and every timer; VMs that are awaited start again by joining."""
        for timer in (self._list_timer, self._pump_timer):
            if timer is not None:
                timer.cancel()
        self._list_timer = self._pump_timer = None
        requests, self._requests, self._list_request = self._requests, set(), None
        for request in requests:
            request.cancel()
        self._queue.clear()
        self._abandoned.clear()
        for vm in self._vms.values():
            self._set(vm, _State.LISTED)

    # --- deadlines --------------------------------------------------------------------------

    def _deadline(self, watch: Watch, waiter: Waiter, until: float) -> None:
        """Poll once more for a waiter whose time is over."""
        vm, loop = self._vms.get(watch.vm_id), self._loop
        if waiter.done() or vm is None or loop is None:
            return
        vm.last_polls.append((min(until, loop.time()), waiter))
        # Timed from here: a process that was stopped reads before it judges.
        loop.call_later(_LAST_POLL, _give_up, waiter, context=self._context)
        if not self._deadlines:
            # After all those of the same moment.
            loop.call_soon(self._poll_at_deadlines, context=self._context)
        self._deadlines.add(vm)

    def _poll_at_deadlines(self) -> None:
        vms = {vm for vm in self._deadlines if vm.last_polls}
        self._deadlines.clear()
        if self._loop is None or not vms:
            return
        now = self._loop.time()
        by_list = any(vm.by_list for vm in vms)
        if by_list or (now >= self._blind_until and self._schedule.prefers_list(len(vms))):
            self._list_by(now)
            return
        for vm in vms:
            if vm.state is not _State.IN_FLIGHT:
                self._enqueue(vm, first=True)

    def _answer_last_polls(self, vm: _PolledVM, asked: float) -> None:
        for when, waiter in vm.last_polls:
            if asked >= when:
                _give_up(waiter)
        vm.last_polls = [entry for entry in vm.last_polls if not entry[1].done()]
        if vm.last_polls and self._loop is not None:
            # That one was sent before the deadline.
            self._deadlines.add(vm)
            self._loop.call_soon(self._poll_at_deadlines, context=self._context)

    # --- planning ---------------------------------------------------------------------------

    def _set(self, vm: _PolledVM, state: _State) -> None:
        if vm.timer is not None:
            vm.timer.cancel()
            vm.timer = None
        vm.due = math.inf
        vm.state = state

    def _choose(self) -> None:
        """Choose between lists and GETs by their cost."""
        if self._loop is None:
            return
        if self._rosters.size is not None:
            # What creates have asked for shows what a list costs, before the hub's first.
            self._schedule.measured_list(self._rosters.size)
            self._rosters.size = None
        now = self._loop.time()
        listing = now >= self._blind_until and self._schedule.prefers_list(
            len(self._vms), listing=self._listing
        )
        if listing is self._listing:
            return
        self._listing = listing
        if listing:
            # When the first GET would have come: what was accepted just now has no news yet.
            due = min(vm.due for vm in self._vms.values())
            due = due if due < math.inf else now
            for vm in self._vms.values():
                if vm.state is not _State.IN_FLIGHT:
                    self._set(vm, _State.LISTED)
            self._queue.clear()
            self._list_by(due)
        else:
            self._list_due = math.inf
            self._plan_list()
            for vm in self._vms.values():
                if vm.state is _State.LISTED:
                    self._plan(vm, now)

    def _plan(self, vm: _PolledVM, now: float, latest: float = math.inf) -> None:
        """Note what a VM's watches wait for, and set when it is polled next, `latest` by then."""
        due = recheck_at = math.inf
        vm.waiting = True
        for watch in vm.watches:
            verdict = watch.verdict
            if not isinstance(verdict, Pending):
                continue
            recheck = math.inf
            if verdict.recheck_at is not None:
                recheck = watch.started + verdict.recheck_at + _CLOCK
                recheck_at = min(recheck_at, recheck)
            vm.waiting = vm.waiting and verdict.waiting
            if self._listing and not vm.by_list:
                continue
            if not verdict.waiting:
                elapsed = now - watch.started
                between = self._schedule.between_gets(watch.target.operation, elapsed)
                recheck = min(recheck, now + between)
            due = min(due, max(recheck, now + self._schedule.floor))
        vm.recheck_at = recheck_at
        if self._listing:
            self._set(vm, _State.LISTED)
            return
        due = min(latest, max(due, now + self._schedule.after_failures(vm.failures)))
        self._set(vm, _State.PLANNED)
        if due < math.inf and self._loop is not None:
            vm.due = due
            vm.timer = self._loop.call_at(due, self._enqueue, vm, context=self._context)

    def _enqueue(self, vm: _PolledVM, *, first: bool = False) -> None:
        """Let a VM be polled as soon as there is a slot; at once where only a list shows it."""
        if vm.by_list and self._loop is not None and self._loop.time() >= self._blind_until:
            self._set(vm, _State.LISTED)
            self._list_by(self._loop.time())
            return
        self._set(vm, _State.QUEUED)
        if first:
            self._queue.appendleft(vm)
        else:
            self._queue.append(vm)
        self._pump()

    def _pump(self) -> None:
        """Send the GETs that there are slots for."""
        self._pump_timer = None
        loop = self._loop
        if loop is None:
            return
        gets = len(self._requests) - (self._list_request is not None)
        while self._queue and gets < _GETS_AT_ONCE:
            if self._hold_until - loop.time() > _CLOCK:
                self._pump_timer = loop.call_at(self._hold_until, self._pump, context=self._context)
                return
            vm = self._queue.popleft()
            # Else it has left, or a list came first.
            if vm.state is _State.QUEUED:
                self._set(vm, _State.IN_FLIGHT)
                self._send(self._get(vm, loop), partial(self._got, vm))
                gets += 1

    def _got(self, vm: _PolledVM) -> None:
        if vm.state is _State.IN_FLIGHT and self._loop is not None:
            self._plan(vm, self._loop.time())
        elif vm.state is _State.ABANDONED:
            del self._abandoned[vm.vm_id]
            vm.state = _State.LEFT
        self._choose()
        self._pump()

    def _send(
        self, poll: Coroutine[Any, Any, None], done: Callable[[], None]
    ) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        request = loop.create_task(poll, name="async_vmapi poll", context=self._context)
        self._requests.add(request)

        def ended(request: asyncio.Task[None]) -> None:
            if request not in self._requests:
                # The hub has let go of it.
                if not request.cancelled():
                    request.exception()
                return
            self._requests.discard(request)
            if not request.cancelled() and (error := request.exception()) is not None:
                self._broke_off(error)
            # Cancelled, it was by "cancel all tasks": for waiters that stay, polling goes on.
            done()

        request.add_done_callback(ended, context=self._context)
        return request

    def _broke_off(self, error: BaseException) -> None:
        kind = type(error).__name__
        _log.error("polling broke off", exc_info=error, extra={"vmapi_error": kind})
        self._release(lambda: InvalidState(f"polling broke off with {kind}; see the log"))

    # --- one VM -----------------------------------------------------------------------------

    async def _get(self, vm: _PolledVM, loop: asyncio.AbstractEventLoop) -> None:
        """Poll one VM by GET."""
        asked = loop.time()
        try:
            result = await look_at(self._pipeline, vm.vm_id)
        except AuthenticationError as error:
            self._refused(error, loop)
            return
        except VMAPIError as error:
            self._troubled(error, loop)
            vm.failures += 1
            for watch in vm.watches:
                watch.missed(str(error))
            return
        self._failures = vm.failures = 0
        if result.size is not None:
            self._schedule.measured_get(result.size)
        if self.observer is not None:
            self.observer.looked("get", len(vm.watches))
        vm.by_list = result.unclear is not None
        if result.unclear is not None:
            for watch in vm.watches:
                watch.missed(result.unclear)
            return
        if result.glimpse is None or result.glimpse != vm.listed:
            # One of the two is old: what the next list shows is news, new or not.
            vm.listed = _NEVER
        self._show(vm, result.glimpse, result.raw, asked, loop.time())
        self._answer_last_polls(vm, asked)

    def _show(
        self,
        vm: _PolledVM,
        glimpse: Glimpse | None,
        raw: bytes | None,
        asked: float,
        answered: float,
    ) -> bool:
        """Report what a poll showed to the watches; return whether all took it into account."""
        seen = None if glimpse is None else Condition(glimpse.state, glimpse.cores, glimpse.ram)
        all_took = True
        for watch in vm.watches:
            took = watch.saw(asked, answered, seen, raw)
            all_took = all_took and took
            verdict = watch.verdict
            if not took or isinstance(verdict, Pending):
                continue
            self._changes.end(vm.vm_id, answered, visible=glimpse is not None)
            if isinstance(verdict, Done) and verdict.evidence is Evidence.OBSERVED:
                self._schedule.took(watch.target.operation, watch.elapsed)
        return all_took

    # --- all VMs ----------------------------------------------------------------------------

    def _between_lists(self) -> float:
        return self._schedule.between_lists(len(self._vms), cycling=self._cycling > 0)

    def _list_by(self, due: float) -> None:
        """Let a list be asked for at this time, or earlier if it is planned so."""
        self._list_due = min(self._list_due, due)
        if self._list_request is None:
            self._plan_list()

    def _plan_list(self) -> None:
        if self._list_timer is not None:
            self._list_timer.cancel()
            self._list_timer = None
        if self._loop is None or self._list_due == math.inf:
            return
        due = max(self._list_due, self._rosters.asked + self._schedule.floor, self._hold_until)
        self._list_timer = self._loop.call_at(due, self._send_list, context=self._context)

    def _send_list(self) -> None:
        self._list_timer, loop = None, self._loop
        if loop is None or not self._vms:
            return
        if self._rosters.asked + self._schedule.floor - loop.time() > _CLOCK:
            # A create has asked for one meanwhile.
            self._plan_list()
            return
        self._list_due = math.inf

        def done() -> None:
            self._list_request = None
            self._choose()
            if not self._listing:
                for vm in self._vms.values():
                    if vm.state is _State.LISTED:
                        self._plan(vm, loop.time())
            elif self._list_due == math.inf:
                # It was cancelled.
                self._list_due = loop.time()
            self._plan_list()
            self._pump()

        self._list_request = self._send(self._list(loop), done)

    async def _list(self, loop: asyncio.AbstractEventLoop) -> None:
        """Poll all VMs by one list."""
        asked = self._rosters.asked = loop.time()
        try:
            listing = await look_at_all(self._pipeline)
        except AuthenticationError as error:
            self._refused(error, loop)
            return
        except VMAPIError as error:
            self._list_error = (asked, str(error))
            self._list_failures += 1
            if not self._troubled(error, loop):
                # One VM that cannot be read, say, must not hide all the others.
                self._blind_until = loop.time() + 10 * self._schedule.ceiling
            if self._listing:
                self._list_by(loop.time() + self._schedule.after_failures(self._list_failures))
            return
        answered = loop.time()
        self._failures = self._list_failures = 0
        if self.observer is not None:
            served = sum(len(vm.watches) for vm in self._vms.values())
            self.observer.looked("list", served)
        self._schedule.measured_list(listing.size)
        # To decode a large fleet's list and to compare it take some milliseconds each.
        await anyio.lowlevel.checkpoint()
        await self._compare(listing, asked, answered)
        due = await self._next_list(asked, answered)
        if self._listing:
            self._list_by(due)

    async def _compare(self, listing: Listing, asked: float, answered: float) -> None:
        """Report to the watches what changed since the last list, or counts now."""
        shown = {glimpse.id: glimpse for glimpse in listing.glimpses}
        vms = [
            vm
            for vm in self._vms.values()
            if asked >= vm.recheck_at or vm.last_polls or shown.get(vm.vm_id) != vm.listed
        ]
        if not vms:
            return
        await anyio.lowlevel.checkpoint()
        raws = listing.raws()
        await anyio.lowlevel.checkpoint()
        places = {glimpse.id: place for place, glimpse in enumerate(listing.glimpses)}
        for count, vm in enumerate(vms, 1):
            if count % _AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
            if not vm.watches:
                continue
            place, glimpse = places.get(vm.vm_id), shown.get(vm.vm_id)
            raw = None if place is None else bytes(raws[place])
            took = self._show(vm, glimpse, raw, asked, answered)
            # A watch that came while the list was in flight needs the next one.
            vm.listed = glimpse if took else _NEVER
            vm.by_list = vm.by_list and glimpse is None
            if vm.state is _State.PLANNED or (self._listing and vm.state is not _State.IN_FLIGHT):
                self._plan(vm, answered)
            self._answer_last_polls(vm, asked)

    async def _next_list(self, asked: float, answered: float) -> float:
        """Return when the next list can be of use, given one that took as long as this."""
        due = asked + max(self._between_lists(), 2 * (answered - asked))
        earliest, all_wait = math.inf, True
        vms = tuple(self._vms.values())
        for start in range(0, len(vms), _IN_ONE_GO):
            await anyio.lowlevel.checkpoint()
            some = vms[start : start + _IN_ONE_GO]
            earliest = min(earliest, min(vm.recheck_at for vm in some))
            all_wait = all_wait and all(vm.waiting for vm in some)
        self._list_put_off = all_wait and due < earliest < math.inf
        if self._list_put_off:
            return earliest
        return min(due, max(earliest, asked + self._schedule.floor))

    # --- trouble ----------------------------------------------------------------------------

    def _troubled(self, error: VMAPIError, loop: asyncio.AbstractEventLoop) -> bool:
        """Hold back if the trouble is the server's, and return whether it is."""
        if not isinstance(error, ServerError | RateLimited | TransportError):
            return False
        if loop.time() >= self._hold_until:
            self._failures += 1
            waiting = self._schedule.after_failures(self._failures)
            if not isinstance(error, TransportError) and error.retry_after is not None:
                waiting = max(waiting, min(error.retry_after, _LONGEST_HOLD))
            self._hold_until = loop.time() + waiting
        return True

    def _refused(self, error: AuthenticationError, loop: asyncio.AbstractEventLoop) -> None:
        # The waiters are gone by the time that the next poll would come.
        self._hold_until = loop.time() + self._schedule.floor
        self._release(lambda: copy.copy(error))


def _report_leaving(observer: OperationObserver, result: VMAPIError | bool | None) -> None:
    """Report why the last waiter went away before the end."""
    if result is None:
        observer.ended("cancelled")
    elif isinstance(result, VMAPIError):
        observer.ended("error", result)
    else:
        observer.ended("timeout")


def _give_up(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(False)
