"""Send an answer that is at hand as a whole: head and body in one write.

`aiohttp.web.Response` is made for answers of any kind, and works each one's head out anew; that
takes longer than all that the cloud does for a request.
"""

import functools
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from async_vmapi.emulator.api import Response

__all__ = ["whole"]

_MOST: Final = 64 * 1024


class _Whole(web.StreamResponse):
    def __init__(self, answer: Response) -> None:
        super().__init__(status=answer.status)
        self._answer = answer

    @property
    def keep_alive(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        answer = self._answer
        head = _head(answer.status, tuple(answer.headers.items()))
        length = b"Content-Length: %d\r\n\r\n" % len(answer.body)
        await request.writer.write(head + length + answer.body)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: all was sent."""


def whole(request: web.BaseRequest, answer: Response) -> web.StreamResponse:
    """Return what sends `answer`, as fast as the request and the answer's size allow.

    Args:
        request: What is answered.
        answer: The answer; its headers have its date, and say nothing of its length.
    """
    plain = request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD"
    # What is larger goes out as the client takes it.
    if plain and len(answer.body) <= _MOST:
        return _Whole(answer)
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@functools.lru_cache(maxsize=32)
def _head(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    # All responses of a second have the same date.
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
