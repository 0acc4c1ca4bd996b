"""The operations on many VMs by name, for bulk calls and durable jobs."""

import abc
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from async_vmapi.bulk.item import Items, check_arguments
from async_vmapi.models.create import CreateRequest
from async_vmapi.writes.requests import VMOrId

__all__ = ["Operations"]

R = TypeVar("R")


class Operations(abc.ABC, Generic[R]):
    """Methods for operations on many VMs; each returns a report or a job."""

    @abc.abstractmethod
    async def run(self, items: Items[Any], start: Any, **keywords: Any) -> R:
        """Run an operation, given by its name, on many items."""

    async def create(
        self,
        requests: Items[CreateRequest],
        *,
        unique_name: bool = False,
        on_unknown: Literal["raise", "retry"] = "raise",
    ) -> R:
        """Create VMs; see `VirtualMachines.create`."""
        return await self.run(requests, "create", unique_name=unique_name, on_unknown=on_unknown)

    async def resize(self, vms: Items[VMOrId], *, cores: int, ram: int, wait_for: int = 4) -> R:
        """Resize VMs; `ram` in MB, `wait_for` in minutes. See `VirtualMachines.resize`."""
        return await self.run(vms, "resize", cores=cores, ram=ram, wait_for=wait_for)

    async def shutdown(self, vms: Items[VMOrId], *, wait_for: int = 4) -> R:
        """Shut down VMs; `wait_for` in minutes. See `VirtualMachines.shutdown`."""
        return await self.run(vms, "shutdown", wait_for=wait_for)

    async def reboot(self, vms: Items[VMOrId]) -> R:
        """Reboot VMs; see `VirtualMachines.reboot`."""
        return await self.run(vms, "reboot")

    async def reset(self, vms: Items[VMOrId]) -> R:
        """Reset VMs; see `VirtualMachines.reset`."""
        return await self.run(vms, "reset")

    async def power_on(self, vms: Items[VMOrId]) -> R:
        """Power on VMs; see `VirtualMachines.power_on`."""
        return await self.run(vms, "power_on")

    async def power_off(self, vms: Items[VMOrId]) -> R:
        """Power off VMs; see `VirtualMachines.power_off`."""
        return await self.run(vms, "power_off")

    async def delete(
        self, vms: Items[VMOrId], *, delete_resources: bool = False, missing_ok: bool = True
    ) -> R:
        """Delete VMs; see `VirtualMachines.delete`.

        A VM that does not exist counts as succeeded, unless `missing_ok` is False.
        """
        return await self.run(
            vms, "delete", delete_resources=delete_resources, missing_ok=missing_ok
        )

    async def rename(self, names: Mapping[str, str]) -> R:
        """Rename VMs, given new names by VM id; see `VirtualMachines.rename`."""
        check_arguments("rename", {"names": names})
        return await self.run(list(names), "rename", names=dict(names))
