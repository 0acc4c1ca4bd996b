"""Whether the API lets a worker in: at its start, and when it refuses something later."""

import asyncio
import math
from typing import Final

from async_vmapi.client import Client
from async_vmapi.errors import AuthenticationError, VMAPIError
from async_vmapi.telemetry.logs import logger_of

__all__ = ["Access"]

_log: Final = logger_of(__name__)

_PATIENCE: Final = 15.0
"""Seconds that the API gets to answer whether it lets a worker in."""


class Access:
    """Asks the API for a list, which every key may have.

    Args:
        client: The worker's client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asking = asyncio.Lock()
        self._let_in_at = -math.inf
        self.refusal: AuthenticationError | None = None
        """Why this worker has to stop; None while it may go on."""

    async def begin(self) -> None:
        """Fail now with credentials that the API refuses, and not every item that comes here.

        Raises:
            AuthenticationError: If it refuses them.
        """
        try:
            await self._ask()
        except AuthenticationError:
            raise
        except (VMAPIError, TimeoutError) as error:
            # If it is down, workers wait for it.
            about = {"vmapi_error": type(error).__name__}
            told = error or "no answer in time"
            _log.warning("the API does not answer yet: %s", told, extra=about)

    async def is_refused(self) -> bool:
        """Return whether the API lets this worker do nothing any more.

        To be asked after a refusal (401, 403), which may be of one call alone: a quota's, say.
        """
        loop = asyncio.get_running_loop()
        since = loop.time()
        # One list that was asked for after their refusals is enough for all that wait for it.
        async with self._asking:
            if self.refusal is not None or self._let_in_at >= since:
                return self.refusal is not None
            asked = loop.time()
            try:
                await self._ask()
            except AuthenticationError as error:
                self.refusal = error
                about = {"vmapi_error": type(error).__name__}
                told = "the API refuses this worker, which stops; others go on with what it had: %s"
                _log.error(told, error, extra=about)
            except (VMAPIError, TimeoutError):
                pass  # that proves nothing
            else:
                self._let_in_at = asked
        return self.refusal is not None

    async def _ask(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._client.vms.list()
