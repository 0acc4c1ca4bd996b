"""Checked, soaked and promoted rollouts from the command line, as programs."""

from contextlib import ExitStack, contextmanager

import pytest

from async_vmapi.cli.completion.answer import answer

from .programs import ZONE, ssh_server
from .test_jobs import worker

pytestmark = pytest.mark.programs


@pytest.fixture
def cloud(reachable_cloud):
    """A cloud whose VMs have addresses of this host."""
    return reachable_cloud


@pytest.fixture
def durable(program, tmp_path):
    """The program, with a database for its jobs."""
    program.environment["VMAPI_DATABASE"] = f"sqlite:///{tmp_path}/jobs.sqlite"
    return program


@contextmanager
def serving(cloud, *labels):
    """Serve SSH on VMs of these labels; yield the port."""
    addresses = [vm.address for vm in cloud.cloud.vms.values() if vm.label in labels]
    with ExitStack() as stack:
        port = 0
        for address in addresses:
            port = stack.enter_context(ssh_server(address, port))
        yield port


def summary(report):
    return [(o["item"], o["status"], o.get("wave", 1)) for o in report["outcomes"]]


class TestChecks:
    def test_a_vm_that_does_not_pass_has_failed(self, durable, cloud):
        """The same from the command and as a durable job."""
        program, ids = durable, durable.fleet(4)
        program("vm", "wait-ready", *ids, "--ready", "address")
        with serving(cloud, "web-01", "web-02", "web-04") as port:
            command = ("fleet", "reboot", "--all", "--yes", "--waves", "1,100%")
            command += ("--check", f"ssh:{port}", "--check-timeout", "1", "--soak", "0.2")
            report = program.json(*command, code=1)
            assert summary(report) == [
                (ids["web-01"], "succeeded", 1),
                (ids["web-02"], "succeeded", 2),
                (ids["web-03"], "failed", 2),
                (ids["web-04"], "succeeded", 2),
            ]
            assert f"missing ssh:{port}" in report["outcomes"][2]["reason"]
            with worker(durable):
                job = durable.json(*command, "--durable", "healthy", code=1)
        assert summary(job) == summary(report)

    def test_what_does_not_fit_is_refused(self, program, cloud):
        """Before anything is sent."""
        for command, word in [
            (("shutdown", "--check", "ssh"), "shutdown takes them offline"),
            (("delete", "--soak", "5"), "delete takes them offline"),
            (("reboot", "--check", "ping"), "conditions like"),
            (("reboot", "--promote", "manual", "--dry-run"), "promote needs waves"),
            (("reboot", "--spread-by", "rack"), "'zone'"),
        ]:
            refused = program("fleet", command[0], "--all", "--yes", *command[1:], code=2)
            assert word in refused.stderr
        assert not cloud.api.requests

    def test_a_dry_run_shows_waves_and_domains(self, program, cloud):
        """And needs no terminal."""
        program.fleet(3)
        command = ("fleet", "reboot", "--all", "--dry-run", "--waves", "1,100%")
        shown = program(*command, "--spread-by", "zone", "--promote", "each").stdout
        assert f"1: dry run: it would be started in wave 1, the canary, in {ZONE}" in shown
        assert f"2: dry run: it would be started in wave 2, in {ZONE}" in shown
        assert cloud.api.requests["reboot"] == 0

    def test_completion_of_conditions(self):
        assert answer("zsh", ["async-vmapi", "fleet", "reboot", "--check", "s"]) == ["ssh"]
        assert answer("zsh", ["async-vmapi", "fleet", "reboot", "--promote", "m"]) == ["manual"]


