"""Requests as other clients send them (WIRE §1 and §2), over raw sockets, to a default emulator.

They are written from that description, and signed with the standard library alone. Each is also
sent with a forged signature and with an old date, which must be refused.
"""

import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from async_vmapi.emulator import Emulator, Settings
from tests.other_client import NEW, POZNAN, VMS, Sent, exchange, to_json

AT_ONCE = Settings(create=0, not_found=0, address=0, stale=0)
OLD = 16 * 60


async def call(emulator, sent):
    """Send a request, after forged and old copies of it, which must be refused."""
    before = [(vm.state, vm.label, vm.cores) for vm in emulator.cloud.vms.values()]
    operations = list(emulator.cloud.operations)
    for refused in (
        sent.encode(emulator, secret="another-secret"),
        replace(sent, body=sent.body + b" ").encode(emulator)[:-1] + b"\n",
        sent.encode(emulator).replace(sent.path.encode(), f"{sent.path}?a".encode(), 1),
        sent.encode(emulator, old=OLD),
        sent.encode(emulator, old=-OLD),
    ):
        status, content = await exchange(emulator, refused)
        assert (status, content["success"]) == (401, False)
    assert [(vm.state, vm.label, vm.cores) for vm in emulator.cloud.vms.values()] == before
    assert emulator.cloud.operations == operations
    return await exchange(emulator, sent.encode(emulator))


@pytest.fixture
async def default():
    """An emulator with the default settings, but operations that start and end at once."""
    async with Emulator(settings=AT_ONCE, seed=1) as emulator:
        yield emulator


async def created(emulator, **changes):
    """Create a VM; return its path."""
    fields = {**NEW, **changes}
    body = to_json({"create_vm": {name: x for name, x in fields.items() if x is not Ellipsis}})
    status, content = await call(emulator, Sent("PUT", VMS, body))
    assert (status, content["success"]) == (200, True), content
    return f"{VMS}/{content['virtual_machine']['id']}"


class TestSigning:
    @pytest.mark.parametrize(
        "zone",
        [
            *(("GMT", 0), ("UTC", 0), ("Z", 0), ("EST", -5), ("PDT", -7), ("+0530", 5.5)),
            *(("CET", 1), ("CEST", 2), ("EET", 2), ("EEST", 3), ("WET", 0), ("WEST", 1)),
            *(("BST", 1), ("MET", 1), ("MEST", 2), ("MSK", 3), ("+03", 3), ("-03", -3)),
        ],
    )
    async def test_a_date_in_local_time(self, default, zone):
        """With the name of its zone, or an offset: the moment counts."""
        assert (await call(default, Sent("GET", VMS, zone=zone)))[0] == 200

    @pytest.mark.parametrize("zone", [("CET", 0), ("CEST", 0), ("-03", 3), ("GMT", 1)])
    async def test_a_date_that_is_of_another_zone(self, default, zone):
        """An hour or more too far is refused, well signed as it is."""
        status, content = await exchange(default, Sent("GET", VMS, zone=zone).encode(default))
        assert (status, content["error"]) == (401, "X-Date is too far from now")

    @pytest.mark.parametrize("name", ["XYZ", "Warsaw", "x" * 500])
    async def test_an_unknown_zone(self, default, name):
        """It is named, shortened, with what to use."""
        sent = Sent("GET", VMS, zone=(name, 0)).encode(default)
        status, content = await exchange(default, sent)
        assert status == 401
        assert content["error"] == f"X-Date has the unknown time zone {name[:20]}; use GMT"

    @pytest.mark.parametrize("name", ["+24", "-99"])
    async def test_an_impossible_offset(self, default, name):
        """It is no date."""
        status, content = await exchange(default, Sent("GET", VMS, zone=(name, 0)).encode(default))
        assert (status, content["error"]) == (401, "X-Date is not an RFC 1123 date")

    @pytest.mark.parametrize(
        ("tz", "zone"), [("XYZ-9", ("XYZ", 9)), ("CST-8", ("CST", 8)), ("ABC3DEF", ("DEF", -2))]
    )
    async def test_zones_of_this_computer(self, default, monkeypatch, tz, zone):
        """Its own names go first, that of daylight saving time included."""
        monkeypatch.setenv("TZ", tz)
        time.tzset()
        try:
            assert (await call(default, Sent("GET", VMS, zone=zone)))[0] == 200
        finally:
            monkeypatch.undo()
            time.tzset()

    async def test_a_host_without_its_port(self, default):
        """Its signature fits."""
        assert (await call(default, Sent("GET", VMS, signs_port=False)))[0] == 200

    @pytest.mark.parametrize("signs_port", [False, True])
    async def test_another_host(self, default, signs_port):
        """Neither with its port nor without it does a signature for another host fit."""
        sent = Sent("GET", VMS, signs_port=signs_port).encode(default)
        host = urlsplit(default.url).netloc.encode()
        moved = sent.replace(b"Host: " + host, b"Host: " + host.replace(b"127.0.0.1", b"127.0.0.2"))
        assert (await exchange(default, moved))[0] == 401

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            'Application/JSON ; charset="utf-8"',
        ],
    )
    async def test_a_charset(self, default, content_type):
        """UTF-8 is what JSON is in."""
        assert (await call(default, Sent("GET", VMS, content_type=content_type)))[0] == 200

    @pytest.mark.parametrize(
        "content_type",
        ["application/json; charset=latin-1", "text/plain; charset=utf-8", "application/jsonx"],
    )
    async def test_other_content_types(self, default, content_type):
        """They are refused."""
        sent = Sent("GET", VMS, content_type=content_type).encode(default)
        assert (await exchange(default, sent))[0] == 415


