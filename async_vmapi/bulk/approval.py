"""`ApprovedPlan`: a rollout written down before it is carried out, and checked against the fleet.

It names each VM with what it is now, and has a hash, so that exactly what was approved is done, or
nothing. Pure.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self

import attrs
import msgspec

from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.serialization import Document
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.writes.operations import OPERATIONS

__all__ = ["ApprovedPlan", "PlannedVM"]

_FORMAT: Final = "async_vmapi plan 1"
_COMPARED: Final = ("label", "state", "cores", "ram", "zone")


@attrs.frozen(kw_only=True)
class PlannedVM(Document):
    """A VM of a plan, as it was when the plan was made.

    Attributes:
        id: The VM's id.
        label: Its name.
        state: Its state.
        cores: Its number of CPUs.
        ram: Its memory in MB.
        zone: The id of its zone.
        wave: The number of its wave, from 1; 0 if it would not be started.
        domain: Its failure domain; empty without ``spread_by``.
        reason: What would be done.
    """

    id: str
    label: str | None
    state: str
    cores: int
    ram: int
    zone: str
    wave: int = 0
    domain: str = ""
    reason: str = ""


@attrs.frozen(kw_only=True)
class ApprovedPlan(Document):
    """A rollout, frozen.

    Attributes:
        operation: The operation, for instance ``"reboot"``.
        arguments: Its arguments.
        origin: The client's endpoint.
        plan: The bulk plan.
        vms: The VMs, in the order in which they are started.
    """

    operation: str
    arguments: Mapping[str, Any]
    origin: str
    plan: BulkPlan
    vms: tuple[PlannedVM, ...]

    @classmethod
    def of(cls, rehearsed: BulkReport, plan: BulkPlan, vms: Iterable[VirtualMachine]) -> Self:
        """Return the plan of a dry run.

        Args:
            rehearsed: The report of a dry run.
            plan: Its plan.
            vms: The VMs, in the order given to it.
        """
        outcomes = {outcome.item: outcome for outcome in rehearsed.outcomes}
        return cls(
            operation=rehearsed.operation,
            arguments=rehearsed.arguments,
            origin=rehearsed.origin,
            plan=attrs.evolve(plan, dry_run=False, on_event=None),
            vms=tuple(
                PlannedVM(
                    id=vm.id,
                    label=vm.label,
                    state=vm.state,
                    cores=vm.cores,
                    ram=vm.ram,
                    zone=vm.zone.id,
                    wave=outcomes[vm.id].wave,
                    domain=outcomes[vm.id].domain,
                    reason=outcomes[vm.id].reason,
                )
                for vm in vms
            ),
        )

    @property
    def hash(self) -> str:
        """The SHA-256 of the plan, by which reports name it."""
        # As it is read from a file, in which 10 seconds are 10.0.
        read = self.from_dict(self.to_dict())
        content = msgspec.json.encode(read.to_dict(), order="sorted")
        return hashlib.sha256(content).hexdigest()

    def drift(self, vms: Iterable[VirtualMachine]) -> Iterator[str]:
        """Iterate over the differences between the VMs of the plan and those of a list.

        A VM that is not part of the plan is no difference.
        """
        now = {vm.id: vm for vm in vms}
        for planned in self.vms:
            vm = now.get(planned.id)
            if vm is None:
                yield f"{planned.id} ({planned.label}) is gone"
                continue
            found = attrs.evolve(
                planned,
                label=vm.label,
                state=vm.state,
                cores=vm.cores,
                ram=vm.ram,
                zone=vm.zone.id,
            )
            changes = [
                f"{name} {getattr(planned, name)} is now {getattr(found, name)}"
                for name in _COMPARED
                if getattr(planned, name) != getattr(found, name)
            ]
            if changes:
                yield f"{planned.id} ({planned.label}): {', '.join(changes)}"

    def to_json(self) -> str:
        """Return the plan as JSON, with its hash."""
        content = {"format": _FORMAT, "hash": self.hash, **self.to_dict()}
        return msgspec.json.format(msgspec.json.encode(content)).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan of a text from `to_json`.

        Raises:
            InvalidArgument: If it is none, or was changed.
        """
        try:
            content = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            raise _refuse("is no JSON object") from None
        if content.pop("format", None) != _FORMAT:
            raise _refuse(f"is not in the format {_FORMAT!r} that this release reads")
        expected: object = content.pop("hash", None)
        try:
            plan = cls.from_dict(content)
        except InvalidArgument as error:
            raise _refuse(f"is damaged: {error}") from None
        if plan.hash != expected:
            raise _refuse("was changed after it was made: its hash does not fit; make it again")
        if plan.operation not in OPERATIONS or plan.operation == "create":
            raise _refuse(f"is of {plan.operation!r}, which is no operation on VMs")
        return plan


def _refuse(problem: str) -> InvalidArgument:
    return InvalidArgument(f"plan {problem}", argument="plan")
