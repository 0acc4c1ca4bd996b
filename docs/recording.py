"""Record what a command shows on a terminal, as an animated SVG of its real output.

``python docs/recording.py`` makes docs/images/demo.svg again, from ``async-vmapi demo``. It needs a
Unix terminal and pyte, which the tests install too.
"""

import argparse
import fcntl
import html
import itertools
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyte

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 100, 28
# In seconds: between two frames, until the program starts, and after the last frame.
FRAME, TYPING, HOLD = 0.25, 1.5, 5.0
CHARACTER, LINE, MARGIN, BAR = 8.4, 18, 16, 34

# Readable on the dark window, which itself stands out on light and dark pages.
PALETTE = {
    "black": "#6e7681",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "yellow": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#f0f6fc",
    "default": "#d0d7de",
}


class Run(NamedTuple):
    """Some text of a row, at a column, in one style."""

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]
Frame = tuple[Row, ...]


def read_row(screen: pyte.Screen, number: int) -> Row:
    """Return what a row of the screen shows, without its spaces."""
    cells = [screen.buffer[number][column] for column in range(screen.columns)]
    runs: list[Run] = []
    column = 0
    for style, group in itertools.groupby(cells, lambda cell: (cell.fg, cell.bold)):
        text = "".join(cell.data for cell in group)
        colour = PALETTE.get(style[0].removeprefix("bright"), f"#{style[0]}")
        for part in _parts(text):
            runs.append(Run(column + part[0], part[1], colour, style[1]))
        column += len(text)
    return tuple(runs)


def _parts(text: str) -> Iterable[tuple[int, str]]:
    """Split a text where it has two or more spaces, and strip it."""
    start = 0
    for part in text.split("  "):
        if part.strip():
            yield start + len(part) - len(part.lstrip()), part.strip()
        start += len(part) + 2


def record(typed: str, command: Sequence[str]) -> tuple[list[tuple[float, Frame]], int]:
    """Run a command, as if it were typed; return frames with their times, and its exit code."""
    terminal, other = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    dropped = {"COLUMNS", "LINES", "NO_COLOR"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    program = subprocess.Popen(  # noqa: S603 - this script's own command
        command,
        env=kept | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    frames: list[tuple[float, Frame]] = []

    def show(output: bytes, at: float) -> None:
        stream.feed(output)
        frame = tuple(read_row(screen, number) for number in range(ROWS))
        if not frames or frames[-1][1] != frame:
            frames.append((at, frame))

    show(b"\x1b[1;32m$\x1b[0m ", 0.0)
    show(f"\x1b[1m{typed}\x1b[0m\r\n".encode(), TYPING / 2)
    start = time.monotonic() - TYPING
    waiting, ended = b"", False
    while not ended:
        if select.select([terminal], [], [], FRAME)[0]:
            try:
                output = os.read(terminal, 65536)
            except OSError:  # Linux: the other side is closed
                output = b""
            ended = not output
            waiting += output
        now = time.monotonic() - start
        if ended or now - frames[-1][0] >= FRAME:
            show(waiting, now)
            waiting = b""
    os.close(terminal)
    return frames, program.wait()


def draw(film: Sequence[tuple[float, Frame]], title: str) -> str:
    """Return an SVG that shows the frames in their time."""
    total = film[-1][0] + HOLD
    width, height = round(2 * MARGIN + COLUMNS * CHARACTER), BAR + ROWS * LINE + MARGIN
    classes: dict[tuple[str, bool], str] = {}
    rows: dict[Row, str] = {}
    drawn = [_draw(frame, rows, classes, index * width) for index, (_, frame) in enumerate(film)]
    steps = "".join(
        f"{100 * at / total:.2f}%{{transform:translateX({-index * width}px)}}"
        for index, (at, _) in enumerate(film)
    )
    styles = "".join(
        f".{name}{{fill:{colour}{';font-weight:700' if bold else ''}}}"
        for (colour, bold), name in classes.items()
    )
    defined = "".join(
        f'<g id="{name}">{"".join(_text(run, classes) for run in row)}</g>'
        for row, name in rows.items()
    )
    last = (1 - len(film)) * width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{html.escape(title)}</title><style>"
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace;"
        f"white-space:pre}}{styles}@keyframes film{{{steps}100%{{transform:translateX({last}px)}}}}"
        # Without the animation, the last frame shows the outcome.
        f".film{{transform:translateX({last}px);animation:film {total:.1f}s steps(1,end) infinite}}"
        "@media(prefers-reduced-motion:reduce){.film{animation:none}}</style>"
        f'<rect width="{width - 2}" height="{height - 2}" x="1" y="1" rx="8" fill="#161b22" '
        'stroke="#6e7681"/><circle cx="20" cy="18" r="6" fill="#ff7b72"/>'
        '<circle cx="40" cy="18" r="6" fill="#e3b341"/><circle cx="60" cy="18" r="6" '
        f'fill="#56d364"/><defs>{defined}<clipPath id="window"><rect width="{width}" '
        f'height="{height}"/></clipPath></defs><g clip-path="url(#window)"><g class="film">'
        f"{''.join(drawn)}</g></g></svg>\n"
    )


def _draw(
    frame: Frame, rows: dict[Row, str], classes: dict[tuple[str, bool], str], left: int
) -> str:
    """Return a frame, made of rows that all frames share."""
    used = []
    for number, row in enumerate(frame):
        for run in row:
            classes.setdefault((run.colour, run.bold), f"c{len(classes)}")
        if row:
            name = rows.setdefault(row, f"r{len(rows)}")
            used.append(f'<use href="#{name}" y="{BAR + (number + 1) * LINE}"/>')
    return f'<g transform="translate({left + MARGIN})">{"".join(used)}</g>'


def _text(run: Run, classes: dict[tuple[str, bool], str]) -> str:
    # The length keeps columns in their place with any font.
    length = f' textLength="{len(run.text) * CHARACTER:.1f}"' if len(run.text) > 1 else ""
    return (
        f'<text x="{run.column * CHARACTER:.1f}" class="{classes[run.colour, run.bold]}"{length}>'
        f"{html.escape(run.text, quote=False)}</text>"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", default="24", help="number of VMs of the demo")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "demo.svg")
    options = parser.parse_args(arguments)
    command = ["demo", "--count", options.count, "--seed", "3"]
    typed = f"async-vmapi {' '.join(command)}"
    film, code = record(typed, [sys.executable, "-m", "async_vmapi", *command])
    if code:
        sys.exit(f"the demo exited with code {code}")
    options.output.write_text(draw(film, f"{typed}, on a terminal"), "utf-8")


if __name__ == "__main__":
    main()
