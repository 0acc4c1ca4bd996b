"""Bytes out, bytes in: requests as in WIRE §2, responses read or refused."""

import base64
import copy
import enum
import html
import json
import re
import urllib.parse
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from async_vmapi import (
    APIError,
    AuthenticationError,
    BadRequest,
    CdromBoot,
    Conflict,
    CreateRequest,
    DecodingError,
    ImageBoot,
    NotFound,
    RateLimited,
    ServerError,
    VirtualMachine,
    VMAPIError,
)
from async_vmapi.redaction import Secret
from async_vmapi.transport import codec
from async_vmapi.transport import responses as envelope
from async_vmapi.transport.codec import NamedVM, VMSnapshot
from async_vmapi.transport.responses import open_envelope, retry_after

NOW = datetime(2026, 11, 23, 18, 0, 0, tzinfo=UTC)
THING = {"id": "7", "name": "thing"}
MACHINE = {
    "id": "1729",
    "label": "web-01",
    "cores": 2,
    "ram": 2048,
    "adm": False,
    "system": {"id": "2599", "name": "Ubuntu 18.04"},
    "cost_per_hour": 0.08,
    "state": "online",
    "transfer_used": 1.5,
    "owner": {"id": "42", "name": "someone"},
    "public_interface": {
        "primary_ip_ipv4address": "192.0.2.1",
        "ipv4_addresses": [{"id": "5", "ipv4_address": "192.0.2.1"}],
    },
    "storage_volumes": [{"id": "6", "size": 40, "system_disk": True}],
    "zone": {"id": "24e12e20-0851-5354-e2c3-04b16c4c9c45", "name": "Poznan"},
    "networks": [{"id": "8", "label": "inner", "mac_address": "00:00:5e:00:53:01", "type": "x"}],
    "groups": [THING],
}
ANSWERS = {
    "ACCEPTED": {"success": True},
    "CREATED": {"success": True, "virtual_machine": {"id": "1729"}},
    "VM": {"success": True, "virtual_machine": MACHINE},
    "RAW_VMS": {"success": True, "virtual_machines": [MACHINE, MACHINE]},
    "SNAPSHOT": {"success": True, "virtual_machine": [MACHINE]},
    "SNAPSHOTS": {"success": True, "virtual_machines": [MACHINE, MACHINE]},
    "CONSOLE": {"success": True, "console": {"host": "192.0.2.9", "port": 5901, "password": "pw"}},
    "REGIONS": {
        "success": True,
        "regions": [
            {
                "name": "eu",
                "zones": [
                    {"id": "z", "label": "Poznan", "name": "DC1/PUBLIC-1", "available": True}
                ],
            }
        ],
    },
    "TEMPLATES": {
        "success": True,
        "templates": [
            {"id": "2599", "label": "Ubuntu 18.04", "supports": ["password", "sshkey"]},
            {"id": "u", "label": "mine", "supports": ["other"], "owner": THING},
        ],
    },
    "SSH_KEYS": {
        "success": True,
        "account": {
            "id": "42",
            "sshkeys": [{"id": 9, "name": "laptop", "fingerprint": "aa:bb"}],
            "groups": [],
        },
    },
}
SHAPES = {name: getattr(codec, name) for name in ANSWERS}


def pack(response):
    """Return a response's body."""
    return response if isinstance(response, bytes) else json.dumps(response).encode()


def read(shape, response, status=200, **kwargs):
    """Return what a response spec reads from a response."""
    found = open_envelope(
        shape, status, pack(response), method="GET", path="/v2/a", **{"secrets": (), **kwargs}
    )
    # Polls get the body, too.
    return found[0] if shape in (codec.SNAPSHOT, codec.SNAPSHOTS) else found


def refusal(response, status=200, shape=codec.ACCEPTED, **kwargs):
    """Return the error that a response raises."""
    with pytest.raises(VMAPIError) as caught:
        read(shape, response, status, **kwargs)
    return caught.value


def unreadable(shape, response):
    """Return where a response cannot be read."""
    error = refusal(response, shape=shape)
    assert type(error) is DecodingError
    assert (error.method, error.path) == ("GET", "/v2/a")
    return error.where


def wrong_in_list(response):
    """Return where a VM of ``vms.list`` cannot be read."""
    with pytest.raises(DecodingError) as caught:
        codec.decode_vms(read(codec.RAW_VMS, response))
    return caught.value.where


def vm(**changes):
    """Return the VM that is read when a get's response has other fields."""
    return read(codec.VM, {"success": True, "virtual_machine": MACHINE | changes})


def without(*names):
    """Return a VM as the API shows it, with fields left out."""
    return {name: value for name, value in MACHINE.items() if name not in names}


