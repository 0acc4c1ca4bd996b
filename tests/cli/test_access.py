"""`vm ip` and `vm ssh`, with an ssh that shows what it is given."""

import os
import sys

import attrs
import pytest

from async_vmapi.cli import access
from async_vmapi.cli.access import address_of
from async_vmapi.models.vm import PublicInterface

from .programs import NEW, ONLINE, SETTINGS, Program, emulator_in_thread

pytestmark = pytest.mark.programs

SSH = """#!/bin/sh
printf '<%s>' "$@"
echo
if [ -t 0 ]; then read line; echo "read $line from the terminal"; fi
[ ! -r /proc/self/status ] || grep SigIgn /proc/self/status
exit 7
"""


@pytest.fixture
def ssh(program, tmp_path):
    """A folder with the program ssh, for the command's PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    program.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    return folder


@pytest.fixture
def created(program):
    """Create a VM; return its id and address."""
    vm = program.json("vm", "create", "--name", "web 1", *NEW)["vm"]
    return vm["id"], vm["public_interface"]["primary_ip_ipv4address"]


class TestIp:
    def test_it_prints_the_address_alone(self, program, created):
        """By name or id, for a variable of a script."""
        vm_id, address = created
        assert program("vm", "ip", "web 1").stdout == f"{address}\n"
        assert program("vms", "ip", vm_id).stdout == f"{address}\n"
        assert "no VM has the id or name 'x'" in program("vm", "ip", "x", code=1).stderr

    def test_a_vm_without_an_address(self, tmp_path):
        """It says so, and what to do; ssh is not started."""
        with (
            emulator_in_thread(settings=SETTINGS.changed(address=1000), seed=1) as cloud,
            Program(cloud, tmp_path) as program,
        ):
            vm_id = program.json("vm", "create", "--name", "web-01", *NEW)["vm_id"]
            for command in ("ip", "ssh"):
                done = program("vm", command, "web-01", code=1)
                assert f"web-01 ({vm_id}) has no public address yet; it is online" in done.stderr
                assert done.stdout == ""


class TestSsh:
    def test_a_command(self, program, created, ssh):
        """It gets each word, options too; the exit code is that of ssh."""
        done = program("vm", "ssh", "web 1", "--user", "me", "--", "ls", "-l", "a b", code=7)
        assert done.stdout.startswith(f"<-l><me><--><{created[1]}><ls><-l><a b>\n")
        done = program("vm", "ssh", created[0], "uptime", code=7)
        assert done.stdout.startswith(f"<--><{created[1]}><uptime>\n")
        assert done.stderr == ""
        refused = program("vm", "ssh", "web 1", "-u", "", code=2)
        assert "--user is empty" in refused.stderr
        assert refused.stdout == ""

    def test_a_shell_gets_the_terminal(self, program, created, ssh):
        """And the signals, as if it had been called directly."""
        with program.terminal("vm", "ssh", "web 1") as terminal:
            terminal.until(f"<--><{created[1]}>")
            terminal.type("hello\n")
            assert terminal.end() == 7
            assert "read hello from the terminal" in terminal.shown
            if sys.platform == "linux":
                ignored = terminal.shown.partition("SigIgn:")[2].split()[0]
                assert int(ignored, 16) == 0

    def test_a_vm_that_is_not_online(self, program, created, ssh):
        """It is tried all the same: the state may be old."""
        program("vm", "power-off", "web 1", "--yes")
        done = program("vm", "ssh", "web 1", code=7)
        assert done.stderr == f"async-vmapi: web 1 ({created[0]}) is offline; trying to connect\n"
        assert f"<{created[1]}>" in done.stdout

    def test_what_was_logged_comes_before(self, program, created, ssh, tmp_path):
        """The process writes its log before ssh takes it over."""
        log = tmp_path / "log"
        program("--debug-file", str(log), "vm", "ssh", "web 1", code=7)
        assert "GET /v2/virtual-machines" in log.read_text().splitlines()[-1]

    def test_without_ssh(self, program, created, ssh):
        """It says what to do, and sends nothing."""
        (ssh / "ssh").unlink()
        program.environment["PATH"] = str(ssh)
        before = dict(program.cloud.api.requests)
        assert "install OpenSSH" in program("vm", "ssh", "web 1", code=1).stderr
        assert program.cloud.api.requests == before

    def test_on_windows(self, monkeypatch):
        """It runs as a child, as a process cannot be replaced there."""
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(SystemExit) as caught:
            access.become([sys.executable, "-c", "raise SystemExit(7)"])
        assert caught.value.code == 7


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "found"),
        [("10.0.0.1", "10.0.0.1"), ("-oProxyCommand=x", None), ("host", None), (None, None)],
    )
    def test_only_an_address_is_one(self, address, found):
        """Another text could be an option of ssh, or a line of a file."""
        vm = attrs.evolve(ONLINE, public_interface=PublicInterface(address))
        assert address_of(vm) == found
