"""Poll the awaited VMs on one event loop: a few by GET, many by one list.

`async_vmapi.tasks.polled_vm` has the states that a VM passes through. The cheaper mode is chosen
again whenever VMs join or leave.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.readiness.prober import Prober
from async_vmapi.tasks.changes import OwnChanges
from async_vmapi.tasks.completion import Evidence, Pending
from async_vmapi.tasks.explain import SeenBy
from async_vmapi.tasks.list_poller import ListPoller
from async_vmapi.tasks.pending import PendingTasks
from async_vmapi.tasks.polled_vm import NEVER_LISTED, PolledVM, State, time_out
from async_vmapi.tasks.polls import Polls
from async_vmapi.tasks.reads import fetch_vm
from async_vmapi.tasks.schedule import TIMER_TOLERANCE
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.tasks.watch import Waiter, Watch
from async_vmapi.transport.codec import VMSnapshot

__all__ = ["Poller"]

_DEADLINE_POLL_TIMEOUT: Final = 5.0
"""Timeout in seconds of the poll at a deadline."""

_MAX_DEADLINE_DELAY: Final = 1.0
"""Maximum seconds by which the poll at a deadline is delayed after another of the same VM."""

_MAX_GETS_IN_FLIGHT: Final = 16

_REPROBE_DELAY: Final = 1.0
"""Seconds until a VM is probed again whose probes were broken off."""


class Poller:
    """Polls while a watch is awaited.

    Args:
        polls: The awaited VMs; none yet.
        vm_lists: Sends the lists.
        changes: Records completed operations.
        pending: The tasks that are not complete.

    Attributes:
        lists: Polls in list mode.
    """

    def __init__(
        self, polls: Polls, vm_lists: VMListSource, changes: OwnChanges, pending: PendingTasks
    ) -> None:
        self.polls = polls
        self._pending = pending
        self.lists = ListPoller(polls, vm_lists, self._report, self._plan, self._list_done)
        vm_lists.listener = self.lists.offer
        self._changes = changes
        self._prober = Prober()
        self._probing: dict[Watch, asyncio.Task[None]] = {}
        # VMs whose GET waits for a slot, and those whose GET is in flight, abandoned or not.
        self._queue: deque[PolledVM] = deque()
        self._in_flight: dict[str, PolledVM] = {}
        # VMs with a waiter whose deadline has just passed.
        self._deadlines: list[PolledVM] = []
        self._sending_at = -math.inf

    def join(self, watch: Watch) -> None:
        """Start polling for a watch."""
        watch.move_to(self.polls.loop)
        vm = self.polls.vms.get(watch.vm_id)
        if vm is None:
            vm = self._in_flight.get(watch.vm_id) or PolledVM(watch.vm_id)
            self.polls.vms[watch.vm_id] = vm
        vm.join(watch)
        if (observer := watch.observer) is not None:
            observer.awaited()
        self.lists.cycling += watch.target.rule.cycle
        self._choose_mode()
        if not self.lists.active and vm.state in (State.PLANNED, State.LISTED):
            # Count from the last poll, and never move the planned poll back: a caller that awaits
            # briefly again and again would otherwise delay it each time, for all waiters.
            now = min(self.polls.now, watch.started + watch.elapsed)
            self._plan(vm, now, latest=vm.due)
        self.lists.watch_joined()
        self._probe(watch)

    def leave(self, watch: Watch) -> None:
        """Stop polling for a watch that is no longer awaited."""
        vm = self.polls.vms[watch.vm_id]
        self.lists.cycling -= watch.target.rule.cycle
        if watch in self._probing:
            # Deferred, as below.
            self.polls.loop.call_soon(self._stop_probing, watch, context=self.polls.context)
        vm.leave(watch)
        if vm.watches:
            return
        del self.polls.vms[watch.vm_id]
        self._choose_mode()
        if not self.polls.vms:
            # Deferred: a reader of events leaves and rejoins in the same iteration of the loop.
            self.polls.loop.call_soon(self._stop_if_idle, context=self.polls.context)

    def close(self, make_error: Callable[[], VMAPIError]) -> None:
        """Stop for good and fail every wait; waiters of a closed loop cannot be woken."""
        if not self.polls.loop.is_closed():
            self._stop()
            self.polls.fail_all(make_error)
        for watch in self.polls.watches:
            watch.waiters.clear()
            watch.event_waiters.clear()

    def _stop_if_idle(self) -> None:
        if not self.polls.vms:
            self._stop()

    def _stop(self) -> None:
        """Cancel what is in flight and every timer."""
        self.polls.stop()
        self.lists.stop()
        self._probing.clear()
        for waiting in (self._queue, self._in_flight, self._deadlines):
            waiting.clear()
        for vm in self.polls.vms.values():
            # So that running timers find no waiters.
            vm.expired.clear()
            if vm.timer is not None:
                vm.timer.cancel()

    def deadline_passed(self, watch: Watch, waiter: Waiter, until: float) -> None:
        """Poll once more for a waiter whose deadline, `until`, has passed."""
        if waiter.done():
            return
        vm = self.polls.vms[watch.vm_id]
        now = self.polls.now
        vm.expired.append((min(until, now), waiter))
        # Counted from now, not from the deadline: after a suspended process resumes, the poll runs
        # before the wait times out.
        self.polls.call_at(now + _DEADLINE_POLL_TIMEOUT, time_out, waiter)
        # Short waits must not poll a VM more often than usual.
        last = max(watch.last_sent_at for watch in vm.watches)
        soonest = last + min(self.polls.schedule.min_interval, _MAX_DEADLINE_DELAY)
        if soonest > now:
            self.polls.call_at(soonest, self._poll_at_deadline, vm)
        else:
            self._poll_at_deadline(vm)
        self.polls.call_at(
            max(now, soonest) + 2 * _MAX_DEADLINE_DELAY, self._poll_in_other_mode, vm
        )

    def _poll_in_other_mode(self, vm: PolledVM) -> None:
        """Poll in the other mode if the poll at a deadline hangs or has to wait."""
        if not vm.expired:
            return
        if vm.state is State.IN_FLIGHT:
            self.lists.poll_by(self.polls.now)
        elif not vm.needs_list:
            self._enqueue(vm, first=True)

    def _poll_at_deadline(self, vm: PolledVM) -> None:
        if not self._deadlines:
            # After all deadlines of this iteration of the loop.
            self.polls.loop.call_soon(self._poll_at_deadlines, context=self.polls.context)
        self._deadlines.append(vm)
        # The next list counts, changed or not.
        vm.last_listed = NEVER_LISTED

    def _poll_at_deadlines(self) -> None:
        vms = [vm for vm in dict.fromkeys(self._deadlines) if vm.expired]
        self._deadlines.clear()
        if any(vm.needs_list for vm in vms) or self.lists.is_cheaper(len(vms)):
            self.lists.poll_by(self.polls.now)
            return
        for vm in vms:
            if vm.state is not State.IN_FLIGHT:
                self._enqueue(vm, first=True)

    def _choose_mode(self) -> None:
        """Choose the cheaper of list mode and GET mode."""
        list_mode = self.lists.is_cheaper(len(self.polls.vms), list_mode=self.lists.active)
        if list_mode is self.lists.active:
            return
        if not list_mode:
            self.lists.end_mode()
            self._plan_listed()
            return
        # When the first GET was due: an operation accepted just now shows no change yet.
        due = min(vm.due for vm in self.polls.vms.values())
        for vm in self.polls.vms.values():
            if vm.state is not State.IN_FLIGHT:
                vm.move_to(State.LISTED)
        self._queue.clear()
        self.lists.active = True
        self.lists.poll_by(due if due < math.inf else self.polls.now)

    def _plan_listed(self) -> None:
        for vm in self.polls.vms.values():
            if vm.state is State.LISTED:
                self._plan(vm, self.polls.now)

    def _list_done(self) -> None:
        self._choose_mode()
        if not self.lists.active:
            # The VMs that were waiting for a list.
            self._plan_listed()

    def _plan(self, vm: PolledVM, now: float, latest: float = math.inf) -> None:
        vm.plan(now, self.polls.schedule, list_mode=self.lists.active, latest=latest)
        self.lists.note_recheck(vm)
        if vm.due < math.inf:
            vm.timer = self.polls.call_at(vm.due, self._enqueue, vm)

    def _enqueue(self, vm: PolledVM, *, first: bool = False) -> None:
        """Queue a VM's GET, or request a list now if only a list can show it."""
        if vm.needs_list and self.lists.is_readable:
            vm.move_to(State.LISTED)
            self.lists.poll_by(self.polls.now)
            return
        vm.move_to(State.QUEUED)
        if first:
            self._queue.appendleft(vm)
        else:
            self._queue.append(vm)
        self._send_queued()

    def _send_queued(self) -> None:
        """Send queued GETs while there are free slots."""
        while self._queue and len(self._in_flight) < _MAX_GETS_IN_FLIGHT:
            hold = self.polls.hold_until
            if hold - self.polls.now > TIMER_TOLERANCE:
                if self._sending_at != hold:
                    self._sending_at = hold
                    self.polls.call_at(hold, self._send_queued)
                return
            vm = self._queue.popleft()
            # Otherwise it has left, or a list came first.
            if vm.state is State.QUEUED:
                vm.move_to(State.IN_FLIGHT)
                self._in_flight[vm.vm_id] = vm
                self.polls.send(self._get(vm), partial(self._get_ended, vm))

    def _get_ended(self, vm: PolledVM) -> None:
        del self._in_flight[vm.vm_id]
        if not vm.watches:
            vm.move_to(State.LEFT)
        else:
            self._plan(vm, self.polls.now)
            if vm.expired and not vm.failures:
                # This GET was sent before their deadline.
                self._poll_at_deadline(vm)
        self._choose_mode()
        self._send_queued()

    async def _get(self, vm: PolledVM) -> None:
        sent_at = self.polls.now
        try:
            result = await fetch_vm(self.polls.pipeline, vm.vm_id)
        except AuthenticationError:
            raise
        except VMAPIError as error:
            self.polls.failed(error)
            vm.failures += 1
            vm.poll_failed(str(error))
            return
        self.polls.succeeded()
        vm.failures = 0
        if result.raw is not None:
            self.polls.schedule.measured_get(len(result.raw))
        if self.polls.pipeline.observer is not None:
            self.polls.pipeline.observer.polled("get")
        vm.needs_list = vm.is_unclear = result.unclear is not None
        if result.unclear is not None:
            vm.poll_failed(result.unclear)
            return
        if result.snapshot is not None:
            vm.absent_since, self.polls.read_at = None, self.polls.now
        elif any(watch.absence_counts for watch in vm.watches):
            if vm.absent_since is None:
                vm.absent_since = sent_at
            if self.polls.read_at < vm.absent_since:
                # A server may return this for everything: wait until another read shows a VM.
                vm.needs_list = True
                vm.poll_failed(
                    "the API reports the VM as not found, but has shown no other VM since"
                )
                return
        if result.snapshot is None or result.snapshot != vm.last_listed:
            # One of the two is old: the next list counts, changed or not.
            vm.last_listed = NEVER_LISTED
        self._report(vm, result.snapshot, result.raw, sent_at, self.polls.now, "get")

    # --- probes of readiness --------------------------------------------------------------------

    def _probe(self, watch: Watch, *, once: bool = False) -> None:
        """Start to probe a VM that is online and not ready, unless that is going on."""
        if watch.next_probe is None or watch in self._probing or not (once or watch.is_awaited):
            return
        run = self._prober.run(watch, once=once)
        self._probing[watch] = self.polls.send(run, partial(self._probed, watch))

    def _stop_probing(self, watch: Watch) -> None:
        if watch in self._probing and not watch.is_awaited:
            self._probing[watch].cancel()

    def _probed(self, watch: Watch) -> None:
        if watch.ended:
            self._pending.discard(watch)
        if watch.next_probe is None or not watch.is_awaited:
            self._probing.pop(watch, None)
            return
        # It joined again while the probe was cancelled; or a check has cancelled itself, which must
        # not spin.
        self.polls.call_at(self.polls.now + _REPROBE_DELAY, self._probe_again, watch)

    def _probe_again(self, watch: Watch) -> None:
        self._probing.pop(watch, None)
        self._probe(watch)

    async def probe_once(self, watch: Watch) -> None:
        """Probe until a probe fails; if the watch is awaited, its probes go on anyway."""
        probing = self._probing.get(watch)
        while probing is not None and probing.cancelling() and not probing.done():
            await asyncio.wait({probing})
            probing = self._probing.get(watch)
        if not watch.is_awaited:
            self._probe(watch, once=True)
            if (probing := self._probing.get(watch)) is not None:
                await asyncio.wait({probing})

    def _report(
        self,
        vm: PolledVM,
        snapshot: VMSnapshot | None,
        raw: bytes | None,
        sent_at: float,
        received_at: float,
        by: SeenBy = "list",
    ) -> bool:
        """Report a poll's result; return whether the same result needs no further report."""
        counted_for_all = True
        for watch in vm.watches:
            counted = watch.observe(sent_at, received_at, snapshot, raw, by)
            counted_for_all = counted_for_all and counted
            if not counted or (watch.readiness is None and isinstance(watch.verdict, Pending)):
                continue
            if watch.ended:
                self._pending.discard(watch)
            else:
                counted_for_all = counted_for_all and not watch.needs_each_poll
                self._probe(watch)
            if not (watch.is_over_now and watch.target.rule.is_write):
                continue
            if watch.evidence is not Evidence.ASSUMED:
                # An operation that is assumed to be complete may still be running.
                self._changes.end(vm.vm_id, visible=snapshot is not None)
            if watch.evidence is Evidence.OBSERVED:
                self.polls.schedule.completed(watch.target.operation, watch.elapsed)
        if vm.release_expired(sent_at) and vm.state is not State.IN_FLIGHT:
            # This list was sent before their deadline.
            self._poll_at_deadline(vm)
        return counted_for_all
