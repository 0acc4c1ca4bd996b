"""Users' own suites, run as programs: under each plugin that drives async tests, and without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import unmeasured

pytestmark = pytest.mark.programs

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"

DEPLOY = '''
from async_vmapi import ImageBoot

async def deploy(client, name):
    """Code under test: it creates a VM and waits for it."""
    zone = (await client.regions.list())[0].zones[0].id
    boot = ImageBoot(os=(await client.templates.list())[0].id)
    task = await client.vms.create(name=name, cpus=1, ram=1024, zone_id=zone, boot=boot)
    return await task

async def survives_a_lost_create(cloud, client):
    cloud.fail_next("create", after_processing=True)
    await deploy(client, "web-01")
    assert [vm.label for vm in cloud.vms] == ["web-01"]
    assert cloud.requests["create"] == 1
'''

STRICT = '''
import asyncio, logging, looptime, pytest, pytest_asyncio
from product import deploy, survives_a_lost_create

@pytest_asyncio.fixture
async def deployed(vm_client, vm_cloud):
    yield await deploy(vm_client, "web-01")
    await (await vm_client.vms.delete(vm_cloud.vms[0].id))
    await vm_client.close()

@pytest.mark.asyncio
async def test_lost(vm_cloud, vm_client):
    await survives_a_lost_create(vm_cloud, vm_client)

@pytest.mark.asyncio
async def test_a_fixture_that_uses_the_client(deployed, vm_client):
    assert (await vm_client.vms.get(deployed)).state == "online"

@pytest.mark.asyncio
async def test_left_in_the_middle(vm_cloud, vm_client):
    """Abandoned awaits log nothing."""
    vm_cloud.adjust(create=1000)
    asyncio.create_task(deploy(vm_client, "web-01"))
    await asyncio.sleep(0.02)

@pytest.mark.asyncio
@pytest.mark.looptime
async def test_virtual_time(vm_cloud, vm_client):
    await survives_a_lost_create(vm_cloud, vm_client)
    assert asyncio.get_running_loop().time() > 25

@pytest.mark.asyncio
async def test_over_http(vm_server):
    async with vm_server.client() as client:
        await survives_a_lost_create(vm_server.cloud, client)

def test_without_a_loop_of_a_plugin(vm_cloud, vm_client):
    asyncio.run(survives_a_lost_create(vm_cloud, vm_client))
'''

AUTO = """
import pytest
from product import deploy, survives_a_lost_create

@pytest.fixture
async def deployed(vm_client):
    async with vm_client:
        yield await deploy(vm_client, "web-01")

async def test_lost(vm_cloud, vm_client):
    await survives_a_lost_create(vm_cloud, vm_client)

async def test_a_fixture_that_uses_the_client(deployed, vm_client):
    assert (await vm_client.vms.get(deployed)).state == "online"

@pytest.mark.looptime
async def test_virtual_time(vm_cloud, vm_client, looptime):
    await survives_a_lost_create(vm_cloud, vm_client)
    assert looptime > 25
"""

ANYIO = """
import asyncio, looptime, pytest
from product import deploy, survives_a_lost_create

pytestmark = pytest.mark.anyio
VIRTUAL = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
BACKENDS = [{}, {"use_uvloop": True}, {"loop_factory": VIRTUAL}]

@pytest.fixture(params=BACKENDS, ids=["plain", "uvloop", "virtual"])
def anyio_backend(request):
    return "asyncio", request.param

@pytest.fixture
async def deployed(vm_client):
    async with vm_client:
        yield await deploy(vm_client, "web-01")

async def test_lost(vm_cloud, vm_client, vm_virtual_time, anyio_backend):
    await survives_a_lost_create(vm_cloud, vm_client)
    assert vm_virtual_time == ("loop_factory" in anyio_backend[1])
    if vm_virtual_time:
        assert asyncio.get_running_loop().time() > 25

async def test_a_fixture_that_uses_the_client(deployed, vm_client):
    assert (await vm_client.vms.get(deployed)).state == "online"
"""

PLAIN = """
import asyncio
from product import survives_a_lost_create

def test_lost(vm_cloud, vm_client):
    asyncio.run(survives_a_lost_create(vm_cloud, vm_client))

def test_over_http(vm_server):
    async def lost():
        async with vm_server.client() as client:
            await survives_a_lost_create(vm_server.cloud, client)
    asyncio.run(lost())
"""

UNUSED = """
import pytest

def test_in_memory(vm_cloud):
    vm_cloud.fail_next("create", "server_error", status=503)

def test_over_http(vm_server):
    vm_server.cloud.fail_next("list")

def test_fails_by_itself(vm_cloud):
    vm_cloud.fail_next("create")
    assert vm_cloud.vms

def test_meant(vm_cloud):
    vm_cloud.fail_next("create")
    vm_cloud.faults.clear()
"""

# As this suite's own conftest does; the reason is there.
CONFTEST = """
import asyncio
asyncio.set_event_loop(None)
"""

LOOPTIME = ["looptime_plugin", "looptime_chronometers", "looptime_timeproxies"]


@pytest.fixture
def run_suite(tmp_path):
    """Run modules of tests as a suite, with some plugins disabled."""

    def run(*arguments, without=(), code=0, **modules):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "product.py").write_text(DEPLOY)
        (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
        for name, content in modules.items():
            (tmp_path / f"test_{name}.py").write_text(content)
        if "asyncio" not in without:
            arguments += ("-o", "asyncio_default_fixture_loop_scope=function")
        off = [word for plugin in without for word in ("-p", f"no:{plugin}")]
        kept = {n: v for n, v in unmeasured(os.environ).items() if not n.startswith("PYTEST_")}
        done = subprocess.run(
            [
                *(sys.executable, "-W", "error", "-m", "pytest", "-q", "-W", "error"),
                *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov"),
                *off,
                *arguments,
            ],
            cwd=tmp_path,
            env=kept,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


class TestSuites:
    def test_strict_mode_beside_anyio(self, run_suite):
        """In one suite some tests are pytest-asyncio's, others anyio's, and some plain."""
        assert "12 passed" in run_suite("--asyncio-mode=strict", strict=STRICT, anyio=ANYIO)

    def test_auto_mode_and_the_documentation(self, run_suite):
        """No test and no fixture needs a mark; each block of docs/testing.md is a module."""
        blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        modules = {
            f"docs_{number}": f"from product import deploy\n{block}"
            for number, block in enumerate(blocks)
        }
        assert sum(block.count("async def test_") for block in blocks) == 3
        assert "6 passed" in run_suite("--asyncio-mode=auto", auto=AUTO, **modules)

    def test_anyio_alone(self, run_suite):
        """Without pytest-asyncio, and with anyio's plugin running all async tests."""
        alone = [*LOOPTIME, "asyncio"]
        assert "6 passed" in run_suite("-o", "anyio_mode=auto", without=alone, anyio=ANYIO)

    def test_no_plugin_at_all(self, run_suite):
        """Tests that are not async use the same fixtures."""
        assert "2 passed" in run_suite(without=[*LOOPTIME, "asyncio", "anyio"], plain=PLAIN)

    def test_a_fault_that_no_request_got_fails_its_test(self, run_suite):
        """Otherwise the test would pass without what it is about; its own failure comes first."""
        shown = run_suite("-rf", without=[*LOOPTIME, "asyncio", "anyio"], code=1, unused=UNUSED)
        assert "3 failed, 1 passed" in shown
        assert "no request got the fault of fail_next (create: server_error)" in shown
        assert "no request got the fault of fail_next (list: drop_before)" in shown
        assert "test_fails_by_itself - assert ()" in shown
