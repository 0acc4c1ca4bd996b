"""`Reader`: read one VM by GET and by list in turn, at a gentle rate, until something is seen."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle
from typing import Any, Final, TypeVar, cast

import anyio

from async_vmapi.client import Client
from async_vmapi.errors import VMAPIError
from async_vmapi.probe.fields import id_types, new_fields
from async_vmapi.probe.findings import Findings
from async_vmapi.probe.recorder import Exchange, Recorder
from async_vmapi.probe.samples import (
    By,
    Sample,
    Trace,
    Words,
    form_of,
    items_of,
    object_of,
    sample_of,
)
from async_vmapi.writes.requests import PATH, path_of

__all__ = ["Reader"]

T = TypeVar("T")

_JITTER: Final = 0.2


class Reader:
    """Reads VMs, and records what reads show of the API itself.

    Args:
        client: The client, whose transport is recorded.
        recorder: Its recorder.
        findings: Gets what is found.
        interval: Seconds between two reads.
        seed: Makes the times of reads reproducible.
    """

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        findings: Findings,
        *,
        interval: float,
        seed: int | None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._findings = findings
        self._interval = interval
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._described = set[str]()
        self.words = Words()

    async def pause(self, factor: float = 1.0) -> None:
        """Wait for the interval between two reads."""
        jitter = self._random.uniform(1 - _JITTER, 1 + _JITTER)
        await anyio.sleep(factor * self._interval * jitter)

    async def exchange(self, path: str, call: Callable[[], Awaitable[object]]) -> Exchange | None:
        """Make a read, and return its last exchange, whatever came; None if nothing was sent."""
        since = anyio.current_time()
        with suppress(VMAPIError):
            await call()
        return self._recorder.read(path, since)

    async def not_found(self, vm_id: str, times: int) -> None:
        """Find out how a GET of an unknown VM is refused."""
        for _ in range(times):
            found = await self.exchange(path_of(vm_id), lambda: self._client.vms.get(vm_id))
            self._findings.form("reads.not_found", None if found is None else form_of(found))
            await self.pause()

    async def describe(self, vm_id: str) -> None:
        """Find out how a VM is described: the form of a GET, its fields, the type of its id."""
        found = await self.exchange(path_of(vm_id), lambda: self._client.vms.get(vm_id))
        self._describe(vm_id, found)

    async def read(self, vm_id: str, by: By) -> Sample | None:
        """Read a VM; None if the read failed, or cannot be used."""
        if by == "get":
            path, call = path_of(vm_id), cast("Any", lambda: self._client.vms.get(vm_id))
        else:
            path, call = PATH, self._client.vms.list
        found = await self.exchange(path, call)
        if found is None:
            return None
        if by == "get" and vm_id not in self._described:
            self._describe(vm_id, found)
        slowest = max(2 * self._interval, 1.0)
        return sample_of(found, by, vm_id, slowest, self._findings.not_found)

    async def watch(
        self, vm_id: str, trace: Trace, is_done: Callable[[Trace], bool], timeout: float
    ) -> bool:
        """Read a VM until something is seen; return whether it was, within so many seconds."""
        until = anyio.current_time() + timeout
        kinds: tuple[By, By] = ("get", "list")
        for by in cycle(kinds):
            began = anyio.current_time()
            sample = await self.read(vm_id, by)
            if sample is not None:
                trace.add(sample)
                if is_done(trace):
                    return True
            now = anyio.current_time()
            if now >= until:
                break
            # The rate stays the same if responses are slow.
            await self.pause(max(0.2, 1 - (now - began) / self._interval))
        return False

    async def traced(self, call: Callable[[], Awaitable[T]]) -> tuple[T, Trace]:
        """Make a write, and return its result and the trace that begins with it.

        Raises:
            VMAPIError: If it was refused, or its outcome is unknown.
        """
        self._recorder.clear()
        began = anyio.current_time()
        result = await call()
        writes = self._recorder.writes
        sent, received = (writes[-1].sent, writes[-1].received) if writes else (began, None)
        certain = len(writes) == 1 and writes[0].status == 200
        accepted = anyio.current_time() if received is None else received
        return result, Trace(sent, accepted, certain, self._interval, self.words)

    def untraced(self) -> Trace:
        """Return a trace without a write."""
        now = anyio.current_time()
        return Trace(now, now, False, self._interval, self.words)

    def _describe(self, vm_id: str, found: Exchange | None) -> None:
        content = None if found is None or found.status != 200 else object_of(found.body)
        shown = None if content is None else content.get("virtual_machine")
        if not items_of(shown):
            return
        self._described.add(vm_id)
        self._findings.form("reads.get_shape", _shape(shown))
        for kind in id_types(shown):
            self._findings.form("reads.ids", kind)
        self._findings.fields(new_fields(shown))


def _shape(value: object) -> str:
    return "list" if isinstance(value, list) else "object"
