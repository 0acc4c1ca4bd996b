"""``async-vmapi emulator --state``, killed while clients write to it."""

import asyncio
import json
import random
import signal
import stat
import subprocess
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import attrs
import pytest

from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.signing import Credentials, sign
from tests.forked import ForkedProgram

from .programs import LONG, clean_environment

KEY, SECRET = "key-of-the-emulator", "secret-of-the-emulator"
VMS = "/v2/virtual-machines"
NEW = {
    "cpus": 1,
    "ram": 512,
    "compute_zone_id": next(iter(ZONES)),
    "boot_type": "image",
    "os": TEMPLATES[0]["id"],
    "password": "password-of-a-guest",
    "user_data": "user-data-of-a-guest",
}


class Served:
    """The emulator as a program, and a client of it."""

    def __init__(self, path, *options):
        self.program = ForkedProgram(
            "async_vmapi",
            ["emulator", "--port", "0", "--state", str(path), *options],
            env=clean_environment(VMAPI_API_KEY=KEY, VMAPI_API_SECRET=SECRET),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def __aenter__(self):
        line = await asyncio.to_thread(self.program.stdout.readline)
        assert line, self.program.communicate(timeout=LONG)
        self.url = line.removeprefix("export VMAPI_URL=").strip()
        self.session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.end(signal.SIGKILL)

    async def end(self, number):
        """Send a signal, and return what it wrote on standard error."""
        self.program.send_signal(number)
        return (await asyncio.to_thread(self.program.communicate, timeout=LONG))[1]

    async def call(self, method, path, body=None):
        """Return the content of a response, or None if the call is refused."""
        content = b"" if body is None else json.dumps(body).encode()
        host = urlsplit(self.url).netloc
        headers = sign(Credentials(KEY, SECRET), method, host, path, content, datetime.now(UTC))
        async with self.session.request(
            method, f"{self.url}{path}", data=content, headers=headers
        ) as response:
            shown = await response.json()
            assert response.status < 500
            return shown if shown["success"] else None

    async def list(self):
        return {vm["id"]: vm for vm in (await self.call("GET", VMS))["virtual_machines"]}


@attrs.define
class Known:
    """What a client knows of a VM whose create was accepted.

    Attributes:
        cores: The numbers that it can have; several if the outcome of a resize is unknown.
        exists: Whether it exists; None if the outcome of its delete is unknown.
    """

    cores: set[int]
    exists: bool | None = True


class Load:
    """Clients that create, resize and delete VMs until the server does not respond.

    Attributes:
        known: VMs by id.
        accepted: How many writes were accepted.
    """

    def __init__(self):
        self.known = {}
        self.accepted = 0
        self._random = random.Random(1)

    async def run(self, served):
        await asyncio.gather(*(self._write(served) for _ in range(12)))

    async def _write(self, served):
        try:
            while True:
                name = f"web-{self.accepted}"
                shown = await served.call("PUT", VMS, {"create_vm": NEW | {"name": name}})
                vm_id = shown["virtual_machine"]["id"]
                vm = self.known[vm_id] = Known({1})
                self.accepted += 1
                if self._random.random() < 0.6:
                    cores = self._random.randint(2, 9)
                    vm.cores.add(cores)
                    size = {"cores": cores, "ram": 512, "wait_for": 0}
                    if await self._is_accepted(served, "POST", f"{VMS}/{vm_id}/resize", size):
                        vm.cores = {cores}
                if self._random.random() < 0.4:
                    vm.exists = None
                    vm.exists = not await self._is_accepted(served, "DELETE", f"{VMS}/{vm_id}")
        except aiohttp.ClientError:
            pass

    async def _is_accepted(self, served, *call):
        # A new VM cannot be written to before it is shown.
        while await served.call(*call) is None:  # noqa: ASYNC110 - a program acts
            await asyncio.sleep(0)
        self.accepted += 1
        return True

    def differences(self, shown):
        """Return what is not as all that was accepted makes it, when it has finished."""
        return {
            vm_id: (known, vm)
            for vm_id, known in self.known.items()
            for vm in [shown.get(vm_id)]
            if known.exists not in {None, vm is not None}
            or (vm is not None and (vm["state"] != "online" or vm["cores"] not in known.cores))
        }


@pytest.mark.programs
class TestKills:
    async def test_every_accepted_vm_is_there_afterwards(self, tmp_path, stride):
        """Killed at random moments; what was accepted is there, and all operations finish."""
        path, source = tmp_path / "cloud.db", random.Random(20)
        load = Load()
        options = ("--speed", "60", "--seed", "1")
        for _ in range(20 // stride):
            async with Served(path, *options) as served:
                running = asyncio.create_task(load.run(served))
                until = load.accepted + source.randint(1, 150)
                while load.accepted < until:
                    assert not running.done()
                    await asyncio.sleep(0)
                await asyncio.sleep(source.random() / 100)
                await served.end(signal.SIGKILL)
                await running
            async with Served(path, *options) as served:
                while load.differences(await served.list()):  # noqa: ASYNC110 - a program acts
                    await asyncio.sleep(0.05)
                assert "it and keeps its VMs in" in await served.end(signal.SIGINT)
        kept = path.read_bytes()
        assert b"web-1" in kept
        for secret in (SECRET, NEW["password"], NEW["user_data"]):
            assert secret.encode() not in kept
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    async def test_a_file_that_is_in_use(self, tmp_path):
        """The second emulator names it, and ends as for wrong usage."""
        path = tmp_path / "cloud.db"
        async with Served(path):
            second = Served(path)
            _, errors = await asyncio.to_thread(second.program.communicate, timeout=LONG)
        assert second.program.returncode == 2
        assert f"state file {path} is in use by another program; stop that emulator" in errors
