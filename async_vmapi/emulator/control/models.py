"""What requests to the control API contain, and what its responses do.

Their JSON schemas are the components of the OpenAPI document.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from async_vmapi.emulator.faults import Fault, FaultKind
from async_vmapi.emulator.vm import Kind, Outcome

__all__ = [
    "Adjustment",
    "Adjustments",
    "Changed",
    "ClockView",
    "Created",
    "Error",
    "Faults",
    "GoneQuery",
    "Group",
    "Groups",
    "History",
    "HistoryEntry",
    "HistoryEvent",
    "Jump",
    "Lost",
    "Members",
    "NewVMs",
    "NextFault",
    "Nothing",
    "OperationView",
    "PatternQuery",
    "Plan",
    "Quota",
    "QuotaChanges",
    "RequestEntry",
    "RequestQuery",
    "Requests",
    "Seed",
    "SettingsFields",
    "SettingsView",
    "Snapshot",
    "Speed",
    "Status",
    "Step",
    "VMChanges",
    "VMView",
    "VMs",
    "What",
]

_At = Annotated[float, Meta(description="Seconds on the cloud's clock.")]
_Date = Annotated[
    str,
    Meta(
        description="Date on the cloud's clock, in UTC.", extra_json_schema={"format": "date-time"}
    ),
]

SettingsFields = Annotated[
    dict[str, Any],
    Meta(extra_json_schema={"$ref": "#/components/schemas/SettingsFields"}),
]
"""Some fields of `Settings`, checked by them."""

SettingsView = Annotated[
    dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/Settings"})
]
"""All fields of `Settings`."""

Snapshot = Annotated[
    dict[str, Any], Meta(extra_json_schema={"$ref": "#/components/schemas/Snapshot"})
]
"""A whole cloud; its content may differ between versions."""


class _Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The content of a request."""


class _View(msgspec.Struct, kw_only=True):
    """The content of a response."""


# --- the cloud -----------------------------------------------------------------------------------


class Nothing(_Body):
    """No fields."""


class Error(_View):
    """Why a request was refused."""

    error: str


class Seed(_Body):
    """A random seed."""

    seed: Annotated[
        int | None, Meta(description="Makes ids and durations reproducible; null for random ones.")
    ] = None


class ClockView(_View):
    """The cloud's clock."""

    now: _At
    date: _Date
    paused: Annotated[bool, Meta(description="Whether it stands still.")]
    speed: Annotated[
        float, Meta(description="Seconds that pass on it in one second, unless it is paused.")
    ]
    next: Annotated[
        float | None,
        Meta(description="When the next thing happens in the cloud; null if nothing is due."),
    ]


class Step(_Body):
    """How far to move the clock."""

    seconds: Annotated[float, Meta(ge=0, description="How far; all that is due happens, in order.")]


class Jump(_Body):
    """Where to move the clock."""

    to: Annotated[
        float | str,
        Meta(
            description="Seconds on the cloud's clock, a date (RFC 3339), or `next`: to when the "
            "next thing happens. All that is due until then happens, in order."
        ),
    ]


class Speed(_Body):
    """The clock's speed."""

    speed: Annotated[
        float,
        Meta(gt=0, le=1_000_000, description="Seconds that pass on the clock in one second."),
    ]


class Status(_View):
    """The cloud at a glance."""

    clock: ClockView
    vms: Annotated[dict[str, int], Meta(description="Number of existing VMs by state.")]
    deleted: Annotated[int, Meta(description="Number of deleted VMs.")]
    requests: Annotated[dict[str, int], Meta(description="Number of requests by call.")]
    faults: Annotated[int, Meta(description="Number of faults that are set.")]


class Quota(_View):
    """The limits of the account."""

    vms: Annotated[int | None, Meta(description="Maximum number of VMs; null for no limit.")]
    used: Annotated[int, Meta(description="Number of existing VMs.")]
    max_requests_per_second: Annotated[
        float | None,
        Meta(description="Further requests in a second of the clock get a 429; null: no limit."),
    ]


class QuotaChanges(_Body):
    """The limits to change."""

    vms: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    max_requests_per_second: Annotated[float, Meta(gt=0)] | UnsetType | None = UNSET


class Adjustment(_Body):
    """Settings of the VMs that match a pattern, existing and future ones."""

    pattern: Annotated[str, Meta(min_length=1, description="A VM id, or a name with `*` and `?`.")]
    settings: SettingsFields


class Adjustments(_View):
    """The adjustments; a later one goes before an earlier one."""

    adjustments: list[Adjustment]


class PatternQuery(_Body):
    """Which adjustment."""

    pattern: Annotated[str | None, Meta(description="Only those of this pattern.")] = None


# --- VMs -----------------------------------------------------------------------------------------


class OperationView(_View):
    """An operation that is queued or running."""

    kind: Kind
    accepted_at: _At
    started_at: Annotated[float | None, Meta(description="Null while it is queued.")]


