"""Failure domains of a bulk call's items, and what applies within each. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from async_vmapi.bulk.online import OnlineVMs
from async_vmapi.bulk.plan import Share, SpreadBy, count_of
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.vm import VirtualMachine

__all__ = ["Domains", "Member", "domains_of"]

_NO_GROUP: Final = "no group"
_NOT_LISTED: Final = "not listed"


@attrs.frozen
class Member:
    """An item, as far as failure domains are concerned.

    Attributes:
        index: The item's number, from 0.
        vm_id: The VM's id, or the name of a VM to create.
        source: The item as given, if known.
        domain: Its domain as reported by an earlier call.
    """

    index: int
    vm_id: str
    source: Any = None
    domain: str = ""

    @property
    def has_domain(self) -> bool:
        """Whether its domain is known without a list."""
        return isinstance(self.source, VirtualMachine | CreateRequest)


def domains_of(
    spread_by: SpreadBy, members: Iterable[Member], listed: Mapping[str, VirtualMachine]
) -> dict[int, str]:
    """Return the name of each item's failure domain, by the item's number.

    Names are unique: if two zones have the same name, their ids are added. VMs in no list keep the
    domain that an earlier call reported, or form one of their own.

    Args:
        spread_by: What a failure domain is.
        members: The items.
        listed: The VMs by id, as listed.
    """
    members = list(members)
    found: dict[int, tuple[str, str]] = {}
    for member in members:
        of = member.source if member.has_domain else listed.get(member.vm_id)
        if of is not None:
            found[member.index] = _id_and_name(spread_by, of)
    names: dict[str, str] = {}
    for key, name in found.values():
        names.setdefault(key, name)
    uses = Counter(names.values())

    def name_of(member: Member) -> str:
        if member.index not in found:
            return member.domain or _NOT_LISTED
        key, _ = found[member.index]
        name = names[key]
        return name if uses[name] == 1 else f"{name} ({key})"

    return {member.index: name_of(member) for member in members}


def _id_and_name(spread_by: SpreadBy, of: VirtualMachine | CreateRequest) -> tuple[str, str]:
    if isinstance(of, CreateRequest):
        return of.zone_id, of.zone_id
    if spread_by == "zone":
        return of.zone.id, of.zone.name or of.zone.id
    ids = ", ".join(sorted({group.id for group in of.groups}))
    return ids, ", ".join(sorted({group.name for group in of.groups})) or ids or _NO_GROUP


class Domains:
    """The failure domains of a call's items; without ``spread_by``, one without a name.

    Args:
        total: The number of items; None if unknown.
        names: The name of each item's domain, by the item's number.
    """

    def __init__(self, total: int | None, names: Mapping[int, str] | None = None) -> None:
        self._names = names or {}
        self._totals: Mapping[str, int | None] = (
            Counter(self._names.values()) if names else {"": total}
        )
        self._online: dict[str, OnlineVMs] = {}

    def name_of(self, index: int) -> str:
        """Return the name of an item's domain."""
        return self._names.get(index, "")

    def total_of(self, name: str) -> int | None:
        """Return the number of items of a domain, including those of an earlier call."""
        return self._totals.get(name, 0)

    def in_order(self) -> list[int]:
        """Return the items' numbers, one domain after the other, in the order of their firsts."""
        places = {name: place for place, name in enumerate(self._totals)}
        return sorted(self._names, key=lambda index: places[self._names[index]])

    def keep_online(self, online: set[str], vm_ids: Mapping[int, str], minimum: Share) -> None:
        """Keep a minimum of VMs online in each domain.

        Args:
            online: The VMs that are online.
            vm_ids: All VMs given, by their item's number.
            minimum: The minimum of each domain.
        """
        members: defaultdict[str, set[str]] = defaultdict(set)
        for index, vm_id in vm_ids.items():
            members[self.name_of(index)].add(vm_id)
        for name, ids in members.items():
            self._online[name] = OnlineVMs(online & ids, count_of(minimum, len(ids), up=True))

    def minimum_of(self, name: str) -> int:
        """Return how many VMs of a domain must stay online."""
        return self._online[name].minimum if name in self._online else 0

    def may_go_down(self, name: str, vm_id: str | None) -> bool:
        """Return whether an operation may take a VM of a domain offline."""
        return name not in self._online or self._online[name].may_go_down(vm_id)

    def take_offline(self, name: str, vm_id: str | None) -> bool:
        """Count a VM of a domain as offline; return whether it was counted as online."""
        return name in self._online and self._online[name].take(vm_id)

    def take_online(self, name: str, vm_id: str | None) -> None:
        """Count a VM of a domain as online."""
        if name in self._online and vm_id is not None:
            self._online[name].add(vm_id)
