"""Watch the fleet for all tasks of a client at once.

The API has no events (WIRE §4), so whoever waits must ask. The hub asks for everybody. It runs
only while somebody awaits, and belongs to no awaiter, so any of them can be cancelled without
harm to the others.
"""

import asyncio
import contextvars
import copy
import heapq
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, Literal, cast

import anyio.lowlevel
import attrs

from async_vmapi.codec import Glimpse
from async_vmapi.completion import Done, Evidence, Pending, Source
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

_GETS_AT_ONCE: Final = 16
_NEVER: Final = Glimpse(id="", state="", cores=0, ram=0)

_AT_A_STRETCH: Final = 50
"""Changes told before others get their turn on the event loop: who awaited their ends is one."""


@attrs.define(eq=False)
class _Machine:
    """A machine that is awaited now, by one watch or several."""

    vm_id: str
    watches: tuple[Watch, ...] = ()
    # What the last list showed: None for absent, _NEVER before the first.
    listed: Glimpse | None = _NEVER
    joined: float = -math.inf
    # When it was last told about by a list.
    told: float = -math.inf
    due: float = math.inf
    # From when on it is told about by a list that shows nothing new, too.
    again: float = math.inf
    failures: int = 0


class PollHub:
    """One schedule for all tasks of a client.

    Args:
        transport: What asks.
        rosters: Who else asks for lists.
        floor: Seconds between two looks at the same machine, or two lists, at least.
        ceiling: Seconds between two looks at the same machine at most.
        max_staleness: Seconds by which the response to any read may be old.
        seed: Makes the jitter repeatable.
        rate: How many requests a second there are for everything; None for no limit.
    """

    def __init__(
        self,
        transport: Pipeline,
        rosters: Rosters,
        *,
        floor: float = 1.0,
        ceiling: float = 15.0,
        max_staleness: float = 10.0,
        seed: int | None = None,
        rate: float | None = None,
    ) -> None:
        self._transport = transport
        self._max_staleness = max_staleness
        self._rosters = rosters
        self._schedule = Schedule(floor=floor, ceiling=ceiling, seed=seed, rate=rate)
        # Looks due within this time are taken together.
        self._slack = floor / 4
        self._machines: dict[str, _Machine] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._context = contextvars.Context()
        # Ids whose GET waits for its turn, and these with those whose GET is under way.
        self._gets: asyncio.Queue[str] = asyncio.Queue()
        self._asked: set[str] = set()
        # GETs to come, as (time, tie-breaker, machine). An entry whose time is no longer its
        # machine's `due` is stale, and passed over.
        self._queue: list[tuple[float, int, _Machine]] = []
        self._ties = itertools.count()
        self._listing = False
        # The earliest of the machines' times of that name, or an earlier one.
        self._again = math.inf
        # Watches of reboots and resets.
        self._cycling = 0
        self._forget_times()

    def _forget_times(self) -> None:
        self._list_due = self._listed_at = -math.inf
        self._blind_until = self._hold_until = -math.inf
        self._failures = self._list_failures = 0
        self._list_error: tuple[float, str] | None = None

    @property
    def observer(self) -> Observer | None:
        """Who observes the client; None for nobody."""
        return self._transport.observer

    # --- awaiters ---------------------------------------------------------------------------

    def end(self, watch: Watch, *, until: float | None = None) -> Awaitable[bool]:
        """Wait until a watch ends that has not ended.

        Returns False where the time came first.

        Args:
            watch: What to wait for.
            until: The loop's time at which to return in any case; None for never.

        Raises:
            AuthenticationError: If the API does not let this client look.
            InvalidState: If the client is in use in another event loop, or closed meanwhile.
        """
        return self._wait(watch, watch.waiters, until)

    async def news(self, watch: Watch) -> None:
        """Wait until something new is seen of a watch that has not ended; raises as `end` does."""
        await self._wait(watch, watch.readers, None)

    async def _wait(self, watch: Watch, waiters: list[Waiter], until: float | None) -> bool:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move_to(loop)
        waiter: Waiter = loop.create_future()
        timer = None
        if until is not None:
            # Of a whole fleet's timers none needs a copy of its awaiter's context.
            timer = loop.call_at(until, _late, waiter, context=self._context)
        waiters.append(waiter)
        if len(watch.waiters) + len(watch.readers) == 1:
            self._join(watch, loop)
        if self._driver is None:
            self._start(loop)
        # Who is cancelled is told nothing.
        told: VMAPIError | bool | None = None
        try:
            news = told = await waiter
        finally:
            if timer is not None:
                timer.cancel()
            # It is not there any more where `close` freed a client of a dead loop's awaiters.
            if waiter in waiters:
                waiters.remove(waiter)
                if not (watch.waiters or watch.readers):
                    self._leave(watch, loop)
                    if watch.observer is not None and told is not True:
                        _say_why(watch.observer, told)
        if isinstance(news, VMAPIError):
            raise news
        return news

    def last_error(self, watch: Watch) -> str | None:
        """Return the text of the last look for `watch` that failed, if one did."""
        if self._list_error is not None and self._list_error[0] >= watch.started:
            return watch.last_error or self._list_error[1]
        return watch.last_error

    def close(self) -> None:
        """Let every awaiter go, with an `InvalidState`, and ask no more."""
        if self._driver is not None and self._loop is asyncio.get_running_loop():
            self._driver.cancel()
            self._driver = None
        if self.observer is not None:
            for machine in self._machines.values():
                for watch in machine.watches:
                    if watch.observer is not None:
                        watch.observer.ended("closed")
        if self._loop is not None and self._loop.is_closed():
            # Its awaiters were left behind, and nobody can wake them any more.
            for machine in self._machines.values():
                for watch in machine.watches:
                    watch.waiters.clear()
                    watch.readers.clear()
            self._machines.clear()
            self._cycling = 0
        self._release(lambda: InvalidState("the client was closed while this task was awaited"))

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._machines:
            raise InvalidState(
                "tasks of this client are awaited in another event loop; "
                "a client serves one loop at a time"
            )
        self._loop = loop
        self._driver = None
        self._wake = asyncio.Event()
        self._queue.clear()
        self._listing = False
        self._forget_times()

    def _join(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        if watch.loop is not loop:
            # Another loop's clock says nothing here; what is known to have passed still counts.
            watch.loop, watch.started = loop, loop.time() - watch.elapsed
        machine = self._machines.get(watch.vm_id)
        if machine is None:
            machine = self._machines[watch.vm_id] = _Machine(watch.vm_id)
        machine.watches += (watch,)
        if watch.observer is not None:
            watch.observer.awaited()
        self._cycling += watch.target.rule.cycle
        machine.listed, machine.joined = _NEVER, loop.time()
        # From the last look on, and never later than it was: else one who waits a little, again and
        # again, would put the next look off each time, for the others too.
        last = min(machine.joined, watch.started + watch.elapsed)
        self._plan(machine, last, latest=machine.due)

    def _leave(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        machine = self._machines[watch.vm_id]
        self._cycling -= watch.target.rule.cycle
        machine.watches = tuple(other for other in machine.watches if other is not watch)
        if machine.watches:
            return
        del self._machines[watch.vm_id]
        machine.due = math.inf
        if not self._machines:
            # Not at once: who takes one event after the other is back in the same moment.
            loop.call_soon(self._stop_if_idle)

    def _release(self, problem: Callable[[], VMAPIError]) -> None:
        for machine in self._machines.values():
            for watch in machine.watches:
                watch.wake(problem())

    # --- the driver -------------------------------------------------------------------------

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gets, self._asked = asyncio.Queue(), set()
        # The last driver may have broken off at any point.
        self._queue.clear()
        for machine in self._machines.values():
            self._plan(machine, loop.time(), latest=machine.due)
        # In a context of its own: what it does is no part of what its first awaiter does.
        self._driver = loop.create_task(
            self._drive(), name="async_vmapi poll hub", context=contextvars.Context()
        )
        self._driver.add_done_callback(self._ended)

    def _stop_if_idle(self) -> None:
        if not self._machines and self._driver is not None:
            self._driver.cancel()
            self._driver = None
            self._queue.clear()
            self._gets, self._asked = asyncio.Queue(), set()

    def _ended(self, driver: asyncio.Task[None]) -> None:
        if driver is not self._driver:
            return
        self._driver = None
        if driver.cancelled():
            # By somebody else, for instance by "cancel all tasks". Awaiters cancelled with it
            # are gone by the next turn of the loop; for those that stay, looking goes on.
            driver.get_loop().call_soon(self._restart)
        elif (error := driver.exception()) is not None:
            kind = type(error).__name__
            _log.error("polling broke off", exc_info=error, extra={"vmapi_error": kind})
            cause: BaseException = error
            while isinstance(cause, BaseExceptionGroup):
                cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
            kind = type(cause).__name__
            self._release(lambda: InvalidState(f"polling broke off with {kind}; see the log"))

    def _restart(self) -> None:
        if self._machines and self._driver is None and self._loop is not None:
            self._start(self._loop)

    async def _drive(self) -> None:
        loop = asyncio.get_running_loop()
        # Its own: the next driver may begin before this one's looks are gone.
        driver, gets, askers = cast("asyncio.Task[None]", asyncio.current_task()), self._gets, 0

        def asker_ended(asker: asyncio.Task[None]) -> None:
            if asker.cancelled():
                # Perhaps it alone; what it had in hand is planned for by the next driver.
                driver.cancel()

        # GETs run beside this loop, so that one that stalls holds up no other machine.
        async with asyncio.TaskGroup() as looks:
            while True:
                self._wake.clear()
                due = self._next_due()
                if due > loop.time():
                    timer = loop.call_at(due, self._wake.set) if due < math.inf else None
                    try:
                        await self._wake.wait()
                    finally:
                        if timer is not None:
                            timer.cancel()
                    if loop.time() < due - _CLOCK:
                        continue
                for vm_id in await self._tick(max(due, loop.time()), loop):
                    gets.put_nowait(vm_id)
                    if askers < _GETS_AT_ONCE:
                        looks.create_task(self._ask(gets, loop)).add_done_callback(asker_ended)
                        askers += 1

    def _next_due(self) -> float:
        while self._queue and self._queue[0][0] != self._queue[0][2].due:
            heapq.heappop(self._queue)
        due = self._queue[0][0] if self._queue else math.inf
        if self._listing:
            due = min(due, self._next_list)
        return max(due, self._hold_until)

    @property
    def _next_list(self) -> float:
        return max(self._list_due, self._rosters.asked + self._schedule.floor)

    def _plan(self, machine: _Machine, now: float, latest: float = math.inf) -> None:
        """Set when the machine is looked at by GET next, if at all; at the `latest` by then."""
        due = again = math.inf
        for watch in machine.watches:
            if not isinstance(watch.verdict, Pending):
                continue
            if watch.verdict.list_at is not None:
                again = min(again, watch.started + watch.verdict.list_at)
            if watch.verdict.confirm:
                if watch.verdict.look_at is None:
                    due = min(due, now + self._schedule.floor)
                else:
                    # Looks may be taken this much early, and this one is no use before its time.
                    due = min(due, watch.started + watch.verdict.look_at + self._slack)
            if not self._listing:
                elapsed = now - watch.started
                due = min(due, now + self._schedule.between_gets(watch.target.operation, elapsed))
        due = max(due, now + self._schedule.after_failures(machine.failures))
        machine.again = again
        self._again = min(self._again, again)
        # Where its GET is to come, it is planned for again after that.
        machine.due = due = math.inf if machine.vm_id in self._asked else min(due, latest)
        if due < math.inf:
            heapq.heappush(self._queue, (due, next(self._ties), machine))
            if self._queue[0][2] is machine:
                self._wake.set()

    async def _tick(self, now: float, loop: asyncio.AbstractEventLoop) -> list[str]:
        """Ask for the list if it is due; return the ids to ask for by GET."""
        if self._rosters.size is not None:
            # What creates have asked for tells what a list costs, before the hub's first.
            self._schedule.measured_list(self._rosters.size)
            self._rosters.size = None
        listing = now >= self._blind_until and self._schedule.prefers_list(
            len(self._machines), listing=self._listing
        )
        if listing is not self._listing:
            self._listing = listing
            self._list_due = max(now, self._listed_at + self._schedule.floor)
            self._queue.clear()
            for count, machine in enumerate(tuple(self._machines.values()), 1):
                if count % (10 * _AT_A_STRETCH) == 0:
                    await anyio.lowlevel.checkpoint()
                self._plan(machine, now)
        if self._listing and now >= self._next_list:
            return await self._look_at_all(loop)
        return self._take_due(now)

    def _take_due(self, now: float) -> list[str]:
        horizon = now + self._slack
        due: list[str] = []
        while self._queue and self._queue[0][0] <= horizon:
            at, _, machine = heapq.heappop(self._queue)
            if at == machine.due:
                due.append(self._wants_get(machine))
        return due

    def _wants_get(self, machine: _Machine) -> str:
        # At once: it may be left, joined or planned for before its turn comes.
        machine.due = math.inf
        self._asked.add(machine.vm_id)
        return machine.vm_id

    # --- looking ----------------------------------------------------------------------------

    async def _look_at_all(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        """Ask for the list, and return the ids that it leaves to a GET."""
        asked = self._rosters.asked = loop.time()
        try:
            listing = await look_at_all(self._transport)
        except AuthenticationError as error:
            self._refused(error, loop)
            return []
        except VMAPIError as error:
            self._list_error = (asked, str(error))
            self._list_failures += 1
            self._list_due = loop.time() + self._schedule.after_failures(self._list_failures)
            if not self._troubled(error, loop):
                # One machine that cannot be read, say, must not hide all the others.
                self._blind_until = loop.time() + 10 * self._schedule.ceiling
            return []
        self._failures = self._list_failures = 0
        if self.observer is not None:
            served = sum(len(machine.watches) for machine in self._machines.values())
            self.observer.looked("list", served)
        self._schedule.measured_list(listing.size)
        # Whoever waits for a GET waits for no list, or not for long.
        waiting = len(self._machines) - len(self._asked)
        interval = self._schedule.between_lists(waiting, cycling=self._cycling > 0)
        # A list that takes long is not asked for again at once.
        self._list_due = asked + max(interval, 2 * (loop.time() - asked))
        # To decode a large fleet's list and to compare it take some milliseconds each.
        await anyio.lowlevel.checkpoint()
        return await self._compare(listing, asked)

    async def _compare(self, listing: Listing, asked: float) -> list[str]:
        """Tell the watches what changed since the last list; return the ids that want a GET now."""
        shown = {glimpse.id: glimpse for glimpse in listing.glimpses}
        machines = self._machines.values()
        changed = [m for m in machines if shown.get(m.vm_id) != m.listed]
        if asked >= self._again:
            changed = [m for m in machines if asked >= m.again or shown.get(m.vm_id) != m.listed]
            self._again = min((m.again for m in machines if m.again > asked), default=math.inf)
        before, self._listed_at = self._listed_at, asked
        confirm: list[str] = []
        if not changed:
            return confirm
        await anyio.lowlevel.checkpoint()
        raws = listing.raws()
        await anyio.lowlevel.checkpoint()
        places = {glimpse.id: place for place, glimpse in enumerate(listing.glimpses)}
        for count, machine in enumerate(changed, 1):
            if count % _AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
            place = places.get(machine.vm_id)
            raw = None if place is None else bytes(raws[place])
            self._show(machine, shown.get(machine.vm_id), raw, asked, before)
            wanted = any(watch.wants_get_now for watch in machine.watches)
            if wanted and machine.vm_id not in self._asked:
                confirm.append(self._wants_get(machine))
        return confirm

    def _show(
        self,
        machine: _Machine,
        glimpse: Glimpse | None,
        raw: bytes | None,
        asked: float,
        before: float,
    ) -> None:
        seen = None if glimpse is None else _condition(glimpse)
        listed = machine.listed
        # To a watch that came while the list was under way, or to which a GET has told later news
        # meanwhile, it says nothing.
        heard = asked >= machine.joined
        for watch in machine.watches:
            if listed is not None and listed is not _NEVER and before > machine.told:
                # It was passed over while it stayed the same; when it did so last counts.
                watch.saw(before, Source.LIST, _condition(listed), None)
            watch.saw(asked, Source.LIST, seen, raw)
            heard = heard and (watch.ended or watch.elapsed == asked - watch.started)
        machine.told = asked
        machine.listed = glimpse if heard else _NEVER
        self._learn(machine)
        self._plan(machine, asked)

    async def _ask(self, gets: asyncio.Queue[str], loop: asyncio.AbstractEventLoop) -> None:
        """Look by GET at one machine after the other, as their turns come."""
        while True:
            vm_id = await gets.get()
            while (held := self._hold_until - loop.time()) > 0:  # noqa: ASYNC110 - may be prolonged
                await asyncio.sleep(held)
            # Else nobody awaits it any more, for instance because a list came first.
            if vm_id in self._machines:
                await self._look_at(vm_id, loop)
            self._asked.discard(vm_id)
            if (machine := self._machines.get(vm_id)) is not None:
                self._plan(machine, loop.time())

    async def _look_at(self, vm_id: str, loop: asyncio.AbstractEventLoop) -> None:
        """Look at one machine by GET."""
        asked = loop.time()
        look, problem = None, ""
        try:
            look = await look_at(self._transport, vm_id)
        except AuthenticationError as error:
            self._refused(error, loop)
            return
        except VMAPIError as error:
            self._troubled(error, loop)
            problem = str(error)
        else:
            self._failures = 0
            if look.size is not None:
                self._schedule.measured_get(look.size)
        # Not before: it may have been left meanwhile, and be awaited again.
        machine = self._machines.get(vm_id) or _Machine(vm_id)
        if look is None:
            machine.failures += 1
            for watch in machine.watches:
                watch.missed(problem)
            return
        machine.failures = 0
        if self.observer is not None:
            self.observer.looked("get", len(machine.watches))
        seen = None if look.glimpse is None else _condition(look.glimpse)
        for watch in machine.watches:
            watch.saw(asked, Source.GET, seen, look.raw)
        if look.glimpse is not None and look.glimpse != machine.listed:
            # One of the two is behind: what the next list shows is news, new or not.
            machine.listed = _NEVER
        self._learn(machine)

    def _learn(self, machine: _Machine) -> None:
        for watch in machine.watches:
            verdict = watch.verdict
            if isinstance(verdict, Done) and verdict.evidence is Evidence.OBSERVED:
                self._schedule.took(watch.target.operation, watch.elapsed)

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
        # Who awaits is gone by the time that the next look would come.
        self._hold_until = loop.time() + self._schedule.floor
        self._release(lambda: copy.copy(error))


def _say_why(observer: OperationObserver, news: VMAPIError | Literal[False] | None) -> None:
    """Tell why the last awaiter went away before the end."""
    if news is None:
        observer.ended("cancelled")
    elif news is False:
        observer.ended("timeout")
    else:
        observer.ended("error", news)


def _late(waiter: Waiter) -> None:
    if not waiter.done():
        waiter.set_result(False)


def _condition(glimpse: Glimpse) -> Condition:
    return Condition(glimpse.state, glimpse.cores, glimpse.ram)
