"""Write report files: the one of ``--report``, or a fallback if a report cannot be shown."""

import errno
import os
import select
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Final

from platformdirs import user_state_path

from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.running import say

__all__ = ["check_file", "keep_report", "write_report"]

_PATIENCE: Final = 5.0
"""Seconds without progress after which writing to a pipe or terminal is given up."""

_UNREAD: Final = "no program reads it"

_pipes: Final = dict[Path, int]()
"""Pipes that were checked, still open: closing one would end its reader."""


def check_file(path: Path) -> None:
    """Raise OSError if a report cannot be written there; never waits for a pipe's reader."""
    if not _is_special(path):
        path.open("a").close()
    elif path not in _pipes:
        _pipes[path] = _open(path)


def write_report(path: Path, text: str) -> bool:
    """Write a report to a file and return whether that succeeded; print the reason if not."""
    try:
        if _is_special(path):
            _write_special(path, text.encode())
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        say(f"{path} cannot be written: {error.strerror}")
        return False
    return True


def _is_special(path: Path) -> bool:
    """Return whether it is a pipe, a terminal or another device, like /dev/stderr."""
    return sys.platform != "win32" and path.exists() and not path.is_file()


def _open(path: Path) -> int:
    try:
        # Without O_NONBLOCK, this waits until a program opens the pipe for reading.
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, _UNREAD) from None
        raise


def _write_special(path: Path, text: bytes) -> None:
    descriptor = _pipes.pop(path, -1)
    if descriptor < 0:
        descriptor = _open(path)
    try:
        while text:
            # This blocks the event loop, but all operations have ended.
            if not select.select([], [descriptor], [], _PATIENCE)[1]:
                raise OSError(errno.ETIMEDOUT, _UNREAD)
            with suppress(BlockingIOError):
                text = text[os.write(descriptor, text) :]
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    # Atomically: it may be the report that this call resumed from.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        # The file may be writable although its folder is not.
        path.write_text(text, encoding="utf-8")


def keep_report(report: BulkReport) -> Path | None:
    """Save a report that cannot be shown, readable by its owner only; return the path or None."""
    moment = time.strftime("%Y%m%dT%H%M%S")
    name = f"async-vmapi-{report.operation}-{moment}-{os.getpid()}.json"
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(report.to_json())
            return path
    return None


def _folders() -> Generator[Path]:
    yield user_state_path("async-vmapi", appauthor=False)
    yield Path.cwd()
    yield Path(tempfile.gettempdir())
