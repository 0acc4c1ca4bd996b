"""Answer a shell's question: which words may be at the cursor."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from async_vmapi.cli.completion import tree
from async_vmapi.cli.completion.scripts import VARIABLE
from async_vmapi.cli.completion.shells import FILES, Candidate, Line, for_bash, for_others, split
from async_vmapi.cli.completion.values import Context, candidates

__all__ = ["answer", "main"]


def main() -> None:
    """Print the answer for the arguments of the process; print nothing if anything goes wrong."""
    with suppress(Exception, KeyboardInterrupt):
        text = "\n".join(answer(os.environ[VARIABLE], sys.argv[1:]))
        # In one piece, for a reader that may be gone; names are UTF-8 in every locale.
        os.write(1, f"{text}\n".encode() if text else b"")


def answer(shell: str, arguments: Sequence[str]) -> list[str]:
    """Return the lines that a shell's function reads.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        arguments: What its function passes: the line up to the cursor (and bash the current word),
            or, from zsh, the words.
    """
    line = Line(arguments[:-1], arguments[-1]) if shell == "zsh" else split(arguments[0])
    found = _candidates(line)
    if found is None:
        return [FILES]
    if shell == "bash":
        return for_bash(line, arguments[1], found)
    return for_others(found)


class _Place(NamedTuple):
    """What is at the cursor: the command there, and what the words before it mean."""

    node: tree.Node
    options: Mapping[str, Any]
    waiting: Any
    only_arguments: bool
    arguments: Sequence[str]
    context: Context


def _candidates(line: Line) -> list[Candidate] | None:
    """Return the words that may be at the cursor; None for names of files."""
    place = _place(line.words[1:])
    if place is None:
        return []
    prefix, found = "", _of_place(place, line.current)
    name, equals, _ = line.current.partition("=")
    if not place.waiting and not place.only_arguments and equals and name.startswith("--"):
        option = place.options.get(name)
        prefix = f"{name}="
        found = [] if option is None else _values(option["value"], place, line.current, prefix)
    if found is None:
        return None
    words = (Candidate(f"{prefix}{value}", help_) for value, help_ in found)
    return [word for word in words if word.value.startswith(line.current)]


def _place(words: Sequence[str]) -> _Place | None:
    """Return what the words mean; None if one of them is no command."""
    top = node = tree.load()
    waiting: Any = None
    options = top["options"]
    only_arguments, arguments, given = False, list[str](), dict[str, str]()
    name = ""
    for word in words:
        if waiting:
            given[name], waiting = word, None
        elif word == "--" and not only_arguments:
            only_arguments = True
        elif not only_arguments and len(word) > 1 and word.startswith("-"):
            name, equals, value = word.partition("=")
            option = options.get(name)
            if equals:
                given[name] = value
            elif option is not None and option["value"] is not None:
                waiting = option
        elif node["commands"]:
            command = word if word in node["commands"] else top["aliases"].get(word, word)
            if command not in node["commands"]:
                return None
            node = node["commands"][command]
            # Those of all commands may follow, too.
            options = {**top["options"], **node["options"]}
        else:
            arguments.append(word)
    context = Context(given.get("--profile"), given.get("--database"))
    return _Place(node, options, waiting, only_arguments, arguments, context)


def _of_place(place: _Place, current: str) -> list[Candidate] | None:
    node = place.node
    if place.waiting:
        return _values(place.waiting["value"], place, current)
    if not place.only_arguments and current.startswith("-"):
        return [Candidate(name, option["help"]) for name, option in node["options"].items()]
    if node["commands"]:
        return [Candidate(name, child["help"]) for name, child in node["commands"].items()]
    *before, last = node["arguments"] or [None]
    number = len(place.arguments)
    argument = before[number] if number < len(before) else last
    if argument is None or (number > len(before) and not argument["many"]):
        return []
    found = _values(argument["value"], place, current)
    return found and [candidate for candidate in found if candidate.value not in place.arguments]


def _values(
    kind: str | list[str] | None, place: _Place, current: str, prefix: str = ""
) -> list[Candidate] | None:
    if kind == tree.FILE:
        return None
    if not kind:
        return []
    if isinstance(kind, list):
        return [Candidate(value) for value in kind]
    return candidates(kind, place.context._replace(prefix=current.removeprefix(prefix)))
