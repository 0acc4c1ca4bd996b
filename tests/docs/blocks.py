"""Run the code blocks of a document in their order, as its reader would."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from async_vmapi import ImageBoot
from async_vmapi.cli import profiles
from async_vmapi.cli.demo import FastLoop
from async_vmapi.emulator import Emulator
from tests.forked import unmeasured

ROOT = Path(__file__).parents[2]

# The command, with a clock twenty times as fast as life.
COMMAND = """#!{python}
import asyncio.events

from async_vmapi.cli import main
from async_vmapi.cli.demo import FastLoop

asyncio.events.new_event_loop = FastLoop
main()
"""
_INSTALLS = re.compile(r"\bpip install\b")
# What a reader ends with Ctrl-C, in a terminal of its own.
_FOREGROUND = re.compile(
    r"^(?:async-vmapi (?:emulator|watch|worker)|cd examples && python -m web_backend)\b[^&\n]*$",
    re.MULTILINE,
)


class LocalCloud:
    """An emulator beside the code, in a thread of its own."""

    emulator: Emulator

    def __enter__(self):
        self._ready, self._stop = threading.Event(), None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()
        return self.emulator

    def _run(self):
        with asyncio.Runner(loop_factory=FastLoop) as runner:
            runner.run(self._serve())

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Emulator(seed=1) as self.emulator:
            self._ready.set()
            await self._stop.wait()

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Shell:
    """A reader's shell: each block finds the environment that the previous one left.

    Args:
        folder: Where it works.
        environ: Its environment, which changes with it.
    """

    def __init__(self, folder, environ):
        self.environ = environ
        self._folder = folder
        self._left_behind = []
        programs = folder / "bin"
        programs.mkdir()
        command = programs / "async-vmapi"
        command.write_text(COMMAND.format(python=sys.executable))
        command.chmod(0o700)
        environ["PATH"] = f"{programs}:{Path(sys.executable).parent}:{environ['PATH']}"
        (folder / "examples").symlink_to(ROOT / "examples")

    def run(self, example):
        text = example.parsed
        if _INSTALLS.search(text):
            # What CI runs in a bare environment is in the README.
            readme = (ROOT / "README.md").read_text()
            lines = [line for line in text.splitlines() if _INSTALLS.search(line)]
            assert all(line in readme for line in lines), lines
            return
        # They keep running; one that cannot even begin fails.
        text = _FOREGROUND.sub(r"{ \g<0>; } & sleep 1; kill -0 $!", text)
        # Another document's may exist.
        text = text.replace(" --port 8024", "").replace("vmapi emulator", "vmapi emulator --port 0")
        waits = "while ! [ -s env.sh ]; do sleep 0.05; done\n" if "> env.sh" in text else ""
        script = f"set -euo pipefail\n{text}\n{waits}env -0 > environment\n"
        with (self._folder / "output").open("w+b") as output:
            shell = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._folder,
                env=unmeasured(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._left_behind.append(shell.pid)
            code = shell.wait(120)
            output.seek(0)
            said = output.read().decode()
        assert code == 0, f"exit code {code} of\n{text}\n{said}"
        for entry in (self._folder / "environment").read_text().split("\0"):
            name, equals, value = entry.partition("=")
            if equals and name.startswith("VMAPI_"):
                self.environ[name] = value

    def close(self):
        """End the background processes."""
        for group in self._left_behind:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(group, number)
                except ProcessLookupError:
                    break
                time.sleep(0.3)


async def a_machine(client):
    """Return the id of a VM that is online, for a block that needs one."""
    zone = (await client.regions.list())[0].zones[0]
    task = await client.vms.create(
        name="a-vm", cpus=1, ram=1024, zone_id=zone.id, boot=ImageBoot(os="2268")
    )
    return (await task).id


def read_profile(example):
    """Read a profile, as the command does."""
    path = profiles.profiles_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(example.parsed)
    path.chmod(0o600)
    content = tomllib.loads(example.parsed)
    if "format" in content:
        # A file of facts, which is read by its path.
        path.unlink()
        Path("cloud.toml").write_text(example.parsed, "utf-8")
        return
    for name, settings in content.items():
        profiles.client_for(name if isinstance(settings, dict) else settings)


def documents(shell):
    """Return the parser of documents."""
    return Sybil(
        parsers=[
            CodeBlockParser("python", PythonEvaluator()),
            CodeBlockParser("sh", shell.run),
            CodeBlockParser("toml", read_profile),
        ]
    )