class TestCreateBody:
    def test_an_image_boot_with_all_fields(self):
        """They have the API's names and places."""
        boot = ImageBoot(os="2599", password="pw", key_id="9", user_data="#cloud-config\n")
        request = CreateRequest(name="Łódź-01", cpus=2, ram=2048, zone_id="z", boot=boot)
        assert json.loads(codec.encode_create(request)) == {
            "create_vm": {
                "name": "Łódź-01",
                "cpus": 2,
                "ram": 2048,
                "compute_zone_id": "z",
                "boot_type": "image",
                "os": "2599",
                "password": "pw",
                "key_id": "9",
                "user_data": "#cloud-config\n",
            }
        }

    @pytest.mark.parametrize(
        ("boot", "fields"),
        [
            (ImageBoot(os="2599"), {"boot_type": "image", "os": "2599"}),
            (CdromBoot(iso="debian.iso"), {"boot_type": "cdrom", "cdrom": "debian.iso"}),
        ],
    )
    def test_fields_not_given_are_not_sent(self, boot, fields):
        """No null is sent for a password that was not given."""
        request = CreateRequest(name="a", cpus=1, ram=512, zone_id="z", boot=boot)
        sent = json.loads(codec.encode_create(request))["create_vm"]
        assert sent == {"name": "a", "cpus": 1, "ram": 512, "compute_zone_id": "z"} | fields

    def test_enum_members_are_sent_as_their_values(self):
        """Users keep sizes and names in enums; those are valid, so they can be sent."""

        class Name(enum.StrEnum):
            WEB = "web-01"

        class Size(enum.IntEnum):
            TWO = 2

        boot = ImageBoot(os="2599")
        request = CreateRequest(name=Name.WEB, cpus=Size.TWO, ram=1, zone_id="z", boot=boot)
        sent = json.loads(codec.encode_create(request))["create_vm"]
        assert (sent["name"], sent["cpus"]) == ("web-01", 2)

    def test_subclasses_of_str_and_int_are_sent_as_plain_values(self):
        """A web framework's own text class is valid, so it can be sent."""

        class Markup(str):
            __slots__ = ()

        class Count(int):
            __slots__ = ()

        boot = ImageBoot(os=Markup("2599"), password=Markup("pw"))
        request = CreateRequest(
            name=Markup("a"), cpus=Count(2), ram=1, zone_id=Markup("z"), boot=boot
        )
        sent = json.loads(codec.encode_create(request))["create_vm"]
        assert (sent["name"], sent["cpus"], sent["password"]) == ("a", 2, "pw")

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_secrets_are_sent_unchanged(self, password, user_data):
        """No character of a password or of user data is changed."""
        boot = ImageBoot(os="1", password=password, user_data=user_data)
        request = CreateRequest(name="a", cpus=1, ram=1, zone_id="z", boot=boot)
        sent = json.loads(codec.encode_create(request))["create_vm"]
        assert (sent["password"], sent["user_data"]) == (password, user_data)


class TestGet:
    @pytest.mark.parametrize("shape", [MACHINE, [MACHINE]], ids=["object", "list of one"])
    def test_both_shapes_are_the_same_vm(self, shape):
        """The documented list of one and the observed object are read alike."""
        found = read(codec.VM, {"success": True, "virtual_machine": shape})
        assert isinstance(found, VirtualMachine)
        assert (found.id, found.label, found.cores, found.ram) == ("1729", "web-01", 2, 2048)
        assert (found.system.name, found.owner.id, found.zone.name) == (
            *("Ubuntu 18.04", "42", "Poznan"),
        )
        assert (found.networks[0].label, found.groups[0].name) == ("inner", "thing")
        assert found.addresses == ("192.0.2.1",)
        assert found.system_volume.size == 40.0
        assert read(codec.SNAPSHOT, {"success": True, "virtual_machine": shape}) == VMSnapshot(
            "1729", "online", 2, 2048
        )

    @pytest.mark.parametrize("shape", [codec.VM, codec.SNAPSHOT])
    @pytest.mark.parametrize("count", [0, 2])
    def test_a_list_of_none_or_two_is_refused(self, shape, count):
        """Which of two VMs was meant is never guessed."""
        response = {"success": True, "virtual_machine": [MACHINE] * count}
        assert unreadable(shape, response) == "$.virtual_machine"

    @pytest.mark.parametrize("shape", [MACHINE, [MACHINE]], ids=["object", "list of one"])
    def test_one_vm_can_be_cut_out_and_read_later(self, shape):
        """The part of a response that holds a VM is found without reading it."""
        raw = codec.raw_vm(pack({"success": True, "virtual_machine": shape}))
        assert codec.decode_vm(raw) == vm()

    def test_the_vms_of_a_list_can_be_cut_out_and_read_later(self):
        """Each is a separate part."""
        other = MACHINE | {"id": 5}
        parts = codec.raw_vms(pack({"success": True, "virtual_machines": [MACHINE, other]}))
        assert [codec.decode_vm(part).id for part in parts] == ["1729", "5"]

    def test_a_list_that_is_cut_up_is_checked_for_utf_8_first(self):
        """An error of a whole response is raised before any part is read."""
        response = {"success": True, "virtual_machines": [MACHINE | {"label": "w\u00e4b"}]}
        body = json.dumps(response, ensure_ascii=False).encode()
        assert len(read(codec.RAW_VMS, body)) == 1
        with pytest.raises(DecodingError, match="not UTF-8") as caught:
            read(codec.RAW_VMS, body.replace("\u00e4".encode(), b"\xff"))
        assert caught.value.malformed

    @pytest.mark.parametrize(
        ("raw", "where"),
        [
            (b"{}", "$"),
            (b"[]", "$.virtual_machine"),
            (pack([MACHINE, MACHINE]), "$.virtual_machine"),
            (pack(MACHINE | {"ram": "much"}), "$"),
            (b"<html>", "$"),
            (b"[" * 100_000, "$[0]"),
        ],
    )
    def test_a_part_that_is_no_vm_is_a_decoding_error(self, raw, where):
        """Reading later fails in the same way as reading at once."""
        with pytest.raises(DecodingError) as caught:
            codec.decode_vm(raw)
        assert caught.value.where == where


