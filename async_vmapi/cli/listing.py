"""Output formats, and listings: tables with columns to choose, sorted and limited."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeAlias, TypeVar

import attrs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from async_vmapi.cli.commands import option
from async_vmapi.cli.output import console_for, print_json, print_yaml, printable, style_of, table
from async_vmapi.cli.running import ExitCode, fail
from async_vmapi.models.vm import VirtualMachine

__all__ = ["JSON", "VM_COLUMNS", "Columns", "Format", "Listing"]

T = TypeVar("T")

Cell: TypeAlias = str | int | float | Text

_OUTPUT: Final = "Output"
# What other tools call the columns of VMs.
_SYNONYMS: Final = {
    "name": "label",
    "status": "state",
    "ip": "address",
    "ipv4": "address",
    "cpus": "cores",
    "memory": "ram",
}

JSON = Annotated[bool, typer.Option(help="Print JSON.", rich_help_panel=_OUTPUT)]


@attrs.frozen
class Columns(Generic[T]):
    """The columns of a listing.

    Attributes:
        shown: The value of each column by its header, whose first word is the column's name. The
            first column has the names of the items; if they have other ids, one is named ``id``.
        more: Further columns, to choose by ``--columns``.
    """

    shown: Mapping[str, Callable[[T], Cell]]
    more: Mapping[str, Callable[[T], Cell]] = attrs.field(factory=dict[str, Any])

    def print(
        self,
        console: Console,
        items: Iterable[T],
        headers: Iterable[str] | None = None,
        *,
        show_header: bool = True,
    ) -> None:
        """Print a table of the columns chosen; on a terminal, else of those that fit."""
        width = console.width if console.is_terminal and headers is None else None
        console.print(self.table(items, headers, width=width, show_header=show_header))

    def table(
        self,
        items: Iterable[T],
        headers: Iterable[str] | None = None,
        *,
        width: int | None = None,
        show_header: bool = True,
    ) -> Table:
        """Return a table of these columns, by default those shown, like `output.table`."""
        values = {**self.shown, **self.more}
        headers = list(self.shown if headers is None else headers)
        rows = [[values[header](item) for header in headers] for item in items]
        cells = [[cell if isinstance(cell, Text) else str(cell) for cell in row] for row in rows]
        return table(headers, cells, fold=width is None, width=width, show_header=show_header)

    def named(self, items: Iterable[T], name: str) -> T:
        """Return the only item that has a name or id; exit if there is none, or several."""
        kind, *_ = self.shown
        by = [value for header, value in self.shown.items() if header in (kind, "id", "name")]
        known = list(items)
        found = [item for item in known if any(value(item) == name for value in by)]
        if len(found) == 1:
            return found[0]
        options = ", ".join(" ".join(str(value(item)) for value in by) for item in found or known)
        if found:
            fail(f"{len(found)} have the name {name!r}, pass an id: {options}", ExitCode.USAGE)
        return fail(f"no {kind} is named {name!r}; there are: {options or 'none'}")


def _kind_of(chosen: "Format") -> Any:
    kinds = {"json": chosen.json, "id": chosen.quiet}
    kinds[chosen.output] = kinds.get(chosen.output) or chosen.output != "table"
    given = [kind for kind, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter("give only one of --output, --json and --quiet")
    return given[0] if given else "table"


@attrs.frozen(kw_only=True)
class Format:
    """How a command prints its result."""

    PANEL: ClassVar = _OUTPUT

    output: Literal["table", "json", "yaml", "name"] = option(
        "Output format.", "table", names=["--output", "-o"], metavar="table|json|yaml|name"
    )
    json: JSON = False
    quiet: bool = option("Print only IDs.", False, names=["--quiet", "-q"])
    kind: Literal["table", "json", "yaml", "name", "id"] = attrs.field(
        init=False, default=attrs.Factory(_kind_of, takes_self=True)
    )

    @property
    def console(self) -> Console:
        """The console for progress and tables; on standard error if stdout has other output."""
        return console_for(json=self.kind != "table")

    def show_one(self, item: T, columns: Columns[T]) -> None:
        """Print an item; as a table, its columns as lines."""
        if not self.print_data(item, [item], columns):
            values = {**columns.shown, **columns.more}
            cells = {header: value(item) for header, value in values.items()}
            rows = [(h, c if isinstance(c, Text) else str(c)) for h, c in cells.items()]
            self.console.print(table(("", ""), rows))

    def print_data(self, value: object, items: Sequence[T], columns: Columns[T]) -> bool:
        """Print a value in all formats but tables; return whether that was done.

        Args:
            value: The value in JSON or YAML.
            items: What is named in the other formats.
            columns: Their columns.
        """
        if self.kind == "json":
            print_json(value)
        elif self.kind == "yaml":
            print_yaml(value)
        elif self.kind in ("name", "id"):
            name = next(iter(columns.shown.values()))
            value = columns.shown.get("id", name) if self.kind == "id" else name
            sys.stdout.write("".join(f"{printable(str(value(item)))}\n" for item in items))
            sys.stdout.flush()
        return self.kind != "table"


def _key(cell: Cell) -> tuple[float, str]:
    try:
        return float(str(cell)), ""
    except ValueError:
        return math.inf, str(cell)


@attrs.frozen(kw_only=True)
class Listing(Format):
    """How a command prints a list."""

    columns: str | None = option("Columns of the table, like 'label,state'.")
    no_header: bool = option("Print the table without its header.", False)
    sort: str | None = option("Column to sort by, like 'state' or 'ram:desc'.")
    limit: int | None = option("Maximum number of items.", min=1)

    def __attrs_post_init__(self) -> None:
        if self.kind != "table" and (self.columns is not None or self.no_header):
            raise typer.BadParameter("--columns and --no-header are for tables only")

    def show(self, read: Callable[[], Iterable[T]], columns: Columns[T]) -> Sequence[T]:
        """Read items, once the options are checked; print and return them."""
        values = {**columns.shown, **columns.more}
        headers = {header.split()[0]: header for header in values}

        def chosen(option: str, name: str) -> str:
            name = name.strip().lower()
            name = name if name in headers else _SYNONYMS.get(name, name)
            if name not in headers:
                raise typer.BadParameter(f"{option} {name}: use {', '.join(headers)}")
            return headers[name]

        picked = self.columns and [chosen("--columns", c) for c in self.columns.split(",")]
        name, _, order = (self.sort or "").partition(":")
        value = None if self.sort is None else values[chosen("--sort", name)]
        if order not in ("", "asc", "desc"):
            raise typer.BadParameter(f"--sort {self.sort}: use {name}:asc or {name}:desc")
        found = list(read())
        shown = found[:]
        if value is not None:
            shown.sort(key=lambda item: _key(value(item)), reverse=order == "desc")
        shown = shown[: self.limit]
        if not self.print_data(shown, shown, columns):
            columns.print(self.console, shown, picked or None, show_header=not self.no_header)
        return found


VM_COLUMNS: Final = Columns[VirtualMachine](
    {
        "label": lambda vm: vm.label or "",
        "id": lambda vm: vm.id,
        "state": lambda vm: Text(printable(vm.state), style_of(vm.state)),
        "address": lambda vm: ", ".join(vm.addresses),
        "cores": lambda vm: vm.cores,
        "ram MB": lambda vm: vm.ram,
        "zone": lambda vm: vm.zone.name,
    },
    {
        "system": lambda vm: vm.system.name,
        "groups": lambda vm: ", ".join(group.name for group in vm.groups),
        "owner": lambda vm: vm.owner.name,
        "volumes GB": lambda vm: sum(volume.size for volume in vm.storage_volumes),
        "cost per hour": lambda vm: vm.cost_per_hour,
    },
)
