"""Routes for the cloud as a whole: settings, quota, faults, the clock, and starting again. Pure."""

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET

from async_vmapi.emulator.api import CALLS
from async_vmapi.emulator.control.control import Control, Problem
from async_vmapi.emulator.control.models import (
    Adjustment,
    Adjustments,
    ClockView,
    Faults,
    Jump,
    NextFault,
    Nothing,
    PatternQuery,
    Plan,
    Quota,
    QuotaChanges,
    RequestQuery,
    Requests,
    Seed,
    SettingsFields,
    SettingsView,
    Snapshot,
    Speed,
    Status,
    Step,
)
from async_vmapi.emulator.control.route import Call, Route
from async_vmapi.emulator.control.settings import check, view
from async_vmapi.emulator.faults import Fault, FaultPlan
from async_vmapi.emulator.snapshot import snapshot

__all__ = ["ROUTES"]


def status(call: Call[Nothing]) -> Status:
    """Show the cloud at a glance."""
    control = call.control
    cloud, faults = control.cloud(), control.api.faults
    return Status(
        clock=control.clock_view(),
        vms=dict(Counter(vm.state for vm in cloud.vms.values())),
        deleted=len(cloud.gone),
        requests=dict(control.api.requests),
        faults=len(faults.faults) + len(faults.unused),
    )


def reset(call: Call[Seed]) -> Status:
    """Start again with an empty cloud, and with the settings and faults of the start.

    The date continues; the clock runs at its first speed.
    """
    call.control.reset(call.content.seed)
    return status(Call(call.control, Nothing()))


def seed(call: Call[Seed]) -> Status:
    """Restart the cloud's random sources from a seed."""
    call.control.cloud().reseed(call.content.seed)
    return status(Call(call.control, Nothing()))


def take_snapshot(call: Call[Nothing]) -> Snapshot:
    """Return all of the cloud as data, for `restore`."""
    # With what is due by now.
    call.control.cloud()
    return snapshot(call.control.api)


def restore(call: Call[Snapshot]) -> Status:
    """Continue from a snapshot; the clock continues where it was then."""
    call.control.restore(call.content)
    return status(Call(call.control, Nothing()))


# --- settings ------------------------------------------------------------------------------------


def get_settings(call: Call[Nothing]) -> SettingsView:
    """Show the settings of the cloud."""
    return view(call.control.cloud().settings)


def change_settings(call: Call[SettingsFields]) -> SettingsView:
    """Change settings of the cloud, for all VMs that were not adjusted."""
    check(call.content)
    cloud = call.control.cloud()
    cloud.configure(**call.content)
    call.control.changed("settings")
    return view(cloud.settings)


def get_adjustments(call: Call[PatternQuery]) -> Adjustments:
    """List the adjustments: settings of VMs by id or name."""
    wanted = call.content.pattern
    return Adjustments(
        adjustments=[
            Adjustment(pattern=pattern, settings=dict(changes))
            for pattern, changes in call.control.cloud().adjusted
            if wanted in {None, pattern}
        ]
    )


def adjust(call: Call[Adjustment]) -> Adjustments:
    """Change settings of the VMs that match a pattern, existing and future ones."""
    content = call.content
    check(content.settings)
    call.control.cloud().adjust(content.pattern, **content.settings)
    call.control.changed("settings")
    return get_adjustments(Call(call.control, PatternQuery()))


def readjust(call: Call[PatternQuery]) -> Adjustments:
    """Remove the adjustments of a pattern, or all of them."""
    call.control.cloud().readjust(call.content.pattern)
    call.control.changed("settings")
    return get_adjustments(Call(call.control, PatternQuery()))


def get_quota(call: Call[Nothing]) -> Quota:
    """Show the limits of the account."""
    cloud = call.control.cloud()
    return Quota(
        vms=cloud.settings.quota,
        used=len(cloud.vms),
        max_requests_per_second=call.control.api.max_requests_per_second,
    )


def change_quota(call: Call[QuotaChanges]) -> Quota:
    """Change the limits of the account."""
    content = call.content
    if content.vms is not UNSET:
        call.control.cloud().configure(quota=content.vms)
    if content.max_requests_per_second is not UNSET:
        call.control.api.max_requests_per_second = content.max_requests_per_second
    call.control.changed("settings")
    return get_quota(Call(call.control, Nothing()))


# --- faults --------------------------------------------------------------------------------------


def get_faults(call: Call[Nothing]) -> Faults:
    """Show the faults."""
    plan = call.control.api.faults
    return Faults(
        plan=msgspec.convert(plan.to_dict(), Plan),
        next=list(plan.unused),
        injected=dict(plan.injected),
    )


