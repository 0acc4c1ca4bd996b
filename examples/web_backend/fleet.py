"""The fleet's state, for any number of listeners at the cost of one list a second."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from async_vmapi import Client, VirtualMachine, VMAPIError


class Fleet:
    """Polls the fleet while there are listeners.

    Args:
        client: The client.
        interval: Seconds between polls.
    """

    def __init__(self, client: Client, interval: float = 1.0) -> None:
        self._client = client
        self._interval = interval
        self._listeners = 0
        self._polling: asyncio.Task[None] | None = None
        self._state: dict[str, Any] | None = None
        self._updated = asyncio.Event()

    async def changes(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the fleet's state at once, and then whenever it changes."""
        self._listeners += 1
        if self._polling is None:
            self._state = None
            self._polling = asyncio.create_task(self._poll())
        last = None
        try:
            while True:
                updated = self._updated
                if self._state is not None and self._state != last:
                    last = self._state
                    yield last
                else:
                    await updated.wait()
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._polling.cancel()
                self._polling = None

    async def _poll(self) -> None:
        while True:
            try:
                vms = await self._client.vms.list()
                self._state = {"vms": [shown(vm) for vm in vms]}
            except VMAPIError as error:
                # Keep polling, and show the last state with the error.
                self._state = {**(self._state or {"vms": []}), "problem": str(error)}
            updated, self._updated = self._updated, asyncio.Event()
            updated.set()
            await asyncio.sleep(self._interval)


def shown(vm: VirtualMachine) -> dict[str, Any]:
    """Return the fields of a VM that the page shows."""
    return {
        "id": vm.id,
        "name": vm.label,
        "state": vm.state,
        "cores": vm.cores,
        "ram": vm.ram,
        "address": next(iter(vm.addresses), None),
        "zone": vm.zone.name,
    }
