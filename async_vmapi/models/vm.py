"""VMs and the catalogue, as the API returns them (WIRE §2, §3).

Responses are decoded directly into these classes, so the annotations are the schema: a response
must have each field without a default. Fields that the API sends in two types (WIRE §5.1) are
annotated with `Id`, `Int` or `Float`, and converted to one type.
"""

import math
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from async_vmapi.models.serialization import Serializable

__all__ = [
    "DELETING",
    "INSTALLING",
    "OFFLINE",
    "ONLINE",
    "Autoscaler",
    "Console",
    "IPv4Address",
    "Network",
    "Operation",
    "PublicInterface",
    "Reference",
    "Region",
    "SSHKey",
    "StorageVolume",
    "Template",
    "VirtualMachine",
    "Zone",
]

if TYPE_CHECKING:
    Id: TypeAlias = str
    Int: TypeAlias = int
    Float: TypeAlias = float
else:
    Id = str | int
    Int = int | str
    Float = float | str

Operation: TypeAlias = Literal[
    "create", "resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off"
]
"""The writes that return a `Task`."""

ONLINE: Final = "online"
OFFLINE: Final = "offline"
INSTALLING: Final = "installing"
DELETING: Final = "deleting"


# A large list creates tens of thousands of these values, so check the types first: few values need
# to be converted.
def _read_id(owner: Any) -> None:
    if type(owner.id) is not str:
        object.__setattr__(owner, "id", str(owner.id))


def _read_number(owner: object, name: str, kind: type[int] | type[float]) -> None:
    value = getattr(owner, name)
    if type(value) is kind or value is None:
        return
    try:
        number = kind(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name!r} is neither a number nor a string that holds one") from None
    object.__setattr__(owner, name, number)


@attrs.frozen
class Reference(Serializable):
    """The id and name of a zone, owner, group or system."""

    id: Id
    name: str

    __attrs_post_init__ = _read_id


@attrs.frozen
class IPv4Address(Serializable):
    """An address of a VM's public interface."""

    id: Id
    ipv4_address: str
    attach_time: str | None = None
    dhcp: bool | None = None

    __attrs_post_init__ = _read_id


@attrs.frozen
class PublicInterface(Serializable):
    """A VM's interface to the internet. A new VM may have no address yet (WIRE §4)."""

    primary_ip_ipv4address: str | None = None
    ipv4_addresses: tuple[IPv4Address, ...] = ()
    mac_address: str | None = None


@attrs.frozen
class StorageVolume(Serializable):
    """A disk of a VM. `size` is in GB."""

    id: Id
    size: Float
    system_disk: bool
    type: str | None = None
    attach_time: str | None = None

    def __attrs_post_init__(self) -> None:
        if type(self.id) is not str:
            _read_id(self)
        if type(self.size) is not float:
            _read_number(self, "size", float)


@attrs.frozen
class Network(Serializable):
    """A private network that a VM is attached to."""

    id: Id
    label: str | None
    mac_address: str
    type: str

    __attrs_post_init__ = _read_id


@attrs.frozen
class Autoscaler(Serializable):
    """Whether the provider resizes the VM automatically."""

    active: bool


@attrs.frozen(kw_only=True)
class VirtualMachine(Serializable):
    """A VM as the API returned it (WIRE §3).

    Attributes:
        id: The VM's id, which is valid only in its region.
        label: The VM's name; None if it has none.
        cores: Number of CPUs.
        ram: Memory in MB.
        state: The VM's state: ``installing``, ``online``, ``offline``, ``deleting``, or one that
            is not known yet (WIRE §4).
        cost_per_hour: Price of an hour, in the account's currency.
        transfer_used: Traffic used.
        adm: Whether the provider manages the VM; None if the API does not say.
    """

    id: Id
    label: str | None
    cores: Int
    ram: Int
    state: str
    system: Reference
    cost_per_hour: Float
    transfer_used: Float
    owner: Reference
    public_interface: PublicInterface
    storage_volumes: tuple[StorageVolume, ...]
    zone: Reference
    networks: tuple[Network, ...] = ()
    groups: tuple[Reference, ...] = ()
    adm: bool | None = None
    autoscaler: Autoscaler | None = None

    def __attrs_post_init__(self) -> None:
        if type(self.id) is not str:
            _read_id(self)
        if type(self.cores) is not int:
            _read_number(self, "cores", int)
        if type(self.ram) is not int:
            _read_number(self, "ram", int)
        if type(self.cost_per_hour) is not float:
            _read_number(self, "cost_per_hour", float)
        if type(self.transfer_used) is not float:
            _read_number(self, "transfer_used", float)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All public IPv4 addresses, the primary one first."""
        primary = self.public_interface.primary_ip_ipv4address
        known = [address.ipv4_address for address in self.public_interface.ipv4_addresses]
        return tuple(dict.fromkeys([primary, *known] if primary else known))

    @property
    def system_volume(self) -> StorageVolume | None:
        """The system disk; None if there is none yet."""
        return next((volume for volume in self.storage_volumes if volume.system_disk), None)


@attrs.frozen
class Console:
    """The address of a VM's console, and its password.

    It has no `to_dict`: return the password only where you mean to.
    """

    host: str
    port: Int
    password: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        _read_number(self, "port", int)


@attrs.frozen
class Zone(Serializable):
    """A zone of a region, in which VMs are created."""

    id: Id
    label: str
    name: str
    available: bool

    __attrs_post_init__ = _read_id


@attrs.frozen
class Region(Serializable):
    """A region and its zones."""

    name: str
    zones: tuple[Zone, ...]


@attrs.frozen
class Template(Serializable):
    """An image to boot a new VM from.

    Attributes:
        supports: Which fields of `ImageBoot` it allows: ``password``, ``sshkey``, ``cloudinit``.
        owner: Its owner; None for the provider.
    """

    id: Id
    label: str
    supports: tuple[str, ...]
    owner: Reference | None = None

    __attrs_post_init__ = _read_id


@attrs.frozen
class SSHKey(Serializable):
    """A public SSH key of the account; its id is the ``key_id`` of an `ImageBoot`."""

    id: Id
    name: str
    fingerprint: str

    __attrs_post_init__ = _read_id
