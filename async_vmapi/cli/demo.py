"""``async-vmapi demo``: three machines from their creation to their end, watched live."""

import asyncio
import os
from typing import TypeVar

import anyio
from rich.console import Console
from rich.table import Table

from async_vmapi.client import Client
from async_vmapi.emulator import Emulator
from async_vmapi.errors import InvalidArgument, VMAPIError
from async_vmapi.models import CreateRequest, ImageBoot, VirtualMachine
from async_vmapi.tasks import Task

__all__ = ["on_emulator", "on_endpoint", "real_client"]

T = TypeVar("T")

_SPEED = 20.0


async def on_emulator(console: Console, *, seed: int | None) -> None:
    """Run the demo on an emulator whose clock runs twenty times faster."""
    async with (
        Emulator(speed=_SPEED, seed=seed) as emulator,
        Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            # As much faster as the cloud's clock.
            poll_floor=1 / _SPEED,
            poll_ceiling=15 / _SPEED,
        ) as client,
    ):
        console.print(f"a local cloud at {emulator.url}, its clock {_SPEED:g} times faster\n")
        await _Demo(console, client).run()


async def on_endpoint(console: Console, client: Client) -> None:
    """Run the demo on a real endpoint."""
    async with client:
        await _Demo(console, client).run()


def real_client(url: str | None, region: str | None) -> Client:
    """Return a client of a real endpoint, with the credentials of the environment."""
    key, secret = os.environ.get("VMAPI_API_KEY"), os.environ.get("VMAPI_API_SECRET")
    if not key or not secret:
        raise InvalidArgument(
            "VMAPI_API_KEY and VMAPI_API_SECRET must be set in the environment",
            argument="VMAPI_API_KEY",
        )
    if region is not None:
        return Client.for_region(region, api_key=key, api_secret=secret)
    return Client(url or "", api_key=key, api_secret=secret)


class _Demo:
    def __init__(self, console: Console, client: Client) -> None:
        self._console = console
        self._client = client
        self._began = anyio.current_time()
        self._names: dict[str, str] = {}

    def _say(self, who: str, what: str) -> None:
        elapsed = anyio.current_time() - self._began
        self._console.print(f"{elapsed:6.2f} s  {who:<14} {what}", markup=False)

    async def run(self) -> None:
        try:
            await self._whole_life()
        finally:
            await self._clean_up()
        self._report()

    async def _whole_life(self) -> None:
        client = self._client
        one, two, three = await self._create(await self._requests())
        console_task = client.vms.console(three)
        resize = client.vms.resize(one, cores=4, ram=4096)
        reboot = client.vms.reboot(two)
        _, _, opened = await asyncio.gather(
            self._follow(await resize), self._follow(await reboot), console_task
        )
        self._say(self._names[three.id], f"console at {opened.host}:{opened.port}")
        await client.vms.rename(three, "demo-renamed")
        renamed = await client.vms.get(three)
        self._say(self._names[three.id], f"renamed to {renamed.label}")
        self._names[three.id] = renamed.label or three.id
        await self._follow(await client.vms.shutdown(one))
        await self._follow(await client.vms.power_on(one))

    async def _requests(self) -> list[CreateRequest]:
        regions, templates = await asyncio.gather(
            self._client.regions.list(), self._client.templates.list()
        )
        for region in regions:
            zones = ", ".join(zone.label for zone in region.zones)
            self._say("region", f"{region.name}: {zones}")
        for template in templates:
            self._say("template", f"{template.label} ({', '.join(template.supports)})")
        zone = next((z for region in regions for z in region.zones if z.available), None)
        if zone is None or not templates:
            raise VMAPIError("there is no available zone, or no template, to create from")
        return [
            CreateRequest(
                name=f"demo-{number}",
                cpus=1,
                ram=1024,
                zone_id=zone.id,
                boot=ImageBoot(os=templates[0].id),
            )
            for number in (1, 2, 3)
        ]

    async def _create(self, requests: list[CreateRequest]) -> list[VirtualMachine]:
        async def create(request: CreateRequest) -> VirtualMachine:
            task = await self._client.vms.create(request)
            self._names[task.vm_id] = request.name
            return await self._follow(task)

        return await asyncio.gather(*(create(request) for request in requests))

    async def _follow(self, task: Task[T]) -> T:
        name = self._names[task.vm_id]
        self._say(name, f"{task.operation} accepted")
        async for event in task.events():
            size = f", {vm.cores} cores, {vm.ram} MB" if (vm := event.vm) else ""
            self._say(name, f"{event.state or 'gone'}{size if task.operation == 'resize' else ''}")
        result = await task
        self._say(name, f"{task.operation} done, {task.evidence}")
        return result

    async def _clean_up(self) -> None:
        # Also after a failure or Ctrl-C: a machine that is left behind costs money.
        async def delete(vm_id: str) -> None:
            await self._follow(await self._client.vms.delete(vm_id, delete_resources=True))
            del self._names[vm_id]

        await asyncio.gather(*(delete(vm_id) for vm_id in self._names), return_exceptions=True)
        for name in self._names.values():
            self._say(name, "NOT deleted: please look at it yourself")

    def _report(self) -> None:
        table = Table("asked of the API", "requests", title="", show_edge=False)
        for call, count in sorted(self._client.requests.items()):
            table.add_row(call, str(count))
        table.add_section()
        table.add_row("in all", str(sum(self._client.requests.values())))
        self._console.print()
        self._console.print(table)
