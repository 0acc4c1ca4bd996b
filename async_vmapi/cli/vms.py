"""``async-vmapi vm``: VMs given by ids or names."""

from collections.abc import Callable, Sized
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer
from rich.text import Text

from async_vmapi.bulk.item import Start
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.cli.access import add_access
from async_vmapi.cli.commands import Commands
from async_vmapi.cli.listing import JSON, VM_COLUMNS, Format, Listing
from async_vmapi.cli.operations import Work, carry_out, check_terminal, confirm, selected
from async_vmapi.cli.options import Conditions, Filters, New, NoWait, Timeout, Vm, Vms, Yes
from async_vmapi.cli.output import console_for, print_json, printable, style_of, table
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.requests import check_name, looked_up
from async_vmapi.cli.resolve import find_vm, find_vms, name_of
from async_vmapi.cli.verbs import add_verbs
from async_vmapi.models.vm import Console, VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.writes.operations import operation_spec
from async_vmapi.writes.requests import VMOrId, id_of

if TYPE_CHECKING:
    from async_vmapi.client import Client
    from async_vmapi.tasks.task import Task

__all__ = ["app"]

app = Commands("List, show and change VMs.")


@app.add("list")
def list_(ctx: typer.Context, filters: Filters, listing: Listing) -> None:
    """List the VMs of the region."""
    listing.show(lambda: selected(client_for(ctx.obj), filters), VM_COLUMNS)


@app.add("show")
def show(ctx: typer.Context, vm: Vm, output: Format) -> None:
    """Show a VM."""
    found = ask(client_for(ctx.obj), lambda client: find_vm(client, vm))
    if output.print_data(found, [found], VM_COLUMNS):
        return
    volumes = ", ".join(
        f"{volume.size:g} GB{' (system)' * volume.system_disk}" for volume in found.storage_volumes
    )
    fields = {
        "label": found.label or "",
        "id": found.id,
        "cores": str(found.cores),
        "ram": f"{found.ram} MB",
        "system": found.system.name,
        "zone": found.zone.name,
        "addresses": ", ".join(found.addresses),
        "volumes": volumes,
        "networks": ", ".join(network.label or network.id for network in found.networks),
        "groups": ", ".join(group.name for group in found.groups),
        "owner": found.owner.name,
        "cost per hour": f"{found.cost_per_hour:g}",
    }
    rows: list[tuple[str, str | Text]] = list(fields.items())
    rows.insert(2, ("state", Text(printable(found.state), style_of(found.state))))
    console_for(json=False).print(table(("", ""), rows))


@app.add("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="Label of the new VM.")],
    new: New,
    output: Format,
    ready: Conditions = None,
    no_wait: NoWait = False,
    timeout: Timeout = None,
) -> None:
    """Create a VM, and wait until it is online."""
    check_name(name)
    conditions = None if ready is None else Ready.parse(ready)
    client = client_for(ctx.obj)
    work = Work(
        operation="create",
        items=looked_up(client, [name], new),
        keywords=new.keywords(),
        names=[name],
        output=output,
        no_wait=no_wait,
        timeout=timeout,
    )
    carry_out(client, _until_ready(client, work, conditions))


@app.add("rename")
def rename(
    ctx: typer.Context,
    vm: Vm,
    name: Annotated[str, typer.Argument(help="New label.")],
    output: Format,
) -> None:
    """Change the label of a VM."""
    check_name(name)
    client = client_for(ctx.obj)
    found = ask(client, lambda client: find_vm(client, vm))
    carry_out(
        client,
        Work(
            operation="rename",
            items=[found.id],
            keywords={"names": {found.id: name}},
            names=[vm],
            output=output,
        ),
    )


def _until_ready(client: "Client", work: Work, ready: Ready | None) -> Work:
    """Return the work with ``ready``, which is no argument of a bulk call."""
    if ready is None:
        return work
    method = partial(getattr(client.vms, work.operation), **work.keywords, ready=ready)
    return _of_function(work, method)


def _of_function(work: Work, start: Start) -> Work:
    labels = {str(number): name for number, name in enumerate(work.names)}
    return attrs.evolve(work, start=start, keywords={}, labels=labels)


@app.add("wait-ready")
def wait_ready(
    ctx: typer.Context,
    vms: Vms,
    output: Format,
    ready: Conditions = None,
    timeout: Timeout = None,
) -> None:
    """Wait until VMs are online and meet conditions, ten minutes by default; change nothing."""
    conditions = Ready.parse(ready or "")
    client = client_for(ctx.obj)
    found = ask(client, lambda client: find_vms(client, vms))
    work = Work(
        operation="wait_ready",
        items=found,
        plan=_all_at_once(found),
        names=[name_of(vm) for vm in found],
        output=output,
        timeout=timeout,
    )

    async def start(vm: VMOrId) -> "Task[VirtualMachine]":
        # Not needed for help, and slow to import.
        from async_vmapi.vms import ready_task

        return ready_task(client.vms, vm, conditions)

    carry_out(client, _of_function(work, start))


def _all_at_once(vms: Sized) -> BulkPlan:
    return BulkPlan(limit=max(50, len(vms)))


def _verb(operation: str) -> Callable[..., None]:
    def run(
        ctx: typer.Context,
        vms: Vms,
        output: Format,
        yes: Yes = False,
        no_wait: NoWait = False,
        timeout: Timeout = None,
        **keywords: Any,
    ) -> None:
        ready = keywords.pop("ready", None)
        conditions = None if ready is None else Ready.parse(ready)
        client, asks = client_for(ctx.obj), operation_spec(operation).lowers
        if asks and not yes:
            check_terminal(operation, len(vms))
        missing_ok = keywords.get("missing_ok", False)
        found = ask(client, lambda client: find_vms(client, vms, missing_ok=missing_ok))
        if asks:
            confirm(operation, found, yes=yes)
        labels = {id_of(vm): name_of(vm) for vm in found}
        work = Work(
            operation=operation,
            items=found,
            keywords=keywords,
            # Which --no-wait needs.
            plan=_all_at_once(found),
            labels=labels,
            names=list(labels.values()),
            output=output,
            no_wait=no_wait,
            timeout=timeout,
        )
        carry_out(client, _until_ready(client, work, conditions))

    return run


add_verbs(app, _verb)


@app.add("console")
def console(ctx: typer.Context, vm: Vm, json: JSON = False) -> None:
    """Open the console of a VM, and print its host, port and password."""

    async def open_console(client: "Client") -> Console:
        return await client.vms.console(await find_vm(client, vm))

    opened = attrs.asdict(ask(client_for(ctx.obj), open_console))
    if json:
        print_json(opened)
    else:
        console_for(json=False).print(table(("", ""), [(k, str(v)) for k, v in opened.items()]))


add_access(app)
