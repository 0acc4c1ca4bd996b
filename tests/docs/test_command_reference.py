"""docs/reference/cli.md, which the build of the documentation writes from the program."""

import importlib.util
import json
import re

import pytest

from async_vmapi.cli.completion import tree
from async_vmapi.cli.running import ExitCode
from tests.cli.programs import LONG, NEW, SETTINGS, Program, emulator_in_thread

from .blocks import ROOT


@pytest.fixture(scope="module")
def generator():
    """The extension of the build that writes the page."""
    place = ROOT / "docs" / "_ext" / "commands.py"
    spec = importlib.util.spec_from_file_location("commands", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(generator):
    """The page with what the program is asked for."""
    return generator.page((ROOT / "docs" / "reference" / "cli.md").read_text())


@pytest.fixture(scope="module")
def sections(page):
    """The sections of the page by their headings."""
    return dict(part.split("\n", 1) for part in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:])


def bare(text):
    """Return the words of a text, without what marks code."""
    return re.sub(r"[`'\\]", "", " ".join(text.split()))


class TestPage:
    def test_every_command_and_option_is_on_it(self, sections):
        """As completion knows them from the same program."""
        found = []

        def check(node, path):
            section = sections[path or "Options of all commands"]
            found.append(path)
            assert bare(node["help"]) in bare(section)
            for name in node["options"].keys() - {"--help"}:
                assert re.search(rf"`{name}[ `]", section), (path, name)
            for name, child in node["commands"].items():
                check(child, f"{path} {name}".strip())

        check(tree.build(), "")
        assert {"vm create", "fleet resume", "profile use", "inventory"} <= set(found)

    def test_every_exit_code_is_on_it(self, sections):
        """With its meaning."""
        rows = re.findall(r"^\| (\d+) \| (.+) \|$", sections["Exit codes"], re.MULTILINE)
        assert rows == [(str(int(code)), code.meaning) for code in ExitCode]

    def test_its_tables_are_tables(self, page):
        """No help text breaks one, and nothing is left to be replaced."""
        assert "<!--" not in page
        rows = [line for line in page.splitlines() if line.startswith("|")]
        columns = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        assert set(columns) == {3, 4}

    def test_cli_md_links_to_it(self):
        """The page that explains the commands has no second copy of it."""
        text = (ROOT / "docs" / "cli.md").read_text()
        for place in ("reference/cli.md", "reference/cli.md#exit-codes", "reference/cli.md#json"):
            assert f"]({place})" in text


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The command, with a cloud of its own."""
    with (
        emulator_in_thread(settings=SETTINGS, seed=1) as cloud,
        Program(cloud, tmp_path_factory.mktemp("home")) as program,
    ):
        program.environment["VMAPI_DATABASE"] = f"sqlite:///{program.state}.sqlite"
        yield program


@pytest.fixture(scope="module")
def printed(program):
    """What the program really prints, for each section."""
    outcome = program.json("vm", "create", "--name", "web", *NEW)
    report = program.json("fleet", "power-off", "--all", "--yes")
    process = program.popen("watch", "--json", "--interval", "0.1")
    change = json.loads(process.stdout.readline())
    process.kill()
    process.wait(LONG)
    job = ["fleet", "power-off", "--all", "--yes", "--durable", "off", "--no-wait"]
    program(*job)
    listed = {
        name: program.json(*words, "list")[0]
        for name, words in {
            "A VM": ["vm"],
            "A region": ["region"],
            "A zone": ["zone"],
            "A template": ["template"],
            "A key": ["key"],
            "A profile": ["profile"],
            "A job": ["job"],
        }.items()
    }
    return listed | {
        "A console": program.json("vm", "console", "web"),
        "An outcome": outcome,
        "A report": report,
        "An outcome in a report": report["outcomes"][0],
        "A change of a VM": change,
    }


@pytest.mark.programs
class TestJson:
    def test_every_field_is_on_the_page(self, generator, printed):
        """And no other; an outcome in a report leaves out defaults, and a report one field."""
        documented = {shape.name: set(shape.fields) for shape in generator.shapes()}
        assert documented.keys() == printed.keys()
        left_out = documented.pop("An outcome in a report") - {"index", "item", "status", "vm_id"}
        documented["A report"].remove("approved")  # only after 'fleet apply'
        assert documented == {name: set(printed[name]) for name in documented}
        assert left_out >= {"wave", "reason", "error"}

    def test_their_types_are_right(self, generator, printed):
        """As JSON names them."""
        kinds = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object"}
        kinds |= {list: "list", type(None): "null"}
        for shape in generator.shapes():
            for name, value in printed[shape.name].items():
                assert kinds[type(value)] in shape.fields[name].partition(": ")[0], name

    def test_every_command_that_prints_json_is_named(self, generator):
        """With what it prints."""
        named = [name for shape in generator.shapes() for name in (*shape.one, *shape.several)]
        assert sorted(named) == sorted(generator.json_commands())