class TestTolerance:
    """Exactly what WIRE §5.1 accepts is accepted."""

    def test_integer_ids_become_texts(self):
        """Ids are texts in all models."""
        found = vm(
            id=1729,
            system={"id": 2599, "name": "x"},
            owner={"id": 42, "name": "x"},
            zone={"id": 1, "name": "x"},
            groups=[{"id": 3, "name": "x"}],
            networks=[{"id": 8, "label": None, "mac_address": "m", "type": "t"}],
            storage_volumes=[{"id": 6, "size": "40", "system_disk": True}],
            public_interface={"ipv4_addresses": [{"id": 5, "ipv4_address": "192.0.2.1"}]},
        )
        assert [
            *(found.id, found.system.id, found.owner.id, found.zone.id, found.groups[0].id),
            *(found.networks[0].id, found.storage_volumes[0].id),
            found.public_interface.ipv4_addresses[0].id,
        ] == ["1729", "2599", "42", "1", "3", "8", "6", "5"]
        assert found.storage_volumes[0].size == 40.0

    def test_numbers_as_texts_become_numbers(self):
        """`"0.00"` was seen for the traffic; others may come like that too."""
        found = vm(cores="4", ram="8192", transfer_used="0.00", cost_per_hour="0.02")
        assert (found.cores, found.ram) == (4, 8192)
        assert (found.transfer_used, found.cost_per_hour) == (0.0, 0.02)

    @pytest.mark.parametrize("name", ["SNAPSHOT", "SNAPSHOTS"])
    def test_a_poll_is_as_tolerant(self, name):
        """A poll reads whatever a get of the same VM reads."""
        vm = {"id": 1729, "state": "online", "cores": "4", "ram": "8192", "new": {"a": [1]}}
        plural = name == "SNAPSHOTS"
        key, value = ("virtual_machines", [MACHINE, vm]) if plural else ("virtual_machine", vm)
        found = read(SHAPES[name], {"success": True, key: value})
        assert (found[1] if plural else found) == VMSnapshot("1729", "online", 4, 8192)

    def test_names_are_as_tolerant(self):
        """A VM without a label has none."""
        vm = {"id": 1729, "state": "online", "cores": "4", "ram": "8192"}
        first, second = codec.decode_names(pack({"virtual_machines": [MACHINE, vm]}))
        assert first == NamedVM("1729", "online", 2, 2048, "web-01")
        assert second == NamedVM("1729", "online", 4, 8192, None)

    def test_unknown_fields_are_ignored(self):
        """New fields can come at any time, at any depth."""
        found = read(
            codec.VM,
            {
                "success": True,
                "took": 3,
                "virtual_machine": MACHINE
                | {"systemName": "x", "new": {"deep": [1, None]}, "zone": {**THING, "floor": 3}},
            },
        )
        assert found == vm(zone=THING)

    @pytest.mark.parametrize("state", ["installing", "offline", "error", "", "zażółć", "ONLINE"])
    def test_states_are_kept_unchanged(self, state):
        """No list of states is complete, so none is translated or refused."""
        assert vm(state=state).state == state
        response = {"success": True, "virtual_machine": MACHINE | {"state": state}}
        assert read(codec.SNAPSHOT, response).state == state

    def test_a_label_may_be_null(self):
        """A VM without a name has the label None."""
        assert vm(label=None).label is None

    def test_networks_groups_and_adm_may_be_absent(self):
        """Absent lists are empty, and an absent `adm` is unknown."""
        absent = without("networks", "groups", "adm")
        found = read(codec.VM, {"success": True, "virtual_machine": absent})
        assert (found.networks, found.groups, found.adm) == ((), (), None)

    @pytest.mark.parametrize(
        "interface",
        [
            {"primary_ip_ipv4address": "", "ipv4_addresses": []},
            {"ipv4_addresses": []},
            {"primary_ip_ipv4address": None},
            {},
        ],
    )
    def test_the_address_may_come_later(self, interface):
        """A VM whose address is empty or absent has none yet."""
        assert vm(public_interface=interface).addresses == ()

    def test_observed_undocumented_fields_are_kept(self):
        """The autoscaler, dates and kinds can be read."""
        found = vm(
            autoscaler={"active": True},
            public_interface={
                "mac_address": "00:00:5e:00:53:02",
                "ipv4_addresses": [
                    {
                        "id": "5",
                        "ipv4_address": "192.0.2.1",
                        "attach_time": "2018-08-15 14:34:14",
                        "dhcp": True,
                    }
                ],
            },
            storage_volumes=[{"id": "6", "size": 40, "system_disk": True, "type": "hdd"}],
        )
        assert found.autoscaler.active is True
        assert found.public_interface.mac_address == "00:00:5e:00:53:02"
        assert found.public_interface.ipv4_addresses[0].attach_time == "2018-08-15 14:34:14"
        assert found.storage_volumes[0].type == "hdd"


