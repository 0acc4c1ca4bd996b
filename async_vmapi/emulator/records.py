"""The format of a saved cloud: what a snapshot and a state file have, as data for JSON.

It has what decides future responses. Credentials are in none of it, nor are the passwords and user
data of creates, which the cloud does not keep.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from async_vmapi.emulator.catalogue import TEMPLATES, ZONES, Group, Template, Zone
from async_vmapi.emulator.faults import FaultsRecord
from async_vmapi.emulator.reads import Reads
from async_vmapi.emulator.settings import Settings
from async_vmapi.emulator.versions import Versions, ViewHistory
from async_vmapi.emulator.vm import (
    DUE_DETAILS,
    STEP_ARGUMENTS,
    Change,
    CloudOperation,
    CloudVM,
    Due,
    DueKind,
    Kind,
    Outcome,
    Step,
)

__all__ = [
    "VERSION",
    "ChangeRecord",
    "CloudRecord",
    "OperationRecord",
    "SettingsTable",
    "Snapshot",
    "VMRecord",
    "changes_record",
    "operation_of",
    "operation_record",
    "vm_of",
    "vm_record",
]

VERSION: Final = 1
"""Version of the format."""

T = TypeVar("T")

ChangeRecord = tuple[float, str | None, int, int]
_DueRecord = tuple[float, int, DueKind, int | str | None]
_VersionsRecord = list[tuple[float | None, str | None]]


class OperationRecord(
    msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True
):
    """A `CloudOperation`."""

    kind: Kind
    vm_id: str
    accepted_at: float
    cores: int = 0
    ram: int = 0
    wait_for: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    outcome: Outcome | None = None
    steps: tuple[Step, ...] = ()


class VMRecord(
    msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True
):
    """A `CloudVM`.

    Attributes:
        settings: Position in `Snapshot.settings`.
        queue: Numbers of operations.
        listed: What lists show, if it is not what GETs show.
        views: What GETs and lists showed before; times are None for "always".
    """

    id: str
    number: int
    label: str
    cores: int
    ram: int
    zone: Zone
    template: Template | None
    settings: int
    created: str
    address: str
    state: str
    visible: bool = False
    visible_at: float | None = None
    has_address: bool = False
    deleting: bool = False
    groups: list[Group] = []
    history: list[ChangeRecord] = []
    queue: list[int] = []
    generation: int = 0
    due: list[_DueRecord] = []
    gone_number: int = 0
    list_number: int = 0
    listed: str | None = None
    listed_until: float | None = None
    views: tuple[_VersionsRecord, _VersionsRecord] | None = None


class CloudRecord(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A `Cloud` without its VMs and operations, and what its `CloudAPI` has besides."""

    epoch: str
    now: float
    began: float | None
    seed: int | None
    settings: int
    adjusted: list[tuple[str, dict[str, object]]]
    groups: list[Group]
    ties: int
    published: int
    turn: int
    random: str
    reads_random: str
    faults: FaultsRecord
    allowance: tuple[float | None, float, float | None]


