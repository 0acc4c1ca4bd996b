"""Terminals and files of all kinds: unread, narrow, plain, without UTF-8, full, closed."""

import json
import os
import select
import signal
import stat
import sys
import tempfile
import threading
import time
from contextlib import suppress

import pytest

from async_vmapi import BulkReport
from async_vmapi.cli import reports
from async_vmapi.cli.streams import Streams

from .programs import LONG, NEW, SETTINGS, Program, emulator_in_thread, eventually, fill

pytestmark = pytest.mark.programs

CREATE = ["fleet", "create", "--count", "3", "--name", "web-{:02}", *NEW]


def all_are(cloud, state, count=3):
    vms = list(cloud.cloud.vms.values())
    return len(vms) == count and {vm.state for vm in vms} == {state}


def in_thread(function):
    """Call a function in a thread; return where its result will be, and the thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return results, thread


def is_read(pipe):
    with suppress(OSError):
        reports.check_file(pipe)
        return True
    return False


@pytest.fixture
def durable(program, tmp_path):
    program.environment["VMAPI_DATABASE"] = f"sqlite:///{tmp_path}/jobs.sqlite"
    return program


class TestUnreadTerminals:
    def test_fleet(self, program, cloud):
        """The VMs come online, and the report is written into a file."""
        with program.terminal(*CREATE, read=False) as terminal:
            assert terminal.process.wait(LONG) == 4
        assert all_are(cloud, "online")
        (kept,) = program.state.rglob("*.json")
        assert json.loads(kept.read_text())["counts"]["succeeded"] == 3
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_a_terminal_that_is_read_late(self, program, cloud):
        """The report is shown, and no earlier frame is missing."""
        with program.terminal(*CREATE, read=False) as terminal:
            eventually(lambda: len(cloud.cloud.vms) == 3)
            terminal.read()
            assert terminal.end() == 0
            assert "create of 3: 3 succeeded" in terminal.shown
        assert not list(program.state.rglob("*.json"))

    def test_an_interruption(self, tmp_path):
        """It ends the program, and the tokens of requests in flight are in the file."""
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
        """It continues to poll, and can be interrupted."""
        with program.terminal("watch", "--interval", "0.1", read=False) as terminal:
            eventually(lambda: cloud.api.requests["list"] >= 5)
            terminal.interrupt()
            assert terminal.process.wait(LONG) == 130

    def test_worker_and_jobs_watch(self, durable, cloud):
        """The worker does the job, and the watching command ends with it."""
        with durable.terminal("worker", read=False) as working:
            process = durable.popen(*CREATE, "--durable", "make", "--json", "--limit", "1")
            eventually(lambda: cloud.cloud.vms)
            with durable.terminal("job", "watch", read=False) as watching:
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
            with durable.terminal("job", "watch", "make", read=False) as watching:
                assert watching.process.wait(LONG) == 4

    def test_demo(self, program, cloud):
        """It creates, reboots and deletes all VMs."""
        with program.terminal("demo", "--real", "--yes", "--count", "4", read=False) as terminal:
            assert terminal.process.wait(LONG) == 4
        assert len(cloud.cloud.gone) == 4
        assert not cloud.cloud.vms

    def test_a_pipe(self, program, cloud):
        """The command waits for its reader, like any program, until a signal comes."""
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


class TestStreams:
    def test_pipes_without_numbers(self, monkeypatch):
        """Windows has 0 for each; a writer for both would mix what is written late."""
        real = os.fstat

        def unnumbered(descriptor):
            status = list(real(descriptor))
            status[stat.ST_INO] = 0
            return os.stat_result(status)

        with tempfile.TemporaryFile("w") as out, tempfile.TemporaryFile("w") as err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            monkeypatch.setattr(os, "fstat", unnumbered)
            streams = Streams()
        assert streams.out.writer is not streams.err.writer


class TestOddTerminals:
    @pytest.mark.parametrize("columns", [10, 40, 80, 300])
    def test_widths(self, program, columns):
        """No part of a frame is left behind, and the report is shown."""
        with program.terminal(*CREATE, columns=columns, lines=40) as terminal:
            assert terminal.end() == 0
            assert b"in flight" in terminal.raw or columns == 10
        everything = terminal.shown.replace("\n", "")
        assert "3 succeeded" in everything
        assert "\u2500" not in everything
        assert "in flight" not in everything

    @pytest.mark.parametrize("columns", [10, 40, 80, 300])
    def test_the_most_important_columns_come_first(self, program, columns):
        """Labels at any width, states from 40 columns."""
        program.fleet(2)
        with program.terminal("watch", "--interval", "0.1", columns=columns) as terminal:
            shown = terminal.until("web-01", "web-02", *(["online"] if columns > 10 else []))
            assert ("DC1/PUBLIC-1" in shown) == (columns == 300)
            terminal.interrupt()
            assert terminal.end() == 130

    def test_a_list_has_a_line_for_each_vm(self, program):
        """Columns that do not fit are left out, unless they were chosen."""
        program.fleet(2)
        for more, zone_is_shown in (([], False), (["--columns", "label,state,zone"], True)):
            with program.terminal("vm", "list", *more, columns=80) as terminal:
                assert terminal.end() == 0
            shown = [line for line in terminal.shown.splitlines() if line]
            assert [line.split()[0] for line in shown] == ["label", "web-01", "web-02"]
            assert ("DC1/PUBLIC-1" in terminal.shown) == zone_is_shown

    @pytest.mark.parametrize(
        "variables", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp437"}]
    )
    def test_without_utf_8(self, program, cloud, variables):
        """Bars and labels use available characters, and no part of a frame is left."""
        cloud.cloud.adjust("*", create=1.5)
        command = [word.replace("web-", "\u017caba-") for word in CREATE]
        with program.terminal(*command, **variables) as terminal:
            terminal.until("0/3 done", "\\u017caba-01")
            assert terminal.end() == 0
        assert "\\u25" not in terminal.raw.decode("cp437")
        assert ("-" * 60 if "cp437" not in variables.values() else "\u2500" * 60) in (
            terminal.raw.decode("cp437")
        )
        shown = [line for line in terminal.shown.splitlines() if line]
        assert shown[0] == "create of 3: 3 succeeded"

    def test_bars_without_colours(self, program, cloud):
        """The done part is thicker than the rest."""
        cloud.cloud.adjust("web-01", create=1000)
        with program.terminal(*CREATE, NO_COLOR="1") as terminal:
            shown = terminal.until("2/3 done")
            assert "\u2501" * 40 + "\u2500" * 20 in shown
            assert b"\x1b[32m" not in terminal.raw

    def test_an_unknown_terminal(self, program):
        """It gets lines, like one that cannot redraw."""
        with program.terminal(*CREATE, TERM="") as terminal:
            assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert "create succeeded in" in terminal.shown

    def test_a_demo_on_a_small_terminal(self, program, cloud):
        """The progress is shown, and as many VMs as fit."""
        cloud.cloud.adjust("demo-*", create=1000)
        command = ["demo", "--real", "--yes", "--count", "60"]
        with program.terminal(*command, lines=12, columns=80) as terminal:
            terminal.until("create of 60", "0/60 done", "demo-01")


def closed(*numbers):
    return {"preexec_fn": lambda: [os.close(number) for number in numbers]}


class TestLostOutput:
    """The report and its tokens are saved, and the exit code says so."""

    @pytest.mark.parametrize("more", [[], ["--json"]])
    def test_closed_standard_output(self, program, cloud, more):
        """The report is in a file, and its name on standard error."""
        process = program.popen(*CREATE, *more, stdout=None, **closed(1))
        _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 4, errors
        assert "Traceback" not in errors
        assert "standard output: it is closed; create of 3: 3 succeeded" in errors
        (kept,) = program.state.rglob("*.json")
        assert f"the report is in {kept}" in errors
        assert json.loads(kept.read_text())["counts"]["succeeded"] == 3

    def test_both_closed(self, program, cloud):
        """Then only the file has it, tokens included."""
        program.write_profile(max_retries=0)
        program.fleet(1)
        cloud.api.faults.fail_next("shutdown", "drop_after")
        command = ["fleet", "shutdown", "--all", "--yes", "--json"]
        process = program.popen(*command, stdout=None, stderr=None, **closed(0, 1, 2))
        assert process.wait(LONG) == 3
        (kept,) = program.state.rglob("*.json")
        (outcome,) = json.loads(kept.read_text())["outcomes"]
        assert outcome["token"]

    def test_a_full_disk(self, program):
        """Also after a success; without a state folder another one is used."""
        program.environment["XDG_STATE_HOME"] = "/dev/null/none"
        here = program.profiles.parent
        with open("/dev/full", "w") as full:
            process = program.popen(*CREATE, "--json", stdout=full, cwd=here)
            _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 4
        (kept,) = here.glob("async-vmapi-create-*.json")
        assert "No space left on device; create of 3: 3 succeeded" in errors
        assert str(kept) in errors

    def test_output_that_is_no_report(self, program):
        """It can be requested again, so only the exit code and a line report the loss."""
        process = program.popen("region", "list", "--json", stdout=None, **closed(1))
        _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 4
        assert errors == "async-vmapi: standard output: it is closed\n"
        process = program.popen("region", "list")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(LONG) == 0

    def test_report_files(self, program, tmp_path):
        """A link, a device, and one that cannot be written."""
        target, link = tmp_path / "target.json", tmp_path / "link.json"
        link.symlink_to(target)
        program(*CREATE, "--report", str(link))
        assert link.is_symlink()
        assert json.loads(target.read_text())["operation"] == "create"
        off = ["fleet", "power-off", "--all", "--yes"]
        done = program(*off, "--report", "/dev/stderr")
        assert '"operation":"power_off"' in done.stderr.replace(" ", "")
        done = program(*off, "--report", "/dev/full", code=4)
        (kept,) = program.state.rglob("*.json")
        assert "/dev/full cannot be written: No space left on device" in done.stderr
        assert str(kept) in done.stderr
        assert "power_off of 3: 3 succeeded" in done.stdout

    def test_a_pipe_without_a_reader(self, program, cloud, tmp_path):
        """It is refused before anything is sent."""
        os.mkfifo(pipe := tmp_path / "pipe")
        done = program(*CREATE, "--report", str(pipe), code=2)
        assert f"{pipe} cannot be written: no program reads it" in done.stderr
        assert not cloud.cloud.vms

    def test_a_pipe_with_a_reader(self, program, tmp_path):
        """It gets the whole report, though the file was checked before."""
        os.mkfifo(pipe := tmp_path / "pipe")
        with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as reader:
            process = program.popen(*CREATE, "--report", str(pipe))
            # Neither data nor the pipe's end comes earlier than the report.
            assert select.select([reader], [], [], LONG)[0]
            assert json.loads(reader.read())["counts"]["succeeded"] == 3
            assert process.wait(LONG) == 0


class TestReportPipes:
    """In this process, for readers of any kind."""

    REPORT = BulkReport(operation="create", stopped="x" * 300_000)

    @pytest.fixture
    def pipe(self, tmp_path):
        os.mkfifo(pipe := tmp_path / "pipe")
        return pipe

    def test_more_than_a_pipe_holds(self, pipe):
        """It is written as it is read."""
        read, reader = in_thread(pipe.read_text)
        eventually(lambda: is_read(pipe))
        assert reports.write_report(pipe, self.REPORT.to_json())
        reader.join(LONG)
        assert read == [self.REPORT.to_json()]

    @pytest.mark.parametrize("is_checked", [True, False])
    def test_a_reader_that_reads_nothing(self, pipe, capsys, monkeypatch, is_checked):
        """The command does not wait for it."""
        monkeypatch.setattr(reports, "_PATIENCE", 0.3)
        idle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        if is_checked:
            reports.check_file(pipe)
        assert not reports.write_report(pipe, self.REPORT.to_json())
        os.close(idle)
        assert "pipe cannot be written: no program reads it" in capsys.readouterr().err

    @pytest.mark.parametrize("is_checked", [True, False])
    def test_a_reader_that_left(self, pipe, capsys, is_checked):
        """After the check, or before it."""
        idle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        if is_checked:
            reports.check_file(pipe)
        os.close(idle)
        assert not reports.write_report(pipe, self.REPORT.to_json())
        assert "pipe cannot be written" in capsys.readouterr().err


class TestSignals:
    """They work at any time."""

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_while_a_file_is_read(self, program, tmp_path, how):
        """Before there is an event loop: the program ends as it always does."""
        pipe = tmp_path / "ids"
        os.mkfifo(pipe)
        process = program.popen("fleet", "reboot", "--id-file", str(pipe))
        with open(pipe, "w"):  # waits until the program has opened it too
            process.send_signal(how)
            _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 130
        assert errors == ""

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_while_the_loop_is_blocked(self, program, how):
        """The first signal is the loop's; one a second later interrupts what blocks it."""
        script = (
            "import signal, sys, time, typer\n"
            "from async_vmapi.cli.running import run\n"
            "from async_vmapi.cli.streams import signals_raised\n"
            "async def body():\n"
            f"    signal.raise_signal({how})\n"
            "    time.sleep(1.1)\n"
            f"    signal.raise_signal({how})\n"
            "    while True: pass\n"
            "with signals_raised():\n"
            "    try: run(body())\n"
            "    except typer.Exit as end: sys.exit(end.exit_code)\n"
        )
        assert program.popen(command=[sys.executable, "-c", script]).wait(LONG) == 130

    @pytest.mark.parametrize(
        ("call", "code"),
        [
            ("cli.main()", 0),
            ("sys.argv.append('--uvloop'); cli.main()", 0),
            ("running.run(body())", 130),
        ],
    )
    @pytest.mark.timeout(100)
    def test_as_the_loop_begins_to_wait(self, program, call, code):
        """A signal that interrupts no system call, as another thread takes it, ends it too."""
        script = (
            "import asyncio, signal, sys, threading, typer\n"
            "from async_vmapi import cli\n"
            "from async_vmapi.cli import running\n"
            "async def body():\n"
            "    print('ready', flush=True)\n"
            "    await asyncio.Event().wait()\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
            "sys.argv[1:] = ['emulator', '--port', '0']\n"
            f"try: {call}\n"
            "except typer.Exit as end: sys.exit(end.exit_code)\n"
        )
        process = program.popen(command=[sys.executable, "-c", script])
        assert process.stdout.readline()
        # By now the loop waits for nothing else.
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONG) == code

    def test_too_many_items(self, program, cloud):
        """The command would take far too long, so it is refused at once."""
        create = ["fleet", "create", *NEW, "--name"]
        refused = program(*create, "web-{:010}", "--count", "1000000000", code=2).stderr
        assert "--count" in refused
        assert "100000" in refused
        for pattern in ("web-{:0999999999}", "{0:{0}}", "{:>256}", "x" * 256):
            refused = program(*create, pattern, "--count", "1", "--first", "9" * 9, code=2).stderr
            assert "gives names of more than 255 characters" in refused
        assert "255" in program("vm", "create", *NEW, "--name", "x" * 256, code=2).stderr
        assert "255" in program("vm", "rename", "any", "x" * 256, code=2).stderr
        for interval in ("nan", "inf"):
            assert "--interval" in program("watch", "--interval", interval, code=2).stderr
        assert not cloud.api.requests
