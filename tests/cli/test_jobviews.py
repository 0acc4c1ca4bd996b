"""How durable jobs are watched and shown: over a fleet that is a dictionary, without programs."""

import asyncio
import io

import attrs
import pytest
from rich.console import Console

from async_vmapi import BulkEvent, Outcome
from async_vmapi.cli.jobviews import JobsView, has_ended
from async_vmapi.cli.progress import Joined, Progress
from async_vmapi.cli.worker import WorkerView
from async_vmapi.durable import JobStatus, WorkerItem, WorkerStatus


def status(name, state="running", total=10, *, in_flight=0, submitted=0.0, stopped=None, **done):
    return JobStatus(
        name=name,
        operation="reboot",
        state=state,
        total=total,
        done=done,
        in_flight=in_flight,
        wave=1,
        stopped=stopped,
        submitted=submitted,
        changed=0.0,
    )


class FakeFleet:
    """A fleet's jobs by their names, the newest last; queries for all are counted."""

    def __init__(self, *found):
        self.found = {s.name: s for s in found}
        self.whole = 0
        self.database = "sqlite:///jobs"

    def put(self, *found):
        self.found |= {s.name: s for s in found}

    async def jobs(self, *, ended=True, limit=None):
        self.whole += ended and limit is None
        wanted = [s for s in reversed(self.found.values()) if ended or not has_ended(s)]
        return wanted[:limit]

    async def job(self, name):
        fleet = self

        class Job:
            async def status(self):
                return fleet.found[name]

        return Job()


def console(width=100, height=30):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True)


def shown(console, what):
    with console.capture() as capture:
        console.print(what)
    # Without colour codes.
    return "".join(part.partition("m")[2] for part in f"\x1bm{capture.get()}".split("\x1b["))


def view_of(fleet, out=None, **options):
    return JobsView(out or console(), fleet, **options)


async def changed(view):
    await view.poll()
    return list(view.changes())


class TestJobs:
    async def test_changes_are_reported_once(self):
        """An unchanged status is skipped, even if it was read again."""
        fleet = FakeFleet(status("a"), status("b"))
        view = view_of(fleet)
        assert [s.name for s in await changed(view)] == ["b", "a"]
        fleet.put(attrs.evolve(status("a"), changed=9.0), status("b", succeeded=1))
        assert await changed(view) == [status("b", succeeded=1)]
        assert list(view.changes()) == []

    async def test_jobs_completed_before_are_skipped(self):
        """They are not read again; a job that completes now is followed to its end."""
        fleet = FakeFleet(status("old", "finished"), status("a"))
        view = view_of(fleet)
        assert [s.name for s in await changed(view)] == ["a"]
        assert not view.ended
        fleet.put(status("a", "finished", succeeded=10), status("short", "finished"))
        assert {s.name for s in await changed(view)} == {"a", "short"}
        assert view.ended
        assert await changed(view) == []
        assert fleet.whole == 1

    async def test_a_job_that_is_not_among_the_newest(self):
        """Many jobs were submitted after it; its completion is reported."""
        fleet = FakeFleet(status("a"), *(status(f"n{n}") for n in range(60)))
        view = view_of(fleet)
        assert len(await changed(view)) == 61
        fleet.put(status("a", "broken"))
        assert await changed(view) == [status("a", "broken")]


@pytest.mark.looptime
class TestLines:
    async def test_what_a_job_waits_for(self):
        """A line for each change of it, with the command that lets the job continue."""
        fleet = FakeFleet()
        view = view_of(fleet, every=1000.0)
        lines = []
        for change in (
            {"soaking": 2},
            {"state": "held", "held": 1},
            {"state": "paused", "held": 1, "paused": "more than 1 failed"},
            {},
        ):
            fleet.put(attrs.evolve(status("a"), **change))
            await view.poll()
            lines += [line.partition("in flight")[2] for line in view.lines()]
        assert lines == [
            "; 2 VMs soak",
            "; held after wave 1: starts no operations until 'job promote a'",
            "; more than 1 failed: starts no operations until 'job resume a'",
            "",
        ]

    async def test_lines_of_a_worker(self):
        """A new state is reported at once, mere progress only now and then."""
        fleet = FakeFleet()
        view = view_of(fleet, every=1000.0)
        lines = []
        for found in (
            status("a", "waiting"),
            status("a", in_flight=3),
            status("a", in_flight=3, succeeded=1),
            status("a", in_flight=3, succeeded=1),
            status("a", "finished", failed=1, stopped="\x1b"),
        ):
            fleet.put(found)
            await view.poll()
            lines += view.lines()
        assert lines == [
            "job a: reboot of 10, waiting, 0 in flight",
            "job a: reboot of 10, running, 3 in flight",
            (
                "job a: reboot of 10, finished, 0 in flight, 1 failed; "
                "no more operations are started: \\x1b"
            ),
        ]

    async def test_progress_that_is_due(self):
        """It is reported at its time, though nothing has changed since."""
        fleet = FakeFleet(status("a"))
        view = view_of(fleet, every=1000.0)
        await view.poll()
        assert len(list(view.lines())) == 1
        fleet.put(status("a", succeeded=1))
        await view.poll()
        assert list(view.lines()) == []
        await asyncio.sleep(1000)
        (line,) = view.lines()
        assert "1 succeeded" in line


