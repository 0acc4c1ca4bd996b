"""The commands and their options. What they do stands in a module for each."""

import asyncio
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from async_vmapi.cli import demo as demo_command
from async_vmapi.cli import emulator as emulator_command
from async_vmapi.emulator import FaultPlan
from async_vmapi.errors import VMAPIError

__all__ = ["app"]

app = typer.Typer(
    name="async-vmapi",
    help="Create, watch and change virtual machines, or run a local cloud to try it on.",
    no_args_is_help=True,
    # A traceback with the values of variables would show secrets.
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Keep the commands' names, however many there are."""


@app.command()
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
) -> None:
    """Serve a local cloud until interrupted.

    Prints three lines for a shell to eval. The credentials are those in the environment, or
    else new ones.
    """
    try:
        plan = None if faults is None else FaultPlan.load(faults)
    except ValueError as error:
        _fail(str(error), code=2)
    try:
        asyncio.run(
            emulator_command.serve(
                host=host,
                port=port,
                allow_remote=allow_remote,
                speed=speed,
                seed=seed,
                faults=plan,
                admin=admin,
            )
        )
    except (ValueError, OSError) as error:
        _fail(str(error))


@app.command()
def demo(
    *,
    url: Annotated[str | None, typer.Option(help="Run it on this endpoint.")] = None,
    region: Annotated[str | None, typer.Option(help="Run it on this region.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes the emulator repeatable.")] = None,
) -> None:
    """Take three machines through their whole life, on a local cloud of its own.

    With --url or --region it runs on a real endpoint, after asking; the credentials are taken
    from VMAPI_API_KEY and VMAPI_API_SECRET.
    """
    console = Console(highlight=False)
    if url is not None and region is not None:
        _fail("--url and --region exclude each other", code=2)
    try:
        if url is None and region is None:
            asyncio.run(demo_command.on_emulator(console, seed=seed))
            return
        client = demo_command.real_client(url, region)
        typer.confirm(f"Create, change and delete three machines on {client!r}?", abort=True)
        asyncio.run(demo_command.on_endpoint(console, client))
    except VMAPIError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(message: str, *, code: int = 1) -> NoReturn:
    typer.echo(f"async-vmapi: {message}", err=True)
    raise typer.Exit(code)
