"""The command `probe` over HTTP: what it shows and writes, and that it leaves nothing behind."""

import random
import signal
import time

import pytest

from async_vmapi.facts import Fact, Facts

from .programs import LONG, NEW, eventually

pytestmark = pytest.mark.programs

KILLS = 30
QUICK = [
    "--price",
    "0.02",
    "--interval",
    "0.03",
    "--patience",
    "0.8",
    "--rounds",
    "1",
    "--vms",
    "1",
]


@pytest.fixture
def other(program):
    """A VM that is not the probe's."""
    return program.json("vm", "create", "--name", "production", *NEW)["vm_id"]


def touched(cloud, vm_id):
    """Return the operations on a VM besides its create."""
    return [o.kind for o in cloud.cloud.operations if o.vm_id == vm_id and o.kind != "create"]


class TestProbe:
    def test_it_measures_and_leaves_no_vm(self, program, cloud, other, tmp_path):
        """The plan and its cost are shown first; the file can be used at once."""
        file = str(tmp_path / "cloud.toml")
        shown = program("probe", *QUICK, "--output", file, "--yes")
        assert "highest cost: 0.08 (1 VM, 2 hours each" in shown.stdout
        assert "duration: about" in shown.stdout
        facts = Facts.of(file)
        assert f"{len(facts)} facts are in {file}" in shown.stderr
        for name, value in (
            ("reads.get_shape", "object"),
            ("reads.not_found", "json"),
            ("reads.max_staleness", 0.0),
            ("names.change", "verbatim"),
            ("reboot.shows", True),
            ("reset.shows", True),
            ("resize.restarts", True),
            ("power.on", True),
            ("power.off", True),
        ):
            assert facts[name].value == value, name
        assert facts["durations.create"].value[0] >= 0.2
        assert list(cloud.cloud.vms) == [other]
        assert touched(cloud, other) == []
        assert [path.name for path in tmp_path.iterdir() if "intent" in path.name] == []

    def test_read_only_updates_the_file(self, program, cloud, other, tmp_path):
        """What it cannot find stays."""
        file = str(tmp_path / "cloud.toml")
        old = Facts({"reads.get_shape": Fact("list", "measured", 1), "power.on": Fact(True, "x")})
        (tmp_path / "cloud.toml").write_text(old.to_toml())
        creates = cloud.api.requests["create"]
        program("probe", "--read-only", "--output", file)
        facts = Facts.of(file)
        assert facts["reads.get_shape"].value == "object"
        assert facts["power.on"] == old["power.on"]
        assert cloud.api.requests["create"] == creates
        assert touched(cloud, other) == []

    def test_nothing_is_created_without_consent(self, program, cloud, tmp_path):
        """No price, a cost above the budget, no terminal to ask on, or no."""
        file = str(tmp_path / "cloud.toml")
        for arguments, words in (
            ([], "price is not known"),
            (["--price", "0.02", "--budget", "0.1"], "budget=0.1 is below the highest cost"),
            (["--price", "0.02"], "requires --yes"),
        ):
            shown = program("probe", "--output", file, *arguments, code=2)
            assert words in shown.stderr
        with program.terminal("probe", "--price", "0.02", "--output", file) as terminal:
            terminal.until("Continue?")
            terminal.type("n\n")
            assert terminal.end() == 1
        assert cloud.api.requests["create"] == 0
        assert not (tmp_path / "cloud.toml").exists()

    def test_two_files_are_compared(self, program, tmp_path):
        """By exit code, too; measurements scatter."""
        one, two, far = (tmp_path / name for name in ("one", "two", "far"))
        for path, create, restarts in ((one, 30.0, True), (two, 31.5, True), (far, 50.0, False)):
            facts = {
                "durations.create": Fact((20.0, create), "measured", 5),
                "states.create": Fact((("online", 20.0, create),), "measured", 5),
                "resize.restarts": Fact(restarts, "measured", 3),
            }
            path.write_text(Facts(facts).to_toml())
        assert "no fact has changed" in program("probe", "--diff", str(one), str(two)).stderr
        shown = program("probe", "--diff", str(one), str(far), code=1).stdout.splitlines()
        assert [line.split()[0] for line in shown[1:]] == [
            *("states.create", "resize.restarts", "durations.create")
        ]
        assert (
            "only one of"
            in program("probe", "--diff", str(one), str(two), "--clean", code=2).stderr
        )
        assert (
            "cannot be read"
            in program("probe", "--diff", str(one), str(tmp_path / "no"), code=2).stderr
        )


class TestKilled:
    def test_ctrl_c_deletes_the_vm(self, program, cloud, other, tmp_path):
        """It reports it, and keeps nothing."""
        file = str(tmp_path / "cloud.toml")
        process = program.popen("probe", *QUICK, "--output", file, "--yes")
        eventually(lambda: len(cloud.cloud.vms) > 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 130
        assert "deleting 1 VM" in errors
        assert list(cloud.cloud.vms) == [other]
        assert list(tmp_path.glob("cloud*")) == []

    def test_clean_deletes_what_a_kill_leaves(self, program, cloud, other, tmp_path, stride):
        """At any moment: no VM of the probe is left, and no other one is touched."""
        draw, left = random.Random(7), 0
        file = str(tmp_path / "cloud.toml")
        for _ in range(0, KILLS, stride):
            lists = cloud.api.requests["list"]
            process = program.popen("probe", *QUICK, "--output", file, "--yes")
            eventually(lambda lists=lists: cloud.api.requests["list"] > lists)
            time.sleep(draw.choice([draw.uniform(0, 0.6), draw.uniform(0, 12)]))
            process.kill()
            process.wait(LONG)
            left += len(cloud.cloud.vms) > 1
            program("probe", "--clean", "--yes", "--appears", "1", "--output", file)
            assert list(cloud.cloud.vms) == [other]
            assert not (tmp_path / "cloud.toml.intent").exists()
        # Most moments leave a VM; without one, a clean-up proves little.
        assert left >= KILLS // stride // 3
        assert touched(cloud, other) == []
        assert cloud.cloud.vms[other].label == "production"