class TestStrictness:
    """All other deviations are an error that names the place."""

    def test_a_vm_without_an_id_is_named_by_its_place(self):
        """The error says which VM of a list it is."""
        vms = [MACHINE, MACHINE, MACHINE, without("id")]
        response = {"success": True, "virtual_machines": vms}
        assert unreadable(codec.SNAPSHOTS, response) == "$.virtual_machines[3]"
        assert wrong_in_list(response) == "$.virtual_machines[3]"

    @pytest.mark.parametrize(
        "name",
        [name for name in MACHINE if name not in {"networks", "groups", "adm"}],
    )
    def test_documented_fields_that_were_always_seen_are_required(self, name):
        """A VM without them is no VM of this API."""
        response = {"success": True, "virtual_machines": [without(name)]}
        assert wrong_in_list(response) == "$.virtual_machines[0]"

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"id": None}, ".id"),
            ({"id": True}, ".id"),
            ({"id": 1.5}, ".id"),
            ({"id": ["1"]}, ".id"),
            ({"cores": True}, ".cores"),
            ({"cores": None}, ".cores"),
            ({"cores": 1.5}, ".cores"),
            ({"cores": "abc"}, ""),
            ({"cores": "1.5"}, ""),
            ({"ram": "nan"}, ""),
            ({"ram": ""}, ""),
            ({"transfer_used": "nan"}, ""),
            ({"transfer_used": "inf"}, ""),
            ({"transfer_used": "1e999"}, ""),
            ({"cost_per_hour": "-Infinity"}, ""),
            ({"cost_per_hour": False}, ".cost_per_hour"),
            ({"state": None}, ".state"),
            ({"state": 1}, ".state"),
            ({"label": 5}, ".label"),
            ({"adm": 1}, ".adm"),
            ({"system": "Ubuntu"}, ".system"),
            ({"zone": {"name": "x"}}, ".zone"),
            ({"zone": {"id": False, "name": "x"}}, ".zone.id"),
            ({"groups": [THING, {"id": "1"}]}, ".groups[1]"),
            ({"networks": None}, ".networks"),
            ({"storage_volumes": {}}, ".storage_volumes"),
            (
                {"storage_volumes": [{"id": 1, "size": "big", "system_disk": True}]},
                ".storage_volumes[0]",
            ),
            (
                {"storage_volumes": [{"id": 1, "size": 1, "system_disk": 1}]},
                ".storage_volumes[0].system_disk",
            ),
            (
                {"public_interface": {"ipv4_addresses": [{"id": 1}]}},
                ".public_interface.ipv4_addresses[0]",
            ),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
    )
    def test_a_wrong_value_is_named_by_its_place(self, changes, where):
        """Types are not guessed: a bool is no number, nor is a word."""
        response = {"success": True, "virtual_machines": [MACHINE, MACHINE | changes]}
        assert wrong_in_list(response) == f"$.virtual_machines[1]{where}"

    @pytest.mark.parametrize("value", ["abc", "", "nan", "inf", "1.5"])
    @pytest.mark.parametrize("shape", [codec.SNAPSHOT, codec.SNAPSHOTS])
    def test_a_poll_is_as_strict(self, shape, value):
        """A word is never read as a size, and the error shows no value."""
        vm = MACHINE | {"ram": value}
        response = {"success": True, "virtual_machine": vm, "virtual_machines": [vm]}
        error = refusal(response, shape=shape)
        assert type(error) is DecodingError
        assert repr(value) not in str(error)

    @pytest.mark.parametrize("shape", [codec.SNAPSHOT, codec.SNAPSHOTS])
    @pytest.mark.parametrize("name", ["id", "state", "cores", "ram"])
    def test_a_poll_needs_its_four_fields(self, shape, name):
        """They show an operation's progress."""
        vm = without(name)
        response = {"success": True, "virtual_machine": vm, "virtual_machines": [vm]}
        assert unreadable(shape, response).startswith("$.virtual_machine")

    @pytest.mark.parametrize(
        ("response", "where"),
        [
            ({}, "$"),
            ({"virtual_machine": {}}, "$.virtual_machine"),
            ({"virtual_machine": None}, "$.virtual_machine"),
            ({"virtual_machine": {"id": None}}, "$.virtual_machine.id"),
            ({"virtual_machine": [{"id": "1"}]}, "$.virtual_machine"),
        ],
    )
    def test_a_create_without_an_id_is_a_decoding_error(self, response, where):
        """A VM without an id cannot be watched."""
        assert unreadable(codec.CREATED, {"success": True} | response) == where

    @pytest.mark.parametrize("bad", ["", "a/b", "..", "a?b", "a\r\nHost: evil", "a b", "a%2f"])
    def test_a_create_whose_id_fits_no_path_is_a_decoding_error(self, bad):
        """The id becomes a part of every poll's path."""
        response = {"success": True, "virtual_machine": {"id": bad}}
        assert unreadable(codec.CREATED, response).startswith("$.virtual_machine")

    @pytest.mark.parametrize("id_", ["1729", 1729])
    def test_a_creates_id_is_a_text(self, id_):
        """Even if a number came."""
        response = {"success": True, "virtual_machine": {"id": id_}}
        assert read(codec.CREATED, response) == "1729"

    @pytest.mark.parametrize(
        ("name", "path", "where"),
        [
            ("REGIONS", ("regions", 0, "zones", 0, "id"), "$.regions[0].zones[0]"),
            ("REGIONS", ("regions", 0, "name"), "$.regions[0]"),
            ("TEMPLATES", ("templates", 1, "id"), "$.templates[1]"),
            ("TEMPLATES", ("templates", 1, "supports"), "$.templates[1]"),
            ("SSH_KEYS", ("account", "sshkeys", 0, "id"), "$.account.sshkeys[0]"),
            ("SSH_KEYS", ("account", "sshkeys"), "$.account"),
            ("CONSOLE", ("console", "password"), "$.console"),
            ("RAW_VMS", ("virtual_machines",), "$"),
        ],
    )
    def test_a_missing_field_is_named_by_its_place(self, name, path, where):
        """Every response is checked, and the error says where it is wrong."""
        response = copy.deepcopy(ANSWERS[name])
        inner = response
        for step in path[:-1]:
            inner = inner[step]
        del inner[path[-1]]
        assert unreadable(SHAPES[name], response) == where


