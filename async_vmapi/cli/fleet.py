"""``async-vmapi fleet``: many machines at once, by `client.bulk`."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from async_vmapi.cli.operations import Work, ask_first, carry_out
from async_vmapi.cli.options import Fleet, How, New, Told, WaitFor, Yes, command, read_text
from async_vmapi.cli.output import who
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.requests import names_of, requests_for, secrets_of
from async_vmapi.cli.running import ExitCode, fail, run, say
from async_vmapi.models import CreateRequest, VirtualMachine
from async_vmapi.report import BulkReport

__all__ = ["app"]

app = typer.Typer(help="Create and change many machines at once.", no_args_is_help=True)

_ASKED_FIRST: Final = frozenset({"resize", "shutdown", "reboot", "reset", "power_off", "delete"})


@app.command()
@command
def create(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, help="How many.")],
    name: Annotated[str, typer.Option(help="A pattern of their labels, like 'web-{:04}'.")],
    new: New,
    how: How,
    told: Told,
    first: Annotated[int, typer.Option(min=0, help="The first one's number.")] = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from this report of the same command.")
    ] = None,
) -> None:
    """Create machines, and wait until all are online."""
    client = client_for(ctx.obj)
    plan, secrets, names = how.plan(), secrets_of(new), names_of(name, count, first)
    earlier = None if resume is None else BulkReport.from_json(read_text(resume))

    async def ask() -> list[CreateRequest]:
        async with client:
            return await requests_for(client, names, new, secrets)

    requests = run(ask())
    carry_out(
        client,
        Work(
            operation="create",
            total=count,
            call=lambda bulk: (
                bulk.create(requests, unique_name=new.unique_name)
                if earlier is None
                else bulk.resume(earlier, requests)
            ),
            plan=plan,
            json=told.json,
            file=told.report,
        ),
    )


@app.command()
@command
def resize(
    ctx: typer.Context,
    cores: Annotated[int, typer.Option(min=1)],
    ram: Annotated[int, typer.Option(min=1, help="In MB.")],
    which: Fleet,
    how: How,
    told: Told,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Give machines other cores and memory; running ones are shut down for it."""
    keywords = {"cores": cores, "ram": ram, "wait_for": wait_for}
    _operate(ctx, "resize", which, how, told, keywords, yes=yes)


@app.command()
@command
def shutdown(
    ctx: typer.Context,
    which: Fleet,
    how: How,
    told: Told,
    wait_for: WaitFor = 4,
    yes: Yes = False,
) -> None:
    """Ask the guests to shut down; turn off those that do not."""
    _operate(ctx, "shutdown", which, how, told, {"wait_for": wait_for}, yes=yes)


@app.command()
@command
def delete(
    ctx: typer.Context,
    which: Fleet,
    how: How,
    told: Told,
    delete_resources: Annotated[
        bool, typer.Option("--delete-resources", help="Delete their additional resources too.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Delete machines."""
    keywords = {"delete_resources": delete_resources}
    _operate(ctx, "delete", which, how, told, keywords, yes=yes)


@app.command()
@command
def reboot(ctx: typer.Context, which: Fleet, how: How, told: Told, yes: Yes = False) -> None:
    """Ask the guests to reboot."""
    _operate(ctx, "reboot", which, how, told, {}, yes=yes)


@app.command()
@command
def reset(ctx: typer.Context, which: Fleet, how: How, told: Told, yes: Yes = False) -> None:
    """Turn machines off and on again, hard."""
    _operate(ctx, "reset", which, how, told, {}, yes=yes)


@app.command()
@command
def power_on(ctx: typer.Context, which: Fleet, how: How, told: Told) -> None:
    """Start machines."""
    _operate(ctx, "power_on", which, how, told, {}, yes=True)


@app.command()
@command
def power_off(ctx: typer.Context, which: Fleet, how: How, told: Told, yes: Yes = False) -> None:
    """Turn machines off, hard."""
    _operate(ctx, "power_off", which, how, told, {}, yes=yes)


@app.command()
@command
def resume(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A report; - for standard input.", allow_dash=True)],
    how: How,
    told: Told,
    yes: Yes = False,
) -> None:
    """Go on from a report: watch what is unknown, start what was not started.

    A report of creates that has some not started goes on by 'fleet create --resume', which tells
    what they are to be.
    """
    client, plan = client_for(ctx.obj), how.plan()
    earlier = BulkReport.from_json(read_text(file))
    rest = [*earlier.unknown, *earlier.not_started]
    if earlier.operation in _ASKED_FIRST:
        ask_first(earlier.operation, [o.item for o in rest if not o.token], yes=yes)
    carry_out(
        client,
        Work(
            operation=earlier.operation,
            total=len(rest),
            call=lambda bulk: bulk.resume(earlier),
            plan=plan,
            json=told.json,
            file=told.report,
        ),
    )


def _operate(
    ctx: typer.Context,
    operation: str,
    which: Fleet,
    how: How,
    told: Told,
    keywords: dict[str, Any],
    *,
    yes: bool,
) -> None:
    client, plan, selection = client_for(ctx.obj), how.plan(), which.selection()
    if not (which.everything or selection.has_conditions or selection.ids is not None):
        fail(
            "say which machines: --label, --group, --zone, --state, --id-file or --all",
            ExitCode.USAGE,
        )

    async def look() -> list[VirtualMachine]:
        async with client:
            return await client.vms.list()

    meant, missing = selection.of(run(look()))
    labels = {vm.id: vm.label or vm.id for vm in meant}
    if missing and selection.has_conditions:
        say(f"not in the list, and so left out: {', '.join(missing)}")
    else:
        # The API says of each whether it is there; a list may lag behind.
        labels |= {vm_id: vm_id for vm_id in missing}
    if not plan.dry_run:
        ask_first(operation.replace("_", "-"), [who(*named) for named in labels.items()], yes=yes)
    carry_out(
        client,
        Work(
            operation=operation.replace("_", "-"),
            total=len(labels),
            call=lambda bulk: bulk.run(list(labels), operation, **keywords),
            plan=plan,
            labels=labels,
            json=told.json,
            file=told.report,
        ),
    )
