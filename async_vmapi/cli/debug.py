"""``--debug`` and ``--debug-file``: what the client logs, a line for each record."""

import errno
import io
import logging
import os
import platform
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from async_vmapi import __version__
from async_vmapi.cli.output import printable
from async_vmapi.cli.streams import Stream, behind, finish_before_exit
from async_vmapi.cli.writer import Writer

__all__ = ["start"]

_LOGGER: Final = logging.getLogger("async_vmapi")


def start(*, to_stderr: bool, path: Path | None) -> Callable[[], None]:
    """Log to standard error, a file, or both, and return a function that stops it.

    Raises:
        OSError: If the file cannot be opened.
    """
    handlers: list[logging.Handler] = [] if path is None else [_Handler(_opened(path))]
    # It shows warnings, which a debug log on the same stream has too.
    last_resort = logging.lastResort if to_stderr else None
    if to_stderr:
        handlers.append(_Handler(sys.stderr))
    level = _LOGGER.level
    _LOGGER.setLevel(logging.DEBUG)
    shows_warnings = last_resort in _LOGGER.handlers
    if last_resort is not None:
        _LOGGER.removeHandler(last_resort)
    for handler in handlers:
        _LOGGER.addHandler(handler)

    def stop() -> None:
        for handler in handlers:
            _LOGGER.removeHandler(handler)
        if last_resort is not None and shows_warnings:
            _LOGGER.addHandler(last_resort)
        _LOGGER.setLevel(level)

    return stop


class _Handler(logging.Handler):
    """Writes records to a stream; leaves out those that a slow reader has no room for."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._left_out = 0
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        system = f"Python {platform.python_version()} on {sys.platform}"
        self._write(f"{at} async-vmapi {__version__}, {system}")

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, with its traceback if it has one."""
        if behind(self._stream):
            self._left_out += 1
            return
        if self._left_out:
            self._write(f"{self._left_out} lines left out: they were not read in time")
            self._left_out = 0
        at = datetime.fromtimestamp(record.created).astimezone()
        lines = [f"{at:%H:%M:%S}.{at.microsecond // 1000:03} {record.levelname} "]
        lines[0] += record.getMessage()
        if record.exc_info:
            lines += logging.Formatter().formatException(record.exc_info).splitlines()
        self._write(*lines)

    def _write(self, *lines: str) -> None:
        # Names of VMs and messages of servers are untrusted.
        self._stream.write("".join(f"{printable(line)}\n" for line in lines))


def _opened(path: Path) -> Stream:
    # Without O_NONBLOCK, opening a pipe waits until a program reads it.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "no program reads it") from None
        raise
    if sys.platform != "win32":
        os.set_blocking(descriptor, True)
    stream = Stream(Writer(terminal=False), io.FileIO(descriptor, "w"), "utf-8")
    finish_before_exit(str(path), stream)
    return stream