@pytest.mark.looptime
class TestJobsView:
    async def test_rate_and_remaining_time(self):
        """Counted from the first status, for earlier progress is unknown."""
        fleet = FakeFleet(status("a", total=100, succeeded=40), status("b", "paused"))
        out = console()
        view = view_of(fleet, out)
        await view.poll()
        assert "/s" not in shown(out, view)
        fleet.put(status("a", total=100, in_flight=4, succeeded=58, failed=2))
        await asyncio.sleep(10)
        await view.poll()
        words = shown(out, view)
        assert "2 jobs" in words
        assert "1 running" in words
        (row,) = [line.split() for line in words.splitlines() if line.startswith("a ")]
        assert row == ["a", "reboot", "running", "60/100", "2", "0", "0", "4", "2.0/s", "0:20"]
        view.problem = "the database is\naway"
        assert "the database is\\naway" in shown(out, view)

    async def test_more_jobs_than_rows(self):
        """Running jobs come first, and the hidden ones are counted."""
        found = [status(f"f{n}", "finished", submitted=n) for n in range(9)]
        fleet = FakeFleet(status("on", submitted=-1.0))
        out = console(height=7)
        view = view_of(fleet, out)
        await view.poll()
        fleet.put(*found)
        await view.poll()
        lines = shown(out, view).splitlines()
        assert "10 jobs" in lines[0]
        assert "7 not shown" in lines[0]
        assert [line.split()[0] for line in lines[2:]] == ["on", "f8", "f7"]


@pytest.mark.looptime
class TestWorkerView:
    async def test_this_workers_part_of_the_jobs(self):
        """It is shown above the jobs, and in JSON; a job is reported if either has changed."""
        fleet = FakeFleet(status("a"), status("b"))
        item = WorkerItem(
            job="a",
            operation="reboot",
            item="web-01",
            vm_id="7",
            seconds=5.0,
            accepted=True,
            state="online",
        )
        fleet.worker_status = lambda: WorkerStatus(in_flight=(item,), done={"a": {"failed": 1}})
        out = console()
        view = WorkerView(out, fleet)
        first = await changed(view)
        parts = {line["name"]: line["here"] for line in first}
        assert parts == {
            "a": {"in_flight": 1, "done": {"failed": 1}},
            "b": {"in_flight": 0, "done": {}},
        }
        assert first[0].keys() > {"state", "total", "here"}
        assert await changed(view) == []
        fleet.worker_status = lambda: WorkerStatus(in_flight=(), done={"a": {"failed": 2}})
        assert [line["name"] for line in await changed(view)] == ["a"]
        words = shown(out, view)
        assert "0 in flight here · 2 done here · 2 failed" in words
        assert "2 jobs" in words


@pytest.mark.looptime
class TestResumedViews:
    def event(self, kind, index, **done):
        outcome = None
        if kind == "finished":
            outcome = Outcome(index=index, item=f"w{index}", status="succeeded", seconds=1.0)
        return BulkEvent(kind=kind, item=f"w{index}", index=index, outcome=outcome, done=done)

    async def test_earlier_progress_is_not_timed(self):
        """Its times and its rate are unknown."""
        out = Console(file=io.StringIO(), width=200)
        joined = Joined(seconds=100.0, done={"succeeded": 2})
        async with Progress(out, "reboot", 10, {}, joined=joined) as progress:
            for index in range(2):
                progress.on_event(self.event("started", index))
                progress.on_event(self.event("finished", index, succeeded=index + 1))
            progress.on_event(self.event("started", 2, succeeded=2))
            await asyncio.sleep(10)
            progress.on_event(self.event("started", 3, succeeded=2))
            before = shown(console(), progress)
            progress.note("paused")
            progress.note("paused")
            progress.on_event(self.event("finished", 2, succeeded=3))
        lines = out.file.getvalue().splitlines()
        assert lines[0].startswith("   earlier  w0  reboot succeeded")
        assert lines[1].startswith("   earlier  w1  reboot succeeded")
        assert lines[2] == "   110.0 s  paused"
        assert lines[3].startswith("   110.0 s  w2  reboot succeeded")
        assert len(lines) == 4
        assert "/min" not in before
        assert ">0:10  w2  queued, or with a worker" in before
        assert "  0:00  w3  queued, or with a worker" in before
        after = shown(console(), progress)
        progress.note("")
        assert "6/min · 1:10 left" in shown(console(), progress)
        assert "1:50" in after
        assert "paused" in after
        assert "left" not in after
        assert "· 6/min\n" in after
