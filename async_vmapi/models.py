"""The API's data: VMs, the requests to create them, and the catalogue (WIRE §2, §3).

Frozen values without I/O. Responses are decoded directly into them, so the annotations are the
schema: a response must have each field without a default. Fields that the API sends in two types
(WIRE §5.1) are annotated with `Id`, `Int` or `Float`, and converted to one type.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.redaction import Secret

__all__ = [
    "Autoscaler",
    "CdromBoot",
    "Console",
    "CreateRequest",
    "IPv4Address",
    "ImageBoot",
    "Network",
    "Operation",
    "PublicInterface",
    "Reference",
    "Region",
    "SSHKey",
    "SecretRef",
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


def _check(owner: object, name: str, check: Callable[[str, object], object]) -> None:
    # Keep the checked value: it has a plain type, which can be encoded.
    object.__setattr__(owner, name, check(name, getattr(owner, name)))


@attrs.frozen
class Reference:
    """The id and name of a zone, owner, group or system."""

    id: Id
    name: str

    __attrs_post_init__ = _read_id


@attrs.frozen
class IPv4Address:
    """An address of a VM's public interface."""

    id: Id
    ipv4_address: str
    attach_time: str | None = None
    dhcp: bool | None = None

    __attrs_post_init__ = _read_id


@attrs.frozen
class PublicInterface:
    """A VM's interface to the internet. A new VM may have no address yet (WIRE §4)."""

    primary_ip_ipv4address: str | None = None
    ipv4_addresses: tuple[IPv4Address, ...] = ()
    mac_address: str | None = None


@attrs.frozen
class StorageVolume:
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
class Network:
    """A private network that a VM is attached to."""

    id: Id
    label: str | None
    mac_address: str
    type: str

    __attrs_post_init__ = _read_id


@attrs.frozen
class Autoscaler:
    """Whether the provider resizes the VM automatically."""

    active: bool


@attrs.frozen(kw_only=True)
class VirtualMachine:
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
    """The address of a VM's console, and its password."""

    host: str
    port: Int
    password: str = attrs.field(repr=False)

    def __attrs_post_init__(self) -> None:
        _read_number(self, "port", int)


@attrs.frozen
class Zone:
    """A zone of a region, in which VMs are created."""

    id: Id
    label: str
    name: str
    available: bool

    __attrs_post_init__ = _read_id


@attrs.frozen
class Region:
    """A region and its zones."""

    name: str
    zones: tuple[Zone, ...]


@attrs.frozen
class Template:
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
class SSHKey:
    """A public SSH key of the account; its id is the ``key_id`` of an `ImageBoot`."""

    id: Id
    name: str
    fingerprint: str

    __attrs_post_init__ = _read_id


@attrs.frozen
class SecretRef:
    """A reference to a secret, which a worker of a durable fleet resolves.

    Args:
        name: ``env:NAME`` for an environment variable that the worker allows, such as
            ``env:VMAPI_SECRET_ROOT``; any other name is passed to the worker's function for
            secrets.

    Raises:
        InvalidArgument: If it is blank or not text.
    """

    name: str

    def __attrs_post_init__(self) -> None:
        _check(self, "name", validation.text)


@attrs.frozen(kw_only=True, init=False)
class ImageBoot:
    """Boot a new VM from a template (WIRE §2).

    Args:
        os: The template's id.
        password: The administrator's password, if the template supports ``password``. A durable
            fleet takes a `SecretRef` for it, and for `user_data`.
        key_id: An SSH key's id, if the template supports ``sshkey``.
        user_data: The cloud-init text, if the template supports ``cloudinit``.

    Raises:
        InvalidArgument: If an argument is empty or not text.
    """

    os: str
    key_id: str | None = None
    _password: Secret | SecretRef | None = attrs.field(default=None, repr=False)
    _user_data: Secret | SecretRef | None = attrs.field(default=None, repr=False)

    def __init__(
        self,
        *,
        os: str,
        password: str | SecretRef | None = None,
        key_id: str | None = None,
        user_data: str | SecretRef | None = None,
    ) -> None:
        # Before any check fails: an error shows this frame's variables.
        hidden = {"password": _hidden(password), "user_data": _hidden(user_data)}
        del password, user_data
        self.__attrs_init__(  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
            os=validation.text("os", os),
            key_id=None if key_id is None else validation.text("key_id", key_id),
            **{
                name: validation.secret(name, value) if isinstance(value, Secret) else value
                for name, value in hidden.items()
            },
        )

    @property
    def password(self) -> str | SecretRef | None:
        """The administrator's password."""
        return self._password.text() if isinstance(self._password, Secret) else self._password

    @property
    def user_data(self) -> str | SecretRef | None:
        """The cloud-init text."""
        return self._user_data.text() if isinstance(self._user_data, Secret) else self._user_data

    @property
    def secrets(self) -> dict[str, Secret]:
        """The secrets, by the name of their field."""
        secrets = {"password": self._password, "user_data": self._user_data}
        return {name: value for name, value in secrets.items() if isinstance(value, Secret)}

    @property
    def references(self) -> tuple[str, ...]:
        """The names of the fields that hold a `SecretRef`."""
        secrets = (("password", self._password), ("user_data", self._user_data))
        return tuple(name for name, value in secrets if isinstance(value, SecretRef))


def _hidden(value: object) -> Secret | SecretRef | None:
    return value if value is None or isinstance(value, SecretRef) else Secret.of(value)


@attrs.frozen(kw_only=True)
class CdromBoot:
    """Boot a new VM from a CD image, by the image's name (WIRE §2).

    Raises:
        InvalidArgument: If `iso` is empty or not text.
    """

    iso: str

    def __attrs_post_init__(self) -> None:
        _check(self, "iso", validation.text)


@attrs.frozen(kw_only=True)
class CreateRequest:
    """A request to create a VM (WIRE §2).

    Args:
        name: The new VM's label; it need not be unique.
        cpus: Number of CPUs, at least 1.
        ram: Memory in MB, at least 1.
        zone_id: The id of the zone to create it in.
        boot: What it boots from.

    Raises:
        InvalidArgument: If an argument is invalid.
    """

    name: str
    cpus: int
    ram: int
    zone_id: str
    boot: ImageBoot | CdromBoot

    def __attrs_post_init__(self) -> None:
        _check(self, "name", validation.text)
        _check(self, "cpus", partial(validation.whole, minimum=1))
        _check(self, "ram", partial(validation.whole, minimum=1))
        _check(self, "zone_id", validation.text)
        if not isinstance(self.boot, ImageBoot | CdromBoot):
            raise InvalidArgument(
                f"boot of type {type(self.boot).__name__} is not an ImageBoot or a CdromBoot",
                argument="boot",
            )