def set_faults(call: Call[Plan]) -> Faults:
    """Replace all faults by a plan."""
    for fault in call.content.fault:
        _check_call(fault.call)
    call.control.api.faults = FaultPlan(call.content.fault, seed=call.content.seed)
    return _faults_changed(call.control)


def add_fault(call: Call[Fault]) -> Faults:
    """Add a fault to the plan."""
    _check_call(call.content.call)
    call.control.api.faults.add(call.content)
    return _faults_changed(call.control)


def fail_next(call: Call[NextFault]) -> Faults:
    """Inject a fault in the next request of a call; several of them queue up."""
    _check_call(call.content.call)
    fields = msgspec.to_builtins(call.content)
    try:
        call.control.api.faults.fail_next(**fields)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    return _faults_changed(call.control)


def clear_faults(call: Call[Nothing]) -> Faults:
    """Remove all faults; the counts stay."""
    call.control.api.faults.clear()
    return _faults_changed(call.control)


def _faults_changed(control: Control) -> Faults:
    control.changed("faults")
    return get_faults(Call(control, Nothing()))


def _check_call(name: str | None) -> None:
    if name is not None and name not in CALLS:
        raise Problem(400, f"call={name!r} is not one of {', '.join(sorted(CALLS))}")


# --- the clock -----------------------------------------------------------------------------------


def get_clock(call: Call[Nothing]) -> ClockView:
    """Show the clock."""
    return call.control.clock_view()


def pause(call: Call[Nothing]) -> ClockView:
    """Pause the clock: operations make no progress."""
    return call.control.set_clock(paused=True)


def resume(call: Call[Nothing]) -> ClockView:
    """Let the clock run again."""
    return call.control.set_clock(paused=False)


def step(call: Call[Step]) -> ClockView:
    """Move the clock forward by some seconds."""
    return call.control.set_clock(to=call.control.now + call.content.seconds)


def jump(call: Call[Jump]) -> ClockView:
    """Move the clock forward to a time, to a date, or to when the next thing happens."""
    to, cloud = call.content.to, call.control.cloud()
    if to == "next":
        if cloud.next is None:
            raise Problem(409, "nothing is due, so there is no next thing to jump to")
        return call.control.set_clock(to=cloud.next)
    if isinstance(to, str):
        try:
            date = datetime.fromisoformat(to)
        except ValueError:
            words = 'a number of seconds, a date such as "2026-11-23T18:00:00Z", or "next"'
            raise Problem(400, f"to={to!r} is not {words}") from None
        to = cloud.time(date if date.tzinfo is not None else date.replace(tzinfo=UTC))
    if to < cloud.now:
        raise Problem(400, f"to={call.content.to!r} is before now; the clock cannot go back")
    return call.control.set_clock(to=to)


def set_speed(call: Call[Speed]) -> ClockView:
    """Change the speed of the clock."""
    return call.control.set_clock(speed=call.content.speed)


# --- requests ------------------------------------------------------------------------------------


def get_requests(call: Call[RequestQuery]) -> Requests:
    """List the latest requests to the cloud's API."""
    api, vm = call.control.api, call.content.vm
    latest = (request.entry(api) for request in reversed(call.control.requests))
    found = (entry for entry in latest if vm in {None, entry.vm})
    return Requests(requests=[*itertools.islice(found, call.content.limit)][::-1])


ROUTES: Final = (
    Route("GET", "", status),
    Route("POST", "/reset", reset),
    Route("POST", "/seed", seed),
    Route("POST", "/snapshot", take_snapshot),
    Route("POST", "/restore", restore),
    Route("GET", "/settings", get_settings),
    Route("PATCH", "/settings", change_settings),
    Route("GET", "/adjustments", get_adjustments),
    Route("POST", "/adjustments", adjust),
    Route("DELETE", "/adjustments", readjust),
    Route("GET", "/quota", get_quota),
    Route("PATCH", "/quota", change_quota),
    Route("GET", "/faults", get_faults),
    Route("PUT", "/faults", set_faults),
    Route("POST", "/faults", add_fault),
    Route("DELETE", "/faults", clear_faults),
    Route("POST", "/faults/next", fail_next),
    Route("GET", "/clock", get_clock),
    Route("POST", "/clock/pause", pause),
    Route("POST", "/clock/resume", resume),
    Route("POST", "/clock/step", step),
    Route("POST", "/clock/jump", jump, {409: "Nothing is due."}),
    Route("POST", "/clock/speed", set_speed),
    Route("GET", "/requests", get_requests),
)
