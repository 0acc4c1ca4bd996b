"""Read VMs: one by GET, of which a poll decodes only the fields that show progress; or all."""

import asyncio
from typing import Final

import attrs

from async_vmapi.errors import APIError, DecodingError, NotFound, VMAPIError
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.transport.codec import RAW_VMS, SNAPSHOT, VMSnapshot, decode_vms, raw_vm
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.rate_limit import Priority

__all__ = ["GetResult", "fetch_vm", "fetch_vms", "is_missing"]

_PATH: Final = "/v2/virtual-machines"

_LIST: Final = Call("list", "GET", _PATH)

_DECODED_AT_ONCE: Final = 250
"""Yield to the event loop after decoding this many VMs; each takes about 15 µs."""


@attrs.frozen
class GetResult:
    """The result of a GET.

    Attributes:
        snapshot: The VM; None if it was not found.
        raw: The VM, undecoded.
        unclear: The error's text if the response may or may not mean "not found". Then a list
            shows whether the VM exists.
    """

    snapshot: VMSnapshot | None
    raw: bytes | None = attrs.field(default=None, repr=False)
    unclear: str | None = None


async def fetch_vms(pipeline: Pipeline) -> list[VirtualMachine]:
    """Fetch all VMs, decoded entirely.

    Raises:
        DecodingError: If the response cannot be decoded.
        VMAPIError: As `Pipeline.call` does.
    """
    raws = await pipeline.call(_LIST, RAW_VMS)
    vms: list[VirtualMachine] = []
    try:
        for start in range(0, len(raws), _DECODED_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            vms += decode_vms(raws[start : start + _DECODED_AT_ONCE], first=start)
    except DecodingError as error:
        error.method, error.path = _LIST.method, _LIST.path
        raise
    return vms


async def is_missing(pipeline: Pipeline, vm_id: str, refusal: VMAPIError) -> bool:
    """Return whether a call was refused because its VM does not exist (WIRE §1).

    ``success: false`` on 200 is ambiguous; then the VM is read.
    """
    if isinstance(refusal, NotFound) or not isinstance(refusal, APIError):
        return isinstance(refusal, NotFound)
    if not 200 <= refusal.status < 300:
        return False
    try:
        return (await fetch_vm(pipeline, vm_id)).snapshot is None
    except VMAPIError:
        return False


async def fetch_vm(pipeline: Pipeline, vm_id: str) -> GetResult:
    """Fetch one VM.

    Raises:
        DecodingError: If the response cannot be decoded, or shows another VM.
        VMAPIError: As `Pipeline.call` does.
    """
    call = Call("get", "GET", f"{_PATH}/{vm_id}", priority=Priority.POLLS, shared=True)
    try:
        snapshot, body = await pipeline.call(call, SNAPSHOT)
    except APIError as error:
        if isinstance(error, NotFound) and error.from_api:
            return GetResult(None)
        if isinstance(error, NotFound) or 200 <= error.status < 300:
            # WIRE §1: a bare 404, a page, or `success: false` on 200. A proxy may return the same
            # for every VM, so this alone does not prove absence.
            return GetResult(None, unclear=str(error))
        raise
    if snapshot.id != vm_id:
        del body  # error trackers keep the local variables of this frame
        raise DecodingError(
            f"it shows another VM, {snapshot.id!r}",
            where="$.virtual_machine.id",
            method=call.method,
            path=call.path,
        )
    return GetResult(snapshot, bytes(raw_vm(body)))
