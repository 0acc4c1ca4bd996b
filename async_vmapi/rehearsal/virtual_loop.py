"""An event loop whose clock jumps to the next timer, so that hours take moments."""

import asyncio
import math
import selectors
from typing import Final

__all__ = ["VirtualLoop"]

_STALLED: Final = 10.0
"""Real seconds without any event or timer, after which nothing will ever happen."""


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            # Another thread may wake the loop up, for instance when it is closed.
            if events := super().select(_STALLED):
                return events
            raise RuntimeError("all tasks wait for each other")
        # The system is not asked: what another thread calls needs no event to be run.
        if timeout > 0:
            # At least to the next number: after a year, a timer can be less than that ahead.
            self.now = math.nextafter(self.now + timeout, math.inf)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its time begins at 0.

    It is for code that does all its waiting by timers: nothing outside the process has any time.
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the loop's time in seconds."""
        return self._clock.now

    async def shutdown_default_executor(
        self,
        timeout: float | None = None,  # noqa: ARG002 - asyncio passes it
    ) -> None:
        """Wait for its threads, which take real time: a timeout would jump ahead of them."""
        await super().shutdown_default_executor()
