"""A live view: redrawn in place, without ever blocking the event loop."""

import time
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

from async_vmapi.cli.output import is_known_terminal
from async_vmapi.cli.streams import Stream
from async_vmapi.cli.writer import Frame

__all__ = ["Live", "is_live"]

# In real seconds; the demo's clock runs faster.
_SHORTEST: Final = 0.1


def is_live(console: Console) -> bool:
    """Return whether this console's output can be redrawn in place."""
    drawable = is_known_terminal() and not console.is_dumb_terminal and not console.legacy_windows
    return isinstance(console.file, Stream) and console.file.isatty() and drawable


class Live:
    """Shows a view on a terminal inside a ``with`` block; `refresh` draws it.

    `refresh` renders in the caller's thread, so the view cannot change meanwhile; the stream's
    thread writes.

    Args:
        console: A console for which `is_live` is true.
        view: What to show.
        full_screen: Whether to use the terminal's alternate screen.
    """

    def __init__(
        self, console: Console, view: RenderableType, *, full_screen: bool = False
    ) -> None:
        self._console = console
        self._view = view
        self._full_screen = full_screen
        self._last = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stream = self._console.file
        if isinstance(stream, Stream):
            stream.writer.draw(None)

    def refresh(self) -> None:
        """Draw the current state, unless the last drawing was less than 0.1 s ago."""
        console, now = self._console, time.monotonic()
        stream = console.file
        if not isinstance(stream, Stream) or now - self._last < _SHORTEST:
            return
        self._last = now
        lines = console.render_lines(self._view, pad=False)
        if len(lines) > (height := console.height):
            # A view higher than the terminal could not be erased.
            lines = [*lines[: height - 1], [Segment("…")]]
        segments: list[Segment] = []
        for line in lines:
            segments += [*line, Segment.line()]
        with console.capture() as capture:
            console.print(Segments(segments[:-1]), end="")
        body = stream.encoded(capture.get())
        stream.writer.draw(Frame(stream.raw, body, max(1, len(lines)), self._full_screen))
