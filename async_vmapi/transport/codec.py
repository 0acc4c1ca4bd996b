"""Encode requests and decode responses (WIRE §2). Pure.

A response is decoded once, directly into the value that the caller wants: a `ResponseSpec`.
"""

import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

import attrs
import msgspec

from async_vmapi import validation
from async_vmapi.errors import DecodingError, InvalidArgument
from async_vmapi.models.create import CreateRequest, ImageBoot
from async_vmapi.models.vm import Console, Region, SSHKey, Template, VirtualMachine
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "ACCEPTED",
    "CONSOLE",
    "CREATED",
    "RAW_VMS",
    "REGIONS",
    "SNAPSHOT",
    "SNAPSHOTS",
    "SSH_KEYS",
    "TEMPLATES",
    "UNREADABLE",
    "VM",
    "NamedVM",
    "ResponseSpec",
    "VMSnapshot",
    "decode_names",
    "decode_vm",
    "decode_vms",
    "encode",
    "encode_create",
    "explain",
    "raw_vm",
    "raw_vms",
]

T = TypeVar("T")

UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises. A `UnicodeDecodeError` holds the whole response."""

# --- requests ---------------------------------------------------------------------------------


def encode(body: Mapping[str, object]) -> bytes:
    """Return `body` as JSON, to be signed and sent unchanged."""
    return msgspec.json.encode(body)


def encode_create(request: CreateRequest) -> HiddenBytes:
    """Return the body of a create (WIRE §2), without the fields that are not set."""
    fields: dict[str, object] = {
        "name": request.name,
        "cpus": request.cpus,
        "ram": request.ram,
        "compute_zone_id": request.zone_id,
    }
    if isinstance(request.boot, ImageBoot):
        fields |= {"boot_type": "image", "os": request.boot.os}
        if request.boot.key_id is not None:
            fields["key_id"] = request.boot.key_id
        revealed = {name: secret.text() for name, secret in request.boot.secrets.items()}
    else:
        fields |= {"boot_type": "cdrom", "cdrom": request.boot.iso}
        revealed = {}
    return HiddenBytes(encode({"create_vm": fields | revealed}))


# --- responses --------------------------------------------------------------------------------

_VM: Final = "virtual_machine"
_VMS: Final = "virtual_machines"


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    success: bool | msgspec.UnsetType = msgspec.UNSET


class _CreatedVM(msgspec.Struct, frozen=True):
    id: str | int


class VMSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The four fields of a VM that show the progress of an operation (WIRE §4)."""

    id: str
    state: str
    cores: int
    ram: int


class _LooseSnapshot(msgspec.Struct, frozen=True, gc=False):
    id: str | int
    state: str
    cores: int | str
    ram: int | str

    def __post_init__(self) -> None:
        # msgspec adds the place to an error raised here.
        try:
            _ = int(self.cores), int(self.ram)
        except ValueError:
            raise ValueError("neither a number nor a string that holds one") from None


class NamedVM(VMSnapshot, frozen=True, gc=False):
    """The fields of a VM that show whether a create made it."""

    label: str | None = None


class _LooseNamedVM(_LooseSnapshot, frozen=True, gc=False):
    label: str | None = None


class _Account(msgspec.Struct, frozen=True):
    # The account's own secrets are never decoded (WIRE §2).
    sshkeys: list[SSHKey]


@attrs.frozen
class ResponseSpec(Generic[T]):
    """The value that a caller wants from a response.

    Attributes:
        decode: Decodes the response's body.
        take: Extracts the value from the result of `decode` and the body.
        proves_success: Whether the value proves that the call was accepted, so that ``success``
            may be missing (WIRE §2 documents none for console).
        key: The name of the list in a list response, which may be large; None for one VM.
    """

    decode: Callable[[bytes], Any]
    take: Callable[[Any, bytes], T]
    proves_success: bool = True
    key: bytes | None = None


def _decoder(field: str, kind: Any) -> Callable[[bytes], Any]:
    """Return a decoder of the envelope and one more field."""
    response = msgspec.defstruct(field, [(field, kind)], bases=(_Envelope,), frozen=True)
    return msgspec.json.Decoder(response).decode


def _one(field: str, kind: Any, convert: Callable[[Any], T]) -> ResponseSpec[T]:
    return ResponseSpec(_decoder(field, kind), lambda found, _: convert(getattr(found, field)))


def _list(field: str, decode: Callable[[bytes], Any]) -> ResponseSpec[Any]:
    return ResponseSpec(decode, lambda found, _: getattr(found, field), key=f'"{field}"'.encode())


def _only(found: T | list[T]) -> T:
    # WIRE §2: documented as a list of one, observed as the VM itself.
    if not isinstance(found, list):
        return found
    vms = cast("list[T]", found)
    if len(vms) != 1:
        raise DecodingError(f"expected one VM, got {len(vms)}", where="$.virtual_machine")
    return vms[0]


def _id(found: str | int) -> str:
    try:
        return validation.identifier("id", str(found))
    except InvalidArgument:
        problem = "an id that cannot be part of a path"
    raise DecodingError(problem, where="$.virtual_machine.id")


def _strict(vm: _LooseSnapshot) -> VMSnapshot:
    return VMSnapshot(str(vm.id), vm.state, int(vm.cores), int(vm.ram))


