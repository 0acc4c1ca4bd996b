"""``async-vmapi fleet --durable``, ``jobs`` and ``worker``, as programs."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from .programs import LONG, NEW, clean_environment, eventually

pytestmark = pytest.mark.programs


@pytest.fixture
def durable(program, tmp_path):
    """The program, with a database for its jobs."""
    program.environment["VMAPI_DATABASE"] = f"sqlite:///{tmp_path}/jobs.sqlite"
    return program


@contextmanager
def worker(program, *arguments, how=signal.SIGTERM):
    """A worker that runs until the block is left, and then ends cleanly."""
    process = program.popen("worker", *arguments)
    try:
        yield process
        process.send_signal(how)
        out, errors = process.communicate(timeout=LONG)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        process.shown = out
    finally:
        process.kill()
        process.communicate()


CREATE = ["fleet", "create", "--count", "3", "--name", "web-{:02}", *NEW, "--durable", "make"]


class TestJobs:
    def test_from_submitting_to_the_report(self, durable, cloud):
        """The job is followed to completion, whichever process does the work."""
        with worker(durable) as process:
            made = durable(*CREATE).stdout
            assert "create of 3: 3 succeeded" in made
            assert "web-02  create succeeded" in made
            again = durable.json(*CREATE)
            assert again["counts"]["succeeded"] == 3
            shut = durable.json("fleet", "shutdown", "--all", "--yes", "--durable", "off")
            assert {o["status"] for o in shut["outcomes"]} == {"succeeded"}
            watched = durable.json("job", "watch", "off")
            assert watched == shut
            # It polls the jobs at intervals.
            ended = "job off: shutdown of 3, finished"
            assert any(line.startswith(ended) for line in process.stdout)
        assert len(cloud.cloud.vms) == 3
        listed = durable("job", "list").stdout
        assert listed.splitlines()[1].split()[:4] == ["off", "shutdown", "finished", "3"]
        assert [job["name"] for job in durable.json("job", "list")] == ["off", "make"]
        other = [word if word != "3" else "4" for word in CREATE]
        assert "another operation, plan or items" in durable(*other, code=2).stderr

    def test_a_command_that_is_run_again_attaches(self, durable, cloud):
        """By then it selects other VMs, if any."""
        off = ["fleet", "shutdown", "--state", "online", "--yes", "--durable", "off"]
        with worker(durable):
            durable(*CREATE)
            first = durable.json(*off, "--attach")
            assert first["counts"]["succeeded"] == 3
            assert durable.json(*off, "--attach") == first
            assert "with another operation" in durable(*off, code=2).stderr
        assert "--durable NAME" in durable("fleet", "reboot", "--all", "--attach", code=2).stderr

    def test_pause_resume_and_cancel(self, durable, cloud):
        """The job continues when no command follows it."""
        cloud.cloud.adjust("web-*", create=1000)
        process = durable.popen(*CREATE, "--limit", "1")
        assert "waits for a worker" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LONG)
        assert process.returncode == 130
        assert "job watch make" in errors
        assert durable.json("job", "pause", "make")["state"] == "paused"
        assert "paused" in durable("job", "show", "make").stdout
        with worker(durable, "--json", "--limit", "2", "--worker-limit", "2") as process:
            assert json.loads(process.stdout.readline())["state"] == "paused"
            assert durable.json("job", "resume", "make")["state"] in ("waiting", "running")
            while json.loads(process.stdout.readline())["in_flight"] == 0:
                pass
            eventually(lambda: cloud.cloud.vms)
            assert durable.json("job", "cancel", "make")["state"] == "cancelling"
            # It ends when the test deletes what it creates, and not while this test is slow.
            durable("fleet", "delete", "--all", "--yes")
            report = durable.json("job", "watch", "make", code=1)
        assert report["counts"] == {"succeeded": 0, "failed": 1, "unknown": 0, "not_started": 2}
        shown = durable("job", "show", "make").stdout
        assert "ended early: the job was cancelled" in shown
        assert "the job was cancelled" in durable("job", "list").stdout
        assert "is finished" in durable("job", "pause", "make", code=1).stderr

    def test_submitting_without_following(self, durable):
        """The status is shown; it can be followed later, for a limited time."""
        assert "waiting" in durable(*CREATE, "--no-wait").stdout
        followed = durable("job", "watch", "make", "--timeout", "0.2", code=3).stderr
        assert "follow it with: async-vmapi job watch make" in followed
        assert "give its NAME" in durable("job", "watch", "--timeout", "1", code=2).stderr
        refused = durable("fleet", "reboot", "--all", "--no-wait", code=2).stderr
        assert "--no-wait requires --durable NAME" in refused

    def test_live_views(self, durable, cloud):
        """The worker shows its items, and `job watch` all jobs to completion."""
        cloud.cloud.adjust("web-*", create=1000)
        with durable.terminal("worker") as terminal:
            terminal.until("worker of sqlite:///", "0 in flight here", "0 jobs")
            process = durable.popen(*CREATE, "--json")
            terminal.until("3 in flight here", "last state: installing", "1 running")
            eventually(lambda: len(cloud.cloud.vms) == 3)
            with durable.terminal("job", "watch") as watching:
                watching.until("1 job", "make", "running", "0/3")
                durable("job", "pause", "make")
                watching.until("1 paused")
                durable("fleet", "delete", "--all", "--yes")
                assert watching.end() == 1
                assert "finished" in watching.shown
            terminal.until("3 done here · 3 failed", "finished")
            process.communicate(timeout=LONG)
            terminal.interrupt()
            assert terminal.end() == 0
        assert "worker: ended; 3 failed here" in terminal.shown

    def test_watching_jobs(self, durable):
        """All jobs in lines and in JSON; one that is paused, then cancelled, in words."""
        lines = durable.popen(*CREATE)
        assert "waits for a worker" in lines.stderr.readline()
        words = durable.popen("job", "watch")
        objects = durable.popen("job", "watch", "--json")
        assert words.stdout.readline() == "job make: create of 3, waiting, 0 in flight\n"
        assert json.loads(objects.stdout.readline())["state"] == "waiting"
        durable("job", "pause", "make")
        while "paused: starts no operations" not in (line := lines.stdout.readline()):
            assert line
        assert "paused" in words.stdout.readline()
        with worker(durable):
            report = durable.json("job", "cancel", "make", "--follow", code=1)
            assert report["counts"]["not_started"] == 3
            for process in (lines, words, objects):
                out, errors = process.communicate(timeout=LONG)
                assert process.returncode == 1, errors
                assert "Traceback" not in errors
                last = out
        assert json.loads(last.splitlines()[-1])["done"]["not_started"] == 3


class TestWrongUsage:
    def test_a_database_is_required(self, program):
        """By an option or the environment; its password by no option."""
        assert "--database" in program("job", "list", code=2).stderr
        assert "--database" in program(*CREATE, code=2).stderr
        for options, env in ((("--database", "foo"), {}), ((), {"VMAPI_DATABASE": "foo"})):
            wrong = program("job", "list", *options, code=2, **env).stderr
            assert wrong.startswith("async-vmapi: --database (or VMAPI_DATABASE) is neither ")
        secret = "postgresql://me:planted@127.0.0.1:1/x"
        refused = program("job", "list", "--database", secret, code=2).stderr
        assert "PGPASSWORD" in refused
        assert "planted" not in refused
        away = program("job", "list", VMAPI_DATABASE=secret, code=1).stderr
        assert "postgresql://me:***@127.0.0.1:1/x cannot be used" in away
        assert "check that the server runs" in away
        assert "planted" not in away

    def test_a_worker_with_a_refused_key_ends(self, durable, cloud):
        """It takes no job, for it would fail each item."""
        durable.write_profile(api_key="other")
        refused = durable("worker", code=1).stderr
        assert "401" in refused

    def test_secrets_are_not_stored(self, durable, cloud, tmp_path):
        """The job names them, and the worker resolves them."""
        given = [*CREATE[:-2], "--template", "Ubuntu 18.04"]
        text = tmp_path / "user-data"
        text.write_text("#cloud-config")
        refused = durable(*given, "--user-data", str(text), "--durable", "x", code=2)
        assert "--user-data-env" in refused.stderr
        named = [*given, "--user-data-env", "VMAPI_SECRET_TEXT", "--password-env", "ROOT"]
        named += ["--durable", "x"]
        durable.environment |= {
            "VMAPI_SECRET_TEXT": "#cloud-config planted",
            "ROOT": "planted-word",
        }
        assert "credential" in durable("worker", "--secret", "VMAPI_API_KEY", code=2).stderr
        with worker(durable, "--secret", "ROOT"):
            durable(*named)
        assert len(cloud.cloud.vms) == 3
        for file in tmp_path.glob("jobs.sqlite*"):
            assert b"planted" not in file.read_bytes()

    def test_options_that_exclude_each_other(self, durable, tmp_path):
        """A job runs without the command; an unknown job cannot be shown."""
        assert "no job" in durable("job", "show", "none", code=2).stderr
        report = tmp_path / "report.json"
        durable(*CREATE[:-2], "--report", str(report))
        refused = durable(*CREATE, "--resume", str(report), code=2).stderr
        assert "by themselves" in refused

    def test_a_missing_extra_says_what_to_install(self):
        """Only durable jobs need it."""
        program = "import sys; sys.modules['dbos'] = None; from async_vmapi.cli import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", program, "job", "list", "--database", "sqlite:///x"],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2
        assert "async-vmapi[durable]" in result.stderr
