"""``async-vmapi emulator``: serve a local cloud to whoever speaks the API."""

import asyncio
import contextlib
import os
import shlex
import signal

from async_vmapi.emulator import Emulator, FaultPlan

__all__ = ["serve"]


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