class TestOtherResponses:
    def test_regions_have_their_zones(self):
        """A zone's id is what a create needs."""
        (region,) = read(codec.REGIONS, ANSWERS["REGIONS"])
        (zone,) = region.zones
        assert (region.name, zone.id, zone.label, zone.available) == ("eu", "z", "Poznan", True)

    def test_templates_have_what_they_support(self):
        """Unknown words are kept; the provider's own templates have no owner."""
        first, second = read(codec.TEMPLATES, ANSWERS["TEMPLATES"])
        assert (first.id, first.supports, first.owner) == ("2599", ("password", "sshkey"), None)
        assert (second.supports, second.owner.name) == (("other",), "thing")

    def test_ssh_keys_have_texts_as_ids(self):
        """The account has integers; a create takes a text."""
        (key,) = read(codec.SSH_KEYS, ANSWERS["SSH_KEYS"])
        assert (key.id, key.name, key.fingerprint) == ("9", "laptop", "aa:bb")

    @pytest.mark.parametrize("port", [5901, "5901"])
    def test_a_console_is_read_with_and_without_success(self, port):
        """No `success` is documented for it."""
        console = {"host": "192.0.2.9", "port": port, "password": "pw"}
        for response in ({"console": console}, {"success": True, "console": console}):
            found = read(codec.CONSOLE, response)
            assert (found.host, found.port, found.password) == ("192.0.2.9", 5901, "pw")

    @pytest.mark.parametrize("name", [name for name in ANSWERS if name != "ACCEPTED"])
    def test_a_response_with_the_requested_value_needs_no_success(self, name):
        """The value itself proves that the call was accepted."""
        response = {key: value for key, value in ANSWERS[name].items() if key != "success"}
        assert read(SHAPES[name], response) == read(SHAPES[name], ANSWERS[name])


class TestAcceptance:
    def test_a_call_without_a_value_is_accepted_by_success_alone(self):
        """A shutdown's response has `success` and nothing else."""
        assert read(codec.ACCEPTED, {"success": True}) is None
        assert read(codec.ACCEPTED, {"success": True, "task": 5}, 202) is None

    @pytest.mark.parametrize("response", [{}, {"message": "ok"}])
    def test_a_missing_success_is_no_acceptance(self, response):
        """Nothing else in the response would show that a shutdown was accepted."""
        error = refusal(response)
        assert type(error) is DecodingError
        assert "success" in str(error)

    @pytest.mark.parametrize("success", [None, 1, 0, "true", "false", [], {}])
    def test_a_success_that_is_no_bool_is_a_decoding_error(self, success):
        """Only true is true."""
        assert unreadable(codec.ACCEPTED, {"success": success}) == "$.success"

    @pytest.mark.parametrize("body", [b"", b"<html>", b"null", b"[]", b'"ok"', b"{", b"\xff\xfe"])
    def test_a_body_that_is_no_object_is_a_decoding_error(self, body):
        """Status 200 alone is no acceptance: a proxy may have responded."""
        assert unreadable(codec.ACCEPTED, body) == "$"


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (200, APIError),
            (202, APIError),
            (299, APIError),
            (300, APIError),
            (301, APIError),
            (304, APIError),
            (307, APIError),
            (400, BadRequest),
            (401, AuthenticationError),
            (402, BadRequest),
            (403, AuthenticationError),
            (404, NotFound),
            (405, BadRequest),
            (409, Conflict),
            (410, NotFound),
            (412, Conflict),
            (422, BadRequest),
            (423, Conflict),
            (429, RateLimited),
            (499, BadRequest),
            (500, ServerError),
            (502, ServerError),
            (503, ServerError),
            (504, ServerError),
            (599, ServerError),
        ],
    )
    def test_each_status_has_its_error(self, status, kind):
        """The class of the error says what to do about it."""
        error = refusal({"success": False, "error": "no"}, status)
        assert type(error) is kind
        assert (error.status, error.method, error.path) == (status, "GET", "/v2/a")
        assert error.from_api is True

    @pytest.mark.parametrize("name", SHAPES)
    def test_success_false_is_a_refusal_of_every_call(self, name):
        """On status 200 too, and even if a value comes along."""
        for response in ({"success": False}, ANSWERS[name] | {"success": False}):
            error = refusal(response | {"error": "quota"}, shape=SHAPES[name])
            assert type(error) is APIError
            assert error.message == "quota"

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"error": "no such zone"}, "no such zone"),
            ({"message": "no such zone"}, "no such zone"),
            ({"errors": "no such zone"}, "no such zone"),
            ({"errors": ["one", "two"]}, "one; two"),
            ({"error": {"code": 7, "text": "bad"}}, "code: 7; text: bad"),
            ({"errors": {"ram": ["too small", "odd"]}}, "ram: too small; ram: odd"),
            ({"errors": [{"ram": "small"}, "x"]}, "ram: small; x"),
            ({"error": "same", "message": "same"}, "same"),
            (
                {"error": "first", "errors": ["second"], "message": "middle"},
                "first; middle; second",
            ),
            ({"error": "", "message": None, "errors": []}, ""),
            ({"error": True, "message": "text"}, "True; text"),
            ({"error": "line\none\x1b[31m\u2028"}, "line one [31m "),
            ({"error": 1.5}, "1.5"),
            ({}, ""),
        ],
    )
    def test_the_servers_words_are_found_in_any_form(self, content, message):
        """Texts, lists and objects under any of three names, in one printable line."""
        assert refusal({"success": False} | content, 400).message == message

    def test_long_words_are_cut(self):
        """A message stays readable whatever the server sends."""
        message = refusal({"success": False, "error": "x" * 10_000}, 400).message
        assert message == "x" * 500 + "..."

    @pytest.mark.parametrize("body", [b"<html><h1>Bad Gateway</h1>", b"", b"[1]", b"null", b"\xff"])
    def test_a_proxys_page_is_no_refusal_by_the_api(self, body):
        """The page's text is not repeated."""
        error = refusal(body, 502)
        assert type(error) is ServerError
        assert error.from_api is False
        assert "not a JSON object" in str(error)
        assert "Gateway" not in str(error)

    def test_an_error_status_wins_over_success_true(self):
        """The response does not count as the API's."""
        error = refusal({"success": True, "virtual_machine": {"id": "1"}}, 500, codec.CREATED)
        assert type(error) is ServerError
        assert error.from_api is False

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_is_a_refusal_that_says_why(self, status):
        """It is not followed, whatever its body says."""
        error = refusal({"success": True}, status)
        assert type(error) is APIError
        assert "redirect, which is not followed" in str(error)

    def test_an_error_holds_nothing_of_the_body(self):
        """Neither a cause nor a context leads back to what the server sent."""
        for error in (
            refusal({"success": False}, 400),
            refusal({"success": False}),
            refusal(b"<html>"),
            refusal({"success": True, "virtual_machine": [1]}, shape=codec.VM),
            refusal({"success": True, "virtual_machine": []}, shape=codec.VM),
        ):
            assert error.__cause__ is None
            assert error.__context__ is None


