"""The cloud's machines and what happens to them: a state machine on a clock, and nothing else.

Every method takes `now`, seconds on any clock that does not go back. What an operation does is a
script: a generator that yields how long it waits. The operations of a machine run one after the
other (WIRE §4: they are queued); a delete goes before all others.
"""

import fnmatch
import heapq
import itertools
import random
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from async_vmapi.emulator.catalogue import Template, Zone
from async_vmapi.emulator.settings import Settings, Span
from async_vmapi.emulator.vm import Change, CloudOperation, CloudVM, Kind, Refused, Script, encode

__all__ = ["Cloud"]

_GONE: Final = b""


class Cloud:
    """Machines on a clock.

    Args:
        settings: How it behaves, until `adjust` says otherwise for some machines.
        seed: Makes everything that is drawn repeatable.
        epoch: The date of the clock's first moment, for what the machines tell as dates.

    Attributes:
        vms: The machines that are there, by id.
        gone: Those that were.
        operations: All that was ever accepted.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        seed: int | None = None,
        epoch: datetime | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.vms: dict[str, CloudVM] = {}
        self.gone: dict[str, CloudVM] = {}
        self.operations: list[CloudOperation] = []
        self._random = random.Random(seed)  # noqa: S311 - an emulator's, not a secret
        self._epoch = epoch or datetime.now(UTC)
        self._began: float | None = None
        self._now = 0.0
        self._events: list[tuple[float, int, CloudVM, int, Any]] = []
        self._ties = itertools.count()
        self._adjusted: list[tuple[str, Mapping[str, object]]] = []
        # What the list shows, by id, in the order of creation; and the joined body.
        self._listing: dict[str, CloudVM] = {}
        self._list_body: bytes | None = None

    # --- what a test or a demo sets ------------------------------------------------------------

    def adjust(self, pattern: str, **changes: object) -> None:
        """Change the settings of some machines, of those there are and those to come.

        Args:
            pattern: A machine's id, or a name with ``*`` and ``?``.
            changes: Fields of `Settings`; what is under way keeps the durations drawn for it.

        Raises:
            TypeError: If there is no such field, or a value is of the wrong type.
            ValueError: If a value is not allowed.
        """
        self.settings.changed(**changes)
        self._adjusted.append((pattern, changes))
        for vm in self.vms.values():
            if pattern == vm.id or fnmatch.fnmatchcase(vm.label, pattern):
                vm.settings = vm.settings.changed(**changes)
                if "sparse" in changes:
                    self._show(vm, self.now)

    # --- the clock -----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Let everything happen that is due by `now`."""
        if self._began is None:
            self._began = self._now = now
        self._now = max(self._now, now)
        while self._events and self._events[0][0] <= now:
            at, _, vm, generation, event = heapq.heappop(self._events)
            if isinstance(event, bytes):
                self._publish(vm, event)
            elif event is None:
                self._set(vm, at, has_address=True)
            elif generation == vm.generation:
                self._step(vm, at)

    @property
    def now(self) -> float:
        """The latest time that it was told, in seconds; 0 before the first."""
        return self._now

    def _at(self, at: float, vm: CloudVM, event: Any = "step") -> None:
        heapq.heappush(self._events, (at, next(self._ties), vm, vm.generation, event))

    def _draw(self, span: Span) -> float:
        return self._random.uniform(*span)

    def _step(self, vm: CloudVM, at: float) -> None:
        """Go on with the machine's first operation, and with the next where one ends."""
        while vm.queue:
            operation, script = vm.queue[0]
            try:
                if operation.started_at is None:
                    operation.started_at = at
                    delay = next(script)
                else:
                    delay = script.send(at)
            except StopIteration:
                operation.finished_at = at
                operation.outcome = operation.outcome or "done"
                if vm.queue:
                    vm.queue.pop(0)
                continue
            self._at(at + delay, vm)
            return

    # --- reading -------------------------------------------------------------------------------

    def get(self, vm_id: str, now: float) -> bytes:
        """Return a machine's JSON; raise `Refused` where a reader is told "not found"."""
        vm = self._visible(vm_id, now)
        if vm.shown is None:
            vm.shown = encode(vm)
        return vm.shown

    def list(self, now: float) -> bytes:
        """Return the JSON array of all machines."""
        self.advance(now)
        if self._list_body is None:
            self._list_body = b"[" + b",".join(map(self._listed, self._listing.values())) + b"]"
        return self._list_body

    def _listed(self, vm: CloudVM) -> bytes:
        if vm.listed is None:
            if vm.shown is None:
                vm.shown = encode(vm)
            vm.listed = vm.shown
        return vm.listed

    def settings_of(self, vm_id: str) -> Settings:
        """Return how one machine behaves."""
        return self.vms[vm_id].settings

    def settings_for(self, label: str) -> Settings:
        """Return how a machine to come, of a given name, would behave."""
        settings = self.settings
        for pattern, changes in self._adjusted:
            if fnmatch.fnmatchcase(label, pattern):
                settings = settings.changed(**changes)
        return settings

    def _visible(self, vm_id: str, now: float) -> CloudVM:
        self.advance(now)
        vm = self.vms.get(vm_id)
        if vm is None or not vm.visible:
            raise Refused(404, "virtual machine not found")
        return vm

    # --- writing -------------------------------------------------------------------------------

    def create(
        self,
        now: float,
        *,
        label: str,
        cores: int,
        ram: int,
        zone: Zone,
        template: Template | None,
    ) -> str:
        """Accept a new machine and return its id."""
        self.advance(now)
        settings = self.settings_for(label)
        if settings.quota is not None and len(self.vms) >= settings.quota:
            raise Refused(403, f"quota of {settings.quota} virtual machines reached")
        vm = self._new(now, label, cores, ram, zone, template, settings)
        self.vms[vm.id] = vm
        vm.history.append(Change(now, vm.state, cores, ram))
        self._accept(vm, CloudOperation("create", vm.id, now), now)
        return vm.id

    def place(
        self,
        now: float,
        *,
        label: str,
        cores: int,
        ram: int,
        zone: Zone,
        template: Template | None,
        state: str = "online",
    ) -> CloudVM:
        """Put a machine there that nobody asked for, as if it had been there all along."""
        self.advance(now)
        vm = self._new(now, label, cores, ram, zone, template, self.settings_for(label))
        vm.state, vm.visible, vm.has_address = state, True, True
        self.vms[vm.id] = vm
        vm.history.append(Change(now, state, cores, ram))
        self._publish(vm, None)
        return vm

    def _new(
        self,
        now: float,
        label: str,
        cores: int,
        ram: int,
        zone: Zone,
        template: Template | None,
        settings: Settings,
    ) -> CloudVM:
        number = len(self.vms) + len(self.gone)
        return CloudVM(
            id=_uuid(self._random),
            label=label,
            cores=cores,
            ram=ram,
            zone=zone,
            template=template,
            settings=settings,
            created=self._date(now),
            address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        )

    def operate(
        self, kind: Kind, vm_id: str, now: float, *, cores: int = 0, ram: int = 0, wait_for: int = 0
    ) -> None:
        """Accept an operation on a machine; raise `Refused` where it is not possible."""
        vm = self._writable(vm_id, now)
        operation = CloudOperation(kind, vm_id, now, cores=cores, ram=ram, wait_for=wait_for)
        if kind == "delete":
            vm.deleting = True
            vm.generation += 1
            for waiting, _ in vm.queue:
                waiting.outcome, waiting.finished_at = "cancelled", now
            vm.queue.clear()
        self._accept(vm, operation, now)

    def rename(self, vm_id: str, label: str, now: float) -> None:
        """Give a machine another label, at once."""
        self._set(self._writable(vm_id, now), now, label=label)

    def console(self, vm_id: str, now: float) -> dict[str, object]:
        """Open a console."""
        vm = self._writable(vm_id, now)
        return {
            "host": f"console.{vm.address}.nip.example",
            "port": self._random.randint(5900, 5999),
            "password": f"{self._random.getrandbits(48):012x}",
        }

    def _writable(self, vm_id: str, now: float) -> CloudVM:
        vm = self._visible(vm_id, now)
        if vm.deleting:
            raise Refused(409, "virtual machine is being deleted")
        return vm

    def _accept(self, vm: CloudVM, operation: CloudOperation, now: float) -> None:
        self.operations.append(operation)
        vm.queue.append((operation, self._script(vm, operation)))
        if len(vm.queue) == 1:
            self._step(vm, now)

    # --- what changes --------------------------------------------------------------------------

    def _set(self, vm: CloudVM, at: float, **changes: Any) -> None:
        if vm.settings.list_lag[1] > 0 and vm.id in self._listing:
            # The list goes on showing what is true now, which nobody may have asked for yet.
            self._listed(vm)
        for name, value in changes.items():
            setattr(vm, name, value)
        last = vm.history[-1]
        if (vm.state, vm.cores, vm.ram) != (last.state, last.cores, last.ram):
            vm.history.append(Change(at, vm.state, vm.cores, vm.ram))
        self._show(vm, at)

    def _show(self, vm: CloudVM, at: float) -> None:
        vm.shown = None
        if vm.visible:
            self._list_later(vm, at, None)

    def _list_later(self, vm: CloudVM, at: float, content: bytes | None) -> None:
        due = max(vm.listed_until, at + self._draw(vm.settings.list_lag))
        # What was put off to this very moment comes first, though it may not have come yet.
        if vm.listed_until < at == due:
            self._publish(vm, content)
        else:
            vm.listed_until = due
            self._at(due, vm, encode(vm) if content is None else content)

    def _publish(self, vm: CloudVM, content: bytes | None) -> None:
        self._list_body = None
        if content == _GONE:
            self._listing.pop(vm.id, None)
            vm.shown = vm.listed = None
        else:
            vm.listed = content
            self._listing[vm.id] = vm

    def _remove(self, vm: CloudVM, at: float) -> None:
        del self.vms[vm.id]
        self.gone[vm.id] = vm
        vm.visible = False
        vm.history.append(Change(at, None, vm.cores, vm.ram))
        self._list_later(vm, at, _GONE)

    def _date(self, now: float) -> str:
        began = now if self._began is None else self._began
        return f"{self._epoch + timedelta(seconds=now - began):%Y-%m-%d %H:%M:%S}"

    # --- scripts -------------------------------------------------------------------------------
    # A script yields how many seconds it waits, and is told the time when they are over.

    def _creating(self, vm: CloudVM, operation: CloudOperation) -> Script:
        settings = vm.settings
        hidden, total = self._draw(settings.not_found), self._draw(settings.create)
        now = yield hidden
        vm.visible = True
        self._show(vm, now)
        share = max(0.0, total - hidden) / (1 + len(settings.extra_states))
        now = yield share
        for state in settings.extra_states:
            self._set(vm, now, state=state)
            now = yield share
        if settings.fail_state is not None:
            operation.outcome = "failed"
            self._set(vm, now, state=settings.fail_state)
            return
        self._set(vm, now, state="online")
        self._at(now + self._draw(settings.address), vm, None)

    def _going_down(self, vm: CloudVM, operation: CloudOperation, honoured: float) -> Script:
        """Let the guest go down by ACPI, or turn it off after what it is given."""
        given, acpi = 60.0 * operation.wait_for, vm.settings.acpi
        taken = given if acpi == "ignore" else honoured if acpi == "honour" else float(acpi)
        now = yield min(taken, given)
        self._set(vm, now, state="offline")

    def _shutting_down(self, vm: CloudVM, operation: CloudOperation) -> Script:
        yield self._draw(vm.settings.stale)
        if vm.state != "online":
            operation.outcome = "skipped"
            return
        yield from self._going_down(vm, operation, self._draw(vm.settings.shutdown))

    def _resizing(self, vm: CloudVM, operation: CloudOperation) -> Script:
        stale, third = self._draw(vm.settings.stale), self._draw(vm.settings.resize) / 3
        yield stale
        ran = vm.state == "online"
        if ran:
            yield from self._going_down(vm, operation, max(0.0, third - stale))
        now = yield third
        self._set(vm, now, cores=operation.cores, ram=operation.ram)
        if ran and vm.settings.restart_after_resize:
            now = yield third
            self._set(vm, now, state="online")

    def _powering_on(self, vm: CloudVM, operation: CloudOperation) -> Script:
        yield from self._switching(vm, operation, "offline", "online", vm.settings.power_on)

    def _powering_off(self, vm: CloudVM, operation: CloudOperation) -> Script:
        yield from self._switching(vm, operation, "online", "offline", vm.settings.power_off)

    def _switching(
        self, vm: CloudVM, operation: CloudOperation, before: str, after: str, span: Span
    ) -> Script:
        stale, total = self._draw(vm.settings.stale), self._draw(span)
        yield stale
        if vm.state != before:
            operation.outcome = "skipped"
            return
        now = yield max(0.0, total - stale)
        self._set(vm, now, state=after)

    def _rebooting(self, vm: CloudVM, operation: CloudOperation) -> Script:
        acpi = vm.settings.acpi
        if acpi == "ignore":
            yield self._draw(vm.settings.stale)
            operation.outcome = "never"
            return
        delay = 0.0 if acpi == "honour" else float(acpi)
        yield from self._cycling(vm, operation, delay, vm.settings.reboot)

    def _resetting(self, vm: CloudVM, operation: CloudOperation) -> Script:
        yield from self._cycling(vm, operation, 0.0, vm.settings.reset)

    def _cycling(self, vm: CloudVM, operation: CloudOperation, delay: float, span: Span) -> Script:
        stale, total = self._draw(vm.settings.stale), self._draw(span)
        yield stale
        if vm.state != "online":
            operation.outcome = "skipped"
            return
        half = max(0.0, total - stale) / 2
        now = yield delay + half
        if vm.settings.reboot_visible:
            self._set(vm, now, state="offline")
        now = yield half
        self._set(vm, now, state="online")

    def _deleting(self, vm: CloudVM, _: CloudOperation) -> Script:
        stale, total = self._draw(vm.settings.stale), self._draw(vm.settings.delete)
        now = yield stale
        self._set(vm, now, state="deleting")
        now = yield max(0.0, total - stale)
        self._remove(vm, now)

    def _script(self, vm: CloudVM, operation: CloudOperation) -> Script:
        scripts: dict[Kind, Callable[[CloudVM, CloudOperation], Script]] = {
            "create": self._creating,
            "resize": self._resizing,
            "shutdown": self._shutting_down,
            "power_on": self._powering_on,
            "power_off": self._powering_off,
            "reboot": self._rebooting,
            "reset": self._resetting,
            "delete": self._deleting,
        }
        return scripts[operation.kind](vm, operation)


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
