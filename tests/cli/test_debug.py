"""`--version`, and the debug log: what is in it, where it goes, and what it never does."""

import json
import logging
import os
import re
import sys

import pytest

import async_vmapi
from async_vmapi.cli import debug
from async_vmapi.emulator import Fault, FaultPlan

from .programs import LONG, NEW, eventually, fill

TIME = r"\d\d:\d\d:\d\d\.\d{3}"


class TestVersion:
    @pytest.mark.programs
    def test_it_is_the_packages(self, program):
        """One line, and no command is needed."""
        assert program("--version").stdout == f"async-vmapi {async_vmapi.__version__}\n"


@pytest.mark.programs
class TestLog:
    def test_requests_go_to_standard_error(self, program, cloud):
        """Standard output stays JSON; the endpoint is named, credentials are not."""
        done = program("--debug", "vm", "list", "--json")
        assert json.loads(done.stdout) == []
        first, *lines = done.stderr.splitlines()
        assert f"async-vmapi {async_vmapi.__version__}, Python " in first
        assert all(re.match(rf"{TIME} DEBUG ", line) for line in lines)
        endpoint, request = lines
        assert f"the endpoint is {cloud.url}, from profile 'default' of " in endpoint
        assert re.search(r"GET /v2/virtual-machines: status 200, \d+ bytes, ", request)
        assert cloud.api_key not in done.stderr

    def test_an_operation_with_retries_polls_and_changes(self, program, cloud):
        """Neither a password nor a signature is shown."""
        cloud.api.faults = FaultPlan([Fault(kind="server_error", call="regions", nth=(1,))])
        create = ["vm", "create", "--name", "web", *NEW, "--password-env", "PW", "--json"]
        done = program("--debug", *create, PW="hunter2hunter2")
        (vm_id,) = cloud.cloud.vms
        for shown in (
            "DEBUG GET /v2/regions: status 50",
            "DEBUG regions is retried in ",
            "DEBUG PUT /v2/virtual-machines: status 20",
            f"DEBUG GET /v2/virtual-machines/{vm_id}: status 200",
            f"INFO create of {vm_id}: online after ",
        ):
            assert shown in done.stderr
        assert "hunter2" not in done.stderr
        assert "Authorization" not in done.stderr

    def test_the_option_may_follow_the_command(self, program, tmp_path):
        """As users of other clouds' tools type it; so may --profile. After -- it is another's."""
        path = tmp_path / "debug.log"
        for words in (
            ["region", "list", "--debug"],
            ["region", "--profile=default", "list", "--debug"],
            ["region", "list", "--debug", "--profile", "default"],
        ):
            assert "GET /v2/regions" in program(*words).stderr
        program("region", "list", "--debug-file", str(path))
        assert "GET /v2/regions" in path.read_text()
        assert "no such profile" in program("region", "list", "--profile", "none", code=2).stderr
        assert "DEBUG" not in program("vm", "show", "--", "--debug", code=1).stderr
        done = program("region", "list", "--profile", code=2)
        assert "--profile: a value is required" in done.stderr

    def test_a_file_is_for_its_owner_and_is_appended_to(self, program, tmp_path):
        """It replaces the log on standard error, unless both are wanted."""
        path = tmp_path / "debug.log"
        assert program("--debug-file", str(path), "region", "list").stderr == ""
        assert path.stat().st_mode & 0o777 == 0o600
        once = path.read_text().splitlines()
        assert "GET /v2/regions" in once[-1]
        done = program("--debug", "--debug-file", str(path), "region", "list")
        assert "GET /v2/regions" in done.stderr
        assert len(path.read_text().splitlines()) == 2 * len(once)

    def test_a_file_that_cannot_be_written(self, program, cloud, tmp_path):
        """It is refused before anything is sent; a full disk is reported at the end."""
        os.mkfifo(pipe := tmp_path / "pipe")
        for path, why in ((tmp_path / "no" / "log", "No such file"), (pipe, "no program reads it")):
            done = program("--debug-file", str(path), "region", "list", code=2)
            assert why in done.stderr.replace("│\n│", "").replace("  ", " ")
        assert not cloud.api.requests
        done = program("--debug-file", "/dev/full", "region", "list")
        assert done.stderr == "async-vmapi: /dev/full: No space left on device\n"
        assert "DC1/PUBLIC-1" in done.stdout

    def test_a_terminal_that_nobody_reads(self, program, cloud):
        """The work goes on."""
        create = ["--debug", "fleet", "create", "--count", "3", "--name", "web-{:02}", *NEW]
        with program.terminal(*create, read=False) as terminal:
            assert terminal.process.wait(LONG) == 4
        assert [vm.state for vm in cloud.cloud.vms.values()] == ["online"] * 3

    def test_a_pipe_that_nobody_reads(self, program, tmp_path):
        """The command ends, and says that the log is incomplete."""
        os.mkfifo(pipe := tmp_path / "pipe")
        ours = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        theirs = os.open(pipe, os.O_WRONLY)
        fill(theirs)
        done = program("--debug-file", str(pipe), "region", "list")
        assert done.stderr == f"async-vmapi: {pipe}: no program reads it\n"
        os.close(ours)
        os.close(theirs)

    def test_a_live_view_stays_whole(self, program):
        """Log lines scroll by above it, and are all there in the end."""
        create = ["--debug", "fleet", "create", "--count", "3", "--name", "web-{:02}", *NEW]
        with program.terminal(*create, columns=200, lines=60) as terminal:
            assert terminal.end() == 0
            shown = terminal.shown
        assert shown.count("create of 3: 3 succeeded") == 1
        assert len(re.findall(r"INFO create of \S+: online after", shown)) == 3
        # No line of the view is left between them.
        assert "━" not in shown

    def test_a_full_screen_view_is_followed_by_the_log(self, program, cloud):
        """Nothing is drawn over the view."""
        with program.terminal("--debug", "watch", "--interval", "0.1", columns=200) as terminal:
            assert "DEBUG" not in terminal.until("0 VMs")
            eventually(lambda: cloud.api.requests["list"] >= 4)
            assert "DEBUG" not in terminal.shown
            terminal.interrupt()
            assert terminal.end() == 130
            assert "GET /v2/virtual-machines: status 200" in terminal.shown


