"""`drift`: which facts of two files differ by more than chance. Pure."""

from collections.abc import Iterator
from typing import Any, Final

from async_vmapi.facts import SPECS, Fact, Facts

__all__ = ["drift"]

_SECONDS: Final = 2.0
_SHARE: Final = 0.25
_TIMES: Final = frozenset({"seconds", "span", "stages"})
_OURS: Final = frozenset({"clock.offset"})
"""What depends on the computer, too."""


def drift(before: Facts, after: Facts) -> dict[str, tuple[Fact | None, Fact | None]]:
    """Return the facts that have changed: before, and after.

    Times count if they differ by more than two seconds and a quarter; measurements scatter.
    """
    return {
        name: (one, two)
        for name, (one, two) in before.diff(after).items()
        if name not in _OURS
        if one is None or two is None or not _is_close(SPECS[name].kind, one.value, two.value)
    }


def _is_close(kind: str, one: Any, two: Any) -> bool:
    if kind not in _TIMES:
        return False
    pairs = list(_flat(one)), list(_flat(two))
    return len(pairs[0]) == len(pairs[1]) and all(
        a == b
        if isinstance(a, str) or isinstance(b, str)
        else abs(a - b) <= max(_SECONDS, _SHARE * max(a, b))
        for a, b in zip(*pairs, strict=True)
    )


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _flat(part)
    else:
        yield value
