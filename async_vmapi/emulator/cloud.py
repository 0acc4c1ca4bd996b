"""The cloud's VMs and operations: a state machine on a clock.

Every method takes `now`, seconds on any monotonic clock. Operations are scripts
(`async_vmapi.emulator.scripts`); those of a VM are queued (WIRE §4), except that a delete cancels
the others. `async_vmapi.emulator.reads` decides what reads show.
"""

import fnmatch
import math
import random
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from async_vmapi.emulator.catalogue import GROUPS, Group, Template, Zone
from async_vmapi.emulator.scripts import Scripts
from async_vmapi.emulator.settings import Settings
from async_vmapi.emulator.vm import (
    Change,
    CloudOperation,
    CloudVM,
    Kind,
    NotFound,
    Refused,
    encode,
)

__all__ = ["Cloud"]

_SHOWS_IN_JSON: Final = frozenset({"sparse", "names"})
_WILD: Final = frozenset("*?[")


class Cloud:
    """VMs on a clock.

    Args:
        settings: Its behaviour, unless `adjust` changes it for some VMs.
        seed: Random seed, to make it reproducible.
        epoch: The date at which the clock starts, to the second, for dates in responses; UTC if it
            has no time zone. The current date by default.
        encode: Returns a VM as JSON (WIRE §3), for responses.

    Attributes:
        seed: As above.
        epoch: As above.
        adjusted: The patterns and changes of `adjust`.
        scripts: Runs the operations.
        vms: The existing VMs by id.
        gone: The deleted VMs by id.
        operations: All operations ever accepted.
        groups: The groups of the account.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        seed: int | None = None,
        epoch: datetime | None = None,
        encode: Callable[[CloudVM], bytes] = encode,
    ) -> None:
        self.settings = settings or Settings()
        self.seed = seed
        self.scripts = Scripts(seed, encode)
        self._timeline = self.scripts.timeline
        self._reads = self.scripts.reads
        self.vms = self.scripts.vms
        self.gone = self.scripts.gone
        self.operations = self.scripts.operations
        epoch = (epoch or datetime.now(UTC)).replace(microsecond=0)
        self.epoch = epoch if epoch.tzinfo is not None else epoch.replace(tzinfo=UTC)
        self.adjusted: list[tuple[str, Mapping[str, object]]] = []
        self.groups = list(GROUPS)

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
        adjusted: list[tuple[str, Mapping[str, object]]] = []
        for other, fields in self.adjusted:
            # Those that the new ones replace would have no effect.
            kept = {n: v for n, v in fields.items() if other != pattern or n not in changes}
            adjusted += [(other, kept)] if kept else []
        self.adjusted = [*adjusted, (pattern, changes)]
        for vm in (*self.vms.values(), *self.gone.values()):
            if _matches(pattern, vm.id, vm.label):
                self._set(vm, vm.settings.changed(**changes))

    def configure(self, **changes: object) -> None:
        """Change the settings of the cloud, for all VMs; those that were adjusted stay so.

        Args:
            changes: Fields of `Settings`; operations that have started keep their durations.

        Raises:
            TypeError: If there is no such field, or a value has the wrong type.
            ValueError: If a value is invalid.
        """
        self.settings = self.settings.changed(**changes)
        self._set_all()

    def readjust(self, pattern: str | None = None) -> None:
        """Undo `adjust` for a pattern, or for all of them."""
        self.adjusted = [a for a in self.adjusted if pattern not in {None, a[0]}]
        self._set_all()

    def _set_all(self) -> None:
        for vm in (*self.vms.values(), *self.gone.values()):
            self._set(vm, self.settings_for(vm.id, vm.label))

    def _set(self, vm: CloudVM, settings: Settings) -> None:
        self._timeline.record(vm)
        self._reads.keep(vm, self.now)
        before, vm.settings = vm.settings, settings
        self._reads.configure(vm)
        if any(getattr(before, name) != getattr(settings, name) for name in _SHOWS_IN_JSON):
            self._reads.show(vm, self.now)

    def reseed(self, seed: int | None) -> None:
        """Restart the random sources from a seed; None for a random one."""
        self.seed = seed
        self.scripts.random.seed(seed)
        self._reads.reseed(seed)

    @property
    def observer(self) -> Callable[[CloudVM, float], None] | None:
        """Called with each VM that changes, and the time of the change in seconds."""
        return self.scripts.observer

    @observer.setter
    def observer(self, observer: Callable[[CloudVM, float], None] | None) -> None:
        self.scripts.observer = observer

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

    def date(self, at: float) -> datetime:
        """Return the date at a time of the clock, in seconds.

        Raises:
            OverflowError: If it is after the year 9999.
        """
        return self.epoch + timedelta(seconds=at - (self._timeline.began or 0.0))

    def time(self, date: datetime) -> float:
        """Return the time of the clock at a date that has a time zone, in seconds."""
        return (self._timeline.began or 0.0) + (date - self.epoch).total_seconds()

    @property
    def next(self) -> float | None:
        """When the next thing happens, in seconds; None if nothing is due."""
        return self._timeline.next

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

    def settings_for(self, *names: str) -> Settings:
        """Return the settings for a new VM of a given name, or of an id and a name."""
        settings = self.settings
        for pattern, changes in self.adjusted:
            if _matches(pattern, *names):
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
        self.scripts.report(vm, now)
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
        self._timeline.record(vm)
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

    def set_state(self, vm_id: str, state: str, now: float) -> None:
        """Change a VM's state immediately, without an operation, to any text.

        Raises:
            KeyError: If there is no such VM.
        """
        self._timeline.advance(now)
        self.scripts.change(self.vms[vm_id], now, state=state)

    def set_group(self, name: str, vm_ids: Iterable[str], now: float) -> None:
        """Make a group of the account, or replace its VMs.

        Raises:
            KeyError: If there is no such VM.
        """
        self._timeline.advance(now)
        members = {vm_id: self.vms[vm_id] for vm_id in vm_ids}
        group = next((group for group in self.groups if group["name"] == name), None)
        if group is None:
            number = max((int(group["id"]) for group in self.groups), default=0) + 1
            group = Group(id=str(number), name=name)
            self.groups.append(group)
        for vm in self.vms.values():
            if (group in vm.groups) is not (vm.id in members):
                others = tuple(other for other in vm.groups if other != group)
                groups = (*others, group) if vm.id in members else others
                self.scripts.change(vm, now, groups=groups)

    def remove_group(self, name: str, now: float) -> None:
        """Remove a group of the account; its VMs stay.

        Raises:
            KeyError: If there is no such group.
        """
        if all(group["name"] != name for group in self.groups):
            raise KeyError(name)
        self.set_group(name, (), now)
        self.groups = [group for group in self.groups if group["name"] != name]

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


def _matches(pattern: str, *names: str) -> bool:
    """Return whether one of the names is matched by a pattern, or is the same."""
    if _WILD.isdisjoint(pattern):
        return pattern in names
    return any(pattern == name or fnmatch.fnmatchcase(name, pattern) for name in names)


def _uuid(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))
