"""Rehearsals: runs of a plan on an emulated copy of the fleet, here and in other processes."""

import asyncio
import io
import json
import signal
import sys
import threading
import time

import attrs
import pytest
import uvloop

from async_vmapi import BulkPlan, Client, ImageBoot, InvalidArgument, Ready, VMAPIError
from async_vmapi.bulk.hazards import Hazards
from async_vmapi.emulator import Settings
from async_vmapi.facts import Fact, Facts
from async_vmapi.models.vm import Reference
from async_vmapi.rehearsal import worker
from async_vmapi.rehearsal.processes import Workers
from async_vmapi.rehearsal.run import run
from async_vmapi.rehearsal.scenario import NewVM, RehearsedVM, Scenario
from async_vmapi.rehearsal.virtual_loop import VirtualLoop
from async_vmapi.testing import VMCloud

NONE = Hazards.none()
SECRET = "planted-secret"
NAMES = {"names": {"vm-0": "new"}}


def fleet_of(count, **fields):
    given = {"state": "online", "cores": 1, "ram": 1024, "zone": Reference("z", "Z")}
    return tuple(
        RehearsedVM(**(given | {"id": f"vm-{n}", "label": f"web-{n}"} | fields))
        for n in range(count)
    )


def scenario_of(operation="reboot", count=8, fleet=None, **fields):
    vms = fleet or fleet_of(count)
    given = {"plan": BulkPlan(), "items": tuple(vm.id for vm in vms), "hazards": NONE}
    return Scenario(operation=operation, fleet=vms, **(given | fields))


