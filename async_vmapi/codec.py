"""Turn requests into bytes, and answers into values or errors. Pure (WIRE §1, §2).

An answer is decoded once, straight into what the caller wants of it (a `Shape`). Only where that
fails is it looked at again, to find out whether it is a refusal or makes no sense.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, TypeVar, cast

import attrs
import msgspec
from cattrs.gen import make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import make_converter

from async_vmapi import arguments
from async_vmapi.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    Conflict,
    DecodingError,
    InvalidArgument,
    NotFound,
    RateLimited,
    ServerError,
)
from async_vmapi.models import (
    CdromBoot,
    Console,
    CreateRequest,
    ImageBoot,
    Region,
    SSHKey,
    Template,
    VirtualMachine,
)

__all__ = [
    "ACCEPTED",
    "CONSOLE",
    "CREATED",
    "GLIMPSE",
    "GLIMPSES",
    "REGIONS",
    "SSH_KEYS",
    "TEMPLATES",
    "VM",
    "VMS",
    "Glimpse",
    "Shape",
    "decode_vm",
    "encode",
    "encode_create",
    "open_envelope",
    "raw_vm",
    "raw_vms",
    "retry_after",
]

T = TypeVar("T")

_LONGEST_MESSAGE: Final = 500


# --- requests ---------------------------------------------------------------------------------

_outward = make_converter(omit_if_default=True)
_outward.register_unstructure_hook(
    CdromBoot, make_dict_unstructure_fn(CdromBoot, _outward, iso=override(rename="cdrom"))
)
_unstructure_request = make_dict_unstructure_fn(
    CreateRequest,
    _outward,
    zone_id=override(rename="compute_zone_id"),
    boot=override(omit=True),
)


def encode(body: Mapping[str, object]) -> bytes:
    """Return `body` as JSON, exactly as it is to be signed and sent."""
    return msgspec.json.encode(body)


def encode_create(request: CreateRequest) -> bytes:
    """Return the body of a create (WIRE §2); what was not given is left out."""
    fields = _unstructure_request(request)
    fields["boot_type"] = "image" if isinstance(request.boot, ImageBoot) else "cdrom"
    fields |= _outward.unstructure(request.boot)
    return encode({"create_vm": fields})


# --- answers ----------------------------------------------------------------------------------


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    success: bool | msgspec.UnsetType = msgspec.UNSET


class _CreatedVM(msgspec.Struct, frozen=True):
    id: str | int


class _Created(_Envelope, frozen=True, kw_only=True):
    virtual_machine: _CreatedVM


class _VM(_Envelope, frozen=True, kw_only=True):
    virtual_machine: VirtualMachine | list[VirtualMachine]


class _VMs(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[VirtualMachine]


class _RawVM(msgspec.Struct, frozen=True):
    virtual_machine: msgspec.Raw


class _RawVMs(msgspec.Struct, frozen=True):
    virtual_machines: list[msgspec.Raw]


class Glimpse(msgspec.Struct, frozen=True, gc=False):
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
    virtual_machines: list[Glimpse]


class _LooseGlimpses(_Envelope, frozen=True, kw_only=True):
    virtual_machines: list[_LooseGlimpse]


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
class Shape(Generic[T]):
    """What a caller wants of an answer.

    Attributes:
        decode: Reads the whole answer.
        take: Picks the wanted value out of what `decode` returned.
        tells_success: Whether the value itself proves that the call was accepted, so that
            ``success`` may be missing (WIRE §2 documents none for console).
    """

    decode: Callable[[bytes], Any]
    take: Callable[[Any], T]
    tells_success: bool = True


def _shape(kind: type[Any], take: Callable[[Any], T], *, tells_success: bool = True) -> Shape[T]:
    return Shape(msgspec.json.Decoder(kind).decode, take, tells_success)


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
        return arguments.identifier("id", str(found))
    except InvalidArgument:
        problem = "an id that fits into no path"
    raise DecodingError(problem, where="$.virtual_machine.id")


def _tight(glimpse: _LooseGlimpse) -> Glimpse:
    return Glimpse(str(glimpse.id), glimpse.state, int(glimpse.cores), int(glimpse.ram))


_decode_glimpses = msgspec.json.Decoder(_Glimpses).decode
_decode_loose_glimpses = msgspec.json.Decoder(_LooseGlimpses).decode
_decode_raw_vms = msgspec.json.Decoder(_RawVMs).decode
_decode_raw_vm = msgspec.json.Decoder(_RawVM).decode
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


def raw_vms(body: bytes) -> list[msgspec.Raw]:
    """Return the machines of a list's body, each as its own undecoded part of it."""
    return _decode_raw_vms(body).virtual_machines


def raw_vm(body: bytes) -> msgspec.Raw:
    """Return what a get's body holds under ``virtual_machine``, undecoded."""
    return _decode_raw_vm(body).virtual_machine


def decode_vm(raw: bytes | msgspec.Raw) -> VirtualMachine:
    """Decode one machine, in either shape of a get (WIRE §2).

    Raises:
        DecodingError: If it is none.
    """
    try:
        return _only(_decode_one_vm(raw))
    except (msgspec.MsgspecError, RecursionError) as error:
        message, where = _told(error)
    raise DecodingError(message, where=where)


