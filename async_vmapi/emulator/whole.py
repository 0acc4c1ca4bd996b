"""Send an answer that is at hand as a whole: head and body in one write.

`aiohttp.web.Response` is made for answers of any kind, and works each one's head out anew; that
takes longer than all that the cloud does for a request.
"""

import functools
import time
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from async_vmapi.emulator.api import Response
from async_vmapi.signing import http_date

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
        head = _status_line(answer.status) + _date_line(int(time.time()))
        for name, value in answer.headers.items():
            head += f"{name}: {value}\r\n"
        head += f"Content-Length: {len(answer.body)}\r\n\r\n"
        await request.writer.write(head.encode("latin-1") + answer.body)
        return request.writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: all was sent."""


def whole(request: web.BaseRequest, answer: Response) -> web.StreamResponse:
    """Return what sends `answer`, as fast as the request and the answer's size allow.

    Args:
        request: What is answered.
        answer: The answer; its headers say nothing of its length.
    """
    plain = request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD"
    # What is larger goes out as the client takes it.
    if plain and len(answer.body) <= _MOST:
        return _Whole(answer)
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@functools.lru_cache(maxsize=32)
def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"


@functools.lru_cache(maxsize=2)
def _date_line(second: int) -> str:
    return f"Date: {http_date(datetime.fromtimestamp(second, UTC))}\r\n"