class TestBodies:
    @pytest.mark.parametrize(
        "changes",
        [
            {"os": 2268},
            {"key_id": 11},
            {"key_id": "11"},
            {"compute_zone_id": ..., "zone_id": POZNAN},
            {"compute_zone_id": "", "zone_id": POZNAN},
            {"zone_id": "nowhere"},
            {"cdrom": "", "password": "", "key_id": "", "user_data": ""},
            {"cdrom": None, "password": None, "key_id": None, "user_data": None},
            {"key_id": 0, "os": 2599},
            {"boot_type": "cdrom", "cdrom": "a.iso", "os": "", "password": "", "key_id": 0},
        ],
    )
    async def test_creates(self, default, changes):
        """Integers as ids, the older name of the zone, and documented fields that are empty."""
        await created(default, **changes)
        (vm,) = default.cloud.vms.values()
        assert (vm.label, vm.cores, vm.ram, vm.zone["id"]) == ("web-01", 1, 512, POZNAN)
        assert (vm.template and vm.template["id"]) == (str(changes.get("os", "2268")) or None)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"os": ""}, "os"),
            ({"os": 0}, "os"),
            ({"os": 1}, "template"),
            ({"os": True}, "os"),
            ({"key_id": 13}, "SSH key"),
            ({"key_id": False}, "key_id"),
            ({"compute_zone_id": "", "zone_id": ""}, "zone"),
            ({"zone_id": POZNAN, "compute_zone_id": "nowhere"}, "zone"),
            ({"name": ""}, "name"),
        ],
    )
    async def test_creates_that_lack_something(self, default, changes, words):
        """An empty field is an absent one, and a documented field goes before an older one."""
        body = to_json({"create_vm": {**NEW, **changes}})
        status, content = await call(default, Sent("PUT", VMS, body))
        assert status == 400
        assert words in content["error"]
        assert default.cloud.vms == {}

    @pytest.mark.parametrize("wait_for", [{}, {"wait_for": ""}, {"wait_for": None}])
    async def test_a_resize_without_wait_for(self, default, wait_for):
        """It waits for the guest as long as a shutdown does."""
        path = await created(default)
        body = to_json({"cores": 2, "ram": 1024, **wait_for})
        assert (await call(default, Sent("POST", f"{path}/resize", body)))[0] == 200
        assert default.cloud.operations[-1].wait_for == 4

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"wait_for":null}', b'{"wait_for":""}'])
    async def test_a_shutdown_with_an_empty_body(self, default, body):
        """It waits 4 min."""
        path = await created(default)
        assert (await call(default, Sent("POST", f"{path}/shutdown", body)))[0] == 200
        assert default.cloud.operations[-1].wait_for == 4

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"deleteResources":""}'])
    async def test_a_delete_without_a_body(self, default, body):
        """Or with an empty one."""
        path = await created(default)
        assert (await call(default, Sent("DELETE", path, body)))[0] == 200
        assert default.cloud.operations[-1].kind == "delete"

    @pytest.mark.parametrize("verb", ["reboot", "reset", "poweron", "poweroff", "console"])
    async def test_operations_with_a_body(self, default, verb):
        """It is signed and ignored."""
        path = await created(default)
        body = to_json({"wait_for": 4})
        assert (await call(default, Sent("POST", f"{path}/{verb}", body)))[0] == 200

    async def test_a_get_with_a_body(self, default):
        """It is signed and ignored."""
        path = await created(default)
        for target in path, VMS, "/v2/regions":
            assert (await call(default, Sent("GET", target, b'{"a":"\xc3\xbc"}')))[0] == 200

    async def test_a_body_of_length_zero(self, default):
        """Some clients announce it."""
        path = await created(default)
        sent = Sent("POST", f"{path}/shutdown", headers={"Content-Length": "0"})
        assert (await exchange(default, sent.encode(default)))[0] == 200


STRICT = Settings(create=0, not_found=0, address=0, stale=0, strict=True)


class TestStrict:
    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"zone": ("CET", 1)}, 401),
            ({"zone": ("+03", 3)}, 401),
            ({"zone": ("EST", -5)}, 200),
            ({"zone": ("+0100", 1)}, 200),
            ({"signs_port": False}, 401),
            ({"content_type": "application/json; charset=utf-8"}, 415),
        ],
    )
    async def test_headers(self, changes, status):
        """Only what is documented is accepted."""
        async with Emulator(settings=STRICT) as emulator:
            sent = Sent("GET", VMS, **changes).encode(emulator)
            assert (await exchange(emulator, sent))[0] == status

    @pytest.mark.parametrize(
        "changes",
        [
            {"os": 2268},
            {"key_id": 11},
            {"key_id": 0},
            {"password": ""},
            {"compute_zone_id": "", "zone_id": POZNAN},
        ],
    )
    async def test_creates(self, changes):
        """Integers as ids, older names and empty fields are refused."""
        async with Emulator(settings=STRICT) as emulator:
            body = to_json({"create_vm": {**NEW, **changes}})
            assert (await exchange(emulator, Sent("PUT", VMS, body).encode(emulator)))[0] == 400

    async def test_some_vms(self, default):
        """It can be set for some VMs."""
        path = await created(default, name="db-1")
        default.cloud.adjust("db-*", strict=True)
        body = to_json({"cores": 2, "ram": 1024})
        assert (await call(default, Sent("POST", f"{path}/resize", body)))[0] == 400
        other = await created(default)
        assert (await call(default, Sent("POST", f"{other}/resize", body)))[0] == 200
