"""Print tables, JSON and YAML."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = [
    "STYLES",
    "console_for",
    "is_known_terminal",
    "print_json",
    "print_yaml",
    "printable",
    "style_of",
    "table",
    "who",
]

STYLES: Final[Mapping[str, str]] = {
    "online": "green",
    "offline": "bright_black",
    "installing": "cyan",
    "deleting": "magenta",
    "gone": "bright_black",
    "succeeded": "green",
    "failed": "red",
    "unknown": "yellow",
    "not started": "bright_black",
}

_UNBOUNDED: Final = 10_000
_WIDEST: Final = 40
_FEWEST: Final = 3
_GAP: Final = 2


def printable(text: str) -> str:
    """Return a text on one line, with control and unencodable characters escaped.

    Labels and server messages are untrusted.
    """
    if text.isprintable() and (text.isascii() or _encodable(text)):
        return text
    return "".join(
        c if c.isprintable() and _encodable(c) else c.encode("unicode_escape").decode()
        for c in text
    )


def _encodable(text: str) -> bool:
    # Escape now, not when writing: tables need the width.
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def style_of(state: str | None) -> str:
    """Return the colour of a state; red if it is unknown."""
    return STYLES.get(state or "gone", "red")


def who(item: str, label: str | None) -> str:
    """Return the label and id of a VM for display, or what is known of them."""
    return printable(item if label is None or label == item else f"{label} ({item})")


def is_known_terminal() -> bool:
    """Return whether the terminal's type is known."""
    return sys.platform == "win32" or bool(os.environ.get("TERM"))


def console_for(*, json: bool) -> Console:
    """Return the console for progress and results; on standard error if stdout has JSON."""
    stream = sys.stderr if json else sys.stdout
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        color_system="auto" if is_known_terminal() or not stream.isatty() else None,
        # Do not wrap output that programs read.
        width=None if stream.isatty() else _UNBOUNDED,
    )


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON on standard output, in ASCII for any terminal encoding."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=indent) + "\n")
    sys.stdout.flush()


def print_yaml(value: object) -> None:
    """Print a value as YAML on standard output, in ASCII."""
    import yaml

    sys.stdout.write(yaml.safe_dump(msgspec.to_builtins(value), sort_keys=False))
    sys.stdout.flush()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    fold: bool = True,
    width: int | None = None,
    show_header: bool = True,
) -> Table:
    """Return a plain table.

    Args:
        columns: Column headers, the most important first.
        rows: Cells of each row.
        fold: Fold cells that do not fit; otherwise shorten them, the first column last.
        width: Maximum width in characters; the last columns are left out, down to three.
        show_header: Whether to show the column headers.
    """
    result = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    result.show_header = show_header
    cells = [[Text(printable(c)) if isinstance(c, str) else c for c in row] for row in rows]
    widths: Sequence[int | None] = [None] * len(columns)
    if width is not None:
        widths = _fitting(columns, cells, width)
        columns, cells = columns[: len(widths)], [row[: len(widths)] for row in cells]
    first = max((row[0].cell_len for row in cells), default=0)
    for number, column in enumerate(columns):
        result.add_column(
            column,
            overflow="fold" if fold else "ellipsis",
            no_wrap=not fold,
            min_width=None if fold or number else min(first, _WIDEST),
            max_width=widths[number],
        )
    for row in cells:
        result.add_row(*row)
    return result


def _fitting(columns: Sequence[str], cells: Sequence[Sequence[Text]], width: int) -> list[int]:
    """Return the widths of the columns that fit; the widest of the last three is shortened."""
    widths = [
        max([len(column), *(row[number].cell_len for row in cells)])
        for number, column in enumerate(columns)
    ]
    while len(widths) > _FEWEST and sum(widths) + _GAP * (len(widths) - 1) > width:
        widths.pop()
    over = sum(widths) + _GAP * (len(widths) - 1) - width
    if over > 0 and len(widths) > 1:
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        widths[widest] = max(_GAP, widths[widest] - over)
    return widths
