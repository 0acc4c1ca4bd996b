"""The calls about machines: one method for each (WIRE §2).

A method checks its arguments, makes the call and returns. What takes time returns a `Task`; the
waiting is the task's. Every method raises `APIError` and its kinds, `TransportError` and
`DecodingError`; and `InvalidArgument` before anything is sent.

What reads, and what names the end that it wants, is repeated where the wire failed; so an error
of those means that the call failed several times, and it is safe to make it again. `create`,
`reboot` and `reset` are never sent again on doubt; they raise `OutcomeUnknown`.

A method that changes something, once it is sent, is not torn off the wire by cancellation: it
waits, ``cancel_grace`` seconds at most, for its outcome. What its caller cannot be told is kept in
``client.unresolved``.
"""

from functools import partial
from typing import Any, Final, Literal, overload

import anyio.lowlevel

from async_vmapi import validation
from async_vmapi.errors import DecodingError, InvalidArgument
from async_vmapi.models import (
    CdromBoot,
    Console,
    CreateRequest,
    ImageBoot,
    Operation,
    VirtualMachine,
)
from async_vmapi.tasks import task as tasks
from async_vmapi.tasks.hub import PollHub
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.token import DoubtToken, seal
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.retries import Repeat
from async_vmapi.writes.requests import PATH, VMOrId, id_of, path_of, request_of
from async_vmapi.writes.writes import Writes

__all__ = ["VMOrId", "VirtualMachines"]

_LIST: Final = Call("list", "GET", PATH)

_AT_A_STRETCH: Final = 250
"""Machines read before others get their turn on the event loop; each takes some 15 µs."""


