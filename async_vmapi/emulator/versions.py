"""What reads of one VM showed over the last seconds, for reads that show old values."""

import bisect
import math

import attrs

__all__ = ["Versions", "ViewHistory"]


class Versions:
    """Contents, each from its time on; None while the VM is absent.

    Args:
        content: What is shown until something else is added.
    """

    __slots__ = ("_contents", "_times")

    def __init__(self, content: bytes | None) -> None:
        self._times = [-math.inf]
        self._contents = [content]

    def __len__(self) -> int:
        return len(self._times)

    @property
    def since(self) -> float:
        """The time from which on the latest content is shown."""
        return self._times[-1]

    def add(self, at: float, content: bytes | None) -> None:
        """Add what is shown from `at` on."""
        self._times.append(at)
        self._contents.append(content)

    def at(self, moment: float) -> bytes | None:
        """Return what was shown at `moment`."""
        # What was dropped is older than any read may show, so the first that is left is right.
        return self._contents[max(0, bisect.bisect_right(self._times, moment) - 1)]

    def prune(self, oldest: float) -> None:
        """Drop what was over by `oldest`."""
        while len(self._times) > 1 and self._times[1] <= oldest:
            del self._times[0], self._contents[0]


@attrs.frozen
class ViewHistory:
    """What GETs of a VM showed, and what lists did."""

    get: Versions
    list: Versions

    def prune(self, oldest: float) -> None:
        """Drop what was over by `oldest`."""
        self.get.prune(oldest)
        self.list.prune(oldest)
