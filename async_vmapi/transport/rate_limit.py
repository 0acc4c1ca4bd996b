"""Limit requests: in flight, per second, and none during a ``Retry-After``.

The limit of a bulk call is a different one: it counts VMs with an operation in progress.
"""

import asyncio
import enum
from collections import deque
from typing import Final

__all__ = ["LONGEST_HOLD", "Gate", "Pace", "Priority"]

LONGEST_HOLD: Final = 300.0
"""Maximum seconds for which a ``Retry-After`` is honoured."""

_BURST: Final = 0.05
"""Burst size under a rate limit, in seconds' worth of requests; at least two requests."""

_CALLS_PER_POLL: Final = 9
"""Calls per poll while both are queued: a late poll delays the result a little, a late call delays
the whole operation."""

_CLOCK: Final = 0.001
"""Seconds by which a timer may fire early. Shorter waits are skipped, so that no clock makes a loop
here spin."""


class Priority(enum.Enum):
    """The two queues of requests. They take turns, so neither starves the other."""

    CALLS = "calls"
    POLLS = "polls"


class Pace:
    """Limits the requests of a client.

    Args:
        max_connections: Maximum number of requests in flight.
        max_requests_per_second: Maximum number of requests sent per second; None for no limit.
    """

    def __init__(self, max_connections: int, max_requests_per_second: float | None) -> None:
        self._most = max_connections
        self._rate = max_requests_per_second
        self._gate: Gate | None = None

    def gate(self) -> "Gate":
        """Return the gate of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate.loop is not loop:
            self._gate = Gate(loop, self._most, self._rate)
        return self._gate


class Gate:
    """The gate of one event loop: enter it to send a request, and leave it with the response.

    Attributes:
        held_until: The loop's time before which nothing is sent.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, rate: float | None) -> None:
        self.loop = loop
        self._most = self._window = most
        self._out = 0
        self.held_until = loop.time()
        # GCRA: the emission interval, and the theoretical arrival time.
        self._interval = 0.0 if rate is None else 1 / rate
        self._spent_until = self.held_until
        # A larger initial burst would exceed the limit of a server that counts strictly.
        burst = 0.0 if rate is None else max(2.0, rate * _BURST)
        self._ahead = (burst - 1) * self._interval
        self._busy = False
        self._calls = 0
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {
            priority: deque() for priority in Priority
        }
        self._room: asyncio.Future[None] | None = None

    def try_enter(self) -> bool:
        """Enter at once, and return True, if no limit applies and the queues are empty."""
        if (
            self._busy
            or self._interval > 0
            or self._out >= self._window
            or self.held_until - self.loop.time() > _CLOCK
        ):
            return False
        self._out += 1
        return True

    async def enter(self, priority: Priority, *, first: bool = False) -> None:
        """Wait for its turn.

        Args:
            priority: The queue to wait in.
            first: Whether to go to the front of the queue, as retries do.
        """
        await self._turn(priority, first=first)
        try:
            while True:
                now = self.loop.time()
                free = max(self.held_until, self._spent_until - self._ahead)
                if free - now > _CLOCK:
                    await asyncio.sleep(free - now)
                elif self._out >= self._window:
                    self._room = self.loop.create_future()
                    await self._room
                else:
                    break
            self._spent_until = max(self._spent_until, now) + self._interval
            self._out += 1
        finally:
            self._next()

    def leave(self) -> None:
        """Let the next request in."""
        self._out -= 1
        if self._room is not None:
            self._make_room()

    def hold(self, seconds: float) -> None:
        """Send nothing for some seconds, at most `LONGEST_HOLD`, then start with one at a time.

        The only effect of a ``Retry-After``: it delays all calls and polls.
        """
        until = self.loop.time() + min(seconds, LONGEST_HOLD)
        self.held_until = max(self.held_until, until)
        self._window = 1

    @property
    def is_narrow(self) -> bool:
        """Whether a hold has lowered the concurrency limit."""
        return self._window < self._most

    def grow(self) -> None:
        """Raise the concurrency limit by one after a hold, up to the maximum."""
        if self._window < self._most:
            self._window += 1
            self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _turn(self, priority: Priority, *, first: bool) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = self.loop.create_future()
        waiting = self._waiting[priority]
        if first:
            waiting.appendleft(turn)
        else:
            waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It had its turn already: pass it on.
                self._next()
            raise

    def _next(self) -> None:
        priorities = [Priority.CALLS, Priority.POLLS]
        if self._calls >= _CALLS_PER_POLL:
            priorities.reverse()
        for priority in priorities:
            waiting = self._waiting[priority]
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    self._calls = self._calls + 1 if priority is Priority.CALLS else 0
                    turn.set_result(None)
                    return
        self._busy = False
