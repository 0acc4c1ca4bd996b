"""Which VMs there are, by name: one list for all who ask at the same time.

A create must know the VMs that were there before it, and one whose outcome is unknown must find
what appeared. A list is expensive, so it serves all who ask, and no two are asked for within one
polling interval, the poll hub's among them.
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
"""Seconds for which a list serves the creates that follow it."""

_LIST: Final = Call("list", "GET", "/v2/virtual-machines", shared=True)


class VMList:
    """The VMs that a list showed.

    Args:
        asked: The loop's time when the list was asked for.
        vms: The VMs, in the list's order.

    Attributes:
        asked: As above. No VM is shown as it was earlier than ``max_staleness`` before.
        vms: The VMs of each label. A list may show a VM more than once.
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
        """Return the VMs that have a name."""
        return self.vms.get(name, ())

    def ids_named(self, name: str) -> frozenset[str]:
        """Return the ids of the VMs that have a name: one set for all who ask."""
        if (ids := self._ids.get(name)) is None:
            ids = self._ids[name] = frozenset(vm.id for vm in self.named(name))
        return ids

    def new_since(self, baseline: frozenset[str]) -> Labels:
        """Return the VMs that are not in the baseline, worked out once for all who share it."""
        # The baseline is kept too, else another one could get its identity.
        found = self._new.get(id(baseline))
        if found is None:
            vms = [vm for vms in self.vms.values() for vm in vms if vm.id not in baseline]
            found = self._new[id(baseline)] = baseline, Labels(vms, among=[*filter(None, self.vms)])
        return found[1]


class VMListSource:
    """Asks for lists on behalf of all creates of a client.

    Args:
        pipeline: What asks.
        floor: Seconds between two lists, at least.

    Attributes:
        asked: The loop's time when a list was asked for last, by whomever.
        size: The bytes of the last list of names; None where that is not known, or no news.
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
        self._asking: asyncio.Task[VMList] | None = None
        self._awaiting = 0

    def recent(self) -> VMList | None:
        """Return the list of the last five seconds, if there is one; ask for nothing."""
        loop = asyncio.get_running_loop()
        self._settle_in(loop)
        latest = self._latest
        return latest if latest is not None and latest.asked >= loop.time() - FRESH else None

    def _settle_in(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            self._loop = loop
            self._forget()

    async def get(self, since: float) -> VMList:
        """Return a roster that was asked for at `since` or later; raises as a call does."""
        loop = asyncio.get_running_loop()
        self._settle_in(loop)
        while True:
            if self._latest is not None and self._latest.asked >= since:
                return self._latest
            if self._asking is None:
                self._asking = loop.create_task(self._ask(loop), name="async_vmapi list of names")
                self._asking.add_done_callback(_retrieve)
            asking = self._asking
            self._awaiting += 1
            try:
                await asyncio.wait({asking})
            finally:
                self._awaiting -= 1
                if self._asking is asking and (asking.done() or not self._awaiting):
                    asking.cancel()
                    self._asking = None
            if asking.cancelled():
                raise InvalidState("the client was closed while it was looking for names")
            # It may have been asked for too early for this caller: then there is another round.
            if (roster := asking.result()).asked >= since:
                return roster

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> VMList:
        if (early := self.asked + self._floor - loop.time()) > 0:
            await asyncio.sleep(early)
        self.asked = asked = loop.time()
        names, body = await self._pipeline.call_raw(_LIST, NAMES)
        self.size = len(body)
        roster = VMList(asked, names)
        self._latest = roster
        # A whole fleet's names are not kept for longer than they are of use.
        loop.call_later(FRESH, self._drop, roster)
        return roster

    def _drop(self, roster: VMList) -> None:
        if self._latest is roster:
            self._latest = None

    def close(self) -> None:
        """Ask no more, and forget what lists showed."""
        if self._asking is not None and self._loop is asyncio.get_running_loop():
            self._asking.cancel()
        self._forget()


def _retrieve(asking: asyncio.Task[VMList]) -> None:
    # Else it would be complained of where all who asked are gone.
    if not asking.cancelled():
        asking.exception()
