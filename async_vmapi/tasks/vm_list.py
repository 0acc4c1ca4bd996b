"""The VMs that exist, by name: one list shared by all concurrent lookups.

A create has to know which VMs existed before it, and a create whose outcome is unknown has to find
the VM that appeared. A list is expensive, so all lookups share it. There is at most one list per
minimum polling interval, including the poll hub's.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from async_vmapi.errors import InvalidState
from async_vmapi.tasks.names import Labels
from async_vmapi.transport.codec import NAMES, Named
from async_vmapi.transport.pipeline import Call, Pipeline

__all__ = ["FRESH", "VMList", "VMListSource"]

FRESH: Final = 5.0
"""Seconds for which a list serves subsequent creates."""

_LIST: Final = Call("list", "GET", "/v2/virtual-machines", shared=True)


class VMList:
    """The VMs that a list showed.

    Args:
        asked: The loop's time when the list was requested.
        vms: The VMs, in the list's order.

    Attributes:
        asked: As above. Each VM is shown as it was at most ``max_staleness`` before.
        vms: The VMs of each label. A list may contain duplicates.
        ids: The ids of all VMs.
    """

    def __init__(self, asked: float, vms: Sequence[Named]) -> None:
        self.asked = asked
        self.vms: dict[str | None, list[Named]] = {}
        for vm in vms:
            self.vms.setdefault(vm.label, []).append(vm)
        self.ids = frozenset(vm.id for vm in vms)
        self._ids: dict[str, frozenset[str]] = {}
        self._new: dict[int, tuple[frozenset[str], Labels]] = {}

    def named(self, name: str) -> Sequence[Named]:
        """Return the VMs with a name."""
        return self.vms.get(name, ())

    def ids_named(self, name: str) -> frozenset[str]:
        """Return the ids of the VMs with a name; all callers share one set."""
        if (ids := self._ids.get(name)) is None:
            ids = self._ids[name] = frozenset(vm.id for vm in self.named(name))
        return ids

    def new_since(self, baseline: frozenset[str]) -> Labels:
        """Return the VMs that are not in the baseline; computed once for each baseline."""
        # Keep the baseline, so that no other set can get its `id`.
        found = self._new.get(id(baseline))
        if found is None:
            vms = [vm for vms in self.vms.values() for vm in vms if vm.id not in baseline]
            found = self._new[id(baseline)] = baseline, Labels(vms, among=[*filter(None, self.vms)])
        return found[1]


class VMListSource:
    """Fetches lists for all creates of a client.

    Args:
        pipeline: Sends the requests.
        floor: Minimum seconds between two lists.

    Attributes:
        asked: The loop's time of the last request for a list, including the poll hub's.
        size: The size of the last list in bytes; None if unknown, or already read.
    """

    def __init__(self, pipeline: Pipeline, *, floor: float) -> None:
        self._pipeline = pipeline
        self._floor = floor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forget()

    def _forget(self) -> None:
        self.asked = -math.inf
        self.size: int | None = None
        self._latest: VMList | None = None
        self._request: asyncio.Task[VMList] | None = None
        self._waiters = 0

    def recent(self) -> VMList | None:
        """Return a list from the last five seconds, if there is one; sends no request."""
        loop = asyncio.get_running_loop()
        self._attach_to(loop)
        latest = self._latest
        return latest if latest is not None and latest.asked >= loop.time() - FRESH else None

    def _attach_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._loop = loop
            self._forget()

    async def get(self, since: float) -> VMList:
        """Return a list that was requested at `since` or later; raises as a call does."""
        loop = asyncio.get_running_loop()
        self._attach_to(loop)
        while True:
            if self._latest is not None and self._latest.asked >= since:
                return self._latest
            if self._request is None:
                self._request = loop.create_task(
                    self._fetch(loop), name="async_vmapi list of names"
                )
                self._request.add_done_callback(_retrieve)
            request = self._request
            self._waiters += 1
            try:
                await asyncio.wait({request})
            finally:
                self._waiters -= 1
                if self._request is request and (request.done() or not self._waiters):
                    request.cancel()
                    self._request = None
            if request.cancelled():
                raise InvalidState("the client was closed while a list of VMs was in flight")
            # It may have been requested too early for this caller; then fetch another.
            if (vm_list := request.result()).asked >= since:
                return vm_list

    async def _fetch(self, loop: asyncio.AbstractEventLoop) -> VMList:
        if (early := self.asked + self._floor - loop.time()) > 0:
            await asyncio.sleep(early)
        self.asked = asked = loop.time()
        names, body = await self._pipeline.call_raw(_LIST, NAMES)
        self.size = len(body)
        vm_list = VMList(asked, names)
        self._latest = vm_list
        # Free the names of a large fleet as soon as they are of no use.
        loop.call_later(FRESH, self._drop, vm_list)
        return vm_list

    def _drop(self, vm_list: VMList) -> None:
        if self._latest is vm_list:
            self._latest = None

    def close(self) -> None:
        """Cancel the request in flight, and drop all lists."""
        if self._request is not None and self._loop is asyncio.get_running_loop():
            self._request.cancel()
        self._forget()


def _retrieve(request: asyncio.Task[VMList]) -> None:
    # So that asyncio does not log the exception if all callers are gone.
    if not request.cancelled():
        request.exception()
