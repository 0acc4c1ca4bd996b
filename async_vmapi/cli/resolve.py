"""Find the VMs that a command's arguments name, by id or by label."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, cast

from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.errors import InvalidArgument, NotFound
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.writes.requests import VMOrId, id_of

if TYPE_CHECKING:
    from async_vmapi.client import Client

__all__ = ["find_vm", "find_vms", "name_of"]

# Ids are opaque (WIRE §3), so the form only decides which request is sent first.
_LOOKS_LIKE_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def name_of(vm: VMOrId) -> str:
    """Return a VM's label; its id if it has none, or is not known."""
    return vm if isinstance(vm, str) else vm.label or vm.id


async def find_vm(client: "Client", vm: str) -> VirtualMachine:
    """Return the VM with this id, else the only one with this label; exit like `find_vms`."""
    return cast(VirtualMachine, (await find_vms(client, [vm]))[0])


async def find_vms(
    client: "Client", vms: Iterable[str], *, missing_ok: bool = False
) -> list[VMOrId]:
    """Return the VMs that arguments name by id or label: each once, in the order of the arguments.

    A single argument that looks like an id costs one GET. Otherwise one list is requested for all
    arguments, and then a GET for each that it does not contain, as it may be stale. An argument
    with the form of an id is never taken for a label: when its VM is gone, it would name another.

    Exits with code 1 if there is no such VM, and with code 2 if several VMs have the label; the
    message lists them.

    Args:
        client: The client.
        vms: The arguments.
        missing_ok: Whether to return an argument itself if there is no such VM.
    """
    names = list(dict.fromkeys(vms))
    found: dict[str, VirtualMachine | None] = dict.fromkeys(names)
    listed: Sequence[VirtualMachine] = ()
    if len(names) == 1 and _LOOKS_LIKE_ID.fullmatch(names[0]):
        found = {names[0]: await _get(client, names[0])}
    if None in found.values():
        listed = await client.vms.list()
        by_id = {vm.id: vm for vm in listed}
        forms = set(map(_form, by_id))
        found = {
            name: by_id.get(name) or (None if _form(name) in forms else _labelled(name, listed))
            for name in names
        }
    missing = [name for name, vm in found.items() if vm is None]
    polled = await asyncio.gather(*(_get(client, name) for name in missing))
    found |= zip(missing, polled, strict=True)
    if None in polled and not missing_ok:
        missing = [name for name, vm in found.items() if vm is None]
        labels = {vm.label for vm in listed if vm.label}
        near = [repr(label) for name in missing for label in get_close_matches(name, labels)]
        hint = f"did you mean {' or '.join(near)}?" if near else "a new one may take a moment"
        fail(
            f"no VM has the id or name {', '.join(map(repr, missing))}; 'async-vmapi vm list' "
            f"shows all ({hint})"
        )
    known = [vm or name for name, vm in found.items()]
    return list({id_of(vm): vm for vm in known}.values())


def _form(text: str) -> str:
    return re.sub("[0-9a-f]", "0", text.lower())


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
