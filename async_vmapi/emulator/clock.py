"""The clock of a served cloud: it follows the event loop's, at any speed, and can be paused."""

import asyncio
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """A clock that never goes back.

    Args:
        speed: Seconds that pass in one second of the event loop's clock.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed
        self._paused = False
        self._time: Callable[[], float] = float
        # Since the last change: the time of this clock then, that of the loop's, and the pace.
        self._base = self._since = self._pace = 0.0

    def start(self, now: float) -> None:
        """Start at `now` seconds, on the running event loop."""
        self._time = asyncio.get_running_loop().time
        self._continue_from(now)

    @property
    def now(self) -> float:
        """The current time in seconds; 0 before the start."""
        return self._base + (self._time() - self._since) * self._pace

    def after(self, seconds: float) -> float:
        """Return the time after `seconds` of the event loop's clock, if nothing changes."""
        return self.now + seconds * self._pace

    @property
    def speed(self) -> float:
        """Seconds that pass in one second of the event loop's clock, unless it is paused."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._speed = speed
        self._continue_from(self.now)

    @property
    def paused(self) -> bool:
        """Whether it stands still; it can then still be advanced."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        now = self.now
        self._paused = paused
        self._continue_from(now)

    def advance(self, seconds: float) -> None:
        """Move it forward by `seconds`, 0 or more."""
        self._continue_from(self.now + seconds)

    def _continue_from(self, now: float) -> None:
        self._base = now
        self._since = self._time()
        self._pace = 0.0 if self._paused else self._speed
