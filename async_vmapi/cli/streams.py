"""Standard output and standard error while the command runs, and what was lost of them."""

import codecs
import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self, TextIO

from async_vmapi.cli.writer import Writer

__all__ = ["Stream", "Streams", "behind", "hurry", "is_lost", "on_loss", "signals_raised"]

_ERRORS: Final = "async_vmapi.substitute"
# Of the same width, so that what is laid out stays so.
_SUBSTITUTES: Final = {"━": "#", "─": "-", "·": "-", "●": "*", "…": "."}
# At the end, for so many seconds without a byte taken.
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
    """A text stream whose writes are done by a `Writer`.

    Args:
        writer: Which.
        raw: Where the bytes go.
        encoding: The encoding of what is written.
    """

    def __init__(self, writer: Writer, raw: Any, encoding: str) -> None:
        super().__init__()
        self.writer = writer
        self.raw = raw
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding; what it does not have is substituted."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """How that is done."""
        return _ERRORS

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self.writer.terminal

    def writable(self) -> bool:
        """Return that it can be written."""
        return True

    def encoded(self, text: str) -> bytes:
        """Return the bytes of a text."""
        return text.replace("\n", os.linesep).encode(self._encoding, _ERRORS)

    def write(self, text: str, /) -> int:
        """Have a text written; what goes wrong with it is seen in the writer."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self.writer.put(self.raw, self.encoded(text))
        return len(text)


class _Closed:
    """What stands for a stream that was closed before the program began."""

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
            return None  # something else stands for it already, in a test or a debugger
        stream.flush()
        # Both at one terminal, or in one file, keep their order.
        key = status.st_dev, status.st_ino, status.st_rdev
        terminal = stat.S_ISCHR(status.st_mode) and stream.isatty()
        writer = self._writers.setdefault(key, Writer(terminal=terminal))
        return Stream(writer, raw, "ascii" if terminal and _is_ascii() else stream.encoding)

    def settle(self, code: int) -> int:
        """Wait until what was printed is written; return the exit code, which says if it was not.

        A terminal that takes nothing any more is given up after a while; a pipe is not, unless
        the command was interrupted. What must not be lost goes elsewhere then.
        """
        with signals_raised():
            why = self._loss()
            if why and (self.rescues or why != os.strerror(errno.EPIPE)):
                if not self.rescues:
                    print(f"async-vmapi: standard output: {why}", file=sys.stderr)
                for rescue in self.rescues:
                    rescue(why)
                code = code or _OUTPUT_LOST
            if self.err is not None and not (
                why and self.out is not None and self.err.writer is self.out.writer
            ):
                with suppress(KeyboardInterrupt):
                    self.err.writer.drain(_PATIENCE)
        return code

    def _loss(self) -> str:
        """Return why some of standard output was lost; nothing if all was written."""
        if self.out is None:
            return ""
        writer = self.out.writer
        try:
            done = writer.drain(_PATIENCE if writer.terminal or self.hurried else None)
        except KeyboardInterrupt:
            done = False
        if not done:
            return "nobody reads it"
        if writer.lost and writer.error is not None:
            return writer.error.strerror or str(writer.error)
        return ""


_current: Streams | None = None


def on_loss(rescue: Callable[[str], object]) -> None:
    """Have something called, with the reason, if what was printed is lost in the end."""
    if _current is not None:
        _current.rescues.append(rescue)


def hurry() -> None:
    """Wait for nobody at the end, for the command was interrupted."""
    if _current is not None:
        _current.hurried = True


def behind(stream: object) -> bool:
    """Return whether much is waiting to be written there: who can, prints nothing more then."""
    return isinstance(stream, Stream) and stream.writer.pending > _MOST_PENDING


def is_lost(stream: object) -> bool:
    """Return whether something that was printed there could not be written."""
    return isinstance(stream, Stream) and stream.writer.lost > 0


def _is_ascii() -> bool:
    """Return whether the user's locale has nothing but ASCII; Python takes it for UTF-8."""
    if sys.platform == "win32" or os.environ.get("PYTHONIOENCODING"):
        return False
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next(filter(None, names), "") in ("C", "POSIX")


def _occupy_closed() -> None:
    """Keep files that are opened later from becoming a closed standard stream."""
    while True:
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:  # standard error's
            os.close(number)
            return


@contextmanager
def signals_raised() -> Generator[None]:
    """Let signals that end a program raise KeyboardInterrupt, so that it still can say things."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before: dict[int, Any] = {}
    try:
        for name in names:
            number = getattr(signal, name, None)
            # What nohup ignores stays ignored.
            if number and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                before[number] = signal.signal(number, interrupted)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