class TestOneRun:
    def test_the_same_seed_gives_the_same_run(self):
        """Whatever goes wrong; another seed gives another run."""
        wild = Hazards(
            lost_requests=0.05, lost_responses=0.05, server_errors=0.05, failing=0.2, unhealthy=0.2
        )
        plan = BulkPlan(waves=[1, "50%", "100%"], max_failures="50%", min_online="50%", soak=20)
        scenario = scenario_of(plan=plan, count=20, hazards=wild, probes=True)
        runs = [run(scenario, seed) for seed in (1, 2, 3)]
        assert [run(scenario, seed) for seed in (1, 2, 3)] == runs
        assert runs[0] != attrs.evolve(runs[1], seed=1)
        recorded = run(scenario, 3, record=True)
        assert attrs.evolve(recorded, timeline=None) == runs[2]

    @pytest.mark.parametrize(
        ("operation", "arguments", "fewest"),
        [
            ("reboot", {}, None),
            ("reset", {}, None),
            ("resize", {"cores": 2, "ram": 2048, "wait_for": 4}, None),
            ("shutdown", {"wait_for": 4}, 0),
            ("power_off", {}, 0),
            ("delete", {"delete_resources": False, "missing_ok": True}, 0),
            ("rename", {"names": {f"vm-{n}": f"new-{n}" for n in range(8)}}, 8),
        ],
    )
    def test_without_hazards_all_succeed(self, operation, arguments, fewest):
        """For each operation on online VMs."""
        found = run(scenario_of(operation, arguments=arguments), 1)
        assert found.counts == {"succeeded": 8}
        assert found.failures == {}
        assert found.stopped is None
        assert found.requests >= 8
        if fewest is not None:
            assert found.fewest_online == fewest

    def test_power_on(self):
        """The VMs are as they were listed."""
        found = run(scenario_of("power_on", fleet=fleet_of(4, state="offline")), 1)
        assert (found.counts, found.fewest_online) == ({"succeeded": 4}, 0)

    @pytest.mark.parametrize("names", [["a-1", "a-2"], ["[x]*", "?"], ["same", "same"]])
    def test_creates(self, names):
        """Of any names; VMs that exist stay as they are."""
        new = tuple(NewVM(name=name, cpus=1, ram=1024, zone_id="mine") for name in names)
        scenario = scenario_of("create", new=new, items=(), hazards=Hazards(ignoring_acpi=1.0))
        found = run(scenario, 1)
        assert found.counts == {"succeeded": len(names)}
        assert found.fewest_online is None

    def test_creates_that_fail(self):
        """The pattern of a name hits only that name."""
        names = ("web-[1]", "web-1", "web-*")
        new = tuple(NewVM(name=name, cpus=1, ram=1024, zone_id="mine") for name in names)
        scenario = scenario_of("create", new=new, items=(), count=2)
        failing = attrs.evolve(scenario, hazards=attrs.evolve(NONE, failing=1.0))
        assert run(failing, 1).counts == {"failed": 3}
        assert run(failing, 1).failures == {"TaskFailed": 3}

    @pytest.mark.parametrize("operation", ["reboot", "reset", "power_on", "resize"])
    def test_failing_vms(self, operation):
        """Each operation that would end online can fail."""
        fleet = fleet_of(4, state="offline" if operation == "power_on" else "online")
        arguments = {"cores": 2, "ram": 2048} if operation == "resize" else {}
        hazards = attrs.evolve(NONE, failing=1.0)
        scenario = scenario_of(operation, fleet=fleet, arguments=arguments, hazards=hazards)
        assert run(scenario, 1).counts == {"failed": 4}

    def test_the_plan_is_the_plan(self):
        """Its waves, its failure budget and its minimum of online VMs apply."""
        hazards = attrs.evolve(NONE, failing=1.0)
        plan = BulkPlan(waves=[1, "100%"])
        found = run(scenario_of(plan=plan, hazards=hazards), 1)
        assert found.counts == {"failed": 1, "not_started": 7}
        assert found.stopped == "wave 1 had failures"
        held = run(scenario_of(plan=BulkPlan(min_online=6)), 1, record=True)
        assert held.fewest_online >= 6
        assert max(count for _, count in held.timeline.in_flight) == 2
        free = run(scenario_of(), 1)
        assert free.fewest_online < 6
        assert free.seconds < held.seconds

    def test_reboots_that_reads_never_show(self):
        """Their VMs are not online meanwhile, whatever the provider shows."""
        hidden = Facts({"reboot.shows": Fact(False, "measured", 9)}).to_toml()
        found = run(scenario_of(facts=hidden, plan=BulkPlan(min_online=6)), 1, record=True)
        assert 6 <= found.fewest_online < 8
        assert found.timeline.online[-1][1] == 8
        failing = attrs.evolve(NONE, failing=1.0)
        found = run(scenario_of(facts=hidden, hazards=failing), 1, record=True)
        assert found.timeline.online[-1][1] == found.fewest_online == 0

    def test_creates_are_spread_over_their_zones(self):
        """Those of the account, which the emulator does not have; online VMs are the new ones."""
        new = tuple(NewVM(name=f"n-{n}", cpus=1, ram=1024, zone_id="ba"[n % 2]) for n in range(4))
        plan = BulkPlan(spread_by="zone")
        scenario = scenario_of("create", new=new, items=(), plan=plan)
        timeline = run(scenario, 1, record=True).timeline
        assert [wave.domain for wave in timeline.waves] == ["b", "a"]
        assert (timeline.online[0], timeline.online[-1][1]) == ((0.0, 0), 4)

    def test_what_goes_wrong_is_independent(self):
        """A VM can fail whose first request was not lost."""
        hazards = attrs.evolve(NONE, failing=0.5, lost_requests=0.5)
        options = {"max_retries": 0, "reconcile_timeout": 1.0}
        scenario = scenario_of(count=1, hazards=hazards, options=options)
        seen = {tuple(run(scenario, seed).failures) for seed in range(20)}
        assert {("OutcomeUnknown",), ("TaskFailed",), ()} <= seen

    def test_waves_are_promoted_at_once(self):
        """A rehearsal has no user who could do it."""
        plan = BulkPlan(waves=[1, 3, "100%"], promote="each")
        found = run(scenario_of(plan=plan), 1, record=True)
        assert found.counts == {"succeeded": 8}
        assert [wave.number for wave in found.timeline.waves] == [1, 2, 3]
        assert [wave.begins for wave in found.timeline.waves[1:]] == [
            pytest.approx(wave.ends) for wave in found.timeline.waves[:-1]
        ]

    def test_a_pause_after_failures_ends_the_run(self):
        """It would wait for you."""
        hazards = attrs.evolve(NONE, failing=1.0)
        plan = BulkPlan(limit=1, max_failures=1, on_failure="pause")
        found = run(scenario_of(plan=plan, hazards=hazards), 1)
        assert found.counts == {"failed": 2, "not_started": 6}
        assert found.stopped == "more than 1 failed"
        fleet = fleet_of(4, groups=(Reference("1", "a\x1b"),))
        plan = attrs.evolve(plan, spread_by="group")
        found = run(scenario_of(plan=plan, hazards=hazards, fleet=fleet), 1)
        assert found.stopped == "more than 1 failed in a\x1b"

    def test_checks(self):
        """Unhealthy VMs fail; others pass after their warm-up, which takes time."""
        plan = BulkPlan(check=Ready.ssh(), check_timeout=60)
        warm = attrs.evolve(NONE, warm_up=(40.0, 50.0))
        found = run(scenario_of(plan=plan, probes=True, hazards=warm), 1)
        assert found.counts == {"succeeded": 8}
        assert found.seconds > 40
        sick = attrs.evolve(NONE, unhealthy=1.0)
        found = run(scenario_of(plan=plan, probes=True, hazards=sick), 1)
        assert (found.counts, found.failures) == ({"failed": 8}, {"TaskTimeout": 8})

    def test_a_spread_by_zone(self):
        """Waves are within each zone of the real fleet."""
        zones = [Reference("a", "A"), Reference("b", "B")]
        fleet = tuple(attrs.evolve(vm, zone=zones[n % 2]) for n, vm in enumerate(fleet_of(8)))
        plan = BulkPlan(spread_by="zone", waves=[1, "100%"])
        found = run(scenario_of(plan=plan, fleet=fleet), 1, record=True)
        assert [wave.domain for wave in found.timeline.waves] == ["A", "A", "B", "B"]

    def test_facts_decide_how_long_it_takes(self):
        """A provider that takes twelve minutes for each delete."""
        slow = Facts({"durations.delete": Fact((700.0, 750.0), "measured", 9)}).to_toml()
        assert run(scenario_of("delete"), 1).seconds < 300
        assert 700 < run(scenario_of("delete", facts=slow), 1).seconds < 850

    def test_the_clients_options_apply(self):
        """A rate limit makes it slower, and bounds the peak."""
        slow = run(scenario_of(options={"max_requests_per_second": 0.5}), 1)
        assert slow.peak_requests <= 2
        assert run(scenario_of(), 1).peak_requests > 2

    def test_the_clients_timeout_applies(self):
        """To connections that hang; no limit is also one."""
        hazards = attrs.evolve(NONE, stalls=1.0)
        seconds = [
            run(scenario_of("rename", 1, arguments=NAMES, hazards=hazards, options=options), 1)
            for options in (
                {"timeout": 1.0, "max_retries": 0},
                {"max_retries": 0},
                {"timeout": float("inf"), "max_retries": 0},
            )
        ]
        short, usual, unlimited = (found.seconds for found in seconds)
        assert short + 25 < usual < unlimited - 25


