"""Live views: redrawn in place, without ever blocking the event loop."""

import abc
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Final, Generic, Self, TypeVar, cast

from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from async_vmapi.cli.listing import Columns
from async_vmapi.cli.output import is_known_terminal, print_json, printable
from async_vmapi.cli.running import say
from async_vmapi.cli.streams import Stream, behind, is_lost
from async_vmapi.cli.writer import Frame
from async_vmapi.errors import AuthenticationError, VMAPIError

__all__ = ["Live", "TableView", "follow", "is_live", "one_line"]

T = TypeVar("T")

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


def one_line(text: Text) -> Text:
    """Cut a text where the line ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


class TableView(abc.ABC, Generic[T]):
    """A live table of what was polled last.

    Args:
        console: The terminal to fit it to.
        noun: What an item is.
        columns: Their columns, among them ``state``.
        rows: Lines of the terminal for other things than items.
    """

    def __init__(self, console: Console, noun: str, columns: Columns[T], rows: int) -> None:
        self.items: Sequence[T] = ()
        self.problem = ""
        self._console = console
        self._noun = noun
        self._columns = columns
        self._rows = rows

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to poll."""
        return False

    @abc.abstractmethod
    async def poll(self) -> None:
        """Poll, and set `items`."""

    @abc.abstractmethod
    def changes(self) -> Iterable[object]:
        """Return what has changed since the last call, to print it as JSON."""

    @abc.abstractmethod
    def lines(self) -> Iterable[str]:
        """Return what has changed since the last call, as text."""

    def __rich__(self) -> RenderableType:
        head = Text(f"{len(self.items)} {self._noun}{'s' * (len(self.items) != 1)}", "bold")
        states = [cast(Text, self._columns.shown["state"](item)) for item in self.items]
        styles = {state.plain: state.style for state in states}
        for state, count in Counter(state.plain for state in states).most_common():
            head.append("  ").append(f"{count} {state}", styles[state])
        room = max(1, self._console.height - self._rows)
        if len(self.items) > room:
            head.append(f"  {len(self.items) - room} not shown", "dim")
        lines = [head, *([Text(printable(self.problem), "red")] if self.problem else [])]
        shown = self._columns.table(self.items[:room], width=self._console.width)
        return Group(*map(one_line, lines), shown)


async def follow(
    console: Console,
    view: TableView[Any],
    *,
    json: bool,
    interval: float,
    full_screen: bool = False,
) -> None:
    """Poll a view until it has ended or output is lost, and show its changes.

    Failed polls are shown, and repeated.

    Args:
        console: Where to show it: live, or else as lines.
        view: What to show.
        json: Whether to print changes as JSON instead.
        interval: Seconds between polls.
        full_screen: Whether to use the terminal's alternate screen.

    Raises:
        AuthenticationError: If the API refuses the credentials.
    """
    live = None
    if is_live(console) and not json:
        live = Live(console, view, full_screen=full_screen)
    with live or nullcontext():
        while not is_lost(sys.stdout):
            # What changes while earlier output is not written is shown as one change.
            if live is not None or not behind(sys.stdout):
                problem = ""
                try:
                    await view.poll()
                except AuthenticationError:
                    raise
                except VMAPIError as error:
                    problem = str(error)
                    if live is None and problem != view.problem:
                        say(problem)
                view.problem = problem
                if live is not None:
                    live.refresh()
                elif json:
                    for change in view.changes():
                        print_json(change, indent=None)
                else:
                    for line in view.lines():
                        console.print(line)
                if view.ended:
                    return
            await asyncio.sleep(interval)