class TestWithholding:
    """Secrets of a call are not shown, whatever the server does with them."""

    SECRET = 'planted "pass" <ż>\n\trun: cmd && more'
    WITHHELD = "the explanation is withheld, since the request carried a password or user data"

    @pytest.mark.parametrize(
        "content",
        [
            {"error": f"bad {SECRET}!"},
            {"message": [SECRET[:5]]},
            {"errors": {SECRET: "is wrong"}},
            {"errors": {"this": {"deep": [SECRET.upper()]}}},
            {"error": base64.b64encode(SECRET.encode()).decode()},
            {"error": SECRET[::-1]},
            {"error": "zażółć"},
        ],
    )
    @pytest.mark.parametrize("status", [200, 400, 500])
    def test_nothing_of_the_explanation_is_shown(self, content, status):
        """No part of a secret can be in a message without the server's text."""
        error = refusal({"success": False} | content, status, secrets=(Secret(self.SECRET),))
        assert error.message == self.WITHHELD
        assert self.SECRET not in f"{error!r} {vars(error)}"

    def test_fields_and_reasons_are_named(self):
        """They are words of the API and a few others, in the order in which they came."""
        error = refusal(
            {"success": False, "errors": {"RAM": "over your quota of 7; cpus, too", "program": 1}},
            400,
            secrets=(Secret("planted"),),
        )
        assert error.message == f"{self.WITHHELD}; it mentions ram, quota, cpus"

    def test_words_within_a_secret_are_not_named(self):
        """They may come from there."""
        error = refusal(
            {"success": False, "error": "line 3: 'Quota: 9 ram' of user_data"},
            400,
            secrets=(Secret("#cloud-config\nquota: 9 RAM\n"), Secret("x")),
        )
        assert error.message == f"{self.WITHHELD}; it mentions user_data"

    @given(st.text(min_size=4), st.text(), st.text())
    def test_the_text_around_a_secret_does_not_matter(self, secret, before, after):
        """The message is the same for all, except for known words."""
        content = {"success": False, "error": f"{before}{secret}{after}"}
        message = refusal(content, 400, secrets=(Secret(secret),)).message
        rest = message.removeprefix(self.WITHHELD)
        assert not rest or re.fullmatch(r"; it mentions [a-z_, ]+", rest)

    @pytest.mark.parametrize("body", [b"<html>", b"", b"{}", b'{"success": false}'])
    def test_a_missing_explanation_is_not_called_withheld(self, body):
        """The message says that there is none."""
        assert "withheld" not in str(refusal(body, 400, secrets=(Secret("planted"),)))


class TestCredentials:
    """Any response may repeat the API secret and the signature."""

    SECRET = Secret("Q0h-7yRfkN_planted_0aZe41LkqMvW8")
    SIGNATURE = Secret("mB8+jT/WzX0q4Rn2Yt7uIoPlKjHgFdSaQwErTyUiOp4=")
    WITHHELD = "the explanation is withheld, since it repeats the API secret or the signature"
    FORMS: ClassVar = {
        "plain": str,
        "upper": str.upper,
        "cut": lambda text: text[9:20],
        "folded": lambda text: "\n  ".join(text[at : at + 3] for at in range(0, len(text), 3)),
        "json": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
        "html": html.escape,
        "html numbers": lambda text: "".join(f"&#{ord(character)};" for character in text),
        "url": lambda text: urllib.parse.quote(text, safe=""),
        "url bytes": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
        "url in url": lambda text: urllib.parse.quote(
            "".join(f"%{byte:02X}" for byte in text.encode())
        ),
        "html in url": lambda text: urllib.parse.quote("".join(f"&#{ord(c)};" for c in text)),
        "quoted-printable": lambda text: "".join(f"={byte:02X}" for byte in text.encode()),
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "base64 of more": lambda text: base64.b64encode(f"k:{text}, and".encode()).decode(),
        "base64 of yet more": lambda text: base64.b64encode(f"k{text}".encode()).decode(),
        "base64url": lambda text: base64.urlsafe_b64encode(f"{text}?".encode()).decode(),
        "base32": lambda text: base64.b32encode(text.encode()).decode(),
        "hex": lambda text: text.encode().hex(":"),
    }

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("planted", [SECRET, SIGNATURE], ids=["secret", "signature"])
    @pytest.mark.parametrize("before", ["", "bad signature ", "x" * 470])
    def test_an_explanation_that_repeats_a_part_is_withheld(self, form, planted, before):
        """In every usual form, and where the message is cut."""
        words = before + self.FORMS[form](planted.text())
        error = refusal(
            {"success": False, "error": words},
            401,
            credentials=lambda: (self.SECRET, self.SIGNATURE),
        )
        assert error.message == self.WITHHELD

    @pytest.mark.parametrize(
        "words",
        ["no such VM", "bad signature: the clock is wrong", "Q0h-7yR is short", "x" * 500],
    )
    def test_other_explanations_are_shown(self, words):
        """They help the reader."""
        secrets = (self.SECRET, self.SIGNATURE)
        error = refusal({"success": False, "error": words}, 401, credentials=lambda: secrets)
        assert error.message == words

    @pytest.mark.parametrize("secret", ["abc", "a", "!?", "Ab-c", "::::::::"])
    def test_a_secret_of_few_letters_counts_as_a_whole(self, secret):
        """Also one without any, of any length."""
        for words, shown in ((f"it is {secret}.", False), ("zzz", True)):
            error = refusal({"error": words}, 400, credentials=lambda: (Secret(secret),))
            assert (error.message == words) is shown

    @given(st.text(min_size=1), st.text(), st.text())
    @example(":" * 8, "", "")
    def test_the_text_around_a_secret_does_not_matter(self, secret, before, after):
        """Within the allowed length."""
        content = {"success": False, "error": f"{before[:200]}{secret[:200]}{after}"}
        message = refusal(content, 400, credentials=lambda: (Secret(secret[:200]),)).message
        assert message == self.WITHHELD or secret[:200] not in message


