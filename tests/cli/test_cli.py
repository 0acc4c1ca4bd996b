"""The command line, as a program."""

import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from types import SimpleNamespace

import aiohttp
import pytest
from rich.console import Console

from async_vmapi import Client
from async_vmapi.cli import demo, emulator
from async_vmapi.emulator import Emulator, Fault, FaultPlan, Settings
from async_vmapi.facts import Fact, Facts
from tests.other_client import NEW, VMS, Sent, exchange, to_json

from .programs import COMMAND, LONG, clean_environment

S = "s3cr3t"


def run(*arguments, **variables):
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class TestDemo:
    def test_the_demo_runs_on_the_bundled_emulator(self):
        """A fleet is created, rebooted in waves and deleted; one fails, one ignores ACPI."""
        result = run("demo", "--count", "8", "--seed", "3")
        assert result.returncode == 0, result.stderr
        assert "demo-03 will fail to create; the guest of demo-05 ignores ACPI" in result.stdout
        assert "create of 8: 7 succeeded, 1 failed" in result.stdout
        assert "reboot of 7: 7 succeeded" in result.stdout
        assumed = re.search(r"demo-05 .* reboot succeeded in ([\d.]+) s, assumed", result.stdout)
        # Not before its grace period is over; how long after depends on the computer.
        assert float(assumed[1]) >= 60
        assert re.search(r"demo-05.* never left online", result.stdout)
        assert "delete of 8: 8 succeeded" in result.stdout
        assert re.search(r"\d+ requests: 8 create, 8 delete", result.stdout)

    @pytest.mark.looptime
    async def test_the_demo_runs_on_an_endpoint(self, memory_client, cloud_api):
        """It leaves nothing behind there."""
        console = Console(record=True, width=120, file=io.StringIO())
        assert await demo.on_endpoint(console, memory_client, 6) == 0
        assert cloud_api.cloud.vms == {}
        assert "delete of 6: 6 succeeded" in console.export_text()

    @pytest.mark.looptime
    async def test_an_interrupted_demo_deletes_what_it_created(self, memory_client, cloud_api):
        """No VM is left behind."""
        console = Console(record=True, file=io.StringIO(), width=120)
        running = asyncio.create_task(demo.on_endpoint(console, memory_client, 6))
        await asyncio.sleep(100)
        assert cloud_api.requests["reboot"]
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert cloud_api.cloud.vms == {}
        assert len(cloud_api.cloud.gone) == 6
        assert "reboot of 6" in console.export_text()

    @pytest.mark.looptime
    async def test_a_second_interruption_names_what_is_left(self, memory_client, cloud_api):
        """Each VM whose deletion was not seen."""
        console = Console(record=True, file=io.StringIO(), width=120)
        running = asyncio.create_task(demo.on_endpoint(console, memory_client, 4))
        await asyncio.sleep(100)
        running.cancel()
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        named = re.findall(r"NOT deleted, delete it yourself: (\S+)", console.export_text())
        assert set(named) >= set(cloud_api.cloud.vms)
        assert named

    @pytest.mark.looptime
    async def test_vms_that_cannot_be_deleted_are_named(self, memory_client, cloud_api):
        """A person has to check them, and the exit code says so."""
        cloud_api.faults = FaultPlan([Fault(kind="success_false", call="delete", nth=(1,))])
        console = Console(record=True, width=120, file=io.StringIO())
        assert await demo.on_endpoint(console, memory_client, 4) == 1
        (left,) = cloud_api.cloud.vms
        assert f"NOT deleted, delete it yourself: {left}" in console.export_text()

    def test_a_real_endpoint_needs_confirmation(self):
        """Without a terminal nothing is sent."""
        result = run(
            "demo", "--real", VMAPI_REGION="nowhere", VMAPI_API_KEY="k", VMAPI_API_SECRET=S
        )
        assert result.returncode == 2
        assert "nowhere" in result.stderr
        assert S not in result.stderr


