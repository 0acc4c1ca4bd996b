"""What the machines look like, for any number of listeners at the price of one list a second."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from async_vmapi import Client, VirtualMachine, VMAPIError


class Fleet:
    """Looks at the fleet while somebody listens, and not otherwise.

    Args:
        client: The client.
        interval: Seconds between two looks.
    """

    def __init__(self, client: Client, interval: float = 1.0) -> None:
        self._client = client
        self._interval = interval
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None
        self._seen: dict[str, Any] | None = None
        self._news = asyncio.Event()

    async def changes(self) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over what is seen: the fleet as it is, then again whenever it has changed."""
        self._listeners += 1
        if self._looking is None:
            self._seen = None
            self._looking = asyncio.create_task(self._look())
        told = None
        try:
            while True:
                news = self._news
                if self._seen is not None and self._seen != told:
                    told = self._seen
                    yield told
                else:
                    await news.wait()
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._looking.cancel()
                self._looking = None

    async def _look(self) -> None:
        while True:
            try:
                vms = await self._client.vms.list()
                self._seen = {"vms": [shown(vm) for vm in vms]}
            except VMAPIError as error:
                # One look that fails is no reason to look no more, nor to show nothing.
                self._seen = {**(self._seen or {"vms": []}), "problem": str(error)}
            news, self._news = self._news, asyncio.Event()
            news.set()
            await asyncio.sleep(self._interval)


def shown(vm: VirtualMachine) -> dict[str, Any]:
    """Return what of a machine the page shows."""
    return {
        "id": vm.id,
        "name": vm.label,
        "state": vm.state,
        "cores": vm.cores,
        "ram": vm.ram,
        "address": next(iter(vm.addresses), None),
        "zone": vm.zone.name,
    }
