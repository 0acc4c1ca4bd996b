"""Keep a served cloud in a state file: nothing that a response shows is lost when it is killed.

What several requests change while the file is being written is written together next.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from async_vmapi.emulator.api import CloudAPI
from async_vmapi.emulator.cloud import Cloud
from async_vmapi.emulator.records import SettingsTable, operation_record, vm_record
from async_vmapi.emulator.snapshot import cloud_record, load
from async_vmapi.emulator.state_file import Rows, StateFile
from async_vmapi.emulator.timeline import Changes
from async_vmapi.emulator.vm import CloudOperation, CloudVM

__all__ = ["Saver"]

_AHEAD: Final = 1.0
"""Seconds of the event loop's clock after which the cloud's clock is saved again."""


class Saver:
    """Writes what changes in a cloud to a file.

    After a kill, the cloud's clock continues at most `_AHEAD` seconds later than it was, so that no
    read shows an earlier moment than one before. All else that happens in between follows from what
    is saved, as random numbers do.

    Args:
        path: The file.
        api: The API of the cloud.
        clock: Returns the time on the cloud's clock after some seconds of the event loop's.

    Attributes:
        found: Whether the file had a cloud when it was opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], api: CloudAPI, clock: Callable[[float], float]
    ) -> None:
        self.found = False
        self._file = StateFile(path)
        self._api = api
        self._clock = clock
        self._thread: ThreadPoolExecutor
        # The cloud that the file has; None before it has one.
        self._saved: Cloud | None = None
        self._settings = SettingsTable()
        self._lengths: dict[int, int] = {}
        # What is waited for: the running write, and the next one.
        self._running: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._limit = -math.inf
        self._ahead = _AHEAD
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Open the file, and continue with the cloud in it, if it has one.

        Raises:
            InvalidArgument: If the file cannot be used.
        """
        self._thread = ThreadPoolExecutor(1, "async_vmapi state file")
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._file.open)
            self.found = found is not None
            if found is not None:
                try:
                    load(self._api, found.snapshot)
                except (ValueError, TypeError, LookupError, OverflowError) as error:
                    raise self._file.damaged(error) from None
                if self._api.cloud.scripts.timeline.began is not None:
                    self._api.cloud.advance(found.clock)
        except BaseException:
            await self._release()
            raise
        self._ahead = _AHEAD

    async def saved(self, *, changed: bool) -> None:
        """Return when the file has all that a response to a request can show.

        Args:
            changed: Whether the request may have changed something.

        Raises:
            OSError: If the file cannot be written.
        """
        pending = self._next or self._running
        if changed or self._clock(0.0) > self._limit:
            pending = self._start()
        if pending is not None:
            # Others wait for it, too.
            await asyncio.shield(pending)

    async def close(self) -> None:
        """Save the cloud with the time that its clock has now, and close the file.

        Raises:
            OSError: If the file cannot be written.
        """
        self._ahead = 0.0
        try:
            await self.saved(changed=True)
        finally:
            timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            self._api.cloud.scripts.timeline.changes = self._saved = None
            await self._release()

    async def _release(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown()

    def _start(self) -> asyncio.Future[None]:
        """Return what is done when all that has changed until now is written."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            if self._writing is None:
                self._writing = loop.create_task(self._write())
        return self._next

    async def _write(self) -> None:
        """Write until nothing is left to be written."""
        loop = asyncio.get_running_loop()
        while (running := self._next) is not None:
            self._running, self._next = running, None
            try:
                rows = self._rows()
                await loop.run_in_executor(self._thread, self._file.write, rows)
            except Exception as error:  # noqa: BLE001 - those who wait for it get it
                # What was not written is no longer recorded as a change.
                self._saved, self._limit = None, -math.inf
                running.set_exception(error)
                # It is no warning that those who wait have left.
                running.exception()
            else:
                running.set_result(None)
            self._running = None
        self._writing = None
        if self._timer is None and self._ahead:
            self._timer = loop.call_later(_AHEAD, self._tick)

    def _tick(self) -> None:
        """Save the clock again, as long as something is due and it is running."""
        self._timer = None
        if self._api.cloud.next is None:
            return
        if self._clock(0.0) > self._limit:
            self._start()
        else:
            self._timer = asyncio.get_running_loop().call_later(_AHEAD, self._tick)

    def _rows(self) -> Rows:
        """Return what has changed since the last time."""
        cloud = self._api.cloud
        timeline, reads = cloud.scripts.timeline, cloud.scripts.reads
        vms: Iterable[CloudVM]
        operations: Iterable[CloudOperation]
        changes, timeline.changes = timeline.changes, Changes()
        whole = changes is None or cloud is not self._saved
        if changes is None or whole:
            self._saved, self._settings, self._lengths = cloud, SettingsTable(), {}
            vms, operations = (*cloud.vms.values(), *cloud.gone.values()), cloud.operations
        else:
            vms, operations = changes.vms, changes.operations
        self._limit = self._clock(self._ahead)
        known = len(self._settings)
        history = [
            (vm.number, position, (change.at, change.state, change.cores, change.ram))
            for vm in vms
            for position, change in enumerate(vm.history)
            if position >= self._lengths.get(vm.number, 0)
        ]
        self._lengths.update((vm.number, len(vm.history)) for vm in vms)
        return Rows(
            whole=whole,
            clock=self._limit,
            cloud=cloud_record(self._api, self._settings),
            vms=[(vm.number, vm_record(vm, self._settings, reads)) for vm in vms],
            operations=[(done.number, operation_record(done)) for done in operations],
            history=history,
            settings=[*enumerate(self._settings.records(known), known)],
        )
