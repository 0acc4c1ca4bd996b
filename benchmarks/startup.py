"""Startup times: imports, ``--help``, completion.

Run it with ``python benchmarks/startup.py``, with the package and its ``cli`` extra installed. All
are measured in turns, each in a separate process; the figures are medians. The first round, which
compiles and fills the disk cache, is not counted.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from results import draw, keep, kept

IMPORTS = {
    "aiohttp": "import aiohttp",
    "async_vmapi": "import async_vmapi",
    "async_vmapi, every name": "from async_vmapi import *",
}
COMMANDS = {
    "python alone": ["-c", "pass"],
    "--help": ["-m", "async_vmapi", "--help"],
    "fleet create --help": ["-m", "async_vmapi", "fleet", "create", "--help"],
    "completion of a command": [
        "-c",
        "import sys; sys.argv[0] = 'async-vmapi'; from async_vmapi.cli import main; main()",
    ],
}
COMPLETING = {
    "_ASYNC_VMAPI_COMPLETE": "complete_bash",
    "COMP_WORDS": "async-vmapi fleet re",
    "COMP_CWORD": "2",
}


def imported(program):
    """Return the import time of a program in milliseconds, from ``-X importtime``."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.partition(":")[2] for line in result.stderr.splitlines()]
    own = [line.partition("|")[0].strip() for line in lines]
    return sum(int(microseconds) for microseconds in own if microseconds.isdigit()) / 1000


def took(arguments, **variables):
    """Return a command's duration in milliseconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return 1000 * (time.perf_counter() - began)


def measure(rounds):
    imports = {name: [] for name in IMPORTS}
    commands = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, program in IMPORTS.items():
            imports[name].append(imported(program))
        for name, arguments in COMMANDS.items():
            variables = COMPLETING if name.startswith("completion") else {}
            commands[name].append(took(arguments, **variables))
        if number == 0:
            for times in (*imports.values(), *commands.values()):
                times.clear()
    median = {name: round(statistics.median(times), 1) for name, times in imports.items()}
    beyond = {
        # The computer's speed varies between rounds, but hardly within one.
        name: round(
            statistics.median(
                ours - base for ours, base in zip(times, imports["aiohttp"], strict=True)
            ),
            1,
        )
        for name, times in imports.items()
        if name != "aiohttp"
    }
    return {
        "rounds": rounds,
        "importtime_ms": median,
        "importtime_beyond_aiohttp_ms": beyond,
        "wall_ms": {name: round(statistics.median(times), 1) for name, times in commands.items()},
    }


def paint(figures):
    def onto(axes, colours):
        imports, commands = axes
        for axis, values, title in (
            (imports, figures["importtime_ms"], "import, ms"),
            (commands, figures["wall_ms"], "the command, start to end, ms"),
        ):
            names = [*values][::-1]
            shades = [colours[0 if "vmapi" in n or n[0] in "-fc" else 2] for n in names]
            bars = axis.barh(names, [values[name] for name in names], color=shades, height=0.6)
            axis.bar_label(bars, fmt="%.0f", padding=3)
            axis.set_title(title)
            axis.margins(x=0.15)

    draw("startup", onto, columns=2, size=(9.0, 2.6))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--draw", action="store_true", help="only draw the saved figures")
    options = parser.parse_args()
    figures = kept("startup") if options.draw else measure(options.rounds)
    if not options.draw:
        keep("startup", figures)
        print(json.dumps(figures, indent=2))
    paint(figures)


if __name__ == "__main__":
    main()
