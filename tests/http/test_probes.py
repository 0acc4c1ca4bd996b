"""Readiness over real sockets: what listens on this computer stands in for the VMs."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from async_vmapi import Client, ImageBoot, Ready
from async_vmapi.emulator import Emulator, Settings
from async_vmapi.models.vm import PublicInterface, Reference, VirtualMachine
from async_vmapi.readiness.conditions import Http, Ssh, Tcp
from async_vmapi.readiness.prober import MOST_AT_ONCE, Prober
from async_vmapi.readiness.probes import probe

SETTINGS = Settings(create=0.02, not_found=0, address=0, stale=0, network="127.0.0.1/32")


def vm_at(address):
    """Return a VM with an address; an empty one for none."""
    nothing = Reference(id="1", name="x")
    return VirtualMachine(
        id="1",
        label="web-01",
        cores=1,
        ram=512,
        state="online",
        system=nothing,
        cost_per_hour=0.0,
        transfer_used=0.0,
        owner=nothing,
        public_interface=PublicInterface(primary_ip_ipv4address=address),
        storage_volumes=(),
        zone=nothing,
    )


HERE = vm_at("127.0.0.1")


@pytest.fixture
async def listen():
    """Start servers that handle each connection by a function; return their ports."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handle):
            async def connected(reader, writer):
                try:
                    await handle(reader, writer)
                finally:
                    writer.close()

            server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
            await stack.enter_async_context(server)
            return server.sockets[0].getsockname()[1]

        yield start


@pytest.fixture
def free_port():
    """A port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def silent(reader, writer):
    await reader.read()


class TestSsh:
    @pytest.fixture
    async def sshd(self, tmp_path):
        """A real SSH server on loopback."""
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
        program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "this test needs Debian's sshd: apt-get install openssh-server"
        key = tmp_path / "host_key"
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        await asyncio.to_thread(subprocess.run, make, check=True)
        # It needs this directory, which a container may not have.
        await asyncio.to_thread(Path("/run/sshd").mkdir, parents=True, exist_ok=True)
        options = [f"HostKey={key}", f"PidFile={tmp_path / 'pid'}", "ListenAddress=127.0.0.1"]
        arguments = [part for option in options for part in ("-o", option)]
        server = await asyncio.create_subprocess_exec(
            program,
            *("-D", "-e", "-f", "/dev/null", "-p", str(port)),
            *arguments,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield port
            assert server.returncode is None
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            await server.wait()

    @pytest.mark.programs
    async def test_a_create_waits_for_a_real_server(self, sshd):
        """Its banner is read, whenever it starts to listen."""
        async with (
            Emulator(settings=SETTINGS, seed=1) as cloud,
            Client(cloud.url, api_key=cloud.api_key, api_secret=cloud.api_secret) as client,
        ):
            zone = (await client.regions.list())[0].zones[0].id
            template = (await client.templates.list())[0].id
            task = await client.vms.create(
                name="web-01",
                cpus=1,
                ram=512,
                zone_id=zone,
                boot=ImageBoot(os=template),
                ready=Ready.ssh(sshd),
            )
            vm = await task
            assert vm.addresses == ("127.0.0.1",)
            assert task.history[-1].condition == f"ssh:{sshd}"

    async def test_lines_before_the_banner_are_skipped(self, listen):
        async def handle(reader, writer):
            writer.write(b"welcome\r\n" * 10 + b"SSH-2.0-test\r\n")
            await silent(reader, writer)

        assert await probe(Ssh(await listen(handle)), HERE) is None

    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            (b"220 mail ready\r\n", "the connection was closed before an SSH banner"),
            (b"", "the connection was closed before an SSH banner"),
            (b"SSH", "the connection was closed before an SSH banner"),
            (b"x" * 20_000, "the port sends no SSH banner"),
            (b"x\n" * 20_000, "the port sends no SSH banner"),
        ],
    )
    async def test_another_server_is_not_ready(self, listen, sent, reason):
        async def handle(reader, writer):
            writer.write(sent)
            with contextlib.suppress(OSError):
                await writer.drain()

        assert await probe(Ssh(await listen(handle)), HERE) == reason


class TestTcp:
    async def test_an_open_port_is_ready(self, listen):
        assert await probe(Tcp(await listen(silent)), HERE) is None

    async def test_a_closed_port_is_not(self, free_port):
        assert await probe(Tcp(free_port), HERE) == "connection refused"

    @pytest.mark.parametrize("address", ["", "localhost", "256.1.1.1", "-oProxyCommand=x"])
    async def test_what_is_no_address_is_not_connected_to(self, listen, address):
        """The API's word is not a host name to look up."""
        reason = await probe(Tcp(await listen(silent)), vm_at(address))
        assert reason is not None
        assert reason.startswith("the VM's address is ")


