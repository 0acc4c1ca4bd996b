"""``async-vmapi vms``, and the catalogue for creates, as programs."""

import json

import pytest
import yaml

from async_vmapi.tasks import token as tokens

from .programs import NEW, TEMPLATE, ZONE

pytestmark = pytest.mark.programs


class TestReading:
    def test_the_catalogue(self, program):
        """Regions, zones, templates and keys are shown as tables, and as JSON."""
        shown = program("region", "list").stdout
        assert f"{ZONE}, DC1/PUBLIC-2 (not available)" in shown
        assert program.json("region", "list")[0]["zones"][0]["label"] == ZONE
        assert program("zone", "list", "--columns", "zone,available").stdout.split("\n")[
            2
        ].split() == [
            "DC1/PUBLIC-2",
            "no",
        ]
        first = program.json("zone", "list")[0]
        assert (first["label"], first["available"], first["region"]) == (ZONE, True, "Poznan")
        assert "password, sshkey" in program("template", "list").stdout
        assert {item["label"] for item in program.json("template", "list")} >= {TEMPLATE}
        assert "6e:1b" in program("key", "list").stdout
        shown = program("zone", "show", first["id"]).stdout
        assert ["zone", ZONE] in map(str.split, shown.splitlines())
        assert program.json("zones", "get", ZONE) == first
        assert program.json("region", "get", "Poznan")["zones"][0]["label"] == ZONE
        assert ["id", "12"] in map(str.split, program("key", "get", "deploy").stdout.splitlines())
        shown = program("template", "get", TEMPLATE, "-o", "yaml").stdout
        assert yaml.safe_load(shown)["label"] == TEMPLATE
        unknown = program("zone", "get", "none", code=1).stderr
        assert f"no zone is named 'none'; there are: {ZONE} {first['id']} " in unknown
        assert [key["name"] for key in program.json("key", "list")] == ["laptop", "deploy"]

    def test_listing_vms(self, program):
        """As a table or JSON, all or selected ones."""
        ids = program.fleet(3)
        listed = program("vm", "list").stdout
        assert listed.startswith("label ")
        assert all(label in listed and vm_id in listed for label, vm_id in ids.items())
        (one,) = program.json("vm", "list", "--label", "web-02")
        assert (one["id"], one["state"], one["ram"]) == (ids["web-02"], "online", 1024)
        assert program.json("vm", "list", "--state", "offline") == []
        shown = program("vm", "list", "--id-file", "-", given="none")
        assert "not in the list: none" in shown.stderr

    def test_a_failed_connection_is_reported_at_once(self, program, cloud):
        """Once, while the client retries."""
        program.write_profile(max_retries=6)
        cloud.api.faults.fail_next("list", "refuse", seconds=2.0)
        shown = program("vm", "list").stderr
        assert shown.count("retrying in") == shown.count("\n") == 1
        assert shown.startswith("async-vmapi: GET /v2/virtual-machines got no response: ")

    def test_no_connection(self, program):
        """The error says what to check."""
        program.write_profile(max_retries=0, url="http://127.0.0.1:9")
        assert "check the network, and the region or URL" in program("vm", "list", code=1).stderr

    def test_one_vm(self, program):
        """All its fields are shown, or that there is none."""
        ids = program.fleet(1)
        shown = program("vm", "show", ids["web-01"]).stdout
        for word in ("web-01", "online", "1024 MB", "40 GB (system)", TEMPLATE, ZONE):
            assert word in shown
        assert program.json("vm", "show", ids["web-01"])["label"] == "web-01"
        assert "no VM has the id or name 'none'" in program("vm", "show", "none", code=1).stderr

    def test_a_console(self, program):
        """Its address and its password, which is what the command is for."""
        ids = program.fleet(1)
        opened = program.json("vm", "console", ids["web-01"])
        assert opened.keys() == {"host", "port", "password"}
        shown = program("vm", "console", ids["web-01"]).stdout
        assert "password" in shown


