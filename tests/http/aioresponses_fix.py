"""aioresponses for a current aiohttp."""

from typing import Any
from unittest.mock import Mock

from aiohttp import ClientResponse
from aioresponses import aioresponses


class _Response(ClientResponse):
    # aioresponses 0.7.9 does not pass the `stream_writer` that aiohttp >= 3.14 requires:
    # https://github.com/pnuckowski/aioresponses/issues/289
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


class FixedAioresponses(aioresponses):
    """`aioresponses` with responses that can be constructed."""

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Register a response."""
        kwargs.setdefault("response_class", _Response)
        super().add(*args, **kwargs)
