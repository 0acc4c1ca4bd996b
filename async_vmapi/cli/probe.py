"""``async-vmapi probe``: measure a provider, and write its facts to a file."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar

import attrs
import typer

from async_vmapi.cli.commands import command, option
from async_vmapi.cli.listing import VM_COLUMNS
from async_vmapi.cli.options import New, Yes
from async_vmapi.cli.output import console_for, table
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.prompts import agree, has_terminal
from async_vmapi.cli.requests import looked_up
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.errors import VMAPIError
from async_vmapi.facts import Facts

if TYPE_CHECKING:
    from async_vmapi.client import Client
    from async_vmapi.probe import Estimate, Probe, ProbePlan, ProbeReport

__all__ = ["probe"]

T = TypeVar("T")

_MINUTE: Final = 60.0
_SHOWN: Final = 70


@attrs.frozen(kw_only=True)
class Measuring:
    """What a probe does, and what it may cost."""

    PANEL: ClassVar = "Probe options"

    zone: str | None = option("Zone label or ID; by default, the first that is available.")
    template: str | None = option("Template label or ID; by default, the first one.")
    cpus: int = option("Cores of a VM.", 1, min=1)
    ram: int = option("Memory of a VM in MB.", 512, min=1)
    vms: int = option("VMs to create, one after the other.", 2, min=1)
    rounds: int = option("How often to measure each operation.", 3, min=1)
    price: float | None = option("Price of an hour of such a VM, if no VM shows it.", min=0)
    budget: float = option("Maximum cost, in the account's currency.", 1.0, min=0)
    interval: float = option("Seconds between two reads.", 0.5, min=0.001)
    patience: float = option(
        "Seconds without a change after which nothing more is expected.", 90.0, min=0.1
    )
    time_limit: float = option("Minutes after which to end and delete the VMs.", 105.0, min=0.1)

    def plan(self, client: "Client") -> "ProbePlan":
        """Return the plan; look up the zone and the template."""
        from async_vmapi.probe import ProbePlan

        zone = self.zone or ask(client, _first_zone)
        template = self.template or ask(client, _first_template)
        new = New(cpus=self.cpus, ram=self.ram, zone=zone, template=template)
        (request,) = looked_up(client, ["vmapi-probe-"], new)
        same = ("cpus", "ram", "vms", "rounds", "price", "budget", "interval", "patience")
        return ProbePlan(
            zone_id=request.zone_id,
            template=getattr(request.boot, "os", template),
            time_limit=self.time_limit * _MINUTE,
            **{name: getattr(self, name) for name in same},
        )


@command
def probe(
    ctx: typer.Context,
    measuring: Measuring,
    *,
    output: Annotated[
        Path, typer.Option(help="File to write the facts to.", dir_okay=False)
    ] = Path("cloud.toml"),
    read_only: Annotated[
        bool, typer.Option(help="Find out only what needs no VM; update the file.")
    ] = False,
    clean: Annotated[
        bool, typer.Option(help="Delete the VMs of probes that were interrupted.")
    ] = False,
    appears: Annotated[
        float,
        typer.Option(min=0, help="Seconds within which a new VM appears, if ever, for --clean."),
    ] = 70.0,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FILE FILE", help="Show which facts of two files differ."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Measure a provider, and write its facts to a file.

    It creates small VMs that are named vmapi-probe-..., measures all operations, and deletes them
    in every case; if it was killed, use --clean. It changes no other VM. Before anything is sent,
    it shows the highest cost and asks for confirmation.
    """
    if sum((read_only, clean, diff is not None)) > 1:
        fail("give only one of --read-only, --clean and --diff", ExitCode.USAGE)
    if diff is not None:
        raise typer.Exit(_diff(*map(Facts.of, diff)))
    # Slow to import, and not needed for help.
    from async_vmapi.probe import Probe

    client = client_for(ctx.obj)
    found = Probe(client, journal=f"{output}.intent", appears=appears, report=say)
    if clean:
        raise typer.Exit(_clean(client, found, yes=yes))
    if read_only:
        report = ask(client, lambda _: found.read_only())
        known = Facts.of(output) if output.exists() else Facts({})
        raise typer.Exit(_show(report, report.facts.over(known), output))
    plan = measuring.plan(client)
    _print_plan(plan, ask(client, lambda _: found.estimate(plan)))
    _confirm("probe", yes=yes)
    report = _interruptible(client, lambda _: found.run(plan), output)
    raise typer.Exit(_show(report, report.facts, output))


