"""``async-vmapi explain``: why an operation is complete, failed or unknown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.cli.commands import command
from async_vmapi.cli.options import read_text
from async_vmapi.cli.output import printable
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.tasks.token import Token, peek

__all__ = ["explain"]


@command
def explain(
    case: Annotated[
        str,
        typer.Argument(
            metavar="REPORT[#ITEM]|TOKEN",
            help="Report file, with # and the VM's ID, name or number for one item; or a token.",
        ),
    ],
) -> None:
    """Explain what was seen, and which rule decided.

    Of a report without an item, those that did not succeed are explained. Sends no request.
    """
    name, _, item = case.partition("#")
    if (token := peek(case)) is not None and not Path(name).exists():
        typer.echo("\n".join(_about(token, case)))
        return
    report = BulkReport.from_json(read_text(Path(name)))
    chosen = _chosen(report, item)
    if item and not chosen:
        fail(f"{name} has no item {item!r}: use its ID, name or number", ExitCode.USAGE)
    typer.echo(f"{report}\n" if not item else "", nl=False)
    for outcome in chosen:
        typer.echo("\n".join(_of(outcome)))


def _chosen(report: BulkReport, item: str) -> list[Outcome]:
    if not item:
        return [outcome for outcome in report.outcomes if outcome.status != "succeeded"]
    return [
        outcome
        for outcome in report.outcomes
        if item in (outcome.item, outcome.vm_id, str(outcome.index))
    ]


def _of(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield f"#{outcome.index} {printable(outcome.item)}: {outcome.status.replace('_', ' ')}"
    if outcome.reason:
        yield printable(outcome.reason)
    if outcome.adopted:
        yield "The response to the request was lost, and its effect was found by reconciling."
    if outcome.explanation is not None:
        yield from map(printable, str(outcome.explanation).splitlines())
    elif outcome.status != "not_started":
        yield "No operation was accepted, so nothing was polled."
    if outcome.status == "unknown" and outcome.token:
        yield f"To find out more: async-vmapi wait {outcome.token}"


def _about(token: Token, text: str) -> Iterator[str]:
    operation, of = token.operation, token.vm or getattr(token, "name", "")
    yield f"{operation} of {printable(of)} at {printable(token.origin)}"
    if (elapsed := getattr(token, "elapsed", None)) is None:
        yield "It is unknown whether the API carried out the request."
    else:
        seen = "was seen" if getattr(token, "seen", False) else "was not seen yet"
        yield f"The API accepted it; the last poll was {elapsed:g} s later, and the VM {seen}."
    if (completed := getattr(token, "completed", None)) is not None:
        yield f"The operation is complete, {completed}."
    if token.ready:
        yield f"It waits for: {printable(token.ready)}"
    yield f"To find out more: async-vmapi wait {text.strip()}"
