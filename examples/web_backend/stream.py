"""Server-sent events: one stream for a page, with the fleet and the page's tasks."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from web_backend.fleet import Fleet
from web_backend.tracker import Tracker

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment is sent, so that proxies keep the stream."""

Message = tuple[str, dict[str, Any]]


async def stream(fleet: Fleet, tracker: Tracker, tokens: list[str]) -> AsyncIterator[str]:
    """Yield the text of the stream until the listener disconnects.

    A browser that reconnects, to this worker or another one, gets the current state first, so the
    server does not need to remember what it has sent.
    """
    messages: asyncio.Queue[Message] = asyncio.Queue(100)
    sources = [
        asyncio.create_task(send_fleet(fleet, messages)),
        *(asyncio.create_task(send_task(tracker, token, messages)) for token in tokens),
    ]
    try:
        yield "retry: 500\n\n"  # milliseconds until a browser reconnects
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    kind, content = await messages.get()
            except TimeoutError:
                yield ": still here\n\n"
            else:
                yield f"event: {kind}\ndata: {json.dumps(content)}\n\n"
    finally:
        for source in sources:
            source.cancel()


async def send_fleet(fleet: Fleet, messages: asyncio.Queue[Message]) -> None:
    """Send the changes of the fleet."""
    async with contextlib.aclosing(fleet.changes()) as changes:
        async for state in changes:
            await messages.put(("fleet", state))


async def send_task(tracker: Tracker, token: str, messages: asyncio.Queue[Message]) -> None:
    """Send the changes of one task until it ends."""
    async for status in tracker.changes(token):
        await messages.put(("task", {"token": token, **status}))
