"""Show reports and outcomes, as text or JSON."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from rich.console import Console
from rich.text import Text

from async_vmapi.bulk.outcomes import GONE
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.cli.listing import VM_COLUMNS, Columns
from async_vmapi.cli.output import STYLES, printable, who
from async_vmapi.cli.resolve import name_of
from async_vmapi.cli.running import say
from async_vmapi.models.vm import VirtualMachine

__all__ = [
    "counts_text",
    "outcome_columns",
    "outcome_json",
    "show_outcome",
    "show_report",
    "show_tokens",
]

_NAMED_OF_A_WAVE: Final = 3
_MOST_LINES: Final = 20
_KINDS: Final = ("succeeded", "failed", "unknown", "not_started")


def counts_text(counts: Mapping[Any, int]) -> str:
    """Return the counts of outcomes as text, leaving out those that are zero."""
    return ", ".join(f"{counts[k]} {k.replace('_', ' ')}" for k in _KINDS if counts.get(k))


def show_report(console: Console, report: BulkReport, labels: Mapping[str, str]) -> None:
    """Print a report: counts, durations, failures, and the tokens of unknown outcomes."""
    console.print()
    console.print(Text(str(report), "bold"))
    if report.dry_run:
        _show_waves(console, report, labels)
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


def _show_waves(console: Console, report: BulkReport, labels: Mapping[str, str]) -> None:
    waves: dict[tuple[int, str], list[str]] = {}
    for outcome in report.outcomes:
        name = printable(labels.get(outcome.item, outcome.item))
        waves.setdefault((outcome.wave, outcome.reason), []).append(name)
    for (_, reason), names in sorted(waves.items()):
        # A canary is one VM, usually.
        which = f": {', '.join(names)}" if len(names) <= _NAMED_OF_A_WAVE else ""
        console.print(f"  {len(names)}: {printable(reason)}{which}")
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
    """Print the outcome of a ``vm`` command, and the VM as last observed."""
    if isinstance(outcome.value, VirtualMachine):
        name = name_of(outcome.value)
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
        VM_COLUMNS.print(console, [outcome.value])


def show_tokens(operation: str, names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Print the tokens of operations that are not awaited, one on each line.

    Args:
        operation: The operation.
        names: The names of the VMs; several may have the same.
        outcomes: Their outcomes.
    """
    for name, outcome in zip(names, outcomes, strict=True):
        why = f"{outcome.status}: {_why(outcome)}"
        if outcome.accepted:
            why = GONE if _was_gone(outcome) else "accepted"
        say(f"{operation} of {who(outcome.vm_id or name, name)}: {why}")
        if outcome.token:
            sys.stdout.write(f"{outcome.token}\n")


def _was_gone(outcome: Outcome) -> bool:
    return outcome.reason.startswith(GONE)


def outcome_columns(labels: Mapping[str, str]) -> Columns[Outcome]:
    """Return the name and the id of an outcome's VM.

    Args:
        labels: The labels of VMs by id.
    """

    def name(outcome: Outcome) -> str:
        if isinstance(outcome.value, VirtualMachine):
            return name_of(outcome.value)
        return labels.get(outcome.item, outcome.item)

    return Columns(
        {
            "vm": name,
            "id": lambda outcome: outcome.vm_id or outcome.item,
        }
    )


def outcome_json(operation: str, outcome: Outcome, *, no_wait: bool = False) -> dict[str, Any]:
    """Return the outcome of a ``vm`` command, with the VM as last observed.

    Args:
        operation: The operation.
        outcome: The outcome.
        no_wait: Whether its completion was not awaited.
    """
    if no_wait and outcome.accepted:
        outcome = attrs.evolve(outcome, reason=GONE if _was_gone(outcome) else "")
    return {
        "operation": operation,
        "status": "accepted" if no_wait and outcome.accepted else outcome.status,
        "vm_id": outcome.vm_id,
        "seconds": outcome.seconds,
        "evidence": outcome.evidence,
        "adopted": outcome.adopted,
        "token": outcome.token,
        "reason": outcome.reason,
        "error": outcome.error,
        "vm": outcome.value if isinstance(outcome.value, VirtualMachine) else None,
    }
