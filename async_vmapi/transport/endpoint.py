"""Check the endpoint, API key and session of a client."""

import contextlib
import ipaddress
import re
from typing import Final

from yarl import URL

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument

__all__ = ["check_session", "key_of", "origin_of", "url_of_region"]

_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", re.ASCII)


def check_session(session: object) -> None:
    """Check that a session sends requests as they were signed."""
    if session is None:
        return
    # Shell completion imports this module, and needs no aiohttp.
    import aiohttp

    if not isinstance(session, aiohttp.ClientSession):
        why = f"of type {type(session).__name__} is not an aiohttp.ClientSession"
    elif session.auth is not None:
        why = "has its own authorization, and a request can have only one"
    elif not session.auto_decompress:
        why = "does not decompress, so responses could not be decoded"
    else:
        return
    raise InvalidArgument(f"session {why}", argument="session")


def key_of(value: object) -> str:
    """Check an API key."""
    # A colon ends it in the header (WIRE §1).
    key = validation.text("api_key", value)
    if not key.isascii() or ":" in key or " " in key:
        raise InvalidArgument("api_key must be ASCII without spaces and colons", argument="api_key")
    return key


def origin_of(base_url: object) -> URL:
    """Check a base URL, and return its origin."""

    def refuse(why: str) -> InvalidArgument:
        return InvalidArgument(f"base_url {why}", argument="base_url")

    if not isinstance(base_url, str):
        raise refuse(f"of type {type(base_url).__name__} is not a text")
    # Quote nothing of the URL before this check: a password in it is a secret.
    if "@" in base_url:
        raise refuse("has a user name or a password in it; the key and secret are arguments")
    try:
        url = URL(base_url)
    except ValueError:
        raise refuse("is not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise refuse(
            f"{base_url!r} does not start with https:// and a host; Client.for_region takes a name"
        )
    if url.raw_path not in {"", "/"} or url.raw_query_string or url.raw_fragment:
        raise refuse(f"{base_url!r} has more than scheme, host and port; all paths are the API's")
    if not _is_host(url.raw_host or ""):
        raise refuse(f"{base_url!r} has a host that is neither a name nor an address")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise refuse(f"{base_url!r} is plain http, which is allowed only for loopback hosts")
    return url.origin()


def url_of_region(region: object) -> str:
    """Return the endpoint of a region (WIRE §1).

    Raises:
        InvalidArgument: If `region` is not a valid name.
    """
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise validation.refuse(
            "region",
            region,
            "a name of lower-case letters, digits and '-', like 'eu-poland-1warszawa'",
        )
    return f"https://{region}.api.e24cloud.com"


def _is_host(host: str) -> bool:
    if not _HOST.fullmatch(host):
        return False
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    # Reject names that no name server can know (RFC 1035 §2.3.4) instead of retrying the lookup. A
    # numeric last label is part of an incomplete address.
    labels = host.removesuffix(".").split(".")
    fits = len(host) <= 253 and all(0 < len(label) <= 63 for label in labels)
    return fits and not labels[-1].isdigit()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
