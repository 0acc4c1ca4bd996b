"""Who may control a cloud: local programs that know the token, and no other site's page. Pure."""

import hmac
import re
from collections.abc import Mapping
from typing import Final

from async_vmapi.emulator.host_check import names_this_server

__all__ = ["SHORTEST_TOKEN", "check_token", "refusal"]

SHORTEST_TOKEN: Final = 16
"""Minimum length of a token, in characters."""

# What a header can hold: RFC 6750 §2.1.
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def check_token(token: str) -> None:
    """Raise `ValueError`, without the token, if it is no token for `refusal`."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError(
            "control_token may have letters, digits and -._~+/ only; "
            "use for example secrets.token_urlsafe()"
        )
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(
            f"control_token has {len(token)} characters; use {SHORTEST_TOKEN} or more, "
            "for example secrets.token_urlsafe()"
        )


def refusal(
    headers: Mapping[str, str], target: str, *, port: int, token: str
) -> tuple[int, str] | None:
    """Return the status and the text of the refusal of a request; None if it is allowed.

    Args:
        headers: Its headers; names are case-insensitive.
        target: Its path and query, or its URL.
        port: The port of the server.
        token: The only valid token.
    """
    host = headers.get("Host", "")
    if not names_this_server(host, target, port):
        return 421, f"Host must be a loopback name or address with port {port}"
    # Browsers send them with requests of pages, also with those of other sites.
    origin = headers.get("Origin")
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return 403, "requests from other origins are not allowed"
    if headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        return 403, "requests from other sites are not allowed"
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    valid = hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
    if scheme.lower() != "bearer" or not valid:
        return 401, "Authorization must be: Bearer, and the control token of this emulator"
    return None
