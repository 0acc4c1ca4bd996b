"""Turn requests into bytes, and answers into values. Pure (WIRE §2).

An answer is decoded once, straight into what the caller wants of it: a `ResponseSpec`.
"""

import functools
import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, cast

import attrs
import msgspec

from async_vmapi import validation
from async_vmapi.errors import DecodingError, InvalidArgument
from async_vmapi.models import (
    Console,
    CreateRequest,
    ImageBoot,
    Region,
    SSHKey,
    Template,
    VirtualMachine,
)
from async_vmapi.redaction import HiddenBytes

__all__ = [
    "ACCEPTED",
    "CONSOLE",
    "CREATED",
    "GLIMPSE",
    "GLIMPSES",
    "NAMES",
    "RAW_VMS",
    "REGIONS",
    "SSH_KEYS",
    "TEMPLATES",
    "UNREADABLE",
    "VM",
    "VMS",
    "Named",
    "ResponseSpec",
    "VMSnapshot",
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
"""What decoding raises: for names that are not UTF-8, an error that holds the whole answer."""

# --- requests ---------------------------------------------------------------------------------


@functools.cache
def _unstructure() -> Callable[[object], dict[str, Any]]:
    # Made by the first create: others need no cattrs in memory.
    from cattrs.gen import make_dict_unstructure_fn, override
    from cattrs.preconf.msgspec import make_converter

    outward = make_converter(omit_if_default=True)
    outward.register_unstructure_hook(
        CreateRequest,
        make_dict_unstructure_fn(
            CreateRequest,
            outward,
            zone_id=override(rename="compute_zone_id"),
            boot=override(omit=True),
        ),
    )
    return outward.unstructure


def encode(body: Mapping[str, object]) -> bytes:
    """Return `body` as JSON, exactly as it is to be signed and sent."""
    return msgspec.json.encode(body)


def encode_create(request: CreateRequest) -> HiddenBytes:
    """Return the body of a create (WIRE §2); what was not given is left out."""
    unstructure = _unstructure()
    fields = unstructure(request)
    if isinstance(request.boot, ImageBoot):
        fields |= {"boot_type": "image", "os": request.boot.os}
        if request.boot.key_id is not None:
            fields["key_id"] = request.boot.key_id
        revealed = {name: secret.text() for name, secret in request.boot.secrets.items()}
    else:
        fields |= {"boot_type": "cdrom", "cdrom": request.boot.iso}
        revealed = {}
    return HiddenBytes(encode({"create_vm": fields | revealed}))


# --- answers ----------------------------------------------------------------------------------


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    success: bool | msgspec.UnsetType = msgspec.UNSET


class _CreatedVM(msgspec.Struct, frozen=True):
    id: str | int


class _Created(_Envelope, frozen=True, kw_only=True):
    virtual_machine: _CreatedVM


class _VM(_Envelope, frozen=True, kw_only=True):
    virtual_machine: VirtualMachine | list[VirtualMachine]


class _RawVM(msgspec.Struct, frozen=True):
    virtual_machine: msgspec.Raw


class _VMs(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[VirtualMachine]


class _RawVMs(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[msgspec.Raw]


class VMSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The four fields of a machine that tell how an operation goes (WIRE §4)."""

    id: str
    state: str
    cores: int
    ram: int


class _LooseGlimpse(msgspec.Struct, frozen=True, gc=False):
    id: str | int
    state: str
    cores: int | str
    ram: int | str

    def __post_init__(self) -> None:
        # Raised here, it becomes an error that names the place.
        try:
            _ = int(self.cores), int(self.ram)
        except ValueError:
            raise ValueError("not a number, nor a string that holds one") from None


class _OneGlimpse(_Envelope, frozen=True, kw_only=True):
    virtual_machine: _LooseGlimpse | list[_LooseGlimpse]


class _Glimpses(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[VMSnapshot]


class _LooseGlimpses(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[_LooseGlimpse]


class Named(msgspec.Struct, frozen=True, gc=False):
    """What of a machine tells whether a create made it."""

    id: str
    state: str
    cores: int
    ram: int
    label: str | None = None


class _LooseNamed(_LooseGlimpse, frozen=True, gc=False):
    label: str | None = None


class _Names(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[Named]


class _LooseNames(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[_LooseNamed]


class _Console(_Envelope, frozen=True, kw_only=True):
    console: Console


class _Regions(_Envelope, frozen=True, kw_only=True):
    regions: list[Region]


class _Templates(_Envelope, frozen=True, kw_only=True):
    templates: list[Template]


class _AccountKeys(msgspec.Struct, frozen=True):
    # The account's own secrets are never even decoded (WIRE §2).
    sshkeys: list[SSHKey]


class _Account(_Envelope, frozen=True, kw_only=True):
    account: _AccountKeys


@attrs.frozen
class ResponseSpec(Generic[T]):
    """What a caller wants of an answer.

    Attributes:
        decode: Reads the whole answer.
        take: Picks the wanted value out of what `decode` returned.
        proves_success: Whether the value itself proves that the call was accepted, so that
            ``success`` may be missing (WIRE §2 documents none for console).
        key: The field of a list, which may be large; None for what is about one VM.
    """

    decode: Callable[[bytes], Any]
    take: Callable[[Any], T]
    proves_success: bool = True
    key: bytes | None = None


def _spec(
    kind: type[Any],
    take: Callable[[Any], T],
    *,
    proves_success: bool = True,
    key: bytes | None = None,
) -> ResponseSpec[T]:
    return ResponseSpec(msgspec.json.Decoder(kind).decode, take, proves_success, key)


def _only(found: T | list[T]) -> T:
    # WIRE §2: documented as a list of one, observed as the machine itself.
    if not isinstance(found, list):
        return found
    machines = cast("list[T]", found)
    if len(machines) != 1:
        raise DecodingError(f"expected one machine, got {len(machines)}", where="$.virtual_machine")
    return machines[0]


def _id(found: str | int) -> str:
    try:
        return validation.identifier("id", str(found))
    except InvalidArgument:
        problem = "an id that fits into no path"
    raise DecodingError(problem, where="$.virtual_machine.id")


def _tight(glimpse: _LooseGlimpse) -> VMSnapshot:
    return VMSnapshot(str(glimpse.id), glimpse.state, int(glimpse.cores), int(glimpse.ram))


_decode_glimpses = msgspec.json.Decoder(_Glimpses).decode
_decode_loose_glimpses = msgspec.json.Decoder(_LooseGlimpses).decode
_decode_names = msgspec.json.Decoder(_Names).decode
_decode_loose_names = msgspec.json.Decoder(_LooseNames).decode
_decode_raw_vms = msgspec.json.Decoder(_RawVMs).decode
_decode_raw_vm = msgspec.json.Decoder(_RawVM).decode
_decode_listed_vm = msgspec.json.Decoder(VirtualMachine).decode
_decode_one_vm: Callable[[bytes | msgspec.Raw], VirtualMachine | list[VirtualMachine]] = (
    msgspec.json.Decoder(VirtualMachine | list[VirtualMachine]).decode
)


def _glimpses(body: bytes) -> _Glimpses:
    try:
        return _decode_glimpses(body)
    except msgspec.ValidationError:
        # Numbers as strings or ids as numbers: right by WIRE §5.1, but rare, so not on the way.
        loose = _decode_loose_glimpses(body)
        return _Glimpses(
            success=loose.success, virtual_machines=[_tight(vm) for vm in loose.virtual_machines]
        )


def _names(body: bytes) -> _Names:
    try:
        return _decode_names(body)
    except msgspec.ValidationError:
        loose = _decode_loose_names(body)
        return _Names(
            success=loose.success,
            virtual_machines=[
                Named(str(vm.id), vm.state, int(vm.cores), int(vm.ram), vm.label)
                for vm in loose.virtual_machines
            ],
        )


def _raw_vms(body: bytes) -> _RawVMs:
    answer = _decode_raw_vms(body)
    if not body.isascii():
        body.decode()  # what is passed over undecoded may be anything
    return answer


def raw_vms(body: bytes) -> list[msgspec.Raw]:
    """Return the machines of a list's body, each as its own undecoded part of it."""
    return _decode_raw_vms(body).virtual_machines


def raw_vm(body: bytes) -> msgspec.Raw:
    """Return what a get's body holds under ``virtual_machine``, undecoded."""
    return _decode_raw_vm(body).virtual_machine


def decode_vm(raw: bytes | msgspec.Raw) -> VirtualMachine:
    """Decode one machine, in either spec of a get (WIRE §2).

    Raises:
        DecodingError: If it is none.
    """
    try:
        return _only(_decode_one_vm(raw))
    except UNREADABLE as error:
        message, where = explain(error)
    raise DecodingError(message, where=where)


def decode_vms(raws: Iterable[msgspec.Raw], *, first: int = 0) -> list[VirtualMachine]:
    """Decode parts of a list, of which the first has the place `first` in it.

    Raises:
        DecodingError: If a part is no machine.
    """
    machines: list[VirtualMachine] = []
    # A machine is a dozen objects. A large list's would set off full collections, each of which
    # walks over everything that the process has, and none of them could find anything here.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for raw in raws:
            machines.append(_decode_listed_vm(raw))
    except UNREADABLE as error:
        message, where = explain(error)
    else:
        return machines
    finally:
        if collecting:
            gc.enable()
    raise DecodingError(message, where=f"$.virtual_machines[{first + len(machines)}]{where[1:]}")


_LIST: Final = b'"virtual_machines"'

ACCEPTED: Final[ResponseSpec[None]] = _spec(_Envelope, lambda _: None, proves_success=False)
CREATED: Final[ResponseSpec[str]] = _spec(_Created, lambda answer: _id(answer.virtual_machine.id))
VM: Final[ResponseSpec[VirtualMachine]] = _spec(_VM, lambda answer: _only(answer.virtual_machine))
VMS: Final[ResponseSpec[list[VirtualMachine]]] = _spec(
    _VMs, lambda answer: answer.virtual_machines, key=_LIST
)
RAW_VMS: Final[ResponseSpec[list[msgspec.Raw]]] = ResponseSpec(
    _raw_vms, lambda answer: answer.virtual_machines, key=_LIST
)
GLIMPSE: Final[ResponseSpec[VMSnapshot]] = _spec(
    _OneGlimpse, lambda answer: _tight(_only(answer.virtual_machine))
)
GLIMPSES: Final[ResponseSpec[list[VMSnapshot]]] = ResponseSpec(
    _glimpses, lambda answer: answer.virtual_machines, key=_LIST
)
NAMES: Final[ResponseSpec[list[Named]]] = ResponseSpec(
    _names, lambda answer: answer.virtual_machines, key=_LIST
)
CONSOLE: Final[ResponseSpec[Console]] = _spec(_Console, lambda answer: answer.console)
REGIONS: Final[ResponseSpec[list[Region]]] = _spec(
    _Regions, lambda answer: answer.regions, key=b'"regions"'
)
TEMPLATES: Final[ResponseSpec[list[Template]]] = _spec(
    _Templates, lambda answer: answer.templates, key=b'"templates"'
)
SSH_KEYS: Final[ResponseSpec[list[SSHKey]]] = _spec(
    _Account, lambda answer: answer.account.sshkeys
)


def explain(error: Exception) -> tuple[str, str]:
    """Return what a decoder found wrong, and where in the answer."""
    # msgspec names types and places, never values; a place is "... - at `$.a.b`".
    if isinstance(error, RecursionError):
        return "nested too deeply", "$"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8", "$"
    message, _, place = str(error).partition(" - at ")
    return message, place.strip("`") or "$"
