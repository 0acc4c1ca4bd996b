"""The calls for VMs: one method for each (WIRE §2).

A method checks its arguments, makes the call and returns. An operation that takes time returns a
`Task`, which waits for completion. Every method raises `APIError` and its subclasses,
`TransportError` and `DecodingError`; and `InvalidArgument` before anything is sent.

Reads and idempotent writes are retried after transport errors; if one raises such an error, all
retries failed, and it is safe to call it again. `create`, `reboot` and `reset` are never resent if
their outcome is unknown; they raise `OutcomeUnknown`.

Cancellation does not abort a write that was sent: the method waits up to ``cancel_grace`` seconds
for the response. If the outcome is then unknown, the write is in ``client.unresolved``.
"""

from typing import Any, Final, Literal, overload

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CdromBoot, CreateRequest, ImageBoot
from async_vmapi.models.vm import Console, VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.tasks.reads import fetch_vms
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.task import Task
from async_vmapi.tasks.token import IntentToken, seal
from async_vmapi.transport import codec
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.retries import Idempotency
from async_vmapi.writes.operations import OPERATIONS
from async_vmapi.writes.record import WriteContext
from async_vmapi.writes.requests import PATH, VMOrId, id_of, path_of, request_of
from async_vmapi.writes.writes import Writes

__all__ = ["VMOrId", "VirtualMachines", "bound", "ready_task"]

_CREATE: Final = Target("create")
_ONLINE: Final = Ready()


