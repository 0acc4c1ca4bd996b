"""``async-vmapi fleet``: many machines at once, by `client.bulk`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from async_vmapi.bulk.item import LOWERING, REPEATABLE
from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.jobs import Order, submit
from async_vmapi.cli.operations import Work, ask_first, carry_out, some_of
from async_vmapi.cli.options import (
    DurableHow,
    Fleet,
    How,
    New,
    Told,
    WaitFor,
    Yes,
    command,
    read_text,
)
from async_vmapi.cli.output import who
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.requests import looked_up, names_of
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.writes.requests import VMOrId

__all__ = ["app"]

app = typer.Typer(help="Create and change many machines at once.", no_args_is_help=True)


@app.command()
@command
def create(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many.")],
    name: Annotated[
        str,
        typer.Option(
            help="A pattern of their labels, like 'web-{:04}'; at most 255 characters each."
        ),
    ],
    new: New,
    how: DurableHow,
    told: Told,
    first: Annotated[
        int, typer.Option(min=0, max=1_000_000_000, help="The first one's number.")
    ] = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from this report of the same command.")
    ] = None,
) -> None:
    """Create machines, and wait until all are online."""
    how.check_place(ctx)
    client, plan, names = client_for(ctx.obj), how.plan(), names_of(name, count, first)
    earlier = None if resume is None else BulkReport.from_json(read_text(resume))
    if earlier is not None and (earlier.operation, len(earlier.outcomes)) != ("create", count):
        told_of = f"{earlier.operation} of {len(earlier.outcomes)}"
        fail(f"{resume} is of a {told_of}, not of a create of {count}", ExitCode.USAGE)
    requests = looked_up(client, names, new, stored=how.durable is not None)
    if how.durable is not None:
        if earlier is not None:
            fail("--resume is for what is no job: a job goes on by itself", ExitCode.USAGE)
        submit(how, told, Order(operation="create", items=requests, keywords=new.keywords()))
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
            json=told.json,
            file=told.report,
        ),
    )


@app.command()
@command
def resize(
    ctx: typer.Context,
    cores: Annotated[int, typer.Option(min=1)],
    ram: Annotated[int, typer.Option(min=1, help="In MB.")],
    which: Fleet,
    how: DurableHow,
    told: Told,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Give machines other cores and memory; running ones are shut down for it."""
    keywords = {"cores": cores, "ram": ram, "wait_for": wait_for}
    _operate(ctx, "resize", which, how, told, keywords, yes=yes)


@app.command()
@command
def shutdown(
    ctx: typer.Context,
    which: Fleet,
    how: DurableHow,
    told: Told,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Ask the guests to shut down; turn off those that do not."""
    _operate(ctx, "shutdown", which, how, told, {"wait_for": wait_for}, yes=yes)


@app.command()
@command
def delete(
    ctx: typer.Context,
    which: Fleet,
    how: DurableHow,
    told: Told,
    delete_resources: Annotated[
        bool, typer.Option("--delete-resources", help="Delete their additional resources too.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete machines."""
    keywords = {"delete_resources": delete_resources}
    _operate(ctx, "delete", which, how, told, keywords, yes=yes)


@app.command()
@command
def reboot(ctx: typer.Context, which: Fleet, how: DurableHow, told: Told, yes: Yes = False) -> None:
    """Ask the guests to reboot."""
    _operate(ctx, "reboot", which, how, told, {}, yes=yes)


@app.command()
@command
def reset(ctx: typer.Context, which: Fleet, how: DurableHow, told: Told, yes: Yes = False) -> None:
    """Turn machines off and on again, hard."""
    _operate(ctx, "reset", which, how, told, {}, yes=yes)


@app.command()
@command
def power_on(ctx: typer.Context, which: Fleet, how: DurableHow, told: Told) -> None:
    """Start machines."""
    _operate(ctx, "power_on", which, how, told, {})


@app.command()
@command
def power_off(
    ctx: typer.Context, which: Fleet, how: DurableHow, told: Told, yes: Yes = False
) -> None:
    """Turn machines off, hard."""
    _operate(ctx, "power_off", which, how, told, {}, yes=yes)


@app.command()
@command
def resume(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A report; - for standard input.", allow_dash=True)],
    how: How,
    told: Told,
    yes: Yes = False,
) -> None:
    """Go on from a report: watch what was accepted, and start what was not.

    What names its end and is in doubt is sent again. A report of creates that has some not
    started goes on by 'fleet create --resume', which tells what they are to be.
    """
    client, plan = client_for(ctx.obj), how.plan()
    earlier = BulkReport.from_json(read_text(file))
    operation, rest = earlier.operation, [*earlier.unknown, *earlier.not_started]
    if operation == "create" and earlier.not_started:
        fail(f"{file} has creates that were not started: fleet create --resume", ExitCode.USAGE)
    machines = ask(client, lambda client: client.vms.list())
    labels = {vm.id: vm.label or vm.id for vm in machines}
    written = [
        who(o.item, labels.get(o.item))
        for o in rest
        if o.status == "not_started" or (operation in REPEATABLE and not o.accepted)
    ]
    if operation in LOWERING and not plan.dry_run:
        ask_first(operation, written, yes=yes)
    carry_out(
        client,
        Work(
            operation=operation,
            total=len(rest),
            call=lambda bulk: bulk.resume(earlier),
            plan=plan,
            labels=labels,
            json=told.json,
            file=told.report,
        ),
    )


def _operate(
    ctx: typer.Context,
    operation: str,
    which: Fleet,
    how: DurableHow,
    told: Told,
    keywords: dict[str, Any],
    *,
    yes: bool = False,
) -> None:
    how.check_place(ctx)
    client, plan, selection = client_for(ctx.obj), how.plan(), which.selection()
    if not (which.everything or selection.has_conditions or selection.ids is not None):
        fail(
            "say which machines: --label, --group, --zone, --state, --id-file or --all",
            ExitCode.USAGE,
        )

    meant, missing = selection.of(ask(client, lambda client: client.vms.list()))
    # As machines, for a list has shown them: one that is absent later is gone.
    found: dict[str, VMOrId] = {vm.id: vm for vm in meant}
    labels = {vm.id: vm.label or vm.id for vm in meant}
    if missing and selection.has_conditions:
        say(f"not in the list, and so left out: {some_of(missing)}")
    else:
        # The API says of each whether it is there; a list may lag behind.
        found |= {vm_id: vm_id for vm_id in missing}
        labels |= {vm_id: vm_id for vm_id in missing}
    if selection.ids is not None:
        # A canary is the first one of the file, whether a list has it or not.
        labels = {vm_id: labels[vm_id] for vm_id in selection.ids if vm_id in labels}
    items = [found[vm_id] for vm_id in labels]
    if operation in LOWERING and not plan.dry_run:
        ask_first(operation, [who(*named) for named in labels.items()], yes=yes)
    if how.durable is not None:
        order = Order(operation=operation, items=list(labels), keywords=keywords, labels=labels)
        submit(how, told, order)
    carry_out(
        client,
        Work(
            operation=operation,
            total=len(labels),
            call=lambda bulk: bulk.run(items, operation, **keywords),
            plan=plan,
            labels=labels,
            json=told.json,
            file=told.report,
        ),
    )
