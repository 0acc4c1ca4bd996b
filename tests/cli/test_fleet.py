"""``async-vmapi fleet``, as a program."""

import json
import os

import pytest

from async_vmapi import BulkReport

from .programs import LONG, NEW, ZONE

pytestmark = pytest.mark.programs


class TestCreating:
    def test_creating_by_a_pattern(self, program, cloud):
        """Each VM gets its number, and the report has each."""
        command = ["fleet", "create", "--count", "3", "--name", "web-{:04}", *NEW]
        shown = program(*command, "--first", "7").stdout
        assert {vm.label for vm in cloud.cloud.vms.values()} == {"web-0007", "web-0008", "web-0009"}
        assert "create of 3: 3 succeeded" in shown
        assert "3 observed, median" in shown
        assert "requests: 3 create" in shown
        assert "web-0008 " in shown

    @pytest.mark.parametrize("pattern", ["web", "web-{x}", "web-{", "{} {}", "{:z}"])
    def test_a_wrong_pattern(self, program, cloud, pattern):
        """It is refused with an example of a valid one."""
        command = ["fleet", "create", "--count", "2", "--name", pattern, *NEW]
        assert "{:04}" in program(*command, code=2).stderr
        assert not cloud.api.requests

    def test_resuming_from_a_report(self, program, cloud, tmp_path):
        """The items left are created, those created are not."""
        cloud.cloud.adjust("web-02", fail_state="error")
        report = tmp_path / "report.json"
        command = ["fleet", "create", "--count", "6", "--name", "web-{:02}", *NEW]
        first = program(
            *command, "--limit", "1", "--max-failures", "0", "--report", str(report), code=1
        )
        assert "not started" in first.stdout
        again = program("fleet", "create", *command[2:], "--resume", str(report), code=1)
        assert "create of 6: 5 succeeded, 1 failed" in again.stdout
        assert cloud.api.requests["create"] == 6
        assert "fleet create --resume" in program("fleet", "resume", str(report), code=2).stderr
        other = program(
            "fleet", "create", *command[2:], "--resume", str(report), "--count", "7", code=2
        )
        assert "not of a create of 7" in other.stderr