class TestAgainstACloud:
    @pytest.mark.looptime
    async def test_the_prediction_matches_what_happens(self):
        """The median duration of real calls on the same kind of cloud, within a tenth."""
        seconds = []
        for seed in range(10):
            cloud = VMCloud(Settings(), seed=seed, virtual_time=True)
            vms = [cloud.add(f"web-{n}").id for n in range(40)]
            async with Client.in_memory(cloud, latency=0.05, seed=seed) as client:
                report = await client.bulk(limit=10, min_online="80%").reboot(vms)
            seconds.append(report.seconds)
        scenario = scenario_of(count=40, plan=BulkPlan(limit=10, min_online="80%"))

        def rehearsed():
            return [run(scenario, seed).seconds for seed in range(100, 110)]

        predicted = await asyncio.get_running_loop().run_in_executor(None, rehearsed)
        assert sorted(predicted)[5] == pytest.approx(sorted(seconds)[5], rel=0.1)


class TestRehearse:
    async def test_nothing_is_written(self):
        """The fleet is listed once, and that is all."""
        cloud = VMCloud()
        vms = [cloud.add(f"web-{n}").id for n in range(6)]
        cloud.add("another")
        done = []
        async with cloud.client() as client:
            bulk = client.bulk(waves=[1, "100%"])
            found = await bulk.rehearse(
                vms, "reboot", runs=4, seed=7, hazards=NONE, processes=2, on_run=done.append
            )
        assert cloud.requests == {"list": 1}
        assert (found.operation, found.vms, found.items) == ("reboot", 7, 6)
        assert [run.seed for run in found.runs] == [7, 8, 9, 10]
        assert sorted(run.seed for run in done) == [7, 8, 9, 10]
        assert found.count("succeeded").least == 6
        assert [run.timeline is not None for run in found.runs].count(True) == 1
        assert found.worst.timeline.waves[0].number == 1
        assert "the worst of 4 runs" in found.to_svg()

    async def test_a_run_can_be_repeated(self):
        """With its seed alone, it is the same run."""
        cloud = VMCloud()
        vms = [cloud.add(f"web-{n}").id for n in range(6)]
        async with cloud.client() as client:
            found = await client.bulk().rehearse(vms, "shutdown", runs=3, wait_for=1)
            again = await client.bulk().rehearse(
                vms, "shutdown", runs=1, seed=found.worst.seed, wait_for=1
            )
        assert again.worst == found.worst

    async def test_creates_without_their_secrets(self, request_for):
        """Passwords and user data do not leave the process."""
        cloud = VMCloud()
        boot = ImageBoot(os=cloud.template_id, password=SECRET, user_data=SECRET)
        requests = [request_for(f"web-{n}", boot=boot) for n in range(2)]
        sent = []
        async with cloud.client() as client:
            real = Workers.__init__

            def spy(self, scenario, count):
                sent.append(json.dumps(scenario.to_dict()))
                real(self, scenario, count)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Workers, "__init__", spy)
                found = await client.bulk().rehearse(requests, "create", runs=1, hazards=NONE)
        assert found.count("succeeded").least == 2
        assert "web-1" in sent[0]
        assert SECRET not in sent[0]
        assert SECRET not in found.to_json()
        assert not cloud.requests["create"]

    async def test_checks_with_functions(self):
        """They are not called: the check is emulated."""

        async def check(vm):
            raise AssertionError(vm)

        cloud = VMCloud()
        vms = [cloud.add("web-1").id]
        async with cloud.client() as client:
            bulk = client.bulk(check=check)
            found = await bulk.rehearse(vms, "reboot", runs=1, hazards=NONE)
        assert found.count("succeeded").least == 1
        assert found.plan.check == Ready()

    @pytest.mark.parametrize(
        ("call", "why"),
        [
            ({"runs": 0}, "runs=0 is not an integer from 1"),
            ({"runs": 100_001}, "runs=100001 is not an integer from 1 to 100000"),
            ({"seed": -1}, "seed=-1"),
            ({"processes": 0}, "processes=0"),
            ({"hazards": 0.1}, "hazards=0.1 is not a Hazards"),
            ({"items": []}, "items is empty"),
            ({"items": iter(["a", "b", "a"])}, "a is a duplicate"),
            ({"items": iter([5])}, "vm=5 is not an id"),
            ({"items": iter(["a"]), "start": "create"}, "item='a' is not a CreateRequest"),
            ({"items": iter(["vm-1"]), "start": "rename", **NAMES}, "has none for vm-1"),
            ({"start": "explode"}, "explode"),
            ({"cores": 3}, "cores"),
        ],
    )
    async def test_wrong_arguments(self, call, why):
        """The error names them; nothing is sent, and no process is started."""
        cloud = VMCloud()
        call = {"items": [cloud.add("web-1").id], "start": "reboot"} | call
        async with cloud.client() as client:
            with pytest.raises(InvalidArgument, match=why):
                await client.bulk().rehearse(call.pop("items"), call.pop("start"), **call)
        assert not cloud.requests

    async def test_vms_that_no_list_shows(self):
        """It is not known what would happen to them."""
        cloud = VMCloud()
        async with cloud.client() as client:
            with pytest.raises(InvalidArgument, match="no list shows absent"):
                await client.bulk().rehearse(["absent"], "reboot")

    async def test_a_function_cannot_be_rehearsed(self):
        """It would send its requests."""
        cloud = VMCloud()
        async with cloud.client() as client:
            with pytest.raises(InvalidArgument, match="a function cannot be emulated"):
                await client.bulk().rehearse(["a"], client.vms.reboot)
        assert not cloud.requests


