"""Check ``Host`` headers, to protect a local server against DNS rebinding. Pure.

A page of ``evil.example`` can make that name resolve to 127.0.0.1 and then has the same origin as a
local server. Its requests still have the name in ``Host``.
"""

import ipaddress
import re
from typing import Final

__all__ = ["is_loopback", "names_this_server"]

_AUTHORITY: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:@/]+))(?::([0-9]{1,5}))?", re.I)
_ABSOLUTE: Final = re.compile(r"http://([^/?#]*)", re.I)


def is_loopback(host: str) -> bool:
    """Return whether a name or an address always refers to this computer."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_this_server(host: str | None, target: str, port: int) -> bool:
    """Return whether a request is addressed to a loopback name or address and this port.

    Args:
        host: The ``Host`` header; None if there is none.
        target: The request target: a path, or an absolute URL (RFC 9112 §3.2.2).
        port: The port of the server.
    """
    if not _is_local(host or "", port):
        return False
    if target.startswith("/") or target == "*":
        return True
    absolute = _ABSOLUTE.match(target)
    return absolute is not None and _is_local(absolute[1], port)


def _is_local(authority: str, port: int) -> bool:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return False
    address, name, given = parts.groups()
    if address is not None and ":" not in address:
        return False
    return is_loopback(address or name) and int(given or 80) == port