class TestOperations:
    def test_every_operation(self, program, cloud):
        """Each ends when it is complete, and shows the VM then."""
        made = program.json("vm", "create", "--name", "web-01", *NEW)
        assert (made["operation"], made["status"], made["evidence"]) == (
            *("create", "succeeded"),
            "observed",
        )
        assert (made["vm"]["label"], made["vm"]["state"]) == ("web-01", "online")
        vm = made["vm_id"]
        resized = program.json("vm", "resize", vm, "--cores", "2", "--ram", "2048", "--yes")
        assert (resized["vm"]["cores"], resized["vm"]["ram"]) == (2, 2048)
        for operation, state in [
            ("reboot", "online"),
            ("reset", "online"),
            ("shutdown", "offline"),
            ("power-on", "online"),
            ("power-off", "offline"),
        ]:
            yes = [] if operation == "power-on" else ["--yes"]
            done = program.json("vm", operation, vm, *yes)
            assert (done["status"], done["vm"]["state"]) == ("succeeded", state)
        program("vm", "rename", vm, "web-99")
        assert program.json("vm", "show", vm)["label"] == "web-99"
        shown = program("vm", "delete", "web-99", "--delete-resources", "--yes").stdout
        assert f"delete of web-99 ({vm}): succeeded" in shown
        assert cloud.cloud.vms == {}

    def test_several_vms(self, program, cloud):
        """By ids and names, each once; one that does not exist stops all."""
        ids = program.fleet(3)
        missing = program("vm", "delete", "web-01", "none", "--yes", code=1).stderr
        assert "no VM has the id or name 'none'" in missing
        assert cloud.api.requests["delete"] == 0
        shown = program("vm", "shutdown", "web-02", ids["web-01"], "web-01", "--yes").stdout
        assert "shutdown of 2: 2 succeeded" in shown
        command = ("vm", "rm", "web-01", "none", "--missing-ok", "--yes")
        deleted = program.json(*command, fast=True)
        assert [(o["status"], o["vm_id"]) for o in deleted] == [
            ("succeeded", ids["web-01"]),
            ("succeeded", "none"),
        ]
        assert program("vm", "power-on", "web-02", "web-03", "-q").stdout.split() == [
            ids["web-02"],
            ids["web-03"],
        ]

    def test_not_waiting(self, program, cloud):
        """The tokens are printed, one on each line, and `wait` takes several."""
        program.fleet(2)
        sent = program("vm", "shutdown", "web-01", "web-02", "--yes", "--no-wait")
        assert len(sent.stdout.split()) == 2
        assert sent.stderr.count("): accepted\n") == 2
        waited = program.json("wait", *sent.stdout.split())
        assert [(o["status"], o["vm"]["state"]) for o in waited] == [("succeeded", "offline")] * 2
        cloud.api.faults.fail_next("power_on", "success_false")
        both = program.json("vm", "power-on", "web-01", "web-02", "--no-wait", code=1)
        assert {o["status"] for o in both} == {"accepted", "failed"}
        assert [bool(o["token"]) for o in both] == [o["status"] == "accepted" for o in both]
        cloud.api.faults.fail_next("power_on", "success_false")
        failed = program("vm", "power-on", "web-01", "--no-wait", code=1)
        assert failed.stdout == ""
        assert "power-on of web-01" in failed.stderr
        create = ("vm", "create", "--name", "new", *NEW, "--no-wait")
        token = program(*create).stdout
        assert program("wait", "-", "-o", "name", given=token).stdout == "new\n"
        assert "no token" in program("wait", "-", given="", code=2).stderr

    def test_not_waiting_for_vms_of_one_name(self, program, cloud):
        """Each has its line and its token."""
        ids = [*program.fleet(1, "dup").values(), *program.fleet(1, "dup").values()]
        sent = program("vm", "power-off", *ids, "--yes", "--no-wait")
        assert len(set(sent.stdout.split())) == 2
        assert all(f"dup ({vm_id}): accepted" in sent.stderr for vm_id in ids)
        # Without any time to look, the outcome is unknown, and the token is shown again.
        waited = program.json("wait", *sent.stdout.split(), "--timeout", "0", code=3)
        assert [o["status"] for o in waited] == ["unknown"] * 2
        assert [o["token"] for o in waited] == sent.stdout.split()

    def test_a_timeout(self, program, cloud):
        """The operation continues, and its token is shown; its outcome is not known yet."""
        cloud.cloud.adjust("web-*", shutdown=1000)
        program.fleet(2)
        command = ("shutdown", "--yes", "--timeout", "0.3")
        shown = program("vm", *command, "web-01", code=3)
        assert "timed out after 0.3 s; operations in flight continue" in shown.stderr
        assert "async-vmapi wait " in shown.stdout
        assert "interrupted" not in shown.stdout
        report = program.json("fleet", *command, "--all", code=3)
        assert report["counts"]["unknown"] == 2
        token = report["outcomes"][0]["token"]
        shown = program("wait", token, report["outcomes"][1]["token"], "--timeout", "0.1", code=3)
        assert "wait of 2: 2 unknown" in shown.stdout
        assert f"{report['outcomes'][0]['item']}: it was accepted, and it timed out" in shown.stdout
        assert "interrupted" not in shown.stdout + json.dumps(report)

    def test_a_timeout_before_all_are_accepted(self, program, cloud):
        """What was accepted has its token; what was sent is unknown, and says why."""
        ids = program.fleet(2)
        cloud.cloud.adjust("web-*", shutdown=1000)
        cloud.api.faults.fail_next("shutdown", "stall")
        command = ("vm", "shutdown", "web-01", "web-02", "--yes", "--no-wait", "--timeout", "1")
        sent = program.json(*command, code=3)
        assert {o["vm_id"] for o in sent} == set(ids.values())
        assert {o["status"] for o in sent} == {"accepted", "unknown"}
        assert all(o["token"] for o in sent)
        (reason,) = (o["reason"] for o in sent if o["status"] == "unknown")
        assert reason.startswith("it timed out; its shutdown was sent")

    def test_deleting_a_missing_vm(self, program, cloud):
        """It is an error, unless `--missing-ok` is set."""
        assert "'none'" in program("vm", "delete", "none", "--yes", code=1).stderr
        assert cloud.api.requests["delete"] == 0
        deleted = program("vm", "delete", "none", "--yes", "--missing-ok", fast=True).stdout
        assert "delete of none: succeeded" in deleted
        # A list can be stale: the API decides.
        assert cloud.api.requests["delete"] == 1
        command = ("vm", "delete", "none", "--yes", "--missing-ok", "--no-wait")
        assert program(*command).stderr == "async-vmapi: delete of none: it was gone already\n"
        assert program.json(*command)["reason"] == "it was gone already"

    def test_confirmation_names_the_vm(self, program, cloud):
        """With the label, the id and the state; a VM that does not exist is refused."""
        (vm_id,) = program.fleet(1).values()
        with program.terminal("vm", "delete", "web-01", columns=200) as terminal:
            shown = terminal.until("[y/N]")
            assert f"delete of 1 VM:\n  web-01 ({vm_id}), online" in shown
            terminal.type("n\n")
            assert terminal.end() == 1
        assert cloud.cloud.vms
        with program.terminal("vm", "delete", "none", columns=200) as terminal:
            assert terminal.end() == 1
            assert "no VM has the id or name 'none'" in terminal.shown
        reads = cloud.api.requests["get"]
        assert "requires --yes" in program("vm", "delete", vm_id, code=2).stderr
        assert cloud.api.requests["get"] == reads

    def test_a_failed_operation(self, program, cloud):
        """The reason is shown, and the exit code says so."""
        program.fleet(1)
        cloud.api.faults.fail_next("reboot", "success_false")
        failed = program.json("vm", "reboot", "web-01", "--yes", code=1)
        assert (failed["status"], failed["vm"]) == ("failed", None)
        cloud.api.faults.fail_next("reboot", "success_false")
        shown = program("vm", "reboot", "web-01", "--yes", code=1).stdout
        assert "reboot of web-01" in shown
        assert f"failed\n  {failed['error']}: " in shown

    def test_an_unknown_create_is_reconciled_by_its_token(self, program, cloud):
        """A create whose response was lost is not sent again; its token finds it later."""
        program.write_profile(reconcile_timeout=0.1)
        cloud.api.faults.fail_next("create", "drop_after")
        for _ in range(12):
            cloud.api.faults.fail_next("list", "server_error")
        create = ("vm", "create", "--name", "web-01", "--unique-name", *NEW)
        unknown = program.json(*create, code=3, fast=True)
        assert (unknown["status"], unknown["vm_id"]) == ("unknown", None)
        cloud.api.faults.clear()
        program.write_profile()
        waited = program.json("wait", unknown["token"])
        assert (waited["status"], waited["adopted"]) == ("succeeded", True)
        assert waited["vm"]["label"] == "web-01"
        assert waited["operation"] == "wait"
        again = program("wait", "-", given=unknown["token"] + "\n").stdout
        assert f"wait of web-01 ({waited['vm_id']}): succeeded" in again
        assert cloud.api.requests["create"] == 1
        assert "damaged" in program("wait", unknown["token"], "{}", code=2).stderr

    def test_a_token_is_shown_with_its_command(self, program, cloud):
        """The command that resumes."""
        program.write_profile(reconcile_timeout=0.1)
        ids = program.fleet(1)
        cloud.api.faults.fail_next("reboot", "drop_before")
        shown = program("vm", "reboot", ids["web-01"], "--yes", code=3).stdout
        assert "unknown" in shown
        token = shown.partition("async-vmapi wait ")[2].split()[0]
        assert tokens.peek(token).operation == "reboot"


