"""A live view: what it shows is drawn anew where it stood, and nothing ever waits for that."""

import time
from typing import Final, Self

from rich.console import Console, RenderableType
from rich.segment import Segment, Segments

from async_vmapi.cli.output import is_known_terminal
from async_vmapi.cli.streams import Stream
from async_vmapi.cli.writer import Frame

__all__ = ["Live", "is_live"]

# Real seconds: the demo's own run faster.
_SHORTEST: Final = 0.1


def is_live(console: Console) -> bool:
    """Return whether lines can be drawn anew where this console writes."""
    drawable = is_known_terminal() and not console.is_dumb_terminal and not console.legacy_windows
    return isinstance(console.file, Stream) and console.file.isatty() and drawable


class Live:
    """Shows a view on a terminal while its block lasts; `refresh` draws it.

    It is rendered by who calls `refresh`, so that nothing changes under the drawing, and written
    by the stream's thread.

    Args:
        console: Where; `is_live` has said that it can.
        view: What.
        full_screen: Whether it has a screen of its own.
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
        """Draw it as it is now."""
        console, now = self._console, time.monotonic()
        stream = console.file
        if not isinstance(stream, Stream) or now - self._last < _SHORTEST:
            return
        self._last = now
        lines = console.render_lines(self._view, pad=False)
        if len(lines) > (height := console.height):
            # One that is higher than the terminal could not be erased.
            lines = [*lines[: height - 1], [Segment("…")]]
        segments: list[Segment] = []
        for line in lines:
            segments += [*line, Segment.line()]
        with console.capture() as capture:
            console.print(Segments(segments[:-1]), end="")
        body = stream.encoded(capture.get())
        stream.writer.draw(Frame(stream.raw, body, max(1, len(lines)), self._full_screen))
