"""The recent versions of one VM's content, by time, for stale reads."""

import bisect
import math
from collections.abc import Iterable, Iterator
from typing import Self

import attrs

__all__ = ["Versions", "ViewHistory"]


class Versions:
    """Contents by time; None while the VM is absent.

    Args:
        content: The first content.
    """

    __slots__ = ("_contents", "_times")

    def __init__(self, content: bytes | None) -> None:
        self._times = [-math.inf]
        self._contents = [content]

    @classmethod
    def of(cls, contents: Iterable[tuple[float, bytes | None]]) -> Self:
        """Return contents with the times from which each is shown, oldest first.

        Raises:
            ValueError: If there is none.
        """
        versions = cls(None)
        versions._times, versions._contents = map(list, zip(*contents, strict=True))
        return versions

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[tuple[float, bytes | None]]:
        return zip(self._times, self._contents, strict=True)

    @property
    def since(self) -> float:
        """The time from which the latest content is shown."""
        return self._times[-1]

    def add(self, at: float, content: bytes | None) -> None:
        """Add the content shown from `at` on."""
        self._times.append(at)
        self._contents.append(content)

    def at(self, moment: float) -> bytes | None:
        """Return the content shown at `moment`."""
        # Pruned contents are older than any read may show, so the first one left is right.
        return self._contents[max(0, bisect.bisect_right(self._times, moment) - 1)]

    def prune(self, oldest: float) -> None:
        """Drop contents that were replaced by `oldest`."""
        while len(self._times) > 1 and self._times[1] <= oldest:
            del self._times[0], self._contents[0]


@attrs.frozen
class ViewHistory:
    """What GETs and lists showed of a VM."""

    get: Versions
    list: Versions

    def prune(self, oldest: float) -> None:
        """Drop contents that were replaced by `oldest`."""
        self.get.prune(oldest)
        self.list.prune(oldest)