_decode_snapshots = _decoder(_VMS, list[VMSnapshot])
_decode_loose_snapshots = _decoder(_VMS, list[_LooseSnapshot])
_decode_names = _decoder(_VMS, list[NamedVM])
_decode_loose_names = _decoder(_VMS, list[_LooseNamedVM])
_decode_raw_vms = _decoder(_VMS, list[msgspec.Raw])
_decode_raw_vm = _decoder(_VM, msgspec.Raw)
_decode_listed_vm = msgspec.json.Decoder(VirtualMachine).decode
_decode_one_vm: Callable[[bytes | msgspec.Raw], VirtualMachine | list[VirtualMachine]] = (
    msgspec.json.Decoder(VirtualMachine | list[VirtualMachine]).decode
)


def _snapshots(body: bytes) -> Any:
    try:
        return _decode_snapshots(body)
    except msgspec.ValidationError:
        # Numbers as strings, or ids as numbers: valid by WIRE §5.1, but rare.
        loose = _decode_loose_snapshots(body)
        return msgspec.structs.replace(
            loose, virtual_machines=[_strict(vm) for vm in loose.virtual_machines]
        )


def _raw_vms(body: bytes) -> Any:
    response = _decode_raw_vms(body)
    if not body.isascii():
        body.decode()  # the undecoded parts may be invalid UTF-8
    return response


def raw_vms(body: bytes) -> list[msgspec.Raw]:
    """Return the VMs of a list's body, each undecoded."""
    vms: list[msgspec.Raw] = _decode_raw_vms(body).virtual_machines
    return vms


def raw_vm(body: bytes) -> msgspec.Raw:
    """Return the ``virtual_machine`` of a get's body, undecoded."""
    vm: msgspec.Raw = _decode_raw_vm(body).virtual_machine
    return vm


def decode_names(body: bytes) -> list[NamedVM]:
    """Decode a list's body, which was decoded as `SNAPSHOTS` before.

    Raises:
        DecodingError: If a label is no text.
    """
    vms: list[NamedVM]
    try:
        vms = _decode_names(body).virtual_machines
    except msgspec.ValidationError:
        pass
    else:
        return vms
    try:
        loose = _decode_loose_names(body).virtual_machines
    except UNREADABLE as error:
        message, where = explain(error)
    else:
        return [NamedVM(str(v.id), v.state, int(v.cores), int(v.ram), v.label) for v in loose]
    del body  # error trackers keep the local variables of this frame
    raise DecodingError(message, where=where)


def decode_vm(raw: bytes | msgspec.Raw) -> VirtualMachine:
    """Decode one VM, in either form of a get (WIRE §2).

    Raises:
        DecodingError: If it is not a VM.
    """
    try:
        return _only(_decode_one_vm(raw))
    except UNREADABLE as error:
        message, where = explain(error)
    raise DecodingError(message, where=where)


def decode_vms(raws: Iterable[msgspec.Raw], *, first: int = 0) -> list[VirtualMachine]:
    """Decode a part of a list that starts at index `first`.

    Raises:
        DecodingError: If an element is not a VM.
    """
    vms: list[VirtualMachine] = []
    # A VM consists of a dozen objects. A large list would trigger full garbage collections, each of
    # which traverses all objects of the process, and would find nothing to free here.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for raw in raws:
            vms.append(_decode_listed_vm(raw))
    except UNREADABLE as error:
        message, where = explain(error)
    else:
        return vms
    finally:
        if collecting:
            gc.enable()
    raise DecodingError(message, where=f"$.virtual_machines[{first + len(vms)}]{where[1:]}")


ACCEPTED: Final[ResponseSpec[None]] = ResponseSpec(
    msgspec.json.Decoder(_Envelope).decode, lambda _, __: None, proves_success=False
)
CREATED: Final[ResponseSpec[str]] = _one(_VM, _CreatedVM, lambda vm: _id(vm.id))
VM: Final[ResponseSpec[VirtualMachine]] = ResponseSpec(
    _decoder(_VM, VirtualMachine | list[VirtualMachine]),
    lambda found, _: _only(found.virtual_machine),
)
RAW_VMS: Final[ResponseSpec[list[msgspec.Raw]]] = _list(_VMS, _raw_vms)
SNAPSHOT: Final[ResponseSpec[tuple[VMSnapshot, bytes]]] = ResponseSpec(
    _decoder(_VM, _LooseSnapshot | list[_LooseSnapshot]),
    lambda found, body: (_strict(_only(found.virtual_machine)), body),
)
SNAPSHOTS: Final[ResponseSpec[tuple[list[VMSnapshot], bytes]]] = ResponseSpec(
    _snapshots, lambda found, body: (found.virtual_machines, body), key=b'"virtual_machines"'
)
CONSOLE: Final[ResponseSpec[Console]] = _one("console", Console, lambda console: console)
REGIONS: Final[ResponseSpec[list[Region]]] = _list("regions", _decoder("regions", list[Region]))
TEMPLATES: Final[ResponseSpec[list[Template]]] = _list(
    "templates", _decoder("templates", list[Template])
)
SSH_KEYS: Final[ResponseSpec[list[SSHKey]]] = _one(
    "account", _Account, lambda account: account.sshkeys
)


def explain(error: Exception) -> tuple[str, str]:
    """Return a decoder's error message, and the place in the response."""
    # msgspec names types and places, never values: "... - at `$.a.b`".
    if isinstance(error, RecursionError):
        return "nested too deeply", "$"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8", "$"
    message, _, place = str(error).partition(" - at ")
    return message, place.strip("`") or "$"
