"""The fixtures of the pytest plugin, and the objects that they return."""

import asyncio
import subprocess
import sys
import threading

import aiohttp
import pytest

from async_vmapi import Client, OutcomeUnknown
from async_vmapi.emulator import Settings
from async_vmapi.facts import Fact, Facts
from async_vmapi.testing import QUICK, VMCloud, VMServer


class TestCloud:
    async def test_a_create_whose_response_is_lost(self, vm_cloud, vm_client):
        """The VM exists once, and the create was sent once."""
        vm_cloud.fail_next("create", after_processing=True)
        task = await vm_client.vms.create(vm_cloud.create_request("web-01"))
        assert (await task).state == "online"
        assert task.adopted
        assert [vm.label for vm in vm_cloud.vms] == ["web-01"]
        assert vm_cloud.requests["create"] == 1
        assert vm_cloud.faults.injected == {"drop_after": 1}

    async def test_a_create_that_is_lost_on_its_way(self, vm_cloud, vm_client):
        """By default the cloud never received it: no VM, and no counted request."""
        vm_cloud.fail_next("create")
        with pytest.raises(OutcomeUnknown):
            await vm_client.vms.create(vm_cloud.create_request("web-01"))
        assert vm_cloud.vms == ()
        assert vm_cloud.requests["create"] == 0
        assert vm_cloud.faults.injected == {"drop_before": 1}

    @pytest.mark.looptime
    async def test_other_faults(self, vm_cloud):
        """Any kind of the emulator's faults can be next, before or after processing."""
        vm_cloud.add("web-01")
        vm_cloud.fail_next("shutdown", "server_error", after_processing=True, status=503)
        vm_cloud.fail_next("list", "rate_limited", retry_after=0)
        client = vm_cloud.client(max_retries=1)
        assert len(await client.vms.list()) == 1
        task = await client.vms.shutdown(vm_cloud.vm("web-01").id)
        assert (await task).state == "offline"
        assert [entry.call for entry in vm_cloud.log][:2] == ["list", "shutdown"]
        assert vm_cloud.faults.injected == {"server_error": 1, "rate_limited": 1}

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ({"call": "craete"}, "call='craete' is not one of"),
            ({"call": "list", "kind": "not_found"}, "is not for the call"),
            ({"call": "list", "kind": "stall", "after_processing": True}, "is not for kind"),
            ({"call": "list", "kind": "slow"}, "kind='slow' is not one of"),
        ],
    )
    def test_an_impossible_fault_is_refused(self, vm_cloud, fault, words):
        """It is an error at once, not a test that proves nothing."""
        with pytest.raises(ValueError, match=words):
            vm_cloud.fail_next(**fault)

    async def test_existing_vms(self, vm_cloud, vm_client):
        """A test adds a fleet in one line each, and gets one VM by name or id."""
        vm_cloud.add("web-01", cores=2, ram=2048)
        down = vm_cloud.add("web-02", state="offline")
        listed = await vm_client.vms.list()
        assert [(vm.label, vm.state, vm.cores) for vm in listed] == [
            ("web-01", "online", 2),
            ("web-02", "offline", 1),
        ]
        assert listed[0].addresses
        assert (await (await vm_client.vms.power_on(down.id))).state == "online"
        assert vm_cloud.vm("web-02") is vm_cloud.vm(down.id) is down
        assert down.state == "online"

    async def test_an_unknown_vm(self, vm_cloud):
        """The error lists the existing ones."""
        assert repr(vm_cloud) == "<VMCloud: no VMs>"
        vm_cloud.add("web-01")
        vm_cloud.add("web-01", state="offline")
        with pytest.raises(LookupError, match=r"no VM is named 'db'.*web-01 online"):
            vm_cloud.vm("db")
        with pytest.raises(LookupError, match="2 VMs are named 'web-01'"):
            vm_cloud.vm("web-01")

    @pytest.mark.looptime
    async def test_vms_are_current(self, vm_cloud, vm_client):
        """The cloud makes progress without requests."""
        vm_cloud.adjust("web-*", create=60)
        await vm_client.vms.create(vm_cloud.create_request("web-01"))
        sent = vm_cloud.requests.total()
        assert vm_cloud.vm("web-01").state == "installing"
        await asyncio.sleep(61)
        assert vm_cloud.vm("web-01").state == "online"
        assert vm_cloud.requests.total() == sent

    async def test_letting_time_pass(self, vm_cloud, vm_client):
        """A step that takes an hour is over when the test wants it."""
        vm_cloud.adjust(create=3600)
        task = await vm_client.vms.create(vm_cloud.create_request("web-01"))
        vm_cloud.elapse(3590)
        assert vm_cloud.vm("web-01").state == "installing"
        vm_cloud.elapse(10)
        assert vm_cloud.vm("web-01").state == "online"
        assert (await task).state == "online"
        with pytest.raises(ValueError, match="seconds=-1 is not"):
            vm_cloud.elapse(-1)

    def test_one_loop_after_another(self, vm_cloud, vm_client):
        """The cloud's clock continues where it stopped, whatever the next loop's clock shows."""

        async def create():
            return await vm_client.vms.create(vm_cloud.create_request("web-01"))

        async def wait(task):
            return (await task).state

        with asyncio.Runner() as runner:
            task = runner.run(create())
        before = vm_cloud.cloud.now
        assert [vm.state for vm in vm_cloud.vms] == ["installing"]
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.time = lambda true=loop.time: true() - 1e6
            assert runner.run(wait(task)) == "online"
        assert before < vm_cloud.cloud.now < before + 60

    @pytest.mark.looptime
    async def test_lifelike_on_a_virtual_clock(self, vm_cloud, vm_client, looptime):
        """Where time costs nothing, VMs take as long as real ones."""
        assert await (await vm_client.vms.create(vm_cloud.create_request("web-01")))
        assert 25 < looptime < 120

    @pytest.fixture
    async def fleet(self, vm_cloud):
        vm_cloud.add("web-01")
        return await vm_cloud.client().vms.list()

    @pytest.mark.looptime
    async def test_a_fixture_before_the_virtual_time(self, fleet, vm_cloud, vm_client, looptime):
        """The clock jumps in the test alone; operations of a fixture in real time continue."""
        began, before = float(looptime), vm_cloud.cloud.now
        vm_cloud.fail_next("create", after_processing=True)
        assert await (await vm_client.vms.create(vm_cloud.create_request("web-02")))
        assert await (await vm_client.vms.reboot(fleet[0]))
        assert 35 < looptime - began < 200
        assert vm_cloud.cloud.now - before == pytest.approx(looptime - began, abs=5)

    async def test_a_clock_that_is_set_back(self, vm_cloud):
        """The cloud's own clock never is, so operations in flight complete."""
        loop = asyncio.get_running_loop()
        await vm_cloud.client().vms.create(vm_cloud.create_request("web-01"))
        before, loop.time = loop.time(), lambda true=loop.time: true() - 1000
        try:
            await vm_cloud.client().vms.list()
            await asyncio.sleep(0.1)
            assert vm_cloud.vm("web-01").state == "online"
            assert loop.time() < before
        finally:
            del loop.time

    @pytest.mark.looptime(False)
    async def test_quick_where_looptime_is_off(self, vm_cloud, vm_virtual_time):
        """A marker can disable it."""
        assert not vm_virtual_time
        assert vm_cloud.cloud.settings == QUICK

    @pytest.mark.looptime
    async def test_all_operations_are_observed(self, looptime):
        """Though quick, each transition is seen by a client, and none takes long."""
        vm_cloud = VMCloud(QUICK)
        vms = vm_cloud.client().vms
        task = await vms.create(vm_cloud.create_request("web-01"))
        vm = await task
        evidences = [task.evidence]
        for call, keywords in [
            ("resize", {"cores": 2, "ram": 2048}),
            ("reboot", {}),
            ("reset", {}),
            ("shutdown", {}),
            ("power_on", {}),
            ("power_off", {}),
            ("delete", {}),
        ]:
            task = await getattr(vms, call)(vm, **keywords)
            await task
            evidences.append(task.evidence)
        assert evidences == ["observed"] * 8
        assert looptime < 4
        assert vm_cloud.vms == ()


