"""Find the VMs that a command's arguments name, by id or by label."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.errors import InvalidArgument, NotFound
from async_vmapi.models import VirtualMachine

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["find_vm", "find_vms", "match_vms"]

# Ids are opaque (WIRE §3), so the form only decides which request is sent first.
_LOOKS_LIKE_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


async def find_vm(client: "Client", vm: str) -> VirtualMachine:
    """Return the VM with this id, else the only one with this label; exit like `find_vms`."""
    return (await find_vms(client, [vm]))[0]


async def find_vms(client: "Client", vms: Sequence[str]) -> list[VirtualMachine]:
    """Return the VMs that arguments name by id or label: each once, in the order of the arguments.

    Exits with code 1 if there is no such VM, and like `match_vms`.
    """
    found = await match_vms(client, vms)
    known = {vm.id: vm for vm in found.values() if vm is not None}
    missing = [repr(name) for name, vm in found.items() if vm is None]
    if missing:
        fail(
            f"no VM has the id or name {', '.join(missing)}; 'async-vmapi vm list' shows all "
            "(a new VM may take a moment to appear)"
        )
    return list(known.values())


async def match_vms(client: "Client", vms: Iterable[str]) -> Mapping[str, VirtualMachine | None]:
    """Return the VM that each argument names by id, else by label; None if there is none.

    A single argument that looks like an id costs one GET. Otherwise one list is requested for all
    arguments, and then a GET for each that it does not contain, as it may be stale.

    Exits with code 2 if several VMs have the label; the message lists them.
    """
    names = list(dict.fromkeys(vms))
    if len(names) == 1 and _LOOKS_LIKE_ID.fullmatch(names[0]):
        vm = await _get(client, names[0])
        if vm is not None:
            return {names[0]: vm}
    listed = await client.vms.list()
    by_id = {vm.id: vm for vm in listed}
    found = {name: by_id.get(name) or _labelled(name, listed) for name in names}
    missing = [name for name, vm in found.items() if vm is None]
    return found | dict(
        zip(missing, await asyncio.gather(*(_get(client, name) for name in missing)), strict=True)
    )


def _labelled(name: str, vms: Iterable[VirtualMachine]) -> VirtualMachine | None:
    matching = [vm for vm in vms if vm.label == name]
    if len(matching) > 1:
        candidates = ", ".join(f"{vm.id} ({vm.label}, {vm.state})" for vm in matching)
        fail(f"{len(matching)} VMs are named {name!r}, pass an id: {candidates}", ExitCode.USAGE)
    return matching[0] if matching else None


async def _get(client: "Client", vm_id: str) -> VirtualMachine | None:
    try:
        return await client.vms.get(vm_id)
    except (InvalidArgument, NotFound):
        return None
