"""``async-vmapi fleet``: many VMs at once, by `client.bulk`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from async_vmapi.bulk.item import check_plan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.approval import apply_plan, write_plan
from async_vmapi.cli.commands import Commands
from async_vmapi.cli.jobs import submit
from async_vmapi.cli.operations import Work, carry_out, confirm, some_of
from async_vmapi.cli.options import (
    DurableOptions,
    Fleet,
    New,
    Output,
    RolloutOptions,
    Timeout,
    Yes,
    read_text,
)
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.rehearsal import Rehearsing, rehearse
from async_vmapi.cli.requests import looked_up, names_of
from async_vmapi.cli.resolve import name_of
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.cli.verbs import add_verbs
from async_vmapi.writes.operations import operation_spec
from async_vmapi.writes.requests import VMOrId

__all__ = ["app"]

PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan",
        metavar="FILE",
        help="Write what would be done to this file, for 'fleet apply'; change nothing.",
        dir_okay=False,
    ),
]

app = Commands("Create and change many VMs at once.")


@app.add("create")
def create(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Number of VMs.")],
    name: Annotated[
        str,
        typer.Option(
            help="Label pattern with a number, like 'web-{:04}'; up to 255 characters each."
        ),
    ],
    new: New,
    options: DurableOptions,
    output: Output,
    rehearsing: Rehearsing,
    first: Annotated[
        int, typer.Option(min=0, max=1_000_000_000, help="Number in the first label.")
    ] = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Resume from this report of the same command.")
    ] = None,
) -> None:
    """Create VMs, and wait until all are online."""
    options.check_place(ctx)
    rehearses = rehearsing.check(resume=resume, durable=options.durable)
    plan = options.plan()
    check_plan(plan, "create")
    client, names = client_for(ctx.obj), names_of(name, count, first)
    earlier = None if resume is None else BulkReport.from_json(read_text(resume))
    if earlier is not None and (earlier.operation, len(earlier.outcomes)) != ("create", count):
        reported = f"{earlier.operation} of {len(earlier.outcomes)}"
        fail(f"{resume} is the report of a {reported}, not of a create of {count}", ExitCode.USAGE)
    if earlier is not None and options.durable is not None:
        fail("--resume and --durable exclude each other: jobs resume by themselves", ExitCode.USAGE)
    work = Work(
        operation="create",
        items=looked_up(client, names, new, stored=options.durable is not None),
        keywords=new.keywords(),
        earlier=earlier,
        plan=plan,
        output=output,
        timeout=options.timeout,
    )
    if rehearses:
        rehearse(client, work, rehearsing)
    if options.durable is not None:
        submit(options, work)
    carry_out(client, work)


@app.add("resume")
def resume(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Report file, or - for standard input.", allow_dash=True)
    ],
    options: RolloutOptions,
    output: Output,
    yes: Yes = False,
) -> None:
    """Resume from a report: watch accepted operations, and start those not started.

    Idempotent operations whose outcome is unknown are sent again. If creates were not started, use
    'fleet create --resume' instead, which has the options of the new VMs.
    """
    client, plan = client_for(ctx.obj), options.plan()
    earlier = BulkReport.from_json(read_text(file))
    operation, rest = earlier.operation, [*earlier.unknown, *earlier.not_started]
    if operation == "create" and earlier.not_started:
        fail(f"{file} has creates not started: use 'fleet create --resume'", ExitCode.USAGE)
    known = {vm.id: vm for vm in ask(client, lambda client: client.vms.list())}
    written = [
        known.get(o.item, o.item)
        for o in rest
        if o.status == "not_started" or (operation_spec(operation).idempotent and not o.accepted)
    ]
    if operation_spec(operation).lowers and not plan.dry_run:
        confirm(operation, written, yes=yes)
    carry_out(
        client,
        Work(
            operation=operation,
            earlier=earlier,
            plan=plan,
            labels={vm.id: name_of(vm) for vm in known.values()},
            output=output,
            timeout=options.timeout,
        ),
    )


@app.add("apply")
def apply(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Plan file, or - for standard input.", allow_dash=True)
    ],
    output: Output,
    yes: Yes = False,
    timeout: Timeout = None,
) -> None:
    """Carry out exactly what a plan file says, which --plan of an operation has written.

    Refuses if a VM of the plan is gone, or differs from it in name, state, size or zone. The report
    has the plan's hash.
    """
    apply_plan(client_for(ctx.obj), file, output, yes=yes, timeout=timeout)


def _verb(operation: str) -> Callable[..., None]:
    def run(
        ctx: typer.Context,
        fleet: Fleet,
        options: DurableOptions,
        output: Output,
        rehearsing: Rehearsing,
        yes: Yes = False,
        plan_file: PlanFile = None,
        **keywords: Any,
    ) -> None:
        options.check_place(ctx)
        rehearses = rehearsing.check(plan=plan_file, durable=options.durable)
        plan, selection = options.plan(), fleet.selection()
        check_plan(plan, operation)
        client = client_for(ctx.obj)
        if not (fleet.everything or selection.has_conditions or selection.ids is not None):
            fail(
                "select VMs by --label, --group, --zone, --state or --id-file, or use --all",
                ExitCode.USAGE,
            )
        vms = ask(client, lambda client: client.vms.list())
        selected, missing = selection.of(vms)
        for problem in selection.unmatched(vms):
            say(problem)
        # VMs that a list has shown: if one is absent later, it is gone.
        found: dict[str, VMOrId] = {vm.id: vm for vm in selected}
        if missing and selection.has_conditions:
            say(f"not in the list, left out: {some_of(missing)}")
        else:
            # Lists may be stale: let the API decide for each.
            found |= {vm_id: vm_id for vm_id in missing}
        if selection.ids is not None:
            # Keep the file's order: its first VM is the canary.
            found = {vm_id: found[vm_id] for vm_id in selection.ids if vm_id in found}
        if fleet.fail_if_empty and not found:
            fail(f"no VM is selected, of {len(vms)}")
        items, labels = list(found.values()), {i: name_of(vm) for i, vm in found.items()}
        work = Work(
            operation=operation,
            items=items,
            keywords=keywords,
            plan=plan,
            labels=labels,
            output=output,
            timeout=options.timeout,
        )
        if rehearses:
            rehearse(client, work, rehearsing)
        if plan_file is not None:
            write_plan(client, work, plan_file)
        if operation_spec(operation).lowers and not plan.dry_run:
            confirm(operation, items, yes=yes)
        if options.durable is not None:
            submit(options, work)
        carry_out(client, work)

    return run


add_verbs(app, _verb, bulk=True)
