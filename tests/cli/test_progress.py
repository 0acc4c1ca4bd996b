"""What the command shows while it works, and how it is interrupted."""

import json
import os
import re
import signal
import subprocess

import pytest

from async_vmapi.emulator import Fault, FaultPlan
from async_vmapi.tasks import token as tokens

from .programs import LONG, NEW, SETTINGS, Program, emulator_in_thread, eventually

pytestmark = pytest.mark.programs

CREATE = ["fleet", "create", "--name", "web-{:02}", *NEW, "--unique-name"]


class TestLiveView:
    def test_on_a_terminal(self, program, cloud):
        """Counts, remaining time, the slowest items, and failures."""
        cloud.cloud.adjust("web-*", create=1.0)
        cloud.cloud.adjust("web-03", fail_state="error", create=0.1)
        cloud.cloud.adjust("web-12", create=1000)
        with program.terminal(*CREATE, "--count", "12", "--limit", "6") as terminal:
            shown = terminal.until("create of 12", "in flight", "last state: installing")
            assert re.search(r"\d+/12 done", shown)
            words = ("11/12 done", "1 failed", "left", "last state: installing", "create failed")
            shown = terminal.until(*words)
            assert re.search(r"web-12 \(\S+\)  last state: installing", shown)
            terminal.interrupt()
            assert terminal.end() == 130
        assert "create of 12: 10 succeeded, 1 failed, 1 unknown" in terminal.shown

    def test_piped(self, program):
        """Lines of text without control codes."""
        shown = program(*CREATE, "--count", "2").stdout
        assert re.search(r" s  web-01 \(\S+\)  create succeeded in \d+\.\d s, observed\n", shown)
        assert "\x1b" not in shown

    def test_with_json(self, program):
        """Standard output is the report alone, standard error has the progress."""
        done = program(*CREATE, "--count", "2", "--json")
        assert json.loads(done.stdout)["counts"]["succeeded"] == 2
        assert "create succeeded" in done.stderr

    def test_forced_colours(self, program):
        """They cause no redrawing in a file."""
        shown = program(*CREATE, "--count", "1", FORCE_COLOR="1").stdout
        assert "create succeeded" in shown
        assert "\x1b[?25l" not in shown

    def test_on_a_terminal_that_cannot_redraw(self, program):
        """It shows lines."""
        with program.terminal(*CREATE, "--count", "2", TERM="dumb") as terminal:
            terminal.until("create succeeded in", "create of 2: 2 succeeded")
            assert terminal.end() == 0


class TestUnreadOutput:
    """Operations in flight continue, and are reported wherever possible."""

    def test_closed_output(self, program, cloud):
        """The exit code is the operation's."""
        ids = program.fleet(3)
        process = program.popen("fleet", "power-off", "--all", "--yes", "--limit", "1")
        process.stdout.close()
        errors = process.stderr.read()
        process.stderr.close()
        assert process.wait(LONG) == 4, errors
        assert "power_off of 3: 3 succeeded" in errors
        (kept,) = program.state.rglob("*.json")
        assert str(kept) in errors
        assert json.loads(kept.read_text())["counts"]["succeeded"] == 3
        assert {cloud.cloud.vms[vm_id].state for vm_id in ids.values()} == {"offline"}
        process = program.popen("watch", "--interval", "0.1", stderr=subprocess.DEVNULL)
        process.stdout.close()
        assert process.wait(LONG) == 0

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk at hand")
    @pytest.mark.parametrize("more", [[], ["--json"]])
    def test_a_full_disk(self, program, cloud, tmp_path, more):
        """The report is in its file, and tokens are shown on standard error."""
        program.fleet(2)
        program.write_profile(max_retries=0)
        for _ in range(3):
            cloud.api.faults.fail_next("shutdown", "drop_after")
        report = tmp_path / "report.json"
        command = ["fleet", "shutdown", "--all", "--yes", "--report", str(report), *more]
        with open("/dev/full", "w") as full:
            process = program.popen(*command, stdout=full)
            _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 3, errors
        unknown = [o for o in json.loads(report.read_text())["outcomes"] if o["token"]]
        assert all(o["token"] in errors for o in unknown)
        assert "Traceback" not in errors
        with open("/dev/full", "w") as full:
            process = program.popen("vm", "list", stdout=full)
            assert "No space left" in process.communicate(timeout=LONG)[1]
        assert process.returncode == 4

    def test_text_that_cannot_be_encoded(self, program, cloud):
        """Its characters are shown as escapes, and JSON is ASCII."""
        (vm_id,) = program.fleet(1).values()
        cloud.cloud.rename(vm_id, "żaba\n0.0 s prod-1", cloud.cloud.now)
        shown = program("vm", "list", PYTHONIOENCODING="latin-1").stdout
        assert "\\u017caba\\n0.0 s prod-1" in shown
        assert len(shown.splitlines()) == 2
        (listed,) = program.json("vm", "list", PYTHONIOENCODING="ascii")
        assert listed["label"] == "żaba\n0.0 s prod-1"
        command = ["fleet", "power-off", "--all", "--yes"]
        assert "1 succeeded" in program(*command, PYTHONIOENCODING="ascii").stdout


