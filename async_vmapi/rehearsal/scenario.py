"""`Scenario`: all that a run of a rehearsal needs, as plain data for another process. Pure.

It has no secrets: of creates, only what decides how they go is kept.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.models.serialization import Document
from async_vmapi.models.vm import Reference, VirtualMachine

__all__ = ["NewVM", "RehearsedVM", "Scenario"]


@attrs.frozen(kw_only=True)
class RehearsedVM(Document):
    """A VM of the fleet."""

    id: str
    label: str | None
    state: str
    cores: int
    ram: int
    zone: Reference
    groups: tuple[Reference, ...] = ()

    @classmethod
    def of(cls, vm: VirtualMachine) -> "RehearsedVM":
        """Return what a rehearsal needs of a VM."""
        return cls(**{field.name: getattr(vm, field.name) for field in attrs.fields(cls)})


@attrs.frozen(kw_only=True)
class NewVM(Document):
    """A VM to create."""

    name: str
    cpus: int
    ram: int
    zone_id: str


@attrs.frozen(kw_only=True)
class Scenario(Document):
    """A bulk call, and the fleet that it finds.

    Attributes:
        operation: The operation.
        arguments: Its arguments.
        plan: The plan.
        probes: Whether its check has probes or functions, which are emulated.
        fleet: All VMs of the endpoint.
        items: The ids of the VMs of the call, in their order.
        new: The VMs to create, in their order.
        facts: What is known of the provider, as TOML.
        options: Options of the client.
        hazards: What goes wrong.
    """

    operation: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    plan: BulkPlan
    probes: bool = False
    fleet: tuple[RehearsedVM, ...] = ()
    items: tuple[str, ...] = ()
    new: tuple[NewVM, ...] = ()
    facts: str | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    hazards: Hazards = attrs.field(factory=Hazards)
