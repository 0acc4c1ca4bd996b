"""The commands and their options. What they do stands in a module for each."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from async_vmapi.cli import catalogue, fleet, jobs, vms
from async_vmapi.cli import demo as demo_command
from async_vmapi.cli import emulator as emulator_command
from async_vmapi.cli.operations import ask_first
from async_vmapi.cli.options import Yes, command
from async_vmapi.cli.output import console_for
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.running import ExitCode, fail, run
from async_vmapi.cli.wait import wait
from async_vmapi.cli.watch import watch
from async_vmapi.cli.worker import worker
from async_vmapi.emulator import FaultPlan

__all__ = ["app"]

app = typer.Typer(
    name="async-vmapi",
    help="Create, watch and change virtual machines, or run a local cloud to try it on.",
    no_args_is_help=True,
    # A traceback with the values of variables would show secrets.
    pretty_exceptions_enable=False,
)
app.add_typer(vms.app, name="vms")
app.add_typer(fleet.app, name="fleet")
app.add_typer(jobs.app, name="jobs")
for function in (catalogue.regions, catalogue.templates, catalogue.keys, wait, watch, worker):
    app.command()(function)


@app.callback()
def root(
    ctx: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(
            envvar="VMAPI_PROFILE",
            help="A profile of profiles.toml; else the environment's VMAPI_* are used.",
        ),
    ] = None,
) -> None:
    """Keep what all commands need."""
    ctx.obj = profile


@app.command()
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

    Prints three lines for a shell to eval. The credentials are those in the environment, or
    else new ones.
    """
    try:
        plan = None if faults is None else FaultPlan.load(faults)
    except ValueError as error:
        fail(error, ExitCode.USAGE)
    try:
        loop_factory = emulator_command.uvloop_factory() if uvloop else None
    except ImportError:
        fail("uvloop is not installed: pip install uvloop", ExitCode.USAGE)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(
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
        fail(error)


@app.command()
@command
def demo(
    ctx: typer.Context,
    *,
    count: Annotated[int, typer.Option(min=4, max=400, help="How many machines.")] = 40,
    real: Annotated[
        bool, typer.Option("--real", help="On the endpoint of the profile or the environment.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Makes the emulator repeatable.")] = None,
    yes: Yes = False,
) -> None:
    """Take a fleet through its life, on a local cloud of its own whose clock runs faster.

    With --real it runs on a real endpoint, after asking, and costs what machines cost.
    """
    console = console_for(json=False)
    if not real:
        raise typer.Exit(run(demo_command.on_emulator(console, count, seed), demo_command.FastLoop))
    client = client_for(ctx.obj)
    ask_first(f"create, reboot and delete on {client!r}", demo_command.names(count), yes=yes)
    raise typer.Exit(run(demo_command.on_endpoint(console, client, count)))
