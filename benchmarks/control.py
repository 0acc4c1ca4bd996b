"""The control API: how fast it responds, and what it costs the emulator.

Run it with ``python benchmarks/control.py``. It measures how long requests to the control API take
if 50 come each second, with a listener to the events, and how many requests per second the cloud's
API serves without the control API, with it, and with a listener, in alternating rounds. The
emulators run in separate processes.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time

import aiohttp
from emulator import Served, load
from results import machine

TOKEN = "a-control-token-for-benchmarks"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LISTENER = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
with urllib.request.urlopen(request) as stream:
    while stream.read1(1 << 20):
        pass
"""


@contextlib.contextmanager
def listening(served):
    """Listen to all events in a separate process."""
    url = f"{served.url}/_emulator/events"
    process = subprocess.Popen([sys.executable, "-c", LISTENER, url, TOKEN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def respond(served, rate, seconds):
    """Return how long the control API takes to respond to so many requests a second."""
    one = f"/vms/{served.ids[0]}/history"
    paths = ("", "/vms", "/clock", "/requests?limit=100", "/faults", one)
    took = {path: [] for path in paths}
    async with aiohttp.ClientSession(headers=HEADERS) as session:

        async def call(method, path, content=None):
            began = time.perf_counter()
            url = f"{served.url}/_emulator{path}"
            async with session.request(method, url, json=content) as response:
                body = await response.read()
                assert response.status == 200, body
            return time.perf_counter() - began

        async def note(path, due):
            # From when it was due, so that a request that must wait is not shown as fast.
            late = time.perf_counter() - due
            took[path].append(late + await call("GET", path))

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, path in zip(range(int(rate * seconds)), itertools.cycle(paths)):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(note(path, due))
        every = sorted(itertools.chain.from_iterable(took.values()))
        found = {
            "requests": len(every),
            "median_ms": round(statistics.median(every) * 1e3, 1),
            "p99_ms": round(every[len(every) * 99 // 100] * 1e3, 1),
            "longest_ms": round(every[-1] * 1e3, 1),
            "median_ms_of": {
                path.replace(served.ids[0], "{vm}"): round(statistics.median(times) * 1e3, 1)
                for path, times in took.items()
            },
        }
        found["snapshot_ms"] = round(await call("POST", "/snapshot") * 1e3, 1)
    return found


def throughput(fleet, seconds, rounds):
    """Return the requests per second of each kind, and their ratios to those without control."""
    with Served(fleet) as off, Served(fleet, control_token=TOKEN) as on:
        kinds = {"off": off, "on": on, "listened": on}
        rates = {kind: [] for kind in kinds}
        costs = {kind: [] for kind in kinds}
        for number in range(rounds + 1):
            for kind, served in kinds.items():
                with listening(served) if kind == "listened" else contextlib.nullcontext():
                    cpu, began = served.cpu(), time.perf_counter()
                    rate = load(served.url, served.ids, seconds, 50, 1)
                    cost = (served.cpu() - cpu) / (rate * (time.perf_counter() - began))
                # The first round warms up.
                if number:
                    rates[kind].append(rate)
                    costs[kind].append(cost * 1e6)
    return {
        kind: {
            "requests_per_second": round(statistics.median(rates[kind])),
            "cpu_us_per_request": round(statistics.median(costs[kind]), 1),
            "rate_ratio": round(
                statistics.median(a / b for a, b in zip(rates[kind], rates["off"], strict=True)), 3
            ),
            "cpu_ratio": round(
                statistics.median(a / b for a, b in zip(costs[kind], costs["off"], strict=True)), 3
            ),
        }
        for kind in kinds
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with Served(options.fleet, control_token=TOKEN) as served, listening(served):
        responses = asyncio.run(respond(served, options.rate, 10.0))
    figures = {
        "machine": machine(),
        "fleet": options.fleet,
        "responses": responses,
        "throughput": throughput(options.fleet, options.seconds, options.rounds),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
