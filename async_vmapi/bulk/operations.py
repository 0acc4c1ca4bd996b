"""The operations on many machines by name, for all that takes them: one line each."""

import abc
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from async_vmapi.bulk.item import Items, check_arguments
from async_vmapi.models import CreateRequest
from async_vmapi.writes.requests import VMOrId

__all__ = ["Operations"]

R = TypeVar("R")


class Operations(abc.ABC, Generic[R]):
    """Takes operations on many machines, and returns what tells of them."""

    @abc.abstractmethod
    async def run(self, items: Items[Any], start: Any, **keywords: Any) -> R:
        """Do an operation, given by its name, to many items."""

    async def create(
        self,
        requests: Items[CreateRequest],
        *,
        unique_name: bool = False,
        on_unknown: Literal["raise", "retry"] = "raise",
    ) -> R:
        """Create machines; see `VirtualMachines.create`."""
        return await self.run(requests, "create", unique_name=unique_name, on_unknown=on_unknown)

    async def resize(self, vms: Items[VMOrId], *, cores: int, ram: int, wait_for: int = 4) -> R:
        """Resize machines; `ram` in MB, `wait_for` in minutes. See `VirtualMachines.resize`."""
        return await self.run(vms, "resize", cores=cores, ram=ram, wait_for=wait_for)

    async def shutdown(self, vms: Items[VMOrId], *, wait_for: int = 4) -> R:
        """Shut machines down; `wait_for` in minutes. See `VirtualMachines.shutdown`."""
        return await self.run(vms, "shutdown", wait_for=wait_for)

    async def reboot(self, vms: Items[VMOrId]) -> R:
        """Reboot machines; see `VirtualMachines.reboot`."""
        return await self.run(vms, "reboot")

    async def reset(self, vms: Items[VMOrId]) -> R:
        """Reset machines; see `VirtualMachines.reset`."""
        return await self.run(vms, "reset")

    async def power_on(self, vms: Items[VMOrId]) -> R:
        """Start machines; see `VirtualMachines.power_on`."""
        return await self.run(vms, "power_on")

    async def power_off(self, vms: Items[VMOrId]) -> R:
        """Turn machines off; see `VirtualMachines.power_off`."""
        return await self.run(vms, "power_off")

    async def delete(
        self, vms: Items[VMOrId], *, delete_resources: bool = False, missing_ok: bool = True
    ) -> R:
        """Delete machines; see `VirtualMachines.delete`.

        One that is gone already has succeeded, unless `missing_ok` is False.
        """
        return await self.run(
            vms, "delete", delete_resources=delete_resources, missing_ok=missing_ok
        )

    async def rename(self, names: Mapping[str, str]) -> R:
        """Give machines other labels, by their ids; see `VirtualMachines.rename`."""
        check_arguments("rename", {"names": names})
        return await self.run(list(names), "rename", names=dict(names))
