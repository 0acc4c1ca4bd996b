"""``async-vmapi vms``: one machine at a time."""

from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer
from rich.text import Text

from async_vmapi.cli.operations import Work, ask_first, carry_out, some_of
from async_vmapi.cli.options import JSON, New, Vm, WaitFor, Which, Yes, command
from async_vmapi.cli.output import (
    console_for,
    machine_table,
    print_json,
    printable,
    style_of,
    table,
    who,
)
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.requests import check_name, looked_up
from async_vmapi.cli.running import say
from async_vmapi.errors import VMAPIError

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["app"]

app = typer.Typer(help="Look at machines and change them, one at a time.", no_args_is_help=True)


@app.command("list")
@command
def list_(ctx: typer.Context, which: Which, json: JSON = False) -> None:
    """List the machines of the region."""
    selection = which.selection()
    machines, missing = selection.of(ask(client_for(ctx.obj), lambda client: client.vms.list()))
    if missing:
        say(f"not in the list: {some_of(missing)}")
    if json:
        print_json(machines)
    else:
        console_for(json=False).print(machine_table(machines))


@app.command()
@command
def show(ctx: typer.Context, vm: Vm, json: JSON = False) -> None:
    """Show a machine."""
    machine = ask(client_for(ctx.obj), lambda client: client.vms.get(vm))
    if json:
        print_json(machine)
        return
    volumes = ", ".join(
        f"{volume.size:g} GB{' (system)' * volume.system_disk}"
        for volume in machine.storage_volumes
    )
    fields = {
        "label": machine.label or "",
        "id": machine.id,
        "cores": str(machine.cores),
        "ram": f"{machine.ram} MB",
        "system": machine.system.name,
        "zone": machine.zone.name,
        "addresses": ", ".join(machine.addresses),
        "volumes": volumes,
        "networks": ", ".join(network.label or network.id for network in machine.networks),
        "groups": ", ".join(group.name for group in machine.groups),
        "owner": machine.owner.name,
        "cost per hour": f"{machine.cost_per_hour:g}",
    }
    rows: list[tuple[str, str | Text]] = list(fields.items())
    rows.insert(2, ("state", Text(printable(machine.state), style_of(machine.state))))
    console_for(json=False).print(table(("", ""), rows))


@app.command()
@command
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="The new machine's label.")],
    new: New,
    json: JSON = False,
) -> None:
    """Create a machine, and wait until it is online."""
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


@app.command()
@command
def resize(
    ctx: typer.Context,
    vm: Vm,
    cores: Annotated[int, typer.Option(min=1)],
    ram: Annotated[int, typer.Option(min=1, help="In MB.")],
    wait_for: WaitFor = 4,
    yes: Yes = False,
    json: JSON = False,
) -> None:
    """Give a machine other cores and memory; a running one is shut down for it."""
    _operate(ctx, "resize", vm, yes=yes, json=json, cores=cores, ram=ram, wait_for=wait_for)


@app.command()
@command
def shutdown(
    ctx: typer.Context, vm: Vm, wait_for: WaitFor = 4, yes: Yes = False, json: JSON = False
) -> None:
    """Ask the guest to shut down; turn it off if it does not."""
    _operate(ctx, "shutdown", vm, yes=yes, json=json, wait_for=wait_for)


@app.command()
@command
def reboot(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Ask the guest to reboot."""
    _operate(ctx, "reboot", vm, yes=yes, json=json)


@app.command()
@command
def reset(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Turn a machine off and on again, hard."""
    _operate(ctx, "reset", vm, yes=yes, json=json)


@app.command()
@command
def power_on(ctx: typer.Context, vm: Vm, json: JSON = False) -> None:
    """Start a machine."""
    _operate(ctx, "power_on", vm, yes=True, json=json)


@app.command()
@command
def power_off(ctx: typer.Context, vm: Vm, yes: Yes = False, json: JSON = False) -> None:
    """Turn a machine off, hard."""
    _operate(ctx, "power_off", vm, yes=yes, json=json)


@app.command()
@command
def delete(
    ctx: typer.Context,
    vm: Vm,
    delete_resources: Annotated[
        bool, typer.Option("--delete-resources", help="Delete its additional resources too.")
    ] = False,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Succeed if it is gone already.")
    ] = False,
    yes: Yes = False,
    json: JSON = False,
) -> None:
    """Delete a machine."""
    keywords = {"delete_resources": delete_resources, "missing_ok": missing_ok}
    _operate(ctx, "delete", vm, yes=yes, json=json, **keywords)


@app.command()
@command
def rename(
    ctx: typer.Context,
    vm: Vm,
    name: Annotated[str, typer.Argument(help="The new label.")],
    json: JSON = False,
) -> None:
    """Give a machine another label."""
    check_name(name)
    _operate(ctx, "rename", vm, yes=True, json=json, names={vm: name})


@app.command()
@command
def console(ctx: typer.Context, vm: Vm, json: JSON = False) -> None:
    """Open a machine's console, and print where it answers and its password."""
    opened = attrs.asdict(ask(client_for(ctx.obj), lambda client: client.vms.console(vm)))
    if json:
        print_json(opened)
    else:
        console_for(json=False).print(table(("", ""), [(k, str(v)) for k, v in opened.items()]))


def _named(client: "Client", vm_id: str) -> str:
    """Return what a VM is called and its state, for the question whether to change it."""
    try:
        vm = ask(client, lambda client: client.vms.get(vm_id))
    except VMAPIError as error:
        return f"{vm_id} (not read: {error})"
    return f"{who(vm.id, vm.label)}, {vm.state}"


def _operate(
    ctx: typer.Context, operation: str, vm: str, *, yes: bool, json: bool, **keywords: Any
) -> None:
    client = client_for(ctx.obj)
    ask_first(operation, lambda: [_named(client, vm)], yes=yes)
    carry_out(
        client,
        Work(
            operation=operation,
            call=lambda bulk: bulk.run([vm], operation, **keywords),
            only=vm,
            json=json,
        ),
    )