class TestProcesses:
    @pytest.fixture
    def started(self, monkeypatch):
        """The processes, as they are started."""
        processes, real = [], asyncio.create_subprocess_exec

        async def start(*arguments, **options):
            processes.append(await real(*arguments, **options))
            return processes[-1]

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        return processes

    def test_the_worker_does_what_it_is_ordered(self):
        """Its lines are those of `run`."""
        scenario = scenario_of()
        orders = [{"seed": 1, "record": False}, {"seed": 2, "record": True}]
        lines = "".join(f"{json.dumps(line)}\n" for line in [scenario.to_dict(), *orders])
        results = io.StringIO()
        worker.work(io.StringIO(lines), results)
        first, second = map(json.loads, results.getvalue().splitlines())
        assert first == run(scenario, 1).to_dict()
        assert second == json.loads(json.dumps(run(scenario, 2, record=True).to_dict()))

    @pytest.mark.parametrize("impatient", [False, True])
    async def test_a_cancelled_rehearsal_ends_its_processes(self, started, impatient):
        """And waits for them; those that cancel it again do not wait, and leave none either."""
        ran = asyncio.Event()

        async def rehearse():
            async with Workers(scenario_of(count=100), 2) as workers:
                await workers.run(range(10_000), on_run=lambda _: ran.set())

        call = asyncio.create_task(rehearse())
        await ran.wait()
        call.cancel()
        while impatient and not call.done():
            await asyncio.sleep(0)
            call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        if impatient:
            await asyncio.gather(*(process.wait() for process in started))
        assert [process.returncode for process in started] == [-signal.SIGKILL] * 2

    async def test_the_environment_of_a_process(self, monkeypatch, tmp_path):
        """It has no credentials, and no setting of how Python writes text breaks it."""
        (tmp_path / "sitecustomize.py").write_text(
            "import os\n"
            "if found := [name for name in os.environ if name.startswith('VMAPI_')]:\n"
            "    raise SystemExit(f'{found} in the environment')"
        )
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        for name in ("VMAPI_API_KEY", "VMAPI_API_SECRET"):
            monkeypatch.setenv(name, SECRET)
        monkeypatch.setenv("PYTHONIOENCODING", "utf-16")
        async with Workers(scenario_of(), 1) as workers:
            found = await workers.run([1])
        assert found == [await asyncio.to_thread(run, scenario_of(), 1)]

    async def test_a_package_in_the_current_folder(self, monkeypatch, tmp_path):
        """A process imports it from there, if this program does."""
        package = tmp_path / "async_vmapi" / "rehearsal"
        package.mkdir(parents=True)
        for folder in (package.parent, package):
            (folder / "__init__.py").touch()
        (package / "worker.py").write_text("raise SystemExit('from the current folder')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", ["", *sys.path])
        with pytest.raises(VMAPIError, match="from the current folder"):
            async with Workers(scenario_of(), 1) as workers:
                await workers.run([1])

    async def test_a_process_that_dies(self):
        """The error has its last words."""
        broken = attrs.evolve(scenario_of(), facts="no TOML")
        with pytest.raises(VMAPIError, match=r"exit status 1: .*InvalidArgument.* is not TOML"):
            async with Workers(broken, 1) as workers:
                await workers.run([1])

    @pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
    def test_a_process_that_was_killed(self, started, loop_factory):
        """The error says so, on any event loop, also if it was noticed before the next order."""

        async def main():
            async with Workers(scenario_of(), 1) as workers:
                await workers.run([1])
                started[0].kill()
                await started[0].wait()
                with pytest.raises(VMAPIError, match="exit status -9: it wrote nothing"):
                    await workers.run([2])

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    async def test_no_interpreter(self, monkeypatch):
        """An embedded Python may not know its program."""
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(VMAPIError, match="does not know its Python interpreter"):
            async with Workers(scenario_of(), 1):
                pass
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(VMAPIError, match="/no/such/python cannot be started: No such file"):
            async with Workers(scenario_of(), 1):
                pass

    async def test_an_on_run_that_raises(self):
        """Its error is the rehearsal's."""

        def on_run(_):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with Workers(scenario_of(), 2) as workers:
                await workers.run(range(4), on_run=on_run)


class TestVirtualLoop:
    def test_time_jumps(self):
        """A year takes no time, and callbacks are in order."""

        async def main():
            loop = asyncio.get_running_loop()
            began = loop.time()
            seen = []
            loop.call_later(2, seen.append, 2)
            loop.call_later(1, seen.append, 1)
            await asyncio.sleep(365 * 86_400)
            assert loop.time() - began == pytest.approx(365 * 86_400)
            assert await asyncio.to_thread(lambda: 5) == 5
            return seen

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            assert runner.run(main()) == [1, 2]

    def test_closing_waits_for_threads(self):
        """In real time: since Python 3.12, a runner gives them 300 seconds of the loop's."""
        finishing, ended = threading.Event(), threading.Event()

        def in_thread():
            finishing.wait()
            # The runner is closing by now; its timeout, if it had one, would be over.
            time.sleep(0.05)
            ended.set()

        async def main():
            asyncio.get_running_loop().run_in_executor(None, in_thread)
            asyncio.get_running_loop().call_soon(finishing.set)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
        assert ended.is_set()
