"""Views of durable jobs: a list, and a live table."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
from rich.console import Console
from rich.text import Text

from async_vmapi.cli.listing import Columns
from async_vmapi.cli.live import TableView
from async_vmapi.cli.outcomes import counts_text
from async_vmapi.cli.output import STYLES, printable
from async_vmapi.cli.progress import duration, rate_of

if TYPE_CHECKING:
    from async_vmapi.durable import DurableFleet, JobStatus

__all__ = ["JOB_COLUMNS", "JobsView", "has_ended", "waits_text"]

_STATES: Final[Mapping[str, str]] = {
    "waiting": "yellow",
    "running": "cyan",
    "held": "yellow",
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


def waits_text(status: "JobStatus") -> str:
    """Return what a job waits for, and the command that lets it continue; empty for nothing."""
    if status.paused is not None:
        why, verb = printable(status.paused), "resume"
    elif status.held is not None:
        why, verb = f"held after wave {status.held}", "promote"
    else:
        return f"{status.soaking} VMs soak" if status.soaking else ""
    return f"{why}: starts no operations until 'job {verb} {status.name}'"


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


class JobsView(TableView["JobStatus"]):
    """A live table of the jobs that have not ended, and below them of those that end from now on.

    Args:
        console: The terminal to fit it to.
        fleet: The fleet that has the jobs.
        rows: Lines of the terminal for other things than jobs.
        every: Seconds between two lines of a job whose state is unchanged.
    """

    def __init__(
        self, console: Console, fleet: "DurableFleet", *, rows: int = 4, every: float = 0.0
    ) -> None:
        counts = {kind.replace("_", " "): partial(_count, kind=kind) for kind in _KINDS[1:]}
        columns: Columns[JobStatus] = Columns(
            {
                "job": lambda status: status.name,
                "operation": lambda status: status.operation,
                "state": _state,
                "done": lambda status: f"{sum(status.done.values())}/{status.total}",
                **counts,
                "in flight": lambda status: status.in_flight,
                "rate": self._rate_text,
                "left": self._left,
            }
        )
        super().__init__(console, "job", columns, rows)
        self._fleet = fleet
        self._every = every
        self._clock = asyncio.get_running_loop().time
        self._before: set[str] | None = None
        self._seen: dict[str, JobStatus] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._changed: dict[str, JobStatus] = {}
        self._printed: dict[str, tuple[tuple[object, ...], float]] = {}

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended."""
        return all(map(has_ended, self.items))

    async def poll(self) -> None:
        """Read the jobs.

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
            for name, old in self._seen.items():
                if name not in found and not has_ended(old):
                    found[name] = await (await self._fleet.job(name)).status()
        for name in [name for name in found if name not in self._before]:
            earlier, new = self._seen.get(name), found[name]
            self._seen[name] = new
            self._first.setdefault(name, (self._clock(), _executed(new)))
            if earlier is None or attrs.evolve(earlier, changed=new.changed) != new:
                self._changed[name] = new
        self.items = sorted(self._seen.values(), key=lambda s: (has_ended(s), -s.submitted))

    def changes(self) -> "Iterable[object]":
        """Return the statuses that have changed."""
        changed, self._changed = self._changed, {}
        return changed.values()

    def lines(self) -> Iterable[str]:
        """Return a line for each job with a new state, and less often for others that changed."""
        now = self._clock()
        for name, status in list(self._changed.items()):
            state = (status.state, status.wave, status.stopped, waits_text(status))
            last, at = self._printed.get(name, (None, 0.0))
            if state != last or now - at >= self._every:
                del self._changed[name]
                self._printed[name] = (state, now)
                yield _line(status)

    def _rate(self, status: "JobStatus") -> float:
        since, at_first = self._first[status.name]
        elapsed = self._clock() - since
        ended = has_ended(status) or elapsed <= 0
        return 0.0 if ended else (_executed(status) - at_first) / elapsed

    def _rate_text(self, status: "JobStatus") -> str:
        rate = self._rate(status)
        return rate_of(rate) if rate > 0 else ""

    def _left(self, status: "JobStatus") -> str:
        rate = self._rate(status)
        if rate <= 0 or status.state != "running":
            return ""
        return duration((status.total - sum(status.done.values())) / rate)


def _executed(status: "JobStatus") -> int:
    return sum(status.done.values()) - status.done.get("not_started", 0)


def _line(status: "JobStatus") -> str:
    counts = counts_text(status.done)
    parts = [f"{status.operation} of {status.total}", status.state]
    if status.wave > 1:
        parts.append(f"wave {status.wave}")
    parts += [f"{status.in_flight} in flight", *([counts] if counts else [])]
    line = f"job {status.name}: {', '.join(parts)}"
    if waits := waits_text(status):
        line += f"; {waits}"
    if status.stopped:
        line += f"; no more operations are started: {printable(status.stopped)}"
    return line
