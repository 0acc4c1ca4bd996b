"""The progress of a bulk call: a live view on a terminal, plain lines elsewhere."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs
from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.text import Text

from async_vmapi.bulk.plan import BulkEvent
from async_vmapi.bulk.report import Outcome
from async_vmapi.cli.live import Live, is_live, one_line
from async_vmapi.cli.output import STYLES, printable, style_of, who
from async_vmapi.cli.streams import behind
from async_vmapi.models.vm import ONLINE

if TYPE_CHECKING:
    from async_vmapi.tasks.task import Task

__all__ = ["Joined", "Progress", "duration", "rate_of"]

_FRAME: Final = 0.2
_REMINDER: Final = 30.0
_SLOWEST: Final = 5
_WRONG: Final = 3
_BAR: Final = 60
# Seconds after joining in which events may be old.
_JOINING: Final = 2.0


def duration(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def rate_of(rate: float) -> str:
    """Return a rate (per second) as text, per minute if it is low."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.0f}/min"


@attrs.frozen(kw_only=True)
class Joined:
    """The state of a job that is followed from some time after its start.

    Attributes:
        seconds: How long it has been running.
        done: How many items have ended, by status.
    """

    seconds: float
    done: Mapping[Any, int]


@attrs.define
class _Flight:
    """An operation in flight."""

    name: str
    began: float
    earlier: bool = False
    unseen: str = "not accepted yet"
    task: "Task[Any] | None" = None

    @property
    def state(self) -> str | None:
        """The VM's last observed state."""
        history = self.task.history if self.task is not None else ()
        return next((event.state for event in reversed(history) if event.state), None)

    def description(self) -> str:
        """Return what is known of it as text."""
        if self.task is None:
            return self.unseen
        if (state := self.state) is None:
            return "accepted, not polled yet"
        missing = [name for name in self.task.missing[:1] if name != ONLINE]
        return f"last state: {printable(state)}{''.join(f', missing {m}' for m in missing)}"


