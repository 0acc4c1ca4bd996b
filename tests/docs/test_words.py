"""One term for one thing: documents, public docstrings and help texts avoid the others."""

import inspect
import re

import pytest
from typer.main import get_command

import async_vmapi
import async_vmapi.durable
import async_vmapi.emulator
import async_vmapi.probe
import async_vmapi.rehearsal
import async_vmapi.testing
from async_vmapi.cli.app import Later, app
from async_vmapi.vms import VirtualMachines

from .blocks import ROOT

# A discouraged term, and the one to use.
TERMS = {
    r"on the wire|in the air": "in flight",
    r"doubt\w*": "outcome unknown",
    r"glimpse\w*|look(s|ed|ing)? (on|again)": "poll, observe or reconcile",
    r"settl(e|es|ed|ing)": "reconcile",
    r"tells?|told|telling": "report, return, raise or show",
    r"nobody|whoever": "the caller, client or worker that acts",
    r"(un)?answer(s|ed|ing)?": "response, respond",
    r"repetitions?": "retry",
    r"tak(e|es|en|ing) up|(go|goes|went|gone) on|going on (from|with)": "resume, continue",
    r"(declared|taken for|thought|counted) dead": "expired",
    r"one too many|twice(?! (as|the)\b)": "a duplicate",
    r"(bear|bears|bore) the name": "is named",
    r"dear(er|est)?": "its cost, latency or overhead",
    r"anew": "again, restart",
    r"(of|in) the house|floors": "architecture, layers",
    r"as it comes": "default settings",
    r"batch(es)?": "wave",
    r"(seen|wanted) end": "completion, target state",
    r"the whole of": "all of",
    r"but for": "except",
    r"of (its|their|your|our) own(?=[.,;:)]|$| (and|in|for|that|which))": "its own, their own",
    r"(?<!virtual )(?<!virtual-)(?<!state )machines?": "VM, or host for the computer",
}
DISCOURAGED = {re.compile(rf"\b(?:{term})\b", re.IGNORECASE): TERMS[term] for term in TERMS}

DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MODULES = (
    *(async_vmapi, async_vmapi.durable, async_vmapi.emulator),
    *(async_vmapi.probe, async_vmapi.rehearsal, async_vmapi.testing),
)

# Names of the code, hidden code and targets of links are no prose.
NO_PROSE = re.compile(r"<!--.*?-->|``.+?``|(?<!`)`[^`\n]+`(?!`)|\]\([^)]*\)", re.DOTALL)


def found_in(text):
    """Return each discouraged term with its line and the term to use."""
    text = NO_PROSE.sub(lambda code: "\n" * code[0].count("\n"), text)
    lines = text.splitlines()
    return [
        f"line {number}: {line.strip()!r}: for {match[0]!r} use: {use}"
        for number, line in enumerate(lines, 1)
        for term, use in DISCOURAGED.items()
        for match in term.finditer(line)
    ]


def members(owner, name):
    """Return the public methods and properties of a class, and those that it inherits from ours."""
    for attribute in dir(owner):
        value = inspect.getattr_static(owner, attribute)
        value = getattr(value, "__func__", getattr(value, "fget", value))
        module = getattr(value, "__module__", None) or ""
        if not attribute.startswith("_") and module.startswith("async_vmapi"):
            yield f"{name}.{attribute}", value


def documented():
    """Return the public names that have docstrings."""
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and value.__module__.startswith("async_vmapi"):
                yield f"{module.__name__}.{name}", value
                yield from members(value, f"{module.__name__}.{name}")
            elif inspect.isroutine(value):
                yield f"{module.__name__}.{name}", value
    yield from members(VirtualMachines, "client.vms")


def commands(command, path):
    """Return a command and those below it, each with the path by which it is called."""
    command = command.load() if isinstance(command, Later) else command
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


PUBLIC = dict(documented())
COMMANDS = dict(commands(get_command(app), "async-vmapi"))


class TestWords:
    @pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
    def test_documents(self, file):
        """Readers know the usual terms, and learn no others."""
        assert found_in(file.read_text()) == []

    @pytest.mark.parametrize("name", PUBLIC)
    def test_public_docstrings(self, name):
        """They are the reference."""
        assert found_in(inspect.getdoc(PUBLIC[name]) or "") == []

    @pytest.mark.parametrize("path", COMMANDS)
    def test_help(self, path):
        """A command's own text, its short form in the list, and its options."""
        command = COMMANDS[path]
        texts = [command.help, command.short_help, command.epilog]
        for option in command.params:
            texts += [getattr(option, "help", None), getattr(option, "rich_help_panel", None)]
        assert [line for text in texts for line in found_in(text or "")] == []

    def test_all_commands_are_read(self):
        """Those that are imported only when they are called, too."""
        assert {"async-vmapi worker", "async-vmapi fleet create"} <= set(COMMANDS)

    @pytest.mark.parametrize(
        "text", ["The request is on the wire.", "It is created\ntwice.", "Two machines"]
    )
    def test_it_finds_them(self, text):
        """In any line."""
        assert len(found_in(text)) == 1

    @pytest.mark.parametrize(
        "text", ["A `batch` of ``machines``.", "It waits twice as long.", "a virtual machine"]
    )
    def test_it_leaves_names_alone(self, text):
        """Names of the code stay, and so does the plain sense of a word."""
        assert found_in(text) == []
