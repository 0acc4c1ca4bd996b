"""What a machine of the emulated cloud is, what was asked of it, and how it looks as JSON."""

import math
import unicodedata
from collections.abc import Generator
from typing import Literal, TypeAlias

import attrs
import msgspec

from async_vmapi.emulator.catalogue import Template, Zone
from async_vmapi.emulator.settings import NameChange, NotFoundForm, Settings
from async_vmapi.emulator.versions import ViewHistory

__all__ = [
    "Change",
    "CloudOperation",
    "CloudVM",
    "Kind",
    "NotFound",
    "Refused",
    "Script",
    "encode",
]

Kind: TypeAlias = Literal[
    "create", "resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off"
]
Script: TypeAlias = Generator[float, float, None]
"""What an operation does: it yields how many seconds it waits, and is told the time after."""


class Refused(Exception):
    """The cloud does not do that. `status` is the HTTP status that fits."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NotFound(Refused):
    """There is no such VM, or none that may be written to yet. `form` is how that is reported."""

    def __init__(self, form: NotFoundForm) -> None:
        super().__init__(404, "virtual machine not found")
        self.form: NotFoundForm = form


@attrs.frozen
class Change:
    """What a machine was from `at` on; a state of None means that it was gone."""

    at: float
    state: str | None
    cores: int
    ram: int


@attrs.define(eq=False)
class CloudOperation:
    """What was asked of a machine, and what came of it.

    Attributes:
        outcome: ``done``; ``skipped`` where there was nothing to do; ``never`` for a reboot
            that the guest ignored; ``failed``; ``cancelled`` by a delete; None under way.
    """

    kind: Kind
    vm_id: str
    accepted_at: float
    cores: int = 0
    ram: int = 0
    wait_for: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Literal["done", "skipped", "never", "failed", "cancelled"] | None = None


@attrs.define(eq=False)
class CloudVM:
    """A machine as it really is, whatever readers are shown.

    Attributes:
        label: The name that it was given; reads may show a changed one (``Settings.names``).
        visible: Whether reads can show it, which a new VM is not at first.
        visible_at: When it becomes visible.
        history: Every real change, the oldest first.
    """

    id: str
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
    history: list[Change] = attrs.field(factory=list[Change])
    # The operation under way and those behind it; the number changes when a delete breaks in.
    # A list, since an empty deque takes more room than all the rest of an idle machine.
    queue: list[tuple[CloudOperation, Script]] = attrs.field(
        factory=list[tuple[CloudOperation, Script]]
    )
    generation: int = 0
    # What a get and the list show, encoded; None to be encoded anew.
    shown: bytes | None = None
    listed: bytes | None = None
    # Until when changes were put off in the list; a clock may start below 0.
    listed_until: float = -math.inf
    # What reads showed lately, where they may show it again.
    views: ViewHistory | None = None

    @property
    def is_gone(self) -> bool:
        """Whether it was deleted."""
        return bool(self.history) and self.history[-1].state is None


def _name_shown(name: str, change: NameChange) -> str:
    """Return what becomes of a name that is given to a provider that changes names."""
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


def encode(vm: CloudVM) -> bytes:
    """Return a machine as JSON (WIRE §3)."""
    addresses: list[dict[str, object]] = []
    if vm.has_address:
        addresses.append(
            {
                "id": f"{vm.id[:8]}-ip",
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
                "id": f"{vm.id[:8]}-disk",
                "size": 40,
                "system_disk": True,
                "type": "hdd",
                "attach_time": vm.created,
            }
        ],
        "zone": {"id": vm.zone["id"], "name": vm.zone["label"]},
        "networks": [{"id": 7, "label": "internal", "mac_address": mac, "type": "private"}],
        "groups": [],
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