class Progress:
    """Shows the progress of a bulk call inside an ``async with`` block; pass it `on_event`.

    Args:
        console: Where to show it.
        operation: The operation.
        total: Number of items.
        labels: Labels of VMs by id.
        only: Name of the only item, if there is one; no line is printed when it ends.
        above: Shown above the live view.
        joined: The state of a job that was already running.
    """

    def __init__(
        self,
        console: Console,
        operation: str,
        total: int,
        labels: Mapping[str, str],
        *,
        only: str | None = None,
        above: RenderableType = "",
        joined: Joined | None = None,
    ) -> None:
        self._console = console
        self._above = above
        self._only = only
        self._operation = operation
        self._total = total
        self._labels = labels
        self._flights: dict[int, _Flight] = {}
        self._wrong: deque[str] = deque(maxlen=_WRONG)
        self._done: Mapping[Any, int] = {}
        self._wave = 1
        self._domain = ""
        self._stopped = ""
        self._clock = asyncio.get_running_loop().time
        self._joined = joined
        self._earlier = 0 if joined is None else sum(joined.done.values())
        self._note = ""
        self._began = self._entered = self._clock()
        self._live: Live | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._entered = self._clock()
        self._began = self._entered - (self._joined.seconds if self._joined else 0.0)
        if is_live(self._console):
            self._live = Live(self._console, self)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    async def _tick(self) -> None:
        while True:
            if self._live is not None:
                self._live.refresh()
                await asyncio.sleep(_FRAME)
                continue
            await asyncio.sleep(_REMINDER)
            if behind(self._console.file):
                continue
            for flight in list(self._flights.values())[:_SLOWEST]:
                self._say(f"{flight.name}  {self._operation} in flight: {flight.description()}")

    # --- events ---------------------------------------------------------------------------------

    def on_event(self, event: BulkEvent) -> None:
        """Record an event."""
        self._done = event.done
        if event.wave >= self._wave:
            self._wave, self._domain = event.wave, event.domain
        if self._joined is None:
            # A job's status has more.
            if event.kind in ("soaking", "held", "paused"):
                self.note(event.reason)
            elif event.kind in ("started", "stopped"):
                self.note("")
        if event.kind == "stopped":
            self._stopped = event.reason
            if not self._only:
                self._say(f"no more operations are started: {event.reason}")
        if event.index is None:
            return
        name = self._only or who(event.item, self._labels.get(event.item))
        if event.kind == "started":
            self._flights[event.index] = self._flight(name)
        elif event.kind == "accepted":
            flight = self._flights[event.index]
            flight.task = event.task
            if not self._only and event.vm_id is not None and event.vm_id != event.item:
                flight.name = who(event.vm_id, self._labels.get(event.item, event.item))
        elif event.outcome is not None:
            ended = self._flights.pop(event.index, None)
            self._finished(ended.name if ended else name, event.outcome)

    def _flight(self, name: str) -> _Flight:
        now = self._clock()
        if self._joined is None:
            return _Flight(name, now)
        # A job's events do not show which worker has it, or whether it was accepted.
        earlier = self._joined.seconds > 0 and now - self._entered < _JOINING
        return _Flight(name, now, earlier, "queued, or with a worker")

    def note(self, text: str) -> None:
        """Show a note on the whole call until the next one; an empty text removes it."""
        if text != self._note:
            self._note = text
            if text:
                self._say(text)

    def _finished(self, name: str, outcome: Outcome) -> None:
        earlier, self._earlier = self._earlier > 0, max(0, self._earlier - 1)
        if outcome.status == "not_started" or self._only:
            return
        if outcome.status == "succeeded":
            took = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None else ""
            how = f", {outcome.evidence}" if outcome.evidence else ""
            self._say(f"{name}  {self._operation} succeeded{took}{how}", earlier=earlier)
            return
        line = f"{name}  {self._operation} {outcome.status}: {printable(outcome.reason)}"
        self._wrong.append(line)
        self._say(line, earlier=earlier)

    def _say(self, line: str, *, earlier: bool = False) -> None:
        if self._live is None:
            when = "earlier" if earlier else f"{self._clock() - self._began:.1f} s"
            self._console.print(f"{when:>10}  {line}")

    # --- the live view --------------------------------------------------------------------------

    def __rich__(self) -> RenderableType:
        done = sum(self._done.values())
        elapsed = self._clock() - self._began
        head = Text(f"{self._operation} of {self._total}", "bold")
        where = f" in {printable(self._domain)}" if self._domain else ""
        head.append(f"   wave {self._wave}{where}" if self._wave > 1 or where else "", "not bold")
        head.append(f"   {duration(elapsed)}", "not bold dim")
        head.append(f"   {printable(self._note)}" if self._note else "", "not bold yellow")
        counts = Text(f"{done}/{self._total} done")
        for status in ("failed", "unknown", "not_started"):
            if count := self._done.get(status):
                kind = status.replace("_", " ")
                counts.append(" · ").append(f"{count} {kind}", STYLES[kind])
        counts.append(f" · {len(self._flights)} in flight")
        executed = _executed(self._done)
        shown_for = self._clock() - self._entered
        if self._joined is not None:
            # The rate before joining is unknown.
            executed -= _executed(self._joined.done)
        if executed > 0 and shown_for > 0:
            rate = executed / shown_for
            counts.append(f" · {rate_of(rate)}")
            if not self._note:
                counts.append(f" · {duration((self._total - done) / rate)} left")
        lines = [counts]
        if self._stopped:
            text = f"no more operations are started: {printable(self._stopped)}"
            lines.append(Text(text, "yellow"))
        for flight in list(self._flights.values())[:_SLOWEST]:
            since = ">" * flight.earlier + duration(self._clock() - flight.began)
            style = style_of(flight.state) if flight.state else ""
            lines.append(Text(f"  {since:>6}  {flight.name}  ").append(flight.description(), style))
        lines += [Text(line, "red") for line in self._wrong]
        for line in (head, *lines):
            one_line(line)
        width = min(_BAR, self._console.width)
        filled = width * done // max(1, self._total)
        # The rest is thinner, to be visible without colours.
        bar = Text("━" * filled, "green").append("─" * (width - filled), "bright_black")
        bar.no_wrap, bar.overflow = True, "crop"
        return Group(self._cut(self._console.height - len(lines) - 2), head, bar, *lines)

    def _cut(self, rows: int) -> RenderableType:
        """Return the first rows of what is shown above."""
        shown = self._console.render_lines(self._above, pad=False)
        if len(shown) <= rows:
            return self._above
        return Segments([s for line in shown[: max(0, rows)] for s in (*line, Segment.line())])


def _executed(done: Mapping[Any, int]) -> int:
    return sum(done.values()) - done.get("not_started", 0)
