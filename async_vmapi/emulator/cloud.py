"""The cloud's VMs: what is asked of them, and what there is. A state machine on a clock.

Every method takes `now`, seconds on any clock that does not go back. What an operation does is a
script (`async_vmapi.emulator.scripts`). The operations of a VM run one after the other (WIRE §4:
they are queued); a delete goes before all others. What a read shows is in
`async_vmapi.emulator.reads`.
"""

import fnmatch
import math
import random
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from async_vmapi.emulator.catalogue import Template, Zone
from async_vmapi.emulator.scripts import Scripts
from async_vmapi.emulator.settings import Settings
from async_vmapi.emulator.vm import Change, CloudOperation, CloudVM, Kind, NotFound, Refused

__all__ = ["Cloud"]

_SHOWS_IN_JSON: Final = frozenset({"sparse", "names"})


class Cloud:
    """Machines on a clock.

    Args:
        settings: How it behaves, until `adjust` says otherwise for some machines.
        seed: Makes everything that is drawn repeatable.
        epoch: The date of the clock's first moment, to the second, for the dates that the API
            shows; UTC if it has no time zone. The wall clock's date if it is not given.

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
        self._scripts = Scripts(seed)
        self._timeline = self._scripts.timeline
        self._reads = self._scripts.reads
        self.vms = self._scripts.vms
        self.gone = self._scripts.gone
        self.operations: list[CloudOperation] = []
        epoch = (epoch or datetime.now(UTC)).replace(microsecond=0)
        self._epoch = epoch if epoch.tzinfo is not None else epoch.replace(tzinfo=UTC)
        self._adjusted: list[tuple[str, Mapping[str, object]]] = []

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
        for vm in (*self.vms.values(), *self.gone.values()):
            if pattern == vm.id or fnmatch.fnmatchcase(vm.label, pattern):
                vm.settings = vm.settings.changed(**changes)
                self._reads.configure(vm)
                if _SHOWS_IN_JSON & changes.keys():
                    self._reads.show(vm, self.now)

    # --- the clock -----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Let everything happen that is due by `now`."""
        self._timeline.advance(now)

    @property
    def now(self) -> float:
        """The latest time that it was told, in seconds; 0 before the first."""
        return self._timeline.now

    def second(self, now: float) -> tuple[datetime, tuple[float, float]]:
        """Return the date of the cloud's clock, to the second, and when that begins and ends."""
        self._timeline.advance(now)
        began = self._timeline.began or 0.0
        passed = math.floor(now - began)
        begin = began + passed
        return self._epoch + timedelta(seconds=passed), (begin, begin + 1.0)

    # --- reading -------------------------------------------------------------------------------

    def get(self, vm_id: str, now: float) -> bytes:
        """Return a VM's JSON; raise `NotFound` where that is what a reader is shown."""
        self._timeline.advance(now)
        shown = self._reads.get(vm_id, self.vms.get(vm_id), now)
        if shown is None:
            raise NotFound(self.settings_of(vm_id).not_found_form)
        return shown

    def list(self, now: float) -> bytes:
        """Return the JSON array of all VMs that are shown."""
        self._timeline.advance(now)
        return self._reads.list(now)

    def settings_of(self, vm_id: str) -> Settings:
        """Return how one VM behaves, also one that is gone or never was."""
        vm = self.vms.get(vm_id) or self.gone.get(vm_id)
        return self.settings_for(vm_id) if vm is None else vm.settings

    def settings_for(self, label: str) -> Settings:
        """Return how a machine to come, of a given name, would behave."""
        settings = self.settings
        for pattern, changes in self._adjusted:
            if fnmatch.fnmatchcase(label, pattern):
                settings = settings.changed(**changes)
        return settings

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
        self._reads.configure(vm)
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
        self._reads.place(vm, now)
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
            id=_uuid(self._scripts.random),
            label=label,
            cores=cores,
            ram=ram,
            zone=zone,
            template=template,
            settings=settings,
            created=f"{self.second(now)[0]:%Y-%m-%d %H:%M:%S}",
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
            self._scripts.cancel(vm, now)
        self._accept(vm, operation, now)

    def rename(self, vm_id: str, label: str, now: float) -> None:
        """Give a machine another label, at once."""
        self._scripts.change(self._writable(vm_id, now), now, label=label)

    def console(self, vm_id: str, now: float) -> dict[str, object]:
        """Open a console."""
        vm = self._writable(vm_id, now)
        return {
            "host": f"console.{vm.address}.nip.example",
            "port": self._scripts.random.randint(5900, 5999),
            "password": f"{self._scripts.random.getrandbits(48):012x}",
        }

    def _writable(self, vm_id: str, now: float) -> CloudVM:
        self._timeline.advance(now)
        vm = self.vms.get(vm_id)
        if vm is None or not (vm.visible or vm.settings.writes_before_visible):
            raise NotFound(self.settings_of(vm_id).not_found_form)
        if vm.deleting:
            raise Refused(409, "virtual machine is being deleted")
        return vm

    def _accept(self, vm: CloudVM, operation: CloudOperation, now: float) -> None:
        self.operations.append(operation)
        self._scripts.start(vm, operation, now)


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
