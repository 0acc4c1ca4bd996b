"""``explain``: why an operation is complete, failed or unknown, as a program."""

import pytest

from async_vmapi.tasks.explain import RULE_SENTENCES

from .programs import NEW

pytestmark = pytest.mark.programs


class TestExplain:
    def test_a_report_and_its_items(self, program, cloud, tmp_path):
        """Those that did not succeed, or one of them; by number, id or name."""
        report = tmp_path / "report.json"
        ids = program.fleet(3)
        cloud.api.faults.fail_next("reboot", "success_false")
        command = ("fleet", "reboot", "--all", "--yes", "--limit", "1", "--report", str(report))
        program(*command, code=1)
        failed = program("explain", str(report)).stdout
        assert failed.startswith("reboot of 3: 2 succeeded, 1 failed\n\n#0 ")
        assert "No operation was accepted, so nothing was polled." in failed
        first = program("explain", f"{report}#1").stdout
        (vm_id,) = [vm_id for vm_id in ids.values() if f" {vm_id}: succeeded" in first]
        assert f"reboot of {vm_id}: complete" in first
        assert "offline" in first
        assert RULE_SENTENCES["cycle"] in first
        assert program("explain", f"{report}#{vm_id}").stdout == first
        refused = program("explain", f"{report}#nothing", code=2)
        assert "has no item 'nothing'" in refused.stderr

    def test_a_token(self, program):
        """What it holds, without a request."""
        made = program("vm", "create", "--name", "a", *NEW, "--ready", "address", "--no-wait")
        token = made.stdout.split()[-1]
        shown = program("explain", token).stdout
        assert shown.startswith("create of ")
        assert "The API accepted it; the last poll was 0 s later" in shown
        assert "It waits for: address" in shown
        assert shown.endswith(f"async-vmapi wait {token}\n")

    def test_neither(self, program, tmp_path):
        """A clear error."""
        other = tmp_path / "x.json"
        other.write_text("{}")
        assert "cannot be read" in program("explain", str(tmp_path / "no"), code=2).stderr
        assert "is no report" in program("explain", str(other), code=2).stderr
