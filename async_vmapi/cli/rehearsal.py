"""``fleet OPERATION --rehearse N``: run a plan many times on an emulated copy of the fleet."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import attrs
import msgspec
import typer
from rich.console import Console, RenderableType
from rich.text import Text

from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.rehearsal import Figure, Rehearsal, RehearsalRun, Spread
from async_vmapi.bulk.report import Status
from async_vmapi.cli.commands import option
from async_vmapi.cli.live import Live, is_live
from async_vmapi.cli.operations import Work
from async_vmapi.cli.output import print_json, print_yaml, printable, table
from async_vmapi.cli.profiles import ask
from async_vmapi.cli.progress import duration
from async_vmapi.cli.reports import check_file, write_report
from async_vmapi.cli.running import ExitCode, fail, say

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["Rehearsing", "rehearse"]

_FIGURES: Final[Mapping[str, Figure]] = {
    "duration": "seconds",
    "requests": "requests",
    "requests per second": "requests_per_second",
    "most in a second": "peak_requests",
    "fewest online": "fewest_online",
}
_STATUSES: Final[tuple[Status, ...]] = ("succeeded", "failed", "unknown", "not_started")


@attrs.frozen(kw_only=True)
class Rehearsing:
    """The options of a rehearsal."""

    PANEL: ClassVar = "Rehearsal options"

    rehearse: int | None = option(
        "Run the plan so many times on an emulated copy of the fleet; change nothing.",
        min=1,
        max=100_000,
        metavar="N",
    )
    seed: int | None = option(
        "Random seed of the first run, 1 by default. To repeat a run: its seed, with --rehearse 1.",
        min=0,
        names=["--rehearse-seed"],
    )
    hazard: list[str] | None = option(
        "What goes wrong in a rehearsal, like failing=0.01 or unhealthy=0; can be repeated.",
        metavar="NAME=VALUE",
    )
    picture: Path | None = option(
        "Write a timeline of the worst run to this SVG file.", dir_okay=False
    )

    def hazards(self) -> Hazards:
        """Return what goes wrong."""
        fields = attrs.fields_dict(Hazards)
        found: dict[str, Any] = {}
        for text in self.hazard or ():
            name, separator, value = text.partition("=")
            if name not in fields or not separator:
                known = ", ".join(fields)
                fail(f"--hazard {text}: use NAME=VALUE with one of {known}", ExitCode.USAGE)
            numbers = list[float]()
            with suppress(ValueError):
                numbers = [float(number) for number in value.split(",")]
            if len(numbers) != (2 if name == "warm_up" else 1):
                like = "5,30" if name == "warm_up" else "0.01"
                fail(f"--hazard {text}: use a value like {name}={like}", ExitCode.USAGE)
            found[name] = tuple(numbers) if name == "warm_up" else numbers[0]
        return Hazards(**found)

    def check(self, **others: object) -> bool:
        """Return whether to rehearse; exit if options do not fit together, or a value is wrong.

        Args:
            others: Options that exclude a rehearsal, by name; None or empty if not given.
        """
        if self.rehearse is None:
            given = {
                "hazard": self.hazard,
                "picture": self.picture,
                "rehearse-seed": self.seed is not None,
            }
            for name in filter(given.get, given):
                fail(f"--{name} requires --rehearse N", ExitCode.USAGE)
            return False
        for name in filter(others.get, others):
            fail(f"--rehearse and --{name} exclude each other", ExitCode.USAGE)
        self.hazards()
        if self.picture is not None:
            _check_file(self.picture)
        return True


def _check_file(path: Path) -> None:
    try:
        check_file(path)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", ExitCode.USAGE)


def rehearse(client: "Client", work: Work, rehearsing: Rehearsing) -> NoReturn:
    """Rehearse an operation, show what may happen, and exit; nothing is changed."""
    work.check_file()
    if not work.items:
        say("no VM is selected, so there is nothing to rehearse")
        raise typer.Exit(ExitCode.OK)
    runs = rehearsing.rehearse or 1
    view = _Progress(runs)
    console = work.output.console
    live = Live(console, view) if is_live(console) else None

    def count(_: RehearsalRun) -> None:
        view.done += 1
        if live is not None:
            live.refresh()

    with live or nullcontext():
        found = ask(
            client,
            lambda client: client.bulk(work.plan).rehearse(
                work.items,
                work.operation,
                runs=runs,
                seed=1 if rehearsing.seed is None else rehearsing.seed,
                hazards=rehearsing.hazards(),
                on_run=count,
                **work.keywords,
            ),
        )
    raise typer.Exit(_show(work, found, rehearsing.picture))


def _show(work: Work, rehearsal: Rehearsal, picture: Path | None) -> ExitCode:
    kind, console, text = work.output.kind, work.output.console, rehearsal.to_json()
    if kind == "json":
        print_json(msgspec.json.decode(text))
    elif kind == "yaml":
        print_yaml(msgspec.json.decode(text))
    else:
        _print(console, rehearsal)
    written = work.file is None or write_report(work.file, text)
    if picture is not None:
        written &= write_report(picture, rehearsal.to_svg())
    return ExitCode.OK if written else ExitCode.OUTPUT_LOST


@attrs.define
class _Progress:
    runs: int
    done: int = 0

    def __rich__(self) -> RenderableType:
        return Text(f"rehearsed {self.done} of {self.runs} runs")


def _print(console: Console, rehearsal: Rehearsal) -> None:
    console.print(Text(str(rehearsal), "bold"))
    console.print(table(("", "least", "median", "90 %", "most"), list(_rows(rehearsal))))
    runs = len(rehearsal.runs)
    if rehearsal.failures:
        named = ", ".join(
            f"{kind} {count / runs:.3g}" for kind, count in rehearsal.failures.items()
        )
        console.print(f"failed or unknown in a run, on average: {printable(named)}")
    for reason, count in rehearsal.stops.items():
        console.print(f"stopped in {count} of {runs} runs: {printable(reason)}")
    console.print(
        f"worst run: seed {rehearsal.worst.seed}; to repeat it: --rehearse 1 --rehearse-seed "
        f"{rehearsal.worst.seed}"
    )
    console.print("nothing was changed")


def _rows(rehearsal: Rehearsal) -> Iterator[list[str]]:
    for name, figure in _FIGURES.items():
        if (spread := rehearsal.spread(figure)) is not None:
            yield _row(name, spread, duration if figure == "seconds" else _number)
    for status in _STATUSES:
        if (counts := rehearsal.count(status)).most:
            yield _row(status.replace("_", " "), counts, _number)


def _row(name: str, spread: Spread, shown: Callable[[float], str]) -> list[str]:
    return [name, *(shown(value) for value in attrs.astuple(spread))]


def _number(value: float) -> str:
    return f"{value:.4g}"
