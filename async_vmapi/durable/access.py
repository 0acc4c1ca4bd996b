"""Check a worker's API credentials: at its start, and after a refusal."""

import asyncio
import math
from typing import Final

from async_vmapi.client import Client
from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Access"]

_log: Final = logger_of(__name__)

_PATIENCE: Final = 15.0
"""Timeout of the check in seconds."""


class Access:
    """Checks the credentials by listing VMs, which every key may do.

    Args:
        client: The worker's client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._accepted_at = -math.inf
        self.refusal: AuthenticationError | None = None
        """Why this worker has to stop; None while its credentials are accepted."""

    async def begin(self) -> None:
        """Check the credentials at the start, so that refused ones do not fail every item.

        Raises:
            AuthenticationError: If the API refuses them.
        """
        try:
            await self._ask()
        except AuthenticationError:
            raise
        except (VMAPIError, TimeoutError) as error:
            # If the API is down, keep waiting.
            fields = {"vmapi_error": type(error).__name__}
            reason = error or "timeout"
            _log.warning("the API does not respond yet: %s", reason, extra=fields)

    async def is_refused(self) -> bool:
        """Return whether the API refuses this worker's credentials altogether.

        Call it after a refusal (401, 403), which may concern one call only, for instance a quota.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        # One list after their refusals suffices for all concurrent callers.
        async with self._lock:
            if self.refusal is not None or self._accepted_at >= since:
                return self.refusal is not None
            asked = loop.time()
            try:
                await self._ask()
            except AuthenticationError as error:
                self.refusal = error
                fields = {"vmapi_error": type(error).__name__}
                message = "the API refuses this worker, which stops; others resume its items: %s"
                _log.error(message, error, extra=fields)
            except (VMAPIError, TimeoutError):
                pass  # inconclusive
            else:
                self._accepted_at = asked
        return self.refusal is not None

    async def _ask(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._client.vms.list()