class TestOwnSettings:
    @pytest.fixture
    def vm_settings(self):
        return Settings().changed(create=0.01, not_found=0, quota=1)

    async def test_they_apply_to_both_clouds(self, vm_cloud, vm_server):
        """A suite's own settings."""
        assert vm_cloud.cloud.settings.quota == vm_server.cloud.cloud.settings.quota == 1


class TestFacts:
    """A stale provider, in a file of facts or as `Facts`."""

    @pytest.fixture(params=["file", "facts"])
    def vm_facts(self, request, tmp_path):
        stale = Facts(
            {
                "reads.max_staleness": Fact(20.0, "measured", 9),
                "durations.shutdown": Fact((100.0, 110.0), "measured", 9),
            }
        )
        path = tmp_path / "cloud.toml"
        path.write_text(stale.to_toml())
        return path if request.param == "file" else stale

    @pytest.mark.looptime
    async def test_the_cloud_and_its_client(self, vm_cloud, vm_client, looptime):
        """Reads are as old and operations as slow as measured, and the client knows that."""
        assert vm_cloud.cloud.settings.max_staleness == 20
        assert vm_client.max_staleness == 41
        vm = vm_cloud.add("web-01")
        task = await vm_client.vms.shutdown(vm.id)
        assert (await task).state == "offline"
        assert task.evidence == "observed"
        assert 100 < looptime < 200

    async def test_the_server_and_its_clients(self, vm_server, monkeypatch):
        """Also one that reads its environment."""
        assert vm_server.cloud.cloud.settings.max_staleness == 20
        async with vm_server.client() as client:
            assert client.max_staleness == 41
        for name, value in vm_server.env.items():
            monkeypatch.setenv(name, value)
        async with Client.from_env() as client:
            assert client.max_staleness == 41

    def test_own_settings_go_before_them(self, vm_facts):
        """The facts are then for the client alone."""
        cloud = VMCloud(Settings(quota=1), facts=vm_facts)
        assert cloud.cloud.settings.max_staleness == 0
        assert cloud.client().max_staleness == 41
        assert VMCloud().client().max_staleness == 0