class TestSize:
    """Large bodies are not searched for an explanation, so they cost neither time nor memory."""

    @pytest.fixture
    def decoded(self, monkeypatch):
        """Sizes of the bodies that are decoded into untyped Python objects."""
        sizes = []
        decode = msgspec.json.decode

        def counting(body, **options):
            sizes.append(len(body))
            return decode(body, **options)

        monkeypatch.setattr(envelope.msgspec.json, "decode", counting)
        return sizes

    BODIES: ClassVar = {
        "wide": b'{"success":false,"errors":[' + b'"x",' * 2**21 + b'""]}',
        "deep": b'{"success":false,"errors":' + b"[" * 2**22 + b"]" * 2**22 + b"}",
        "long": b'{"success":false,"error":"' + b"\\u0001" * 2**20 + b'"}',
        "late": b'{"errors":[' + b"1," * 2**22 + b'1],"success":false}',
        "page": b"<p>" * 2**21,
    }

    @pytest.mark.parametrize("name", BODIES)
    @pytest.mark.parametrize("shape", ["ACCEPTED", "CREATED", "VM", "SNAPSHOTS", "RAW_VMS"])
    def test_a_large_refusal(self, decoded, name, shape):
        """Only the status is used."""
        error = refusal(self.BODIES[name], 503, shape=SHAPES[shape])
        assert type(error) is ServerError
        assert error.message == "more than 65536 bytes, which were not read"
        assert error.from_api is (name not in ("page", "late"))
        assert decoded == []

    @pytest.mark.parametrize("name", BODIES)
    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_a_large_unreadable_response(self, decoded, name, shape):
        """One that begins as a refusal is one; the others are decoding errors."""
        error = refusal(self.BODIES[name], 200, shape=SHAPES[shape])
        assert type(error) is (DecodingError if name in ("page", "late") else APIError)
        assert decoded == []

    @pytest.mark.parametrize("name", BODIES)
    @pytest.mark.parametrize("shape", sorted(SHAPES))
    def test_a_large_body_is_not_scanned(self, monkeypatch, name, shape):
        """Scanning sixty megabytes takes a fifth of a second."""
        scanned = []
        counting = attrs.evolve(SHAPES[shape], decode=scanned.append)
        refusal(self.BODIES[name], 200, shape=counting)
        assert scanned == []

    @pytest.mark.parametrize("shape", ["SNAPSHOTS", "RAW_VMS"])
    def test_a_large_list_is_read(self, shape):
        """Lists are the only responses that are large."""
        many = pack({"success": True, "virtual_machines": [MACHINE] * 2500})
        assert len(many) > envelope.MAX_ONE
        assert len(read(getattr(codec, shape), many)) == 2500

    @pytest.mark.parametrize("shape", ["ACCEPTED", "CREATED", "VM", "SNAPSHOT", "CONSOLE"])
    def test_a_large_response_about_one_vm_is_not_scanned(self, monkeypatch, shape):
        """A megabyte is five hundred times a VM's size."""
        body = pack(ANSWERS[shape])[:-1] + b',"new":"' + b"x" * 2**20 + b'"}'
        scanned = []
        counting = attrs.evolve(SHAPES[shape], decode=scanned.append)
        with pytest.raises(DecodingError, match="1048576 are allowed"):
            read(counting, body)
        assert scanned == []

    def test_a_body_at_the_limit_is_read(self):
        """The limit counts bytes."""
        words = '{"success":false,"error":"' + "x" * (envelope.MAX_REFUSAL - 28) + '"}'
        assert refusal(words.encode(), 400).message == "x" * 500 + "..."


