"""The commands, options and arguments of the program, as data.

Imports of all commands take longer than a completion may, so the data is kept in a cache. Its key
changes with every change of the program.
"""

import enum
import inspect
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints

from platformdirs import user_cache_path

import async_vmapi

__all__ = ["FILE", "Node", "build", "load"]

Node: TypeAlias = Mapping[str, Any]
"""A command.

- ``help``: the first line of its help
- ``commands``: the commands below it by name
- ``aliases``: only at the top: other names of commands, which are not offered
- ``options``: its options by name; each has ``help``, and ``value``: null for a flag, else a kind
- ``arguments``: its arguments; each has ``value``, a kind, and ``many``: whether it takes several

A kind is a key of `values.SOURCES`, `FILE`, a list of the allowed values, or empty for other text.
"""

FILE: Final = "file"
"""The kind of a path."""

# Kinds by the parameter's name; names that several commands use differently have the command, too.
_KINDS: Final[Mapping[str, str | list[str]]] = {
    "vm": "vm",
    "vms": "vm",
    "label": "vm",
    "zone": "zone",
    "template": "template",
    "key": "key",
    "group": "group",
    "state": "state",
    "profile": "profile",
    "zone show name": "zone",
    "template show name": "template",
    "key show name": "key",
    "profile show name": "profile",
    "profile use name": "profile",
    "profile delete name": "profile",
    "job name": "job",
    "check": ["address", "ssh", "tcp:", "http:/"],
    "ready": ["address", "ssh", "tcp:", "http:/"],
}


def load() -> Node:
    """Return the tree, from the cache if it has that of this program."""
    path, key = user_cache_path("async-vmapi", appauthor=False) / "completion.json", _key()
    with suppress(OSError, ValueError, TypeError, KeyError):
        cached = json.loads(path.read_bytes())
        if cached["key"] == key:
            tree: Node = cached["tree"]
            return tree
    tree = build()
    with suppress(OSError):
        _write(path, json.dumps({"key": key, "tree": tree}))
    return tree


def _key() -> list[Any]:
    folder = Path(__file__).parents[1]
    # Also for a checkout in which the version does not change.
    changed = max(path.stat().st_mtime_ns for path in folder.glob("*.py"))
    return [async_vmapi.__version__, str(folder), changed, sys.version]


def _write(path: Path, text: str) -> None:
    import tempfile

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)


def build() -> Node:
    """Return the tree, from the program itself."""
    import typer

    from async_vmapi.cli.app import app
    from async_vmapi.cli.groups import ALIASES

    return {**_node(typer.main.get_command(app), ()), "aliases": ALIASES}


def _node(command: Any, path: tuple[str, ...]) -> Node:
    from async_vmapi.cli.app import Later

    if isinstance(command, Later):
        command = command.load()
    below: Mapping[str, Any] = getattr(command, "commands", {})
    options: dict[str, Any] = {
        "--help": {"help": "Show this message and exit.", "value": None},
    }
    arguments: list[Any] = []
    # From Python 3.14 on, a wrapper does not get annotations that were set as a value.
    callback = command.callback and inspect.unwrap(command.callback)
    types = get_type_hints(callback) if callback else {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        kind = _kind((*path, parameter.name or ""), types.get(parameter.name))
        if parameter.param_type_name == "argument":
            arguments.append({"value": kind, "many": parameter.nargs == -1})
            continue
        entry = {"help": _line(parameter.help), "value": None if parameter.is_flag else kind}
        options |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), entry)
    return {
        "help": _line(command.help),
        "commands": {name: _node(child, (*path, name)) for name, child in below.items()},
        "options": options,
        "arguments": arguments,
    }


def _line(text: str | None) -> str:
    return " ".join((text or "").partition("\n\n")[0].split())


def _kind(path: tuple[str, ...], annotation: object) -> str | list[str]:
    """Return the kind of a parameter: by its command and name, else by its type."""
    for length in range(len(path) - 1, -1, -1):
        if (kind := _KINDS.get(" ".join((*path[:length], path[-1])))) is not None:
            return kind
    for part in (annotation, *get_args(annotation)):
        if part is Path:
            return FILE
        if isinstance(part, type) and issubclass(part, enum.Enum):
            return [str(member.value) for member in part]
        if get_origin(part) is Literal:
            return [str(value) for value in get_args(part)]
    return ""
