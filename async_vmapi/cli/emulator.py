"""``async-vmapi emulator``: serve a local cloud to whoever speaks the API."""

import asyncio
import contextlib
import errno
import importlib
import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from async_vmapi.cli.options import command
from async_vmapi.cli.running import ExitCode, fail, say

if TYPE_CHECKING:
    from async_vmapi.emulator import FaultPlan

__all__ = ["emulator"]


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes a loop of uvloop's.

    Raises:
        ImportError: If it is not installed.
    """
    # By its name, for it is in no extra and has no types here.
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        "uvloop"
    ).new_event_loop
    return factory


@command
def emulator(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any free port.")] = 8024,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a host that is not loopback.")
    ] = False,
    speed: Annotated[float, typer.Option(help="How much faster its clock runs.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes what it does repeatable.")] = None,
    faults: Annotated[
        Path | None, typer.Option(help="A TOML file of faults to break it with.")
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Let faults be set at /_emulator/faults.")
    ] = False,
    uvloop: Annotated[
        bool, typer.Option("--uvloop", help="Run on uvloop, which must be installed.")
    ] = False,
) -> None:
    """Serve a local cloud until interrupted.

    Prints four lines for a shell to eval: where it is, how to sign, and that its reads are not
    old (VMAPI_MAX_STALENESS=0). The credentials are those in the environment, or
    else new ones.
    """
    # It brings an HTTP server with it.
    from async_vmapi.emulator import FaultPlan

    try:
        plan = None if faults is None else FaultPlan.load(faults)
    except ValueError as error:
        fail(error, ExitCode.USAGE)
    try:
        loop_factory = _uvloop_factory() if uvloop else None
    except ImportError:
        fail("uvloop is not installed: pip install uvloop", ExitCode.USAGE)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(
                _serve(
                    host=host,
                    port=port,
                    allow_remote=allow_remote,
                    speed=speed,
                    seed=seed,
                    faults=plan,
                    admin=admin,
                )
            )
    except OSError as error:
        hint = "; --port 0 takes any free one" if error.errno == errno.EADDRINUSE else ""
        fail(f"{error}{hint}")
    except ValueError as error:
        fail(error)


async def _serve(
    *,
    host: str,
    port: int,
    allow_remote: bool,
    speed: float,
    seed: int | None,
    faults: "FaultPlan | None",
    admin: bool,
) -> None:
    """Serve until SIGINT or SIGTERM, having printed where and with which credentials."""
    from async_vmapi.emulator import Emulator

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
            ("VMAPI_MAX_STALENESS", "0"),
        ):
            print(f"export {name}={shlex.quote(value)}", flush=True)
        say("the cloud is there for whoever has these; Ctrl-C ends it, and its machines")
        await stop.wait()
