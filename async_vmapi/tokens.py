"""Small texts to go on from, in this process or another: of tasks, and of writes in doubt. Pure.

A token is JSON with a version and a checksum. It names the endpoint that it belongs to and holds
no secret.
"""

import zlib
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from async_vmapi import arguments
from async_vmapi.errors import InvalidArgument
from async_vmapi.models import Operation

__all__ = ["DoubtToken", "TaskToken", "Token", "read", "seal"]

_VERSION: Final = 1


class TaskToken(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="task"
):
    """What a task is about, and how much of it is known.

    Attributes:
        trace: What whoever observes the client refers to the task by.
    """

    origin: str
    operation: Operation
    vm: str
    elapsed: float
    cores: int | None = None
    ram: int | None = None
    wait_for: int = 0
    seen: bool = False
    adopted: bool = False
    trace: str | None = None


class DoubtToken(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="doubt"
):
    """A write of which nobody knows whether it was carried out.

    Attributes:
        known: Ids that bore a create's name before it; None if that was not known.
        trace: What whoever observes the client refers to the write by.
    """

    origin: str
    operation: Literal["create", "reboot", "reset"]
    vm: str = ""
    name: str = ""
    cores: int = 0
    ram: int = 0
    unique: bool = False
    known: tuple[str, ...] | None = None
    trace: str | None = None


Token: TypeAlias = TaskToken | DoubtToken


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    # The sum is of the content's very bytes, so those are kept as they came.
    v: int
    sum: int
    about: msgspec.Raw


_decode_sealed = msgspec.json.Decoder(_Sealed).decode
_decode_token: Callable[[msgspec.Raw], Token] = msgspec.json.Decoder(Token).decode


def seal(token: Token) -> str:
    """Return a token's text."""
    body = msgspec.json.encode(token)
    sealed = _Sealed(v=_VERSION, sum=zlib.crc32(body), about=msgspec.Raw(body))
    return msgspec.json.encode(sealed).decode()


def read(text: object, origin: str) -> Token:
    """Read a token's text.

    Args:
        text: What `seal` returned, here or elsewhere.
        origin: The endpoint that it must belong to.

    Raises:
        InvalidArgument: If it is damaged, of another version, or of another endpoint.
    """

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"token {why}", argument="token")

    if not isinstance(text, str):
        raise refuse(f"of type {type(text).__name__} is not a text")
    try:
        sealed = _decode_sealed(text)
        version_fits = sealed.v == _VERSION
        intact = sealed.sum == zlib.crc32(sealed.about)
        token = _decode_token(sealed.about) if version_fits and intact else None
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise refuse("is damaged, or is no token") from None
    if not version_fits:
        raise refuse(f"is of version {sealed.v}; this release reads version {_VERSION}")
    if token is None:
        raise refuse("is damaged: its sum does not fit")
    if token.origin != origin:
        raise refuse(f"belongs to {token.origin}, and this client talks to {origin}")
    if isinstance(token, TaskToken) or token.vm:
        arguments.identifier("token's vm", token.vm)
    return token
