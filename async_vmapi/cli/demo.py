"""``async-vmapi demo``: create, reboot and delete a fleet, shown live."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final

import attrs
import typer
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.text import Text

from async_vmapi.bulk.executor import BulkExecutor
from async_vmapi.bulk.plan import BulkEvent, BulkPlan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.cli.commands import command
from async_vmapi.cli.live import is_live
from async_vmapi.cli.operations import confirm
from async_vmapi.cli.options import Yes
from async_vmapi.cli.outcomes import show_report
from async_vmapi.cli.output import console_for, printable, style_of
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.running import ExitCode, run, say
from async_vmapi.cli.streams import on_loss
from async_vmapi.client import Client
from async_vmapi.emulator import Emulator
from async_vmapi.errors import VMAPIError
from async_vmapi.models.create import CreateRequest, ImageBoot
from async_vmapi.tasks.task import Task

__all__ = ["FastLoop", "demo", "names", "on_emulator", "on_endpoint"]

_SPEED: Final = 20
_CELL: Final = 24


@command
def demo(
    ctx: typer.Context,
    *,
    count: Annotated[int, typer.Option(min=4, max=400, help="Number of VMs.")] = 40,
    real: Annotated[
        bool, typer.Option(help="Use the configured endpoint. This costs money.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Random seed of the emulator.")] = None,
    yes: Yes = False,
) -> None:
    """Create, reboot and delete a fleet on the bundled emulator.

    All clocks run 20 times faster. With --real, the demo runs on the configured endpoint at normal
    speed, after confirmation; the VMs are billed as usual.
    """
    console = console_for(json=False)
    if not real:
        raise typer.Exit(run(on_emulator(console, count, seed), FastLoop))
    client = client_for(ctx.obj)
    confirm(f"create, reboot and delete on {client!r}", names(count), yes=yes)
    raise typer.Exit(run(on_endpoint(console, client, count)))


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / _SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs 20 times faster.

    The emulator and the client both use it, so both behave as usual.
    """

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        """Return the loop's time in seconds."""
        return super().time() * _SPEED


def names(count: int) -> list[str]:
    """Return the names of the demo's VMs."""
    return [f"demo-{number:02}" for number in range(1, count + 1)]


