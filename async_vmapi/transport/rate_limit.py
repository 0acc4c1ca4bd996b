"""Let requests onto the wire: so many at once, so many a second, and none while held back.

What bulk work calls its limit is another one: how many machines are being changed. This one is
about requests alone.
"""

import asyncio
import enum
import math
from collections import deque
from types import TracebackType
from typing import Final

__all__ = ["LONGEST_HOLD", "Pace", "Priority"]

LONGEST_HOLD: Final = 300.0
"""Seconds for which a server's ``Retry-After`` holds the client back at most."""

_BURST: Final = 0.05
"""Seconds' worth of requests that may go at once where there is a rate; two in any case."""


_CALLS_PER_LOOK: Final = 9
"""How many calls go for one look where both wait: an end may be seen a little later, but what
is not sent yet does not begin at all."""


_CLOCK: Final = 0.001
"""Seconds by which a timer may fire early: a rest below it is not waited for, so that no clock
makes a loop here spin."""


class Priority(enum.Enum):
    """Who asks. Where both wait they take turns, so neither starves the other."""

    CALLS = "calls"
    LOOKS = "looks"


class Pace:
    """The way onto the wire; one request at a time goes through the gate.

    Args:
        max_connections: How many requests are on the wire at once, at most.
        max_requests_per_second: How many set out in a second, at most; None for no limit.
    """

    def __init__(self, max_connections: int, max_requests_per_second: float | None) -> None:
        self._most = max_connections
        self._rate = max_requests_per_second
        self._gate: _Gate | None = None

    def admit(self, lane: Priority, *, first: bool = False) -> "_Admission":
        """Wait until a request may set out; what is inside the context is the request.

        Args:
            lane: Who asks.
            first: Whether it goes before those that wait already, as a repetition does.
        """
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate.loop is not loop:
            self._gate = _Gate(loop, self._most, self._rate)
        return _Admission(self._gate, lane, first=first)

    def hold(self, seconds: float) -> None:
        """Let nothing out for some seconds, `LONGEST_HOLD` at most, and then little at first.

        This alone is what a server's ``Retry-After`` does: no call and no poll is sent earlier.
        """
        if self._gate is not None:
            self._gate.hold(min(seconds, LONGEST_HOLD))

    @property
    def held_until(self) -> float:
        """The running loop's time before which nothing is let out."""
        if self._gate is None or self._gate.loop is not asyncio.get_running_loop():
            return -math.inf
        return self._gate.held_until

    def grow(self) -> None:
        """Let one more out at once than before, after a hold: an answer came that was none."""
        if self._gate is not None:
            self._gate.grow()


class _Admission:
    """One request's way through the gate, and its place on the wire.

    Every request has one, and most find the gate open: a generator's context would cost as much
    as all that is done in it.
    """

    __slots__ = ("_first", "_gate", "_lane")

    def __init__(self, gate: "_Gate", lane: Priority, *, first: bool) -> None:
        self._gate = gate
        self._lane = lane
        self._first = first

    async def __aenter__(self) -> None:
        if not self._gate.pass_open():
            await self._gate.enter(self._lane, first=self._first)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gate.leave()


class _Gate:
    """The gate of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, rate: float | None) -> None:
        self.loop = loop
        self._most = self._window = most
        self._out = 0
        self.held_until = loop.time()
        # The time between two requests, and when those let out so far have taken theirs (GCRA).
        self._interval = 0.0 if rate is None else 1 / rate
        self._spent_until = self.held_until
        # A burst of more at the start would overrun a server that counts strictly.
        burst = 0.0 if rate is None else max(2.0, rate * _BURST)
        self._ahead = (burst - 1) * self._interval
        self._busy = False
        self._calls = 0
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {
            lane: deque() for lane in Priority
        }
        self._room: asyncio.Future[None] | None = None

    def pass_open(self) -> bool:
        """Let a request out without waiting, if nothing stands in its way and nobody waits."""
        if (
            self._busy
            or self._interval > 0
            or self._out >= self._window
            or self.held_until - self.loop.time() > _CLOCK
        ):
            return False
        self._out += 1
        return True

    async def enter(self, lane: Priority, *, first: bool) -> None:
        await self._turn(lane, first=first)
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
        self._out -= 1
        if self._room is not None:
            self._make_room()

    def hold(self, seconds: float) -> None:
        self.held_until = max(self.held_until, self.loop.time() + seconds)
        self._window = 1

    def grow(self) -> None:
        if self._window < self._most:
            self._window += 1
            self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _turn(self, lane: Priority, *, first: bool) -> None:
        if not self._busy:
            self._busy = True
            return
        turn = self.loop.create_future()
        waiting = self._waiting[lane]
        if first:
            waiting.appendleft(turn)
        else:
            waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # It was its turn already, and is the next one's now.
                self._next()
            raise

    def _next(self) -> None:
        lanes = [Priority.CALLS, Priority.LOOKS]
        if self._calls >= _CALLS_PER_LOOK:
            lanes.reverse()
        for lane in lanes:
            waiting = self._waiting[lane]
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    self._calls = self._calls + 1 if lane is Priority.CALLS else 0
                    turn.set_result(None)
                    return
        self._busy = False
