"""The cloud's VMs and operations: a state machine on a clock.

Every method takes `now`, seconds on any monotonic clock. Operations are scripts
(`async_vmapi.emulator.scripts`); those of a VM are queued (WIRE §4), except that a delete cancels
the others. `async_vmapi.emulator.reads` decides what reads show.
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
    """VMs on a clock.

    Args:
        settings: Its behaviour, unless `adjust` changes it for some VMs.
        seed: Random seed, to make it reproducible.
        epoch: The date at which the clock starts, to the second, for dates in responses; UTC if it
            has no time zone. The current date by default.

    Attributes:
        seed: As above.
        epoch: As above.
        adjusted: The patterns and changes of `adjust`.
        scripts: Runs the operations.
        vms: The existing VMs by id.
        gone: The deleted VMs by id.
        operations: All operations ever accepted.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        seed: int | None = None,
        epoch: datetime | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.seed = seed
        self.scripts = Scripts(seed)
        self._timeline = self.scripts.timeline
        self._reads = self.scripts.reads
        self.vms = self.scripts.vms
        self.gone = self.scripts.gone
        self.operations = self.scripts.operations
        epoch = (epoch or datetime.now(UTC)).replace(microsecond=0)
        self.epoch = epoch if epoch.tzinfo is not None else epoch.replace(tzinfo=UTC)
        self.adjusted: list[tuple[str, Mapping[str, object]]] = []

    # --- set-up --------------------------------------------------------------------------------

    def adjust(self, pattern: str, **changes: object) -> None:
        """Change the settings of some VMs, existing and future ones.

        Args:
            pattern: A VM id, or a name with ``*`` and ``?``.
            changes: Fields of `Settings`; operations that have started keep their durations.

        Raises:
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        self.settings.changed(**changes)
        self.adjusted.append((pattern, changes))
        for vm in (*self.vms.values(), *self.gone.values()):
            if pattern == vm.id or fnmatch.fnmatchcase(vm.label, pattern):
                vm.settings = vm.settings.changed(**changes)
                self._reads.configure(vm)
                if _SHOWS_IN_JSON & changes.keys():
                    self._reads.show(vm, self.now)

    # --- the clock -----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Run everything that is due by `now`."""
        self._timeline.advance(now)

    @property
    def now(self) -> float:
        """The latest time passed to a method, in seconds; initially 0."""
        return self._timeline.now

    def second(self, now: float) -> tuple[datetime, tuple[float, float]]:
        """Return the date on the cloud's clock, and the start and end of its current second."""
        self._timeline.advance(now)
        began = self._timeline.began or 0.0
        passed = math.floor(now - began)
        begin = began + passed
        return self.epoch + timedelta(seconds=passed), (begin, begin + 1.0)

    # --- reading -------------------------------------------------------------------------------

    def get(self, vm_id: str, now: float) -> bytes:
        """Return a VM's JSON; raise `NotFound` if reads show it as absent."""
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
        """Return the settings of a VM, even if it is deleted or never existed."""
        vm = self.vms.get(vm_id) or self.gone.get(vm_id)
        return self.settings_for(vm_id) if vm is None else vm.settings

    def settings_for(self, label: str) -> Settings:
        """Return the settings for a new VM of a given name."""
        settings = self.settings
        for pattern, changes in self.adjusted:
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
        """Accept a create and return the new VM's id."""
        self.advance(now)
        quota = self.settings_for(label).quota
        if quota is not None and len(self.vms) >= quota:
            raise Refused(403, f"quota of {quota} virtual machines reached")
        vm = self._add(now, label, cores, ram, zone, template, "installing")
        self._reads.configure(vm)
        self.scripts.start(vm, CloudOperation(len(self.operations), "create", vm.id, now), now)
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
        """Add an existing VM, without a create."""
        self.advance(now)
        vm = self._add(now, label, cores, ram, zone, template, state)
        vm.visible = vm.has_address = True
        self._reads.place(vm, now)
        return vm

    def _add(
        self,
        now: float,
        label: str,
        cores: int,
        ram: int,
        zone: Zone,
        template: Template | None,
        state: str,
    ) -> CloudVM:
        settings = self.settings_for(label)
        number = len(self.vms) + len(self.gone) + 1
        vm = CloudVM(
            id=_uuid(self.scripts.random),
            number=number,
            label=label,
            cores=cores,
            ram=ram,
            zone=zone,
            template=template,
            settings=settings,
            created=f"{self.second(now)[0]:%Y-%m-%d %H:%M:%S}",
            address=str(settings.network[number % settings.network.num_addresses]),
            state=state,
            history=[Change(now, state, cores, ram)],
        )
        self.vms[vm.id] = vm
        return vm

    def operate(
        self, kind: Kind, vm_id: str, now: float, *, cores: int = 0, ram: int = 0, wait_for: int = 0
    ) -> None:
        """Accept an operation on a VM; raise `Refused` if it is not possible."""
        vm = self._writable(vm_id, now)
        number = len(self.operations)
        operation = CloudOperation(
            number, kind, vm_id, now, cores=cores, ram=ram, wait_for=wait_for
        )
        if kind == "delete":
            vm.deleting = True
            self.scripts.cancel(vm, now)
        self.scripts.start(vm, operation, now)

    def rename(self, vm_id: str, label: str, now: float) -> None:
        """Change a VM's label immediately."""
        self.scripts.change(self._writable(vm_id, now), now, label=label)

    def console(self, vm_id: str, now: float) -> dict[str, object]:
        """Open a console."""
        vm = self._writable(vm_id, now)
        return {
            "host": f"console.{vm.address}.nip.example",
            "port": self.scripts.random.randint(5900, 5999),
            "password": f"{self.scripts.random.getrandbits(48):012x}",
        }

    def _writable(self, vm_id: str, now: float) -> CloudVM:
        self._timeline.advance(now)
        vm = self.vms.get(vm_id)
        if vm is None or not (vm.visible or vm.settings.writes_before_visible):
            raise NotFound(self.settings_of(vm_id).not_found_form)
        if vm.deleting:
            raise Refused(409, "virtual machine is being deleted")
        return vm


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
