"""Tokens: short texts from which another process resumes a task or reconciles a write. Pure.

A token is URL-safe text: base64url, without padding, of a version byte, a checksum and JSON. It
names the endpoint that it belongs to and holds no secret.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.readiness.conditions import Ready
from async_vmapi.tasks.completion import Evidence
from async_vmapi.tasks.rules import Awaited

__all__ = ["IntentToken", "TaskToken", "Token", "peek", "read", "ready_of", "seal", "stored"]

_VERSION: Final = 2
_HEAD: Final = struct.Struct(">BI")
"""The version and the checksum of what follows."""

_DAMAGED: Final = "is damaged, or is no token: copy the whole text, which is one word"

_SHORT: Final = {
    "origin": "o",
    "operation": "p",
    "vm": "v",
    "elapsed": "e",
    "cores": "c",
    "ram": "r",
    "wait_for": "w",
    "seen": "s",
    "adopted": "a",
    "was_missing": "m",
    "trace": "t",
    "name": "n",
    "unique": "u",
    "known": "k",
    "ready": "q",
    "completed": "d",
}
"""Short names keep tokens small."""


class _Content(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename=_SHORT,
    tag_field="y",
):
    """What both kinds of tokens have in common: their encoding."""


class TaskToken(_Content, frozen=True, tag="t"):
    """An accepted operation, and what is known of its progress.

    Attributes:
        trace: The observer's reference to the task.
        ready: The conditions of its readiness that can be stored; None for none.
        completed: The evidence of the operation's completion, if only readiness is missing.
    """

    origin: str
    operation: Awaited
    vm: str
    elapsed: float
    cores: int | None = None
    ram: int | None = None
    wait_for: int = 0
    seen: bool = False
    adopted: bool = False
    was_missing: bool = False
    trace: str | None = None
    ready: str | None = None
    completed: Evidence | None = None


class IntentToken(_Content, frozen=True, tag="d"):
    """A write that was prepared, or whose outcome is unknown.

    Attributes:
        known: IDs of the VMs that had a create's name before it; None if unknown.
        trace: The observer's reference to the write.
        ready: The conditions of its task's readiness that can be stored; None for none.
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
    ready: str | None = None


Token: TypeAlias = TaskToken | IntentToken


_decode: Callable[[bytes], Token] = msgspec.json.Decoder(Token).decode


def seal(token: Token) -> str:
    """Return a token's text: letters, digits, ``-`` and ``_``; the first is always a letter."""
    body = msgspec.json.encode(token)
    return _text_of(_HEAD.pack(_VERSION, zlib.crc32(body)) + body)


def read(text: object, origin: str) -> Token:
    """Read a token's text.

    Args:
        text: What `seal` returned, in this process or another.
        origin: The endpoint that it must belong to.

    Raises:
        InvalidArgument: If it is damaged, of another version, or of another endpoint.
    """

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"token {why}", argument="token")

    if not isinstance(text, str):
        raise refuse(f"of type {type(text).__name__} is not a text")
    content = _bytes_of(text)
    if content is None:
        raise refuse(_DAMAGED)
    version, checksum = _HEAD.unpack_from(content)
    body = content[_HEAD.size :]
    if checksum != zlib.crc32(body):
        raise refuse(_DAMAGED)
    if version != _VERSION:
        raise refuse(
            f"is of version {version}; use the release that made it: this one reads {_VERSION}"
        )
    try:
        token = _decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise refuse(_DAMAGED) from None
    if token.origin != origin:
        raise refuse(
            f"belongs to {token.origin}, and this client is of {origin}: use one of that endpoint"
        )
    if isinstance(token, TaskToken) or token.vm:
        validation.identifier("token's vm", token.vm)
    ready_of(token)
    return token


def ready_of(token: Token) -> Ready | None:
    """Return the readiness that a token's task waits for; None for none."""
    return None if token.ready is None else Ready.parse(token.ready)


def stored(ready: Ready | None) -> str | None:
    """Return the text of a task's readiness for its token, without functions."""
    return None if ready is None else str(ready.storable)


def peek(text: str) -> Token | None:
    """Return a token's content without checking its endpoint; None if it cannot be read."""
    content = _bytes_of(text)
    try:
        return None if content is None else _decode(content[_HEAD.size :])
    except (msgspec.MsgspecError, RecursionError):
        return None


def _text_of(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes_of(text: str) -> bytes | None:
    text = text.strip()  # a line of a file ends with a newline
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    # Python ignores characters outside the alphabet, and leftover bits.
    return content if len(content) >= _HEAD.size and _text_of(content) == text else None
