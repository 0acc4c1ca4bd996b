"""``async-vmapi fleet``: many VMs at once, by `client.bulk`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.jobs import JobRequest, submit
from async_vmapi.cli.operations import Work, carry_out, confirm, some_of
from async_vmapi.cli.options import (
    Commands,
    DurableOptions,
    Fleet,
    New,
    Output,
    RolloutOptions,
    WaitFor,
    Yes,
    read_text,
)
from async_vmapi.cli.output import who
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.requests import looked_up, names_of
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.writes.operations import operation_spec
from async_vmapi.writes.requests import VMOrId

__all__ = ["app"]

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
    first: Annotated[
        int, typer.Option(min=0, max=1_000_000_000, help="Number in the first label.")
    ] = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Resume from this report of the same command.")
    ] = None,
) -> None:
    """Create VMs, and wait until all are online."""
    options.check_place(ctx)
    client, plan, names = client_for(ctx.obj), options.plan(), names_of(name, count, first)
    earlier = None if resume is None else BulkReport.from_json(read_text(resume))
    if earlier is not None and (earlier.operation, len(earlier.outcomes)) != ("create", count):
        reported = f"{earlier.operation} of {len(earlier.outcomes)}"
        fail(f"{resume} is the report of a {reported}, not of a create of {count}", ExitCode.USAGE)
    requests = looked_up(client, names, new, stored=options.durable is not None)
    if options.durable is not None:
        if earlier is not None:
            fail(
                "--resume and --durable exclude each other: jobs resume by themselves",
                ExitCode.USAGE,
            )
        submit(
            options, output, JobRequest(operation="create", items=requests, keywords=new.keywords())
        )
    carry_out(
        client,
        Work(
            operation="create",
            total=count if earlier is None else len(earlier.unknown) + len(earlier.not_started),
            call=lambda bulk: (
                bulk.create(requests, **new.keywords())
                if earlier is None
                else bulk.resume(earlier, requests)
            ),
            plan=plan,
            json=output.json,
            file=output.report,
        ),
    )


@app.add("resize")
def resize(
    ctx: typer.Context,
    cores: Annotated[int, typer.Option(min=1, help="Number of cores.")],
    ram: Annotated[int, typer.Option(min=1, help="Memory in MB.")],
    fleet: Fleet,
    options: DurableOptions,
    output: Output,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Change the cores and memory of VMs; running VMs are shut down first."""
    keywords = {"cores": cores, "ram": ram, "wait_for": wait_for}
    _operate(ctx, "resize", fleet, options, output, keywords, yes=yes)


@app.add("shutdown")
def shutdown(
    ctx: typer.Context,
    fleet: Fleet,
    options: DurableOptions,
    output: Output,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Shut down VMs; guests that do not shut down in time are powered off."""
    _operate(ctx, "shutdown", fleet, options, output, {"wait_for": wait_for}, yes=yes)


@app.add("delete")
def delete(
    ctx: typer.Context,
    fleet: Fleet,
    options: DurableOptions,
    output: Output,
    delete_resources: Annotated[
        bool, typer.Option("--delete-resources", help="Also delete their additional resources.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete VMs."""
    keywords = {"delete_resources": delete_resources}
    _operate(ctx, "delete", fleet, options, output, keywords, yes=yes)


@app.add("reboot")
def reboot(
    ctx: typer.Context, fleet: Fleet, options: DurableOptions, output: Output, yes: Yes = False
) -> None:
    """Ask the guests of VMs to reboot."""
    _operate(ctx, "reboot", fleet, options, output, {}, yes=yes)


@app.add("reset")
def reset(
    ctx: typer.Context, fleet: Fleet, options: DurableOptions, output: Output, yes: Yes = False
) -> None:
    """Power VMs off and on again, without asking the guests."""
    _operate(ctx, "reset", fleet, options, output, {}, yes=yes)


@app.add("power-on")
def power_on(ctx: typer.Context, fleet: Fleet, options: DurableOptions, output: Output) -> None:
    """Power on VMs."""
    _operate(ctx, "power_on", fleet, options, output, {})


@app.add("power-off")
def power_off(
    ctx: typer.Context, fleet: Fleet, options: DurableOptions, output: Output, yes: Yes = False
) -> None:
    """Power off VMs, without asking the guests."""
    _operate(ctx, "power_off", fleet, options, output, {}, yes=yes)


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
    vms = ask(client, lambda client: client.vms.list())
    labels = {vm.id: vm.label or vm.id for vm in vms}
    written = [
        who(o.item, labels.get(o.item))
        for o in rest
        if o.status == "not_started" or (operation_spec(operation).idempotent and not o.accepted)
    ]
    if operation_spec(operation).lowers and not plan.dry_run:
        confirm(operation, written, yes=yes)
    carry_out(
        client,
        Work(
            operation=operation,
            total=len(rest),
            call=lambda bulk: bulk.resume(earlier),
            plan=plan,
            labels=labels,
            json=output.json,
            file=output.report,
        ),
    )


def _operate(
    ctx: typer.Context,
    operation: str,
    fleet: Fleet,
    options: DurableOptions,
    output: Output,
    keywords: dict[str, Any],
    *,
    yes: bool = False,
) -> None:
    options.check_place(ctx)
    client, plan, selection = client_for(ctx.obj), options.plan(), fleet.selection()
    if not (fleet.everything or selection.has_conditions or selection.ids is not None):
        fail(
            "select VMs by --label, --group, --zone, --state or --id-file, or use --all",
            ExitCode.USAGE,
        )

    selected, missing = selection.of(ask(client, lambda client: client.vms.list()))
    # VMs that a list has shown: if one is absent later, it is gone.
    found: dict[str, VMOrId] = {vm.id: vm for vm in selected}
    labels = {vm.id: vm.label or vm.id for vm in selected}
    if missing and selection.has_conditions:
        say(f"not in the list, left out: {some_of(missing)}")
    else:
        # Lists may be stale: let the API decide for each.
        found |= {vm_id: vm_id for vm_id in missing}
        labels |= {vm_id: vm_id for vm_id in missing}
    if selection.ids is not None:
        # Keep the file's order: its first VM is the canary.
        labels = {vm_id: labels[vm_id] for vm_id in selection.ids if vm_id in labels}
    items = [found[vm_id] for vm_id in labels]
    if operation_spec(operation).lowers and not plan.dry_run:
        confirm(operation, [who(*named) for named in labels.items()], yes=yes)
    if options.durable is not None:
        order = JobRequest(
            operation=operation, items=list(labels), keywords=keywords, labels=labels
        )
        submit(options, output, order)
    carry_out(
        client,
        Work(
            operation=operation,
            total=len(labels),
            call=lambda bulk: bulk.run(items, operation, **keywords),
            plan=plan,
            labels=labels,
            json=output.json,
            file=output.report,
        ),
    )
