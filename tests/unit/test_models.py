"""The models: VMs as they were read, and requests that are always valid."""

import attrs
import pytest

from async_vmapi import (
    CdromBoot,
    Console,
    CreateRequest,
    ImageBoot,
    InvalidArgument,
    IPv4Address,
    PublicInterface,
    Reference,
    SSHKey,
    StorageVolume,
    Template,
    VirtualMachine,
    Zone,
)

SECRET = "planted-secret"
BOOT = ImageBoot(os="2599")
GOOD = {"name": "web-01", "cpus": 2, "ram": 2048, "zone_id": "zone-1", "boot": BOOT}


def make_vm(**changes):
    """Return a VM, as if decoded, with some fields as given."""
    thing = Reference("1", "thing")
    return VirtualMachine(
        **{
            "id": "1729",
            "label": "web-01",
            "cores": 2,
            "ram": 2048,
            "state": "online",
            "system": thing,
            "cost_per_hour": 0.08,
            "transfer_used": 0.0,
            "owner": thing,
            "public_interface": PublicInterface(),
            "storage_volumes": (),
            "zone": thing,
        }
        | changes
    )


class TestAddresses:
    @pytest.mark.parametrize(
        ("primary", "others", "expected"),
        [
            (None, [], ()),
            ("", [], ()),
            ("192.0.2.1", [], ("192.0.2.1",)),
            ("192.0.2.1", ["192.0.2.1"], ("192.0.2.1",)),
            ("192.0.2.2", ["192.0.2.1", "192.0.2.2"], ("192.0.2.2", "192.0.2.1")),
            ("", ["192.0.2.1"], ("192.0.2.1",)),
            (None, ["192.0.2.1", "192.0.2.3"], ("192.0.2.1", "192.0.2.3")),
        ],
    )
    def test_addresses_are_the_primary_one_and_then_the_rest(self, primary, others, expected):
        """Each address comes once, and a VM without any has none."""
        known = tuple(IPv4Address(str(n), address) for n, address in enumerate(others))
        interface = PublicInterface(primary, known)
        assert make_vm(public_interface=interface).addresses == expected


class TestSystemVolume:
    def test_system_volume_is_the_disk_that_is_marked(self):
        """It need not be the first."""
        data, system = StorageVolume("1", 10.0, False), StorageVolume("2", 40.0, True)
        assert make_vm(storage_volumes=(data, system)).system_volume is system

    @pytest.mark.parametrize("volumes", [(), (StorageVolume("1", 10.0, False),)])
    def test_a_vm_may_have_no_system_volume_yet(self, volumes):
        """It is None, and no error."""
        assert make_vm(storage_volumes=volumes).system_volume is None


class TestValues:
    def test_models_are_frozen(self):
        """They can be shared."""
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            make_vm().state = "offline"

    def test_equal_vms_are_equal_and_hash_alike(self):
        """VMs can be compared with earlier ones, and put in sets."""
        assert make_vm() == make_vm()
        assert len({make_vm(), make_vm(), make_vm(state="offline")}) == 2

    @pytest.mark.parametrize(
        "model",
        [
            Reference(7, "x"),
            IPv4Address(7, "192.0.2.1"),
            Zone(7, "l", "n", True),
            Template(7, "l", ()),
            SSHKey(7, "n", "f"),
            StorageVolume(7, "40", True),
            make_vm(id=7),
        ],
        ids=lambda model: type(model).__name__,
    )
    def test_ids_become_texts(self, model):
        """Ids are compared and put in paths, so they have one type."""
        assert model.id == "7"
        assert type(model.id) is str

    @pytest.mark.parametrize(
        ("field", "given", "read"),
        [
            ("cores", "4", 4),
            ("ram", "8192", 8192),
            ("cost_per_hour", "0.02", 0.02),
            ("transfer_used", "0.00", 0.0),
            ("transfer_used", "1e3", 1000.0),
            ("cost_per_hour", 1, 1.0),
        ],
    )
    def test_numbers_given_as_texts_are_read(self, field, given, read):
        """However the API writes a number, users see one type."""
        value = getattr(make_vm(**{field: given}), field)
        assert value == read
        assert type(value) is type(read)

    @pytest.mark.parametrize(
        ("field", "given"),
        [
            ("cores", "abc"),
            ("cores", ""),
            ("ram", "2.5"),
            ("ram", "inf"),
            ("cost_per_hour", "nan"),
            ("cost_per_hour", "-inf"),
            ("transfer_used", "1e999"),
            ("transfer_used", "12 GB"),
        ],
    )
    def test_texts_that_hold_no_number_are_refused(self, field, given):
        """NaN and infinity are no prices; the error names the field and not the value."""
        with pytest.raises(ValueError, match=f"'{field}' is neither a number"):
            make_vm(**{field: given})


