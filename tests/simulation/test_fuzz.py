"""Arbitrary responses to every call: bytes, JSON of any shape, slightly changed real ones."""

import asyncio
import gc
import json
import logging
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_vmapi import Client, CreateRequest, ImageBoot, Response, Task, VMAPIError
from tests.virtual_time import JumpingLoop

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = pytest.mark.no_cover

VM = {
    "id": "17",
    "label": "web",
    "cores": 1,
    "ram": 512,
    "state": "online",
    "system": {"id": "1", "name": "x"},
    "cost_per_hour": 0.02,
    "transfer_used": "0.00",
    "owner": {"id": "1", "name": "x"},
    "public_interface": {"primary_ip_ipv4address": "", "ipv4_addresses": []},
    "storage_volumes": [{"id": "1", "size": 40, "system_disk": True}],
    "zone": {"id": "1", "name": "x"},
}
REAL = [
    {"success": True},
    {"success": True, "virtual_machine": {"id": "17"}},
    {"success": True, "virtual_machine": [VM]},
    {"success": True, "virtual_machine": VM},
    {"success": True, "virtual_machines": [VM, VM | {"id": 18}]},
    {"console": {"host": "192.0.2.1", "port": 5900, "password": "x"}},
    {"success": True, "regions": [{"name": "x", "zones": [{"id": "1", "label": "x"}]}]},
    {"success": True, "templates": [{"id": "1", "label": "x", "supports": ["password"]}]},
    {"success": True, "account": {"sshkeys": [{"id": 1, "name": "x", "fingerprint": "x"}]}},
    {"success": False, "error": {"message": ["no"]}},
]
WORDS = sorted({"success", "error", "id", *VM, *(key for real in REAL for key in real)})

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["17", "online", "0.00", "\x00", "../x"])
)
shapes = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def changed(draw):
    """Return a real response with one place replaced, removed or doubled, or with changed bytes."""
    content = json.loads(json.dumps(draw(st.sampled_from(REAL))))
    place = content
    while True:
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and draw(st.booleans()):
            place = place[key]
            continue
        if draw(st.booleans()):
            place[key] = draw(shapes)
        else:
            del place[key]
        break
    body = json.dumps(content).encode()
    cut = draw(st.none() | st.integers(0, len(body)))
    return body if cut is None else body[:cut] + draw(st.binary(max_size=3)) + body[cut + 1 :]


bodies = (
    changed()
    | shapes.map(lambda shape: json.dumps(shape).encode())
    | st.binary(max_size=60)
    | st.sampled_from([b"", b"[" * 20_000, b'{"success":' * 2_000, b"9" * 5_000])
)
statuses = st.sampled_from([200, 200, 200, 201, 204, 302, 400, 401, 404, 409, 429, 500, 503, 600])
headers = st.sampled_from(
    [{}, {"Retry-After": "1"}, {"Retry-After": "soon"}, {"Retry-After": "Mon, 99"}]
)
REQUEST = CreateRequest(name="web", cpus=1, ram=512, zone_id="1", boot=ImageBoot(os="1"))
CALLS = {
    "create": lambda c: c.vms.create(REQUEST),
    "create with a unique name": lambda c: c.vms.create(REQUEST, unique_name=True),
    "list": lambda c: c.vms.list(),
    "get": lambda c: c.vms.get("17"),
    "resize": lambda c: c.vms.resize("17", cores=2, ram=512),
    "shutdown": lambda c: c.vms.shutdown("17"),
    "reboot": lambda c: c.vms.reboot("17"),
    "reset": lambda c: c.vms.reset("17"),
    "console": lambda c: c.vms.console("17"),
    "rename": lambda c: c.vms.rename("17", "web"),
    "delete": lambda c: c.vms.delete("17"),
    "power_on": lambda c: c.vms.power_on("17"),
    "power_off": lambda c: c.vms.power_off("17"),
    "regions": lambda c: c.regions.list(),
    "templates": lambda c: c.templates.list(),
    "account": lambda c: c.account.ssh_keys(),
}
EXAMPLES = {0: 1200, 2: 600}


class OddTransport:
    """A transport that returns the same response to every request."""

    def __init__(self, response):
        self.response = response
        self.sent = 0

    async def send(self, *_):
        self.sent += 1
        await asyncio.sleep(0.01)
        return self.response

    async def close(self):
        pass


async def ask_everything(response, retries):
    transport = OddTransport(response)
    client = Client(
        "https://odd.invalid",
        api_key="key",
        api_secret="secret",
        transport=transport,
        seed=1,
        max_retries=retries,
        reconcile_timeout=3,
    )
    given = 0
    for name, call in CALLS.items():
        transport.sent = 0
        try:
            # In the cloud's time; no call may take longer than its limit.
            async with asyncio.timeout(400):
                result = await call(client)
                if isinstance(result, Task):
                    await result.wait(timeout=5)
        except TimeoutError as error:
            hangs = not isinstance(error, VMAPIError)
            if hangs:
                raise AssertionError(f"{name} hangs") from error
        except VMAPIError as error:
            str(error), repr(error)
        given += transport.sent
    await client.close()
    return given


@pytest.mark.parametrize("retries", [0, 2])
def test_only_documented_errors_are_raised(retries, stride):
    """Fifty thousand responses in a campaign: no other exception, no hang, no growing memory."""
    given_in_all = 0

    with asyncio.Runner(debug=False, loop_factory=JumpingLoop) as runner:

        @settings(
            max_examples=EXAMPLES[retries] // stride,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(statuses, headers, bodies)
        def ask(status, headers, body):
            nonlocal given_in_all
            response = Response(status, headers, body)
            given_in_all += runner.run(ask_everything(response, retries))

        ask()
        # pytest's log capture would grow.
        logging.disable()
        gc.collect()
        before = sys.getallocatedblocks()
        for body in (b"{}", b"[" * 100_000, json.dumps(REAL[4]).encode()) * 20:
            runner.run(ask_everything(Response(200, {}, body), retries))
        gc.collect()
        grown = sys.getallocatedblocks() - before
        logging.disable(logging.NOTSET)
    print(f"{given_in_all} responses")
    assert given_in_all >= 25_000 // stride
    assert grown < 5_000