async def on_emulator(console: Console, count: int, seed: int | None) -> ExitCode:
    """Run the demo on an emulator in which one VM ignores ACPI and another one fails."""
    async with (
        Emulator(seed=seed) as emulator,
        Client(emulator.url, api_key=emulator.api_key, api_secret=emulator.api_secret) as client,
    ):
        vm_names = names(count)
        ignoring, failing = vm_names[count // 2], vm_names[count // 3]
        emulator.cloud.adjust(ignoring, acpi="ignore")
        emulator.cloud.adjust(failing, fail_state="error")
        console.print(f"emulator at {emulator.url}; all clocks run {_SPEED} times faster")
        console.print(f"{failing} will fail to create; the guest of {ignoring} ignores ACPI")
        return await _Demo(console, client, vm_names).run()


async def on_endpoint(console: Console, client: Client, count: int) -> ExitCode:
    """Run the demo on a real endpoint."""
    async with client:
        return await _Demo(console, client, names(count)).run()


def _print_to_stderr(message: str, _: str) -> None:
    say(message)


class _Board:
    """A grid of the demo's VMs and their states."""

    def __init__(self, vm_names: list[str]) -> None:
        self._states: dict[str, str | None] = dict.fromkeys(vm_names, "")
        self._tasks: dict[str, Task[Any]] = {}
        self.names: dict[str, str] = {}

    def on_event(self, event: BulkEvent) -> None:
        if event.task is not None and event.vm_id is not None:
            name = self.names.setdefault(event.vm_id, event.item)
            self._tasks[name] = event.task

    def __rich__(self) -> RenderableType:
        for name, task in self._tasks.items():
            if task.history:
                self._states[name] = task.history[-1].state
        return Columns([_cell(*vm) for vm in self._states.items()], width=_CELL)


def _cell(name: str, state: str | None) -> Text:
    if state == "":
        return Text(f"· {name}", "dim")
    return Text("● ", style_of(state)).append(f"{name} {printable(state or 'gone')}")


class _Demo:
    def __init__(self, console: Console, client: Client, vm_names: list[str]) -> None:
        self._console = console
        self._client = client
        self._vm_names = vm_names
        self._board = _Board(vm_names)

    async def run(self) -> ExitCode:
        try:
            await self._run_phases()
        finally:
            # Also after a failure or Ctrl-C: a VM left behind costs money.
            left = await self._clean_up()
        requests = self._client.requests
        calls = ", ".join(f"{n} {call}" for call, n in sorted(requests.items()))
        self._console.print()
        self._console.print(f"{sum(requests.values())} requests: {calls}", style="bold")
        return ExitCode.FAILED if left else ExitCode.OK

    async def _run_phases(self) -> None:
        requests = await self._requests()
        created = await self._phase(
            "create", len(requests), BulkPlan(), lambda bulk: bulk.create(requests)
        )
        online = [outcome.vm_id for outcome in created.succeeded if outcome.vm_id]
        waves = BulkPlan(limit=10, waves=[1, "25%", "100%"], min_online="75%", max_failures="5%")
        rebooted = await self._phase("reboot", len(online), waves, lambda bulk: bulk.reboot(online))
        assumed = [o.item for o in rebooted.succeeded if o.evidence == "assumed"]
        if assumed:
            # The API shows no difference between a missed reboot and a guest that ignored it.
            named = ", ".join(self._board.names[vm_id] for vm_id in assumed)
            self._console.print(f"\n{named} never left online and may not have rebooted: resetting")
            # One at a time: a single VM is polled by GET, which misses less than lists.
            single = BulkPlan(limit=1)
            await self._phase("reset", len(assumed), single, lambda bulk: bulk.reset(assumed))

    async def _requests(self) -> list[CreateRequest]:
        regions, templates = await asyncio.gather(
            self._client.regions.list(), self._client.templates.list()
        )
        zone = next((z for region in regions for z in region.zones if z.available), None)
        if zone is None or not templates:
            raise VMAPIError("no zone is available, or there are no templates")
        boot = ImageBoot(os=templates[0].id)
        return [
            CreateRequest(name=name, cpus=1, ram=1024, zone_id=zone.id, boot=boot)
            for name in self._vm_names
        ]

    async def _phase(
        self,
        operation: str,
        total: int,
        plan: BulkPlan,
        call: Callable[[BulkExecutor], Awaitable[BulkReport]],
    ) -> BulkReport:
        labels = self._board.names
        progress = Progress(self._console, operation, total, labels, above=self._board)

        def note(event: BulkEvent) -> None:
            self._board.on_event(event)
            progress.on_event(event)

        bulk = self._client.bulk(attrs.evolve(plan, on_event=note))
        try:
            async with progress:
                await call(bulk)
        finally:
            # Also if the phase was interrupted.
            if (report := bulk.report) is not None:
                if is_live(self._console):
                    self._console.print()
                    self._console.print(self._board)
                show_report(self._console, report, labels)
        return report or BulkReport(operation=operation)

    async def _clean_up(self) -> bool:
        """Delete all VMs of the demo; return whether any is left."""
        known = [*self._board.names, *(w.vm_id for w in self._client.unresolved if w.vm_id)]
        ids = list(dict.fromkeys(known))
        if not ids:
            return False
        left = set(ids)
        try:
            report = await self._phase(
                "delete",
                len(ids),
                BulkPlan(),
                lambda bulk: bulk.delete(ids, delete_resources=True),
            )
            left -= {outcome.item for outcome in report.succeeded}
        finally:
            # Also after a second Ctrl-C.
            for vm_id in left:
                warning = f"NOT deleted, delete it yourself: {vm_id}"
                self._console.print(warning, style="red")
                on_loss(partial(_print_to_stderr, warning))
        return bool(left)
