"""`Workers`: processes that run a scenario, so that no event loop is blocked."""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import attrs

from async_vmapi.bulk.rehearsal import RehearsalRun
from async_vmapi.errors import VMAPIError
from async_vmapi.rehearsal.scenario import Scenario

__all__ = ["Workers", "usable_cores"]

_LONGEST_LINE: Final = 256 * 1024 * 1024
_COMMAND: Final = ("-P", "-m", "async_vmapi.rehearsal.worker")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@attrs.frozen
class _Worker:
    process: asyncio.subprocess.Process
    orders: asyncio.StreamWriter
    results: asyncio.StreamReader
    # Read meanwhile: a full pipe would block the process.
    complaints: asyncio.Task[bytes]

    @classmethod
    def of(cls, process: asyncio.subprocess.Process) -> Self:
        pipes: Any = process
        complaints = asyncio.ensure_future(pipes.stderr.read())
        return cls(process, pipes.stdin, pipes.stdout, complaints)

    async def ask(self, order: bytes) -> dict[str, Any]:
        """Send an order, and return the result."""
        # If the process has ended, its results have, too. uvloop raises RuntimeError.
        with suppress(ConnectionError, RuntimeError):
            self.orders.write(order)
            await self.orders.drain()
        line = await self.results.readline()
        if not line.endswith(b"\n"):
            complaint = (await self.complaints).decode(errors="replace").strip()
            code = await self.process.wait()
            why = complaint.rpartition("\n")[2] or "it wrote nothing"
            raise VMAPIError(f"a process of the rehearsal ended with exit status {code}: {why}")
        content: dict[str, Any] = json.loads(line)
        return content

    def kill(self) -> None:
        """End the process."""
        with suppress(ProcessLookupError):
            self.process.kill()

    async def close(self) -> None:
        """Wait for the end of the process, and close its pipes by reading them to their ends."""
        await asyncio.gather(self.results.read(), self.complaints)
        await self.process.wait()


class Workers:
    """The processes; use them as an async context manager, which ends them.

    Args:
        scenario: What they run.
        count: How many there are.

    Raises:
        VMAPIError: If a process cannot be started, or ends unexpectedly.
    """

    def __init__(self, scenario: Scenario, count: int) -> None:
        self._scenario = f"{json.dumps(scenario.to_dict())}\n".encode()
        self._count = count
        self._workers: list[_Worker] = []

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(await self._start())
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def run(
        self,
        seeds: Iterable[int],
        *,
        record: bool = False,
        on_run: Callable[[RehearsalRun], object] | None = None,
    ) -> list[RehearsalRun]:
        """Run the scenario once with each seed, and return the runs in the order of their seeds."""
        waiting, runs = deque(seeds), list[RehearsalRun]()

        async def serve(worker: _Worker) -> None:
            while waiting:
                order = {"seed": waiting.popleft(), "record": record}
                content = await worker.ask(f"{json.dumps(order)}\n".encode())
                runs.append(RehearsalRun.from_dict(content))
                if on_run is not None:
                    on_run(runs[-1])

        # The first error is raised as it is, not in a group.
        serving = [asyncio.ensure_future(serve(worker)) for worker in self._workers]
        try:
            await asyncio.gather(*serving)
        finally:
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
        return sorted(runs, key=lambda run: run.seed)

    async def _start(self) -> _Worker:
        if not sys.executable:
            raise VMAPIError("cannot rehearse: this program does not know its Python interpreter")
        # It needs no credentials.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VMAPI_")}
        # It must import what this process can, wherever that is from.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.curdir for path in sys.path)
        environment["PYTHONIOENCODING"] = "utf-8"
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *_COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                limit=_LONGEST_LINE,
            )
        except OSError as error:
            raise VMAPIError(
                f"cannot rehearse: {sys.executable} cannot be started: {error.strerror}"
            ) from None
        worker = _Worker.of(process)
        worker.orders.write(self._scenario)
        return worker

    async def _end(self) -> None:
        # Before the first await: a second cancellation must leave no process.
        for worker in self._workers:
            worker.kill()
        await asyncio.gather(*(worker.close() for worker in self._workers))
        self._workers.clear()
