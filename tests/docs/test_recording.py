"""The README's recording of a terminal can be made again, and is small."""

import importlib.util
from xml.etree import ElementTree

import pytest

from .blocks import ROOT

RECORDED = ROOT / "docs" / "images" / "demo.svg"
SCRIPT = ROOT / "docs" / "recording.py"
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def recording():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("recording", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(svg):
    return [node.text for node in ElementTree.fromstring(svg).iter(f"{SPACE}text")]


class TestRecording:
    def test_it_shows_a_demo_from_its_command_to_its_end(self):
        """In a size that a page can load."""
        shown = texts(RECORDED.read_text())
        assert "async-vmapi demo --count 24 --seed 3" in shown
        assert "delete of 24: 24 succeeded" in shown
        assert RECORDED.stat().st_size < 200_000

    @pytest.mark.programs
    def test_it_can_be_made_again(self, recording, tmp_path):
        """From a real run, with what the program shows today."""
        recording.main(["--count", "4", "--output", str(tmp_path / "demo.svg")])
        svg = (tmp_path / "demo.svg").read_text()
        assert {"create of 4: 3 succeeded, 1 failed", "delete of 4: 4 succeeded"} <= set(texts(svg))
        # Each frame is there, and has its time.
        frames = ElementTree.fromstring(svg).findall(f".//{SPACE}g[@class='film']/{SPACE}g")
        assert svg.count("%{transform:translateX(") == len(frames) + 1
        assert len(frames) > 5

    def test_colours_columns_and_markup_survive(self, recording):
        """Text of two styles keeps its places, and is no markup."""
        screen = recording.pyte.Screen(recording.COLUMNS, recording.ROWS)
        recording.pyte.ByteStream(screen).feed(b"  <a>  \x1b[1;31mb & c\x1b[0m")
        row = recording.read_row(screen, 0)
        assert [(run.column, run.text, run.bold) for run in row] == [
            (2, "<a>", False),
            (7, "b & c", True),
        ]
        assert row[1].colour == recording.PALETTE["red"]
        svg = recording.draw([(0.0, (row,))], "a title")
        assert texts(svg) == ["<a>", "b & c"]
