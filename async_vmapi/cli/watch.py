"""``async-vmapi watch``: show changes of VMs."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import attrs
import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from async_vmapi.cli.commands import command
from async_vmapi.cli.listing import VM_COLUMNS
from async_vmapi.cli.live import Live, is_live
from async_vmapi.cli.options import JSON, Filters
from async_vmapi.cli.output import (
    console_for,
    print_json,
    printable,
    style_of,
    who,
)
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.running import ExitCode, fail, run
from async_vmapi.cli.selection import Selection
from async_vmapi.cli.streams import behind, is_lost
from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.models import VirtualMachine

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["watch"]

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
class _Change:
    """A VM that is new, gone, or has changed since the last poll."""

    at: str
    vm_id: str
    label: str | None
    before: str | None
    state: str | None
    cores: int
    ram: int


async def _watch(client: "Client", selection: Selection, interval: float, *, json: bool) -> None:
    console = console_for(json=json)
    view = _View(console)
    live: Live | None = None
    shown: AbstractContextManager[object] = nullcontext()
    if is_live(console) and not json:
        shown = live = Live(console, view, full_screen=True)
    async with client:
        with shown:
            while True:
                if behind(sys.stdout):
                    # Report all changes of this time as one.
                    await asyncio.sleep(interval)
                    continue
                try:
                    vms, _ = selection.of(await client.vms.list())
                except AuthenticationError:
                    raise
                except VMAPIError as error:
                    # Keep polling after a failed poll.
                    view.problem = str(error)
                    if live is None:
                        console.print(printable(view.problem))
                else:
                    changes = view.update(vms)
                    if json:
                        for change in changes:
                            print_json(change, indent=None)
                    elif live is None:
                        for change in changes:
                            console.print(_line(change))
                if live is not None:
                    live.refresh()
                if is_lost(sys.stdout):
                    return
                await asyncio.sleep(interval)


class _View:
    """A live table of the VMs last listed."""

    def __init__(self, console: Console) -> None:
        self.problem = ""
        self._console = console
        self._vms: dict[str, VirtualMachine] = {}

    def update(self, vms: Sequence[VirtualMachine]) -> list[_Change]:
        """Record a list, and return the changes since the last one."""
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        before, self._vms, self.problem = self._vms, {vm.id: vm for vm in vms}, ""
        changes: list[_Change] = []
        for vm in vms:
            old = before.pop(vm.id, None)
            if old is None or (old.state, old.cores, old.ram) != (vm.state, vm.cores, vm.ram):
                state = old.state if old else None
                changes.append(_Change(at, vm.id, vm.label, state, vm.state, vm.cores, vm.ram))
        changes += [
            _Change(at, vm.id, vm.label, vm.state, None, vm.cores, vm.ram) for vm in before.values()
        ]
        return changes

    def __rich__(self) -> RenderableType:
        vms = list(self._vms.values())
        counts = Counter(vm.state for vm in vms)
        head = Text(f"{len(vms)} VM{'s' * (len(vms) != 1)}", "bold")
        for state, count in counts.most_common():
            head.append("  ").append(f"{count} {printable(state)}", style_of(state))
        room = max(1, self._console.height - _FRAME)
        if len(vms) > room:
            head.append(f"  {len(vms) - room} not shown", "dim")
        head.no_wrap, head.overflow = True, "ellipsis"
        problem = Text(printable(self.problem), "red", no_wrap=True, overflow="ellipsis")
        return Group(head, problem, VM_COLUMNS.table(vms[:room], width=self._console.width))


def _line(change: _Change) -> str:
    name = who(change.vm_id, change.label)
    before = f"{printable(change.before)} -> " if change.before else ""
    size = f"  {change.cores} cores, {change.ram} MB" if change.state else ""
    return f"{change.at}  {name}  {before}{printable(change.state or 'gone')}{size}"
