"""The examples of one file: they run unchanged, on a virtual clock."""

import asyncio
import itertools
import json
import signal
import socket

import pytest
import quickstart
import rolling_reboot

from async_vmapi import BulkReport
from async_vmapi.emulator import Settings, catalogue
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


@pytest.fixture
def vm_settings():
    """A cloud whose VMs' addresses are this computer's."""
    return Settings(network="127.0.0.1/32")


@pytest.fixture
def check():
    """A condition that all VMs meet: a port of this computer."""
    # Connections are never taken from the queue, so it is long.
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield f"tcp:{listening.getsockname()[1]}"


def down_at_once(vms):
    """Return how many of these VMs were offline at once, at most."""
    changes = sorted(
        (change.at, 1 if change.state == "offline" else -1)
        for vm in vms
        for change in vm.history[1:]
    )
    return max(itertools.accumulate(step for _, step in changes))


class TestRollingReboot:
    def test_zones_and_waves_with_a_minimum_online(self, vm_cloud, tmp_path, capsys, check):
        """One VM goes first, and never are more than a fifth of a zone down."""
        other = next(zone for zone in reversed(catalogue.ZONES.values()) if zone["available"])
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        vm_cloud.add("db-01")
        for number in range(20, 25):
            vm_cloud.add(f"web-{number:02}").zone = other
        report = tmp_path / "reboot.json"
        options = ["web-*", "--report", str(report), "--check", check]
        rolling_reboot.main([*options, "--dry-run"], vm_cloud.client)
        assert capsys.readouterr().out.count("in wave 1, the canary, in DC1/PUBLIC-1") == 1
        assert not report.exists()
        rolling_reboot.main(options, vm_cloud.client)
        out = capsys.readouterr().out
        assert "reboot of 25: 25 succeeded" in out
        assert out.count("soaking: ") == 6
        waves = [line.rpartition(" ")[2] for line in out.splitlines() if "rebooting" in line]
        assert waves == ["1", *2 * ["2"], *17 * ["3"], "4", "5", *3 * ["6"]]
        assert vm_cloud.requests["reboot"] == 25
        assert all(len(vm.history) == (1 if vm.label == "db-01" else 3) for vm in vm_cloud.vms)
        assert 1 < down_at_once(vm for vm in vm_cloud.vms if vm.zone is not other) <= 4
        assert down_at_once(vm for vm in vm_cloud.vms if vm.zone is other) == 1
        assert BulkReport.from_json(report.read_text()).counts["succeeded"] == 25

    def test_an_unhealthy_canary_stops_it(self, vm_cloud, tmp_path):
        """The default check is SSH, which is refused here."""
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        report = tmp_path / "reboot.json"
        with pytest.raises(ExceptionGroup):
            rolling_reboot.main(
                ["web-*", "--report", str(report), "--check", f"ssh:{port}"], vm_cloud.client
            )
        (failed,) = BulkReport.from_json(report.read_text()).failed
        assert f"missing ssh:{port} (connection refused)" in failed.reason
        assert vm_cloud.requests["reboot"] == 1

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
    def test_an_interrupted_run_is_resumed(self, vm_cloud, tmp_path, capsys, virtual_loops, check):
        """Ctrl-C saves the report, and the next run does the rest: each VM once."""
        for number in range(20):
            vm_cloud.add(f"web-{number:02}")
        report = tmp_path / "reboot.json"
        options = ["web-*", "--check", check]

        def interrupt_amid(loop):
            if vm_cloud.requests["reboot"] > 5:
                signal.raise_signal(signal.SIGINT)
            else:
                loop.call_later(1, interrupt_amid, loop)

        def interrupted_client():
            interrupt_amid(virtual_loops[-1])
            return vm_cloud.client()

        with pytest.raises(KeyboardInterrupt):
            rolling_reboot.main([*options, "--report", str(report)], interrupted_client)
        left = BulkReport.from_json(report.read_text())
        assert 0 < left.counts["succeeded"] < 20
        assert f"resume with --resume {report}" in capsys.readouterr().out
        rolling_reboot.main(
            [*options, "--resume", str(report), "--min-online", "16"], vm_cloud.client
        )
        assert vm_cloud.requests["reboot"] == 20
        assert json.loads(report.read_text())
        assert BulkReport.from_json(report.read_text()).counts["succeeded"] == 20
