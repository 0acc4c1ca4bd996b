"""Look at machines: one by GET, or all by one list, decoding no more than is needed.

A look tells the few fields that an operation's progress shows in, and keeps the rest undecoded.
"""

from typing import Final

import attrs
import msgspec

from async_vmapi.errors import APIError, DecodingError, NotFound, VMAPIError
from async_vmapi.transport.codec import SNAPSHOT, SNAPSHOTS, VMSnapshot, raw_vm, raw_vms
from async_vmapi.transport.pipeline import Call, Pipeline
from async_vmapi.transport.rate_limit import Priority

__all__ = ["GetResult", "ListResult", "get_vm_raw", "is_missing", "list_vms_raw"]

_PATH: Final = "/v2/virtual-machines"
_LIST: Final = Call("list", "GET", _PATH, priority=Priority.POLLS, first=True, shared=True)


@attrs.frozen
class GetResult:
    """What a GET showed; no `glimpse` for a VM that the API says is not there.

    Attributes:
        unclear: Not None if it was refused in a way that may mean "not found" or anything: the
            text of the error. Then a list shows whether the VM is there.
    """

    glimpse: VMSnapshot | None
    raw: bytes | None = attrs.field(default=None, repr=False)
    size: int | None = None
    unclear: str | None = None


@attrs.frozen
class ListResult:
    """What a list showed: the machines in its order, and the body that they came in."""

    glimpses: list[VMSnapshot]
    body: bytes = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """The body's bytes."""
        return len(self.body)

    def raws(self) -> list[msgspec.Raw]:
        """Return the machines undecoded; where nothing has changed nobody needs them."""
        return raw_vms(self.body)


async def list_vms_raw(pipeline: Pipeline) -> ListResult:
    """Ask for the list; raises what `Pipeline.call` raises."""
    glimpses, body = await pipeline.call_raw(_LIST, SNAPSHOTS)
    return ListResult(glimpses, body)


async def is_missing(pipeline: Pipeline, vm_id: str, refusal: VMAPIError) -> bool:
    """Return whether a call was refused because its VM is not there (WIRE §1).

    ``success: false`` on 200 says that of an unknown VM, or anything else: then the VM is read.
    """
    if isinstance(refusal, NotFound) or not isinstance(refusal, APIError):
        return isinstance(refusal, NotFound)
    if not 200 <= refusal.status < 300:
        return False
    try:
        return (await get_vm_raw(pipeline, vm_id)).glimpse is None
    except VMAPIError:
        return False


async def get_vm_raw(pipeline: Pipeline, vm_id: str) -> GetResult:
    """Ask for one VM.

    Raises:
        DecodingError: If the response shows another VM, besides its usual reasons.
        VMAPIError: As `Pipeline.call` does.
    """
    call = Call("get", "GET", f"{_PATH}/{vm_id}", priority=Priority.POLLS, shared=True)
    try:
        glimpse, body = await pipeline.call_raw(call, SNAPSHOT)
    except APIError as error:
        if isinstance(error, NotFound) and error.from_api:
            return GetResult(None)
        if isinstance(error, NotFound) or 200 <= error.status < 300:
            # WIRE §1: a bare 404, a page, or `success: false` on 200. A proxy may say the same of
            # every VM, so it is no absence by itself.
            return GetResult(None, unclear=str(error))
        raise
    if glimpse.id != vm_id:
        del body  # error trackers keep the local variables of this frame
        raise DecodingError(
            f"it shows another machine, {glimpse.id!r}",
            where="$.virtual_machine.id",
            method=call.method,
            path=call.path,
        )
    return GetResult(glimpse, bytes(raw_vm(body)), len(body))
