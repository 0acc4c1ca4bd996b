"""Decide when to look and how: by GET or by one list. Pure, but for its own seeded random.

One look at the fleet by list costs the same for one machine as for all of them; so the list is
taken where the GETs would cost more, and the more machines wait for it, the more often.
"""

import math
import random
from typing import Final

from async_vmapi.models import Operation

__all__ = ["Schedule"]

_REQUEST: Final = 64 * 1024
"""What a request costs besides its bytes, told in bytes: requests are what rate limits count."""

_BYTES_PER_SECOND: Final = 10_000_000
"""What a line carries while a request that is one of so many a second waits for its turn."""

_FLEET: Final = 1000
"""Machines that an account is thought to have until a list has shown it."""

_VM_BYTES: Final = 1000

_FLOORS_ALONE: Final = 15
"""From how many floors on a list would be taken for one machine alone."""

_FLOORS_CYCLING: Final = 2
"""After how many floors a list is taken, at the most, while a reboot or reset is awaited."""

_LEARNED: Final = 5
"""Ends of an operation to have seen before their times count."""


class Schedule:
    """What was learned about costs and durations, and what follows from it.

    Args:
        floor: Seconds between two looks at least.
        ceiling: Seconds between two looks at most.
        seed: Makes the jitter repeatable.
        rate: How many requests a second there are for everything; None for no limit.
    """

    def __init__(
        self, *, floor: float, ceiling: float, seed: int | None, rate: float | None = None
    ) -> None:
        self.floor = floor
        self.ceiling = ceiling
        # Where requests are few, each is worth more bytes.
        self._request = max(_REQUEST, _BYTES_PER_SECOND / rate if rate else 0.0)
        self._random = random.Random(seed)  # noqa: S311 - jitter, not a secret
        self._list_cost = self._request + _FLEET * _VM_BYTES
        self._get_cost = self._request + _VM_BYTES
        self._durations: dict[Operation, tuple[int, float, float]] = {}

    def measured_list(self, size: int) -> None:
        """Learn from the bytes of a list."""
        self._list_cost = self._request + size

    def measured_get(self, size: int) -> None:
        """Learn from the bytes of a get."""
        self._get_cost = self._request + size

    def took(self, operation: Operation, elapsed: float) -> None:
        """Learn from an operation that was seen to end `elapsed` seconds after its request."""
        count, shortest, longest = self._durations.get(operation, (0, math.inf, 0.0))
        self._durations[operation] = (count + 1, min(shortest, elapsed), max(longest, elapsed))

    def prefers_list(self, machines: int, *, listing: bool = False) -> bool:
        """Tell whether one list is cheaper than a GET for each of so many machines.

        Args:
            machines: How many are awaited.
            listing: Whether the list is in use; it is left only where it costs twice as much,
                so that the last of a fleet do not make it go to and fro. For one machine alone
                a GET is asked: it costs less, and proves more.
        """
        return machines > 1 and machines * self._get_cost * (2 if listing else 1) > self._list_cost

    def between_lists(self, machines: int, *, cycling: bool) -> float:
        """Return seconds from one list to the next.

        For a given price of a request the sum of requests and waiting is least where the
        interval falls with the square root of how many wait.

        Args:
            machines: How many are awaited.
            cycling: Whether one of them reboots, which shows for a short while alone.
        """
        wanted = _FLOORS_ALONE * self.floor / math.sqrt(max(1, machines))
        if cycling:
            wanted = min(wanted, _FLOORS_CYCLING * self.floor)
        return self._jittered(wanted, 1.1)

    def between_gets(self, operation: Operation, elapsed: float) -> float:
        """Return seconds to the next look at one machine.

        An eighth of what has passed, so that the delay stays in proportion to what is waited
        for; where the operation's durations are known, none before the shortest of them, and
        more often while it can end at any moment.
        """
        wanted = elapsed / 8
        count, shortest, longest = self._durations.get(operation, (0, 0.0, 0.0))
        if count >= _LEARNED:
            if elapsed < 0.9 * shortest:
                wanted = 0.9 * shortest - elapsed
            elif elapsed <= 1.1 * longest:
                wanted = (longest - shortest) / 20
        return self._jittered(wanted, 1.2)

    def after_failures(self, count: int) -> float:
        """Return seconds to wait after so many failed looks in a row; 0 after none."""
        if count == 0:
            return 0.0
        return self._jittered(self.floor * 2.0 ** min(count, 16), 1.2)

    def _jittered(self, wanted: float, most: float) -> float:
        bounded = min(max(wanted, self.floor), self.ceiling)
        return min(bounded * self._random.uniform(1.0, most), max(self.ceiling, self.floor))