class TestSilentPorts:
    """They accept a connection, and send nothing."""

    @pytest.mark.parametrize("condition", [Ssh, lambda *at: Http("/", 200, *at)])
    async def test_a_probe_has_its_own_timeout(self, listen, condition):
        port = await listen(silent)
        reason = await probe(condition(port, 0.05), HERE)
        assert reason == "no response within 0.05 s"

    async def test_a_port_that_resets_is_not_ready(self, listen):
        async def handle(_, writer):
            # No linger: closing sends a reset.
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

        port = await listen(handle)
        for condition in (Ssh(port), Http("/", 200, port)):
            reason = await probe(condition, HERE)
            assert reason is not None
            assert "connection" in reason or "failed" in reason


class TestHttp:
    @pytest.fixture
    async def port(self):
        """A web server that counts requests, and needs some time to respond."""

        async def health(request):
            assert "Authorization" not in request.headers
            await asyncio.sleep(0.01)
            return web.Response(status=int(request.query.get("status", 200)))

        async def moved(_):
            raise web.HTTPFound("/health")

        async def busy(_):
            return web.Response(status=503)

        app = web.Application()
        app.router.add_get("/health", health)
        app.router.add_get("/moved", moved)
        app.router.add_get("/busy", busy)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
        await runner.cleanup()

    @pytest.mark.parametrize(
        ("path", "status", "reason"),
        [
            ("/health", 200, None),
            ("/busy", 503, None),
            ("/moved", 302, None),
            ("/moved", 200, "the response has status 302"),
            ("/busy", 200, "the response has status 503"),
            ("/missing", 200, "the response has status 404"),
        ],
    )
    async def test_the_status_decides(self, port, path, status, reason):
        assert await probe(Http(path, status, port), HERE) == reason

    async def test_what_is_no_http_is_not_ready(self, listen):
        async def handle(_, writer):
            writer.write(b"SSH-2.0-test\r\n")

        reason = await probe(Http("/", 200, await listen(handle)), HERE)
        assert reason is not None
        assert "failed with" in reason


class Subject:
    """A VM that is probed once."""

    def __init__(self, condition):
        self.next_probe = condition
        self.probed_vm = HERE
        self.reason = None
        self.failed = asyncio.Event()

    def condition_met(self):
        self.next_probe = None

    def condition_unmet(self, reason):
        self.reason = reason
        self.failed.set()


class TestManyAtOnce:
    async def test_a_thousand_stay_within_the_bound(self, listen):
        """Never more connections than allowed, and all VMs are found to be ready."""
        now = most = 0

        async def handle(reader, writer):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.005)
            writer.write(b"SSH-2.0-test\r\n")
            await silent(reader, writer)
            now -= 1

        port, prober = await listen(handle), Prober()
        vms = [Subject(Ssh(port, 30)) for _ in range(1000)]
        await asyncio.gather(*[prober.run(vm) for vm in vms])
        assert all(vm.next_probe is None for vm in vms)
        # The server notices some closed connections late.
        assert MOST_AT_ONCE / 2 <= most <= 2 * MOST_AT_ONCE

    async def test_silent_vms_leave_slots_for_others(self, listen):
        """A new VM does not wait for those that are known not to respond."""
        port, quiet, prober = await listen(silent), await listen(silent), Prober()
        dead = [Subject(Ssh(quiet, 0.2)) for _ in range(3 * MOST_AT_ONCE)]
        running = [asyncio.ensure_future(prober.run(vm)) for vm in dead]
        await asyncio.gather(*[vm.failed.wait() for vm in dead])
        # Each waits for a pause, or for one of the slots that are for the slow.
        vm = Subject(Tcp(port))
        async with asyncio.timeout(30):
            await prober.run(vm)
        for run in running:
            run.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert vm.reason is None