class TestPromotion:
    COMMAND = ("fleet", "reboot", "--all", "--yes", "--waves", "1,100%", "--promote", "manual")

    def test_the_command_asks(self, program, cloud):
        """While it goes on to draw; the next wave starts after a yes."""
        program.fleet(3)
        with program.terminal(*self.COMMAND, columns=120) as terminal:
            terminal.until("Wave 1 is complete (1 succeeded). Promote it? [y/N]")
            assert cloud.api.requests["reboot"] == 1
            terminal.type("y\n")
            assert terminal.end() == 0
            assert "reboot of 3: 3 succeeded" in terminal.shown

    @pytest.mark.parametrize("typed", ["n\n", "\n", "\x04"])
    def test_a_refusal_stops_it(self, program, cloud, typed):
        """So does the end of input."""
        program.fleet(3)
        with program.terminal(*self.COMMAND, columns=120) as terminal:
            terminal.until("Promote it? [y/N]")
            terminal.type(typed)
            assert terminal.end() == 1
            assert "1 succeeded, 2 not started; stopped: you declined" in terminal.shown
        assert cloud.api.requests["reboot"] == 1

    def test_an_interruption_ends_the_question(self, program, cloud):
        """The report follows."""
        program.fleet(3)
        with program.terminal(*self.COMMAND, columns=120) as terminal:
            terminal.until("Promote it? [y/N]")
            terminal.interrupt()
            assert terminal.end() == 130
            assert "1 succeeded, 2 not started" in terminal.shown

    def test_it_needs_a_terminal(self, program, cloud, tmp_path):
        """Or a durable job; a plan can be written without one, but not carried out."""
        program.fleet(2)
        refused = program(*self.COMMAND, code=2).stderr
        assert "--promote requires a terminal to ask on, or --durable NAME" in refused
        pause = ("fleet", "reboot", "--all", "--yes", "--on-failure", "pause")
        assert "--on-failure pause requires a terminal" in program(*pause, code=2).stderr
        file = str(tmp_path / "plan.json")
        program(*self.COMMAND, "--plan", file)
        applied = program("fleet", "apply", file, "--yes", code=2).stderr
        assert "--promote requires a terminal" in applied
        assert cloud.api.requests["reboot"] == 0

    def test_failures_that_pause_it(self, program, cloud):
        """The command asks whether to continue, and then to promote."""
        program.fleet(3)
        cloud.api.faults.fail_next("reboot", "success_false")
        with program.terminal(*self.COMMAND, "--on-failure", "pause", columns=120) as terminal:
            terminal.until("Paused: wave 1 had failures. Continue? [y/N]")
            terminal.type("y\n")
            terminal.until("Wave 1 is complete (1 failed). Promote it? [y/N]")
            terminal.type("y\n")
            assert terminal.end() == 1
            assert "reboot of 3: 2 succeeded, 1 failed" in terminal.shown

    def test_a_soak_is_shown(self, program, cloud):
        """In the live view."""
        program.fleet(2)
        command = ("fleet", "reboot", "--all", "--yes", "--soak", "2")
        with program.terminal(*command, columns=120) as terminal:
            terminal.until("2 VMs soak for 2 s")
            assert terminal.end() == 0


class TestJobs:
    def test_a_job_is_promoted(self, durable, cloud):
        """Its status says how, and the command that follows it shows that."""
        durable.fleet(3)
        command = [*TestPromotion.COMMAND, "--durable", "roll"]
        how = "held after wave 1: starts no operations until 'job promote roll'"
        with worker(durable) as process:
            with durable.terminal(*command, columns=120) as terminal:
                terminal.until(how)
                assert durable.json("job", "show", "roll")["held"] == 1
                assert how in durable("job", "show", "roll").stdout
                assert f"roll: {how}" in durable("job", "list").stderr
                assert durable.json("jobs", "promote", "roll")["held"] is None
                assert terminal.end() == 0
                assert "reboot of 3: 3 succeeded" in terminal.shown
            refused = durable("job", "promote", "roll", code=1).stderr
            assert "no wave is held; cannot promote it" in refused
        assert how in process.shown

    def test_failures_pause_a_job(self, durable, cloud):
        """Until it is resumed."""
        durable.fleet(3)
        cloud.api.faults.fail_next("reboot", "success_false")
        command = ("fleet", "reboot", "--all", "--yes", "--limit", "1", "--max-failures", "0")
        with worker(durable):
            following = durable.popen(*command, "--on-failure", "pause", "--durable", "roll")
            line = ""
            while "job resume roll" not in line:
                line = following.stdout.readline()
            assert "more than 0 failed: starts no operations until 'job resume roll'" in line
            assert durable.json("job", "show", "roll")["paused"] == "more than 0 failed"
            assert durable.json("job", "resume", "roll")["paused"] is None
            out, _ = following.communicate()
        assert "reboot of 3: 2 succeeded, 1 failed" in out
