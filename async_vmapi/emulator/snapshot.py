"""Save a whole cloud as plain data, and continue from it.

A restored cloud gives the same responses to the same requests at the same times as the one of which
the snapshot was taken, random numbers included.
"""

import operator
from datetime import datetime
from typing import Final

import attrs
import msgspec

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.faults import FaultPlan
from async_vmapi.emulator.randomness import set_random, text_of_random
from async_vmapi.emulator.records import (
    VERSION,
    CloudRecord,
    SettingsTable,
    Snapshot,
    changes_record,
    operation_of,
    operation_record,
    vm_of,
    vm_record,
)
from async_vmapi.emulator.settings import Settings
from async_vmapi.errors import InvalidArgument

__all__ = ["cloud_record", "load", "restore", "snapshot"]


class _Versioned(msgspec.Struct):
    version: int


_NUMBER: Final = operator.attrgetter("number")


def snapshot(api: CloudAPI) -> dict[str, object]:
    """Return a whole cloud as data for JSON: its VMs, operations, settings, faults and clock.

    It has no credentials, and not `CloudAPI.requests` and ``log``.

    Args:
        api: The API of the cloud.
    """
    settings, cloud = SettingsTable(), api.cloud
    saved = Snapshot(
        version=VERSION,
        cloud=cloud_record(api, settings),
        vms=[
            msgspec.structs.replace(
                vm_record(vm, settings, cloud.scripts.reads),
                history=list(map(attrs.astuple, vm.history)),
            )
            for vm in sorted((*cloud.vms.values(), *cloud.gone.values()), key=_NUMBER)
        ],
        operations=list(map(operation_record, cloud.operations)),
        lists=[(at, body.decode()) for at, body in api.recent_lists],
        settings=settings.records(),
    )
    return msgspec.json.decode(msgspec.json.encode(saved), type=dict[str, object])


def restore(api: CloudAPI, content: object) -> None:
    """Continue from a snapshot, in place of the cloud that an API has.

    The credentials stay. The cloud's clock is where it was at the time of the snapshot, so the next
    request must not be earlier.

    Args:
        api: The API.
        content: What `snapshot` returned, also after its way through JSON.

    Raises:
        InvalidArgument: If it is no snapshot, or one of another version; nothing is changed then.
    """
    try:
        version = msgspec.convert(content, _Versioned).version
    except msgspec.ValidationError:
        version = None
    if version != VERSION:
        raise InvalidArgument(
            f"content is not a snapshot of version {VERSION}; take a snapshot with this version of "
            "async_vmapi",
            argument="content",
        )
    try:
        load(api, msgspec.convert(content, Snapshot))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise InvalidArgument(
            f"content is not a snapshot, or was changed: {error}", argument="content"
        ) from None


def cloud_record(api: CloudAPI, settings: SettingsTable) -> CloudRecord:
    """Return the record of a cloud without its VMs and operations."""
    cloud = api.cloud
    timeline, reads = cloud.scripts.timeline, cloud.scripts.reads
    return CloudRecord(
        epoch=cloud.epoch.isoformat(),
        now=timeline.now,
        began=timeline.began,
        seed=cloud.seed,
        settings=settings.number(cloud.settings),
        adjusted=[
            (pattern, changes_record(cloud.settings, changes))
            for pattern, changes in cloud.adjusted
        ],
        groups=cloud.groups,
        ties=timeline.ties,
        published=reads.published,
        turn=reads.turn,
        random=text_of_random(cloud.scripts.random),
        reads_random=text_of_random(reads.random),
        faults=api.faults.record(),
        allowance=api.allowance,
    )


def load(api: CloudAPI, saved: Snapshot) -> None:
    """Continue from a checked snapshot; see `restore`.

    Raises:
        ValueError: If a value is invalid.
        LookupError: If a number is of no VM, operation or settings.
        TypeError: If settings have the wrong type.
    """
    record = saved.cloud
    settings = [Settings().changed(**fields) for fields in saved.settings]
    cloud = Cloud(
        settings[record.settings], seed=record.seed, epoch=datetime.fromisoformat(record.epoch)
    )
    scripts = cloud.scripts
    for pattern, changes in record.adjusted:
        cloud.settings.changed(**changes)
        cloud.adjusted.append((pattern, changes))
    cloud.groups = list(record.groups)
    set_random(scripts.random, record.random)
    set_random(scripts.reads.random, record.reads_random)
    scripts.reads.turn, scripts.reads.published = record.turn, record.published
    timeline = scripts.timeline
    timeline.now, timeline.began, timeline.ties = record.now, record.began, record.ties
    operations = [operation_of(n, operation) for n, operation in enumerate(saved.operations)]
    scripts.load([vm_of(vm, settings, operations) for vm in saved.vms], operations)
    faults = FaultPlan.from_record(record.faults)
    api.replace(cloud)
    api.faults = faults
    api.allowance = record.allowance
    api.recent_lists.extend((at, body.encode()) for at, body in saved.lists)
