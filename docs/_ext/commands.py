"""Writes the reference of the command line from the program: commands, exit codes, JSON."""

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import typer

from async_vmapi import BulkReport, Console, Outcome, Region, SSHKey, Template, VirtualMachine, Zone
from async_vmapi.cli.app import Later, app
from async_vmapi.cli.outcomes import outcome_json
from async_vmapi.cli.profile import ProfileRow
from async_vmapi.cli.running import ExitCode
from async_vmapi.cli.watch import Change
from async_vmapi.durable import JobStatus

if typing.TYPE_CHECKING:
    # The tests of the page run without Sphinx.
    from sphinx.application import Sphinx

PAGE = "reference/cli"
_GENERAL = "Options"


def command_tree() -> Iterator[tuple[str, Any]]:
    """Yield each command with its full name; the program itself first, without one."""
    yield from _below("", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(command, Later):
        command = command.load()
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(f"{path} {name}".strip(), child)


def commands() -> str:
    """Return the sections of all commands."""
    return "\n\n".join(_section(path, command) for path, command in command_tree())


def _section(path: str, command: Any) -> str:
    usage = f"async-vmapi {path}".strip()
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [*map(_word, arguments), *(["COMMAND"] if hasattr(command, "commands") else [])]
    parts = [
        f"### {path}" if path else "### Options of all commands",
        _marked((command.help or "").strip()),
        f"```text\n{' '.join([usage, '[OPTIONS]', *words])}\n```",
    ]
    panels: dict[str, list[Any]] = {}
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            panel = getattr(parameter, "rich_help_panel", None)
            panels.setdefault(panel or _GENERAL, []).append(parameter)
    # The command's own options first, and those that many share after them.
    for panel in sorted(panels, key=lambda panel: panel != _GENERAL):
        rows = [(_names(p), _meaning(p)) for p in panels[panel]]
        title = "Arguments and options" if arguments and panel == _GENERAL else panel
        parts.append(_table((title, "meaning"), rows))
    return "\n\n".join(parts)


def _word(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    word += "..." if argument.nargs == -1 else ""
    return word if argument.required else f"[{word}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_word(parameter)}`"
    *short, long = sorted(parameter.opts, key=len)
    value = "" if parameter.is_flag else parameter.metavar or parameter.name.upper()
    return ", ".join(f"`{name}`" for name in (*short, f"{long} {value.replace('_', '-')}".strip()))


def _meaning(parameter: Any) -> str:
    parts = [_marked(parameter.help or "")]
    default = parameter.default
    if parameter.required and parameter.param_type_name == "option":
        parts.append("Required.")
    elif isinstance(default, str | int | float) and default is not False and default != "":
        parts.append(f"Default: `{default}`.")
    if parameter.envvar:
        parts.append(f"Environment variable: `{parameter.envvar}`.")
    return " ".join(filter(None, parts))


def _marked(text: str) -> str:
    """Return a help text with its options and quoted words as code."""
    text = re.sub(r"(?<!\w)'([^']+)'(?!\w)|(?<![\w-])(--[a-z-]*)", r"`\1\2`", text)
    # Every second part is code.
    return "".join(
        part if number % 2 else re.sub(r"([*<])", r"\\\1", part)
        for number, part in enumerate(re.split(r"(`[^`]*`)", text))
    )


def exit_codes() -> str:
    """Return the table of exit codes."""
    return _table(("code", "meaning"), [(str(int(code)), code.meaning) for code in ExitCode])


@attrs.frozen
class Shape:
    """What commands print as JSON.

    Attributes:
        name: Its name in the reference.
        fields: The type and meaning of each field.
        one: The commands that print one.
        several: The commands that print a list of them.
        note: What else there is to know.
    """

    name: str
    fields: Mapping[str, str]
    one: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    note: str = ""

    def section(self) -> str:
        """Return its section of the reference."""
        parts = [f"### {self.name}"]
        for commands_, what in ((self.one, "print it."), (self.several, "print a list of them.")):
            names = [f"`{name}`" for name in commands_]
            verb = what if len(names) > 1 else what.replace("print", "prints")
            last = " and ".join(names[-2:])
            parts += [f"{', '.join([*names[:-2], last])} {verb}"] if names else []
        rows = [(f"`{name}`", *_split(meaning)) for name, meaning in self.fields.items()]
        parts += [_table(("field", "type", "meaning"), rows), self.note]
        return "\n\n".join(filter(None, parts))


def json_commands() -> list[str]:
    """Return the commands that can print JSON."""
    return [path for path, command in command_tree() if "json" in [p.name for p in command.params]]


def _fields(kind: type, omit: tuple[str, ...] = (), **more: str) -> dict[str, str]:
    """Return the fields of a class, with what its docstring says of them."""
    meanings = _meanings(kind)
    hints = typing.get_type_hints(kind)
    found = {f.name: f for f in attrs.fields(kind) if f.name not in omit}
    return {
        name: ": ".join(filter(None, (_type_of(hints[name]), meanings.get(name)))) for name in found
    } | more


def _meanings(kind: type) -> dict[str, str]:
    _, _, text = (kind.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: _for_json(meaning) for name, meaning in entries}


def _for_json(text: str) -> str:
    """Return a docstring's text with the words of JSON, and links."""
    for pattern, new in (
        ("`+", "`"),
        (r" \(WIRE §\d\)", ""),
        (r"WIRE §\d", "[the wire](../wire.md)"),
        (r"\bNone\b", "null"),
        (r"\bFalse\b", "false"),
    ):
        text = re.sub(pattern, new, " ".join(text.split()))
    return text


def _type_of(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        # A number or text that the API may send in the other form is converted to the first one.
        kinds = [_type_of(kind) for kind in arguments]
        kinds = kinds[:1] if set(kinds) == {"string", "number"} else kinds
        return " or ".join(kinds)
    if annotation is types.NoneType:
        return "null"
    if origin is typing.Literal:
        return "string"
    if origin is tuple:
        one, _, more = _type_of(arguments[0]).partition(" ")
        return f"list of {one}s {more}".strip()
    if isinstance(annotation, type) and attrs.has(annotation):
        return f"object ({', '.join(f'`{field.name}`' for field in attrs.fields(annotation))})"
    if origin is not None and issubclass(origin, Mapping):
        return "object"
    names = {str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(annotation, "any value")


def shapes() -> list[Shape]:
    """Return all that commands print as JSON."""
    outcome = _fields(Outcome, omit=("value", "exception", "source"))
    texts = {
        "operation": "string: The operation, as on the command line.",
        "vm": "object or null: The VM as last observed.",
    }
    shown = outcome_json("create", Outcome(index=0, item="", status="succeeded"))
    operations = [c for c in json_commands() if c.startswith(("vm ", "wait", "fleet "))]
    reading = {"vm list", "vm show", "vm console"}
    report = _fields(BulkReport) | {
        "outcomes": "list of objects: The outcome of each item; see the next table.",
        "format": "string: The name and version of this format.",
        "counts": "object: How many outcomes have each status.",
    }
    following = tuple(f"job {verb}" for verb in ("pause", "resume", "promote", "cancel"))
    return [
        Shape("A VM", _fields(VirtualMachine), ("vm show",), ("vm list",)),
        Shape("A region", _fields(Region), ("region show",), ("region list",)),
        Shape(
            "A zone",
            _fields(Zone, region="string: The name of its region."),
            ("zone show",),
            ("zone list",),
        ),
        Shape("A template", _fields(Template), ("template show",), ("template list",)),
        Shape("A key", _fields(SSHKey), ("key show",), ("key list",)),
        Shape("A console", _fields(Console), ("vm console",)),
        Shape(
            "An outcome",
            {name: texts.get(name) or outcome[name] for name in shown},
            tuple(c for c in operations if not c.startswith("fleet ") and c not in reading),
            note="For several VMs or tokens, they print a list. With `--no-wait`, `status` can be "
            "`accepted`, too.",
        ),
        Shape(
            "A report",
            report,
            tuple(c for c in operations if c.startswith("fleet ")),
            note="So do `job watch NAME`, and `job pause`, `resume` and `cancel` with `--follow`; "
            "`--report` writes it to a file. `BulkReport.from_json` and `fleet resume` read it.",
        ),
        Shape(
            "An outcome in a report",
            outcome,
            note="Fields that have their default are left out: null, false, an empty text, and "
            "`wave` 1.",
        ),
        Shape(
            "A job",
            _fields(JobStatus),
            ("job show", *following, "job watch", "worker"),
            ("job list",),
            "`job watch` and `worker` print one line for each change. `worker` adds `here`, an "
            "object: how many items this worker has `in_flight` and `done`.",
        ),
        Shape("A change of a VM", _fields(Change), ("watch",), note="One line for each."),
        Shape("A profile", _fields(ProfileRow), ("profile show",), ("profile list",)),
    ]


def json_fields() -> str:
    """Return the sections of what commands print as JSON."""
    return "\n\n".join(shape.section() for shape in shapes())


def _split(field: str) -> tuple[str, str]:
    kind, _, meaning = field.partition(": ")
    return kind, meaning


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def insert(_: "Sphinx", docname: str, source: list[str]) -> None:
    """Replace the placeholders of the page."""
    if docname == PAGE:
        source[0] = page(source[0])


def page(text: str) -> str:
    """Return the page with what replaces its placeholders."""
    for name, write in (
        ("commands", commands),
        ("exit codes", exit_codes),
        ("json", json_fields),
    ):
        text = text.replace(f"<!-- {name} -->", write())
    return text


def setup(app: "Sphinx") -> dict[str, Any]:
    """Register the generator."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True}
