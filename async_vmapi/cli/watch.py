"""``async-vmapi watch``: the fleet's states as they change."""

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

from async_vmapi.cli.live import Live, is_live
from async_vmapi.cli.options import JSON, Which, command
from async_vmapi.cli.output import (
    console_for,
    machine_table,
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

# The lines of a live view beside the machines' own.
_FRAME: Final = 4


@command
def watch(
    ctx: typer.Context,
    which: Which,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 5.0,
    json: JSON = False,
) -> None:
    """Show the machines and how their states change, until interrupted.

    On a terminal a table; elsewhere a line for each change, with --json in JSON.
    """
    if not interval < math.inf:
        fail(f"--interval {interval} is no time to wait", ExitCode.USAGE)
    run(_watch(client_for(ctx.obj), which.selection(), interval, json=json))


@attrs.frozen
class _Change:
    """A machine that is new, gone, or otherwise than when it was looked at last."""

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
                    # What changes meanwhile is told as one change.
                    await asyncio.sleep(interval)
                    continue
                try:
                    machines, _ = selection.of(await client.vms.list())
                except AuthenticationError:
                    raise
                except VMAPIError as error:
                    # One look that fails is no reason to look no more.
                    view.problem = str(error)
                    if live is None:
                        console.print(printable(view.problem))
                else:
                    changes = view.look(machines)
                    if json:
                        for change in changes:
                            print_json(change, indent=None)
                    elif live is None:
                        for change in changes:
                            console.print(_told(change))
                if live is not None:
                    live.refresh()
                if is_lost(sys.stdout):
                    return  # nobody reads on
                await asyncio.sleep(interval)


class _View:
    """What was seen last, and how it looks on a terminal."""

    def __init__(self, console: Console) -> None:
        self.problem = ""
        self._console = console
        self._seen: dict[str, VirtualMachine] = {}

    def look(self, machines: Sequence[VirtualMachine]) -> list[_Change]:
        """Take a list into account, and return what is other than before."""
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        before, self._seen, self.problem = self._seen, {vm.id: vm for vm in machines}, ""
        changes: list[_Change] = []
        for vm in machines:
            old = before.pop(vm.id, None)
            if old is None or (old.state, old.cores, old.ram) != (vm.state, vm.cores, vm.ram):
                state = old.state if old else None
                changes.append(_Change(at, vm.id, vm.label, state, vm.state, vm.cores, vm.ram))
        changes += [
            _Change(at, vm.id, vm.label, vm.state, None, vm.cores, vm.ram) for vm in before.values()
        ]
        return changes

    def __rich__(self) -> RenderableType:
        machines = list(self._seen.values())
        counts = Counter(vm.state for vm in machines)
        head = Text(f"{len(machines)} machines", "bold")
        for state, count in counts.most_common():
            head.append("  ").append(f"{count} {printable(state)}", style_of(state))
        room = max(1, self._console.height - _FRAME)
        if len(machines) > room:
            head.append(f"  and {len(machines) - room} that do not fit", "dim")
        head.no_wrap, head.overflow = True, "ellipsis"
        problem = Text(printable(self.problem), "red", no_wrap=True, overflow="ellipsis")
        return Group(
            head, problem, machine_table(machines[:room], fold=False, width=self._console.width)
        )


def _told(change: _Change) -> str:
    name = who(change.vm_id, change.label)
    before = f"{printable(change.before)} -> " if change.before else ""
    size = f"  {change.cores} cores, {change.ram} MB" if change.state else ""
    return f"{change.at}  {name}  {before}{printable(change.state or 'gone')}{size}"
