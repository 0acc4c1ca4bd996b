"""``async-vmapi emulator``: serve a local cloud to any client of the API."""

import asyncio
import enum
import errno
import importlib
import os
import re
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from async_vmapi.cli.commands import command
from async_vmapi.cli.running import ExitCode, fail, say, signals_handled_in
from async_vmapi.errors import InvalidArgument

if TYPE_CHECKING:
    from async_vmapi.emulator import FaultPlan, Settings

__all__ = ["Shell", "default_shell", "emulator", "export"]

_CMD_SPECIAL: Final = re.compile(r'[\^"&|<>()]')
# PowerShell takes typographic quotes for plain ones.
_POWERSHELL_QUOTE: Final = re.compile("['\u2018-\u201b]")


class Shell(enum.StrEnum):
    """A shell that loads the emulator's variables."""

    SH = "sh"
    POWERSHELL = "powershell"
    CMD = "cmd"


def default_shell(platform: str, environ: Mapping[str, str]) -> Shell:
    """Return PowerShell on Windows, except in a Unix shell such as Git's; elsewhere sh."""
    windows = platform == "win32" and "SHELL" not in environ
    return Shell.POWERSHELL if windows else Shell.SH


def export(shell: Shell, name: str, value: str) -> str:
    """Return the line of a shell's script that sets an environment variable to any text."""
    if shell is Shell.POWERSHELL:
        doubled = _POWERSHELL_QUOTE.sub(r"\g<0>\g<0>", value)
        return f"$env:{name} = '{doubled}'"
    if shell is Shell.CMD:
        escaped = _CMD_SPECIAL.sub(r"^\g<0>", value).replace("%", "%%")
        return f"set {name}={escaped}"
    return f"export {name}={shlex.quote(value)}"


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's event loop factory.

    Raises:
        ImportError: If uvloop is not installed.
    """
    # Imported by name: it is in no extra and has no types here.
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
        "uvloop"
    ).new_event_loop
    return factory


@command
def emulator(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8024,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option(help="Allow addresses other than loopback.")
    ] = False,
    speed: Annotated[
        float,
        typer.Option(
            help="How many times faster its clock runs. A client's polling intervals and its grace "
            "period of 60 s stay, so it misses what is over sooner."
        ),
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Random seed, for reproducible runs.")] = None,
    faults: Annotated[Path | None, typer.Option(help="TOML file of faults to inject.")] = None,
    facts: Annotated[
        Path | None,
        typer.Option(help="TOML file of facts about a provider to behave like.", dir_okay=False),
    ] = None,
    get_shape: Annotated[
        Literal["object", "list"] | None,
        typer.Option(
            help="What a GET of one VM returns: the VM, or a list with it. By default, what the "
            "facts say, else object."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(help="Refuse requests that other clients send though no page documents them."),
    ] = False,
    control: Annotated[
        bool,
        typer.Option(
            help="Serve the control API at /_emulator, and print its token: the one in "
            "VMAPI_CONTROL_TOKEN, or a new one."
        ),
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps the cloud when the emulator stops or is killed. If it has a "
            "cloud, that one continues, and options for a new cloud have no effect."
        ),
    ] = None,
    page: Annotated[
        bool,
        typer.Option(
            help="Serve a page for the cloud, for a browser on this computer, and print its URL. "
            "Implies --control."
        ),
    ] = False,
    uvloop: Annotated[bool, typer.Option(help="Run on uvloop, if it is installed.")] = False,
    shell: Annotated[
        Shell | None,
        typer.Option(
            metavar="sh|powershell|cmd",
            help="Shell to print the variables for; by default PowerShell on Windows, else sh.",
        ),
    ] = None,
) -> None:
    """Run the emulator, a local cloud, until interrupted.

    Prints four lines for a shell to load, which set variables: the URL, the API key, the secret,
    and VMAPI_MAX_STALENESS, which is 0 unless facts make its reads stale; --control adds a line
    with VMAPI_CONTROL_TOKEN. The URL of the --page is printed to standard error. Uses the
    credentials in VMAPI_API_KEY and VMAPI_API_SECRET, or generates new ones.
    """
    # Imports an HTTP server.
    from async_vmapi.emulator import FaultPlan, Settings

    changes: dict[str, object] = {"strict": strict}
    if get_shape is not None:
        changes["get_shape"] = get_shape
    settings = Settings() if facts is None else Settings.from_facts(facts)
    settings = settings.changed(**changes)
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
                    settings=settings,
                    faults=plan,
                    control=control or page,
                    state=state,
                    page=page,
                    shell=shell or default_shell(sys.platform, os.environ),
                )
            )
    except OSError as error:
        hint = "; use --port 0 for any free port" if error.errno == errno.EADDRINUSE else ""
        fail(f"{error}{hint}")
    except InvalidArgument as error:
        fail(error, ExitCode.USAGE)
    except ValueError as error:
        fail(error)


async def _serve(
    *,
    host: str,
    port: int,
    allow_remote: bool,
    speed: float,
    seed: int | None,
    settings: "Settings",
    faults: "FaultPlan | None",
    control: bool,
    state: Path | None,
    page: bool,
    shell: Shell,
) -> None:
    """Print the URL and credentials, and serve until SIGINT or SIGTERM."""
    from async_vmapi.emulator import Emulator

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    token = None
    if control:
        token = os.environ.get("VMAPI_CONTROL_TOKEN") or secrets.token_urlsafe(32)
    emulator = Emulator(
        host=host,
        port=port,
        allow_remote=allow_remote,
        speed=speed,
        seed=seed,
        settings=settings,
        api_key=os.environ.get("VMAPI_API_KEY") or None,
        api_secret=os.environ.get("VMAPI_API_SECRET") or None,
        faults=faults,
        control_token=token,
        state=state,
        page=page,
    )
    with signals_handled_in(loop, lambda *_: loop.call_soon_threadsafe(stop.set)):
        async with emulator:
            variables = {
                "VMAPI_URL": emulator.url,
                "VMAPI_API_KEY": emulator.api_key,
                "VMAPI_API_SECRET": emulator.api_secret,
                "VMAPI_MAX_STALENESS": f"{emulator.cloud.settings.max_staleness:g}",
            }
            if token is not None:
                variables["VMAPI_CONTROL_TOKEN"] = token
            # All at once, for those who wait until a file has them.
            print("\n".join(export(shell, *each) for each in variables.items()), flush=True)
            kept = "discards its VMs" if state is None else f"keeps its VMs in {state}"
            found = f" with the {len(emulator.cloud.vms)} VMs" if emulator.continues else ""
            say(f"the emulator is running{found}; Ctrl-C stops it and {kept}")
            if page:
                say(f"open the page of the cloud in a browser: {emulator.page_url}")
            await stop.wait()
