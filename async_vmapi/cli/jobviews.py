"""Views of durable jobs: a table, a live view, lines of text, lines of JSON."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import msgspec
from rich.console import Console, Group, RenderableType
from rich.text import Text

from async_vmapi.cli.listing import Columns
from async_vmapi.cli.output import STYLES, print_json, printable, table
from async_vmapi.cli.progress import duration, rate_of
from async_vmapi.cli.streams import behind

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, JobStatus

__all__ = ["JOB_COLUMNS", "Jobs", "JobsView", "Lines", "counts_text", "has_ended", "print_lines"]

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
    """Return whether a job has ended."""
    return status.state in ("finished", "broken")


def counts_text(counts: Mapping[Any, int]) -> str:
    """Return the counts of outcomes as text, leaving out those that are zero."""
    return ", ".join(f"{counts[k]} {k.replace('_', ' ')}" for k in _KINDS if counts.get(k))


class Jobs:
    """The jobs that have not ended, and those that end from now on.

    Args:
        fleet: The fleet that has the jobs.
    """

    def __init__(self, fleet: "DurableFleet") -> None:
        self._fleet = fleet
        self._before: set[str] | None = None
        self.seen: dict[str, JobStatus] = {}

    async def poll(self) -> "list[JobStatus]":
        """Read the jobs, and return those that have changed, newest first.

        Raises:
            DatabaseUnavailable: If the database is unavailable.
        """
        if self._before is None:
            found = {status.name: status for status in await self._fleet.jobs()}
            self._before = {name for name, status in found.items() if has_ended(status)}
        else:
            # Do not read all ended jobs at each poll.
            found = {status.name: status for status in await self._fleet.jobs(ended=False)}
            for status in await self._fleet.jobs(limit=_NEWEST):
                found[status.name] = status
            for name in [
                n for n, old in self.seen.items() if n not in found and not has_ended(old)
            ]:
                found[name] = await (await self._fleet.job(name)).status()
        current = {name: status for name, status in found.items() if name not in self._before}
        before, self.seen = self.seen, self.seen | current
        return [
            status
            for name, status in current.items()
            if (old := before.get(name)) is None
            or attrs.evolve(old, changed=status.changed) != status
        ]


class JobsView:
    """A live table of jobs.

    Args:
        console: The terminal to fit it to.
        jobs: The jobs to show.
        rows: Lines of the terminal to leave free.
    """

    def __init__(self, console: Console, jobs: Jobs, *, rows: int = 2) -> None:
        self.problem = ""
        self._console = console
        self._jobs = jobs
        self._rows = rows
        self._clock = asyncio.get_running_loop().time
        self._first: dict[str, tuple[float, int]] = {}

    def __rich__(self) -> RenderableType:
        # Jobs that have not ended come first.
        found = sorted(self._jobs.seen.values(), key=lambda s: (has_ended(s), -s.submitted))
        head = Text(f"{len(found)} job{'s' * (len(found) != 1)}", "bold")
        for state, count in Counter(status.state for status in found).most_common():
            head.append("  ").append(f"{count} {state}", _STATES.get(state, ""))
        room = max(1, self._console.height - self._rows - 2)
        if len(found) > room:
            head.append(f"  {len(found) - room} not shown", "dim")
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
        executed = done - status.done.get("not_started", 0)
        now = self._clock()
        since, at_first = self._first.setdefault(status.name, (now, executed))
        rate = (executed - at_first) / (now - since) if now > since else 0.0
        active = rate > 0 and not has_ended(status)
        left = (
            duration((status.total - done) / rate) if active and status.state == "running" else ""
        )
        return [
            status.name,
            status.operation,
            _state(status),
            f"{done}/{status.total}",
            *(_count(status, kind) for kind in ("failed", "unknown", "not_started")),
            str(status.in_flight),
            rate_of(rate) if active else "",
            left,
        ]


def _state(status: "JobStatus") -> Text:
    return Text(status.state, _STATES.get(status.state, ""))


def _count(status: "JobStatus", kind: Any) -> Text:
    count = status.done.get(kind, 0)
    return Text(str(count), STYLES[kind.replace("_", " ")] if count else "")


def _submitted(status: "JobStatus") -> str:
    return f"{datetime.fromtimestamp(status.submitted).astimezone():%m-%d %H:%M}"


JOB_COLUMNS: "Final[Columns[JobStatus]]" = Columns(
    {
        "job": lambda status: status.name,
        "operation": lambda status: status.operation,
        "state": _state,
        "total": lambda status: status.total,
        **{kind.replace("_", " "): partial(_count, kind=kind) for kind in _KINDS},
        "in flight": lambda status: status.in_flight,
        "submitted": _submitted,
        "stopped": lambda status: status.stopped or "",
    }
)


def print_lines(
    found: "Iterable[JobStatus]", here: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Print each job as JSON on one line.

    Args:
        found: The jobs.
        here: This worker's part of each job; None if this is not a worker.
    """
    for status in found:
        line = msgspec.to_builtins(status)
        if here is not None:
            line["here"] = here.get(status.name) or {"in_flight": 0, "done": {}}
        print_json(line, indent=None)


class Lines:
    """Prints changes of jobs as lines: a new state at once, progress less often.

    Args:
        console: Where to print.
        every: Seconds between two lines of a job whose state is unchanged.
    """

    def __init__(self, console: Console, every: float) -> None:
        self._console = console
        self._every = every
        self._clock = asyncio.get_running_loop().time
        self._printed: dict[str, tuple[tuple[object, ...], float]] = {}
        self._pending: dict[str, JobStatus] = {}

    def update(self, changed: "Iterable[JobStatus]") -> None:
        """Record changes, and print the lines that are due."""
        self._pending |= {status.name: status for status in changed}
        if behind(self._console.file):
            return
        now = self._clock()
        for name, status in list(self._pending.items()):
            state = (status.state, status.wave, status.stopped)
            last, at = self._printed.get(name, (None, 0.0))
            if state == last and now - at < self._every:
                continue
            del self._pending[name]
            self._printed[name] = (state, now)
            self._console.print(_line(status))


def _line(status: "JobStatus") -> str:
    counts = counts_text(status.done)
    parts = [f"{status.operation} of {status.total}", status.state]
    if status.wave > 1:
        parts.append(f"wave {status.wave}")
    parts += [f"{status.in_flight} in flight", *([counts] if counts else [])]
    line = f"job {status.name}: {', '.join(parts)}"
    if status.stopped:
        line += f"; no more operations are started: {printable(status.stopped)}"
    return line
