"""A VM of the emulated cloud, its operations, and its JSON."""

import math
import unicodedata
from collections.abc import Mapping
from types import NoneType
from typing import Final, Literal, NamedTuple, TypeAlias

import attrs
import msgspec

from async_vmapi.emulator.catalogue import VLANS, Group, Template, Zone
from async_vmapi.emulator.settings import NameChange, NotFoundForm, Settings
from async_vmapi.emulator.versions import ViewHistory

__all__ = [
    "DUE_DETAILS",
    "STEP_ARGUMENTS",
    "Change",
    "CloudOperation",
    "CloudVM",
    "Due",
    "DueKind",
    "Kind",
    "NotFound",
    "Outcome",
    "Refused",
    "Step",
    "StepAction",
    "encode",
    "part_id",
    "vm_id_of_part",
]

Kind: TypeAlias = Literal[
    "create", "resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off"
]
Outcome: TypeAlias = Literal["done", "skipped", "never", "failed", "cancelled"]
DueKind: TypeAlias = Literal["step", "appear", "address", "early_size", "publish"]
StepAction: TypeAlias = Literal[
    "appear",
    "state",
    "fail",
    "online",
    "stop",
    "resize",
    "size",
    "size_stopped",
    "switch",
    "never",
    "cycle",
    "restart",
    "remove",
]
DUE_DETAILS: Final[Mapping[DueKind, type[int | str | None]]] = {
    "step": int,
    "appear": NoneType,
    "address": NoneType,
    "early_size": int,
    "publish": str,
}
"""The types of what is due with each kind, in a snapshot."""
STEP_ARGUMENTS: Final[Mapping[StepAction, tuple[type[float | str], ...]]] = {
    "appear": (),
    "state": (str,),
    "fail": (str,),
    "online": (float, float),
    "stop": (),
    "resize": (float, float),
    "size": (),
    "size_stopped": (float,),
    "switch": (float,),
    "never": (),
    "cycle": (float, float),
    "restart": (float,),
    "remove": (),
}
"""The types of each step's arguments."""


class Due(NamedTuple):
    """Something that is due to happen to a VM: data, so that it can be saved.

    Attributes:
        at: When, in seconds on the cloud's clock.
        tie: Its number; of those due at the same time, the lowest is first.
        kind: What happens.
        detail: The VM's generation for ``step``, the operation's number for ``early_size``, the
            content for ``publish``.
    """

    at: float
    tie: int
    kind: DueKind
    detail: int | bytes | None


class Step(NamedTuple):
    """A step of an operation, with the seconds to wait before it and its arguments."""

    delay: float
    action: StepAction
    arguments: tuple[float | str, ...] = ()


_VERSION_AT: Final = 14
"""Position of the version in a UUID; it is 4 in VM ids."""

_NETWORK: Final[dict[str, object]] = {"id": VLANS[0]["id"], "label": VLANS[0]["label"]}


class Refused(Exception):
    """The cloud refuses a request, with the HTTP status `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such VM, or it cannot be written to yet; `form` is the format of the response."""

    def __init__(self, form: NotFoundForm) -> None:
        super().__init__(404, "virtual machine not found")
        self.form: NotFoundForm = form


@attrs.frozen
class Change:
    """The state and size of a VM from `at` on; the state is None if it is deleted."""

    at: float
    state: str | None
    cores: int
    ram: int


@attrs.define(eq=False)
class CloudOperation:
    """An accepted operation and its outcome.

    Attributes:
        number: Its position in `Cloud.operations`.
        outcome: ``done``; ``skipped`` if there was nothing to do; ``never`` for a reboot that the
            guest ignored; ``failed``; ``cancelled`` by a delete; None until it ends.
        steps: What it has still to do, if it has started.
    """

    number: int
    kind: Kind
    vm_id: str
    accepted_at: float
    cores: int = 0
    ram: int = 0
    wait_for: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None
    steps: tuple[Step, ...] = attrs.field(default=(), repr=False)


