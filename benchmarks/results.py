"""Save benchmark results: figures as JSON, and charts for light and dark pages.

Charts require matplotlib, of the dependency group ``benchmarks``.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("results")

# They also differ in lightness, to be distinguishable without colours. Ours comes first.
COLOURS = {
    "light": ["#0b62b8", "#e08214", "#7a8793", "#8c4799", "#3b9b6d", "#b5403a"],
    "dark": ["#58a6ff", "#ffb454", "#9aa7b3", "#c792ea", "#5fd19a", "#ff8379"],
}
_INK = {"light": "#1f2328", "dark": "#e6edf3"}
_GRID = {"light": "#d0d7de", "dark": "#3d444d"}


def machine() -> dict[str, Any]:
    """Return the system on which the figures were measured."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0].partition(":")[2].strip() if named else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def keep(name: str, figures: Mapping[str, Any]) -> Path:
    """Write figures and the system to ``results/NAME.json``."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    return path


def kept(name: str) -> dict[str, Any]:
    """Read saved figures, to draw them again without measuring."""
    result: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return result


def draw(
    name: str,
    paint: Callable[[Any, list[str]], None],
    *,
    columns: int = 1,
    size: tuple[float, float] = (8.0, 3.2),
) -> None:
    """Draw ``results/NAME-light.svg`` and ``results/NAME-dark.svg``.

    Args:
        name: Name of the chart.
        paint: Draws on an array of axes, with the given colours.
        columns: Number of axes, side by side.
        size: Width and height, in inches.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    for theme, colours in COLOURS.items():
        ink = _INK[theme]
        style = {
            "axes.edgecolor": _GRID[theme],
            "axes.labelcolor": ink,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": ink,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "font.family": "sans-serif",
            "font.size": 10,
            "grid.color": _GRID[theme],
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "text.color": ink,
            "xtick.color": ink,
            "ytick.color": ink,
        }
        with plt.rc_context(style):
            figure, axes = plt.subplots(
                1, columns, figsize=size, layout="constrained", squeeze=False
            )
            paint(axes[0], colours)
            FOLDER.mkdir(exist_ok=True)
            figure.savefig(
                FOLDER / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None}
            )
            plt.close(figure)