class TestOddResponses:
    """Every response is read or raises an error of this package."""

    STATUSES = st.sampled_from([200, 201, 204, 302, 400, 401, 404, 409, 429, 500, 503])
    JSON = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )

    def ends_well(self, shape, status, body):
        """Read a response; anything but a value or a documented error is raised."""
        try:
            open_envelope(
                shape, status, body, method="PUT", path="/v2/a", credentials=lambda: (Secret("s"),)
            )
        except (APIError, DecodingError):
            return
        assert 200 <= status < 300

    @given(st.sampled_from(sorted(SHAPES)), STATUSES, st.binary())
    @example("ACCEPTED", 200, b"\xef\xbb\xbf{}")
    @example("CREATED", 200, b'{"virtual_machine":{"id":' + b"9" * 4299 + b"}}")
    @example("CREATED", 200, b'{"virtual_machine":{"id":' + b"9" * 5000 + b"}}")
    @example("SNAPSHOT", 200, b'{"virtual_machine":{"id":1,"state":"","ram":1e999,"cores":1}}')
    def test_arbitrary_bytes(self, name, status, body):
        """A proxy can send anything."""
        self.ends_well(SHAPES[name], status, body)

    @given(st.sampled_from(sorted(SHAPES)), STATUSES, JSON)
    def test_arbitrary_json(self, name, status, content):
        """So can the API."""
        self.ends_well(SHAPES[name], status, pack(content))

    @given(
        st.sampled_from(sorted(SHAPES)),
        STATUSES,
        st.dictionaries(st.sampled_from(["success", "error", "message", "errors"]), JSON),
    )
    def test_arbitrary_envelopes(self, name, status, content):
        """The fields of the envelope can hold anything."""
        self.ends_well(SHAPES[name], status, pack(ANSWERS[name] | content))

    @given(st.sampled_from(sorted(SHAPES)), JSON, st.data())
    def test_valid_responses_with_one_wrong_value(self, name, wrong, data):
        """At any depth."""
        response = copy.deepcopy(ANSWERS[name])
        inner = response
        while True:
            keys = sorted(inner) if isinstance(inner, dict) else list(range(len(inner)))
            key = data.draw(st.sampled_from(keys))
            if (
                not isinstance(inner[key], dict | list)
                or not inner[key]
                or data.draw(st.booleans())
            ):
                break
            inner = inner[key]
        inner[key] = wrong
        self.ends_well(SHAPES[name], 200, pack(response))

    @pytest.mark.parametrize("name", SHAPES)
    @pytest.mark.parametrize("status", [200, 400, 500])
    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 200_000,
            b'{"a":' * 200_000,
            b'{"success":false,"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"success":false,"error":' + b"[" * 300 + b'"deep"' + b"]" * 300 + b"}",
            b'{"success":true,"virtual_machine":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"success":true,"new":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
        ids=["lists", "objects", "deep error", "less deep error", "deep value", "deep new field"],
    )
    def test_deep_nesting(self, name, status, body):
        """It exhausts neither stack nor memory."""
        try:
            open_envelope(SHAPES[name], status, body, method="GET", path="/v2/a")
        except (APIError, DecodingError):
            return
        # From Python 3.14 on, the size of the stack limits the depth that is skipped.
        assert (name, status) == ("ACCEPTED", 200)
        assert b'"success":true' in body

    def test_deeply_nested_explanations_are_cut(self):
        """The first levels are searched, the rest is dots."""
        assert refusal({"success": False, "error": [[[[["deep"]]]]]}, 400).message == "..."
        assert refusal({"success": False, "error": [[[["here"]]]]}, 400).message == "here"


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, None),
            ("0", 0.0),
            ("5", 5.0),
            (" 120 ", 120.0),
            ("1.5", 1.5),
            ("Mon, 23 Nov 2026 18:00:30 GMT", 30.0),
            ("Mon, 23 Nov 2026 19:00:30 +0100", 30.0),
            ("Mon, 23 Nov 2026 18:00:30", 30.0),
            ("Mon, 23 Nov 2026 18:00:30 -0000", 30.0),
            ("Mon, 23 Nov 2026 17:00:00 GMT", 0.0),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1e5", None),
            ("inf", None),
            ("nan", None),
            ("\N{ARABIC-INDIC DIGIT TWO}", None),
            ("9" * 10, None),
            ("Mon, 99 Nov 2026 18:00:00 GMT", None),
        ],
    )
    def test_seconds_and_dates_are_read(self, value, expected):
        """A past date means no wait; invalid values are ignored."""
        assert retry_after(value, NOW) == expected

    @pytest.mark.parametrize(
        "value",
        [
            "Mon, 23 Nov 99999999999999999999 18:00:00 GMT",
            "Mon, 23 Nov 2026 18:00:99999999999999999999 GMT",
            "Mon, 23 Nov 2026 18:00:00 +99999999999999999999",
            "Fri, 31 Dec 9999 23:59:59 -2359",
            "Mon, 01 Jan 0001 00:00:00 +2359",
        ],
    )
    def test_a_date_beyond_the_calendar_is_ignored(self, value):
        """An invalid header does not replace the refusal by another error."""
        waiting = retry_after(value, NOW)
        assert waiting is None or waiting >= 0

    @given(st.text() | st.from_regex(r"\w{3}, \d+ Nov \d+ \d+:\d+:\d+ [+-]?\w+"))
    def test_any_header_is_a_time_or_none(self, value):
        """It is never negative, and never an error."""
        waiting = retry_after(value, NOW)
        assert waiting is None or waiting >= 0

    @given(st.integers(0, 10**6))
    def test_a_date_means_the_time_until_then(self, ahead):
        """A server may send either form."""
        moment = NOW + timedelta(seconds=ahead)
        assert retry_after(moment.strftime("%a, %d %b %Y %H:%M:%S GMT"), NOW) == ahead
        assert retry_after(str(ahead), NOW) == ahead
