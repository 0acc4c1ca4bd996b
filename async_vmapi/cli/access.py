"""``async-vmapi vm ssh`` and ``vm ip``: reach a VM."""

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.options import Vm
from async_vmapi.cli.output import who
from async_vmapi.cli.profiles import ask, client_for
from async_vmapi.cli.resolve import find_vm
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.cli.streams import hand_over
from async_vmapi.models.vm import VirtualMachine

__all__ = ["User", "add_access", "address_of", "become"]

User = Annotated[
    str | None, typer.Option("--user", "-u", help="User on the VM; by default, ssh chooses it.")
]


def add_access(app: Commands) -> None:
    """Add the commands to those of VMs."""
    app.add("ip")(_ip)
    app.add("ssh")(_ssh)


def address_of(vm: VirtualMachine) -> str | None:
    """Return a VM's first public address; None if it has none yet, or what it has is none."""
    for address in vm.addresses:
        # Another text could be an option of ssh.
        with suppress(ValueError):
            return str(ipaddress.ip_address(address))
    return None


def _ip(ctx: typer.Context, vm: Vm) -> None:
    """Print the public address of a VM, and nothing else."""
    _, address = _found(ctx, vm)
    sys.stdout.write(f"{address}\n")


def _ssh(
    ctx: typer.Context,
    vm: Vm,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="Command to run on the VM, after -- if it has options; by default, a shell.",
        ),
    ] = None,
    user: User = None,
) -> None:
    """Open a shell on a VM, or run a command there, with the ssh program.

    The exit code is that of ssh: that of the command, or 255.
    """
    if user is not None and not user.strip():
        fail("--user is empty: leave it out, or give a name", ExitCode.USAGE)
    program = shutil.which("ssh")
    if program is None:
        fail("ssh was not found on PATH: install OpenSSH, or connect to the address of 'vm ip'")
    found, address = _found(ctx, vm)
    if found.state != "online":
        say(f"{who(found.id, found.label)} is {found.state}; trying to connect")
    options = [] if user is None else ["-l", user]
    become([program, *options, "--", address, *(command or ())])


def _found(ctx: typer.Context, vm: str) -> tuple[VirtualMachine, str]:
    found = ask(client_for(ctx.obj), lambda client: find_vm(client, vm))
    address = address_of(found)
    if address is None:
        fail(
            f"{who(found.id, found.label)} has no public address yet; it is {found.state}: "
            f"try again later, or see 'async-vmapi vm show {found.id}'"
        )
    return found, address


def become(arguments: list[str]) -> NoReturn:
    """Let another program take over this process and its terminal."""
    hand_over()
    if sys.platform == "win32":
        # A replaced process would seem to have ended.
        sys.exit(subprocess.call(arguments))  # noqa: S603 - the user's ssh
    # Python ignores these, and so would the program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execv(arguments[0], arguments)  # noqa: S606 - no shell is needed