@pytest.fixture
def log():
    """Start the log with standard error as given; return the package's logger."""
    stops = []

    def start(stream):
        stops.append(debug.start(to_stderr=stream is sys.stderr, path=None))
        return logging.getLogger("async_vmapi")

    yield start
    for stop in stops:
        stop()


class TestLines:
    def test_a_record_is_one_line(self, log, capsys):
        """A VM's name or a server's message cannot forge a second one."""
        log(sys.stderr).info("there is no VM %s", "web\n12:00:00.000 INFO all is well\x1b[2J")
        _, line = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            rf"{TIME} INFO there is no VM web\\n12:00:00\.000 INFO all is well\\x1b\[2J", line
        )

    def test_an_exception_has_its_traceback(self, log, capsys):
        """On further lines."""
        logger = log(sys.stderr)
        try:
            raise ValueError("odd")
        except ValueError:
            logger.exception("polling broke off")
        lines = capsys.readouterr().err.splitlines()
        assert lines[1].endswith("ERROR polling broke off")
        assert lines[-1] == "ValueError: odd"

    def test_a_warning_is_shown_once(self, log, capsys):
        """Although the command shows warnings anyway."""
        logger = logging.getLogger("async_vmapi")
        logger.addHandler(logging.lastResort)
        try:
            log(sys.stderr).warning("unresolved")
            assert capsys.readouterr().err.count("unresolved") == 1
        finally:
            logger.removeHandler(logging.lastResort)

    def test_a_slow_reader_gets_fewer_lines(self, log, capsys, monkeypatch):
        """And learns how many are missing."""
        logger = log(sys.stderr)
        for slow in (True, True, False):
            monkeypatch.setattr(debug, "behind", lambda _, slow=slow: slow)
            logger.debug("slow: %s", slow)
        _, gap, line = capsys.readouterr().err.splitlines()
        assert gap == "2 lines left out: they were not read in time"
        assert line.endswith("slow: False")
