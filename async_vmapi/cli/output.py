"""How machines, catalogues and reports are shown: as tables for people, as JSON for machines."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from async_vmapi.models import VirtualMachine
from async_vmapi.report import BulkReport, Outcome

__all__ = [
    "STYLES",
    "console_for",
    "machine_table",
    "outcome_json",
    "print_json",
    "printable",
    "show_outcome",
    "show_report",
    "style_of",
    "table",
    "who",
]

STYLES: Final[Mapping[str, str]] = {
    "online": "green",
    "offline": "bright_black",
    "installing": "cyan",
    "deleting": "magenta",
    "gone": "bright_black",
    "succeeded": "green",
    "failed": "red",
    "unknown": "yellow",
    "not started": "bright_black",
}

_MOST_LINES: Final = 20


def printable(text: str) -> str:
    """Return a text without what would steer a terminal, or cannot be encoded.

    Labels and refusals are other people's words.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def style_of(state: str | None) -> str:
    """Return the colour of a state; of one that nobody knows, an alarming one."""
    return STYLES.get(state or "gone", "red")


def who(item: str, label: str | None) -> str:
    """Return how a machine is called: by its label and id, as far as they are known."""
    return printable(item if label is None or label == item else f"{label} ({item})")


def console_for(*, json: bool) -> Console:
    """Return where to tell what happens: beside the JSON, or in its place."""
    return Console(stderr=json, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value, or a JSON text, on standard output."""
    text = value if isinstance(value, bytes) else msgspec.json.encode(value)
    sys.stdout.write(msgspec.json.format(text, indent=2).decode() + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a plain table; on anything but a terminal it reads well too."""
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(c)) if isinstance(c, str) else c for c in row))
    return made


def machine_table(machines: Iterable[VirtualMachine]) -> Table:
    """Return a table of machines."""
    return table(
        ("label", "id", "state", "cores", "ram MB", "address", "zone"),
        (
            (
                vm.label or "",
                vm.id,
                Text(printable(vm.state), style_of(vm.state)),
                str(vm.cores),
                str(vm.ram),
                ", ".join(vm.addresses),
                vm.zone.name,
            )
            for vm in machines
        ),
    )


def show_report(console: Console, report: BulkReport, labels: Mapping[str, str]) -> None:
    """Print a report: the sums, what went wrong, and every token there is to go on with."""
    console.print()
    console.print(Text(str(report), "bold"))
    if report.dry_run:
        _show_waves(console, report)
        return
    if report.succeeded:
        console.print(_durations(report))
    calls = ", ".join(f"{n} {call}" for call, n in sorted(report.requests.items()))
    total = sum(report.requests.values())
    console.print(f"took {report.seconds:.1f} s and {total} requests{f': {calls}' * bool(calls)}")
    _show_some(console, "failed", report.failed, labels)
    _show_some(console, "not started", report.not_started, labels)
    if report.unknown:
        console.print(Text("\nunknown; look on with: async-vmapi wait 'TOKEN'", STYLES["unknown"]))
    for outcome in report.unknown:
        console.print(f"  {_told(outcome, labels)}")
        if outcome.token:
            console.print(f"    {outcome.token}")


def _durations(report: BulkReport) -> str:
    evidence: dict[str, int] = {}
    for outcome in report.succeeded:
        if outcome.evidence:
            evidence[outcome.evidence] = evidence.get(outcome.evidence, 0) + 1
    parts = [f"{n} {how}" for how, n in sorted(evidence.items())]
    if (adopted := sum(outcome.adopted for outcome in report.succeeded)) > 0:
        parts.append(f"{adopted} adopted")
    if report.median_seconds is not None:
        parts.append(f"median {report.median_seconds:.1f} s")
        parts.append(f"95 % within {report.p95_seconds or 0.0:.1f} s")
    return ", ".join(parts)


def _show_waves(console: Console, report: BulkReport) -> None:
    waves: dict[int, int] = {}
    for outcome in report.outcomes:
        waves[outcome.wave] = waves.get(outcome.wave, 0) + 1
    for wave, count in waves.items():
        console.print(f"  wave {wave}: {count}")
    console.print("a dry run: nothing was sent")


def _show_some(
    console: Console, kind: str, outcomes: Sequence[Outcome], labels: Mapping[str, str]
) -> None:
    if outcomes:
        console.print(Text(f"\n{kind}", STYLES[kind]))
    for outcome in outcomes[:_MOST_LINES]:
        console.print(f"  {_told(outcome, labels)}")
    if len(outcomes) > _MOST_LINES:
        console.print(f"  and {len(outcomes) - _MOST_LINES} more")


def _told(outcome: Outcome, labels: Mapping[str, str]) -> str:
    error = f"{outcome.error}: " if outcome.error else ""
    name = who(outcome.item, labels.get(outcome.item))
    return f"{name}: {error}{printable(outcome.reason)}"


def show_outcome(console: Console, operation: str, outcome: Outcome) -> None:
    """Print what became of the only item, and the machine as it was seen at the end."""
    how = f", {outcome.evidence}" if outcome.evidence else ""
    took = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None else ""
    text = Text(f"{operation} of {who(outcome.vm_id or outcome.item, None)}: ")
    kind = outcome.status.replace("_", " ")
    console.print(text.append(kind, STYLES[kind]).append(f"{how}{took}"))
    if outcome.reason:
        console.print(f"  {_told(outcome, {})}")
    if outcome.token:
        console.print(f"  look on with: async-vmapi wait '{outcome.token}'")
    if isinstance(outcome.value, VirtualMachine):
        console.print(machine_table([outcome.value]))


def outcome_json(report: BulkReport) -> dict[str, Any]:
    """Return what became of the only item, with the machine as it was seen at the end."""
    (line,) = msgspec.json.decode(report.to_json())["outcomes"]
    (outcome,) = report.outcomes
    defaults = {"vm_id": None, "seconds": None, "evidence": None, "adopted": False, "token": None}
    kept = {name: line.get(name, default) for name, default in defaults.items()}
    vm = outcome.value if isinstance(outcome.value, VirtualMachine) else None
    return {
        "operation": report.operation,
        "status": outcome.status,
        **kept,
        "reason": outcome.reason,
        "error": outcome.error,
        "vm": vm,
    }
