"""Output formats and listings, on data without an API."""

import json

import attrs
import pytest
import typer
import yaml
from typer.testing import CliRunner

from async_vmapi.cli.app import app
from async_vmapi.cli.listing import VM_COLUMNS, Columns, Format, Listing

from .test_output import make_vm


@attrs.frozen
class Item:
    name: str
    size: int


COLUMNS = Columns(
    {"item": lambda item: item.name, "size MB": lambda item: item.size},
    {"half": lambda item: item.size / 2},
)
ITEMS = [Item("b", 10), Item("a", 9), Item("c\x1b", 100)]


@pytest.fixture
def show(capsys):
    """Return what a listing prints, without spaces at the ends of lines."""

    def shown(items=ITEMS, known=COLUMNS, **options):
        Listing(**options).show(lambda: items, known)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return shown


class TestListing:
    def test_a_table(self, show):
        """The columns that are shown by default, with control characters escaped."""
        assert show() == ["item   size MB", "b      10", "a      9", "c\\x1b  100"]

    def test_columns_are_chosen(self, show):
        """In the order given, with those that are not shown by default."""
        assert show(columns="half,item")[:2] == ["half  item", "5.0   b"]

    def test_columns_have_synonyms(self, show):
        """What users of other tools type names the same columns, if no column is named so."""
        shown = show([make_vm()], VM_COLUMNS, columns="ID,name,status", sort="Memory")
        assert shown == ["id  label   state", "1   web-01  online"]

    def test_no_header(self, show):
        """For programs that split lines."""
        assert show(no_header=True)[0] == "b      10"

    @pytest.mark.parametrize(
        ("sort", "order"),
        [("item", "abc"), ("item:desc", "cba"), ("size", "abc"), ("half:asc", "abc")],
    )
    def test_sorting(self, show, sort, order):
        """By the values, numbers as numbers, of any column."""
        assert "".join(line[0] for line in show(sort=sort)[1:]) == order

    def test_a_limit(self, show):
        """After sorting, in each format."""
        assert show(sort="size:desc", limit=1, output="name") == ["c\\x1b"]
        assert json.loads("".join(show(sort="size", limit=1, json=True))) == [
            {"name": "a", "size": 9}
        ]

    def test_names_and_ids(self, show):
        """One on each line; items without ids have their names."""
        assert show(output="name", limit=2) == show(quiet=True, limit=2) == ["b", "a"]
        assert show([make_vm("1", "web")], VM_COLUMNS, quiet=True) == ["1"]
        assert show([make_vm("1", "web")], VM_COLUMNS, output="name") == ["web"]

    def test_json_and_yaml_have_the_same_content(self, show):
        """All fields, whatever the columns are."""
        shown = show([make_vm()], VM_COLUMNS, output="json")
        assert "\n".join(shown) == "\n".join(
            show([make_vm()], VM_COLUMNS, json=True, output="json")
        )
        content = json.loads("\n".join(shown))
        assert content == yaml.safe_load("\n".join(show([make_vm()], VM_COLUMNS, output="yaml")))
        assert content[0]["zone"] == {"id": "DC1-id", "name": "DC1"}

    def test_all_columns_of_a_vm(self, show):
        """Each has a value."""
        names = [*VM_COLUMNS.shown, *VM_COLUMNS.more]
        columns = ",".join(name.split()[0] for name in names)
        header, line = show([make_vm()], VM_COLUMNS, columns=columns)
        assert header.split()[:3] == ["label", "id", "state"]
        for value in ("web-01", "online", "512", "DC1", "Debian", "db", "me", "0.02"):
            assert value in line

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"columns": "item,none"}, "--columns none: use item, size, half"),
            ({"sort": "none"}, "--sort none: use item, size, half"),
            ({"sort": "size:up"}, "use size:asc or size:desc"),
            ({"json": True, "quiet": True}, "only one of"),
            ({"json": True, "output": "yaml"}, "only one of"),
            ({"json": True, "columns": "item"}, "tables only"),
            ({"output": "name", "no_header": True}, "tables only"),
        ],
    )
    def test_wrong_options(self, show, options, words):
        """The error says what to use."""
        with pytest.raises(typer.BadParameter, match=words):
            show(**options)

    @pytest.mark.parametrize("options", [{"columns": "x"}, {"sort": "x"}, {"sort": "size:up"}])
    def test_wrong_columns_are_refused_before_anything_is_read(self, options):
        """Nothing is sent in vain."""
        with pytest.raises(typer.BadParameter):
            Listing(**options).show(lambda: pytest.fail("it was read"), COLUMNS)


class TestValues:
    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            (["-o", "csv"], "'--output' / '-o': 'csv' is not one of 'table', 'json', 'yaml', "),
            (["--limit", "0"], "'--limit': must be at least 1"),
            (["--limit", "x"], "'--limit': must be an integer"),
        ],
    )
    def test_errors_are_in_plain_words(self, options, problem):
        """Not in those of the libraries that check values."""
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["vm", "list", *options])
        assert shown.exit_code == 2
        assert f"Invalid value for {problem}" in shown.output
        assert not any(word in shown.output for word in ("Input", "Value error", "parse"))


class TestFormat:
    def test_progress_does_not_mix_with_data(self, capsys):
        """It is on standard error, unless the result is a table."""
        Format(quiet=True).console.print("progress")
        Format().console.print("table")
        assert capsys.readouterr() == ("table\n", "progress\n")
