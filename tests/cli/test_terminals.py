"""Terminals that nobody reads: what is under way goes on, and the program ends."""

import json
import os
import signal

import pytest

from .programs import LONG, NEW, SETTINGS, Program, emulator_in_thread, eventually, fill

pytestmark = pytest.mark.programs

CREATE = ["fleet", "create", "--count", "3", "--name", "web-{:02}", *NEW]


def all_are(cloud, state, count=3):
    vms = list(cloud.cloud.vms.values())
    return len(vms) == count and {vm.state for vm in vms} == {state}


@pytest.fixture
def durable(program, tmp_path):
    program.environment["VMAPI_DATABASE"] = f"sqlite:///{tmp_path}/jobs.sqlite"
    return program


class TestNobodyReads:
    def test_fleet(self, program, cloud):
        """The VMs come online, and the report goes into a file."""
        with program.terminal(*CREATE, read=False) as terminal:
            assert terminal.process.wait(LONG) == 4
        assert all_are(cloud, "online")
        (kept,) = program.state.rglob("*.json")
        assert json.loads(kept.read_text())["counts"]["succeeded"] == 3
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_it_is_read_in_the_end(self, program, cloud):
        """Then the report is shown, and nothing of the frames before is missing."""
        with program.terminal(*CREATE, read=False) as terminal:
            eventually(lambda: len(cloud.cloud.vms) == 3)
            terminal.read()
            assert terminal.end() == 0
            assert "create of 3: 3 succeeded" in terminal.shown
        assert not list(program.state.rglob("*.json"))

    def test_an_interruption(self, tmp_path):
        """It ends the program, and the tokens of what is in flight are in the file."""
        with (
            emulator_in_thread(settings=SETTINGS.changed(create=1000), seed=1) as cloud,
            Program(cloud, tmp_path) as program,
            program.terminal(*CREATE, read=False) as terminal,
        ):
            eventually(lambda: len(cloud.cloud.vms) == 3)
            terminal.interrupt()
            assert terminal.process.wait(LONG) == 130
            (kept,) = program.state.rglob("*.json")
            outcomes = json.loads(kept.read_text())["outcomes"]
            assert {o["vm_id"] for o in outcomes if o["token"]} == set(cloud.cloud.vms)

    def test_watch(self, program, cloud):
        """It goes on looking, and can be interrupted."""
        with program.terminal("watch", "--interval", "0.1", read=False) as terminal:
            eventually(lambda: cloud.api.requests["list"] >= 5)
            terminal.interrupt()
            assert terminal.process.wait(LONG) == 130

    def test_worker_and_jobs_watch(self, durable, cloud):
        """The worker does the job, and who looks on ends with it."""
        with durable.terminal("worker", read=False) as working:
            process = durable.popen(*CREATE, "--durable", "make", "--json", "--limit", "1")
            eventually(lambda: cloud.cloud.vms)
            with durable.terminal("jobs", "watch", read=False) as watching:
                out, errors = process.communicate(timeout=LONG)
                assert json.loads(out)["counts"]["succeeded"] == 3, errors
                assert watching.process.wait(LONG) in (0, 4)
            working.interrupt()
            assert working.process.wait(LONG) == 4
        assert all_are(cloud, "online")

    def test_jobs_watch_of_one(self, durable, cloud):
        """It ends with its job."""
        with durable.terminal("worker"):
            durable(*CREATE, "--durable", "make")
            with durable.terminal("jobs", "watch", "make", read=False) as watching:
                assert watching.process.wait(LONG) == 4

    def test_demo(self, program, cloud):
        """It creates, reboots and deletes all."""
        with program.terminal("demo", "--real", "--yes", "--count", "4", read=False) as terminal:
            assert terminal.process.wait(LONG) == 4
        assert len(cloud.cloud.gone) == 4
        assert not cloud.cloud.vms

    def test_a_pipe(self, program, cloud):
        """Its reader is waited for, as of any program, until a signal comes."""
        ours, theirs = os.pipe()
        try:
            fill(theirs)
            process = program.popen(*CREATE, stdout=theirs)
            eventually(lambda: all_are(cloud, "online"))
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=LONG)
        finally:
            os.close(ours)
            os.close(theirs)
        assert process.returncode in (4, 130)
        (kept,) = program.state.rglob("*.json")
        assert str(kept) in errors
        outcomes = json.loads(kept.read_text())["outcomes"]
        # Whether it had seen the last one online when the signal came does not matter.
        assert {o["vm_id"] for o in outcomes} == set(cloud.cloud.vms)
