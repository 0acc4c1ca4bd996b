"""`Schedule`: how long to wait between polls, and whether to poll by GET or by list.

A list costs the same for one VM as for all of them. So the schedule prefers the list where GETs
would cost more, and sends it more often the more VMs are awaited. Pure, except for its seeded
random.
"""

import math
import random
from collections.abc import Mapping
from typing import Final

from async_vmapi.tasks.rules import Awaited

__all__ = ["TIMER_TOLERANCE", "Schedule"]

TIMER_TOLERANCE: Final = 0.001
"""Seconds by which timers may fire early: the resolution of the loop's clock."""

_REQUEST: Final = 64 * 1024
"""The fixed cost of a request, in bytes: rate limits count requests."""

_BYTES_PER_SECOND: Final = 10_000_000
"""Assumed bandwidth; it converts the wait for a rate-limited request into bytes."""

_FLEET: Final = 1000
"""Assumed number of VMs in the account before the first list."""

_VM_BYTES: Final = 1000

_INTERVALS_ALONE: Final = 15
"""Interval between lists for a single VM, in minimum intervals."""

_INTERVALS_CYCLING: Final = 2
"""Maximum interval between lists while a reboot or reset is awaited, in minimum intervals."""

_LEARNED: Final = 5
"""Completions of an operation to observe before their durations count."""


class Schedule:
    """The polling intervals, from observed costs and durations.

    Args:
        min_interval: Minimum seconds between two polls.
        max_interval: Maximum seconds between two polls.
        seed: Seed of the jitter.
        rate: The client's limit in requests per second; None for no limit.
        durations: Known durations of operations: how often seen, shortest and longest.
    """

    def __init__(
        self,
        *,
        min_interval: float,
        max_interval: float,
        seed: int | None,
        rate: float | None = None,
        durations: Mapping[str, tuple[int, float, float]] | None = None,
    ) -> None:
        self.min_interval = min_interval
        self.max_interval = max_interval
        # The fewer requests are allowed, the more each one costs.
        self._request = max(_REQUEST, _BYTES_PER_SECOND / rate if rate else 0.0)
        self._random = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._list_cost = self._request + _FLEET * _VM_BYTES
        self._get_cost = self._request + _VM_BYTES
        self._durations = dict(durations or {})

    def measured_list(self, size: int) -> None:
        """Learn from the size of a list in bytes."""
        self._list_cost = self._request + size

    def measured_get(self, size: int) -> None:
        """Learn from the size of a GET in bytes."""
        self._get_cost = self._request + size

    def completed(self, operation: Awaited, elapsed: float) -> None:
        """Learn from an operation that was seen to complete `elapsed` seconds after its request."""
        count, shortest, longest = self._durations.get(operation, (0, math.inf, 0.0))
        self._durations[operation] = (count + 1, min(shortest, elapsed), max(longest, elapsed))

    def prefers_list(self, vms: int, *, list_mode: bool = False) -> bool:
        """Return whether one list is cheaper than a GET for each VM.

        A single VM is always polled by GET, which costs less and proves more.

        Args:
            vms: Number of awaited VMs.
            list_mode: Whether lists are in use. They are kept until they cost twice as much, so
                that the mode does not flap while the last VMs of a fleet complete.
        """
        factor = 2 if list_mode else 1
        return vms > 1 and vms * self._get_cost * factor > self._list_cost

    def list_interval(self, vms: int, *, cycling: bool) -> float:
        """Return the seconds from one list to the next.

        The total cost of requests and waiting is lowest if the interval falls with the square root
        of the number of awaited VMs.

        Args:
            vms: Number of awaited VMs.
            cycling: Whether one of them reboots, which is visible only briefly.
        """
        interval = _INTERVALS_ALONE * self.min_interval / math.sqrt(max(1, vms))
        if cycling:
            interval = min(interval, _INTERVALS_CYCLING * self.min_interval)
        return self._jittered(interval, 1.1)

    def get_interval(self, operation: Awaited, elapsed: float) -> float:
        """Return the seconds until the next GET of one VM.

        An eighth of the elapsed time, so that the delay stays proportional to the wait. Once the
        operation's durations are known: no poll before the shortest, and more frequent polls while
        completion can come at any moment.
        """
        interval = elapsed / 8
        count, shortest, longest = self._durations.get(operation, (0, 0.0, 0.0))
        if count >= _LEARNED:
            if elapsed < 0.9 * shortest:
                interval = 0.9 * shortest - elapsed
            elif elapsed <= 1.1 * longest:
                interval = (longest - shortest) / 20
        return self._jittered(interval, 1.2)

    def backoff(self, count: int) -> float:
        """Return the seconds to wait after `count` consecutive failed polls; 0 after none."""
        if count == 0:
            return 0.0
        return self._jittered(self.min_interval * 2.0 ** min(count, 16), 1.2)

    def _jittered(self, interval: float, most: float) -> float:
        bounded = min(max(interval, self.min_interval), self.max_interval)
        return min(
            bounded * self._random.uniform(1.0, most), max(self.max_interval, self.min_interval)
        )