class Snapshot(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A whole cloud."""

    version: int
    cloud: CloudRecord
    settings: list[dict[str, object]]
    vms: list[VMRecord]
    operations: list[OperationRecord]
    lists: list[tuple[float, str]] = []


class SettingsTable:
    """Numbers equal settings, which most VMs share."""

    def __init__(self) -> None:
        self._numbers: dict[Settings, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, settings: Settings) -> int:
        """Return the number of settings, a new one if they are new."""
        return self._numbers.setdefault(settings, len(self._numbers))

    def records(self, start: int = 0) -> list[dict[str, object]]:
        """Return the settings from a number on, as data."""
        return [
            msgspec.to_builtins(settings, enc_hook=str)
            for settings in itertools.islice(self._numbers, start, None)
        ]


def changes_record(settings: Settings, changes: Mapping[str, object]) -> dict[str, object]:
    """Return changes of settings, as data."""
    values: dict[str, Any] = msgspec.to_builtins(settings.changed(**changes), enc_hook=str)
    return {name: values[name] for name in changes}


def vm_record(vm: CloudVM, settings: SettingsTable, reads: Reads) -> VMRecord:
    """Return a VM's record, without its history."""
    return VMRecord(
        id=vm.id,
        number=vm.number,
        label=vm.label,
        cores=vm.cores,
        ram=vm.ram,
        zone=vm.zone,
        template=vm.template,
        settings=settings.number(vm.settings),
        created=vm.created,
        address=vm.address,
        state=vm.state,
        visible=vm.visible,
        visible_at=_number(vm.visible_at),
        has_address=vm.has_address,
        deleting=vm.deleting,
        groups=list(vm.groups),
        queue=[operation.number for operation in vm.queue],
        generation=vm.generation,
        due=[
            (at, tie, kind, _text(detail) if isinstance(detail, bytes) else detail)
            for at, tie, kind, detail in vm.due
        ],
        gone_number=vm.gone_number,
        list_number=vm.list_number,
        listed=_text(reads.lagging(vm)),
        listed_until=_number(vm.listed_until),
        views=None
        if vm.views is None
        else (_versions_record(vm.views.get), _versions_record(vm.views.list)),
    )


def vm_of(
    record: VMRecord, settings: Sequence[Settings], operations: Sequence[CloudOperation]
) -> CloudVM:
    """Return the VM of a record.

    Raises:
        ValueError: If it contradicts itself.
        IndexError: If there are no such settings or operations.
    """
    for _, _, kind, detail in record.due:
        if type(detail) is not DUE_DETAILS[kind]:
            raise ValueError(f"{kind} is due with the detail {detail!r}")
    if not record.history or (record.history[-1][1] is None) is not (record.gone_number > 0):
        raise ValueError(f"VM {record.number} must have a history, and a gone_number if deleted")
    return CloudVM(
        id=record.id,
        number=record.number,
        label=record.label,
        cores=record.cores,
        ram=record.ram,
        zone=_shared(ZONES.values(), record.zone),
        template=record.template and _shared(TEMPLATES, record.template),
        settings=settings[record.settings],
        created=record.created,
        address=record.address,
        state=record.state,
        visible=record.visible,
        visible_at=_time(record.visible_at),
        has_address=record.has_address,
        deleting=record.deleting,
        groups=tuple(record.groups),
        history=list(itertools.starmap(Change, record.history)),
        queue=[operations[number] for number in record.queue],
        generation=record.generation,
        due=tuple(
            Due(at, tie, kind, detail.encode() if isinstance(detail, str) else detail)
            for at, tie, kind, detail in record.due
        ),
        gone_number=record.gone_number,
        list_number=record.list_number,
        listed=_bytes(record.listed),
        listed_until=_time(record.listed_until),
        views=record.views and ViewHistory(*map(_versions_of, record.views)),
    )


def operation_record(operation: CloudOperation) -> OperationRecord:
    """Return an operation's record."""
    return OperationRecord(
        kind=operation.kind,
        vm_id=operation.vm_id,
        accepted_at=operation.accepted_at,
        cores=operation.cores,
        ram=operation.ram,
        wait_for=operation.wait_for,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        outcome=operation.outcome,
        steps=operation.steps,
    )


def operation_of(number: int, record: OperationRecord) -> CloudOperation:
    """Return the operation of a record.

    Raises:
        ValueError: If a step has the wrong arguments.
    """
    for step in record.steps:
        if tuple(map(type, step.arguments)) != STEP_ARGUMENTS[step.action]:
            raise ValueError(f"step {step.action!r} has the arguments {step.arguments!r}")
    return CloudOperation(
        number=number,
        kind=record.kind,
        vm_id=record.vm_id,
        accepted_at=record.accepted_at,
        cores=record.cores,
        ram=record.ram,
        wait_for=record.wait_for,
        started_at=record.started_at,
        finished_at=record.finished_at,
        outcome=record.outcome,
        steps=record.steps,
    )


def _shared(known: Iterable[T], value: T) -> T:
    """Return the equal value of the catalogue, which all VMs share, if there is one."""
    return next((one for one in known if one == value), value)


def _number(time: float) -> float | None:
    # JSON has no infinity.
    return time if time > -math.inf else None


def _time(number: float | None) -> float:
    return -math.inf if number is None else number


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _versions_record(versions: Versions) -> _VersionsRecord:
    return [(_number(at), _text(content)) for at, content in versions]


def _versions_of(record: _VersionsRecord) -> Versions:
    return Versions.of([(_time(at), _bytes(content)) for at, content in record])
