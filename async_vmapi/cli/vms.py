"""``async-vmapi vms``: single VMs."""

from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer
from rich.text import Text

from async_vmapi.cli.listing import JSON, VM_COLUMNS, Format, Listing
from async_vmapi.cli.operations import Work, carry_out, check_terminal, confirm, some_of
from async_vmapi.cli.options import Commands, Filters, New, Vm, WaitFor, Yes
from async_vmapi.cli.output import console_for, print_json, printable, style_of, table, who
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.requests import check_name, looked_up
from async_vmapi.cli.resolve import find_vm, match_vms
from async_vmapi.cli.running import say
from async_vmapi.models import Console
from async_vmapi.writes.requests import VMOrId, id_of

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["app"]

app = Commands("List, show and change VMs.")


@app.add("list")
def list_(ctx: typer.Context, filters: Filters, listing: Listing) -> None:
    """List the VMs of the region."""
    selection = filters.selection()
    vms, missing = selection.of(ask(client_for(ctx.obj), lambda client: client.vms.list()))
    if missing:
        say(f"not in the list: {some_of(missing)}")
    listing.show(vms, VM_COLUMNS)


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
    json: JSON = False,
) -> None:
    """Create a VM, and wait until it is online."""
    check_name(name)
    client = client_for(ctx.obj)
    requests = looked_up(client, [name], new)
    carry_out(
        client,
        Work(
            operation="create",
            call=lambda bulk: bulk.create(requests, **new.keywords()),
            only=name,
            json=json,
        ),
    )


@app.add("resize")
def resize(
    ctx: typer.Context,
    vm: Vm,
    cores: Annotated[int, typer.Option(min=1, help="Number of cores.")],
    ram: Annotated[int, typer.Option(min=1, help="Memory in MB.")],
    wait_for: WaitFor = 4,
    yes: Yes = False,
    json: JSON = False,
) -> None:
    """Change the cores and memory of a VM; a running VM is shut down first."""
    _operate(ctx, "resize", vm, yes=yes, json=json, cores=cores, ram=ram, wait_for=wait_for)


@app.add("shutdown")
def shutdown(
    ctx: typer.Context, vm: Vm, wait_for: WaitFor = 4, yes: Yes = False, json: JSON = False
) -> None:
    """Shut down a VM; a guest that does not shut down in time is powered off."""
    _operate(ctx, "shutdown", vm, yes=yes, json=json, wait_for=wait_for)


@app.add("reboot")
def reboot(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Ask the guest of a VM to reboot."""
    _operate(ctx, "reboot", vm, yes=yes, json=json)


@app.add("reset")
def reset(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Power a VM off and on again, without asking the guest."""
    _operate(ctx, "reset", vm, yes=yes, json=json)


@app.add("power-on")
def power_on(ctx: typer.Context, vm: Vm, json: JSON = False) -> None:
    """Power on a VM."""
    _operate(ctx, "power_on", vm, yes=True, json=json)


@app.add("power-off")
def power_off(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Power off a VM, without asking the guest."""
    _operate(ctx, "power_off", vm, yes=yes, json=json)


@app.add("delete")
def delete(
    ctx: typer.Context,
    vm: Vm,
    delete_resources: Annotated[
        bool, typer.Option("--delete-resources", help="Also delete its additional resources.")
    ] = False,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Succeed if the VM does not exist.")
    ] = False,
    yes: Yes = False,
    json: JSON = False,
) -> None:
    """Delete a VM."""
    keywords: dict[str, Any] = {"delete_resources": delete_resources, "missing_ok": missing_ok}
    _operate(ctx, "delete", vm, yes=yes, json=json, **keywords)


@app.add("rename")
def rename(
    ctx: typer.Context,
    vm: Vm,
    name: Annotated[str, typer.Argument(help="New label.")],
    json: JSON = False,
) -> None:
    """Change the label of a VM."""
    check_name(name)
    _operate(ctx, "rename", vm, yes=True, json=json, new_name=name)


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


def _operate(
    ctx: typer.Context,
    operation: str,
    vm: str,
    *,
    yes: bool,
    json: bool,
    new_name: str | None = None,
    **keywords: Any,
) -> None:
    client = client_for(ctx.obj)
    if not yes:
        check_terminal(operation, 1)
    found: VMOrId
    if keywords.get("missing_ok"):
        found = ask(client, lambda client: match_vms(client, [vm]))[vm] or vm
    else:
        found = ask(client, lambda client: find_vm(client, vm))
    if new_name is not None:
        keywords["names"] = {id_of(found): new_name}
    name = f"{who(found.id, found.label)}, {found.state}" if not isinstance(found, str) else found
    confirm(operation, [name], yes=yes)
    carry_out(
        client,
        Work(
            operation=operation,
            call=lambda bulk: bulk.run([found], operation, **keywords),
            only=vm,
            json=json,
        ),
    )
