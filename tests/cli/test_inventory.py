"""`inventory`: the VMs for Ansible, Prometheus and ssh; labels are others' texts."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.cli.inventory import hosts_of, render
from async_vmapi.models.vm import PublicInterface, Reference

from .programs import NEW, ONLINE, SETTINGS, Program, emulator_in_thread


def vms(*labels, **changes):
    """Return VMs with these labels, and ids by their place."""
    return [
        attrs.evolve(ONLINE, id=f"id-{number}", label=label, **changes)
        for number, label in enumerate(labels)
    ]


def names(*labels, prefix=""):
    return [host.name for host in hosts_of(vms(*labels), prefix)]


class TestNames:
    def test_a_plain_label_is_the_name(self):
        """With a prefix, if one is given."""
        assert names("web-01", "db.example.com") == ["web-01", "db.example.com"]
        assert names("web-01", None, prefix="e24-") == ["e24-web-01", "e24-id-1"]

    @pytest.mark.parametrize(
        "label",
        [
            *(None, "", "a b", "a\nHost *", "web[1:9]", "*", "!a", "-oProxyCommand=x", "a:22"),
            *("10.0.0.7", "localhost", "LocalHost", "all", "{{ x }}", "$(x)", "ünï", "a" * 64),
        ],
    )
    def test_another_label_gives_way_to_the_id(self, label):
        """It has a meaning for a program that reads it, or is the name of something else."""
        assert names("web-01", label) == ["web-01", "id-1"]

    def test_labels_that_are_not_unique(self):
        """Whatever their case, and if one is another VM's id."""
        assert names("twin", "Twin", "one") == ["id-0", "id-1", "one"]
        assert names("one", "id-0") == ["one", "id-1"]

    def test_a_vm_without_an_address_has_no_host(self):
        """It cannot be reached."""
        assert hosts_of(vms("web", public_interface=PublicInterface())) == []


class TestAnsible:
    def test_hosts_and_groups(self):
        """By zone, state, group and the name without its number."""
        hosts = hosts_of(vms("web-01", "web-02", "db", groups=(Reference("1", "Blue/Green"),)))
        found = json.loads(render("ansible", hosts, user="root"))["all"]
        assert found["hosts"]["web-01"] == {
            "ansible_host": "10.0.0.1",
            "ansible_user": "root",
            "vm_id": "id-0",
            "vm_label": "web-01",
            "vm_state": "online",
            "vm_zone": "DC1/PUBLIC-1",
        }
        every = {"web-01": {}, "web-02": {}, "db": {}}
        assert found["children"] == {
            "group_blue_green": {"hosts": every},
            "name_web": {"hosts": {"web-01": {}, "web-02": {}}},
            "state_online": {"hosts": every},
            "zone_dc1_public_1": {"hosts": every},
        }
        assert "ansible_user" not in render("ansible", hosts)

    def test_a_label_is_no_template(self):
        """Ansible evaluates the variables of an inventory."""
        (host,) = hosts_of(vms("{{ lookup('pipe', 'id') }}", state="{% x %}"))
        text = render("ansible", [host])
        assert "{{" not in text
        assert "{%" not in text
        assert json.loads(text)["all"]["hosts"]["id-0"]["vm_label"] == "__ lookup__pipe__ _id__ __"

    def test_no_vms(self):
        """It is a valid inventory all the same."""
        assert json.loads(render("ansible", [])) == {"all": {"hosts": {}, "children": {}}}


class TestPrometheus:
    def test_targets(self):
        """Labels that change are for relabelling only: each change would begin a new series."""
        (vm,) = vms("web 1", groups=(Reference("1", "a"), Reference("2", "b")))
        assert json.loads(render("prometheus", hosts_of([vm]), port=9100)) == [
            {
                "targets": ["10.0.0.1:9100"],
                "labels": {
                    "vm": "id-0",
                    "vm_id": "id-0",
                    "zone": "DC1/PUBLIC-1",
                    "__meta_vmapi_state": "online",
                    "__meta_vmapi_label": "web 1",
                    "__meta_vmapi_groups": ",a,b,",
                },
            }
        ]
        assert render("prometheus", []) == "[]\n"


class TestSshConfig:
    def test_hosts(self):
        """One block for each."""
        hosts = hosts_of(vms("web-01", "a\nHost *"))
        assert render("ssh-config", hosts, user="root") == (
            "Host web-01\n    HostName 10.0.0.1\n    User root\n"
            "Host id-1\n    HostName 10.0.0.1\n    User root\n"
        )

    @given(st.lists(st.text() | st.none()))
    def test_no_label_adds_a_line(self, labels):
        """Two lines for each VM, and only those."""
        lines = render("ssh-config", hosts_of(vms(*labels))).splitlines()
        assert lines[1::2] == ["    HostName 10.0.0.1"] * len(labels)
        assert len({line.split(" ")[1] for line in lines[::2]}) == len(labels)
        assert all(line.isascii() and line.isprintable() for line in lines)


@pytest.mark.programs
class TestCommand:
    def test_the_selected_vms(self, program, cloud):
        """By the same options as other commands."""
        program.fleet(3)
        done = program("inventory", "--format", "ssh-config", "--label", "web-0[12]")
        assert [line for line in done.stdout.splitlines() if "Host " in line] == [
            "Host web-01",
            "Host web-02",
        ]
        assert done.stderr == ""
        done = program("inventory", "--format", "prometheus", "--port", "80", "--label", "none")
        assert json.loads(done.stdout) == []
        done = program("inventory", "--format", "prometheus", "--id-file", "-", given="none")
        assert "not in the list: none" in done.stderr

    @pytest.mark.parametrize(
        "option", [("--user", "a\nb"), ("--prefix", "a b"), ("--port", "0"), ("--format", "x")]
    )
    def test_wrong_arguments(self, program, cloud, option):
        """Nothing is sent."""
        program("inventory", "--format", "ansible", *option, code=2)
        assert not cloud.api.requests

    def test_vms_without_an_address_are_named(self, tmp_path):
        """They are left out."""
        with (
            emulator_in_thread(settings=SETTINGS.changed(address=1000), seed=1) as cloud,
            Program(cloud, tmp_path) as program,
        ):
            vm_id = program.json("vm", "create", "--name", "web-01", *NEW)["vm_id"]
            done = program("inventory", "--format", "ssh-config")
            assert done.stdout == ""
            assert f"left out, without an address: web-01 ({vm_id})" in done.stderr
