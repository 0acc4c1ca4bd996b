"""How durable jobs are shown: a table, a live view, lines of text, lines of JSON."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from async_vmapi.cli.output import STYLES, print_json, printable, table
from async_vmapi.cli.progress import duration, rate_of
from async_vmapi.cli.streams import behind

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, JobStatus

__all__ = ["Jobs", "JobsView", "Lines", "has_ended", "job_table", "print_lines", "told_counts"]

_STATES: Final[Mapping[str, str]] = {
    "waiting": "yellow",
    "running": "cyan",
    "paused": "yellow",
    "cancelling": "magenta",
    "finished": "green",
    "broken": "red",
}
_KINDS: Final = ("succeeded", "failed", "unknown", "not_started")
_NEWEST: Final = 50


def has_ended(status: "JobStatus") -> bool:
    """Return whether nothing more will be heard of a job."""
    return status.state in ("finished", "broken")


def told_counts(counts: Mapping[Any, int]) -> str:
    """Return in words how many ended how; nothing if none did."""
    return ", ".join(f"{counts[k]} {k.replace('_', ' ')}" for k in _KINDS if counts.get(k))


class Jobs:
    """The jobs that have not ended, and those that end from now on.

    Args:
        fleet: Of which.
    """

    def __init__(self, fleet: "DurableFleet") -> None:
        self._fleet = fleet
        self._before: set[str] | None = None
        self.seen: dict[str, JobStatus] = {}

    async def look(self) -> "list[JobStatus]":
        """Look at them, and return those that are otherwise than before, the newest first.

        Raises:
            DatabaseUnavailable: If the database is away.
        """
        if self._before is None:
            found = {status.name: status for status in await self._fleet.jobs()}
            self._before = {name for name, status in found.items() if has_ended(status)}
        else:
            # Who looks on for months does not read what ended long ago again each time.
            found = {status.name: status for status in await self._fleet.jobs(ended=False)}
            for status in await self._fleet.jobs(limit=_NEWEST):
                found[status.name] = status
            for name in [
                n for n, old in self.seen.items() if n not in found and not has_ended(old)
            ]:
                found[name] = await (await self._fleet.job(name)).status()
        wanted = {name: status for name, status in found.items() if name not in self._before}
        before, self.seen = self.seen, self.seen | wanted
        return [
            status
            for name, status in wanted.items()
            if (old := before.get(name)) is None
            or attrs.evolve(old, changed=status.changed) != status
        ]


class JobsView:
    """How they look on a terminal.

    Args:
        console: Where to.
        jobs: Which.
        rows: Lines that are taken up by what is shown beside them.
    """

    def __init__(self, console: Console, jobs: Jobs, *, rows: int = 2) -> None:
        self.problem = ""
        self._console = console
        self._jobs = jobs
        self._rows = rows
        self._clock = asyncio.get_running_loop().time
        self._first: dict[str, tuple[float, int]] = {}

    def __rich__(self) -> RenderableType:
        # What goes on comes first.
        found = sorted(self._jobs.seen.values(), key=lambda s: (has_ended(s), -s.submitted))
        head = Text(f"{len(found)} job{'s' * (len(found) != 1)}", "bold")
        for state, count in Counter(status.state for status in found).most_common():
            head.append("  ").append(f"{count} {state}", _STATES.get(state, ""))
        room = max(1, self._console.height - self._rows - 2)
        if len(found) > room:
            head.append(f"  and {len(found) - room} that do not fit", "dim")
        head.no_wrap, head.overflow = True, "ellipsis"
        problem = Text(printable(self.problem), "red", no_wrap=True, overflow="ellipsis")
        columns = ("job", "operation", "state", "done", "failed", "unknown", "not started")
        rows = [self._row(status) for status in found[:room]]
        shown = table(
            (*columns, "in flight", "rate", "left"), rows, fold=False, width=self._console.width
        )
        return Group(head, *([problem] if self.problem else []), shown)

    def _row(self, status: "JobStatus") -> list[str | Text]:
        done = sum(status.done.values())
        carried_out = done - status.done.get("not_started", 0)
        now = self._clock()
        since, at_first = self._first.setdefault(status.name, (now, carried_out))
        rate = (carried_out - at_first) / (now - since) if now > since else 0.0
        going = rate > 0 and not has_ended(status)
        left = duration((status.total - done) / rate) if going and status.state == "running" else ""
        return [
            status.name,
            status.operation,
            _state(status),
            f"{done}/{status.total}",
            *(_count(status, kind) for kind in ("failed", "unknown", "not_started")),
            str(status.in_flight),
            rate_of(rate) if going else "",
            left,
        ]


def _state(status: "JobStatus") -> Text:
    return Text(status.state, _STATES.get(status.state, ""))


def _count(status: "JobStatus", kind: Any) -> Text:
    count = status.done.get(kind, 0)
    return Text(str(count), STYLES[kind.replace("_", " ")] if count else "")


def job_table(found: "Iterable[JobStatus]") -> Table:
    """Return a table of jobs as they are at one moment."""
    columns = ("job", "operation", "state", "total", *_KINDS, "in flight", "submitted")
    rows: list[Sequence[str | Text]] = [
        (
            status.name,
            status.operation,
            _state(status),
            str(status.total),
            *(_count(status, kind) for kind in _KINDS),
            str(status.in_flight),
            f"{datetime.fromtimestamp(status.submitted).astimezone():%m-%d %H:%M}",
        )
        for status in found
    ]
    return table([column.replace("_", " ") for column in columns], rows, fold=False)


def print_lines(
    found: "Iterable[JobStatus]", here: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Print each job in JSON on a line.

    Args:
        found: The jobs.
        here: What this worker has to do with each; None for who is no worker.
    """
    for status in found:
        line = msgspec.to_builtins(status)
        if here is not None:
            line["here"] = here.get(status.name) or {"in_flight": 0, "done": {}}
        print_json(line, indent=None)


class Lines:
    """Tells of jobs in lines: of a new state at once, of mere progress now and then.

    Args:
        console: Where to.
        every: Seconds between two lines of a job that only goes on.
    """

    def __init__(self, console: Console, every: float) -> None:
        self._console = console
        self._every = every
        self._clock = asyncio.get_running_loop().time
        self._told: dict[str, tuple[tuple[object, ...], float]] = {}
        self._untold: dict[str, JobStatus] = {}

    def tell(self, changed: "Iterable[JobStatus]") -> None:
        """Take changes into account, and print what is due."""
        self._untold |= {status.name: status for status in changed}
        if behind(self._console.file):
            return
        now = self._clock()
        for name, status in list(self._untold.items()):
            state = (status.state, status.wave, status.stopped)
            last, at = self._told.get(name, (None, 0.0))
            if state == last and now - at < self._every:
                continue
            del self._untold[name]
            self._told[name] = (state, now)
            self._console.print(_line(status))


def _line(status: "JobStatus") -> str:
    counts = told_counts(status.done)
    parts = [f"{status.operation} of {status.total}", status.state]
    if status.wave > 1:
        parts.append(f"wave {status.wave}")
    parts += [f"{status.in_flight} in flight", *([counts] if counts else [])]
    stopped = f"; nothing more is started: {printable(status.stopped)}" if status.stopped else ""
    return f"job {status.name}: {', '.join(parts)}{stopped}"
