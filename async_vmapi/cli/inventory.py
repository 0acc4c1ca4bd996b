"""``async-vmapi inventory``: the VMs as other programs read them.

Labels are untrusted. One is a host's name only if it is plain and unique; else the id is. In other
places, characters with a meaning to the reading program (as in Ansible's templates) are replaced.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import attrs
import typer

from async_vmapi.cli.access import User, address_of
from async_vmapi.cli.commands import command
from async_vmapi.cli.operations import selected, some_of
from async_vmapi.cli.options import Filters
from async_vmapi.cli.output import who
from async_vmapi.cli.profiles import client_for
from async_vmapi.cli.running import ExitCode, fail, say
from async_vmapi.models.vm import VirtualMachine

__all__ = ["Host", "hosts_of", "inventory", "render"]

# No pattern, range, option, address or quote in any of the formats.
_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_RESERVED: Final = frozenset({"localhost", "all", "ungrouped"})
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", re.ASCII)
_NUMBERED: Final = re.compile(r"(.*?)[._-]*\d+")


@command
def inventory(
    ctx: typer.Context,
    format_: Annotated[
        Literal["ansible", "prometheus", "ssh-config"],
        typer.Option(
            "--format", metavar="ansible|prometheus|ssh-config", help="Program that reads it."
        ),
    ],
    filters: Filters,
    user: User = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port that Prometheus scrapes.")
    ] = 9100,
    prefix: Annotated[
        str, typer.Option(help="Text before each name, so that it is not that of another host.")
    ] = "",
) -> None:
    """Print the VMs for Ansible, Prometheus or ssh.

    VMs without a public address are left out.
    """
    for option, text, allowed in (("--user", user, _USER), ("--prefix", prefix, _NAME)):
        if text and not allowed.fullmatch(text):
            fail(f"{option} {text!r}: use letters, digits, '.', '_' and '-'", ExitCode.USAGE)
    vms = selected(client_for(ctx.obj), filters)
    if unreachable := [who(vm.id, vm.label) for vm in vms if address_of(vm) is None]:
        say(f"left out, without an address: {some_of(unreachable)}")
    sys.stdout.write(render(format_, hosts_of(vms, prefix), user=user, port=port))
    sys.stdout.flush()


@attrs.frozen
class Host:
    """A VM with an address.

    Attributes:
        name: Its name in the inventory, which is plain and unique.
        address: Its address.
        vm: The VM.
    """

    name: str
    address: str
    vm: VirtualMachine


def hosts_of(vms: Iterable[VirtualMachine], prefix: str = "") -> list[Host]:
    """Return the VMs that have an address; their ids are plain, as the API's are."""
    known = list(vms)
    # Of several VMs with a name, none has it; nor has a VM the id of another as its name.
    counts = Counter(text.casefold() for vm in known for text in {vm.label or "", vm.id})
    hosts: list[Host] = []
    for vm in known:
        label, address = vm.label or "", address_of(vm)
        is_plain = _NAME.fullmatch(label) is not None and label.casefold() not in _RESERVED
        name = label if is_plain and counts[label.casefold()] == 1 else _plain(vm.id, "._-")
        if address is not None:
            hosts.append(Host(f"{prefix}{name}", address, vm))
    return hosts


def render(format_: str, hosts: Sequence[Host], *, user: str | None = None, port: int = 0) -> str:
    """Return the hosts as a text for the program that reads this format."""
    return _FORMATS[format_](hosts, user, port)


def _plain(text: str, more: str = " ._:/@+-") -> str:
    """Return a text with other characters than letters, digits and some more replaced."""
    return "".join(c if c.isalnum() or c in more else "_" for c in text)


def _ansible(hosts: Sequence[Host], user: str | None, _: int) -> str:
    """Return an inventory for Ansible's plugin 'yaml', which reads JSON, too."""
    groups: dict[str, Any] = {}
    for host in hosts:
        for group in _groups(host.vm):
            groups.setdefault(group, {"hosts": {}})["hosts"][host.name] = {}
    variables = {host.name: _variables(host, user) for host in hosts}
    return _json({"all": {"hosts": variables, "children": dict(sorted(groups.items()))}})


def _variables(host: Host, user: str | None) -> Mapping[str, str]:
    login = {} if user is None else {"ansible_user": user}
    # Ansible evaluates templates in variables.
    return {
        "ansible_host": host.address,
        **login,
        "vm_id": _plain(host.vm.id),
        "vm_label": _plain(host.vm.label or ""),
        "vm_state": _plain(host.vm.state),
        "vm_zone": _plain(host.vm.zone.name),
    }


def _groups(vm: VirtualMachine) -> list[str]:
    names = [f"zone {vm.zone.name}", f"state {vm.state}", *(f"group {g.name}" for g in vm.groups)]
    if (numbered := _NUMBERED.fullmatch(vm.label or "")) and numbered[1]:
        names.append(f"name {numbered[1]}")
    # As Ansible requires.
    return [re.sub(r"[^a-z0-9]+", "_", name.casefold()).rstrip("_") for name in names]


def _prometheus(hosts: Sequence[Host], _: str | None, port: int) -> str:
    """Return targets as Prometheus' file_sd and http_sd read them."""
    return _json(
        [
            {
                "targets": [f"{host.address}:{port}"],
                "labels": {
                    "vm": host.name,
                    "vm_id": host.vm.id,
                    "zone": host.vm.zone.name,
                    # Another label would begin a new series with each change.
                    "__meta_vmapi_state": host.vm.state,
                    "__meta_vmapi_label": host.vm.label or "",
                    "__meta_vmapi_groups": f",{','.join(group.name for group in host.vm.groups)},",
                },
            }
            for host in hosts
        ]
    )


def _ssh_config(hosts: Sequence[Host], user: str | None, _: int) -> str:
    lines: list[str] = []
    for host in hosts:
        lines += [f"Host {host.name}", f"    HostName {host.address}"]
        lines += [] if user is None else [f"    User {user}"]
    return "".join(f"{line}\n" for line in lines)


def _json(value: object) -> str:
    return f"{json.dumps(value, indent=2)}\n"


_FORMATS: Final[Mapping[str, Callable[[Sequence[Host], str | None, int], str]]] = {
    "ansible": _ansible,
    "prometheus": _prometheus,
    "ssh-config": _ssh_config,
}
