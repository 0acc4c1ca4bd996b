"""The figures in docs/completion.md are computed by the rules."""

import itertools
import re

import pytest

from async_vmapi.tasks.completion import Completion, Done, Observation
from async_vmapi.tasks.rules import Target

from .blocks import ROOT

PAGE = ROOT / "docs" / "completion.md"

OLD, NEW = (1, 1024), (2, 2048)
RESIZE = {"cores": 2, "ram": 2048, "wait_for": 4}


def course(*changes):
    """Return what a read shows, as a function of time; changes are pairs of a time and a state."""

    def at(time):
        what = [what for when, what in changes if when <= time][-1]
        return what if isinstance(what, tuple) else (what, OLD)

    return at


# Each row of the page: the operation, what the VM really does, and what the client knows.
ROWS = {
    "create, `online` after 30 s": (
        Target("create"),
        course((0, None), (2, "installing"), (30, "online")),
        {"visible_at": None},
    ),
    "power off in 2 s": (Target("power_off"), course((0, "online"), (2, "offline")), {}),
    "power off in 30 s": (Target("power_off"), course((0, "online"), (30, "offline")), {}),
    "power on in 15 s, right after a power off by this client": (
        Target("power_on"),
        course((0, "offline"), (15, "online")),
        {"quiet": False},
    ),
    "reboot, offline from 5 to 9 s": (
        Target("reboot"),
        course((0, "online"), (5, "offline"), (9, "online")),
        {},
    ),
    "the same right after a power on by this client": (
        Target("reboot"),
        course((0, "online"), (5, "offline"), (9, "online")),
        {"quiet": False},
    ),
    "reboot, offline from 12 to 40 s": (
        Target("reboot"),
        course((0, "online"), (12, "offline"), (40, "online")),
        {},
    ),
    "reboot that never leaves `online`": (Target("reboot"), course((0, "online")), {}),
    "resize, down from 20 to 40 s": (
        Target("resize", **RESIZE),
        course((0, ("online", OLD)), (20, ("offline", OLD)), (40, ("online", NEW))),
        {},
    ),
    "resize, down from 3 to 5 s": (
        Target("resize", **RESIZE),
        course((0, ("online", OLD)), (3, ("offline", OLD)), (5, ("online", NEW))),
        {},
    ),
    "resize with `wait_for=4`, never down": (
        Target("resize", **RESIZE),
        course((0, ("online", OLD)), (3, ("online", NEW))),
        {},
    ),
    "resize of a stopped VM, new size after 5 s": (
        Target("resize", **RESIZE),
        course((0, ("offline", OLD)), (5, ("offline", NEW))),
        {},
    ),
    "delete in 3 s": (Target("delete"), course((0, "online"), (3, None)), {}),
    "delete in 30 s": (Target("delete"), course((0, "online"), (30, None)), {}),
    "none: `wait_ready` of a VM that is `online`": (
        Target("wait_ready"),
        course((0, "online")),
        {},
    ),
    "the same right after a change by this client": (
        Target("wait_ready"),
        course((0, "online")),
        {"quiet": False},
    ),
}


def table():
    """Return the page's table: for each row a cell for each max_staleness."""
    _, _, after = PAGE.read_text().partition("| what happens to the VM |")
    head, _, *lines = after.splitlines()
    values = [float(value) for value in re.findall(r"D = (\d+)", head)]
    rows = {}
    for line in itertools.takewhile(lambda line: line.startswith("| "), lines):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows[name] = dict(zip(values, cells, strict=True))
    return rows


def judge(target, at, knows, max_staleness):
    """Return a cell: when polls once a second lead to a verdict, and its evidence."""
    completion = Completion(target, max_staleness, **{"visible_at": 0.0, "quiet": True} | knows)
    for second in range(1, 1000):
        state, (cores, ram) = at(second)
        verdict = completion.observe(Observation(second, second, state, cores, ram))
        if isinstance(verdict, Done):
            return f"{second} `{verdict.evidence}`"
    return "never"


class TestTable:
    def test_its_rows_are_computed(self):
        """A row without a computation would be unproven."""
        assert list(table()) == list(ROWS)

    @pytest.mark.parametrize("name", ROWS)
    def test_its_figures_are_those_of_the_rules(self, name):
        """Each cell of a row."""
        cells = table()[name]
        assert len(cells) == 3
        assert {value: judge(*ROWS[name], value) for value in cells} == cells
