"""The command's standard output and standard error, and whether output was lost."""

import codecs
import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, Self, TextIO

from async_vmapi.cli.writer import Writer

__all__ = [
    "Stream",
    "Streams",
    "behind",
    "finish_before_exit",
    "hand_over",
    "hurry",
    "is_lost",
    "on_loss",
    "signals_handled",
    "signals_raised",
]

_ERRORS: Final = "async_vmapi.substitute"
# Of the same width, to keep the layout.
_SUBSTITUTES: Final = {"━": "#", "─": "-", "·": "-", "●": "*", "…": "."}
# Seconds without progress after which output is given up at exit.
_PATIENCE: Final = 5.0
_MOST_PENDING: Final = 1 << 20
_OUTPUT_LOST: Final = 4


def _substitute(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (_SUBSTITUTES.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text)
    return "".join(shown), error.end


codecs.register_error(_ERRORS, _substitute)


class Stream(io.TextIOBase):
    """A text stream that writes through a `Writer`.

    Args:
        writer: The writer.
        raw: The raw file that gets the bytes.
        encoding: The encoding.
    """

    def __init__(self, writer: Writer, raw: Any, encoding: str) -> None:
        super().__init__()
        self.writer = writer
        self.raw = raw
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding; unencodable characters are substituted."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """The error handler that substitutes them."""
        return _ERRORS

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self.writer.terminal

    def writable(self) -> bool:
        """Return True."""
        return True

    def encoded(self, text: str) -> bytes:
        """Return a text as bytes."""
        return text.replace("\n", os.linesep).encode(self._encoding, _ERRORS)

    def write(self, text: str, /) -> int:
        """Queue a text for writing; the writer records errors."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self.writer.put(self.raw, self.encoded(text))
        return len(text)

    def line_ended(self) -> None:
        """Note that input has moved the cursor to a new line; otherwise no frame is drawn."""
        self.writer.put(self.raw, b"")


class _Closed:
    """Stands in for a stream that was closed before the program started."""

    def write(self, _: object) -> int:
        raise OSError(errno.EBADF, "it is closed")


class Streams:
    """Standard output and standard error while the command runs."""

    def __init__(self) -> None:
        self._before = sys.stdout, sys.stderr
        _occupy_closed()
        self._writers: dict[object, Writer] = {}
        self.out = self._stream(sys.stdout)
        self.err = self._stream(sys.stderr)
        self.hurried = False
        self.rescues: list[Callable[[str], object]] = []
        self.files: dict[str, Stream] = {}

    def __enter__(self) -> Self:
        global _current
        if self.out is not None:
            sys.stdout = self.out
        if self.err is not None:
            sys.stderr = self.err
        _current = self
        return self

    def __exit__(self, *_: object) -> None:
        global _current
        _current = None
        sys.stdout, sys.stderr = self._before

    def _stream(self, stream: TextIO | None) -> Stream | None:
        if stream is None:
            return Stream(Writer(terminal=False), _Closed(), "utf-8")
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        try:
            status = os.fstat(stream.fileno())
        except (OSError, ValueError):
            return None  # already replaced, by a test or a debugger
        stream.flush()
        # If both are the same terminal or file, one writer keeps their order.
        terminal = stat.S_ISCHR(status.st_mode) and stream.isatty()
        key = status.st_dev, status.st_ino, status.st_rdev
        if not (status.st_ino or terminal):
            key = stream.fileno(), 0, 0  # Windows does not number pipes
        writer = self._writers.setdefault(key, Writer(terminal=terminal))
        return Stream(writer, raw, "ascii" if terminal and _is_ascii() else stream.encoding)

    def finish(self, code: int) -> int:
        """Wait until all output is written; return the exit code, or 4 if output was lost.

        A stopped terminal is given up after five seconds; a pipe only if the command was
        interrupted. The rescue callbacks are then called.
        """
        with signals_raised():
            why = "" if self.out is None else self._loss(self.out)
            if why and (self.rescues or why != os.strerror(errno.EPIPE)):
                if not self.rescues:
                    print(f"async-vmapi: standard output: {why}", file=sys.stderr)
                for rescue in self.rescues:
                    rescue(why)
                code = code or _OUTPUT_LOST
            for name, file in self.files.items():
                if problem := self._loss(file):
                    print(f"async-vmapi: {name}: {problem}", file=sys.stderr)
            if self.err is not None and not (
                why and self.out is not None and self.err.writer is self.out.writer
            ):
                with suppress(KeyboardInterrupt):
                    self.err.writer.drain(_PATIENCE)
        return code

    def _loss(self, stream: Stream) -> str:
        """Return why some of a stream's output was lost; empty if all was written."""
        writer = stream.writer
        patient = stream is self.out and not writer.terminal and not self.hurried
        try:
            done = writer.drain(None if patient else _PATIENCE)
        except KeyboardInterrupt:
            done = False
        if not done:
            return "no program reads it"
        if writer.lost and writer.error is not None:
            return writer.error.strerror or str(writer.error)
        return ""


_current: Streams | None = None


def on_loss(rescue: Callable[[str], object]) -> None:
    """Register a callback that is called with the reason if output is lost."""
    if _current is not None:
        _current.rescues.append(rescue)


def finish_before_exit(name: str, stream: Stream) -> None:
    """Wait at exit until all is written to a file's stream, and print why if that fails."""
    if _current is not None:
        _current.files[name] = stream


def hand_over() -> None:
    """Wait until all is written, for at most five seconds without progress per stream."""
    if _current is not None:
        for stream in (_current.out, _current.err, *_current.files.values()):
            if stream is not None:
                stream.writer.drain(_PATIENCE)


def hurry() -> None:
    """Do not wait long for readers at exit; the command was interrupted."""
    if _current is not None:
        _current.hurried = True


def behind(stream: object) -> bool:
    """Return whether more than 1 MiB waits to be written; callers should skip output then."""
    return isinstance(stream, Stream) and stream.writer.pending > _MOST_PENDING


def is_lost(stream: object) -> bool:
    """Return whether some output could not be written to a stream."""
    return isinstance(stream, Stream) and stream.writer.lost > 0


def _is_ascii() -> bool:
    """Return whether the locale is ASCII only, for which Python assumes UTF-8."""
    if sys.platform == "win32" or os.environ.get("PYTHONIOENCODING"):
        return False
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next(filter(None, names), "") in ("C", "POSIX")


def _occupy_closed() -> None:
    """Occupy the descriptors of closed standard streams, so that no file gets them."""
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:  # above standard error
            os.close(number)
            return


@contextmanager
def signals_handled(handler: Callable[..., object]) -> Generator[None]:
    """Handle SIGINT, SIGTERM and, where it exists, SIGHUP with `handler` for the time being."""
    before: dict[int, Any] = {}
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # nohup ignores SIGHUP; keep it so.
            if number and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def signals_raised() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt on these signals, so that the command can report."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    return signals_handled(interrupted)
