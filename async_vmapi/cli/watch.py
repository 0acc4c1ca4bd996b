"""``async-vmapi watch``: show changes of VMs."""

import math
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import attrs
import typer
from rich.console import Console

from async_vmapi.cli.commands import command
from async_vmapi.cli.listing import VM_COLUMNS
from async_vmapi.cli.live import TableView, follow
from async_vmapi.cli.options import JSON, Filters
from async_vmapi.cli.output import console_for, printable, who
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.running import ExitCode, fail, run
from async_vmapi.cli.selection import Selection
from async_vmapi.models.vm import VirtualMachine

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["Change", "watch"]

# Lines of the live view other than the VMs'.
_FRAME: Final = 4


@command
def watch(
    ctx: typer.Context,
    filters: Filters,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between polls.")] = 5.0,
    json: JSON = False,
) -> None:
    """Watch VMs for changes, until interrupted.

    Shows a table on a terminal, and otherwise prints one line per change (with --json, one JSON
    object per line).
    """
    if not interval < math.inf:
        fail(f"--interval {interval} is not a finite number", ExitCode.USAGE)
    run(_watch(client_for(ctx.obj), filters.selection(), interval, json=json))


@attrs.frozen
class Change:
    """A VM that is new, gone, or has changed since the last poll.

    Attributes:
        at: When that was seen, with the time zone.
        vm_id: The VM's id.
        label: Its label.
        before: The state before; null for a new VM.
        state: The state now; null for a VM that is gone.
        cores: The number of cores, now or last.
        ram: The memory in MB, now or last.
    """

    at: str
    vm_id: str
    label: str | None
    before: str | None
    state: str | None
    cores: int
    ram: int


async def _watch(client: "Client", selection: Selection, interval: float, *, json: bool) -> None:
    console = console_for(json=json)
    async with client:
        view = _View(console, client, selection)
        await follow(console, view, json=json, interval=interval, full_screen=True)


class _View(TableView[VirtualMachine]):
    """The VMs last listed, and how they have changed."""

    def __init__(self, console: Console, client: "Client", selection: Selection) -> None:
        super().__init__(console, "VM", VM_COLUMNS, _FRAME)
        self._client = client
        self._selection = selection
        self._changes: list[Change] = []

    async def poll(self) -> None:
        """List the VMs."""
        vms, _ = self._selection.of(await self._client.vms.list())
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        before, self.items = {vm.id: vm for vm in self.items}, vms
        for vm in vms:
            old = before.pop(vm.id, None)
            if old is None or (old.state, old.cores, old.ram) != (vm.state, vm.cores, vm.ram):
                state = old.state if old else None
                self._changes.append(Change(at, vm.id, vm.label, state, vm.state, vm.cores, vm.ram))
        self._changes += [
            Change(at, vm.id, vm.label, vm.state, None, vm.cores, vm.ram) for vm in before.values()
        ]

    def changes(self) -> "list[Change]":
        """Return the changes since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def lines(self) -> list[str]:
        """Return them as text."""
        return list(map(_line, self.changes()))


def _line(change: Change) -> str:
    name = who(change.vm_id, change.label)
    before = f"{printable(change.before)} -> " if change.before else ""
    size = f"  {change.cores} cores, {change.ram} MB" if change.state else ""
    return f"{change.at}  {name}  {before}{printable(change.state or 'gone')}{size}"
