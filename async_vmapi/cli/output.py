"""Show VMs, catalogues and reports, as tables or JSON."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.models import VirtualMachine

__all__ = [
    "STYLES",
    "console_for",
    "is_known_terminal",
    "outcome_json",
    "print_json",
    "printable",
    "show_outcome",
    "show_report",
    "style_of",
    "table",
    "vm_table",
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
_UNBOUNDED: Final = 10_000
_WIDEST: Final = 40
_FEWEST: Final = 3
_GAP: Final = 2


def printable(text: str) -> str:
    """Return a text on one line, with control and unencodable characters escaped.

    Labels and server messages are untrusted.
    """
    if text.isprintable() and (text.isascii() or _encodable(text)):
        return text
    return "".join(
        c if c.isprintable() and _encodable(c) else c.encode("unicode_escape").decode()
        for c in text
    )


def _encodable(text: str) -> bool:
    # Escape now, not when writing: tables need the width.
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def style_of(state: str | None) -> str:
    """Return the colour of a state; red if it is unknown."""
    return STYLES.get(state or "gone", "red")


def who(item: str, label: str | None) -> str:
    """Return the label and id of a VM for display, or what is known of them."""
    return printable(item if label is None or label == item else f"{label} ({item})")


def is_known_terminal() -> bool:
    """Return whether the terminal's type is known."""
    return sys.platform == "win32" or bool(os.environ.get("TERM"))


def console_for(*, json: bool) -> Console:
    """Return the console for progress and results; on standard error if stdout has JSON."""
    stream = sys.stderr if json else sys.stdout
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        color_system="auto" if is_known_terminal() or not stream.isatty() else None,
        # Do not wrap output that programs read.
        width=None if stream.isatty() else _UNBOUNDED,
    )


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON on standard output, in ASCII for any terminal encoding."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=indent) + "\n")
    sys.stdout.flush()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    fold: bool = True,
    width: int | None = None,
) -> Table:
    """Return a plain table.

    Args:
        columns: Column headers, the most important first.
        rows: Cells of each row.
        fold: Fold cells that do not fit; otherwise shorten them, the first column last.
        width: Maximum width in characters; the last columns are left out, down to three.
    """
    result = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    cells = [[Text(printable(c)) if isinstance(c, str) else c for c in row] for row in rows]
    widths: Sequence[int | None] = [None] * len(columns)
    if width is not None:
        widths = _fitting(columns, cells, width)
        columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    first = max((row[0].cell_len for row in cells), default=0)
    for number, column in enumerate(columns):
        result.add_column(
            column,
            overflow="fold" if fold else "ellipsis",
            no_wrap=not fold,
            min_width=None if fold or number else min(first, _WIDEST),
            max_width=widths[number],
        )
    for row in cells:
        result.add_row(*row)
    return result


def _fitting(columns: Sequence[str], cells: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the widths of the columns that fit; the widest of the last three is shortened."""
    widths = [
        max([len(column), *(row[number].cell_len for row in cells)])
        for number, column in enumerate(columns)
    ]
    while len(widths) > _FEWEST and sum(widths) + _GAP * (len(widths) - 1) > width:
        widths.pop()
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    if over > 0 and len(widths) > 1:
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        widths[widest] = max(_GAP, widths[widest] - over)
    return widths


def vm_table(
    vms: Iterable[VirtualMachine], *, fold: bool = True, width: int | None = None
) -> Table:
    """Return a table of VMs; without folding, each has one line."""
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
            for vm in vms
        ),
        fold=fold,
        width=width,
    )


def show_report(console: Console, report: BulkReport, labels: Mapping[str, str]) -> None:
    """Print a report: counts, durations, failures, and the tokens of unknown outcomes."""
    console.print()
    console.print(Text(str(report), "bold"))
    if report.dry_run:
        _show_waves(console, report)
        return
    if report.succeeded:
        console.print(_durations(report))
    took = f"took {report.seconds:.1f} s"
    if report.requests:
        calls = ", ".join(f"{n} {call}" for call, n in sorted(report.requests.items()))
        took += f" and {sum(report.requests.values())} requests: {calls}"
    console.print(took)
    _show_some(console, "failed", report.failed, labels)
    _show_some(console, "not started", report.not_started, labels)
    if report.unknown:
        console.print(Text("\noutcome unknown; run: async-vmapi wait TOKEN", STYLES["unknown"]))
    for outcome in report.unknown:
        console.print(f"  {_told(outcome, labels)}")
        if outcome.token:
            console.print(f"    {outcome.token}")


def _durations(report: BulkReport) -> str:
    evidence = Counter(outcome.evidence for outcome in report.succeeded if outcome.evidence)
    parts = [f"{n} {how}" for how, n in sorted(evidence.items())]
    if (adopted := sum(outcome.adopted for outcome in report.succeeded)) > 0:
        parts.append(f"{adopted} adopted")
    if (gone := sum(bool(outcome.reason) for outcome in report.succeeded)) > 0:
        parts.append(f"{gone} already gone")
    if report.median_seconds is not None:
        parts.append(f"median {report.median_seconds:.1f} s")
        parts.append(f"95 % within {report.p95_seconds or 0.0:.1f} s")
    return ", ".join(parts)


def _show_waves(console: Console, report: BulkReport) -> None:
    reasons = Counter(outcome.reason for outcome in report.outcomes if outcome.reason)
    for reason, count in reasons.items():
        console.print(f"  {count}: {printable(reason)}")
    console.print("nothing was sent")


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
    return f"{who(outcome.item, labels.get(outcome.item))}: {_why(outcome)}"


def _why(outcome: Outcome) -> str:
    error = f"{outcome.error}: " if outcome.error else ""
    return f"{error}{printable(outcome.reason)}"


def show_outcome(console: Console, operation: str, name: str, outcome: Outcome) -> None:
    """Print the outcome of a ``vms`` command, and the VM as last observed."""
    how = f", {outcome.evidence}" if outcome.evidence else ""
    took = f" in {outcome.seconds:.1f} s" if outcome.seconds is not None else ""
    text = Text(f"{operation} of {who(outcome.vm_id or name, name)}: ")
    kind = outcome.status.replace("_", " ")
    console.print(text.append(kind, STYLES[kind]).append(f"{how}{took}"))
    if outcome.reason:
        console.print(f"  {_why(outcome)}")
    if outcome.token:
        console.print(f"  run: async-vmapi wait {outcome.token}")
    if isinstance(outcome.value, VirtualMachine):
        console.print(vm_table([outcome.value]))


def outcome_json(operation: str, outcome: Outcome) -> dict[str, Any]:
    """Return the outcome of a ``vms`` command, with the VM as last observed."""
    return {
        "operation": operation,
        "status": outcome.status,
        "vm_id": outcome.vm_id,
        "seconds": outcome.seconds,
        "evidence": outcome.evidence,
        "adopted": outcome.adopted,
        "token": outcome.token,
        "reason": outcome.reason,
        "error": outcome.error,
        "vm": outcome.value if isinstance(outcome.value, VirtualMachine) else None,
    }
