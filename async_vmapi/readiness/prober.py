"""`Prober`: probes VMs until they are ready, a bounded number at once."""

import asyncio
from contextlib import nullcontext
from typing import Final, Protocol

from async_vmapi.errors import DecodingError
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Probe

__all__ = ["MOST_AT_ONCE", "Probed", "Prober"]

MOST_AT_ONCE: Final = 100
"""Maximum number of probes in progress."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 10.0
_GROWTH: Final = 1.5


class Probed(Protocol):
    """A VM on the way to readiness."""

    @property
    def next_probe(self) -> Probe | None:
        """The condition to probe next; None if there is nothing to probe now."""
        ...

    @property
    def probed_vm(self) -> VirtualMachine:
        """The VM as last seen."""
        ...

    def condition_met(self) -> None:
        """Note that the next condition is met."""
        ...

    def condition_unmet(self, reason: str) -> None:
        """Note why the next condition is not met."""
        ...


class Prober:
    """Probes the VMs of one client on one event loop."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        # Hosts that do not respond hold a slot for long; half of the slots are for others.
        self._slow = asyncio.Semaphore(MOST_AT_ONCE // 2)

    async def run(self, vm: Probed, *, once: bool = False) -> None:
        """Probe a VM until there is nothing to probe; with `once`, until a probe fails."""
        pause, slow = _FIRST_PAUSE, False
        while (condition := vm.next_probe) is not None:
            reason, slow = await self._probe(condition, vm, slow=slow)
            if reason is None:
                # Meanwhile, a poll may have shown that the VM is offline.
                if vm.next_probe is condition:
                    vm.condition_met()
                pause = _FIRST_PAUSE
                continue
            vm.condition_unmet(reason)
            if once:
                return
            await asyncio.sleep(pause)
            pause = min(_GROWTH * pause, _LONGEST_PAUSE)

    async def _probe(self, condition: Probe, vm: Probed, *, slow: bool) -> tuple[str | None, bool]:
        """Return the result of a probe, and whether it took long."""
        # Loads aiohttp, which the help of a command does not need.
        from async_vmapi.readiness.probes import probe

        clock = asyncio.get_running_loop().time
        async with self._slow if slow else nullcontext(), self._slots:
            began = clock()
            try:
                seen = vm.probed_vm
            except DecodingError as error:
                return str(error), False
            reason = await probe(condition, seen)
            return reason, clock() - began > condition.timeout / 2
