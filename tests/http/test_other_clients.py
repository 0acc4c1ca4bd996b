"""Requests as other clients send them (WIRE §1 and §2), over raw sockets, to a default emulator.

They are written from that description, and signed with the standard library alone. Each is also
sent with a forged signature and with an old date, which must be refused.
"""

import asyncio
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
    before = emulator.api.requests.copy()
    for refused in (
        sent.encode(emulator, secret="another-secret"),
        replace(sent, body=sent.body + b" ").encode(emulator)[:-1] + b"\n",
        sent.encode(emulator).replace(sent.path.encode(), f"{sent.path}?a".encode(), 1),
        sent.encode(emulator, old=OLD),
        sent.encode(emulator, old=-OLD),
    ):
        status, content = await exchange(emulator, refused)
        assert (status, content["success"]) == (401, False)
    assert emulator.api.requests - before == {"refused": 5}
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


class TestRelated:
    """What other clients read besides VMs."""

    async def get(self, emulator, path):
        """Return the content of a response without `success`."""
        status, content = await call(emulator, Sent("GET", f"/v2/{path}"))
        assert (status, content.pop("success")) == (200, True)
        return content

    async def test_a_vms_volume_and_address(self, default):
        """Their ids are those that the VM shows, and they name the VM."""
        paths = [await created(default, name=name) for name in ("web-01", "db-01")]
        volumes, addresses = [], []
        for path in paths:
            vm = (await self.get(default, path.removeprefix("/v2/")))["virtual_machine"]
            (volume,) = vm["storage_volumes"]
            (address,) = vm["public_interface"]["ipv4_addresses"]
            more = {"virtual_machine": {"id": vm["id"], "label": vm["label"]}, "task": []}
            volumes.append({**volume, "label": vm["label"], "shared_disk": False, **more})
            addresses.append({**address, **more})
        assert await self.get(default, "storage-volumes") == {"storage_volumes": volumes}
        assert await self.get(default, "ipv4-addresses") == {"ipv4_addresses": addresses}
        for volume, address in zip(volumes, addresses, strict=True):
            shown = await self.get(default, f"storage-volumes/{volume['id']}")
            assert shown == {"storage_volume": volume}
            assert shown["storage_volume"]["size"] == 40
            shown = await self.get(default, f"ipv4-addresses/{address['id']}")
            assert shown == {"ipv4_address": address}

    async def test_networks_and_images(self, default):
        """A VM's network is a VLAN with an integer id; the images are templates with an owner."""
        path = await created(default)
        vm = (await self.get(default, path.removeprefix("/v2/")))["virtual_machine"]
        (network,) = vm["networks"]
        vlan = {"id": network["id"], "label": network["label"], "task": []}
        assert type(vlan["id"]) is int
        assert await self.get(default, "vlans") == {"vlans": [vlan]}
        assert await self.get(default, f"vlans/{vlan['id']}") == {"vlan": vlan}
        owned = [t for t in (await self.get(default, "templates"))["templates"] if "owner" in t]
        images = (await self.get(default, "disk-images"))["disk_images"]
        assert [image["label"] for image in images] == [t["label"] for t in owned] != []
        for image in images:
            assert await self.get(default, f"disk-images/{image['id']}") == {"disk_image": image}
        assert await self.get(default, "recovery-points") == {"recovery_points": []}

    async def test_what_is_not_there(self, default):
        """Before a VM has its address, after it is deleted, and of ids that never existed."""
        default.cloud.adjust("late", address=1000)
        vm_id = (await created(default, name="late")).rpartition("/")[2]
        vm = (await self.get(default, f"virtual-machines/{vm_id}"))["virtual_machine"]
        assert await self.get(default, "ipv4-addresses") == {"ipv4_addresses": []}
        volume = vm["storage_volumes"][0]["id"]
        missing = [
            *(f"storage-volumes/{wanted}" for wanted in (vm_id, "none", f"{volume}0")),
            *(f"ipv4-addresses/{wanted}" for wanted in (vm_id, volume, "none")),
            *("vlans/8", "disk-images/2268", "recovery-points/1"),
        ]
        assert await self.get(default, f"storage-volumes/{volume}")
        default.cloud.adjust("late", delete=0)
        await call(default, Sent("DELETE", f"{VMS}/{vm_id}"))
        assert await self.get(default, "storage-volumes") == {"storage_volumes": []}
        for path in (*missing, f"storage-volumes/{volume}"):
            status, content = await call(default, Sent("GET", f"/v2/{path}"))
            assert (status, content["success"]) == (404, False), path
            assert content["error"].endswith(" not found")

    @pytest.mark.parametrize("name", ["storage-volumes", "ipv4-addresses", "vlans", "disk-images"])
    async def test_they_are_read_only(self, default, name):
        """Other methods are refused."""
        for method, end in (("PUT", ""), ("POST", "/1"), ("DELETE", "/1")):
            status, content = await call(default, Sent(method, f"/v2/{name}{end}", b"{}"))
            assert status == 405
            assert "read-only" in content["error"]

    async def test_reads_that_are_old(self, default):
        """Volumes and addresses are as old as the VMs that reads show."""
        default.cloud.adjust("*", staleness=1000, delete=0)
        path = await created(default)
        assert await self.get(default, "storage-volumes") == {"storage_volumes": []}
        (vm,) = default.cloud.vms.values()
        assert (await call(default, Sent("GET", path)))[0] == 404
        default.cloud.adjust("*", staleness=0)
        (volume,) = (await self.get(default, "storage-volumes"))["storage_volumes"]
        assert volume["virtual_machine"]["id"] == vm.id

    async def test_sparse_responses(self, default):
        """Of a VM without a label, the volume has none."""
        default.cloud.adjust("*", sparse=True)
        await created(default)
        (volume,) = (await self.get(default, "storage-volumes"))["storage_volumes"]
        assert volume["label"] is None
        assert len((await self.get(default, "ipv4-addresses"))["ipv4_addresses"]) == 1