class TestServer:
    async def test_a_whole_life_over_http(self, vm_server):
        """Another thread serves the cloud, and this one reads its state."""
        cloud = vm_server.cloud
        async with vm_server.client() as client:
            cloud.fail_next("create", after_processing=True)
            vm = await (await client.vms.create(cloud.create_request("web-01")))
            assert cloud.vm("web-01").state == "online"
            cloud.add("web-02")
            cloud.adjust("web-01", delete=3600)
            assert [vm.label for vm in cloud.vms] == ["web-01", "web-02"]
            task = await client.vms.delete(vm)
            cloud.elapse(3600)
            await task
        assert cloud.requests["create"] == cloud.requests["delete"] == 1
        assert repr(cloud) == "<VMCloud: web-02 online>"

    async def test_the_environment_of_a_program(self, vm_server, monkeypatch):
        """Code that makes its own client finds the server."""
        for name, value in vm_server.env.items():
            monkeypatch.setenv(name, value)
        async with Client.from_env() as client:
            assert await client.vms.list() == []
        assert vm_server.api_secret not in repr(vm_server)
        assert vm_server.url in repr(vm_server)

    async def test_it_runs_once_at_a_time_and_can_run_again(self):
        """Outside its context it has no address; its cloud and clock continue the next time."""
        server = VMServer()
        with pytest.raises(RuntimeError, match="not running"):
            server.url  # noqa: B018
        with server:
            with pytest.raises(RuntimeError, match="already running"), server:
                pass
            server.cloud.add("web-01")
            url = server.url
        assert "not running" in repr(server)
        assert [vm.label for vm in server.cloud.vms] == ["web-01"]
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(url)
        with server:
            async with server.client() as client:
                assert [vm.label for vm in await client.vms.list()] == ["web-01"]

    def test_a_failed_start_is_raised(self, monkeypatch):
        """A server that cannot listen says why."""

        def refuse(*arguments, **options):
            raise OSError("no port is free")

        monkeypatch.setattr("async_vmapi.testing.server.Emulator", refuse)
        server = VMServer()
        with pytest.raises(OSError, match="no port is free"), server:
            pass
        with pytest.raises(RuntimeError, match="not running"):
            server.url  # noqa: B018

    def test_a_failed_thread_is_raised(self, monkeypatch):
        """An exception of the thread during the test is raised, and nothing waits for it."""
        server = VMServer()

        class Falling(asyncio.Event):
            async def wait(self):
                raise OSError("the port was taken away")

        monkeypatch.setattr("async_vmapi.testing.server.asyncio.Event", Falling)
        with pytest.raises(OSError, match="the port was taken away"), server:
            _end_of_thread("vm_server")
        assert not [thread for thread in threading.enumerate() if thread.name == "vm_server"]


def _end_of_thread(name):
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


class TestCost:
    @pytest.mark.programs
    def test_the_plugin_imports_nothing_of_the_package(self):
        """pytest loads the plugin in every run, also of suites that never use it."""
        code = "import sys, pytest; before = set(sys.modules); import pytest_async_vmapi;"
        code += "print(sorted(set(sys.modules) - before))"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert out.stdout == "['pytest_async_vmapi']\n", out.stderr

    def test_a_cloud_is_cheap(self):
        """A fixture for each test may cost next to nothing: no thread, no loop, no socket."""
        assert VMCloud().client().requests == {}
