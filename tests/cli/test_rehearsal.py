"""``fleet OPERATION --rehearse N``, as programs."""

import json

import pytest

from async_vmapi.bulk.rehearsal import Rehearsal

pytestmark = pytest.mark.programs


class TestRehearse:
    def test_nothing_is_changed(self, program, cloud, tmp_path):
        """What may happen is shown as a table, as JSON in the report file, and as a picture."""
        program.fleet(3)
        requests = dict(cloud.api.requests)
        report, picture = tmp_path / "r.json", tmp_path / "r.svg"
        files = ("--report", str(report), "--picture", str(picture))
        plan = ("--waves", "1,100%", "--min-online", "1", "--check", "ssh")
        hazards = ("--hazard", "unhealthy=1", "--hazard", "warm_up=1,2")
        command = ("fleet", "reboot", "--all", "--rehearse", "2", *plan, *hazards, *files)
        shown = program(*command).stdout
        assert "reboot of 3, 2 runs: " in shown
        assert "stopped in 2 of 2 runs: wave 1 had failures" in shown
        assert "failed or unknown in a run, on average: TaskTimeout 1\n" in shown
        for line in ("duration", "requests per second", "fewest online", "not started"):
            assert f"\n{line} " in shown
        assert shown.endswith("nothing was changed\n")
        found = Rehearsal.from_json(report.read_text())
        assert f"--rehearse 1 --rehearse-seed {found.worst.seed}" in shown
        assert found.hazards.warm_up == (1, 2)
        assert picture.read_text().startswith("<svg ")
        assert set(cloud.api.requests) == set(requests) | {"list"}
        assert {k: v for k, v in cloud.api.requests.items() if k != "list"} == {
            k: v for k, v in requests.items() if k != "list"
        }

    def test_json_and_a_seed(self, program):
        """Standard output has JSON alone, and the same seed gives the same."""
        program.fleet(2)
        command = ("fleet", "shutdown", "--all", "--rehearse", "1", "--rehearse-seed", "9")
        shown = program(*command, "--json").stdout
        first = json.loads(shown)
        assert [run.seed for run in Rehearsal.from_json(shown).runs] == [9]
        assert json.loads(program(*command, "--json").stdout) == first
        assert "seed: 9" in program(*command, "-o", "yaml").stdout

    def test_creates(self, program, cloud):
        """They are rehearsed, and not made."""
        command = ("fleet", "create", "--count", "3", "--name", "new-{}", "--rehearse", "1")
        size = ("--cpus", "1", "--ram", "1024", "--zone", "DC1/PUBLIC-1", "--template", "2268")
        shown = program(*command, *size, "--hazard", "failing=0").stdout
        assert "create of 3, 1 runs" in shown
        assert "fewest online" not in shown
        assert not cloud.api.requests["create"]

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            (("--hazard", "failing=0.1"), "--hazard requires --rehearse N"),
            (("--picture", "x.svg"), "--picture requires --rehearse N"),
            (("--rehearse-seed", "3", "--yes"), "--rehearse-seed requires --rehearse N"),
            (("--rehearse", "1", "--plan", "x.json"), "--rehearse and --plan exclude each other"),
            (("--rehearse", "1", "--hazard", "falling=0.1"), "use NAME=VALUE with one of"),
            (("--rehearse", "1", "--hazard", "failing"), "use NAME=VALUE with one of"),
            (("--rehearse", "1", "--hazard", "failing=much"), "use a value like failing=0.01"),
            (("--rehearse", "1", "--hazard", "warm_up=5"), "use a value like warm_up=5,30"),
            (("--rehearse", "1", "--hazard", "failing=2"), "failing=2.0 is not a share"),
            (("--rehearse", "1", "--picture", "/no/such.svg"), "cannot be written"),
        ],
    )
    def test_wrong_options(self, program, cloud, options, why):
        """Nothing is sent."""
        assert why in program("fleet", "reboot", "--all", *options, code=2).stderr
        assert not cloud.api.requests

    def test_no_vm(self, program):
        """It says so, and succeeds like the operation itself."""
        shown = program("fleet", "reboot", "--all", "--rehearse", "1").stderr
        assert "nothing to rehearse" in shown
