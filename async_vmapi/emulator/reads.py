"""Decide what reads return: current or stale data, too few VMs, or VMs that are deleted.

The VMs themselves are in `async_vmapi.emulator.cloud`. Reads have a separate random source, so that
they do not change what a seeded cloud does; only the lag of lists is drawn at the time of a change.
"""

import operator
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from async_vmapi.emulator.settings import ReplicaChoice, Span
from async_vmapi.emulator.timeline import Timeline
from async_vmapi.emulator.versions import Versions, ViewHistory
from async_vmapi.emulator.vm import CloudVM

__all__ = ["Reads"]

_GONE: Final = b""
_NUMBER: Final = operator.attrgetter("number")
_LIST_NUMBER: Final = operator.attrgetter("list_number")


class Reads:
    """The responses to GETs and lists.

    Args:
        timeline: The cloud's clock.
        draw: Draws a duration from the cloud's random source.
        encode: Returns a VM as JSON.
        seed: Random seed of the reads, to make them reproducible.

    Attributes:
        random: Random source of the reads.
        turn: How many reads went to replicas until now, minus one.
        published: How many VMs were shown in lists until now.
    """

    def __init__(
        self,
        timeline: Timeline,
        draw: Callable[[Span], float],
        encode: Callable[[CloudVM], bytes],
        *,
        seed: int | None,
    ) -> None:
        self._timeline = timeline
        self._draw = draw
        self._encode = encode
        self.random = random.Random(  # noqa: S311 - not for secrets
            None if seed is None else f"reads {seed}"
        )
        self.turn = -1
        self.published = 0
        # VMs in the list by id, in the order in which they appeared there, and the encoded list.
        self._listing: dict[str, CloudVM] = {}
        self._list_body: bytes | None = None
        # VMs whose reads may differ from their state, and the deleted ones of them, in the order of
        # deletion, until no stale read can show them.
        self._odd: dict[str, CloudVM] = {}
        self._ghosts: dict[str, CloudVM] = {}

    def reseed(self, seed: int | None) -> None:
        """Restart the random source."""
        self.random.seed(None if seed is None else f"reads {seed}")

    # --- reads ---------------------------------------------------------------------------------

    def get(self, vm_id: str, vm: CloudVM | None, now: float) -> bytes | None:
        """Return a VM's JSON, or None if it is shown as absent.

        Args:
            vm_id: The requested id.
            vm: The VM, if it exists.
            now: The time; the timeline has been advanced to it.
        """
        if self._odd and (odd := self._odd.get(vm_id)) is not None:
            self.turn += 1
            settings = odd.settings
            sticky = zlib.crc32(vm_id.encode())
            behind = self._behind(settings.replicas, settings.replica_choice, sticky)
            return self._seen(odd, now - behind, now, by_list=False)
        if vm is None or not vm.visible:
            return None
        return vm.shown or self._shown(vm)

    def list(self, now: float) -> bytes:
        """Return the JSON array of all VMs that are shown."""
        if self._odd:
            return self._odd_list(now)
        if self._list_body is None:
            # Most are encoded already, and a call of `_listed` takes longer than all the rest.
            shown = [vm.listed or self._listed(vm) for vm in self._listing.values()]
            self._list_body = b"[" + b",".join(shown) + b"]"
        return self._list_body

    def _odd_list(self, now: float) -> bytes:
        self._forget(now)
        self.turn += 1
        # The whole list comes from one replica.
        lags: dict[tuple[tuple[float, ...], ReplicaChoice], float] = {}
        shown: list[bytes] = []
        repeated: list[bytes] = []
        others = [vm for vm in self._odd.values() if not vm.list_number]
        # Random numbers are drawn in this order, so it depends on nothing but the VMs.
        others.sort(key=_NUMBER)
        for vm in (*self._listing.values(), *others):
            if vm.id not in self._odd:
                shown.append(self._listed(vm))
                continue
            settings = vm.settings
            key = settings.replicas, settings.replica_choice
            behind = lags.get(key)
            if behind is None:
                behind = lags[key] = self._behind(*key, -1)
            content = self._seen(vm, now - behind, now, by_list=True)
            if content is not None:
                shown.append(content)
                if settings.repeat_ids and self.random.random() < settings.repeat_ids:
                    repeated.append(content)
        return b"[" + b",".join(shown + repeated) + b"]"

    def _behind(self, replicas: tuple[float, ...], choice: ReplicaChoice, sticky: int) -> float:
        """Return how many seconds the replica of a read is behind."""
        if not replicas:
            return 0.0
        match choice:
            case "random":
                return self.random.choice(replicas)
            case "in_turn":
                return replicas[self.turn % len(replicas)]
            case "sticky":
                return replicas[sticky % len(replicas)]

    def _seen(self, vm: CloudVM, moment: float, now: float, *, by_list: bool) -> bytes | None:
        """Return what a read shows of a VM on a replica with the state of `moment`."""
        settings = vm.settings
        if settings.absence and self.random.random() < settings.absence:
            return None
        if vm.views is None:
            if vm.list_number > 0 if by_list else vm.visible:
                return self._listed(vm) if by_list else self._shown(vm)
            return None
        if settings.staleness[1] > 0:
            moment -= self.random.uniform(*settings.staleness)
        vm.views.prune(now - settings.max_staleness)
        return (vm.views.list if by_list else vm.views.get).at(moment)

    # --- changes of VMs ------------------------------------------------------------------------

    def configure(self, vm: CloudVM) -> None:
        """Apply the settings of a VM that is new, or whose settings have changed."""
        settings = vm.settings
        if vm.is_gone and vm.id not in self._ghosts:
            return
        if not settings.has_stale_reads:
            vm.views = None
        elif vm.views is None:
            vm.views = ViewHistory(
                Versions(self._shown(vm) if vm.visible else None),
                Versions(self._listed(vm) if vm.list_number > 0 else None),
            )
        if vm.is_gone and vm.views is None:
            del self._ghosts[vm.id]
        if settings.has_odd_reads and (not vm.is_gone or vm.id in self._ghosts):
            self._odd[vm.id] = vm
        else:
            self._odd.pop(vm.id, None)

    def load(self, vms: Iterable[CloudVM]) -> None:
        """Show saved VMs as they were shown; the deleted ones are in the order of deletion."""
        vms = list(vms)
        for vm in sorted(vms, key=_LIST_NUMBER):
            if vm.list_number:
                self._listing[vm.id] = vm
        for vm in vms:
            if vm.is_gone and vm.views is not None:
                self._ghosts[vm.id] = vm
            if vm.settings.has_odd_reads and (not vm.is_gone or vm.id in self._ghosts):
                self._odd[vm.id] = vm

    def lagging(self, vm: CloudVM) -> bytes | None:
        """Return what lists show of a VM, if it is not what GETs show."""
        return None if vm.listed is None or vm.listed == self._shown(vm) else vm.listed

    def keep(self, vm: CloudVM, at: float) -> None:
        """Encode the current state of a VM before a change at `at`, for lists that lag."""
        # An earlier change that is not in lists yet delays this one, too.
        lags = vm.settings.list_lag[1] > 0 or vm.listed_until >= at
        if lags and vm.list_number > 0:
            self._listed(vm)

    def show(self, vm: CloudVM, at: float) -> None:
        """Show the current state of a VM from `at` on."""
        vm.shown = None
        if not vm.visible:
            return
        if vm.views is not None:
            vm.views.prune(at - vm.settings.max_staleness)
            vm.views.get.add(at, self._shown(vm))
        self._list_later(vm, at, None)

    def place(self, vm: CloudVM, at: float) -> None:
        """Show a VM that was added without a create."""
        self.publish(vm, None, at)
        self.configure(vm)

    def hide(self, vm: CloudVM, at: float) -> None:
        """Show a deleted VM as absent from `at` on."""
        if vm.views is not None:
            vm.views.get.add(at, None)
            self._ghosts[vm.id] = vm
        else:
            self._odd.pop(vm.id, None)
        self._list_later(vm, at, _GONE)
        self._forget(at)

    def _forget(self, now: float) -> None:
        """Forget deleted VMs that no stale read can show any more."""
        while self._ghosts:
            vm = next(iter(self._ghosts.values()))
            if vm.views is not None:
                last = max(vm.views.get.since, vm.views.list.since)
                if vm.list_number > 0 or now - last <= vm.settings.max_staleness:
                    return
            vm.views = None
            del self._ghosts[vm.id], self._odd[vm.id]

    def _shown(self, vm: CloudVM) -> bytes:
        if vm.shown is None:
            vm.shown = self._encode(vm)
        return vm.shown

    def _listed(self, vm: CloudVM) -> bytes:
        if vm.listed is None:
            vm.listed = self._shown(vm)
        return vm.listed

    def _list_later(self, vm: CloudVM, at: float, content: bytes | None) -> None:
        due = max(vm.listed_until, at + self._draw(vm.settings.list_lag))
        # Changes that are due at this same moment must be published first.
        if vm.listed_until < at == due:
            self.publish(vm, content, at)
        else:
            vm.listed_until = due
            content = self._shown(vm) if content is None else content
            self._timeline.at(due, vm, "publish", content)

    def publish(self, vm: CloudVM, content: bytes | None, at: float) -> None:
        """Show a content of a VM in lists: the current one if it is None, none if it is empty."""
        self._list_body = None
        if content == _GONE:
            self._listing.pop(vm.id, None)
            vm.shown = vm.listed = None
            vm.list_number = 0
        else:
            vm.listed = content
            if not vm.list_number:
                self.published += 1
                vm.list_number = self.published
                self._listing[vm.id] = vm
        if vm.views is not None:
            vm.views.list.add(at, None if content == _GONE else self._listed(vm))