class TestChanging:
    def test_selecting_vms(self, program):
        """By label, zone and state, all conditions together."""
        ids = program.fleet(4)
        report = program.json("fleet", "shutdown", "--label", "web-0[12]", "--yes")
        assert {o["item"] for o in report["outcomes"]} == {ids["web-01"], ids["web-02"]}
        report = program.json(
            *("fleet", "power-off", "--zone", ZONE, "--state", "online", "--label", "web-*"),
            *("--label", "db-*", "--yes"),
        )
        assert {o["item"] for o in report["outcomes"]} == {ids["web-03"], ids["web-04"]}
        report = program.json("fleet", "power-on", "--all")
        assert report["counts"]["succeeded"] == 4
        assert BulkReport.from_json(json.dumps(report)).operation == "power_on"

    def test_the_other_operations(self, program, cloud):
        """Each is carried out on all VMs."""
        program.fleet(2)
        resize = ["fleet", "resize", "--all", "--yes", "--cores", "2", "--ram", "2048"]
        assert "resize of 2: 2 succeeded" in program(*resize).stdout
        assert {(vm.cores, vm.ram) for vm in cloud.cloud.vms.values()} == {(2, 2048)}
        for operation in ("reboot", "reset"):
            done = program("fleet", operation, "--all", "--yes").stdout
            assert f"{operation} of 2: 2 succeeded" in done
        deleted = program("fleet", "delete", "--all", "--yes", "--delete-resources").stdout
        assert "delete of 2: 2 succeeded" in deleted
        assert cloud.cloud.vms == {}
        assert "nothing to do" in program("fleet", "delete", "--all", "--yes").stdout

    def test_a_file_of_ids(self, program, tmp_path):
        """One on each line; ids that the list does not have are left to the API."""
        ids = program.fleet(3)
        file = tmp_path / "ids"
        file.write_text(
            f"\ufeff{ids['web-01']}\r\n\n# but web-02\n{ids['web-03']} # a comment\nnone\n"
            f"{ids['web-01']}\n"
        )
        report = program.json("fleet", "shutdown", "--id-file", str(file), "--yes", code=1)
        assert [(o["item"], o["status"]) for o in report["outcomes"]] == [
            (ids["web-01"], "succeeded"),
            (ids["web-03"], "succeeded"),
            ("none", "failed"),
        ]
        assert (
            "line 1 has more than one ID"
            in program(
                *("fleet", "shutdown", "--id-file", "-", "--yes"), given="a b", code=2
            ).stderr
        )
        narrowed = program(
            *("fleet", "power-on", "--id-file", "-", "--state", "offline"), given=file.read_text()
        )
        assert "left out: none" in narrowed.stderr
        assert "power_on of 2: 2 succeeded" in narrowed.stdout

    def test_the_first_line_is_the_canary(self, program, tmp_path):
        """The order of the file is that of the operation, whatever the labels are."""
        ids = program.fleet(3)
        file = tmp_path / "ids"
        file.write_text(f"{ids['web-03']}\nnone\n{ids['web-01']}\n{ids['web-02']}\n")
        command = ["fleet", "reboot", "--id-file", str(file), "--yes", "--waves", "1,100%"]
        dry = program.json(*command, "--dry-run")
        order = [ids["web-03"], "none", ids["web-01"], ids["web-02"]]
        assert [outcome["item"] for outcome in dry["outcomes"]] == order
        assert "wave 1" in dry["outcomes"][0]["reason"] or dry["outcomes"][0].get("wave", 1) == 1
        listed = program.json("vm", "list", "--id-file", str(file))
        assert [vm["label"] for vm in listed] == ["web-03", "web-01", "web-02"]

    def test_rollout_options(self, program, cloud):
        """Waves, failure budget and minimum online are those of a bulk call."""
        program.fleet(6)
        plan = ["--limit", "2", "--waves", "1,50%,100%", "--min-online", "50%"]
        report = program.json("fleet", "reboot", "--all", "--yes", *plan, "--max-failures", "1")
        assert [o.get("wave", 1) for o in report["outcomes"]] == [1, 2, 2, 2, 3, 3]
        sent = cloud.api.requests["reboot"]
        dry = program("fleet", "reboot", "--all", "--dry-run", *plan).stdout
        assert "1: dry run: it would be started in wave 1, the canary: web-01" in dry
        assert "3: dry run: it would be started in wave 2" in dry
        assert "nothing was sent" in dry
        assert cloud.api.requests["reboot"] == sent
        for wrong in (["--waves", "x"], ["--min-online", "120%"], ["--max-failures", "-1"]):
            program("fleet", "reboot", "--all", "--yes", *wrong, code=2)

    def test_a_report_file(self, program, cloud, tmp_path):
        """The command resumes from it; an unwritable file is refused before anything is sent."""
        program.fleet(3)
        report = tmp_path / "report.json"
        for _ in range(8):
            cloud.api.faults.fail_next("shutdown", "server_error")
        program.write_profile(max_retries=0)
        shutdown = ["fleet", "shutdown", "--all", "--yes", "--limit", "1", "--max-failures", "0"]
        first = program(*shutdown, "--report", str(report), code=3)
        assert "no more operations are started: more than 0 failed" in first.stdout
        assert "not started" in first.stdout
        cloud.api.faults.clear()
        refused = program("fleet", "resume", str(report), code=2)
        # The one with an unknown outcome is sent again too.
        assert "shutdown of 3 VMs requires --yes" in refused.stderr
        dry = program("fleet", "resume", str(report), "--dry-run").stdout
        assert "3: dry run: it would be started" in dry
        done = program("fleet", "resume", "-", "--yes", given=report.read_text()).stdout
        assert "shutdown of 3: 3 succeeded" in done
        assert "no report" in program("fleet", "resume", "-", given="{}", code=2).stderr
        sent = cloud.api.requests["power_on"]
        program("fleet", "power-on", "--all", "--report", str(tmp_path), code=2)
        assert cloud.api.requests["power_on"] == sent

    def test_a_report_of_another_endpoint(self, program, tmp_path):
        """Nothing of it is sent to this one."""
        report = tmp_path / "report.json"
        program("fleet", "power-on", "--all", "--report", str(report))
        saved = json.loads(report.read_text()) | {"origin": "http://127.0.0.1:1"}
        report.write_text(json.dumps(saved))
        refused = program("fleet", "resume", str(report), code=2).stderr
        assert "report is of http://127.0.0.1:1" in refused

    def test_a_dry_run_with_a_minimum_online(self, program):
        """It names the VMs that would not be changed."""
        program.fleet(2)
        dry = program("fleet", "reset", "--all", "--dry-run", "--min-online", "100%").stdout
        assert "2: fewer than 2 VMs would stay online" in dry


