"""Random moves on a cloud: calls of the API, changes of its settings, steps of its clock."""

import json
import random
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from async_vmapi.emulator import (
    Cloud,
    CloudAPI,
    Fault,
    FaultPlan,
    Request,
    Settings,
    deliver,
    snapshot,
)
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.signing import Credentials, sign

EPOCH = datetime(2026, 11, 23, 18, tzinfo=UTC)
VMS = "/v2/virtual-machines"
KEY, SECRET = "key", "secret"
CREATE = {
    "cpus": 1,
    "ram": 1024,
    "compute_zone_id": next(iter(ZONES)),
    "boot_type": "image",
    "os": TEMPLATES[0]["id"],
    "password": "a-password-of-a-guest",
    "user_data": "user-data-of-a-guest",
}
FAULTS = FaultPlan(
    [
        Fault(kind="stale_list", nth=tuple(range(2, 60, 2)), call="list"),
        Fault(kind="rate_limited", probability=0.05),
        Fault(kind="drop_after", call="create", probability=0.2, times=2),
    ],
    seed=3,
).to_dict()


def cloud_of(settings, *, faults=None, rate=None, seed=1):
    """Return a cloud, and a function that plays moves on it and returns what each one shows."""
    return CloudAPI(
        Cloud(settings, seed=seed, epoch=EPOCH),
        api_key=KEY,
        api_secret=SECRET,
        faults=FaultPlan.from_dict(faults or {}),
        max_requests_per_second=rate,
    )


class Player:
    """Plays moves on a cloud: calls of the API, changes of its settings, and steps of the clock.

    Attributes:
        ids: The ids that creates returned.
    """

    def __init__(self, api, now=-5.0, ids=()):
        self.api, self.now, self.ids = api, now, list(ids)

    def play(self, move):
        """Return what the move shows; ids are chosen by number."""
        kind, number, amount = move
        vm_id = self.ids[number % len(self.ids)] if self.ids else "none"
        if kind in CHANGES:
            self.api.cloud.advance(self.now)
        match kind:
            case "step":
                self.now += amount
                return None
            case "adjust":
                changes = ADJUSTMENTS[number % len(ADJUSTMENTS)]
                return self.api.cloud.adjust(["web-*", vm_id][number % 2], **changes)
            case "configure":
                return self.api.cloud.configure(**ADJUSTMENTS[number % len(ADJUSTMENTS)])
            case "readjust":
                return self.api.cloud.readjust([None, "web-*"][number % 2])
            case "state":
                if vm_id in self.api.cloud.vms:
                    self.api.cloud.set_state(vm_id, f"state-{number}", self.now)
                return None
            case "group":
                ids = [vm_id] if vm_id in self.api.cloud.vms else []
                return self.api.cloud.set_group(f"group-{number % 3}", ids, self.now)
            case "fail_next":
                return self.api.faults.fail_next("get", "not_found")
            case "create":
                create = {"create_vm": CREATE | {"name": f"web-{number}"}}
                shown = self.call("PUT", VMS, create)
                if shown is not None and shown.status == 200:
                    self.ids.append(json.loads(shown.body)["virtual_machine"]["id"])
                return shown
            case "list":
                return self.call("GET", VMS)
            case "get":
                return self.call("GET", f"{VMS}/{vm_id}")
            case "delete":
                return self.call("DELETE", f"{VMS}/{vm_id}")
            case _:
                body = {"name": "new", "cores": number % 9 + 1, "ram": 2048, "wait_for": number % 3}
                return self.call("POST", f"{VMS}/{vm_id}/{kind}", body)

    def call(self, method, path, body=None):
        content = b"" if body is None else json.dumps(body).encode()
        today = EPOCH + timedelta(seconds=self.now)
        headers = sign(Credentials(KEY, SECRET), method, "host", path, content, today)
        request = Request(method, path, headers | {"Host": "host"}, content)
        return deliver(self.api, request, now=self.now, today=today).response

    def play_all(self, moves):
        return [self.play(move) for move in moves]


ADJUSTMENTS = [
    {"staleness": (0, 9)},
    {"staleness": 0},
    {"list_lag": (0, 5)},
    {"list_lag": 0},
    {"acpi": "ignore", "names": 3},
    {"sparse": True, "network": "127.0.0.0/8"},
    {"replicas": (0, 4), "replica_choice": "in_turn"},
    {"fail_state": "error", "extra_states": ["a", "b"]},
    {"early_size": 2, "absence": 0.2, "quota": 8},
]
CALLS = [
    *("create", "list", "get", "delete", "resize", "shutdown", "reboot", "reset"),
    *("poweron", "poweroff", "rename", "console"),
]
KINDS = [*CALLS, "create", "get", "list", "get", "list", "step", "step", "step", "adjust"]
CHANGES = ["configure", "readjust", "state", "group"]
STEPS = [0.0, 0.25, 1.0, 3.0, 10.0, 45.0]
MOVES = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, *CHANGES, "fail_next"]), st.integers(0, 20), st.sampled_from(STEPS)
    ),
    max_size=30,
)
SETTINGS = [
    Settings(),
    Settings.hostile(),
    Settings(list_lag=(0, 8), acpi=30, extra_states=("building",), early_size=(0, 5)),
    Settings.hostile(replicas=(0, 5), replica_choice="in_turn", list_lag=(0, 4), absence=0.1),
]


def moves_of(seed, length=120):
    """Return random moves that have something of everything."""
    source = random.Random(seed)
    return [
        (source.choice([*KINDS, *KINDS, *CHANGES]), source.randrange(20), source.choice(STEPS))
        for _ in range(length)
    ]


def through_json(api):
    return json.loads(json.dumps(snapshot(api)))
