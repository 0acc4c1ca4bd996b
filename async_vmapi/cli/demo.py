"""``async-vmapi demo``: a fleet from its creation to its end, watched live."""

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
from async_vmapi.cli.live import is_live
from async_vmapi.cli.operations import ask_first
from async_vmapi.cli.options import Yes, command
from async_vmapi.cli.output import console_for, printable, show_report, style_of
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.progress import Progress
from async_vmapi.cli.running import ExitCode, run, say
from async_vmapi.cli.streams import on_loss
from async_vmapi.client import Client
from async_vmapi.emulator import Emulator
from async_vmapi.errors import VMAPIError
from async_vmapi.models import CreateRequest, ImageBoot
from async_vmapi.tasks.task import Task

__all__ = ["FastLoop", "demo", "names", "on_emulator", "on_endpoint"]

_SPEED: Final = 20
_CELL: Final = 24


@command
def demo(
    ctx: typer.Context,
    *,
    count: Annotated[int, typer.Option(min=4, max=400, help="How many machines.")] = 40,
    real: Annotated[
        bool, typer.Option("--real", help="On the endpoint of the profile or the environment.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Makes the emulator repeatable.")] = None,
    yes: Yes = False,
) -> None:
    """Take a fleet through its life, on a local cloud of its own whose clock runs faster.

    With --real it runs on a real endpoint, after asking, and costs what machines cost.
    """
    console = console_for(json=False)
    if not real:
        raise typer.Exit(run(on_emulator(console, count, seed), FastLoop))
    client = client_for(ctx.obj)
    ask_first(f"create, reboot and delete on {client!r}", names(count), yes=yes)
    raise typer.Exit(run(on_endpoint(console, client, count)))


class _Hasty(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / _SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs twenty times faster.

    The cloud and the client both take their time from it, so each is as it always is.
    """

    def __init__(self) -> None:
        super().__init__(_Hasty())

    def time(self) -> float:
        """Return the loop's time."""
        return super().time() * _SPEED


def names(count: int) -> list[str]:
    """Return the names of the demo's machines."""
    return [f"demo-{number:02}" for number in range(1, count + 1)]


async def on_emulator(console: Console, count: int, seed: int | None) -> ExitCode:
    """Run the demo on a cloud of its own, with a guest that ignores ACPI and one that fails."""
    async with (
        Emulator(seed=seed) as emulator,
        Client(emulator.url, api_key=emulator.api_key, api_secret=emulator.api_secret) as client,
    ):
        called = names(count)
        emulator.cloud.adjust(called[count // 2], acpi="ignore")
        emulator.cloud.adjust(called[count // 3], fail_state="error")
        console.print(f"a local cloud at {emulator.url}, all clocks {_SPEED} times faster")
        console.print(
            f"there {called[count // 3]} fails, and the guest of {called[count // 2]} ignores ACPI"
        )
        return await _Demo(console, client, called).run()


async def on_endpoint(console: Console, client: Client, count: int) -> ExitCode:
    """Run the demo on a real endpoint."""
    async with client:
        return await _Demo(console, client, names(count)).run()


def _say_too(words: str, _: str) -> None:
    say(words)


class _Board:
    """All machines of the demo at a glance."""

    def __init__(self, called: list[str]) -> None:
        self._states: dict[str, str | None] = dict.fromkeys(called, "")
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
        return Columns([_cell(*machine) for machine in self._states.items()], width=_CELL)


def _cell(name: str, state: str | None) -> Text:
    if state == "":
        return Text(f"· {name}", "dim")
    return Text("● ", style_of(state)).append(f"{name} {printable(state or 'gone')}")


class _Demo:
    def __init__(self, console: Console, client: Client, called: list[str]) -> None:
        self._console = console
        self._client = client
        self._called = called
        self._board = _Board(called)

    async def run(self) -> ExitCode:
        try:
            await self._whole_life()
        finally:
            # Also after a failure or Ctrl-C: a machine that is left behind costs money.
            left = await self._clean_up()
        requests = self._client.requests
        calls = ", ".join(f"{n} {call}" for call, n in sorted(requests.items()))
        self._console.print()
        self._console.print(f"{sum(requests.values())} requests in all: {calls}", style="bold")
        return ExitCode.FAILED if left else ExitCode.OK

    async def _whole_life(self) -> None:
        requests = await self._requests()
        created = await self._phase(
            "create", len(requests), BulkPlan(), lambda bulk: bulk.create(requests)
        )
        online = [outcome.vm_id for outcome in created.succeeded if outcome.vm_id]
        waves = BulkPlan(limit=10, waves=[1, "25%", "100%"], min_online="75%", max_failures="5%")
        rebooted = await self._phase("reboot", len(online), waves, lambda bulk: bulk.reboot(online))
        unseen = [o.item for o in rebooted.succeeded if o.evidence == "assumed"]
        if unseen:
            # The API cannot tell a guest that does not reboot from a reboot that does not show.
            named = ", ".join(self._board.names[vm_id] for vm_id in unseen)
            self._console.print(f"\n{named} never left online, so perhaps did not reboot: reset")
            # One by one: a machine alone is looked at by GET, which shows more than a list.
            single = BulkPlan(limit=1)
            await self._phase("reset", len(unseen), single, lambda bulk: bulk.reset(unseen))

    async def _requests(self) -> list[CreateRequest]:
        regions, templates = await asyncio.gather(
            self._client.regions.list(), self._client.templates.list()
        )
        zone = next((z for region in regions for z in region.zones if z.available), None)
        if zone is None or not templates:
            raise VMAPIError("there is no available zone, or no template, to create from")
        boot = ImageBoot(os=templates[0].id)
        return [
            CreateRequest(name=name, cpus=1, ram=1024, zone_id=zone.id, boot=boot)
            for name in self._called
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
            # Also of a phase that is interrupted.
            if (report := bulk.report) is not None:
                if is_live(self._console):
                    self._console.print(self._board)
                show_report(self._console, report, labels)
        return report or BulkReport(operation=operation)

    async def _clean_up(self) -> bool:
        """Delete all that the board knows; return whether something is left."""
        ids = [*self._board.names, *(w.vm_id for w in self._client.unresolved if w.vm_id)]
        there = list(dict.fromkeys(ids))
        if not there:
            return False
        left = set(there)
        try:
            report = await self._phase(
                "delete",
                len(there),
                BulkPlan(),
                lambda bulk: bulk.delete(there, delete_resources=True),
            )
            left -= {outcome.item for outcome in report.succeeded}
        finally:
            # Also by a second Ctrl-C.
            for vm_id in left:
                words = f"NOT deleted, look at it yourself: {vm_id}"
                self._console.print(words, style="red")
                on_loss(partial(_say_too, words))
        return bool(left)
