"""Select VMs by label, group, zone, state, or a file of ids. Pure."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final

import attrs

from async_vmapi.models.vm import Reference, VirtualMachine
from async_vmapi.tasks.rules import KNOWN_STATES

__all__ = ["Selection"]

_MOST_SHOWN: Final = 20


def _without_duplicates(ids: Iterable[str] | None) -> Collection[str] | None:
    return None if ids is None else dict.fromkeys(ids)


@attrs.frozen(kw_only=True)
class Selection:
    """Selects VMs that match all conditions given, each by any of its values.

    Attributes:
        labels: Label patterns like ``web-*``.
        groups: Names or ids of groups.
        zones: Names or ids of zones.
        states: States.
        ids: Ids of VMs; None for any.
    """

    labels: Sequence[str] = ()
    groups: Sequence[str] = ()
    zones: Sequence[str] = ()
    states: Sequence[str] = ()
    ids: Collection[str] | None = attrs.field(
        default=None,
        # In the order given, with fast lookup.
        converter=_without_duplicates,
    )

    @property
    def has_conditions(self) -> bool:
        """Whether there are conditions other than ids."""
        return any((self.labels, self.groups, self.zones, self.states))

    def matches(self, vm: VirtualMachine) -> bool:
        """Return whether a VM is selected."""
        return (
            (self.ids is None or vm.id in self.ids)
            and (not self.labels or any(fnmatchcase(vm.label or "", glob) for glob in self.labels))
            and (not self.groups or any(_is_named(group, self.groups) for group in vm.groups))
            and (not self.zones or _is_named(vm.zone, self.zones))
            and (not self.states or vm.state in self.states)
        )

    def unmatched(self, vms: Sequence[VirtualMachine]) -> list[str]:
        """Return what the VMs have, for each group, zone and unknown state that none has."""
        groups = [group for vm in vms for group in vm.groups]
        found: list[str] = []
        for kind, names, present in (
            ("group", self.groups, groups),
            ("zone", self.zones, [vm.zone for vm in vms]),
        ):
            known = sorted({reference.name for reference in present})
            accepted = {*known, *(reference.id for reference in present)}
            found += [_unmatched(kind, name, known) for name in names if name not in accepted]
        states = sorted({vm.state for vm in vms})
        unknown = set(self.states) - KNOWN_STATES - set(states)
        return found + [_unmatched("state", name, states) for name in sorted(unknown)]

    def of(self, vms: Sequence[VirtualMachine]) -> tuple[list[VirtualMachine], list[str]]:
        """Return the selected VMs, and the ids that are not among ``vms``.

        The VMs are in the order of the ids, if given, or sorted by label.
        """
        known = {vm.id: vm for vm in vms}
        if self.ids is not None:
            listed = (known[vm_id] for vm_id in self.ids if vm_id in known)
            selected = list(filter(self.matches, listed))
        else:
            selected = sorted(filter(self.matches, vms), key=lambda vm: (vm.label or "", vm.id))
        return selected, [vm_id for vm_id in self.ids or () if vm_id not in known]


def _is_named(reference: Reference, names: Sequence[str]) -> bool:
    return reference.id in names or reference.name in names


def _unmatched(kind: str, name: str, known: Sequence[str]) -> str:
    shown = [*known[:_MOST_SHOWN], *["..."] * (len(known) > _MOST_SHOWN)]
    return f"no VM has {kind} {name!r}; the VMs have: {', '.join(shown) or 'none'}"