class Session:
    """A client that polls, as other clients do.

    Args:
        emulator: A cloud with the default settings whose clock is fast.
        how: How it signs; see `Sent`.
    """

    def __init__(self, emulator, **how):
        self.emulator = emulator
        self.how = how

    async def send(self, method, path, content=None):
        body = b"" if content is None else to_json(content)
        status, content = await call(self.emulator, Sent(method, path, body, **self.how))
        assert (status, content["success"]) == (200, True), content
        return content

    async def until(self, path, wanted):
        """Poll a VM until it is as wanted; return it."""
        async with asyncio.timeout(60):
            while True:
                sent = Sent("GET", path, **self.how).encode(self.emulator)
                status, content = await exchange(self.emulator, sent)
                vm = content.get("virtual_machine")
                if wanted(status, vm):
                    return vm
                await asyncio.sleep(0.005)


class TestSession:
    """The work of other clients from first to last, on the default settings."""

    @pytest.fixture
    async def lifelike(self):
        """A cloud with the default settings, at a thousand times the speed."""
        async with Emulator(seed=1, speed=1000) as emulator:
            yield emulator

    async def test_a_client_that_reads_volumes(self, lifelike):
        """It creates by zone_id, finds by label, resizes without wait_for, and reads each disk."""
        session = Session(lifelike)
        fields = {**NEW, "os": "2599", "password": "a-password", "zone_id": POZNAN}
        del fields["compute_zone_id"]
        made = await session.send("PUT", VMS, {"create_vm": fields})
        path = f"{VMS}/{made['virtual_machine']['id']}"
        vm = await session.until(path, lambda status, vm: status == 200 and vm["state"] == "online")
        listed = (await session.send("GET", VMS))["virtual_machines"]
        assert [one["id"] for one in listed if one["label"] == "web-01"] == [vm["id"]]
        for volume in vm["storage_volumes"]:
            shown = await session.send("GET", f"/v2/storage-volumes/{volume['id']}")
            assert shown["storage_volume"]["size"] == volume["size"] == 40
            assert shown["storage_volume"]["virtual_machine"]["id"] == vm["id"]
        await session.send("POST", f"{path}/resize", {"cores": 2, "ram": 2048})
        await session.until(path, lambda _, vm: (vm["cores"], vm["state"]) == (2, "online"))
        await session.send("POST", f"{path}/poweroff", {"wait_for": 1})
        await session.until(path, lambda _, vm: vm["state"] == "offline")
        await session.send("POST", f"{path}/poweron")
        await session.until(path, lambda _, vm: vm["state"] == "online")
        await session.send("DELETE", path)
        await session.until(path, lambda status, _: status == 404)
        assert (await session.send("GET", "/v2/storage-volumes"))["storage_volumes"] == []

    async def test_a_client_in_local_time(self, lifelike):
        """It finds its key's integer id by name, signs no port, and waits for the address."""
        session = Session(
            lifelike,
            zone=("CET", 1),
            signs_port=False,
            content_type="application/json; charset=utf-8",
        )
        account = (await session.send("GET", "/v2/account"))["account"]
        (key,) = [key["id"] for key in account["sshkeys"] if key["name"] == "deploy"]
        fields = {**NEW, "os": 2268, "key_id": key, "cdrom": "", "password": "", "user_data": ""}
        made = await session.send("PUT", VMS, {"create_vm": fields})
        path = f"{VMS}/{made['virtual_machine']['id']}"
        vm = await session.until(
            path,
            lambda status, vm: status == 200 and vm["public_interface"]["primary_ip_ipv4address"],
        )
        addresses = (await session.send("GET", "/v2/ipv4-addresses"))["ipv4_addresses"]
        address = vm["public_interface"]["primary_ip_ipv4address"]
        assert [one["ipv4_address"] for one in addresses] == [address]
        assert addresses[0]["virtual_machine"]["id"] == vm["id"]
        await session.send("POST", f"{path}/shutdown")
        await session.until(path, lambda _, vm: vm["state"] == "offline")
        await session.send("DELETE", path)
        await session.until(path, lambda status, _: status == 404)
        assert (await session.send("GET", "/v2/ipv4-addresses"))["ipv4_addresses"] == []
        assert [operation.outcome for operation in lifelike.cloud.operations] == ["done"] * 3


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
