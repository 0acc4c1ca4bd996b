"""A cloud over HTTP in a thread, and the command as a program that talks to it."""

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager

import pyte

from async_vmapi.emulator import Emulator, Settings

COMMAND = [sys.executable, "-m", "async_vmapi"]
ZONE, TEMPLATE = "DC1/PUBLIC-1", "Debian 12"
NEW = ["--cpus", "1", "--ram", "1024", "--zone", ZONE, "--template", TEMPLATE]
SETTINGS = Settings(
    create=0.2,
    not_found=0.02,
    address=0,
    resize=0.6,
    shutdown=0.1,
    power_on=0.1,
    power_off=0.1,
    reboot=0.6,
    reset=0.6,
    delete=0.1,
    stale=0,
)


def clean_environment(**variables):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("VMAPI_", "XDG_"))}
    return kept | {"COLUMNS": "200"} | variables


@contextmanager
def emulator_in_thread(**options):
    """An emulator that answers while the test itself waits for a program."""
    started, stopping = threading.Event(), threading.Event()
    found = []

    async def serve():
        async with Emulator(**options) as emulator:
            found.append(emulator)
            started.set()
            while not stopping.is_set():  # noqa: ASYNC110 - it is another thread that says so
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(10)
    try:
        yield found[0]
    finally:
        stopping.set()
        thread.join()


class Program:
    """The command, with a profile of the cloud that looks as often as things happen there."""

    def __init__(self, cloud, home):
        self.cloud = cloud
        self.profiles = home / "async-vmapi" / "profiles.toml"
        self.profiles.parent.mkdir()
        self.write_profile()
        self.environment = {"XDG_CONFIG_HOME": str(home)}

    def write_profile(self, mode=0o600, **more):
        settings = {"url": self.cloud.url, "api_key": self.cloud.api_key}
        settings |= {"api_secret": self.cloud.api_secret, "poll_floor": 0.02, "poll_ceiling": 0.1}
        settings |= {"max_staleness": 0.0}
        lines = [f"{name} = {json.dumps(value)}" for name, value in (settings | more).items()]
        self.profiles.write_text("[default]\n" + "\n".join(lines) + "\n")
        self.profiles.chmod(mode)

    def popen(self, *arguments, **options):
        variables = clean_environment(**self.environment, **options.pop("env", {}))
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=variables,
            text=True,
            **({"stdin": subprocess.DEVNULL} | pipes | options),
        )

    def __call__(self, *arguments, code=0, given=None, **env):
        """Run it to its end, which is to have this code."""
        process = self.popen(
            *arguments, env=env, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE
        )
        out, errors = process.communicate(given, timeout=60)
        assert process.returncode == code, (process.returncode, out, errors)
        assert "Traceback" not in errors
        assert self.cloud.api_secret not in out + errors
        return subprocess.CompletedProcess(arguments, code, out, errors)

    def json(self, *arguments, code=0, **env):
        return json.loads(self(*arguments, "--json", code=code, **env).stdout)

    def fleet(self, count, name="web-{:02}"):
        """Create machines; return their ids by label."""
        report = self.json("fleet", "create", "--count", str(count), "--name", name, *NEW)
        return {outcome["item"]: outcome["vm_id"] for outcome in report["outcomes"]}

    @contextmanager
    def terminal(self, *arguments, columns=100, lines=30, **more):
        """Run it on a terminal of its own."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm-256color"}
        size |= more
        process = self.popen(*arguments, env=size, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        try:
            yield Terminal(ours, process, columns, lines)
        finally:
            process.kill()
            process.wait()
            os.close(ours)


class Terminal:
    """What a program shows on a terminal."""

    def __init__(self, fd, process, columns, lines):
        self._fd = fd
        self.process = process
        self._screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    @property
    def shown(self):
        return "\n".join(line.rstrip() for line in self._screen.display)

    def _read(self):
        try:
            data = os.read(self._fd, 65536) if select.select([self._fd], [], [], 0.05)[0] else None
        except OSError:
            data = b""  # the program is gone
        self.raw += data or b""
        self._stream.feed(data or b"")
        return data != b""

    def until(self, *words, seconds=30):
        """Read on until the screen shows these words."""
        end = time.monotonic() + seconds
        while not all(word in self.shown for word in words):
            assert self._read(), self.shown
            assert time.monotonic() < end, self.shown
        return self.shown

    def type(self, text):
        os.write(self._fd, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        """Read to the end; return the exit code."""
        while self._read():
            pass
        return self.process.wait(30)
