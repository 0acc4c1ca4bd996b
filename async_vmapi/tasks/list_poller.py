"""Poll all awaited VMs by one list."""

import asyncio
import itertools
import math
import operator
from collections.abc import Callable, Coroutine
from typing import Any, Final

import attrs

from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.tasks.polled_vm import NEVER_LISTED, PolledVM, State
from async_vmapi.tasks.polls import Polls
from async_vmapi.tasks.schedule import TIMER_TOLERANCE
from async_vmapi.tasks.vm_list import ListResult, VMListSource
from async_vmapi.transport.codec import VMSnapshot, raw_vms

__all__ = ["ListPoller"]

_ID: Final = operator.attrgetter("id")

_UPDATES_PER_YIELD: Final = 50
"""Yield to the event loop after this many updates."""


@attrs.define(eq=False)
class ListPoller:
    """Sends lists when they are due, and reports the changes they show.

    Args:
        polls: The awaited VMs.
        vm_lists: Sends the lists.
        report: Called with a VM, what a list shows of it, decoded and undecoded, and when the list
            was sent and received; returns whether an unchanged list needs no report.
        plan: Called with a VM to plan its next poll, and the time from which intervals count.
        done: Called after each list, whether or not it succeeded.

    Attributes:
        active: Whether list mode is on.
        cycling: Number of awaited reboots and resets.
    """

    _polls: Polls
    _vm_lists: VMListSource
    _report: Callable[[PolledVM, VMSnapshot | None, bytes | None, float, float], bool]
    _plan: Callable[[PolledVM, float], None]
    _done: Callable[[], None]
    active: bool = False
    cycling: int = 0
    _in_flight: bool = False
    _timer: asyncio.TimerHandle | None = None
    _due: float = math.inf
    # Whether the next list is later than usual, because no VM can use an earlier one.
    _is_postponed: bool = False
    _unreadable_until: float = -math.inf
    _failures: int = 0
    # No VM's `recheck_at` is earlier.
    _recheck_at: float = math.inf

    @property
    def is_readable(self) -> bool:
        """Whether lists are believed to be readable."""
        return self._polls.now >= self._unreadable_until

    def is_cheaper(self, vms: int, *, list_mode: bool = False) -> bool:
        """Return whether to prefer a list to GETs of this many VMs; see `Schedule`."""
        return self.is_readable and self._polls.schedule.prefers_list(vms, list_mode=list_mode)

    def watch_joined(self) -> None:
        """Send the next list at the usual interval: a new watch may use it."""
        if self.active and self._is_postponed:
            self._is_postponed = False
            self.poll_by(self._polls.now + self._interval())

    def note_recheck(self, vm: PolledVM) -> None:
        """Record when a VM needs a list even if it is unchanged."""
        self._recheck_at = min(self._recheck_at, vm.recheck_at)

    def poll_by(self, due: float) -> None:
        """Send a list at `due`, or earlier if one is already planned."""
        self._due = min(self._due, due)
        if not self._in_flight:
            self._set_timer()

    def end_mode(self) -> None:
        """Leave list mode."""
        self.active = False
        self._due = math.inf
        self._set_timer()

    def stop(self) -> None:
        """Discard planned lists and the one in flight."""
        self._in_flight = False
        self.end_mode()

    def _interval(self) -> float:
        return self._polls.schedule.list_interval(len(self._polls.vms), cycling=self.cycling > 0)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due < math.inf:
            self._timer = self._polls.call_at(max(self._due, self._earliest), self._send)

    @property
    def _earliest(self) -> float:
        min_interval = self._polls.schedule.min_interval
        return max(self._vm_lists.sent_at + min_interval, self._polls.hold_until)

    def _send(self) -> None:
        if not self._polls.vms:
            return
        if self._earliest - self._polls.now > TIMER_TOLERANCE:
            # A create has requested one meanwhile, or the server has asked to wait.
            self._set_timer()
            return
        self._begin(self._poll())

    def offer(self, result: ListResult) -> None:
        """Use a list that creates requested in place of the next one."""
        is_due = self._due < math.inf and not self._in_flight
        if is_due and self._polls.loop is asyncio.get_running_loop():
            self._begin(self._process(result))

    def _begin(self, poll: Coroutine[Any, Any, None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due, self._in_flight = None, math.inf, True
        self._polls.send(poll, self._ended)

    def _ended(self) -> None:
        self._in_flight = False
        self._done()
        if self.active and self._due == math.inf:
            # It was cancelled.
            self._due = self._polls.now
        self._set_timer()

    async def _poll(self) -> None:
        try:
            result = await self._vm_lists.poll()
        except AuthenticationError:
            raise
        except VMAPIError as error:
            self._failures += 1
            text = str(error)
            for vm in self._polls.vms.values():
                vm.poll_failed(text)
            if not self._polls.failed(error):
                # For instance, one VM that cannot be decoded must not block all others.
                self._unreadable_until = self._polls.now + 10 * self._polls.schedule.max_interval
            if self.active:
                self.poll_by(self._polls.now + self._polls.schedule.backoff(self._failures))
            return
        if self._polls.pipeline.observer is not None:
            self._polls.pipeline.observer.polled("list")
        await self._process(result)

    async def _process(self, result: ListResult) -> None:
        self._polls.read_at = result.received_at
        self._failures = 0
        self._polls.succeeded()
        # Decoding and comparing a large fleet's list take some milliseconds each.
        await asyncio.sleep(0)
        await self._compare(result)
        if self.active:
            self.poll_by(self._next_due(result.sent_at, result.received_at))

    async def _compare(self, result: ListResult) -> None:
        """Report the VMs that changed since the last list, or are due to be rechecked."""
        sent_at, received_at = result.sent_at, result.received_at
        shown: list[VMSnapshot | None] = [*result.snapshots, None]
        # Not a comprehension, which takes twice as long. A VM that is absent has the last place.
        place_of = dict(zip(map(_ID, result.snapshots), itertools.count(), strict=False)).get
        all_vms = self._polls.vms.values()
        if sent_at < self._recheck_at:
            # The hot path: most lists of a large fleet show no change.
            vms = [vm for vm in all_vms if shown[place_of(vm.vm_id, -1)] != vm.last_listed]
        else:
            vms = [
                vm
                for vm in all_vms
                if sent_at >= vm.recheck_at or shown[place_of(vm.vm_id, -1)] != vm.last_listed
            ]
            self._recheck_at = min(
                (vm.recheck_at for vm in all_vms if vm.recheck_at > sent_at), default=math.inf
            )
        if not vms:
            return
        await asyncio.sleep(0)
        raws = raw_vms(result.body)
        await asyncio.sleep(0)
        for count, vm in enumerate(vms, 1):
            if count % _UPDATES_PER_YIELD == 0:
                await asyncio.sleep(0)
            if not vm.watches:
                continue
            place = place_of(vm.vm_id, -1)
            snapshot = shown[place]
            raw = None if snapshot is None else bytes(raws[place])
            vm.last_listed = snapshot
            if not self._report(vm, snapshot, raw, sent_at, received_at):
                # A watch that joined while the list was in flight, for instance, needs the next.
                vm.last_listed = NEVER_LISTED
            vm.needs_list = vm.is_unclear and snapshot is None
            if vm.state in (State.LISTED, State.PLANNED) or (
                self.active and vm.state is State.QUEUED
            ):
                self._plan(vm, received_at)

    def _next_due(self, sent_at: float, received_at: float) -> float:
        """Return when the next list can be useful, given how long this one took."""
        due = sent_at + max(self._interval(), 2 * (received_at - sent_at))
        recheck_at = self._recheck_at
        if due < recheck_at < math.inf:
            self._is_postponed = all(vm.too_early for vm in self._polls.vms.values())
            return recheck_at if self._is_postponed else due
        self._is_postponed = False
        soonest = sent_at + self._polls.schedule.min_interval
        # VMs that one list showed to change can share a later one. Send that slightly late rather
        # than slightly too early for some of them.
        latest = soonest + self._polls.schedule.min_interval / 10
        if recheck_at <= latest:
            usable = (vm.recheck_at for vm in self._polls.vms.values() if vm.recheck_at <= latest)
            soonest = max(soonest, max(usable, default=soonest))
        return min(due, max(recheck_at, soonest))
