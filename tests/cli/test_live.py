"""How views are polled and shown where nothing can be redrawn."""

import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from async_vmapi.cli.listing import Columns
from async_vmapi.cli.live import TableView, follow
from async_vmapi.errors import AuthenticationError, ConnectError

pytestmark = pytest.mark.looptime


class Numbers(TableView):
    """Polls what it is given, and ends with it."""

    def __init__(self, console, *polls):
        super().__init__(console, "number", Columns({"state": lambda item: Text(str(item))}), 3)
        self.polls = list(polls)
        self.polled = []

    @property
    def ended(self):
        return not self.polls

    async def poll(self):
        found = self.polls.pop(0)
        if isinstance(found, Exception):
            raise found
        self.items = found
        self.polled.append(found)

    def changes(self):
        polled, self.polled = self.polled, []
        return [{"numbers": found} for found in polled]

    def lines(self):
        return map(str, self.changes())


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, height=5)


class TestFollow:
    async def test_lines(self, console, capsys):
        """A failed poll is reported once, and repeated until it succeeds."""
        down = ConnectError("the API is down")
        await follow(console, Numbers(console, [1], down, down, [2]), json=False, interval=5)
        assert console.file.getvalue() == "{'numbers': [1]}\n{'numbers': [2]}\n"
        assert capsys.readouterr().err.count("the API is down") == 1

    async def test_json(self, console, capsys):
        """An object on each line."""
        await follow(console, Numbers(console, [1], [2, 3]), json=True, interval=5)
        out = capsys.readouterr().out
        assert [json.loads(line)["numbers"] for line in out.splitlines()] == [[1], [2, 3]]
        assert console.file.getvalue() == ""

    async def test_refused_credentials(self, console):
        """No later poll would succeed."""
        refused = AuthenticationError("no", status=401, method="GET", path="/")
        with pytest.raises(AuthenticationError):
            await follow(console, Numbers(console, refused, [1]), json=False, interval=5)

    async def test_what_fits(self, console):
        """States are counted, and items that do not fit too."""
        view = Numbers(console, [5, 5, 7])
        await view.poll()
        view.problem = "a\nproblem"
        console.print(view)
        shown = console.file.getvalue().splitlines()
        assert shown[0] == "3 numbers  2 5  1 7  1 not shown"
        assert [line.strip() for line in shown[1:]] == ["a\\nproblem", "state", "5", "5"]