class VMView(_View):
    """The actual state of a VM, which reads of the API may not show."""

    id: str
    label: Annotated[str, Meta(description="Its name.")]
    state: Annotated[str | None, Meta(description="Null if it is deleted.")]
    cores: int
    ram: Annotated[int, Meta(description="Memory in MB.")]
    zone: str
    template: Annotated[str | None, Meta(description="Null if it was booted from a CD.")]
    created: Annotated[str, Meta(description="Date on the cloud's clock.")]
    address: Annotated[str | None, Meta(description="Null until it has one.")]
    visible: Annotated[bool, Meta(description="Whether reads can show it.")]
    groups: Annotated[list[str], Meta(description="Names of its groups.")]
    operations: Annotated[
        list[OperationView], Meta(description="The running one, then the queued ones.")
    ]
    at: _At


class VMs(_View):
    """VMs, in the order of their creation."""

    vms: list[VMView]


class GoneQuery(_Body):
    """Which VMs."""

    deleted: Annotated[bool, Meta(description="Whether to include deleted VMs.")] = False


class NewVMs(_Body):
    """VMs to add without a create, as if they had existed before."""

    name: Annotated[
        str, Meta(min_length=1, description="Name; if `count` is given, a number is added to it.")
    ]
    count: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    state: Annotated[str, Meta(min_length=1, description="Any state.")] = "online"
    cores: Annotated[int, Meta(ge=1)] = 1
    ram: Annotated[int, Meta(ge=1, description="Memory in MB.")] = 1024
    zone_id: Annotated[str | None, Meta(description="By default an available zone.")] = None
    template_id: Annotated[str | None, Meta(description="By default the first template.")] = None


class Created(_View):
    """The ids of new VMs, in the order of their names."""

    ids: list[str]


class VMChanges(_Body):
    """What to change immediately, without an operation."""

    state: Annotated[str, Meta(min_length=1, description="Any state.")]


HistoryEvent: TypeAlias = Literal["state", "accepted", "started", "finished"]


class HistoryEntry(_View, omit_defaults=True):
    """What happened to a VM: a change of its state or size, or a step of an operation."""

    at: _At
    date: _Date
    event: HistoryEvent
    state: Annotated[str | None, Meta(description="Null if it is deleted.")] | UnsetType = UNSET
    cores: int | UnsetType = UNSET
    ram: int | UnsetType = UNSET
    operation: Kind | UnsetType = UNSET
    outcome: Outcome | UnsetType = UNSET


class History(_View):
    """What happened to a VM, oldest first."""

    vm: VMView
    history: list[HistoryEntry]


class Group(_View):
    """A group of the account, and its VMs."""

    id: str
    name: str
    vms: Annotated[list[str], Meta(description="Ids of its VMs.")]


class Groups(_View):
    """The groups of the account."""

    groups: list[Group]


class Members(_Body):
    """The VMs of a group."""

    vms: Annotated[list[str], Meta(description="Ids or names; others leave the group.")] = []


# --- faults --------------------------------------------------------------------------------------


class Plan(_Body, omit_defaults=True):
    """Faults, as in the TOML file of `--faults`."""

    fault: list[Fault] = []
    seed: Annotated[int | None, Meta(description="Makes them reproducible.")] = None


class Faults(_View):
    """The faults that are set, and how many were injected."""

    plan: Plan
    next: Annotated[
        list[Fault], Meta(description="Faults for the next request of a call, not injected yet.")
    ]
    injected: Annotated[dict[str, int], Meta(description="Number of faults injected, by kind.")]


class NextFault(_Body, omit_defaults=True):
    """A fault for the next request of a call."""

    call: Annotated[str, Meta(description="Name of the call, such as `create` or `list`.")]
    kind: FaultKind = "drop_after"
    path: str | None = None
    seconds: float | None = None
    retry_after: int | None = None
    status: Literal[500, 502, 503, 504] = 500
    after: bool = False
    size: int = 128 * 1024 * 1024


# --- requests and events -------------------------------------------------------------------------


class RequestEntry(_View):
    """A request to the cloud's API."""

    number: Annotated[int, Meta(description="Counts from 1, in the order of the responses.")]
    at: _At
    date: Annotated[
        str, Meta(description="The real date.", extra_json_schema={"format": "date-time"})
    ]
    method: str
    path: str
    call: Annotated[str, Meta(description="Name of the call; `refused` for unknown ones.")]
    vm: Annotated[str | None, Meta(description="The VM id in the path.")]
    status: Annotated[int | None, Meta(description="Null if the connection was dropped.")]
    duration: Annotated[float, Meta(description="Seconds until the response was ready or sent.")]
    fault: Annotated[FaultKind | None, Meta(description="The fault that was injected.")]
    delay: Annotated[float, Meta(description="Seconds that the client waited due to the fault.")]
    client: Annotated[str, Meta(description="Address and port of the client.")]
    agent: Annotated[str, Meta(description="Its User-Agent header.")]


class Requests(_View):
    """The latest requests, oldest first."""

    requests: list[RequestEntry]


class RequestQuery(_Body):
    """Which requests."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of them.")] = 100
    vm: Annotated[str | None, Meta(description="Only those of this VM id.")] = None


What: TypeAlias = Literal["reset", "settings", "faults", "groups"]


class Changed(_View):
    """What has changed, for listeners to read it again."""

    what: What


class Lost(_View):
    """Events that a listener has missed."""

    missed: Annotated[int | None, Meta(description="How many; null if that is unknown.")]