class VirtualMachines:
    """The machines of one region, as ``client.vms``."""

    def __init__(self, pipeline: Pipeline, hub: PollHub, writes: Writes) -> None:
        self._pipeline = pipeline
        self._hub = hub
        self._writes = writes

    @overload
    async def create(
        self,
        request: CreateRequest,
        /,
        *,
        unique_name: bool = False,
        on_unknown: Literal["raise", "retry"] = "raise",
        intent: str | None = None,
        maybe_sent: bool = False,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]: ...

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
        unique_name: bool = False,
        on_unknown: Literal["raise", "retry"] = "raise",
        intent: str | None = None,
        maybe_sent: bool = False,
        reconcile_timeout: float | None = None,
    ) -> Task[VirtualMachine]: ...

    async def create(
        self,
        request: CreateRequest | None = None,
        /,
        *,
        unique_name: bool = False,
        on_unknown: Literal["raise", "retry"] = "raise",
        intent: str | None = None,
        maybe_sent: bool = False,
        reconcile_timeout: float | None = None,
        **keywords: Any,
    ) -> Task[VirtualMachine]:
        """Create a machine. The task ends when it is online.

        Its address can come later than that (WIRE §4).

        The API has no idempotency key, so a create whose outcome is unknown is not sent again:
        the client looks for its VM for ``reconcile_timeout`` seconds. One that has exactly the name
        and was not there before is adopted, and `Task.adopted` is True; that takes until
        ``max_staleness`` seconds after the request was sent, or twice as long with
        `unique_name`. Everything else that may be the VM is named as a candidate.

        What holds: the request is carried out once at most, unless ``on_unknown="retry"`` allows a
        second one. A refusal (4xx, 429 included, or ``success: false``) is believed, and only
        429 and a connection that was never made lead to another attempt. What cannot be
        excluded: somebody else makes the same name and size within max_staleness before or
        during the unknown outcome; and with ``on_unknown="retry"``, a VM that stays hidden for
        longer than the window is there twice. See docs/guarantees.md.

        Args:
            request: All of it in one value.
            keywords: Or the fields of a `CreateRequest`, each by its name.
            unique_name: Whether a VM of that name can only be this one, ever. Then nothing is
                asked before the create, unless it may be sent again; else a list is, which
                creates of the same five seconds share.
            on_unknown: ``"retry"`` sends the create once more if its outcome is unknown and lists
                prove that there is no VM; it takes ``unique_name``, and a ``reconcile_timeout``
                that is some seconds longer than ``max_staleness``.
            intent: What `prepare` returned for this request; the list that it was made from is not
                asked for again.
            maybe_sent: Whether a process that is gone may have sent the request of this
                `intent`. Then it is in doubt from the start: looked for, and sent only as
                ``on_unknown`` allows.
            reconcile_timeout: Seconds to look for the VM of this create, in place of the client's
                ``reconcile_timeout``; None for that. With one shorter than ``max_staleness``, no VM
                is
                adopted: the call returns sooner, by `OutcomeUnknown` with a token for `reconcile`.

        Raises:
            OutcomeUnknown: If it is not known whether the VM was created.
        """
        request = request_of(request, keywords)
        unique = validation.boolean("unique_name", unique_name)
        if on_unknown not in ("raise", "retry"):
            raise validation.refuse("on_unknown", on_unknown, "'raise' or 'retry'")
        if on_unknown == "retry" and not unique:
            raise InvalidArgument(
                "on_unknown='retry' takes unique_name=True", argument="on_unknown"
            )
        if validation.boolean("maybe_sent", maybe_sent) and intent is None:
            raise InvalidArgument("maybe_sent takes an intent", argument="maybe_sent")
        boot = request.boot
        secrets = boot.secrets if isinstance(boot, ImageBoot) else {}
        call = Call(
            "create",
            "PUT",
            PATH,
            codec.encode_create(request),
            tuple(secrets.values()),
            Repeat.ONCE,
        )
        return await self._writes.create(
            request,
            call,
            unique=unique,
            retry=on_unknown == "retry",
            intent=intent,
            maybe_sent=maybe_sent,
            reconcile_timeout=reconcile_timeout,
        )

    async def prepare(
        self,
        operation: Literal["create", "reboot", "reset"],
        item: CreateRequest | VMOrId,
        *,
        unique_name: bool = False,
    ) -> str:
        """Return the token of a write that is about to be made, and send nothing of it.

        These three are never sent again on doubt. Who keeps the token before making the write can
        hand it to `Client.reconcile` should the process die in between: that looks for what the
        write did. The token of a create tells which machines bear the name now, for which the
        list is asked for, unless `unique_name` is given.

        Args:
            operation: Which write.
            item: The request of a create, a `SecretRef` in it or not; else the machine.
            unique_name: As `create` takes it.

        Raises:
            InvalidArgument: If an argument is wrong.
        """
        unique = validation.boolean("unique_name", unique_name)
        if operation == "create":
            if not isinstance(item, CreateRequest):
                raise validation.refuse("item", item, "a CreateRequest")
            return await self._writes.prepare(item, unique=unique)
        if operation not in ("reboot", "reset"):
            raise validation.refuse("operation", operation, "'create', 'reboot' or 'reset'")
        if isinstance(item, CreateRequest):
            raise validation.refuse("item", item, "a machine or its id")
        return seal(DoubtToken(self._pipeline.origin, operation, vm=id_of(item)))

    async def list(self) -> list[VirtualMachine]:
        """Return all machines of the region. The API knows no filter and no pages (WIRE §1)."""
        raws = await self._pipeline.call(_LIST, codec.RAW_VMS)
        machines: list[VirtualMachine] = []
        try:
            for start in range(0, len(raws), _AT_A_STRETCH):
                if start:
                    await anyio.lowlevel.checkpoint()
                machines += codec.decode_vms(raws[start : start + _AT_A_STRETCH], first=start)
        except DecodingError as error:
            error.method, error.path = _LIST.method, _LIST.path
            raise
        return machines

    async def get(self, vm: VMOrId) -> VirtualMachine:
        """Return one machine as it is now.

        Raises:
            NotFound: If there is none; just after a create, perhaps not yet (WIRE §5.3).
        """
        return await self._pipeline.call(Call("get", "GET", path_of(vm)), codec.VM)

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
            "cores": validation.whole("cores", cores, minimum=1),
            "ram": validation.whole("ram", ram, minimum=1),
            "wait_for": validation.whole("wait_for", wait_for, minimum=0),
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
        body = codec.encode({"wait_for": validation.whole("wait_for", wait_for, minimum=0)})
        return await self._start(vm, Target("shutdown", wait_for=wait_for), body)

    async def reboot(
        self, vm: VMOrId, *, reconcile_timeout: float | None = None
    ) -> Task[VirtualMachine]:
        """Ask the guest to reboot. A guest that ignores ACPI may never do so (WIRE §4).

        Whether a reboot shows is not known. The task ends when the machine has left ``online``
        and come back; or, if it never was seen to leave, after 60 seconds, and then its
        `Task.evidence` is ``assumed``.

        Args:
            vm: The VM or its id.
            reconcile_timeout: Seconds to watch for a reboot whose outcome is unknown; None for the
                client's ``reconcile_timeout``.

        Raises:
            OutcomeUnknown: If the response was lost, and the VM was not seen to reboot within
                ``reconcile_timeout``.
        """
        return await self._once(vm, "reboot", reconcile_timeout)

    async def reset(
        self, vm: VMOrId, *, reconcile_timeout: float | None = None
    ) -> Task[VirtualMachine]:
        """Turn a machine off and on again, hard. The task ends as that of `reboot` does.

        Args:
            vm: The VM or its id.
            reconcile_timeout: Seconds, as `reboot` takes it.

        Raises:
            OutcomeUnknown: As `reboot` does.
        """
        return await self._once(vm, "reset", reconcile_timeout)

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
        return await self._pipeline.call(
            Call("console", "POST", f"{path_of(vm)}/console", repeat=Repeat.REPEATABLE),
            codec.CONSOLE,
        )

    async def rename(self, vm: VMOrId, name: str) -> None:
        """Give a machine another label."""
        body = codec.encode({"name": validation.text("name", name)})
        path = path_of(vm)
        await self._writes.rename(
            Call("rename", "POST", f"{path}/rename", body, repeat=Repeat.REPEATABLE),
            id_of(vm),
            name,
            Call("get", "GET", path),
        )

    async def delete(
        self, vm: VMOrId, *, delete_resources: bool = False, missing_ok: bool = False
    ) -> Task[None]:
        """Delete a machine. The task ends when it is gone.

        Args:
            vm: The machine or its id.
            delete_resources: Whether to delete its additional resources too. By default they
                are detached and stay, and go on costing.
            missing_ok: Whether a VM that is gone already is a success. By default the API's
                `NotFound` is raised. With it, there is a task with `Task.was_missing` set, which
                ends once reads show that the VM is gone; and fails if they show that it is there.

        Raises:
            NotFound: If the VM is not there, and `missing_ok` is not given.
        """
        flag = int(validation.boolean("delete_resources", delete_resources))
        body = codec.encode({"deleteResources": flag})
        vm_id, visible = id_of(vm), isinstance(vm, VirtualMachine)

        gone_is_fine = validation.boolean("missing_ok", missing_ok)
        start = partial(
            tasks.start_delete, self._hub, self._pipeline.origin, vm_id, visible=visible
        )

        def begin(adopted: bool) -> Task[None]:
            return start(adopted=adopted)

        call = Call("delete", "DELETE", path_of(vm), body, repeat=Repeat.REPEATABLE)
        missing = partial(start, was_missing=True) if gone_is_fine else None
        return await self._writes.repeatable(call, vm_id, Target("delete"), begin, missing)

    async def _start(self, vm: VMOrId, target: Target, body: bytes = b"") -> Task[VirtualMachine]:
        vm_id, operation = id_of(vm), target.operation
        visible = isinstance(vm, VirtualMachine)

        def begin(adopted: bool) -> Task[VirtualMachine]:
            return tasks.start(
                self._hub, self._pipeline.origin, vm_id, target, visible=visible, adopted=adopted
            )

        path = f"{path_of(vm)}/{_VERBS.get(operation, operation)}"
        call = Call(operation, "POST", path, body, repeat=Repeat.REPEATABLE)
        return await self._writes.repeatable(call, vm_id, target, begin)

    async def _once(
        self,
        vm: VMOrId,
        operation: Literal["reboot", "reset"],
        reconcile_timeout: float | None,
    ) -> Task[VirtualMachine]:
        call = Call(operation, "POST", f"{path_of(vm)}/{operation}", repeat=Repeat.ONCE)
        visible = isinstance(vm, VirtualMachine)
        return await self._writes.once(
            operation, call, id_of(vm), visible=visible, reconcile_timeout=reconcile_timeout
        )


_VERBS: Final[dict[Operation, str]] = {"power_on": "poweron", "power_off": "poweroff"}
