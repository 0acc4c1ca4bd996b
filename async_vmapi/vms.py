"""The calls about machines: one method for each (WIRE §2).

A method checks its arguments, makes the call and returns. What takes time returns a `Task`; the
waiting is the task's. Every method raises what `Transport.call` raises: `APIError` and its kinds,
`TransportError`, `DecodingError`; and `InvalidArgument` before anything is sent.
"""

from typing import Any, Final, TypeAlias, overload

import attrs

from async_vmapi import arguments, codec, tasks
from async_vmapi.completion import Target
from async_vmapi.errors import InvalidArgument
from async_vmapi.hub import PollHub
from async_vmapi.models import (
    CdromBoot,
    Console,
    CreateRequest,
    ImageBoot,
    Operation,
    VirtualMachine,
)
from async_vmapi.tasks import Task
from async_vmapi.transport import Call, Transport

__all__ = ["VMOrId", "VirtualMachines"]

VMOrId: TypeAlias = VirtualMachine | str
"""A machine, or its id."""

_PATH: Final = "/v2/virtual-machines"


class VirtualMachines:
    """The machines of one region, as ``client.vms``."""

    def __init__(self, transport: Transport, hub: PollHub) -> None:
        self._transport = transport
        self._hub = hub

    @overload
    async def create(self, request: CreateRequest, /) -> Task[VirtualMachine]: ...

    # The None is for mypy, which else finds that the implementation does not fit.
    @overload
    async def create(
        self,
        request: None = None,
        /,
        *,
        name: str,
        cpus: int,
        ram: int,
        zone_id: str,
        boot: ImageBoot | CdromBoot,
    ) -> Task[VirtualMachine]: ...

    async def create(
        self, request: CreateRequest | None = None, /, **keywords: Any
    ) -> Task[VirtualMachine]:
        """Create a machine. The task ends when it is online.

        Its address can come later than that (WIRE §4).

        Args:
            request: All of it in one value.
            keywords: Or the fields of a `CreateRequest`, each by its name.
        """
        request = _request(request, keywords)
        boot = request.boot
        secrets = (boot.password, boot.user_data) if isinstance(boot, ImageBoot) else ()
        vm_id = await self._transport.call(
            Call(
                "create",
                "PUT",
                _PATH,
                codec.encode_create(request),
                tuple(secret for secret in secrets if secret is not None),
            ),
            codec.CREATED,
        )
        return tasks.start(self._hub, self._transport.origin, vm_id, Target("create"))

    async def list(self) -> list[VirtualMachine]:
        """Return all machines of the region. The API knows no filter and no pages (WIRE §1)."""
        return await self._transport.call(Call("list", "GET", _PATH), codec.VMS)

    async def get(self, vm: VMOrId) -> VirtualMachine:
        """Return one machine as it is now.

        Raises:
            NotFound: If there is none; just after a create, perhaps not yet (WIRE §5.3).
        """
        return await self._transport.call(Call("get", "GET", _path_of(vm)), codec.VM)

    async def resize(
        self, vm: VMOrId, *, cores: int, ram: int, wait_for: int = 4
    ) -> Task[VirtualMachine]:
        """Give a machine other cores and memory. A running one is shut down for it.

        The task ends when the machine shows the new size in a state that lasts: whether the API
        starts it again is not known (WIRE §4), so look at ``state`` of what the task returns.

        Args:
            vm: The machine or its id.
            cores: Number of CPUs, at least 1.
            ram: Memory in MB, at least 1.
            wait_for: Minutes that the guest gets to shut down before it is turned off.
        """
        body = {
            "cores": arguments.whole("cores", cores, minimum=1),
            "ram": arguments.whole("ram", ram, minimum=1),
            "wait_for": arguments.whole("wait_for", wait_for, minimum=0),
        }
        target = Target("resize", cores=cores, ram=ram, wait_for=wait_for)
        return await self._start(vm, target, codec.encode(body))

    async def shutdown(self, vm: VMOrId, *, wait_for: int = 4) -> Task[VirtualMachine]:
        """Ask the guest to shut down, and turn the machine off if it does not.

        The task ends when the machine is offline.

        Args:
            vm: The machine or its id.
            wait_for: Minutes that the guest gets before the machine is turned off.
        """
        body = codec.encode({"wait_for": arguments.whole("wait_for", wait_for, minimum=0)})
        return await self._start(vm, Target("shutdown", wait_for=wait_for), body)

    async def reboot(self, vm: VMOrId) -> Task[VirtualMachine]:
        """Ask the guest to reboot. A guest that ignores ACPI may never do so (WIRE §4).

        Whether a reboot shows is not known. The task ends when the machine has left ``online``
        and come back; or, if it never was seen to leave, after 60 seconds, and then its
        `Task.evidence` is ``assumed``.
        """
        return await self._start(vm, Target("reboot"))

    async def reset(self, vm: VMOrId) -> Task[VirtualMachine]:
        """Turn a machine off and on again, hard. The task ends as that of `reboot` does."""
        return await self._start(vm, Target("reset"))

    async def power_on(self, vm: VMOrId) -> Task[VirtualMachine]:
        """Start a machine. The task ends when it is online.

        The call is not in the provider's documentation; other clients were seen to use it.
        """
        return await self._start(vm, Target("power_on"))

    async def power_off(self, vm: VMOrId) -> Task[VirtualMachine]:
        """Turn a machine off, hard. The task ends when it is offline.

        The call is not in the provider's documentation; other clients were seen to use it.
        """
        return await self._start(vm, Target("power_off"))

    async def console(self, vm: VMOrId) -> Console:
        """Open a machine's console and return where it answers."""
        return await self._transport.call(
            Call("console", "POST", f"{_path_of(vm)}/console"), codec.CONSOLE
        )

    async def rename(self, vm: VMOrId, name: str) -> None:
        """Give a machine another label."""
        body = codec.encode({"name": arguments.text("name", name)})
        await self._transport.call(
            Call("rename", "POST", f"{_path_of(vm)}/rename", body), codec.ACCEPTED
        )

    async def delete(self, vm: VMOrId, *, delete_resources: bool = False) -> Task[None]:
        """Delete a machine. The task ends when it is gone.

        Args:
            vm: The machine or its id.
            delete_resources: Whether to delete its additional resources too. By default they
                are detached and stay, and go on costing.
        """
        flag = int(arguments.boolean("delete_resources", delete_resources))
        path = _path_of(vm)
        await self._transport.call(
            Call("delete", "DELETE", path, codec.encode({"deleteResources": flag})),
            codec.ACCEPTED,
        )
        return tasks.start_delete(self._hub, self._transport.origin, _id_of(vm))

    async def _start(self, vm: VMOrId, target: Target, body: bytes = b"") -> Task[VirtualMachine]:
        operation = target.operation
        path = f"{_path_of(vm)}/{_VERBS.get(operation, operation)}"
        await self._transport.call(Call(operation, "POST", path, body), codec.ACCEPTED)
        return tasks.start(self._hub, self._transport.origin, _id_of(vm), target)


_VERBS: Final[dict[Operation, str]] = {"power_on": "poweron", "power_off": "poweroff"}


def _id_of(vm: VMOrId) -> str:
    return arguments.identifier("vm", vm.id if isinstance(vm, VirtualMachine) else vm)


def _path_of(vm: VMOrId) -> str:
    return f"{_PATH}/{_id_of(vm)}"


def _request(request: object, keywords: dict[str, Any]) -> CreateRequest:
    if request is None:
        missing = [f.name for f in attrs.fields(CreateRequest) if f.name not in keywords]
        if missing:
            raise InvalidArgument(
                f"create needs {', '.join(missing)}, or a CreateRequest", argument=missing[0]
            )
        return CreateRequest(**keywords)
    if not isinstance(request, CreateRequest):
        raise InvalidArgument(
            f"request of type {type(request).__name__} is not a CreateRequest", argument="request"
        )
    if keywords:
        raise InvalidArgument(
            "create takes a CreateRequest or keywords, not both", argument="request"
        )
    return request
