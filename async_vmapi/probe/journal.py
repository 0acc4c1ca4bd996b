"""`Journal`: a file of what a probe is about to create, for cleaning up after a kill."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

__all__ = ["Journal"]


class Journal:
    """Tokens of creates, and the ids of their VMs, each on disk before the next step.

    Args:
        path: The file; None to keep nothing, for tests and for programs that are never killed.
    """

    def __init__(self, path: "str | os.PathLike[str] | None") -> None:
        self._path = None if path is None else Path(path)
        self._entries: list[dict[str, str]] = []
        if self._path is not None:
            with suppress(FileNotFoundError):
                self._entries = [*map(_entry, self._path.read_text("utf-8").splitlines())]

    @property
    def exists(self) -> bool:
        """Whether an earlier probe left something in it."""
        return self._path is not None and self._path.exists()

    def intend(self, token: str) -> None:
        """Note that a create will be sent."""
        self._add({"token": token})

    def created(self, token: str, vm_id: str) -> None:
        """Note the VM of a create."""
        self._add({"token": token, "vm": vm_id})

    def ended(self, token: str) -> None:
        """Note that a create made no VM, or that it is deleted."""
        self._add({"ended": token})

    def _add(self, entry: dict[str, str]) -> None:
        self._entries.append(entry)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                # The line before may have been cut off.
                file.write(f"\n{json.dumps(entry)}\n")
                file.flush()
                os.fsync(file.fileno())

    @property
    def open(self) -> dict[str, str | None]:
        """The tokens of creates whose VMs may exist, and the ids that are known."""
        found: dict[str, str | None] = {}
        for entry in self._entries:
            if "token" in entry:
                found[entry["token"]] = entry.get("vm")
            found.pop(entry.get("ended", ""), None)
        return found

    def remove(self) -> None:
        """Remove the file: nothing is left."""
        self._entries.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _entry(line: str) -> dict[str, str]:
    # The last line may be cut off by a kill; then its request was not sent.
    with suppress(ValueError):
        found: Any = json.loads(line)
        if isinstance(found, dict):
            return cast("dict[str, str]", found)
    return {}
