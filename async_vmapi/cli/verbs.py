"""The commands of the operations on existing VMs, each written once for ``vm`` and ``fleet``.

What an operation takes stands in `OPERATIONS`; here are its help and the options of its arguments.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from async_vmapi.cli.commands import Commands
from async_vmapi.cli.options import Conditions
from async_vmapi.writes.operations import OPERATIONS

__all__ = ["add_verbs"]

_HELP: Final[Mapping[str, str]] = {
    "resize": "Change the cores and memory of VMs; running VMs are shut down first.",
    "shutdown": "Shut down VMs; guests that do not shut down in time are powered off.",
    "reboot": "Ask the guests of VMs to reboot.",
    "reset": "Power VMs off and on again, without asking the guests.",
    "power_on": "Power on VMs.",
    "power_off": "Power off VMs, without asking the guests.",
    "delete": "Delete VMs.",
}

_ARGUMENTS: Final[Mapping[str, tuple[Any, Any]]] = {
    "cores": (Annotated[int, typer.Option(min=1, help="Number of cores.")], ...),
    "ram": (Annotated[int, typer.Option(min=1, help="Memory in MB.")], ...),
    "wait_for": (
        Annotated[
            int,
            typer.Option(
                min=0, help="Minutes until a guest that does not shut down is powered off."
            ),
        ],
        4,
    ),
    "delete_resources": (
        Annotated[bool, typer.Option(help="Also delete their additional resources.")],
        False,
    ),
    "missing_ok": (Annotated[bool, typer.Option(help="Succeed if a VM does not exist.")], False),
}


def add_verbs(
    app: Commands, make: Callable[[str], Callable[..., None]], *, bulk: bool = False
) -> None:
    """Add a command for each operation.

    Args:
        app: The group of commands.
        make: Returns the function of an operation; it takes the operation's arguments as keywords.
        bulk: Whether to leave out ``ready``, and arguments whose default differs in bulk calls.
    """
    for operation, text in _HELP.items():
        spec = OPERATIONS[operation]
        names = [name for name in spec.arguments if not (bulk and name in spec.bulk_defaults)]
        keywords: dict[str, tuple[Any, Any]] = {name: _ARGUMENTS[name] for name in names}
        if spec.takes_ready and not bulk:
            keywords["ready"] = (Conditions, None)
        app.add(operation.replace("_", "-"), keywords, text)(make(operation))