class TestNewVMs:
    def test_secrets_are_not_options(self, program, cloud, tmp_path):
        """A password is in the environment, a cloud-init text in a file or on standard input."""
        user_data = tmp_path / "user-data"
        user_data.write_text("#cloud-config planted\n")
        ubuntu = ["Ubuntu 18.04" if word == TEMPLATE else word for word in NEW]
        more = ["--password-env", "ROOT_PASSWORD", "--key", "deploy", "--user-data"]
        command = ["vm", "create", "--name", "a", *ubuntu, *more]
        made = program(*command, str(user_data), ROOT_PASSWORD="planted-password")
        assert "planted" not in made.stdout + made.stderr
        program(*command, "-", given="#cloud-config", ROOT_PASSWORD="x" * 12)
        assert "ROOT_PASSWORD" in program(*command, str(user_data), code=2).stderr
        missing = program(*command, "/none", code=2, ROOT_PASSWORD="x" * 12)
        assert "/none cannot be read" in missing.stderr
        user_data.write_bytes(b"\xff")
        odd = program(*command, str(user_data), code=2, ROOT_PASSWORD="x" * 12)
        assert "UTF-8" in odd.stderr
        assert cloud.api.requests["create"] == 2

    def test_wrong_values_are_refused_before_anything_is_sent(self, program, cloud):
        """Names are looked up, and the error lists the valid ones."""
        for change, word in [
            (["--zone", "nowhere"], "DC2/PUBLIC-1"),
            (["--zone", "DC1/PUBLIC-2"], "not available; available: DC1/PUBLIC-1 ("),
            (["--template", "BeOS"], "Ubuntu 18.04"),
            (["--template", "Appliance", "--key", "laptop"], "sshkey; supported by: Ubuntu"),
            (["--key", "none"], "deploy (12)"),
            (["--iso", "debian.iso"], "either"),
            (["--cpus", "0"], "cpus"),
        ]:
            refused = program("vm", "create", "--name", "a", *NEW, *change, code=2)
            assert word in refused.stderr, change
        without = ["--cpus", "1", "--ram", "1024", "--zone", ZONE]
        assert "either" in program("vm", "create", "--name", "a", *without, code=2).stderr
        iso = [*without, "--iso", "debian.iso"]
        keyed = program("vm", "create", "--name", "a", *iso, "--key", "laptop", code=2)
        assert "--template" in keyed.stderr
        assert cloud.api.requests["create"] == 0
        program("vm", "create", "--name", "a", *iso)
        assert cloud.api.requests["create"] == 1