class TestCreateRequest:
    @pytest.mark.parametrize("boot", [BOOT, CdromBoot(iso="debian-12.iso")])
    def test_a_valid_request_can_be_built(self, boot):
        """It keeps its arguments."""
        request = CreateRequest(**GOOD | {"boot": boot})
        assert attrs.asdict(request, recurse=False) == GOOD | {"boot": boot}

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            *(("name", value) for value in ("", " ", "a\n", None, 5)),
            *((name, value) for name in ("cpus", "ram") for value in (0, -1, True, 1.0, "2", None)),
            *(("zone_id", value) for value in ("", "\0", None, 7)),
            *(("boot", value) for value in (None, "image", {"os": SECRET}, BOOT.os, ImageBoot)),
        ],
    )
    def test_a_wrong_field_is_refused_by_its_name(self, argument, value):
        """An invalid request never exists."""
        with pytest.raises(InvalidArgument, match=argument) as caught:
            CreateRequest(**GOOD | {argument: value})
        assert caught.value.argument == argument
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("name", GOOD)
    def test_every_field_is_required(self, name):
        """No default surprises."""
        with pytest.raises(TypeError, match=name):
            CreateRequest(**{key: value for key, value in GOOD.items() if key != name})


class TestBoot:
    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("os", ""),
            ("os", None),
            ("os", 2599),
            ("password", ""),
            ("password", 5),
            ("key_id", ""),
            ("key_id", 9),
            ("user_data", ""),
            ("user_data", b"#cloud-config"),
        ],
    )
    def test_a_wrong_field_of_an_image_boot_is_refused_by_its_name(self, argument, value):
        """A given value is a text; the default is None."""
        with pytest.raises(InvalidArgument) as caught:
            ImageBoot(**{"os": "2599", argument: value})
        assert caught.value.argument == argument

    @pytest.mark.parametrize("iso", ["", " ", None, 5])
    def test_a_wrong_cd_image_is_refused(self, iso):
        """A CD boot needs an image's name."""
        with pytest.raises(InvalidArgument) as caught:
            CdromBoot(iso=iso)
        assert caught.value.argument == "iso"

    @pytest.mark.parametrize("name", ["os", "password", "key_id", "user_data"])
    def test_a_cd_boot_has_no_fields_of_an_image_boot(self, name):
        """The API allows these with an image alone."""
        with pytest.raises(TypeError):
            CdromBoot(iso="debian.iso", **{name: "x"})

    def test_an_image_boot_needs_a_template_and_no_cd_image(self):
        """The API needs exactly one boot source."""
        with pytest.raises(TypeError):
            ImageBoot(password=SECRET)
        with pytest.raises(TypeError):
            ImageBoot(os="2599", iso="debian.iso")

    @pytest.mark.parametrize(
        "holder",
        [
            ImageBoot(os="2599", password=SECRET, user_data=SECRET),
            CreateRequest(**GOOD | {"boot": ImageBoot(os="1", password=SECRET, user_data=SECRET)}),
            Console("192.0.2.9", "5901", SECRET),
        ],
        ids=lambda holder: type(holder).__name__,
    )
    def test_no_secret_is_printed(self, holder):
        """A password is sent and never shown, however its object is printed."""
        assert SECRET not in f"{holder!r} {holder} {[holder]}"


class TestConsole:
    def test_the_port_is_a_number_even_if_it_came_as_a_text(self):
        """A client connects to it."""
        assert Console("192.0.2.9", "5901", SECRET).port == 5901
