"""The picture of a rehearsal: an SVG timeline of its worst run. Pure."""

import html
import math
from collections.abc import Iterable, Iterator
from typing import Final

from async_vmapi.bulk.rehearsal import Rehearsal, Steps, Timeline, WaveSpan

__all__ = ["picture_of"]

_WIDTH, _HEIGHT = 960, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 84, 52
_MOST_TICKS: Final = 8
_CHARACTER: Final = 7
"""Width of a character, about."""

_STYLE: Final = """
svg { background: #fff; font: 13px system-ui, sans-serif; fill: #222; }
.title { font-weight: 600; }
.axis, .grid { stroke: #888; fill: none; } .grid { stroke: #ddd; }
.wave { fill: #eef3f8; } .wave.odd { fill: #f8f8f4; }
.line { fill: none; stroke-width: 2; }
.online { stroke: #1b7f3b; } .in-flight { stroke: #1565c0; } .failed { stroke: #c62828; }
.in-flight { stroke-dasharray: 6 3; } .failed { stroke-dasharray: 2 2; }
@media (prefers-color-scheme: dark) {
svg { background: #14181c; fill: #e4e4e4; } .grid { stroke: #333b42; }
.wave { fill: #1c242c; } .wave.odd { fill: #20221f; }
.online { stroke: #62d084; } .in-flight { stroke: #6db3ff; } .failed { stroke: #ff8078; }
}
"""


def picture_of(rehearsal: Rehearsal) -> str:
    """Return the timeline of a rehearsal's worst run as SVG, for light and dark pages."""
    run = rehearsal.worst
    timeline = run.timeline or Timeline(in_flight=(), online=(), failed=(), waves=())
    most = max(rehearsal.items, 1)
    x = _Scale(run.seconds or 1.0, _LEFT, _WIDTH - _RIGHT)
    y = _Scale(most, _HEIGHT - _BOTTOM, _TOP)
    title = (
        f"{rehearsal.operation} of {rehearsal.items} VMs: the worst of {len(rehearsal.runs)} runs, "
        f"seed {run.seed}, {_clock(run.seconds)}"
    )
    if run.stopped:
        title += f", stopped: {run.stopped}"
    lines = {"online": timeline.online, "in-flight": timeline.in_flight, "failed": timeline.failed}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="24">{_text(title)}</text>',
        *_legend(lines),
        *_waves(timeline.waves, x),
        *_axes(x, y),
        *(
            f'<path class="line {name}" d="{_path(steps, x, y, run.seconds)}"/>'
            for name, steps in lines.items()
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Scale:
    """From a value to a place in the picture."""

    def __init__(self, most: float, begin: float, end: float) -> None:
        self.most = most
        self._begin, self._factor = begin, (end - begin) / most

    def __call__(self, value: float) -> float:
        return round(self._begin + value * self._factor, 1)

    def ticks(self, steps: Iterable[int]) -> Iterator[int]:
        """Iterate over round values, at most a few: multiples of the first step that fits."""
        step = next((s for s in steps if self.most / s <= _MOST_TICKS), math.ceil(self.most))
        value = 0
        while value <= self.most:
            yield value
            value += step


_SECONDS: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)


def _counts() -> Iterator[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


def _legend(names: Iterable[str]) -> Iterator[str]:
    at = _LEFT
    for name in names:
        text = name.replace("-", " ")
        yield f'<path class="line {name}" d="M{at} 46h28"/><text x="{at + 34}" y="50">{text}</text>'
        at += 60 + _CHARACTER * len(text)


def _waves(waves: Iterable[WaveSpan], x: _Scale) -> Iterator[str]:
    for number, wave in enumerate(waves):
        left, right = x(wave.begins), x(wave.ends)
        odd = " odd" * (number % 2)
        name = f"wave {wave.number}{f', {wave.domain}' if wave.domain else ''}"
        yield (
            f'<rect class="wave{odd}" x="{left}" y="{_TOP}" width="{max(right - left, 1):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{_text(name)}</title></rect>'
        )
        room = (right - left) / _CHARACTER
        shown = name if len(name) <= room else str(wave.number)
        if len(shown) <= room:
            yield f'<text x="{left + 3:.1f}" y="{_TOP - 6}">{_text(shown)}</text>'


def _axes(x: _Scale, y: _Scale) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y.ticks(_counts()):
        at = y(value)
        yield f'<path class="grid" d="M{_LEFT} {at}H{right}"/>'
        yield f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value}</text>'
    for value in x.ticks(_SECONDS):
        at = x(value)
        yield f'<path class="axis" d="M{at} {bottom}v5"/>'
        yield f'<text x="{at}" y="{bottom + 20}" text-anchor="middle">{_clock(value)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    yield f'<text x="{right}" y="{_HEIGHT - 10}" text-anchor="end">time, minutes:seconds</text>'
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 10}">number of VMs</text>'


def _path(steps: Steps, x: _Scale, y: _Scale, end: float) -> str:
    """Return a line of steps, from 0 until the end."""
    last = next((count for at, count in reversed(steps) if at <= 0), 0)
    path = [f"M{x(0)} {y(last)}"]
    for at, count in steps:
        if 0 < at <= end and count != last:
            path.append(f"H{x(at)}V{y(count)}")
            last = count
    return "".join([*path, f"H{x(end)}"])


def _text(text: str) -> str:
    """Return a text for XML, which has no control characters; names of groups may have them."""
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