class TestEmulator:
    @pytest.fixture
    def start(self):
        """Start one that ends with the test."""
        with ExitStack() as stack:

            def start(*arguments, **variables):
                process = subprocess.Popen(
                    [*COMMAND, "emulator", *arguments],
                    env=clean_environment(**variables),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                stack.enter_context(process)
                stack.callback(process.kill)
                return process

            yield start

    @pytest.mark.parametrize(
        ("arguments", "kind", "status"),
        [
            ([], dict, 200),
            (["--get-shape", "list"], list, 200),
            (["--facts", "cloud.toml"], list, 200),
            (["--facts", "cloud.toml", "--get-shape", "object"], dict, 200),
            (["--strict"], dict, 401),
        ],
    )
    def test_other_clients(self, start, tmp_path, arguments, kind, status):
        """The shape of a GET, and whether it is strict, can be chosen; the option goes first."""
        facts = Facts({"reads.get_shape": Fact("list", "measured", 1)})
        file = tmp_path / "cloud.toml"
        file.write_text(facts.to_toml())
        given = [str(file) if part == file.name else part for part in arguments]
        given += ["--port", "0", "--speed", "100000"]
        process = start(*given, VMAPI_API_KEY="k", VMAPI_API_SECRET=S)
        url = process.stdout.readline().removeprefix("export VMAPI_URL=").strip()
        cloud = SimpleNamespace(url=url, api_key="k", api_secret=S)

        def send(*request, **changes):
            return asyncio.run(exchange(cloud, Sent(*request, **changes).encode(cloud)))

        vm_id = send("PUT", VMS, to_json({"create_vm": NEW}))[1]["virtual_machine"]["id"]
        while (found := send("GET", f"{VMS}/{vm_id}"))[0] == 404:
            time.sleep(0.01)
        assert type(found[1]["virtual_machine"]) is kind
        assert send("GET", VMS, zone=("CET", 1))[0] == status

    @pytest.mark.parametrize(("how", "more"), [(signal.SIGINT, []), (signal.SIGTERM, ["--uvloop"])])
    def test_it_prints_four_lines_for_a_shell_and_then_serves(self, start, how, more, monkeypatch):
        """They set up a client by the environment; a signal ends it cleanly."""
        process = start("--port", "0", "--speed", "1000", "--seed", "1", *more)
        try:
            lines = [process.stdout.readline() for _ in range(4)]
            assert lines.pop() == "export VMAPI_MAX_STALENESS=0\n"
            script = (
                "".join(lines) + 'printf "%s\\n" "$VMAPI_URL" "$VMAPI_API_KEY" "$VMAPI_API_SECRET"'
            )
            values = subprocess.run(
                ["sh", "-c", script], capture_output=True, text=True, check=True
            ).stdout.split()
            for name, value in zip(
                ("VMAPI_URL", "VMAPI_API_KEY", "VMAPI_API_SECRET"), values, strict=True
            ):
                monkeypatch.setenv(name, value)

            async def use():
                async with Client.from_env() as client:
                    return await client.vms.list()

            assert asyncio.run(use()) == []
        finally:
            process.send_signal(how)
            rest, errors = process.communicate(timeout=LONG)
        assert process.returncode == 0
        assert rest == ""
        assert "Ctrl-C stops it" in errors

    def test_a_port_in_use(self):
        """The error says what to do."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            result = run("emulator", "--port", str(taken.getsockname()[1]))
        assert result.returncode == 1
        assert "in use; use --port 0 for any free port" in result.stderr

    def test_credentials_of_the_environment_are_used(self, start):
        """Whatever characters they have."""
        secret = "it's $ecret"
        process = start("--port", "0", VMAPI_API_KEY="my-key", VMAPI_API_SECRET=secret)
        try:
            lines = [process.stdout.readline() for _ in range(4)]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LONG)
        echoed = subprocess.run(
            ["sh", "-c", "".join(lines) + 'printf %s "$VMAPI_API_KEY:$VMAPI_API_SECRET"'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert echoed.stdout == f"my-key:{secret}"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--host", "0.0.0.0"], "loopback"),
            (["--speed", "0"], "speed"),
            (["--host", "203.0.113.1", "--allow-remote"], "203.0.113.1"),
        ],
    )
    def test_wrong_options_are_explained(self, arguments, words):
        """A public host needs an option; each error is one line."""
        result = run("emulator", "--port", "0", *arguments)
        assert result.returncode == 1
        assert words in result.stderr
        assert "Traceback" not in result.stderr

    def test_without_uvloop_it_says_what_to_install(self):
        """uvloop is in no extra, for most users need none."""
        program = (
            "import sys; sys.modules['uvloop'] = None; "
            "sys.argv[1:] = ['emulator', '--port', '0', '--uvloop']; "
            "from async_vmapi.cli import main; main()"
        )
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert result.returncode == 2
        assert "pip install uvloop" in result.stderr
        assert "Traceback" not in result.stderr


class TestExports:
    """The emulator's variables, for the shells of each system."""

    @pytest.mark.parametrize(
        ("shell", "value", "line"),
        [
            ("sh", "http://127.0.0.1:8024", "export NAME=http://127.0.0.1:8024"),
            ("sh", "it's $ecret", """export NAME='it'"'"'s $ecret'"""),
            ("powershell", "http://127.0.0.1:8024", "$env:NAME = 'http://127.0.0.1:8024'"),
            ("powershell", "it's $ecret", "$env:NAME = 'it''s $ecret'"),
            ("powershell", "it\u2019s", "$env:NAME = 'it\u2019\u2019s'"),
            ("powershell", 'a"b`c', "$env:NAME = 'a\"b`c'"),
            ("cmd", "http://127.0.0.1:8024", "set NAME=http://127.0.0.1:8024"),
            ("cmd", "it's $ecret", "set NAME=it's $ecret"),
            ("cmd", '100% & "more"', 'set NAME=100%% ^& ^"more^"'),
            ("cmd", "a<b>(c)|d^e", "set NAME=a^<b^>^(c^)^|d^^e"),
        ],
    )
    def test_a_line_sets_any_text(self, shell, value, line):
        """Quoted as that shell needs it."""
        assert emulator.export(emulator.Shell(shell), "NAME", value) == line

    @pytest.mark.parametrize(
        ("platform", "environ", "shell"),
        [
            ("linux", {}, "sh"),
            ("darwin", {"SHELL": "/bin/zsh"}, "sh"),
            ("win32", {"PROMPT": "$P$G"}, "powershell"),
            ("win32", {"SHELL": "/usr/bin/bash"}, "sh"),
        ],
    )
    def test_the_default_is_the_systems_shell(self, platform, environ, shell):
        """On Windows there may be a Unix shell, too."""
        assert emulator.default_shell(platform, environ) == shell

    def test_another_shell_is_an_option(self):
        """All its lines are for that shell."""
        started = subprocess.Popen(
            [*COMMAND, "emulator", "--port", "0", "--shell", "cmd"],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with started:
            lines = [started.stdout.readline() for _ in range(4)]
            started.send_signal(signal.SIGINT)
        assert all(line.startswith("set VMAPI_") for line in lines)


class TestInstallation:
    @pytest.mark.parametrize("missing", ["typer", "rich", "platformdirs"])
    def test_a_missing_extra_says_what_to_install(self, missing):
        """The command names the extra."""
        program = f"import sys; sys.modules[{missing!r}] = None; import async_vmapi.__main__"
        result = subprocess.run(
            [sys.executable, "-c", program, "vm", "list"],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert missing in result.stderr
        assert "async-vmapi[cli]" in result.stderr

    def test_another_missing_module_is_not_hidden(self):
        """A broken installation is not reported as a missing extra."""
        program = "import sys; sys.modules['aiohttp.web'] = None; import async_vmapi.__main__"
        result = subprocess.run(
            [sys.executable, "-c", program, "demo"], capture_output=True, text=True, check=False
        )
        assert "ModuleNotFoundError" in result.stderr

    def test_without_a_command_it_lists_them(self):
        """With their help."""
        result = run()
        assert "emulator" in result.stdout + result.stderr
        assert "demo" in result.stdout + result.stderr


SCRIPT = """
import asyncio, logging, signal, sys
from async_vmapi import Client, ImageBoot

async def main():
    async with Client.from_env(min_poll_interval=0.05, max_staleness=0.0) as client:
        print("ready", flush=True)
        await client.vms.create(name="web-01", cpus=1, ram=512, unique_name=True,
            zone_id="24e12e20-0851-5354-e2c3-04b16c4c9c45", boot=ImageBoot(os="2268"))

# Where tests run in the background, it may be ignored from the start.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


class TestCtrlC:
    @pytest.mark.parametrize("seconds", [0.6, 0])
    async def test_a_script_interrupted_during_a_create(self, seconds):
        """It ends soon, as by Ctrl-C, and names the VM that it leaves behind."""
        settings = Settings(create=1000, not_found=0)
        async with Emulator(settings=settings) as emulator:
            if seconds:
                emulator.api.faults.fail_next("create", "stall", seconds=seconds)
            else:
                emulator.api.faults.fail_next("create", "slow_body", seconds=0.6)
            script = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SCRIPT),
                env=clean_environment(
                    VMAPI_URL=emulator.url,
                    VMAPI_API_KEY=emulator.api_key,
                    VMAPI_API_SECRET=emulator.api_secret,
                ),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            while not emulator.cloud.vms:  # noqa: ASYNC110 - another process acts
                await asyncio.sleep(0.01)
            script.send_signal(signal.SIGINT)
            _, errors = await asyncio.wait_for(script.communicate(), LONG)
        (vm_id,) = emulator.cloud.vms
        assert script.returncode == -signal.SIGINT
        assert errors.decode().rstrip().endswith("KeyboardInterrupt")
        assert f"create of 'web-01': it was accepted as {vm_id}" in errors.decode()
        assert emulator.api.requests["create"] == 1
        assert "was never" not in errors.decode()


class TestControl:
    def test_it_is_for_this_computer_only(self):
        """Also if others may use the cloud."""
        result = run("emulator", "--port", "0", "--control", "--host", "::", "--allow-remote")
        assert result.returncode == 1
        assert "host '::' is not a loopback address, and the control API requires" in result.stderr

    async def test_the_page(self):
        """Its URL has the token, and is not among the lines for the shell."""
        emulator = await asyncio.create_subprocess_exec(
            *(*COMMAND, "emulator", "--port", "0", "--page"),
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            lines = [(await emulator.stdout.readline()).decode() for _ in range(5)]
            printed = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
            said = ""
            while "#token=" not in said:
                said = (await emulator.stderr.readline()).decode()
            page, token = said.split()[-1].split("/#token=")
            assert (page, token) == (printed["VMAPI_URL"], printed["VMAPI_CONTROL_TOKEN"])
            async with aiohttp.ClientSession() as session, session.get(page) as response:
                assert "<title>Emulator</title>" in await response.text()
        finally:
            emulator.send_signal(signal.SIGINT)
            await emulator.communicate()


class TestFaults:
    def test_a_faults_file_that_cannot_be_read(self, tmp_path):
        """The file is named; the exit code is that of wrong usage."""
        result = run("emulator", "--port", "0", "--faults", str(tmp_path / "none.toml"))
        assert result.returncode == 2
        assert "none.toml" in result.stderr

    @pytest.mark.parametrize("token", ["", "a-token-of-our-own"])
    async def test_faults_and_the_control_api(self, tmp_path, token):
        """The file is applied; its plan can be read with the token that is printed."""
        file = tmp_path / "faults.toml"
        file.write_text('[[fault]]\nkind = "html"\nprobability = 1\n')
        emulator = await asyncio.create_subprocess_exec(
            *(*COMMAND, "emulator", "--port", "0", "--control", "--faults", str(file)),
            env=clean_environment(VMAPI_CONTROL_TOKEN=token),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            lines = [(await emulator.stdout.readline()).decode() for _ in range(5)]
            printed = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
            given = printed["VMAPI_CONTROL_TOKEN"]
            assert given == token or (not token and len(given) > 40)
            url, headers = printed["VMAPI_URL"], {"Authorization": f"Bearer {given}"}
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{url}/_emulator/faults", headers=headers) as response,
            ):
                shown = await response.json()
        finally:
            emulator.send_signal(signal.SIGINT)
            await emulator.communicate()
        assert shown["plan"]["fault"] == [{"kind": "html", "probability": 1.0}]
