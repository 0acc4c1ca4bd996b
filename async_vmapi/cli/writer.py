"""Write output in a thread, so that printing never blocks.

A stopped terminal (Ctrl-S), a slow connection or a full pipe delays the output only. A live view
passes complete frames; a new one replaces one that is not written yet.
"""

import select
import threading
import time
from collections import deque
from typing import Any, Final, NamedTuple

__all__ = ["Frame", "Writer"]

# Small, so that progress on a slow terminal is noticed.
_PIECE_OF_TERMINAL: Final = 256
_PIECE: Final = 65_536
_MOST_HELD: Final = 100


class Frame(NamedTuple):
    """A rendered live view.

    Attributes:
        raw: The raw file to draw it on.
        body: Its lines, without a newline after the last one.
        rows: Number of lines.
        full_screen: Whether to use the terminal's alternate screen.
    """

    raw: Any
    body: bytes
    rows: int
    full_screen: bool

    def drawn(self, *, first: bool) -> bytes:
        """Return the bytes that draw it where no other frame is shown."""
        start = b"\x1b[?25l" if first else b""
        if self.full_screen:
            start += b"\x1b[?1049h" if first else b""
            return start + b"\x1b[H\x1b[J" + self.body
        return start + self.body

    def erased(self) -> bytes:
        """Return the bytes that erase it."""
        if self.full_screen:
            return b"\x1b[H\x1b[J"
        # Line by line: some terminals move what is cleared at once into their history.
        return b"\r\x1b[2K" + b"\x1b[1A\x1b[2K" * (self.rows - 1)


class Writer:
    """Writes to one terminal, pipe or file in a thread.

    Args:
        terminal: Whether it is a terminal.
    """

    def __init__(self, *, terminal: bool) -> None:
        self.terminal = terminal
        self.pending = 0
        self.lost = 0
        self.error: OSError | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._texts: deque[tuple[Any, bytes]] = deque()
        self._next_frame: Frame | None = None
        self._redraw = False
        self._busy = False
        self._moved = 0.0
        # Used only by the thread.
        self._shown: Frame | None = None
        self._first = True
        self._in_line = False
        self._last_raw: Any = None
        self._held: deque[tuple[Any, bytes]] = deque(maxlen=_MOST_HELD)

    def put(self, raw: Any, text: bytes) -> None:
        """Queue a text for writing."""
        with self._changed:
            self._texts.append((raw, text))
            self.pending += len(text)
            self._wake()

    def draw(self, frame: Frame | None) -> None:
        """Replace the frame shown; None to remove it."""
        with self._changed:
            self._next_frame, self._redraw = frame, True
            self._wake()

    def drain(self, patience: float | None) -> bool:
        """Wait until all is written, and return whether it was.

        Args:
            patience: Seconds without progress before giving up; None to wait for ever.
        """
        with self._changed:
            began = time.monotonic()
            while self._texts or self._busy or self._redraw:
                waited = time.monotonic() - max(began, self._moved)
                if patience is not None and waited >= patience:
                    return False
                # In short steps: on some systems, signals are not handled during a wait.
                self._changed.wait(0.2)
            return True

    def _wake(self) -> None:
        if self._thread is None:
            # A daemon, so that a blocked write does not keep the process alive.
            self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._texts and not self._redraw:
                    self._changed.wait()
                self._busy = True
                frame, text = self._next_frame, None
                if self._texts and not (self._redraw and self._leaves_screen(frame)):
                    text = self._texts.popleft()
                    self.pending -= len(text[1])
                    self._redraw = self._redraw or frame is not None
                else:
                    self._redraw = False
            if text is None:
                self._show(frame)
            elif self._shown is not None and self._shown.full_screen:
                self._held.append(text)
            else:
                self._print(*text)

    def _leaves_screen(self, frame: Frame | None) -> bool:
        return frame is None and self._shown is not None and self._shown.full_screen

    def _print(self, raw: Any, text: bytes) -> None:
        if self._shown is not None:
            self._write(raw, self._shown.erased(), text=False)
            self._shown = None
        self._in_line = bool(text) and not text.endswith(b"\n")
        self._write(raw, text, text=True)

    def _show(self, frame: Frame | None) -> None:
        shown = self._shown
        if frame is None:
            if not self._first and shown is not None:
                self._write(shown.raw, shown.erased(), text=False)
            if not self._first:
                self._end(shown)
            return
        if self._in_line:
            return  # draw it after the line has ended
        before = shown.erased() if shown is not None and not shown.full_screen else b""
        self._write(frame.raw, before + frame.drawn(first=self._first), text=False)
        self._shown, self._first, self._last_raw = frame, False, frame.raw

    def _end(self, shown: Frame | None) -> None:
        leave = b"\x1b[?1049l" if shown is not None and shown.full_screen else b""
        self._shown, self._first = None, True
        self._write(self._last_raw, leave + b"\x1b[?25h", text=False)
        while self._held:
            self._print(*self._held.popleft())

    def _write(self, raw: Any, data: bytes, *, text: bool) -> None:
        rest = memoryview(data)
        size = _PIECE_OF_TERMINAL if self.terminal else _PIECE
        try:
            while rest:
                taken = raw.write(rest[:size])
                if taken is None:
                    # Another process has made the terminal non-blocking.
                    select.select([], [raw], [], 1.0)
                    continue
                rest = rest[taken:]
                self._moved = time.monotonic()
        except (OSError, ValueError) as error:
            self.error = error if isinstance(error, OSError) else OSError(str(error))
            self.lost += text
