"""``fleet OPERATION --plan`` and ``fleet apply``, as programs."""

import json

import pytest

pytestmark = pytest.mark.programs


class TestApply:
    def test_what_was_approved_is_done(self, program, cloud, tmp_path):
        """And nothing before; the report names the plan's hash."""
        file, report = tmp_path / "plan.json", tmp_path / "report.json"
        ids = program.fleet(3)
        command = ("fleet", "reboot", "--all", "--waves", "1,100%", "--plan", str(file))
        shown = program(*command).stdout
        plan = json.loads(file.read_text())
        assert shown.startswith(f"reboot of 3 VMs, plan {plan['hash'][:12]}:\n")
        assert "in wave 1, the canary" in shown
        assert shown.endswith(f"To carry it out: async-vmapi fleet apply {file}\n")
        assert not cloud.api.requests["reboot"]
        assert [vm["id"] for vm in plan["vms"]] == list(ids.values())
        refused = program("fleet", "apply", str(file), code=2)
        assert "requires --yes" in refused.stderr
        program("fleet", "apply", str(file), "--yes", "--report", str(report))
        done = json.loads(report.read_text())
        assert done["approved"] == plan["hash"]
        assert [outcome.get("wave", 1) for outcome in done["outcomes"]] == [1, 2, 2]
        assert cloud.api.requests["reboot"] == 3

    def test_a_fleet_that_differs_is_refused(self, program, cloud, tmp_path):
        """Nothing is sent; each difference is named."""
        file = tmp_path / "plan.json"
        ids = program.fleet(3)
        program("fleet", "shutdown", "--label", "web-*", "--plan", str(file))
        program("vm", "power-off", "web-01", "--yes")
        program("vm", "delete", "web-02", "--yes")
        refused = program("fleet", "apply", str(file), "--yes", code=1).stderr
        assert f"{ids['web-01']} (web-01): state online is now offline" in refused
        assert f"{ids['web-02']} (web-02) is gone" in refused
        assert "web-03" not in refused
        assert not cloud.api.requests["shutdown"]

    def test_what_is_no_plan_is_refused(self, program, tmp_path):
        """Before any request."""
        file = tmp_path / "plan.json"
        file.write_text('{"format": "async_vmapi plan 1"}')
        assert "plan is damaged" in program("fleet", "apply", str(file), "--yes", code=2).stderr
        ids = tmp_path / "ids"
        ids.write_text("a-b-c\n")
        shown = program("fleet", "reboot", "--id-file", str(ids), "--plan", str(file), code=2)
        assert "no list shows a-b-c" in shown.stderr
