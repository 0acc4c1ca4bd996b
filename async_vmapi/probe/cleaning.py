"""Find the VMs of probes and delete them; touch no others."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import anyio

from async_vmapi.client import Client
from async_vmapi.errors import NotFound, OutcomeUnknown, VMAPIError
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.probe.journal import Journal
from async_vmapi.probe.plan import is_probe

__all__ = ["delete", "left_over"]

_EVERY: Final = 2.0
_ATTEMPTS: Final = 3


async def left_over(client: Client, journal: Journal, *, appears: float) -> list[VirtualMachine]:
    """Return the VMs that probes left: by name, and those that a probe noted in its journal.

    A create that was in flight when its process was killed is reconciled; that takes until a VM
    that does not appear can no longer appear.

    Args:
        client: The client.
        journal: The journal of the probe that was cut off.
        appears: Seconds within which a new VM appears.

    Raises:
        VMAPIError: If the API cannot be reached.
    """
    found: dict[str, VirtualMachine] = {}
    for token, noted in journal.open.items():
        vm_id = noted
        if vm_id is None:
            try:
                vm_id = (await client.reconcile(token, reconcile_timeout=appears)).vm_id
            except OutcomeUnknown:
                continue
            journal.created(token, vm_id)
        if (vm := await _appeared(client, vm_id, appears)) is not None:
            found[vm.id] = vm
    return [*found.values(), *(vm for vm in await _named(client) if vm.id not in found)]


async def delete(client: Client, vm_ids: Iterable[str], *, appears: float) -> list[str]:
    """Delete VMs with their resources, and wait until they are gone; return those that are not.

    Args:
        client: The client.
        vm_ids: Their ids. A new one is deleted as soon as it appears.
        appears: Seconds within which a new VM appears.
    """
    left: list[str] = []
    for vm_id in vm_ids:
        for attempt in range(_ATTEMPTS):
            with suppress(VMAPIError):
                if await _appeared(client, vm_id, appears) is None:
                    break
                task = await client.vms.delete(vm_id, delete_resources=True, missing_ok=True)
                await task
                break
            await anyio.sleep(_EVERY * (attempt + 1))
        else:
            left.append(vm_id)
    return left


async def _named(client: Client) -> list[VirtualMachine]:
    return [vm for vm in await client.vms.list() if is_probe(vm)]


async def _appeared(client: Client, vm_id: str, seconds: float) -> VirtualMachine | None:
    until = anyio.current_time() + seconds
    while True:
        with suppress(NotFound):
            return await client.vms.get(vm_id)
        if anyio.current_time() >= until:
            return None
        await anyio.sleep(min(_EVERY, seconds))
