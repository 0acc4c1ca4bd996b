"""The command line, as a program."""

import asyncio
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from async_vmapi import Client
from async_vmapi.cli import demo
from async_vmapi.cli.app import app

COMMAND = [sys.executable, "-m", "async_vmapi"]


def clean_environment(**variables):
    kept = {name: v for name, v in os.environ.items() if not name.startswith("VMAPI_")}
    return kept | variables


def run(*arguments, **variables):
    return subprocess.run(
        [*COMMAND, *arguments],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class TestDemo:
    def test_it_runs_through_on_a_cloud_of_its_own(self):
        """The demo takes three machines through their life and counts what it asked."""
        result = run("demo", "--seed", "3")
        assert result.returncode == 0, result.stderr
        for operation in ("create", "resize", "reboot", "shutdown", "power_on", "delete"):
            assert re.search(rf"demo-\S+ +{operation} done, observed", result.stdout), operation
        assert re.search(r"create +│ 3", result.stdout)
        assert re.search(r"in all +│ \d+", result.stdout)

    @pytest.mark.looptime
    async def test_it_runs_on_an_endpoint(self, memory_client, cloud_api):
        """On any endpoint it leaves nothing behind."""
        console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: ASYNC230, SIM115
        with console.file:
            await demo.on_endpoint(console, memory_client)
        assert cloud_api.cloud.vms == {}
        assert "delete done" in console.export_text()

    @pytest.mark.looptime
    async def test_it_deletes_what_it_created_also_when_it_fails(self, memory_client, cloud_api):
        """If something goes wrong in the middle, no machine is left behind."""
        cloud_api.cloud.adjust("demo-2", fail_state="error")
        console = Console(quiet=True)
        with pytest.raises(Exception, match="error"):
            await demo.on_endpoint(console, memory_client)
        assert cloud_api.cloud.vms == {}
        assert len(cloud_api.cloud.gone) == 3

    def test_a_real_endpoint_is_asked_for_first(self):
        """Without a yes nothing is sent."""
        result = CliRunner().invoke(
            app,
            ["demo", "--region", "eu-poland-1warszawa"],
            input="n\n",
            env=clean_environment(VMAPI_API_KEY="k", VMAPI_API_SECRET="s3cr3t"),
        )
        assert result.exit_code == 1
        assert "eu-poland-1warszawa" in result.output
        assert "s3cr3t" not in result.output

    def test_an_endpoint_that_does_not_answer(self):
        """A failure is told in one line, without a traceback."""
        result = CliRunner().invoke(
            app,
            ["demo", "--url", "http://127.0.0.1:1"],
            input="y\n",
            env=clean_environment(VMAPI_API_KEY="k", VMAPI_API_SECRET="s3cr3t"),
        )
        assert result.exit_code == 1
        assert "got no answer" in result.output
        assert "Traceback" not in result.output

    def test_credentials_are_needed_for_a_real_endpoint(self):
        """What is missing is named."""
        result = run("demo", "--url", "http://127.0.0.1:1")
        assert result.returncode == 1
        assert "VMAPI_API_SECRET" in result.stderr

    def test_url_and_region_exclude_each_other(self):
        """Both together are a wrong use."""
        result = run("demo", "--url", "http://127.0.0.1:1", "--region", "x")
        assert result.returncode == 2


class TestEmulator:
    def start(self, *arguments, **variables):
        return subprocess.Popen(
            [*COMMAND, "emulator", *arguments],
            env=clean_environment(**variables),
            stdout=subprocess.PIPE,
            text=True,
        )

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_three_lines_for_a_shell_and_then_it_serves(self, how, monkeypatch):
        """What it prints sets up a client by the environment; a signal ends it well."""
        process = self.start("--port", "0", "--speed", "1000", "--seed", "1")
        try:
            lines = [process.stdout.readline() for _ in range(3)]
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
            rest, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert rest == ""

    def test_credentials_of_the_environment_are_used(self):
        """Credentials that are set are kept, whatever characters they have."""
        secret = "it's $ecret"
        process = self.start("--port", "0", VMAPI_API_KEY="my-key", VMAPI_API_SECRET=secret)
        try:
            lines = [process.stdout.readline() for _ in range(3)]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
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
    def test_what_it_cannot_do_is_told(self, arguments, words):
        """A host that others reach needs a word; what fails is told in one line."""
        result = run("emulator", "--port", "0", *arguments)
        assert result.returncode == 1
        assert words in result.stderr
        assert "Traceback" not in result.stderr


class TestInstallation:
    @pytest.mark.parametrize("missing", ["typer", "rich"])
    def test_a_missing_extra_says_what_to_install(self, missing):
        """Without the extra the command tells how to get it."""
        program = f"import sys; sys.modules[{missing!r}] = None; import async_vmapi.__main__"
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert missing in result.stderr
        assert "async-vmapi[cli]" in result.stderr

    def test_another_missing_module_is_not_hidden(self):
        """A fault of the installation is not told as a missing extra."""
        program = "import sys; sys.modules['aiohttp.web'] = None; import async_vmapi.__main__"
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert "ModuleNotFoundError" in result.stderr

    def test_without_a_command_it_shows_them(self):
        """No command at all shows what there is."""
        result = run()
        assert "emulator" in result.stdout + result.stderr
        assert "demo" in result.stdout + result.stderr
