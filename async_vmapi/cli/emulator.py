"""``async-vmapi emulator``: serve a local cloud to whoever speaks the API."""

import asyncio
import contextlib
import importlib
import os
import shlex
import signal
from collections.abc import Callable

from async_vmapi.emulator import Emulator, FaultPlan

__all__ = ["serve", "uvloop_factory"]


def uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of uvloop's.

    Raises:
        ImportError: If it is not installed.
    """
    # By its name, for it is in no extra and has no types here.
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        "uvloop"
    ).new_event_loop
    return factory


async def serve(
    *,
    host: str,
    port: int,
    allow_remote: bool,
    speed: float,
    seed: int | None,
    faults: FaultPlan | None,
    admin: bool,
) -> None:
    """Serve until SIGINT or SIGTERM, having printed where and with which credentials."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Where the loop knows no signals (Windows), Ctrl-C cancels instead.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    async with Emulator(
        host=host,
        port=port,
        allow_remote=allow_remote,
        speed=speed,
        seed=seed,
        api_key=os.environ.get("VMAPI_API_KEY") or None,
        api_secret=os.environ.get("VMAPI_API_SECRET") or None,
        faults=faults,
        admin=admin,
    ) as emulator:
        for name, value in (
            ("VMAPI_URL", emulator.url),
            ("VMAPI_API_KEY", emulator.api_key),
            ("VMAPI_API_SECRET", emulator.api_secret),
        ):
            print(f"export {name}={shlex.quote(value)}", flush=True)
        await stop.wait()
