"""`ProbePlan` and `Estimate`: what a probe will do, how long it takes, and what it costs."""

import math
from collections.abc import Iterable
from typing import Final

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.vm import VirtualMachine

__all__ = ["PREFIX", "Estimate", "ProbePlan", "is_probe", "price_of"]

PREFIX: Final = "vmapi-probe-"
"""The names of all VMs of probes start with it."""

_CLEANING: Final = 900.0
"""Seconds that deleting the VMs takes at most, after the time limit."""

_PER_VM, _PER_RENAME, _PER_ROUND = 150.0, 18.0, 560.0
"""Seconds that these take, about."""


@attrs.frozen(kw_only=True)
class ProbePlan:
    """What a probe does with its VMs, which it creates one after the other.

    Attributes:
        zone_id: The zone, by its id.
        template: The template to create the VMs from, by its id.
        cpus: Cores of a VM.
        ram: Its memory in MB.
        vms: Number of VMs: each is created and deleted, and the last one has all operations.
        rounds: How often each operation is measured.
        renames: How often the age of reads is measured, by a rename.
        interval: Seconds between two reads; they alternate between GET and list.
        patience: Seconds for which a VM must stay unchanged before it is concluded that nothing
            more will happen.
        time_limit: Seconds after which the probe ends, and deletes its VMs.
        price: Price of an hour of such a VM, if no VM of that size shows it.
        budget: Maximum cost, in the account's currency.
        seed: Makes it reproducible; None for chance.

    Raises:
        InvalidArgument: If a value is invalid.
    """

    zone_id: str
    template: str
    cpus: int = 1
    ram: int = 512
    vms: int = 2
    rounds: int = 3
    renames: int = 10
    interval: float = 0.5
    patience: float = 90.0
    time_limit: float = 6300.0
    price: float | None = None
    budget: float = 1.0
    seed: int | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("cpus", "ram", "vms", "rounds"):
            validation.whole(name, getattr(self, name), minimum=1)
        validation.whole("renames", self.renames, minimum=0)
        for name in ("interval", "patience", "time_limit"):
            validation.number(name, getattr(self, name), above=0.0, finite=True)
        for name in ("price", "budget"):
            if getattr(self, name) is not None:
                validation.number(name, getattr(self, name), least=0.0, finite=True)

    @property
    def duration(self) -> float:
        """How many seconds it takes, about."""
        seconds = self.vms * _PER_VM + self.renames * _PER_RENAME + self.rounds * _PER_ROUND
        return min(seconds, self.time_limit)

    def estimate(self, vms: Iterable[VirtualMachine]) -> "Estimate":
        """Return what it costs at most.

        Args:
            vms: The VMs that exist, whose price may be known.

        Raises:
            InvalidArgument: If the price is not known, or the cost is above the budget.
        """
        price = price_of(vms, self.cpus, self.ram)
        if price is None:
            price = self.price
        if price is None:
            raise InvalidArgument(
                f"price is not known: no VM of this region has {self.cpus} cores and {self.ram} "
                "MB; pass the price of an hour of such a VM",
                argument="price",
            )
        # Hours that have begun are charged; a VM is resized to twice its cores at most.
        hours = math.ceil((self.time_limit + _CLEANING) / 3600)
        found = Estimate(price=price, hours=hours, vms=self.vms, cost=2 * price * hours * self.vms)
        if found.cost > self.budget:
            raise InvalidArgument(
                f"budget={self.budget:g} is below the highest cost of {found.cost:g}",
                argument="budget",
            )
        return found


@attrs.frozen(kw_only=True)
class Estimate:
    """What a probe costs at most.

    Attributes:
        price: Price of an hour of one VM.
        hours: Hours for which each VM is charged at most.
        vms: Number of VMs.
        cost: The highest cost, in the account's currency.
    """

    price: float
    hours: int
    vms: int
    cost: float


def price_of(vms: Iterable[VirtualMachine], cpus: int, ram: int) -> float | None:
    """Return the highest price of VMs of a size; None if there is no such VM, or no price."""
    same = [vm.cost_per_hour for vm in vms if (vm.cores, vm.ram) == (cpus, ram)]
    return max((price for price in same if price > 0), default=None)


def is_probe(vm: VirtualMachine) -> bool:
    """Return whether a VM is one of a probe, by its name; the provider may change its case."""
    return (vm.label or "").strip().casefold().startswith(PREFIX)
