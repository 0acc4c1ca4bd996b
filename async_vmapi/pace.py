"""Let requests onto the wire: so many at once, so many a second, and none while held back.

What bulk work calls its limit is another one: how many machines are being changed. This one is
about requests alone.
"""

import asyncio
import enum
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from aiolimiter import AsyncLimiter

__all__ = ["LONGEST_HOLD", "Lane", "Pace"]

LONGEST_HOLD: Final = 60.0
"""Seconds for which a server's ``Retry-After`` holds the client back at most."""

_BURST: Final = 0.05
"""Seconds' worth of requests that may go at once where there is a rate."""


class Lane(enum.Enum):
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

    @asynccontextmanager
    async def admit(self, lane: Lane, *, again: bool = False) -> AsyncGenerator[None]:
        """Wait until a request may set out; what is inside the context is the request.

        Args:
            lane: Who asks.
            again: Whether it is a repetition, which goes before those that wait already.
        """
        loop = asyncio.get_running_loop()
        if self._gate is None or self._gate.loop is not loop:
            self._gate = _Gate(loop, self._most, self._rate)
        gate = self._gate
        await gate.enter(lane, again=again)
        try:
            yield
        finally:
            gate.leave()

    def hold(self, seconds: float) -> None:
        """Let nothing out for some seconds, and then little at first."""
        if self._gate is not None:
            self._gate.hold(min(seconds, LONGEST_HOLD))

    def grow(self) -> None:
        """Let one more out at once than before, after a hold: an answer came that was none."""
        if self._gate is not None:
            self._gate.grow()


class _Gate:
    """The gate of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, rate: float | None) -> None:
        self.loop = loop
        self._most = self._window = most
        self._out = 0
        self._held_until = loop.time()
        # Evenly spread: a burst at the start would overrun a server that counts strictly.
        burst = 1.0 if rate is None else max(1.0, rate * _BURST)
        self._limiter = None if rate is None else AsyncLimiter(burst, burst / rate)
        self._busy = False
        self._last = Lane.LOOKS
        self._waiting: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._room: asyncio.Future[None] | None = None

    async def enter(self, lane: Lane, *, again: bool) -> None:
        await self._turn(lane, again=again)
        try:
            while True:
                if (hold := self._held_until - self.loop.time()) > 0:
                    await asyncio.sleep(hold)
                elif self._out >= self._window:
                    self._room = self.loop.create_future()
                    await self._room
                else:
                    break
            if self._limiter is not None:
                await self._limiter.acquire()
            self._out += 1
        finally:
            self._next()

    def leave(self) -> None:
        self._out -= 1
        self._make_room()

    def hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self.loop.time() + seconds)
        self._window = 1

    def grow(self) -> None:
        if self._window < self._most:
            self._window += 1
            self._make_room()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _turn(self, lane: Lane, *, again: bool) -> None:
        if not self._busy:
            self._busy, self._last = True, lane
            return
        turn = self.loop.create_future()
        waiting = self._waiting[lane]
        if again:
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
        first = Lane.CALLS if self._last is Lane.LOOKS else Lane.LOOKS
        for lane in (first, self._last):
            waiting = self._waiting[lane]
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    self._last = lane
                    turn.set_result(None)
                    return
        self._busy = False
