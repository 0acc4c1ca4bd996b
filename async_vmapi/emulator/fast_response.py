"""Send a complete response, head and body, in one write where possible.

`aiohttp.web.Response` builds each head from scratch, which takes longer than the rest of handling a
request.
"""

import functools
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from async_vmapi.transport.transport import Response

__all__ = ["whole"]

_MOST: Final = 64 * 1024


class _Whole(web.StreamResponse):
    def __init__(self, response: Response) -> None:
        super().__init__(status=response.status)
        self._response = response

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        response = self._response
        head = _head(response.status, tuple(response.headers.items()))
        length = b"Content-Length: %d\r\n\r\n" % len(response.body)
        await request.writer.write(head + length + response.body)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing; everything was sent."""


def whole(request: web.BaseRequest, response: Response) -> web.StreamResponse:
    """Return an aiohttp response that sends `response`, in one write if possible.

    Args:
        request: The request.
        response: The response; its headers have a Date but no Content-Length.
    """
    plain = request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD"
    # Larger bodies need flow control.
    if plain and len(response.body) <= _MOST:
        return _Whole(response)
    return web.Response(status=response.status, headers=response.headers, body=response.body)


@functools.lru_cache(maxsize=32)
def _head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    # All responses of a second have the same date.
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
