"""``fleet OPERATION --plan FILE`` and ``fleet apply FILE``: do exactly what was approved."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs
import typer

from async_vmapi.bulk.approval import ApprovedPlan, PlannedVM
from async_vmapi.cli.operations import Work, carry_out, confirm, some_of
from async_vmapi.cli.options import Output, read_text
from async_vmapi.cli.output import printable, who
from async_vmapi.cli.profiles import ask
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.models.vm import VirtualMachine

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["apply_plan", "write_plan"]

_MOST_DIFFERENCES = 20


def write_plan(client: "Client", work: Work, file: Path) -> NoReturn:
    """Write what a rollout would do to a file, show it, and exit; nothing is changed."""
    vms = [vm for vm in work.items if isinstance(vm, VirtualMachine)]
    if len(vms) < len(work.items):
        unlisted = [str(vm) for vm in work.items if not isinstance(vm, VirtualMachine)]
        fail(f"no list shows {some_of(unlisted)}, so they cannot be planned", ExitCode.USAGE)
    trial = attrs.evolve(work.plan, dry_run=True)
    report = ask(
        client, lambda client: client.bulk(trial).run(vms, work.operation, **work.keywords)
    )
    plan = ApprovedPlan.of(report, work.plan, vms)
    try:
        file.write_text(plan.to_json(), "utf-8")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", ExitCode.USAGE)
    typer.echo("\n".join([_title(plan), *map(_line, sorted(plan.vms, key=lambda vm: vm.wave))]))
    typer.echo(f"To carry it out: async-vmapi fleet apply {file}")
    raise typer.Exit(ExitCode.OK)


def _title(plan: ApprovedPlan) -> str:
    return f"{plan.operation} of {len(plan.vms)} VMs, plan {plan.hash[:12]}:"


def _line(vm: PlannedVM) -> str:
    return f"  {who(vm.id, vm.label)}, {printable(vm.state)}: {printable(vm.reason)}"


def apply_plan(
    client: "Client", file: Path, output: Output, *, yes: bool, timeout: float | None
) -> NoReturn:
    """Carry out the plan of a file, unless the fleet differs from it, and exit."""
    plan = ApprovedPlan.from_json(read_text(file))
    if plan.origin != client.origin:
        fail(f"{file} is of {plan.origin}, and this is {client.origin}", ExitCode.USAGE)
    vms = ask(client, lambda client: client.vms.list())
    if differences := list(plan.drift(vms)):
        _refuse(file, differences)
    now = {vm.id: vm for vm in vms}
    items = [now[vm.id] for vm in plan.vms]
    typer.echo(_title(plan), err=True)
    confirm(plan.operation, items, yes=yes)
    work = Work(
        operation=plan.operation,
        items=items,
        keywords=plan.arguments,
        plan=plan.plan,
        labels={vm.id: vm.label or vm.id for vm in items},
        output=output,
        timeout=timeout,
        approved=plan.hash,
    )
    carry_out(client, work)


def _refuse(file: Path, differences: Sequence[str]) -> NoReturn:
    shown = [f"  {printable(difference)}" for difference in differences[:_MOST_DIFFERENCES]]
    if len(differences) > _MOST_DIFFERENCES:
        shown.append(f"  and {len(differences) - _MOST_DIFFERENCES} more")
    fail("\n".join([f"the fleet is not as in {file}; make another plan:", *shown]))
