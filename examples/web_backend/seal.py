"""Sealed tokens: a token of the SDK with a signature of this service."""

import hashlib
import hmac
import os
from typing import Final

from async_vmapi import InvalidArgument

LABEL: Final = b"async_vmapi web_backend tokens 1"


class Seal:
    """Signs tokens, and verifies those signed with the same key.

    Args:
        key: The key, shared by all workers.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_env(cls) -> "Seal":
        """Return a seal with the key in ``WEB_BACKEND_KEY``.

        If it is not set, the key is derived from ``VMAPI_API_SECRET``, which all workers share and
        which stays the same after a restart.

        Raises:
            InvalidArgument: If neither is set.
        """
        if key := os.environ.get("WEB_BACKEND_KEY"):
            return cls(os.fsencode(key))
        if secret := os.environ.get("VMAPI_API_SECRET"):
            return cls(hmac.digest(os.fsencode(secret), LABEL, hashlib.sha256))
        raise InvalidArgument(
            "not set in the environment: WEB_BACKEND_KEY or VMAPI_API_SECRET",
            argument="WEB_BACKEND_KEY",
        )

    def close(self, token: str) -> str:
        """Return the sealed token, which is URL-safe text too."""
        return f"{token}.{self._signature(token)}"

    def open(self, sealed: str) -> str:
        """Return the SDK's token; raise `InvalidArgument` if this service did not seal it."""
        token, _, signature = sealed.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(token).encode()):
            raise InvalidArgument("token was not issued by this service", argument="token")
        return token

    def _signature(self, token: str) -> str:
        return hmac.new(self._key, token.encode(), hashlib.sha256).hexdigest()
