"""A cloud over HTTP in a thread, and the command as a program that talks to it."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import socketserver
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager, suppress

import pyte

from async_vmapi.emulator import Emulator, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.models.vm import PublicInterface, Reference, VirtualMachine
from tests.forked import FAST_CLOCK, ForkedProgram, unmeasured

_AT_START = {"LC_ALL", "PYTHONIOENCODING"}
COMMAND = [sys.executable, "-m", "async_vmapi"]
NEW_ZONE, NEW_TEMPLATE = next(iter(ZONES.values())), TEMPLATES[1]
ZONE, TEMPLATE = NEW_ZONE["label"], NEW_TEMPLATE["label"]
NEW = ["--cpus", "1", "--ram", "1024", "--zone", ZONE, "--template", TEMPLATE]
# For what ends by itself, on a busy host; each test has a limit besides.
LONG = 120
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
    # The package sends only what is documented.
    strict=True,
)


def eventually(condition):
    """Wait for a condition that another thread or program fulfils."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def clean_environment(**variables):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("VMAPI_", "XDG_"))}
    return kept | {"COLUMNS": "200", "LC_ALL": "C.UTF-8"} | variables


@contextmanager
def emulator_in_thread(**options):
    """Run an emulator that responds while the test itself waits for a program."""
    started, stopping = threading.Event(), threading.Event()
    found = []

    async def serve():
        async with Emulator(**options) as emulator:
            emulator.loop = asyncio.get_running_loop()
            found.append(emulator)
            started.set()
            while not stopping.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(LONG)
    try:
        yield found[0]
    finally:
        stopping.set()
        thread.join(LONG)


ONLINE = VirtualMachine(
    id="id-0",
    label="web-01",
    cores=1,
    ram=1024,
    state="online",
    system=Reference("1", "Debian"),
    cost_per_hour=0,
    transfer_used=0,
    owner=Reference("1", "me"),
    public_interface=PublicInterface("10.0.0.1"),
    storage_volumes=(),
    zone=Reference("1", "DC1/PUBLIC-1"),
)


class _Banner(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"SSH-2.0-test\r\n")


@contextmanager
def ssh_server(address="", port=0):
    """Serve SSH banners on one address of this host, or on all; yield the port."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((address, port), _Banner) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class Program:
    """The command, with a profile of the cloud that polls as often as things happen there.

    What it has started ends with its block, however a test ends.
    """

    def __init__(self, cloud, home):
        self.cloud = cloud
        self.profiles = home / "async-vmapi" / "profiles.toml"
        self.profiles.parent.mkdir()
        self.write_profile()
        self.state = home / "state"
        self.environment = {"XDG_CONFIG_HOME": str(home), "XDG_STATE_HOME": str(self.state)}
        self._processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(LONG)
            for pipe in (process.stdin, process.stdout, process.stderr):
                with suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def write_profile(self, mode=0o600, **more):
        settings = {"url": self.cloud.url, "api_key": self.cloud.api_key}
        settings |= {
            "api_secret": self.cloud.api_secret,
            "min_poll_interval": 0.02,
            "max_poll_interval": 0.1,
        }
        settings |= {"max_staleness": 0.0}
        lines = [f"{name} = {json.dumps(value)}" for name, value in (settings | more).items()]
        self.profiles.write_text("[default]\n" + "\n".join(lines) + "\n")
        self.profiles.chmod(mode)

    def popen(self, *arguments, command=COMMAND, **options):
        more = options.pop("env", {})
        variables = clean_environment(**self.environment, **more)
        if command is not COMMAND:
            variables = unmeasured(variables)
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        options = {"stdin": subprocess.DEVNULL} | pipes | options
        # The interpreter itself reads these at its start, or finds descriptors closed.
        if command is COMMAND and "preexec_fn" not in options and not _AT_START & more.keys():
            process = ForkedProgram("async_vmapi", arguments, env=variables, **options)
        else:
            process = subprocess.Popen([*command, *arguments], env=variables, text=True, **options)
        self._processes.append(process)
        return process

    def __call__(self, *arguments, code=0, given=None, fast=False, **env):
        """Run it to its end, if `fast` on a clock 20 times faster, and check its exit code."""
        env |= {FAST_CLOCK: "1"} if fast else {}
        process = self.popen(
            *arguments, env=env, stdin=subprocess.DEVNULL if given is None else subprocess.PIPE
        )
        out, errors = process.communicate(given, timeout=LONG)
        assert process.returncode == code, (process.returncode, out, errors)
        assert "Traceback" not in errors
        assert self.cloud.api_secret not in out + errors
        return subprocess.CompletedProcess(arguments, code, out, errors)

    def json(self, *arguments, **more):
        return json.loads(self(*arguments, "--json", **more).stdout)

    def fleet(self, count, name="web-{:02}"):
        """Add VMs that are online, like `NEW`; return their ids by label."""

        async def place():
            like_new = {"cores": 1, "ram": 1024, "zone": NEW_ZONE, "template": NEW_TEMPLATE}
            labels = [name.format(number) for number in range(1, count + 1)]
            now, cloud = self.cloud.now, self.cloud.cloud
            return {label: cloud.place(now, label=label, **like_new).id for label in labels}

        # The cloud's clock is that of its event loop.
        return asyncio.run_coroutine_threadsafe(place(), self.cloud.loop).result(LONG)

    @contextmanager
    def terminal(self, *arguments, columns=100, lines=30, read=True, **more):
        """Run it on a terminal of its own, which is read from the start or is full already."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if not read:
            fill(theirs)
        size = {"COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm-256color"}
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | more.pop("options", {})
        try:
            process = self.popen(*arguments, env=size | more, **ends)
        finally:
            os.close(theirs)
        terminal = Terminal(ours, process, columns, lines)
        try:
            if read:
                terminal.read()
            yield terminal
        finally:
            process.kill()
            process.wait(LONG)
            terminal.close()


def fill(terminal):
    """Write to an unread terminal until it takes no more."""
    os.set_blocking(terminal, False)
    refused = 0
    while refused < 10:
        try:
            os.write(terminal, b".")
            refused = 0
        except BlockingIOError:
            # The kernel moves what it has taken, and takes more then.
            refused += 1
            time.sleep(0.02)
    os.set_blocking(terminal, True)


class Terminal:
    """What a program shows on a terminal. Once it is read, it is read all the time."""

    def __init__(self, fd, process, columns, lines):
        self._fd = fd
        self.process = process
        self._screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._wanted = None
        self._ended = False
        self.raw = b""

    def read(self):
        self._thread.start()

    @property
    def shown(self):
        return "\n".join(line.rstrip() for line in self._screen.display)

    def _read(self):
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""  # the program is gone
            with self._changed:
                self.raw += data
                # Line by line, so that no short-lived state is missed.
                for part in data.splitlines(keepends=True):
                    self._stream.feed(part)
                    self._match()
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return

    def _match(self):
        if self._wanted and all(word in self.shown for word in self._wanted[0]):
            self._wanted[1].append(self.shown)
            self._wanted = None

    def until(self, *words):
        """Wait until the screen shows these words."""
        found = []
        with self._changed:
            self._wanted = words, found
            self._match()
            self._changed.wait_for(lambda: found or self._ended, LONG)
            assert found, self.shown
        return found[0]

    def type(self, text):
        os.write(self._fd, text.encode())

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        """Wait for the program's end; return the exit code."""
        code = self.process.wait(LONG)
        self._thread.join(LONG)
        return code

    def close(self):
        if self._thread.ident is not None:
            self._thread.join(LONG)
        os.close(self._fd)