class TestInterruption:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGHUP])
    def test_once(self, tmp_path, how):
        """Requests in flight are awaited, and the report has every VM."""
        with (
            emulator_in_thread(settings=SETTINGS.changed(create=1000), seed=1) as cloud,
            Program(cloud, tmp_path) as program,
        ):
            report = tmp_path / "report.json"
            command = [*CREATE, "--count", "9", "--limit", "4", "--report", str(report)]
            process = program.popen(*command)
            eventually(lambda: len(cloud.cloud.vms) == 4)
            process.send_signal(how)
            out, errors = process.communicate(timeout=LONG)
            assert process.returncode == 130
            assert "Traceback" not in errors
            assert "never retrieved" not in errors
            assert "create of 9: 4 unknown, 5 not started" in out
            assert "interrupted" in errors
            saved = json.loads(report.read_text())
            unknown = [o for o in saved["outcomes"] if o["status"] == "unknown"]
            assert {o["vm_id"] for o in unknown} == set(cloud.cloud.vms)
            assert all(o["token"] in out for o in unknown)
            assert cloud.api.requests["create"] == 4

    def test_twice(self, tmp_path):
        """It ends at once, and still shows the tokens of requests in flight."""
        with (
            emulator_in_thread(settings=SETTINGS, seed=1) as cloud,
            Program(cloud, tmp_path) as program,
        ):
            for _ in range(3):
                cloud.api.faults.fail_next("create", "stall", seconds=60)
            process = program.popen(*CREATE, "--count", "3", "--json")
            eventually(lambda: len(cloud.cloud.vms) == 3)
            process.send_signal(signal.SIGINT)
            while "Ctrl-C again" not in (line := process.stderr.readline()):
                assert line
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=8)  # less than a response is awaited
            assert process.returncode == 130
            report = json.loads(out)
            assert report["counts"]["unknown"] == 3
            assert all(tokens.peek(o["token"]).name for o in report["outcomes"])
            assert "Traceback" not in errors
            cloud.api.faults.clear()
            waited = program.json("wait", report["outcomes"][0]["token"])
            assert waited["vm"]["label"] == "web-01"
            assert cloud.api.requests["create"] == 3

    def test_while_it_only_reads(self, program, cloud):
        """There is nothing to report."""
        cloud.api.faults.fail_next("list", "slow_body", seconds=30)
        process = program.popen("vm", "list")
        eventually(lambda: cloud.api.requests["list"])
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 130
        assert "Traceback" not in errors


class TestWatch:
    def test_on_a_terminal(self, program, cloud):
        """The VMs with their states, counted, and their changes."""
        ids = program.fleet(3)
        with program.terminal("watch", "--interval", "0.1") as terminal:
            terminal.until("3 VMs", "3 online", "web-02")
            program("vm", "power-off", ids["web-02"], "--yes")
            terminal.until("2 online", "1 offline")
            cloud.api.faults = FaultPlan([Fault(kind="server_error", call="list", probability=1.0)])
            terminal.until("status 5")
            terminal.interrupt()
            assert terminal.end() == 130

    def test_more_vms_than_rows(self, program):
        """The hidden ones are counted."""
        program.fleet(8)
        with program.terminal("watch", lines=10, columns=60) as terminal:
            terminal.until("8 VMs", "2 not shown", "web-06")
            lines = [line for line in terminal.shown.splitlines() if "web-" in line]
            assert len(lines) == 6

    def test_piped(self, program, cloud):
        """A line for each change, in words or in JSON."""
        ids = program.fleet(2)
        lines, objects = (
            program.popen("watch", "--interval", "0.1", "--label", "web-01", *more)
            for more in ([], ["--json"])
        )
        first = json.loads(objects.stdout.readline())
        assert (first["vm_id"], first["before"], first["state"]) == (ids["web-01"], None, "online")
        assert f"web-01 ({ids['web-01']})  online  1 cores, 1024 MB" in lines.stdout.readline()
        program("vm", "power-off", ids["web-01"], "--yes")
        assert "online -> offline" in lines.stdout.readline()
        assert json.loads(objects.stdout.readline())["state"] == "offline"
        program("vm", "delete", ids["web-01"], "--yes")
        while "gone" not in (line := lines.stdout.readline()):
            assert line
        for process in (lines, objects):
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LONG)
            assert process.returncode == 130

    def test_refused_credentials(self, program):
        """Watching ends."""
        program.write_profile(api_key="other")
        assert "401" in program("watch", code=1).stderr
