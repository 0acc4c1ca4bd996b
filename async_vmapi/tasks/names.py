"""Recognize a name that the provider may have changed. Pure.

A provider may change the case of a name, trim or truncate it, or store it in another Unicode normal
form. Such a label proves nothing, but its VM can be the result of a create.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from async_vmapi.transport.codec import NamedVM

__all__ = ["Labels", "key"]

_LONGEST: Final = 1024
"""Characters of a name that are compared with truncated labels."""

_NOT_ALPHANUMERIC: Final = str.maketrans(
    "", "", "".join(c for c in map(chr, range(128)) if not c.isalnum())
)


def key(name: str) -> str:
    """Return a name without what a provider may change: case, accents and punctuation."""
    if name.isascii():
        return name.lower().translate(_NOT_ALPHANUMERIC)
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(filter(str.isalnum, folded))


class Labels:
    """VMs by their labels.

    Args:
        vms: The VMs.
        among: All labels of the list that contains them.

    Attributes:
        vms: As above.
    """

    def __init__(self, vms: Sequence[NamedVM], *, among: Sequence[str]) -> None:
        self.vms = vms
        self._longest = max(map(len, among), default=0)
        beyond_ascii = (len(label.encode()) for label in among if not label.isascii())
        self._longest_bytes = max(beyond_ascii, default=0)
        self._by_key: dict[str, list[NamedVM]] = {}
        for vm in vms:
            self._by_key.setdefault(key(vm.label or ""), []).append(vm)

    def like(self, name: str) -> Iterable[NamedVM]:
        """Return the VMs whose label can be a changed form of a name, with duplicates."""
        # A missing label, or one without letters and digits, can be the rest of any name.
        yield from self._by_key.get("", ())
        yield from self._by_key.get(key(name), ())
        # The provider does not truncate to this length if another label is longer.
        for length in range(1, min(len(name), _LONGEST)):
            cut = name[:length]
            if length >= self._longest or (
                # Truncated by bytes; the last character may not have fitted.
                not name.isascii()
                and len(cut.encode()) + 3 >= max(self._longest, self._longest_bytes)
            ):
                yield from self._by_key.get(key(cut), ())
