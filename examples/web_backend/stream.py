"""Server-sent events: one stream for a page, of the fleet and of the tasks that it asked for."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from web_backend.fleet import Fleet
from web_backend.tracker import Tracker

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent, lest a proxy close the stream."""

Message = tuple[str, dict[str, Any]]


async def stream(fleet: Fleet, tracker: Tracker, tokens: list[str]) -> AsyncIterator[str]:
    """Iterate over the stream's text. It ends when the listener goes.

    A browser that loses it asks for another, of this worker or the next, and is told anew how all
    things stand; so nothing has to be remembered for it.
    """
    news: asyncio.Queue[Message] = asyncio.Queue(100)
    sources = [
        asyncio.create_task(tell_fleet(fleet, news)),
        *(asyncio.create_task(tell_task(tracker, token, news)) for token in tokens),
    ]
    try:
        yield "retry: 500\n\n"  # milliseconds until a browser connects again
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    kind, content = await news.get()
            except TimeoutError:
                yield ": still here\n\n"
            else:
                yield f"event: {kind}\ndata: {json.dumps(content)}\n\n"
    finally:
        for source in sources:
            source.cancel()


async def tell_fleet(fleet: Fleet, news: asyncio.Queue[Message]) -> None:
    """Tell of the fleet."""
    async with contextlib.aclosing(fleet.changes()) as changes:
        async for seen in changes:
            await news.put(("fleet", seen))


async def tell_task(tracker: Tracker, token: str, news: asyncio.Queue[Message]) -> None:
    """Tell of one task, to its end."""
    async for seen in tracker.changes(token):
        await news.put(("task", {"token": token, **seen}))
