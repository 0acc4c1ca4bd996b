"""Poll the awaited VMs on one event loop: a few by GET, many by one list.

`async_vmapi.tasks.polled_vm` has the states that a VM passes through. Which mode costs less is
chosen again as VMs come and go.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.tasks.changes import OwnChanges
from async_vmapi.tasks.completion import Done, Evidence, Pending
from async_vmapi.tasks.list_poller import ListPoller
from async_vmapi.tasks.pending import PendingTasks
from async_vmapi.tasks.polled_vm import CLOCK, NOT_LISTED, PolledVM, State, give_up
from async_vmapi.tasks.polls import Polls
from async_vmapi.tasks.reads import GetResult, get_vm_raw
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.tasks.watch import Condition, Waiter, Watch

__all__ = ["Poller"]

_LAST_POLL: Final = 5.0
"""Seconds that the poll at a deadline gets to be answered."""

_MOST_PATIENCE: Final = 1.0
"""Seconds that the poll at a deadline waits for another of the same VM, at most."""

_GETS_AT_ONCE: Final = 16


class Poller:
    """Polls while a watch is awaited.

    Args:
        polls: The awaited VMs; none yet.
        rosters: Asks for lists too, of names.
        changes: Takes note of the operations that are complete.
        pending: The tasks that are not complete.

    Attributes:
        lists: Polls in list mode.
    """

    def __init__(
        self, polls: Polls, rosters: VMListSource, changes: OwnChanges, pending: PendingTasks
    ) -> None:
        self.polls = polls
        self._pending = pending
        self.lists = ListPoller(polls, rosters, self._show, self._plan, self._list_done)
        self._changes = changes
        # VMs whose GET waits for a slot, and those whose GET was sent, abandoned or not.
        self._queue: deque[PolledVM] = deque()
        self._in_flight: dict[str, PolledVM] = {}
        # VMs of whose waiters the deadline has passed just now.
        self._deadlines: list[PolledVM] = []
        self._pumps_at = -math.inf

    def join(self, watch: Watch) -> None:
        """Poll for a watch that was not awaited."""
        watch.move_to(self.polls.loop)
        vm = self.polls.vms.get(watch.vm_id)
        if vm is None:
            vm = self._in_flight.get(watch.vm_id) or PolledVM(watch.vm_id)
            self.polls.vms[watch.vm_id] = vm
        vm.join(watch)
        if (observer := watch.observer) is not None:
            observer.awaited()
        self.lists.cycling += watch.target.rule.cycle
        self._choose()
        if not self.lists.active and vm.state in (State.PLANNED, State.LISTED):
            # From the last poll on, and never later than it was: else one that waits a little,
            # again and again, would put the next poll off each time, for the others too.
            now = min(self.polls.now, watch.started + watch.elapsed)
            self._plan(vm, now, latest=vm.due)
        self.lists.joined()

    def leave(self, watch: Watch) -> None:
        """Stop polling for a watch that is not awaited any more."""
        vm = self.polls.vms[watch.vm_id]
        self.lists.cycling -= watch.target.rule.cycle
        vm.leave(watch)
        if vm.watches:
            return
        del self.polls.vms[watch.vm_id]
        self._choose()
        if not self.polls.vms:
            # Not at once: a reader of one event after the other is back in the same moment.
            self.polls.loop.call_soon(self._stop_if_idle, context=self.polls.context)

    def close(self, problem: Callable[[], VMAPIError]) -> None:
        """Stop for good, and end every wait; waiters of a dead loop cannot be woken any more."""
        if not self.polls.loop.is_closed():
            self._stop()
            self.polls.release(problem)
        for watch in self.polls.watches:
            watch.waiters.clear()
            watch.readers.clear()

    def _stop_if_idle(self) -> None:
        if not self.polls.vms:
            self._stop()

    def _stop(self) -> None:
        """Cancel what is in flight and every timer."""
        self.polls.stop()
        self.lists.stop()
        for waiting in (self._queue, self._in_flight, self._deadlines):
            waiting.clear()
        for vm in self.polls.vms.values():
            # Timers that run on for last polls find none.
            vm.last_polls.clear()
            if vm.timer is not None:
                vm.timer.cancel()

    def poll_last(self, watch: Watch, waiter: Waiter, until: float) -> None:
        """Poll once more for a waiter whose deadline, `until`, has passed."""
        if waiter.done():
            return
        vm = self.polls.vms[watch.vm_id]
        now = self.polls.now
        vm.last_polls.append((min(until, now), waiter))
        # Timed from here: a process that was stopped reads before it judges.
        self.polls.call_at(now + _LAST_POLL, give_up, waiter)
        # However short the waits are, a VM is polled no more often than usual.
        last = max(watch.asked for watch in vm.watches)
        soonest = last + min(self.polls.schedule.floor, _MOST_PATIENCE)
        if soonest > now:
            self.polls.call_at(soonest, self._poll_at_deadline, vm)
        else:
            self._poll_at_deadline(vm)
        self.polls.call_at(max(now, soonest) + 2 * _MOST_PATIENCE, self._poll_otherwise, vm)

    def _poll_otherwise(self, vm: PolledVM) -> None:
        """Poll by the other means where the last poll of a VM hangs, or has to wait."""
        if not vm.last_polls:
            return
        if vm.state is State.IN_FLIGHT:
            self.lists.poll_by(self.polls.now)
        elif not vm.by_list:
            self._enqueue(vm, first=True)

    def _poll_at_deadline(self, vm: PolledVM) -> None:
        if not self._deadlines:
            # After all those of the same moment.
            self.polls.loop.call_soon(self._poll_at_deadlines, context=self.polls.context)
        self._deadlines.append(vm)
        self.lists.needed_by(vm)

    def _poll_at_deadlines(self) -> None:
        vms = [vm for vm in dict.fromkeys(self._deadlines) if vm.last_polls]
        self._deadlines.clear()
        if any(vm.by_list for vm in vms) or self.lists.is_cheaper(len(vms)):
            self.lists.poll_by(self.polls.now)
            return
        for vm in vms:
            if vm.state is not State.IN_FLIGHT:
                self._enqueue(vm, first=True)

    def _choose(self) -> None:
        """Choose between lists and GETs by their cost."""
        listing = self.lists.is_cheaper(len(self.polls.vms), listing=self.lists.active)
        if listing is self.lists.active:
            return
        if not listing:
            self.lists.end_mode()
            self._plan_listed()
            return
        # When the first GET would have come: what was accepted just now has no news yet.
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
        self._choose()
        if not self.lists.active:
            # Those that only a list could show.
            self._plan_listed()

    def _plan(self, vm: PolledVM, now: float, latest: float = math.inf) -> None:
        vm.plan(now, self.polls.schedule, listing=self.lists.active, latest=latest)
        self.lists.planned(vm)
        if vm.due < math.inf:
            vm.timer = self.polls.call_at(vm.due, self._enqueue, vm)

    def _enqueue(self, vm: PolledVM, *, first: bool = False) -> None:
        """Let a VM be polled as soon as there is a slot; at once where only a list shows it."""
        if vm.by_list and self.lists.is_readable:
            vm.move_to(State.LISTED)
            self.lists.poll_by(self.polls.now)
            return
        vm.move_to(State.QUEUED)
        if first:
            self._queue.appendleft(vm)
        else:
            self._queue.append(vm)
        self._pump()

    def _pump(self) -> None:
        """Send the GETs that there are slots for."""
        while self._queue and len(self._in_flight) < _GETS_AT_ONCE:
            hold = self.polls.hold_until
            if hold - self.polls.now > CLOCK:
                if self._pumps_at != hold:
                    self._pumps_at = hold
                    self.polls.call_at(hold, self._pump)
                return
            vm = self._queue.popleft()
            # Else it has left, or a list came first.
            if vm.state is State.QUEUED:
                vm.move_to(State.IN_FLIGHT)
                self._in_flight[vm.vm_id] = vm
                self.polls.send(self._get(vm), partial(self._got, vm))

    def _got(self, vm: PolledVM) -> None:
        del self._in_flight[vm.vm_id]
        if not vm.watches:
            vm.move_to(State.LEFT)
        else:
            self._plan(vm, self.polls.now)
            if vm.last_polls and not vm.failures:
                # This one was sent before their deadline.
                self._poll_at_deadline(vm)
        self._choose()
        self._pump()

    async def _get(self, vm: PolledVM) -> None:
        asked = self.polls.now
        try:
            look = await get_vm_raw(self.polls.pipeline, vm.vm_id)
        except AuthenticationError:
            raise
        except VMAPIError as error:
            self.polls.failed(error)
            vm.failures += 1
            vm.missed(str(error))
            return
        self.polls.succeeded()
        vm.failures = 0
        if look.size is not None:
            self.polls.schedule.measured_get(look.size)
        if self.polls.pipeline.observer is not None:
            self.polls.pipeline.observer.looked("get", len(vm.watches))
        vm.by_list = vm.is_unclear = look.unclear is not None
        if look.unclear is not None:
            vm.missed(look.unclear)
            return
        if look.glimpse is not None:
            vm.absent_since, self.polls.read_at = None, self.polls.now
        elif any(watch.absence_counts for watch in vm.watches):
            if vm.absent_since is None:
                vm.absent_since = asked
            if self.polls.read_at < vm.absent_since:
                # A server that says so of everything says nothing: a list must be readable.
                vm.by_list = True
                vm.missed("the API says that the VM is not there, and has shown no other since")
                return
        if look.glimpse is None or look.glimpse != vm.listed:
            # One of the two is old: what the next list shows is news, new or not.
            vm.listed = NOT_LISTED
        self._show(vm, look, asked, self.polls.now)

    def _show(self, vm: PolledVM, look: GetResult, asked: float, answered: float) -> bool:
        """Report what a poll showed to the watches; return whether all took it into account."""
        shown = look.glimpse
        seen = None if shown is None else Condition(shown.state, shown.cores, shown.ram)
        all_took = True
        for watch in vm.watches:
            took = watch.saw(asked, answered, seen, look.raw)
            all_took = all_took and took
            verdict = watch.verdict
            if not took or isinstance(verdict, Pending):
                continue
            self._pending.discard(watch)
            evidence = verdict.evidence if isinstance(verdict, Done) else None
            if evidence is not Evidence.ASSUMED:
                # What is assumed to be over may still go on.
                self._changes.end(vm.vm_id, answered, visible=seen is not None)
            if evidence is Evidence.OBSERVED:
                self.polls.schedule.took(watch.target.operation, watch.elapsed)
        if vm.answer_last_polls(asked) and vm.state is not State.IN_FLIGHT:
            # This list was sent before their deadline.
            self._poll_at_deadline(vm)
        return all_took
