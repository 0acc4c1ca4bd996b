"""The examples of one file: they run unchanged, on a virtual clock."""

import asyncio
import json
import signal

import pytest
import quickstart
import rolling_reboot

from async_vmapi import BulkReport
from tests.virtual_time import JumpingLoop


@pytest.fixture
def vm_virtual_time():
    """The scripts create their event loops, so no fixture shows that these are virtual."""
    return True


@pytest.fixture(autouse=True)
def virtual_loops(monkeypatch):
    """Make `asyncio.run` use loops whose clock jumps, and return the current one."""
    loops = []

    def run(main):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            loops.append(runner.get_loop())
            return runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)
    return loops


class TestQuickstart:
    def test_the_output_of_a_vms_life(self, vm_cloud, monkeypatch, capsys):
        """It creates one VM, resizes it and deletes it, and sees each completion."""
        monkeypatch.setattr(quickstart.Client, "from_env", vm_cloud.client)
        asyncio.run(quickstart.run())
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "quickstart is online, observed"
        assert lines[-2:] == ["quickstart has 2 cores, observed", "quickstart is gone"]
        assert any(line.endswith("offline, 2 cores, 2048 MB") for line in lines)
        assert vm_cloud.vms == ()
        assert [vm_cloud.requests[call] for call in ("create", "resize", "delete")] == [1, 1, 1]


@pytest.fixture
def ctrl_c():
    """Set up Ctrl-C as for a terminal's programs; a shell's background programs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestRollingReboot:
    def test_waves_with_a_minimum_online(self, vm_cloud, tmp_path, capsys):
        """One VM goes first, and never are more than a fifth of them down."""
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        vm_cloud.add("db-01")
        report = tmp_path / "reboot.json"
        rolling_reboot.main(["web-*", "--report", str(report)], vm_cloud.client)
        out = capsys.readouterr().out
        assert "reboot of 20: 20 succeeded" in out
        waves = [line.rpartition(" ")[2] for line in out.splitlines() if "in wave" in line]
        assert waves == ["1"] + 2 * ["2"] + 17 * ["3"]
        assert vm_cloud.requests["reboot"] == 20
        assert all(len(vm.history) == (1 if vm.label == "db-01" else 3) for vm in vm_cloud.vms)
        changes = sorted(
            (change.at, 1 if change.state == "offline" else -1)
            for vm in vm_cloud.vms
            for change in vm.history[1:]
        )
        down = most = 0
        for _, step in changes:
            down += step
            most = max(most, down)
        assert 1 < most <= 4
        assert BulkReport.from_json(report.read_text()).counts["succeeded"] == 20

    def test_a_failure_stops_it(self, vm_cloud, tmp_path):
        """If the first VM does not come back, no other goes down, and the exit code says so."""
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        vm_cloud.fail_next("reboot", "success_false")
        report = tmp_path / "reboot.json"
        with pytest.raises(ExceptionGroup):
            rolling_reboot.main(["web-*", "--report", str(report)], vm_cloud.client)
        counts = BulkReport.from_json(report.read_text()).counts
        assert (counts["failed"], counts["not_started"]) == (1, 19)
        assert vm_cloud.requests["reboot"] == 0

    @pytest.mark.usefixtures("ctrl_c")
    def test_an_interrupted_run_is_resumed(self, vm_cloud, tmp_path, capsys, virtual_loops):
        """Ctrl-C saves the report, and the next run does the rest: each VM once."""
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        report = tmp_path / "reboot.json"

        def interrupt_amid(loop):
            if vm_cloud.requests["reboot"] > 5:
                signal.raise_signal(signal.SIGINT)
            else:
                loop.call_later(1, interrupt_amid, loop)

        def interrupted_client():
            interrupt_amid(virtual_loops[-1])
            return vm_cloud.client()

        with pytest.raises(KeyboardInterrupt):
            rolling_reboot.main(["web-*", "--report", str(report)], interrupted_client)
        left = BulkReport.from_json(report.read_text())
        assert 0 < left.counts["succeeded"] < 20
        assert f"resume with --resume {report}" in capsys.readouterr().out
        rolling_reboot.main(
            ["web-*", "--resume", str(report), "--min-online", "16"], vm_cloud.client
        )
        assert vm_cloud.requests["reboot"] == 20
        assert json.loads(report.read_text())
        assert BulkReport.from_json(report.read_text()).counts["succeeded"] == 20