def _interruptible(client: "Client", call: "Callable[[Client], Awaitable[T]]", output: Path) -> T:
    try:
        return ask(client, call)
    except typer.Exit:
        if Path(f"{output}.intent").exists():
            say("a VM may be left: run 'async-vmapi probe --clean' with the same --output")
        raise


def _print_plan(plan: "ProbePlan", estimate: "Estimate") -> None:
    console = console_for(json=False)
    console.print(
        f"{_count(plan.vms, 'VM')} with {_count(plan.cpus, 'core')} and {plan.ram} MB, one after "
        f"the other, named vmapi-probe-...; {plan.renames} renames or more, and {plan.rounds} "
        "rounds of reboot, reset, resize, shutdown, power-on and power-off"
    )
    console.print(
        f"duration: about {plan.duration / _MINUTE:.0f} minutes, at most "
        f"{plan.time_limit / _MINUTE:.0f}; a read every {plan.interval:g} s"
    )
    console.print(
        f"highest cost: {estimate.cost:g} ({_count(estimate.vms, 'VM')}, {estimate.hours} hours "
        f"each, at double the price of {estimate.price:g}, as one core is added)"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not has_terminal():
        fail(f"{what} requires --yes if standard input is not a terminal", ExitCode.USAGE)
    agree("Continue?")


def _show(report: "ProbeReport", facts: Facts, output: Path) -> ExitCode:
    """Write the facts, and show them."""
    temporary = output.with_name(f"{output.name}.new")
    temporary.write_text(facts.to_toml(), "utf-8")
    os.replace(temporary, output)
    rows = [(name, _text(fact.value), str(fact.seen)) for name, fact in report.facts.items()]
    console_for(json=False).print(table(("fact", "value", "seen"), sorted(rows)))
    for problem in report.problems:
        say(f"not everything was measured: {problem}")
    if report.left:
        say(f"NOT deleted, run 'async-vmapi probe --clean': {', '.join(report.left)}")
    say(f"{len(report.facts)} facts are in {output}")
    return ExitCode.FAILED if report.problems or report.left else ExitCode.OK


def _clean(client: "Client", found: "Probe", *, yes: bool) -> ExitCode:
    vms = ask(client, lambda _: found.left_over())
    if vms:
        VM_COLUMNS.print(console_for(json=False), vms)
        _confirm("probe --clean", yes=yes)
    left = ask(client, lambda _: found.delete(vms))
    if left:
        say(f"NOT deleted, try again: {', '.join(left)}")
        return ExitCode.FAILED
    say(f"deleted: {_count(len(vms), 'VM')}; none of a probe is left")
    return ExitCode.OK


def _diff(before: Facts, after: Facts) -> ExitCode:
    from async_vmapi.probe.drift import drift

    changed = drift(before, after)
    if not changed:
        say("no fact has changed")
        return ExitCode.OK
    rows = [
        (name, *("not known" if fact is None else _text(fact.value) for fact in pair))
        for name, pair in changed.items()
    ]
    console_for(json=False).print(table(("fact", "before", "after"), rows))
    return ExitCode.FAILED


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))  # pyright: ignore[reportUnknownArgumentType]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


async def _first_zone(client: "Client") -> str:
    for region in await client.regions.list():
        for zone in region.zones:
            if zone.available:
                return zone.id
    raise VMAPIError("no zone is available")


async def _first_template(client: "Client") -> str:
    for template in await client.templates.list():
        return template.id
    raise VMAPIError("there are no templates")
