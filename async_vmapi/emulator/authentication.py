"""Check that a request is signed as in WIRE §1, or as other clients sign (WIRE §6). Pure."""

import hmac
import re
from datetime import datetime, timedelta
from typing import Final

from async_vmapi.emulator.dates import moment_of
from async_vmapi.emulator.request import Request
from async_vmapi.emulator.vm import Refused
from async_vmapi.signing import SigningKey, string_to_sign

__all__ = ["authenticate"]

_TOLERANCE: Final = timedelta(minutes=15)
_SIGNED: Final = ("content-type", "host", "x-date", "authorization")
_JSON: Final = re.compile(r'application/json\s*;\s*charset="?utf-8"?', re.IGNORECASE)
_PORT: Final = re.compile(r":[0-9]+\Z")


def authenticate(
    request: Request, api_key: str, key: SigningKey, *, strict: bool, today: datetime
) -> None:
    """Refuse a request that the owner of the key has not signed just now.

    Args:
        request: The request.
        api_key: The only valid API key.
        key: Its secret.
        strict: Whether to refuse what is not documented (WIRE §6).
        today: The current date.

    Raises:
        Refused: If it is not signed so.
    """
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        lowered = name.lower()
        # Otherwise one value could be signed and the other one used.
        if lowered in headers and lowered in _SIGNED:
            raise Refused(400, f"duplicate header {lowered}")
        headers[lowered] = value
    content_type = headers.get("content-type", "")
    if content_type != "application/json" and (strict or not _JSON.fullmatch(content_type)):
        raise Refused(415, "Content-Type must be application/json")
    for name in _SIGNED[1:]:
        if not headers.get(name):
            raise Refused(401, f"header {name} is missing")
    date = headers["x-date"]
    if abs(today - moment_of(date, strict)) > _TOLERANCE:
        raise Refused(401, "X-Date is too far from now")
    host = headers["host"]
    given = headers["authorization"].encode("utf-8", "replace")
    try:
        if _is_signed(request, host, date, given, api_key, key):
            return
        without_port = _PORT.sub("", host)
        if not strict and _is_signed(request, without_port, date, given, api_key, key):
            return
    except UnicodeEncodeError:
        raise Refused(400, "path and headers must be UTF-8") from None
    raise Refused(401, "signature does not match")


def _is_signed(
    request: Request, host: str, date: str, given: bytes, api_key: str, key: SigningKey
) -> bool:
    signed = string_to_sign(request.method, host, date, request.target, request.body)
    return hmac.compare_digest(f"{api_key}:{key.signature(signed)}".encode(), given)