ACCEPTED: Final[Shape[None]] = _shape(_Envelope, lambda _: None, tells_success=False)
CREATED: Final[Shape[str]] = _shape(_Created, lambda answer: _id(answer.virtual_machine.id))
VM: Final[Shape[VirtualMachine]] = _shape(_VM, lambda answer: _only(answer.virtual_machine))
VMS: Final[Shape[list[VirtualMachine]]] = _shape(_VMs, lambda answer: answer.virtual_machines)
GLIMPSE: Final[Shape[Glimpse]] = _shape(
    _OneGlimpse, lambda answer: _tight(_only(answer.virtual_machine))
)
GLIMPSES: Final[Shape[list[Glimpse]]] = Shape(_glimpses, lambda answer: answer.virtual_machines)
CONSOLE: Final[Shape[Console]] = _shape(_Console, lambda answer: answer.console)
REGIONS: Final[Shape[list[Region]]] = _shape(_Regions, lambda answer: answer.regions)
TEMPLATES: Final[Shape[list[Template]]] = _shape(_Templates, lambda answer: answer.templates)
SSH_KEYS: Final[Shape[list[SSHKey]]] = _shape(_Account, lambda answer: answer.account.sshkeys)


# --- the envelope -----------------------------------------------------------------------------

_KINDS: Final[dict[int, type[APIError]]] = {
    401: AuthenticationError,
    403: AuthenticationError,
    404: NotFound,
    410: NotFound,
    409: Conflict,
    412: Conflict,
    423: Conflict,
    429: RateLimited,
}


def open_envelope(
    shape: Shape[T],
    status: int,
    body: bytes,
    *,
    method: str,
    path: str,
    secrets: tuple[str, ...] = (),
) -> T:
    """Return what `shape` wants of an answer, or raise what the answer means.

    Args:
        shape: What is wanted.
        status: The HTTP status.
        body: The body, as it came.
        method: The HTTP method of the call, for the error.
        path: The path of the call, for the error.
        secrets: What the call carried that no error may show, should the server repeat it.

    Raises:
        APIError: If the call was refused.
        DecodingError: If the answer fits neither `shape` nor a refusal.
    """
    problem: DecodingError
    if 200 <= status < 300:
        try:
            answer = shape.decode(body)
            if answer.success is True or (answer.success is msgspec.UNSET and shape.tells_success):
                return shape.take(answer)
            problem = DecodingError("`success` is missing", where="$")
        except DecodingError as error:
            problem = error
        except (msgspec.MsgspecError, RecursionError) as error:
            message, where = _told(error)
            problem = DecodingError(message, where=where)
        problem.method, problem.path = method, path
    else:
        problem = DecodingError()

    # Raised out here, so that no exception drags the one that held the body along.
    content = _any_object(body)
    refused = content is not None and content.get("success") is False
    if 200 <= status < 300 and not refused:
        raise problem
    if 300 <= status < 400:
        words = "a redirect, which is not followed: a signature is bound to its host"
    else:
        words = _shortened(_printable(_scrub(_words(content), secrets)))
    kind = _KINDS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else BadRequest if status >= 400 else APIError
    from_api = content is not None and content.get("success") is not True
    raise kind(words, status=status, method=method, path=path, from_api=from_api)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Read a ``Retry-After`` header: seconds or an HTTP date (WIRE §1); None if it says nothing."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value.strip(), re.ASCII):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _told(error: Exception) -> tuple[str, str]:
    # msgspec names types and places, never values; a place is "... - at `$.a.b`".
    if isinstance(error, RecursionError):
        return "nested too deeply", "$"
    message, _, place = str(error).partition(" - at ")
    return message, place.strip("`") or "$"


def _any_object(body: bytes) -> dict[str, object] | None:
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _words(content: dict[str, object] | None) -> str:
    """Return the server's explanation; its field's name and form are not known (WIRE §1)."""
    if content is None:
        return "no JSON object, perhaps a proxy's page"
    found = (content[name] for name in ("error", "message", "errors") if content.get(name))
    return "; ".join(dict.fromkeys(piece for value in found for piece in _pieces(value)))


def _pieces(value: object, depth: int = 4) -> list[str]:
    if isinstance(value, dict):
        inside = [(f"{key}: ", inner) for key, inner in cast("dict[str, object]", value).items()]
    elif isinstance(value, list):
        inside = [("", inner) for inner in cast("list[object]", value)]
    else:
        return [str(value)]
    if depth == 0:
        return ["..."]
    return [key + piece for key, inner in inside for piece in _pieces(inner, depth - 1)]


def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    forms: set[str] = set()
    for secret in filter(None, secrets):
        # As it is, and as it stands in a body that the server repeats.
        forms |= {secret, json.dumps(secret)[1:-1], msgspec.json.encode(secret).decode()[1:-1]}
    # Longest first, so that no part of one is left where another is contained in it.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[secret]")
    return text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