@attrs.define(eq=False)
class CloudVM:
    """The actual state of a VM, which reads may not show.

    Attributes:
        number: Its position in the order of creation, from 1.
        label: The name given at the create; reads may show a changed one (``Settings.names``).
        visible: Whether reads can show it; not at first for a new VM.
        visible_at: When it becomes visible.
        groups: The groups of the account that it is in.
        history: All changes, oldest first.
    """

    id: str
    number: int
    label: str
    cores: int
    ram: int
    zone: Zone
    template: Template | None
    settings: Settings
    created: str
    address: str
    state: str = "installing"
    visible: bool = False
    visible_at: float = -math.inf
    has_address: bool = False
    deleting: bool = False
    groups: tuple[Group, ...] = ()
    history: list[Change] = attrs.field(factory=list[Change])
    # The running operation and the queued ones; a delete increments the generation. A list, as an
    # empty deque takes more memory than all the rest of an idle VM.
    queue: list[CloudOperation] = attrs.field(factory=list[CloudOperation])
    generation: int = 0
    # What is scheduled for it.
    due: tuple[Due, ...] = attrs.field(default=(), repr=False)
    # Its positions in the order of deletion and in that of lists; 0 if it is in neither.
    gone_number: int = 0
    list_number: int = 0
    # Encoded content of GETs and lists; None if it must be encoded again.
    shown: bytes | None = None
    listed: bytes | None = None
    # Until when changes are delayed in lists; a clock may start below 0.
    listed_until: float = -math.inf
    # What reads showed before, if reads can be stale.
    views: ViewHistory | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it is deleted."""
        return bool(self.history) and self.history[-1].state is None


def _name_shown(name: str, change: NameChange) -> str:
    """Return a name as changed by the provider."""
    match change:
        case "verbatim":
            return name
        case "lower":
            return name.lower()
        case "strip":
            return " ".join(name.split())
        case "nfc":
            return unicodedata.normalize("NFC", name)
        case length:
            return name[:length]


def part_id(vm_id: str, kind: Literal["a", "d"]) -> str:
    """Return the id of a VM's address or disk: that of the VM, with another version digit."""
    return f"{vm_id[:_VERSION_AT]}{kind}{vm_id[_VERSION_AT + 1 :]}"


def vm_id_of_part(part: str) -> str:
    """Return the id of the VM that an address or a disk is of."""
    return f"{part[:_VERSION_AT]}4{part[_VERSION_AT + 1 :]}"


def encode(vm: CloudVM) -> bytes:
    """Return a VM as JSON (WIRE §3)."""
    addresses: list[dict[str, object]] = []
    if vm.has_address:
        addresses.append(
            {
                "id": part_id(vm.id, "a"),
                "ipv4_address": vm.address,
                "attach_time": vm.created,
                "dhcp": True,
            }
        )
    mac = f"02:00:{vm.id[0:2]}:{vm.id[2:4]}:{vm.id[4:6]}:{vm.id[6:8]}"
    system_id, system = (vm.template["id"], vm.template["label"]) if vm.template else ("0", "none")
    shown: dict[str, object] = {
        "id": vm.id,
        "label": _name_shown(vm.label, vm.settings.names),
        "cores": vm.cores,
        "ram": vm.ram,
        "adm": False,
        "system": {"id": system_id, "name": system},
        "systemName": system,
        "cost_per_hour": round(0.015 * vm.cores + vm.ram / 102_400, 4),
        "state": vm.state,
        "transfer_used": "0.00",
        "owner": {"id": "1001", "name": "Example"},
        "autoscaler": {"active": False},
        "public_interface": {
            "primary_ip_ipv4address": vm.address if vm.has_address else "",
            "mac_address": mac,
            "ipv4_addresses": addresses,
        },
        "storage_volumes": [
            {
                "id": part_id(vm.id, "d"),
                "size": 40,
                "system_disk": True,
                "type": "hdd",
                "attach_time": vm.created,
            }
        ],
        "zone": {"id": vm.zone["id"], "name": vm.zone["label"]},
        "networks": [{**_NETWORK, "mac_address": mac, "type": "private"}],
        "groups": list(vm.groups),
    }
    if vm.settings.sparse:
        for name in ("adm", "networks", "groups", "systemName", "autoscaler"):
            del shown[name]
        shown["label"] = None
        interface: dict[str, object] = {"ipv4_addresses": addresses}
        if vm.has_address:
            interface["primary_ip_ipv4address"] = vm.address
        shown["public_interface"] = interface
    return msgspec.json.encode(shown)