class VirtualMachines:
    """The VMs of one region, as ``client.vms``."""

    __slots__ = ("_context", "_pipeline", "_writes")

    def __init__(
        self,
        pipeline: Pipeline,
        writes: Writes,
        context: WriteContext | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._writes = writes
        self._context = context

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
        ready: Ready | None = None,
    ) -> Task[VirtualMachine]: ...

    # mypy needs the None to accept the implementation.
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
        ready: Ready | None = None,
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
        ready: Ready | None = None,
        **keywords: Any,
    ) -> Task[VirtualMachine]:
        """Create a VM. The task completes when it is online, and `ready` if that is given.

        The VM's address can appear later (WIRE §4); ``ready=Ready.address()`` waits for it.

        The API has no idempotency key, so a create is not resent if its outcome is unknown: the
        client searches for its VM for ``reconcile_timeout`` seconds. It adopts a new VM that has
        exactly this name, and sets `Task.adopted`; that takes until ``max_staleness`` seconds after
        the request was sent, or twice as long with `unique_name`. Any other VM that the create may
        have made is a candidate of the `OutcomeUnknown`.

        The API carries the request out at most once, unless ``on_unknown="retry"`` allows a second
        request. A refusal (4xx including 429, or ``success: false``) counts as not carried out;
        only 429 and a failed connection lead to another attempt. Two cases cannot be excluded:
        another client creates a VM of the same name and size within ``max_staleness`` before or
        during the unknown outcome; and with ``on_unknown="retry"``, a VM that stays invisible for
        longer than ``reconcile_timeout`` has a duplicate. See docs/guarantees.md.

        Args:
            request: The whole request in one value.
            keywords: Or the fields of a `CreateRequest` as keywords.
            unique_name: Whether only this create can ever make a VM of that name. If so, no list
                is requested before the create, unless `on_unknown` is ``"retry"``; otherwise one
                is, which creates within five seconds share.
            on_unknown: ``"retry"`` resends the create once if its outcome is unknown and lists
                prove that there is no VM. It requires ``unique_name``, and a ``reconcile_timeout``
                some seconds longer than ``max_staleness``.
            intent: The token from `prepare` for this request. It replaces the list before the
                create.
            maybe_sent: Whether an earlier process may have sent the request of this `intent`.
                Then the client first searches for the VM, and sends the request only as
                ``on_unknown`` allows.
            reconcile_timeout: Seconds to search for its VM; None for the client's setting. If it is
                shorter than ``max_staleness``, no VM is adopted: the call raises `OutcomeUnknown`
                sooner, with a token for `reconcile`.
            ready: What the VM must do after it is online; see `Ready`.

        Raises:
            OutcomeUnknown: If it is unknown whether the VM was created.
        """
        request = request_of(request, keywords)
        unique = validation.boolean("unique_name", unique_name)
        OPERATIONS["create"].arguments["on_unknown"]("on_unknown", on_unknown)
        if on_unknown == "retry" and not unique:
            raise InvalidArgument(
                "on_unknown='retry' requires unique_name=True", argument="on_unknown"
            )
        if validation.boolean("maybe_sent", maybe_sent) and intent is None:
            raise InvalidArgument("maybe_sent requires an intent", argument="maybe_sent")
        boot = request.boot
        secrets = tuple(boot.secrets.values()) if isinstance(boot, ImageBoot) else ()
        body = codec.encode_create(request)
        call = Call("create", "PUT", PATH, body, secrets, Idempotency.NON_IDEMPOTENT)
        return await self._writes.create(
            self._context,
            request,
            call,
            unique=unique,
            retry=on_unknown == "retry",
            intent=intent,
            maybe_sent=maybe_sent,
            reconcile_timeout=reconcile_timeout,
            target=_CREATE if ready is None else Target("create", ready=ready),
        )

    async def prepare(
        self,
        operation: Literal["create", "reboot", "reset"],
        item: CreateRequest | VMOrId,
        *,
        unique_name: bool = False,
    ) -> str:
        """Return the intent token of a write, without sending it.

        Store the token before you make the write. If the process dies in between, pass the token
        to `Client.reconcile`, which finds out whether the write was carried out. The token of a
        create contains the ids of VMs that have its name now, for which the list is requested,
        unless `unique_name` is given.

        Args:
            operation: The kind of write. Other writes are idempotent, and need no token.
            item: The request of a create, which may contain a `SecretRef`; otherwise the VM.
            unique_name: As in `create`.
        """
        unique = validation.boolean("unique_name", unique_name)
        if operation == "create":
            if not isinstance(item, CreateRequest):
                raise validation.refuse("item", item, "a CreateRequest")
            return await self._writes.prepare(item, unique=unique)
        if operation not in ("reboot", "reset"):
            raise validation.refuse("operation", operation, "'create', 'reboot' or 'reset'")
        if isinstance(item, CreateRequest):
            raise validation.refuse("item", item, "a VM or its id")
        return seal(IntentToken(self._pipeline.origin, operation, vm=id_of(item)))

    async def list(self) -> list[VirtualMachine]:
        """Return all VMs of the region. The API has no filters and no pages (WIRE §1)."""
        return await fetch_vms(self._pipeline)

    async def get(self, vm: VMOrId) -> VirtualMachine:
        """Return one VM.

        Raises:
            NotFound: If it does not exist, or not yet, just after its create (WIRE §5.3).
        """
        return await self._pipeline.call(Call("get", "GET", path_of(vm)), codec.VM)

    async def resize(
        self, vm: VMOrId, *, cores: int, ram: int, wait_for: int = 4, ready: Ready | None = None
    ) -> Task[VirtualMachine]:
        """Change a VM's cores and memory. The API shuts a running VM down for it.

        The task completes when the VM has the new size in a stable state. It is unknown whether
        the API restarts the VM (WIRE §4), so check the ``state`` of the task's result.

        Args:
            vm: The VM or its id.
            cores: Number of CPUs, at least 1.
            ram: Memory in MB, at least 1.
            wait_for: Minutes that the guest gets to shut down before it is turned off.
            ready: As in `reboot`; the task fails if the VM stays offline.
        """
        body = {
            "cores": validation.whole("cores", cores, minimum=1),
            "ram": validation.whole("ram", ram, minimum=1),
            "wait_for": validation.whole("wait_for", wait_for, minimum=0),
        }
        target = Target("resize", cores, ram, wait_for, ready=ready)
        return await self._start(vm, target, codec.encode(body))

    async def shutdown(self, vm: VMOrId, *, wait_for: int = 4) -> Task[VirtualMachine]:
        """Ask the guest to shut down, and turn the VM off if it does not.

        The task completes when the VM is offline.

        Args:
            vm: The VM or its id.
            wait_for: Minutes that the guest gets before the VM is turned off.
        """
        body = codec.encode({"wait_for": validation.whole("wait_for", wait_for, minimum=0)})
        return await self._start(vm, Target("shutdown", wait_for=wait_for), body)

    async def reboot(
        self, vm: VMOrId, *, reconcile_timeout: float | None = None, ready: Ready | None = None
    ) -> Task[VirtualMachine]:
        """Ask the guest to reboot. A guest that ignores ACPI may never do so (WIRE §4).

        A reboot may not change the VM's state. The task completes when the VM has left ``online``
        and is back; or, if it was never observed to leave, after 60 seconds, with ``assumed`` as
        its `Task.evidence`.

        Args:
            vm: The VM or its id.
            reconcile_timeout: Seconds to poll for a reboot whose outcome is unknown; None for the
                client's ``reconcile_timeout``.
            ready: What the VM must do after it is online again; see `Ready`.

        Raises:
            OutcomeUnknown: If the response was lost, and no reboot was observed within
                ``reconcile_timeout``.
        """
        return await self._once(vm, Target("reboot", ready=ready), reconcile_timeout)

    async def reset(
        self, vm: VMOrId, *, reconcile_timeout: float | None = None, ready: Ready | None = None
    ) -> Task[VirtualMachine]:
        """Turn a VM off and on again, hard. The task completes as for `reboot`.

        Args:
            vm: The VM or its id.
            reconcile_timeout: Seconds, as in `reboot`.
            ready: As in `reboot`.

        Raises:
            OutcomeUnknown: As in `reboot`.
        """
        return await self._once(vm, Target("reset", ready=ready), reconcile_timeout)

    async def power_on(self, vm: VMOrId, *, ready: Ready | None = None) -> Task[VirtualMachine]:
        """Start a VM. The task completes when it is online.

        The provider does not document this call; other clients use it.

        Args:
            vm: The VM or its id.
            ready: What the VM must do after it is online; see `Ready`.
        """
        return await self._start(vm, Target("power_on", ready=ready))

    async def power_off(self, vm: VMOrId) -> Task[VirtualMachine]:
        """Turn a VM off, hard. The task completes when it is offline.

        The provider does not document this call; other clients use it.
        """
        return await self._start(vm, Target("power_off"))

    async def console(self, vm: VMOrId) -> Console:
        """Open a VM's console, and return its address and password."""
        return await self._pipeline.call(
            Call("console", "POST", f"{path_of(vm)}/console", idempotency=Idempotency.IDEMPOTENT),
            codec.CONSOLE,
        )

    async def rename(self, vm: VMOrId, name: str) -> None:
        """Change a VM's label."""
        body = codec.encode({"name": validation.text("name", name)})
        get = Call("get", "GET", path_of(vm))
        await self._writes.rename(self._context, _call("rename", vm, body), id_of(vm), name, get)

    async def delete(
        self, vm: VMOrId, *, delete_resources: bool = False, missing_ok: bool = False
    ) -> Task[None]:
        """Delete a VM. The task completes when it is gone.

        Args:
            vm: The VM or its id.
            delete_resources: Whether to delete its additional resources, too. By default they
                are detached, and still cost money.
            missing_ok: Whether to accept a VM that is gone already. If so, the task has
                `Task.was_missing` set; it completes once reads show that the VM is gone, and fails
                if they show the VM. By default the API's `NotFound` is raised.

        Raises:
            NotFound: If the VM does not exist, unless `missing_ok` is set.
        """
        flag = int(validation.boolean("delete_resources", delete_resources))
        body = codec.encode({"deleteResources": flag})
        call = Call("delete", "DELETE", path_of(vm), body, idempotency=Idempotency.IDEMPOTENT)
        return await self._writes.idempotent(
            self._context,
            call,
            id_of(vm),
            Target("delete"),
            visible=isinstance(vm, VirtualMachine),
            missing_ok=validation.boolean("missing_ok", missing_ok),
        )

    async def wait_ready(
        self, vm: VMOrId, ready: Ready = _ONLINE, *, timeout: float | None = 600.0
    ) -> VirtualMachine:
        """Wait until a VM is online and ready, and return it as last seen. It sends only reads.

        A read that shows the VM online can be ``max_staleness`` seconds old. If this client has
        just changed the VM, only a later read counts.

        Args:
            vm: The VM or its id.
            ready: What the VM must do besides being online; see `Ready`. The default is nothing.
            timeout: Total seconds to wait; None for no limit.

        Raises:
            TaskTimeout: If it was not ready in time; see `TaskTimeout.missing`.
            TaskFailed: If it is in a state from which it cannot become online.
            VMVanished: If it is gone.
        """
        return await ready_task(self, vm, ready).wait(timeout)

    async def _start(self, vm: VMOrId, target: Target, body: bytes = b"") -> Task[VirtualMachine]:
        return await self._writes.idempotent(
            self._context,
            _call(target.operation, vm, body),
            id_of(vm),
            target,
            visible=isinstance(vm, VirtualMachine),
        )

    async def _once(
        self, vm: VMOrId, target: Target, reconcile_timeout: float | None
    ) -> Task[VirtualMachine]:
        return await self._writes.once(
            self._context,
            _call(target.operation, vm),
            id_of(vm),
            target,
            visible=isinstance(vm, VirtualMachine),
            reconcile_timeout=reconcile_timeout,
        )


def _call(operation: str, vm: VMOrId, body: bytes = b"") -> Call:
    spec = OPERATIONS[operation]
    path = f"{path_of(vm)}/{spec.path}"
    return Call(operation, "POST", path, body, idempotency=spec.idempotency)


def bound(vms: VirtualMachines, context: WriteContext) -> VirtualMachines:
    """Return the same methods with a context for their writes."""
    # Not a method: it is for bulk calls and durable jobs.
    parts = vms._pipeline, vms._writes  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return VirtualMachines(*parts, context)


def ready_task(vms: VirtualMachines, vm: VMOrId, ready: Ready) -> Task[VirtualMachine]:
    """Return the task of `VirtualMachines.wait_ready`, for callers that show its progress."""
    writes = vms._writes  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return writes.wait_ready(id_of(vm), Target("wait_ready", ready=ready))
