"""`Experiments`: what is done with one VM, and what is measured by it."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio

from async_vmapi.client import Client
from async_vmapi.errors import APIError, VMAPIError
from async_vmapi.probe.findings import CASE, LENGTH, SPACES, UNICODE, Findings
from async_vmapi.probe.plan import PREFIX, ProbePlan
from async_vmapi.probe.reading import Reader
from async_vmapi.probe.recorder import Recorder
from async_vmapi.probe.samples import Seen, Trace, object_of

__all__ = ["Experiments", "Stopped"]

_FIRST_HOLD: Final = 20.0
_SHORTEST_HOLD: Final = 5.0
_FIELDS: Final = ("error", "message", "errors")
_NO_CALL: Final = (404, 405, 501)
_LONG_NAME: Final = 200
_REFUSALS: Final = 3


class Stopped(VMAPIError):
    """The VM is in a state from which nothing more can be measured."""


class Experiments:
    """The measurements of one VM.

    Args:
        client: The client.
        recorder: Its recorder.
        reader: Reads the VM.
        findings: Gets what is found.
        plan: The plan.
        report: Is called with each step.
        vm_id: The VM.
        label: Its name.
    """

    wait_for: Final = 1

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        reader: Reader,
        findings: Findings,
        plan: ProbePlan,
        report: Callable[[str], None],
        vm_id: str,
        label: str,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._reader = reader
        self._findings = findings
        self._plan = plan
        self._report = report
        self._vm_id = vm_id
        self._label = label
        self._hold = min(_FIRST_HOLD, plan.patience)
        self._state: str | None = None
        self._size: tuple[int, int] | None = None

    @property
    def _long(self) -> float:
        """Seconds within which an operation ends, if ever."""
        return 60.0 * self.wait_for + 6 * self._plan.patience

    # --- the life of a VM ----------------------------------------------------------------------

    async def created(self, trace: Trace) -> None:
        """Measure the create, up to the address."""

        def done(trace: Trace) -> bool:
            self._check(trace)
            if trace.holds(self._hold, lambda vm: vm.state == "online" and vm.has_address):
                return True
            return trace.holds(self._plan.patience, lambda vm: vm.state == "online")

        ended = await self._watch(trace, done, 10 * self._plan.patience)
        findings, online = self._findings, trace.first(lambda vm: vm.state == "online")
        findings.time("reads.appears", trace.after(trace.appears("get"), "get"))
        findings.time("reads.appears_in_list", trace.after(trace.appears("list"), "list"))
        findings.states("create", trace, None)
        if not ended or online is None:
            raise Stopped("the new VM is not online")
        findings.time("durations.create", at := trace.after(online))
        addressed = trace.after(trace.first(lambda vm: vm.has_address))
        if at is not None and addressed is not None:
            findings.time("reads.address", addressed - at)
        self._state = "online"
        if (label := self._last(trace).label) is not None:
            self._label = label

    async def delete(self) -> bool:
        """Measure the delete; return whether the VM is gone."""
        if self._state == "online" and not self._findings.knows("power.off"):
            # It may be impossible to start it again.
            await self._switch("power_off")
        before = self._state
        _, trace = await self._reader.traced(
            lambda: self._client.vms.delete(self._vm_id, delete_resources=True)
        )
        gone = await self._watch(trace, lambda t: t.absent_for(self._hold), self._long)
        if gone:
            self._findings.time("durations.delete", trace.after(trace.gone))
        self._findings.states("delete", trace, before)
        self._report(f"delete: {'gone' if gone else 'not seen to be gone yet'}")
        return gone

    # --- names, and the age of reads -----------------------------------------------------------

    async def names(self) -> None:
        """Rename the VM a number of times: how old reads are, and what becomes of names."""
        fewest = self._plan.renames
        for number in range(2 * fewest):
            if number >= fewest and not self._findings.has_unclear_order:
                break
            kind, name = _name(number)
            if kind is None or self._findings.knows_name(kind):
                kind, name = None, f"{PREFIX}{number}"
            try:
                _, trace = await self._reader.traced(
                    partial(self._client.vms.rename, self._vm_id, name)
                )
            except VMAPIError:
                # Not a name that this provider takes; or it is not known what became of it.
                continue
            await self._renamed(kind, name, trace)
        seconds = self._findings.staleness
        self._hold = max(_SHORTEST_HOLD, 2 * seconds + 2)
        self._hold = min(self._hold, self._plan.patience)
        self._report(f"renames: the oldest read was {seconds:.1f} s old")

    async def _renamed(self, kind: str | None, name: str, trace: Trace) -> None:
        old = self._label
        hold = max(self._hold / 2, 1.5 * self._findings.staleness + 2)
        hold = min(hold, self._plan.patience / 2)
        changed = await self._watch(
            trace, lambda t: t.holds(hold, lambda vm: vm.label != old), self._plan.patience
        )
        shown = self._last(trace).label
        if not changed or shown is None:
            return
        self._label = shown
        self._findings.rename(trace, old, shown)
        if kind is not None and trace.certain:
            self._findings.name(kind, name, shown)

    async def refusals(self) -> None:
        """Find out the form of a refusal, by a rename without a name."""
        for _ in range(_REFUSALS):
            found = await self._recorder.refused_rename(self._vm_id)
            content = None if found is None else object_of(found.body)
            if found is not None and found.status is not None and found.status < 500:
                self._findings.form("refusals.status", str(found.status))
                refused = content is not None and content.get("success") is False
                self._findings.vote("refusals.success_false", refused)
                field = next((f for f in _FIELDS if (content or {}).get(f)), "none")
                self._findings.form("refusals.field", field)
            await self._reader.pause()

    # --- operations ----------------------------------------------------------------------------

    async def reboots(self) -> None:
        """Measure a reboot and a reset."""
        for operation in ("reboot", "reset"):
            await self._bring("online")
            call: Callable[[str], Awaitable[Any]] = getattr(self._client.vms, operation)
            trace = await self._write(operation, partial(call, self._vm_id))
            if trace is None:
                continue
            began = anyio.current_time()

            def done(trace: Trace, began: float = began) -> bool:
                self._check(trace)
                if trace.left_online:
                    return trace.holds(self._hold, lambda vm: vm.state == "online")
                return anyio.current_time() - began >= self._plan.patience

            if await self._watch(trace, done, self._long):
                self._findings.cycle(operation, trace)
                self._report(f"{operation}: {'seen' if trace.left_online else 'not seen'}")
                self._reached(trace, "online")

    async def resizes(self) -> None:
        """Measure a resize to one core more, and back."""
        small = self._plan.cpus, self._plan.ram
        for size in ((small[0] + 1, small[1]), small):
            await self._bring("online")
            if self._size == size:
                # It was not resized before.
                continue
            call = partial(self._client.vms.resize, cores=size[0], ram=size[1])
            trace = await self._write("resize", partial(call, self._vm_id, wait_for=self.wait_for))
            if trace is None:
                continue

            def done(trace: Trace, size: tuple[int, int] = size) -> bool:
                self._check(trace)

                def is_back(vm: Seen) -> bool:
                    return vm.state == "online" and vm.size == size

                patience = self._plan.patience
                if not trace.left_online:
                    # A guest that ignores ACPI is turned off only then.
                    return trace.holds(patience + 60 * self.wait_for, is_back)
                return trace.holds(self._hold, is_back) or trace.holds(
                    patience, lambda vm: vm.state != "online" and vm.size == size
                )

            if await self._watch(trace, done, self._long):
                state = self._last(trace).state
                self._findings.resize(trace, size, is_back=state == "online")
                self._report(f"resize: {state}")
                self._reached(trace, state)

    async def switches(self) -> None:
        """Measure shutdown, power-on and power-off; a VM that cannot be started stays off."""
        for operation in ("shutdown", "power_off"):
            await self._bring("online")
            await self._switch(operation)
            await self._bring("offline")
            await self._switch("power_on")

    async def _switch(self, operation: str) -> None:
        before, to = ("offline", "online") if operation == "power_on" else ("online", "offline")
        was_there = self._state == before
        options = {"wait_for": self.wait_for} if operation == "shutdown" else {}
        call: Callable[..., Awaitable[Any]] = getattr(self._client.vms, operation)
        fact = operation.replace("_", ".") if operation != "shutdown" else None
        trace = await self._write(operation, partial(call, self._vm_id, **options), fact)
        if trace is None:
            return

        def done(trace: Trace) -> bool:
            self._check(trace)
            return trace.holds(self._hold, lambda vm: vm.state == to)

        if await self._watch(trace, done, self._long):
            # Else it may have had nothing to do.
            if was_there:
                self._findings.switch(operation, trace, before, to, acpi=operation == "shutdown")
            if was_there and fact is not None and trace.certain:
                self._findings.vote(fact, value=True)
            self._reached(trace, to)
            self._report(f"{operation.replace('_', '-')}: {to}")

    async def _write(
        self, operation: str, call: Callable[[], Awaitable[Any]], fact: str | None = None
    ) -> Trace | None:
        """Make a write; return None if it was refused, or its outcome is unknown."""
        refused = 0
        while True:
            try:
                _, trace = await self._reader.traced(call)
            except APIError as error:
                if error.status not in _NO_CALL:
                    break
                refused += 1
                if refused == _REFUSALS:
                    if fact is not None:
                        self._findings.vote(fact, value=False)
                    break
                await self._reader.pause(4)
            except VMAPIError:
                break
            else:
                self._state = None
                return trace
        self._state = None
        self._report(f"{operation.replace('_', '-')}: refused, or its outcome is unknown")
        return None

    def _reached(self, trace: Trace, state: str) -> None:
        # What was sent twice may be queued and carried out again.
        self._state = state if trace.certain else None

    async def _bring(self, state: str) -> None:
        """Bring the VM into a state, where it is not in it already.

        Raises:
            Stopped: If that is not possible.
        """
        for _ in range(2):
            if self._state is None:
                trace = self._reader.untraced()
                if await self._watch(trace, self._is_stable, self._long):
                    self._state = self._last(trace).state
            if self._state == state:
                return
            await self._switch("power_on" if state == "online" else "shutdown")
        if self._state != state:
            raise Stopped(f"the VM does not become {state}")

    # --- reads ---------------------------------------------------------------------------------

    async def _watch(self, trace: Trace, done: Callable[[Trace], bool], timeout: float) -> bool:
        ended = await self._reader.watch(self._vm_id, trace, done, timeout)
        last = trace.last(lambda _: True)
        if last is not None and last.vm is not None:
            self._size = last.vm.size
        return ended

    def _is_stable(self, trace: Trace) -> bool:
        self._check(trace)
        if not trace.samples:
            return False
        state = self._last(trace).state
        # What was sent before may still be queued, and a guest may ignore ACPI.
        seconds = self._plan.patience + 60 * self.wait_for
        return state in ("online", "offline") and trace.holds(seconds, lambda vm: vm.state == state)

    def _check(self, trace: Trace) -> None:
        if trace.appears() is not None and trace.has_vanished:
            raise Stopped("the VM has vanished")
        failures = self._reader.words.failures
        if trace.holds(self._hold, lambda vm: vm.state in failures):
            raise Stopped(f"the VM is in the state {self._last(trace).state!r}")

    @staticmethod
    def _last(trace: Trace) -> Seen:
        found = trace.last(lambda _: True)
        if found is None or found.vm is None:
            raise Stopped("no read shows the VM")
        return found.vm


def _name(number: int) -> tuple[str | None, str]:
    """Return a name to try, and what it shows, if anything."""
    begin = f"{PREFIX}{number}"
    tried = {
        1: (CASE, f"{begin}-Ab"),
        2: (SPACES, f"{begin} a  b"),
        3: (UNICODE, f"{begin}-e\N{COMBINING ACUTE ACCENT}"),
        4: (LENGTH, f"{begin}-".ljust(_LONG_NAME, "x")),
    }
    # Each again, if it failed.
    return tried.get(number % 5, (None, begin))
