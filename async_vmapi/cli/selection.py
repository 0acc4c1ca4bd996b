"""Which machines a command is about: by label, group, zone, state, or a file of ids. Pure."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import attrs

from async_vmapi.models import Reference, VirtualMachine

__all__ = ["Selection"]


def _each_once(ids: Iterable[str] | None) -> Collection[str] | None:
    return None if ids is None else dict.fromkeys(ids)


@attrs.frozen(kw_only=True)
class Selection:
    """Which machines are meant: those that fit each kind given, by any of its values.

    Attributes:
        labels: Patterns like ``web-*`` of labels.
        groups: Names or ids of groups.
        zones: Names or ids of zones.
        states: Words of states.
        ids: Ids of machines; None for no such limit.
    """

    labels: Sequence[str] = ()
    groups: Sequence[str] = ()
    zones: Sequence[str] = ()
    states: Sequence[str] = ()
    ids: Collection[str] | None = attrs.field(
        default=None,
        # Each is there once, in the order given, and is found at once among thousands.
        converter=_each_once,
    )

    @property
    def has_conditions(self) -> bool:
        """Whether it takes a look at a machine to tell whether it is meant."""
        return any((self.labels, self.groups, self.zones, self.states))

    def matches(self, vm: VirtualMachine) -> bool:
        """Return whether a machine is meant."""
        return (
            (self.ids is None or vm.id in self.ids)
            and (not self.labels or any(fnmatchcase(vm.label or "", glob) for glob in self.labels))
            and (not self.groups or any(_is_named(group, self.groups) for group in vm.groups))
            and (not self.zones or _is_named(vm.zone, self.zones))
            and (not self.states or vm.state in self.states)
        )

    def of(self, machines: Sequence[VirtualMachine]) -> tuple[list[VirtualMachine], list[str]]:
        """Return the machines that are meant, and the ids that are not among them.

        They are in the order of the ids, if any are given, and else sorted by label.
        """
        known = {vm.id: vm for vm in machines}
        if self.ids is not None:
            listed = (known[vm_id] for vm_id in self.ids if vm_id in known)
            meant = list(filter(self.matches, listed))
        else:
            meant = sorted(filter(self.matches, machines), key=lambda vm: (vm.label or "", vm.id))
        return meant, [vm_id for vm_id in self.ids or () if vm_id not in known]


def _is_named(reference: Reference, names: Sequence[str]) -> bool:
    return reference.id in names or reference.name in names
