"""Routes for VMs and groups. Pure."""

from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec import UNSET

from async_vmapi.emulator import catalogue
from async_vmapi.emulator.control.control import Control, Problem
from async_vmapi.emulator.control.models import (
    Created,
    GoneQuery,
    Group,
    Groups,
    History,
    HistoryEntry,
    HistoryEvent,
    Members,
    NewVMs,
    Nothing,
    SettingsFields,
    SettingsView,
    VMChanges,
    VMs,
    VMView,
)
from async_vmapi.emulator.control.route import Call, Route
from async_vmapi.emulator.control.settings import check, view
from async_vmapi.emulator.vm import CloudVM

__all__ = ["ROUTES"]

T = TypeVar("T")


def list_vms(call: Call[GoneQuery]) -> VMs:
    """List the VMs with their actual state."""
    control, cloud = call.control, call.control.cloud()
    gone = cloud.gone.values() if call.content.deleted else ()
    return VMs(vms=[control.vm_view(vm, cloud.now) for vm in (*cloud.vms.values(), *gone)])


def add_vms(call: Call[NewVMs]) -> Created:
    """Add VMs without a create, as if they had existed before."""
    control, new = call.control, call.content
    zones, templates = catalogue.ZONES, {each["id"]: each for each in catalogue.TEMPLATES}
    zone = next(zone for zone in zones.values() if zone["available"])
    if new.zone_id is not None:
        zone = _one_of("zone_id", new.zone_id, zones)
    template = catalogue.TEMPLATES[0]
    if new.template_id is not None:
        template = _one_of("template_id", new.template_id, templates)
    names = [new.name]
    if new.count is not UNSET:
        width = max(2, len(str(new.count)))
        names = [f"{new.name}-{number:0{width}}" for number in range(1, new.count + 1)]
    cloud = control.cloud()
    return Created(
        ids=[
            cloud.place(
                cloud.now,
                label=name,
                cores=new.cores,
                ram=new.ram,
                zone=zone,
                template=template,
                state=new.state,
            ).id
            for name in names
        ]
    )


def _one_of(field: str, value: str, known: Mapping[str, T]) -> T:
    """Return the entry of the catalogue with an id."""
    if value not in known:
        raise Problem(400, f"{field}={value!r} is not one of {', '.join(known)}")
    return known[value]


def get_vm(call: Call[Nothing]) -> VMView:
    """Show the actual state of a VM."""
    return _view(call.control, call.control.find(call.name, deleted=True))


def change_vm(call: Call[VMChanges]) -> VMView:
    """Change the state of a VM immediately, without an operation."""
    control = call.control
    vm = control.find(call.name)
    control.cloud().set_state(vm.id, call.content.state, control.now)
    return _view(control, vm)


def get_vm_settings(call: Call[Nothing]) -> SettingsView:
    """Show the settings of a VM."""
    return view(call.control.find(call.name, deleted=True).settings)


def change_vm_settings(call: Call[SettingsFields]) -> SettingsView:
    """Change settings of a VM; operations that have started keep their durations."""
    check(call.content)
    vm = call.control.find(call.name)
    call.control.cloud().adjust(vm.id, **call.content)
    call.control.changed("settings")
    return view(vm.settings)


def clear_vm_settings(call: Call[Nothing]) -> SettingsView:
    """Remove the settings that only this VM has."""
    vm = call.control.find(call.name)
    call.control.cloud().readjust(vm.id)
    call.control.changed("settings")
    return view(vm.settings)


def get_history(call: Call[Nothing]) -> History:
    """Show what happened to a VM: its states, and its operations."""
    control = call.control
    vm = control.find(call.name, deleted=True)
    states = [
        HistoryEntry(
            at=change.at,
            date=control.date(change.at),
            event="state",
            state=change.state,
            cores=change.cores,
            ram=change.ram,
        )
        for change in vm.history
    ]
    entries: list[HistoryEntry] = []
    for operation in control.cloud().operations:
        if operation.vm_id != vm.id:
            continue
        times: tuple[tuple[float | None, HistoryEvent], ...] = (
            (operation.accepted_at, "accepted"),
            # If it started at once, that is no event.
            (
                None if operation.started_at == operation.accepted_at else operation.started_at,
                "started",
            ),
            (operation.finished_at, "finished"),
        )
        for at, event in times:
            if at is not None:
                outcome = operation.outcome if event == "finished" else None
                entries.append(
                    HistoryEntry(
                        at=at,
                        date=control.date(at),
                        event=event,
                        operation=operation.kind,
                        outcome=outcome or UNSET,
                    )
                )
    entries = sorted((*entries, *states), key=lambda entry: (entry.at, _ORDER[entry.event]))
    return History(vm=_view(control, vm), history=entries)


_ORDER: Final[Mapping[HistoryEvent, int]] = {
    "accepted": 0,
    "state": 1,
    "finished": 2,
    "started": 3,
}
"""The order of what happens at the same time; an operation starts when the one before ends."""


def _view(control: Control, vm: CloudVM) -> VMView:
    return control.vm_view(vm, control.cloud().now)


# --- groups --------------------------------------------------------------------------------------


def get_groups(call: Call[Nothing]) -> Groups:
    """List the groups of the account, and their VMs."""
    cloud = call.control.cloud()
    members: dict[str, list[str]] = {group["id"]: [] for group in cloud.groups}
    for vm in cloud.vms.values():
        for group in vm.groups:
            members[group["id"]].append(vm.id)
    return Groups(
        groups=[
            Group(id=group["id"], name=group["name"], vms=members[group["id"]])
            for group in cloud.groups
        ]
    )


def set_group(call: Call[Members]) -> Groups:
    """Make a group, or replace the VMs of an existing one."""
    control = call.control
    ids = [control.find(name).id for name in call.content.vms]
    control.cloud().set_group(call.name, ids, control.now)
    control.changed("groups")
    return get_groups(Call(control, Nothing()))


def remove_group(call: Call[Nothing]) -> Groups:
    """Remove a group; its VMs stay."""
    control = call.control
    try:
        control.cloud().remove_group(call.name, control.now)
    except KeyError:
        raise Problem(404, f"there is no group {call.name!r}") from None
    control.changed("groups")
    return get_groups(Call(control, Nothing()))


_NO_VM: Final = {404: "There is no such VM.", 409: "Several VMs have this name."}

ROUTES: Final = (
    Route("GET", "/vms", list_vms),
    Route("POST", "/vms", add_vms),
    Route("GET", "/vms/{vm}", get_vm, _NO_VM),
    Route("PATCH", "/vms/{vm}", change_vm, _NO_VM),
    Route("GET", "/vms/{vm}/settings", get_vm_settings, _NO_VM),
    Route("PATCH", "/vms/{vm}/settings", change_vm_settings, _NO_VM),
    Route("DELETE", "/vms/{vm}/settings", clear_vm_settings, _NO_VM),
    Route("GET", "/vms/{vm}/history", get_history, _NO_VM),
    Route("GET", "/groups", get_groups),
    Route("PUT", "/groups/{group}", set_group, _NO_VM),
    Route("DELETE", "/groups/{group}", remove_group, {404: "There is no such group."}),
)
