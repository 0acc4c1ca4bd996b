"""What the API has besides VMs, read-only: storage volumes, IPv4 addresses, VLANs, images. Pure.

Volumes and addresses are those of the VMs that reads show, so they are as old, or as wrong. WIRE §1
names the paths and some of the fields; the others are assumed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from async_vmapi.emulator import catalogue
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.vm import NotFound, Refused, vm_id_of_part

__all__ = ["RESOURCE_CALLS", "find_resource"]

_PATH: Final = re.compile(r"/v2/(?P<name>[a-z0-9-]+)(?:/(?P<id>[^/]+))?")


class _Interface(msgspec.Struct):
    ipv4_addresses: list[dict[str, Any]]


class _Shown(msgspec.Struct):
    """A VM, as reads show it."""

    id: str
    label: str | None
    storage_volumes: list[dict[str, Any]]
    public_interface: _Interface


_ONE: Final = msgspec.json.Decoder(_Shown)
_ALL: Final = msgspec.json.Decoder(list[_Shown])


def _volumes_of(vm: _Shown) -> list[dict[str, Any]]:
    return [
        {**volume, "label": vm.label, "shared_disk": False, **_attached_to(vm)}
        for volume in vm.storage_volumes
    ]


def _addresses_of(vm: _Shown) -> list[dict[str, Any]]:
    return [address | _attached_to(vm) for address in vm.public_interface.ipv4_addresses]


def _attached_to(vm: _Shown) -> dict[str, Any]:
    return {"virtual_machine": {"id": vm.id, "label": vm.label}, "task": []}


@attrs.frozen
class _Resource:
    """A kind of resource.

    Attributes:
        one: The field of a response to a GET of one.
        several: That of a response to a GET of all.
        all: Those of the account.
        of_vm: Returns those of a VM.
    """

    one: str
    several: str
    all: Sequence[Mapping[str, object]] = ()
    of_vm: Callable[[_Shown], list[dict[str, Any]]] | None = None

    def list(self, cloud: Cloud, now: float) -> dict[str, object]:
        """Return the response to a GET of all."""
        found: list[Mapping[str, object]] = [*self.all]
        if self.of_vm is not None:
            for vm in _ALL.decode(cloud.list(now)):
                found += self.of_vm(vm)
        return {"success": True, self.several: found}

    def get(self, cloud: Cloud, wanted: str, now: float) -> dict[str, object]:
        """Return the response to a GET of one."""
        found: Sequence[Mapping[str, object]] = self.all
        if self.of_vm is not None:
            try:
                found = self.of_vm(_ONE.decode(cloud.get(vm_id_of_part(wanted), now)))
            except NotFound:
                found = ()
        for item in found:
            if str(item["id"]) == wanted:
                return {"success": True, self.one: item}
        raise Refused(404, f"{self.one.replace('_', ' ')} not found")


_RESOURCES: Final[Mapping[str, _Resource]] = {
    "storage-volumes": _Resource("storage_volume", "storage_volumes", of_vm=_volumes_of),
    "ipv4-addresses": _Resource("ipv4_address", "ipv4_addresses", of_vm=_addresses_of),
    "vlans": _Resource("vlan", "vlans", catalogue.VLANS),
    "disk-images": _Resource("disk_image", "disk_images", catalogue.DISK_IMAGES),
    "recovery-points": _Resource("recovery_point", "recovery_points"),
}
RESOURCE_CALLS: Final = frozenset(
    name for resource in _RESOURCES.values() for name in (resource.one, resource.several)
)
"""The names of the calls that read resources."""


def find_resource(
    path: str, method: str, cloud: Cloud
) -> tuple[str, Callable[[float], dict[str, object]]] | None:
    """Return the name of a call, and a function that executes it at a given time.

    Args:
        path: The path of the request.
        method: Its method.
        cloud: The VMs.

    Returns:
        None if the path is not that of such a resource.

    Raises:
        Refused: If the method is not GET.
    """
    match = _PATH.fullmatch(path)
    resource = _RESOURCES.get(match["name"]) if match else None
    if match is None or resource is None:
        return None
    if method != "GET":
        raise Refused(405, "method must be GET: this resource is read-only")
    wanted = match["id"]
    if wanted is None:
        return resource.several, lambda now: resource.list(cloud, now)
    return resource.one, lambda now: resource.get(cloud, wanted, now)
