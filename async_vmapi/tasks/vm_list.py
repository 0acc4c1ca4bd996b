"""Lists of all VMs, shared by all who can use them.

The poller polls by lists. A create has to know which VMs existed before it, and a create whose
outcome is unknown has to find the VM that appeared. A list is expensive, so each one that arrives
serves the poller and all creates, and two are never sent within the minimum polling interval.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from async_vmapi.errors import DecodingError, InvalidState
from async_vmapi.tasks.names import Labels
from async_vmapi.tasks.schedule import TIMER_TOLERANCE, Schedule
from async_vmapi.transport.codec import SNAPSHOTS, NamedVM, VMSnapshot, decode_names
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.rate_limit import Priority
from async_vmapi.transport.retries import AttemptLog

__all__ = ["FRESH", "ListResult", "VMList", "VMListSource"]

FRESH: Final = 5.0
"""Seconds for which a list serves subsequent creates."""

_FOR_NAMES: Final = Call("list", "GET", "/v2/virtual-machines", shared=True)
_FOR_POLLS: Final = attrs.evolve(_FOR_NAMES, priority=Priority.POLLS, first=True)


@attrs.frozen(eq=False)
class ListResult:
    """The result of a list.

    Attributes:
        sent_at: The loop's time when it was sent. Each VM is shown as it was at most
            ``max_staleness`` before.
        received_at: The loop's time when the response had arrived.
        snapshots: The VMs, in the list's order.
        body: The response's body.
    """

    sent_at: float
    received_at: float
    snapshots: list[VMSnapshot]
    body: bytes = attrs.field(repr=False)


class VMList:
    """The VMs that a list showed, by their names.

    Args:
        sent_at: The loop's time when the list was sent.
        vms: The VMs, in the list's order.

    Attributes:
        sent_at: As above. Each VM is shown as it was at most ``max_staleness`` before.
        vms: The VMs of each label. A list may contain duplicates.
        ids: The ids of all VMs.
    """

    def __init__(self, sent_at: float, vms: Sequence[NamedVM]) -> None:
        self.sent_at = sent_at
        self.vms: dict[str | None, list[NamedVM]] = {}
        for vm in vms:
            self.vms.setdefault(vm.label, []).append(vm)
        self.ids = frozenset(vm.id for vm in vms)
        self._ids: dict[str, frozenset[str]] = {}
        self._new: dict[int, tuple[frozenset[str], Labels]] = {}

    def named(self, name: str) -> Sequence[NamedVM]:
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
    """Sends all lists for a client's tasks and creates.

    Args:
        pipeline: Sends the requests.
        schedule: The minimum interval; it learns what a list costs.

    Attributes:
        sent_at: The loop's time when the last list was sent.
        listener: Called with each list that creates requested.
    """

    def __init__(self, pipeline: Pipeline, schedule: Schedule) -> None:
        self._pipeline = pipeline
        self._schedule = schedule
        self.listener: Callable[[ListResult], object] = lambda _: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters = 0
        self._forget()

    def _forget(self) -> None:
        self.sent_at = -math.inf
        self._latest: VMList | None = None
        # Until when to decode the names of the poller's lists, too.
        self._needed_until = -math.inf
        self._drop_timer: asyncio.TimerHandle | None = None
        # The end of the poller's list in flight, and the task that gets a list for creates.
        self._poll: asyncio.Future[None] | None = None
        self._request: asyncio.Task[None] | None = None

    def _attach_to_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._forget()
        return loop

    async def poll(self) -> ListResult:
        """Send a list for the poller, without retries; raises as a call does."""
        loop = self._attach_to_loop()
        self._poll = ended = loop.create_future()
        try:
            result = await self._send(loop, _FOR_POLLS)
            # Decoding the names of a large fleet takes a while: not of each list.
            is_needed = result.received_at < self._needed_until
            if self._waiters or (is_needed and self._sent_since(loop.time() - FRESH / 2) is None):
                with contextlib.suppress(DecodingError):
                    self._decode(loop, result)
            return result
        finally:
            if not loop.is_closed():
                ended.set_result(None)
            if self._poll is ended:
                self._poll = None

    def recent(self) -> VMList | None:
        """Return a list from the last five seconds, if there is one; sends no request."""
        now = self._attach_to_loop().time()
        self._needed_until = now + FRESH
        return self._sent_since(now - FRESH)

    async def get(self, since: float) -> VMList:
        """Return a list that was sent at `since` or later; raises as a call does."""
        loop = self._attach_to_loop()
        self._waiters += 1
        try:
            while (vm_list := self._sent_since(since)) is None:
                # An eager task may be done before it has called `_ended`.
                if self._request is None or self._request.done():
                    request = loop.create_task(self._next(loop), name="async_vmapi list of names")
                    self._request = request
                    request.add_done_callback(self._ended)
                request = self._request
                await asyncio.wait({request})
                if request.cancelled():
                    raise InvalidState("the client was closed while a list of VMs was in flight")
                # The list may have been sent too early for this caller.
                request.result()
            return vm_list
        finally:
            self._needed_until = loop.time() + FRESH
            self._waiters -= 1
            if self._request is not None and not self._waiters:
                self._request.cancel()
                self._request = None

    def _ended(self, request: asyncio.Task[None]) -> None:
        if self._request is request:
            self._request = None
        if not request.cancelled():
            # So that asyncio does not log the exception if all callers are gone.
            request.exception()

    def _sent_since(self, since: float) -> VMList | None:
        latest = self._latest
        return None if latest is None or latest.sent_at < since else latest

    async def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a list of the poller that is in flight or due; else send one."""
        latest, until = self._latest, loop.time() + FRESH
        while (now := loop.time()) < until:
            if self._poll is not None:
                await asyncio.wait({self._poll}, timeout=until - now)
            elif (early := self.sent_at + self._schedule.min_interval - now) > TIMER_TOLERANCE:
                await asyncio.sleep(early)
            else:
                break
            if self._latest is not latest:
                return
        result = await self._send(loop, _FOR_NAMES)
        self.listener(result)
        self._decode(loop, result)

    async def _send(self, loop: asyncio.AbstractEventLoop, call: Call) -> ListResult:
        sent_at = loop.time()

        def sending() -> None:
            # Later if it had to wait for its turn, or is retried.
            nonlocal sent_at
            self.sent_at = sent_at = loop.time()

        self.sent_at = sent_at
        attempts = AttemptLog(before_sending=sending)
        snapshots, body = await self._pipeline.call(call, SNAPSHOTS, attempts)
        self._schedule.measured_list(len(body))
        return ListResult(sent_at, loop.time(), snapshots, body)

    def _decode(self, loop: asyncio.AbstractEventLoop, result: ListResult) -> None:
        """Decode a list's names, and keep them for a while."""
        try:
            names = decode_names(result.body)
        except DecodingError as error:
            error.method, error.path = _FOR_NAMES.method, _FOR_NAMES.path
            raise
        if self._sent_since(result.sent_at) is None:
            self._latest = VMList(result.sent_at, names)
        if self._drop_timer is not None:
            self._drop_timer.cancel()
        self._drop_timer = loop.call_later(FRESH, self._drop)

    def _drop(self) -> None:
        self._latest = None

    def close(self) -> None:
        """Cancel the request in flight, and drop all lists."""
        if self._request is not None and self._loop is asyncio.get_running_loop():
            self._request.cancel()
        self._forget()