class TestConfirmation:
    def test_without_a_terminal_it_needs_yes(self, program, cloud):
        """Powering off and deleting are refused without it."""
        ids = program.fleet(2)
        for operation in ("shutdown", "power-off", "delete", "reboot", "reset"):
            refused = program("fleet", operation, "--all", code=2).stderr
            assert f"{operation} of 2 VMs requires --yes" in refused
        closed = program.popen(
            "fleet", "reset", "--all", preexec_fn=lambda: os.close(0), stdin=None
        )
        assert "requires --yes" in closed.communicate(timeout=LONG)[1]
        for command in (["shutdown"], ["delete"], ["resize", "--cores", "1", "--ram", "1"]):
            operation, *options = command
            program("vm", operation, ids["web-01"], *options, code=2)
        assert cloud.api.requests.keys() <= {"create", "list", "get", "regions", "templates"}

    def test_an_empty_selection(self, program):
        """It is a success, unless scripts want to know."""
        reboot = ("fleet", "reboot", "--label", "none", "--yes")
        assert "nothing to do" in program(*reboot).stdout
        assert "no VM is selected, of 0" in program(*reboot, "--fail-if-empty", code=1).stderr

    def test_without_a_condition_no_vm_is_selected(self, program, cloud):
        """All VMs are never selected by leaving something out."""
        assert "--all" in program("fleet", "delete", "--yes", code=2).stderr
        assert not cloud.api.requests

    def test_on_a_terminal_it_asks(self, program, cloud):
        """With the count, the names and the states; a no changes nothing, a yes is enough."""
        ids = program.fleet(2)
        program("vm", "shutdown", "web-02", "--yes")
        with program.terminal("fleet", "delete", "--label", "web-*") as terminal:
            shown = terminal.until("Continue? [y/N]")
            assert "delete of 2 VMs, 1 online, 1 offline:" in shown
            assert f"  web-01 ({ids['web-01']}), online" in shown
            assert f"  web-02 ({ids['web-02']}), offline" in shown
            terminal.type("n\n")
            assert terminal.end() == 1
            assert "nothing was changed" in terminal.shown
        assert len(cloud.cloud.vms) == 2
        with program.terminal("fleet", "delete", "--label", "web-*") as terminal:
            terminal.until("Continue? [y/N]")
            terminal.interrupt()
            assert terminal.end() == 130
        with program.terminal("fleet", "delete", "--label", "web-*") as terminal:
            terminal.until("Continue? [y/N]")
            terminal.type("y\n")
            assert terminal.end() == 0
            assert "delete of 2: 2 succeeded" in terminal.shown
            assert b"in flight" in terminal.raw
        assert cloud.cloud.vms == {}
