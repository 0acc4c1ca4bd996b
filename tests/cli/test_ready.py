"""``--ready`` and ``vm wait-ready``: VMs that can be used, as programs."""

import pytest

from async_vmapi.cli.completion import tree
from async_vmapi.cli.completion.answer import answer
from async_vmapi.tasks import token as tokens

from .programs import NEW, ssh_server

pytestmark = pytest.mark.programs

COMMANDS = ("create", "resize", "reboot", "reset", "power-on")


@pytest.fixture
def cloud(reachable_cloud):
    """A cloud whose VMs have addresses of this host."""
    return reachable_cloud


@pytest.fixture
def port():
    """The port of an SSH server on each VM."""
    with ssh_server() as port:
        yield port


class TestOperations:
    def test_a_create_waits_for_the_address(self, program, cloud):
        """The VM that it shows has one; without the option, it may have none yet."""
        create = ("vm", "create", "--name")
        without = program.json(*create, "a", *NEW)["vm"]
        assert without["public_interface"]["ipv4_addresses"] == []
        made = program.json(*create, "b", *NEW, "--ready", "address")
        assert made["vm"]["public_interface"]["ipv4_addresses"]
        assert (made["operation"], made["status"], made["evidence"]) == (
            *("create", "succeeded"),
            "observed",
        )
        assert made["vm_id"] == made["vm"]["id"]

    @pytest.mark.parametrize("operation", ["reboot", "reset", "power-on", "start", "resize"])
    def test_operations_on_vms_wait_for_conditions(self, program, cloud, port, operation):
        """Several VMs at once, and aliases too."""
        ids = program.fleet(2)
        more = {"resize": ("--cores", "2", "--ram", "2048", "--yes")}.get(operation, ())
        if operation in ("reboot", "reset"):
            more = ("--yes",)
        if operation in ("power-on", "start"):
            program("vm", "power-off", *ids, "--yes")
        done = program.json("vm", operation, *ids, *more, "--ready", f"ssh:{port}")
        assert [(o["vm_id"], o["status"]) for o in done] == [(i, "succeeded") for i in ids.values()]
        shown = program("vm", "power-on", "web-01", "--ready", f"tcp:{port}", "-q").stdout
        assert shown == f"{ids['web-01']}\n"

    def test_a_failed_operation_names_the_vm(self, program, cloud):
        """As without conditions."""
        ids = program.fleet(2)
        cloud.api.faults.fail_next("reboot", "success_false")
        done = program.json("vm", "reboot", *ids, "--yes", "--ready", "address", code=1)
        assert {o["vm_id"] for o in done} == set(ids.values())
        assert {o["status"] for o in done} == {"failed", "succeeded"}

    def test_secrets_and_options_of_a_create_still_count(self, program, cloud):
        """Only the waiting is different."""
        program("vm", "create", "--name", "a", *NEW, "--unique-name", "--ready", "address")
        assert cloud.api.requests["create"] == 1

    def test_shutdown_has_no_such_option(self, program):
        """A VM that is off is not ready."""
        for operation in ("shutdown", "power-off", "delete"):
            refused = program("vm", operation, "x", "--yes", "--ready", "ssh", code=2)
            assert "No such option" in refused.stderr

    def test_a_timeout_names_what_is_missing(self, program, cloud):
        """The token waits for the same conditions."""
        program.fleet(1)
        with ssh_server() as port:
            pass
        command = ("vm", "reboot", "web-01", "--yes", "--ready", f"ssh:{port}", "--timeout", "3")
        shown = program(*command, code=3).stdout
        assert f"missing ssh:{port}" in shown
        token = shown.partition("async-vmapi wait ")[2].split()[0]
        assert tokens.peek(token).operation == "reboot"
        shown = program("wait", token, "--timeout", "2", code=3).stdout
        assert f"missing ssh:{port}" in shown

    def test_progress_shows_what_is_missing(self, program, cloud):
        """On a terminal."""
        program.fleet(1)
        with ssh_server() as port:
            pass
        with program.terminal(
            *("vm", "wait-ready", "web-01", "--ready", f"address,ssh:{port}"), columns=150
        ) as terminal:
            terminal.until(f"last state: online, missing ssh:{port}")
            terminal.interrupt()
            assert terminal.end() == 130

    @pytest.mark.parametrize("command", COMMANDS)
    def test_text_that_is_no_condition_is_refused(self, program, cloud, command):
        """Before anything is sent; the error lists the forms."""
        more = ["--name", "a", *NEW] if command == "create" else ["web-01"]
        more += ["--cores", "1", "--ram", "1"] if command == "resize" else []
        refused = program("vm", command, *more, "--ready", "ssh,telnet", code=2)
        assert "conditions like 'address', 'tcp:443'" in refused.stderr
        assert not cloud.api.requests

    def test_tokens_carry_conditions(self, program, cloud):
        """`wait` waits for them."""
        with ssh_server() as port:
            pass
        token = program(
            *("vm", "create", "--name", "web-01", *NEW, "--ready", f"ssh:{port}", "--no-wait")
        ).stdout.strip()
        assert tokens.peek(token).ready == f"address,ssh:{port}"
        assert (
            f"missing ssh:{port}" in program.json("wait", token, "--timeout", "2", code=3)["reason"]
        )


class TestWaitReady:
    def test_it_waits_for_vms_and_changes_nothing(self, program, cloud, port):
        """By names and ids; without conditions, until they are online."""
        ids = program.fleet(2)
        before = dict(cloud.api.requests)
        done = program.json("vms", "wait-ready", "web-01", ids["web-02"], "--ready", f"ssh:{port}")
        assert [(o["operation"], o["status"], o["vm_id"]) for o in done] == [
            ("wait-ready", "succeeded", vm_id) for vm_id in ids.values()
        ]
        assert all(o["vm"]["public_interface"]["ipv4_addresses"] for o in done)
        shown = program("vm", "wait-ready", "web-01").stdout
        assert f"wait-ready of web-01 ({ids['web-01']}): succeeded" in shown
        after = dict(cloud.api.requests)
        assert {n for n in after if after[n] != before.get(n)} <= {"list", "get"}

    def test_a_timeout(self, program, cloud):
        """It is no success; the token continues."""
        program.fleet(1)
        program("vm", "power-off", "web-01", "--yes")
        waited = program(
            "vm", "wait-ready", "web-01", "--ready", "address", "--timeout", "1", code=3
        )
        assert "timed out after 1 s\n" in waited.stderr
        assert "before the VM was ready; missing online, address" in waited.stdout
        token = waited.stdout.partition("async-vmapi wait ")[2].split()[0]
        process = program.popen("wait", token)
        program("vm", "power-on", "web-01")
        assert process.wait() == 0

    def test_what_is_missing_is_refused(self, program, cloud):
        """A VM that does not exist, and a text that is no condition."""
        assert "no VM has the id" in program("vm", "wait-ready", "none", code=1).stderr
        refused = program("vm", "wait-ready", "none", "--ready", "ping", code=2)
        assert "conditions like" in refused.stderr


class TestCompletion:
    def test_forms_are_offered(self):
        """The forms of conditions, and VMs."""
        assert answer("zsh", ["async-vmapi", "vm", "reboot", "--ready", ""]) == [
            "address",
            "ssh",
            "tcp:",
            "http:/",
        ]
        assert tree.build()["commands"]["vm"]["commands"]["wait-ready"]["arguments"] == [
            {"value": "vm", "many": True}
        ]
