"""What a rehearsal of a rolling restart takes, and how well it predicts the duration.

Run it with ``python benchmarks/rehearsal.py``, with the package installed. It rehearses a restart
of 1,000 VMs, 200 times, then carries it out over HTTP on an emulator whose clock, like the
client's, runs five times faster, and compares the duration with the median of the rehearsal.
"""

import argparse
import asyncio
import selectors
import statistics
import sys
import time

from async_vmapi import BulkPlan, Client
from async_vmapi.emulator import Emulator, catalogue
from async_vmapi.rehearsal import Hazards
from async_vmapi.testing import VMCloud

PLAN = BulkPlan(limit=100, min_online="90%")
SPEED = 5


class Selector(selectors.DefaultSelector):
    def select(self, timeout=None):
        return super().select(timeout and timeout / SPEED)


class FastLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(Selector())

    def time(self):
        return super().time() * SPEED


async def rehearse(count, runs, hazards):
    """Return a rehearsal, and the real seconds that it took."""
    cloud = VMCloud()
    vms = [cloud.add(f"web-{number:04}").id for number in range(count)]
    async with Client.in_memory(cloud) as client:
        began = time.perf_counter()
        found = await client.bulk(PLAN).rehearse(vms, "reboot", runs=runs, hazards=hazards)
        return found, time.perf_counter() - began


async def carry_out(count, seed):
    """Return the seconds that a restart over HTTP takes, on the emulator's clock."""
    async with Emulator(seed=seed) as emulator:
        cloud = emulator.cloud
        zone = next(iter(catalogue.ZONES.values()))
        now = asyncio.get_running_loop().time()
        vms = [
            cloud.place(now, label=f"web-{n:04}", cores=1, ram=1024, zone=zone, template=None).id
            for n in range(count)
        ]
        async with Client(
            emulator.url, api_key=emulator.api_key, api_secret=emulator.api_secret, seed=seed
        ) as client:
            report = await client.bulk(PLAN).reboot(vms)
    assert len(report.succeeded) == count, report
    return report.seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vms", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--http", type=int, default=3, help="number of restarts over HTTP")
    options = parser.parse_args()
    found, took = asyncio.run(rehearse(options.vms, options.runs, Hazards()))
    print(f"{options.runs} runs of a rolling restart of {options.vms} VMs: {took:.0f} s")
    for figure in ("seconds", "requests", "peak_requests", "fewest_online"):
        spread = found.spread(figure)
        print(f"  {figure}: {spread.least:.0f} to {spread.most:.0f}, median {spread.median:.0f}")
    print(f"  failed or unknown: {sum(found.failures.values()) / options.runs:.1f} in a run")
    # What goes wrong over HTTP is nothing, so that the durations can be compared.
    calm, _ = asyncio.run(rehearse(options.vms, min(options.runs, 20), Hazards.none()))
    predicted = calm.spread("seconds").median
    seconds = []
    for seed in range(options.http):
        with asyncio.Runner(loop_factory=FastLoop) as runner:
            seconds.append(runner.run(carry_out(options.vms, seed)))
    if not seconds:
        return 0
    actual = statistics.median(seconds)
    error = predicted / actual - 1
    print(f"without hazards: predicted {predicted:.0f} s, over HTTP {actual:.0f} s ({error:+.1%})")
    return 0 if abs(error) <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
