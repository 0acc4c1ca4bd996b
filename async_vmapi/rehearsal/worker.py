"""A process that runs a scenario: ``python -m async_vmapi.rehearsal.worker``.

It reads the scenario from the first line of standard input, and then a seed and whether to record
from each further line; for each, it writes a line with the run. All lines are JSON.
"""

import json
import signal
import sys
from typing import IO

from async_vmapi.rehearsal.run import run
from async_vmapi.rehearsal.scenario import Scenario

__all__ = ["work"]


def work(orders: IO[str], results: IO[str]) -> None:
    """Do what is ordered, until the orders end."""
    scenario = Scenario.from_dict(json.loads(orders.readline()))
    for line in orders:
        order = json.loads(line)
        result = run(scenario, order["seed"], record=order["record"])
        results.write(f"{json.dumps(result.to_dict())}\n")
        results.flush()


if __name__ == "__main__":
    # Ctrl-C is for the process that waits for the results.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results, sys.stdout = sys.stdout, sys.stderr
    work(sys.stdin, results)
