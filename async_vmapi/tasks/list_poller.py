"""Poll all awaited VMs by one list."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import anyio.lowlevel
import attrs

from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.tasks.polled_vm import CLOCK, NOT_LISTED, PolledVM, State
from async_vmapi.tasks.polls import Polls
from async_vmapi.tasks.reads import GetResult, ListResult, list_vms_raw
from async_vmapi.tasks.vm_list import VMListSource

__all__ = ["ListPoller"]

_AT_A_STRETCH: Final = 50
"""Yield to the event loop after this many updates: what waits for them runs too."""


@attrs.define(eq=False)
class ListPoller:
    """Sends lists when they are due, and reports what is new in them.

    Args:
        polls: The awaited VMs.
        rosters: Asks for lists too, of names.
        show: Called with a VM, what a list shows of it, and when the list was asked and answered;
            returns whether all its watches took that into account.
        plan: Called with a VM to poll by the mode, and from when intervals count.
        done: Called after each list, well or not.

    Attributes:
        active: Whether the mode is list mode.
        cycling: How many watches are of reboots and resets.
        last_error: When the last list that failed was asked, and the error's text.
    """

    _polls: Polls
    _rosters: VMListSource
    _show: Callable[[PolledVM, GetResult, float, float], bool]
    _plan: Callable[[PolledVM, float], None]
    _done: Callable[[], None]
    active: bool = False
    cycling: int = 0
    last_error: tuple[float, str] | None = None
    _in_flight: bool = False
    _timer: asyncio.TimerHandle | None = None
    _due: float = math.inf
    # Whether the next list comes later than usual, since no VM can use it earlier.
    _is_put_off: bool = False
    _unreadable_until: float = -math.inf
    _failures: int = 0
    # No VM's `recheck_at` is earlier.
    _recheck_at: float = math.inf
    _at_deadline: set[PolledVM] = attrs.field(factory=set[PolledVM])

    @property
    def is_readable(self) -> bool:
        """Whether lists can be read, as far as is known."""
        return self._polls.now >= self._unreadable_until

    def is_cheaper(self, count: int, *, listing: bool = False) -> bool:
        """Return whether a list is to be preferred to so many GETs; see `Schedule`."""
        if self._rosters.size is not None:
            # What creates have asked for shows what a list costs, before the first one here.
            self._polls.schedule.measured_list(self._rosters.size)
            self._rosters.size = None
        return self.is_readable and self._polls.schedule.prefers_list(count, listing=listing)

    def joined(self) -> None:
        """Note a watch that could use a list before the one that was put off."""
        if self.active and self._is_put_off:
            self._is_put_off = False
            self.poll_by(self._polls.now + self._between())

    def planned(self, vm: PolledVM) -> None:
        """Note from when on a VM needs unchanged lists, too."""
        self._recheck_at = min(self._recheck_at, vm.recheck_at)

    def needed_by(self, vm: PolledVM) -> None:
        """Report the next list to a VM in any case: it is the last poll for one of its waiters."""
        self._at_deadline.add(vm)

    def poll_by(self, due: float) -> None:
        """Send a list at this time, or earlier if that is planned."""
        self._due = min(self._due, due)
        if not self._in_flight:
            self._set_timer()

    def end_mode(self) -> None:
        """Leave list mode."""
        self.active = False
        self._due = math.inf
        self._set_timer()

    def stop(self) -> None:
        """Forget what is planned and what was in flight."""
        self._in_flight = False
        self._at_deadline.clear()
        self.end_mode()

    def _between(self) -> float:
        return self._polls.schedule.between_lists(len(self._polls.vms), cycling=self.cycling > 0)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due < math.inf:
            floor = self._rosters.asked + self._polls.schedule.floor
            due = max(self._due, floor, self._polls.hold_until)
            self._timer = self._polls.call_at(due, self._send)

    def _send(self) -> None:
        if not self._polls.vms:
            return
        soonest = max(self._rosters.asked + self._polls.schedule.floor, self._polls.hold_until)
        if soonest - self._polls.now > CLOCK:
            # A create has asked for one meanwhile, or the server has asked to wait.
            self._set_timer()
            return
        self._timer, self._due, self._in_flight = None, math.inf, True
        self._polls.send(self._poll(), self._ended)

    def _ended(self) -> None:
        self._in_flight = False
        self._done()
        if self.active and self._due == math.inf:
            # It was cancelled.
            self._due = self._polls.now
        self._set_timer()

    async def _poll(self) -> None:
        asked = self._rosters.asked = self._polls.now
        try:
            listing = await list_vms_raw(self._polls.pipeline)
        except AuthenticationError:
            raise
        except VMAPIError as error:
            self.last_error = (asked, str(error))
            self._failures += 1
            if not self._polls.failed(error):
                # One VM that cannot be read, say, must not hide all the others.
                self._unreadable_until = self._polls.now + 10 * self._polls.schedule.ceiling
            if self.active:
                self.poll_by(self._polls.now + self._polls.schedule.after_failures(self._failures))
            return
        answered = self._polls.read_at = self._polls.now
        self._failures = 0
        self._polls.succeeded()
        if self._polls.pipeline.observer is not None:
            served = sum(len(vm.watches) for vm in self._polls.vms.values())
            self._polls.pipeline.observer.looked("list", served)
        self._polls.schedule.measured_list(listing.size)
        # To decode a large fleet's list and to compare it take some milliseconds each.
        await anyio.lowlevel.checkpoint()
        await self._compare(listing, asked, answered)
        if self.active:
            self.poll_by(self._next_due(asked, answered))

    async def _compare(self, listing: ListResult, asked: float, answered: float) -> None:
        """Report what changed since the last list, or counts now."""
        shown = {glimpse.id: glimpse for glimpse in listing.glimpses}
        all_vms = self._polls.vms.values()
        if asked < self._recheck_at:
            # As cheap as can be: of a large fleet most lists show nothing new.
            vms = [vm for vm in all_vms if shown.get(vm.vm_id) != vm.listed]
        else:
            vms = [
                vm for vm in all_vms if asked >= vm.recheck_at or shown.get(vm.vm_id) != vm.listed
            ]
            self._recheck_at = min(
                (vm.recheck_at for vm in all_vms if vm.recheck_at > asked), default=math.inf
            )
        if self._at_deadline:
            vms = list(dict.fromkeys([*vms, *self._at_deadline]))
            self._at_deadline.clear()
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
            took = self._show(vm, GetResult(glimpse, raw), asked, answered)
            # A watch that came while the list was in flight needs the next one.
            vm.listed = glimpse if took else NOT_LISTED
            vm.by_list = vm.is_unclear and glimpse is None
            if vm.state in (State.LISTED, State.PLANNED) or (
                self.active and vm.state is State.QUEUED
            ):
                self._plan(vm, answered)

    def _next_due(self, asked: float, answered: float) -> float:
        """Return when the next list can be of use, given one that took as long as this."""
        due = asked + max(self._between(), 2 * (answered - asked))
        recheck_at = self._recheck_at
        if due < recheck_at < math.inf:
            self._is_put_off = all(vm.waiting for vm in self._polls.vms.values())
            return recheck_at if self._is_put_off else due
        self._is_put_off = False
        soonest = asked + self._polls.schedule.floor
        # VMs that were seen to change by one list can use the same later one: it comes a little
        # later than it could rather than a moment too early for all of them.
        latest = soonest + self._polls.schedule.floor / 10
        if recheck_at <= latest:
            usable = (vm.recheck_at for vm in self._polls.vms.values() if vm.recheck_at <= latest)
            soonest = max(soonest, max(usable, default=soonest))
        return min(due, max(recheck_at, soonest))
