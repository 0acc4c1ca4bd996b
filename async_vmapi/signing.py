"""Sign requests as the API demands it (WIRE §1). Pure: bytes and text in, headers out.

A signature covers the method, the Host header, the date, the path with its query, and the body
exactly as sent; so whoever changes one byte of any of them makes the request invalid.
"""

import base64
import hashlib
import hmac
from datetime import datetime
from email.utils import format_datetime

import attrs

__all__ = ["Credentials", "http_date", "sign", "signature", "string_to_sign"]


@attrs.frozen
class Credentials:
    """An API key and its secret. The secret shows in no ``repr``."""

    api_key: str
    api_secret: str = attrs.field(repr=False)


def string_to_sign(method: str, host: str, date: str, target: str, body: bytes) -> bytes:
    """Build the five lines that a signature covers (WIRE §1).

    Args:
        method: The HTTP method, in capitals.
        host: The ``Host`` header's value, with the port when it is not the scheme's default.
        date: The ``X-Date`` header's value.
        target: The path with its query, as sent on the request line.
        body: The body exactly as sent; empty where there is none.
    """
    return "\n".join((method, host, date, target, "")).encode() + body


def signature(api_secret: str, message: bytes) -> str:
    """Return the Base64 text of the HMAC-SHA256 of `message` under `api_secret`."""
    return base64.b64encode(hmac.digest(api_secret.encode(), message, hashlib.sha256)).decode()


def http_date(moment: datetime) -> str:
    """Format an aware UTC `moment` as an RFC 1123 date in GMT, the form of ``X-Date``."""
    return format_datetime(moment, usegmt=True)


def sign(
    credentials: Credentials, method: str, host: str, target: str, body: bytes, moment: datetime
) -> dict[str, str]:
    """Return the headers that make a request valid, ``Host`` included.

    The Host header is set and not left to the HTTP library, since it is part of what is signed.
    """
    date = http_date(moment)
    signed = signature(credentials.api_secret, string_to_sign(method, host, date, target, body))
    return {
        "Host": host,
        "Content-Type": "application/json",
        "X-Date": date,
        "Authorization": f"{credentials.api_key}:{signed}",
    }
