"""What facts about the provider change: the delay until completion is observed, and false verdicts.

Run it with ``python benchmarks/facts.py``, with the package and looptime installed. A fast provider
(fresh reads, short operations) and a slow, stale one are emulated in memory on a virtual clock, so
the figures do not depend on the computer. Each is measured with what is assumed by default, and
with facts about it. Delays are from the actual completion; a false verdict is one before it, or a
failure. The command fails if a client with facts has one.
"""

import argparse
import asyncio
import statistics
import sys

from staleness import KINDS, cloud_of, on_a_virtual_clock, run_fleet

from async_vmapi import Client
from async_vmapi.emulator import Settings
from async_vmapi.facts import Fact, Facts


def facts(**values):
    return Facts({name.replace("__", "."): Fact(v, "measured", 20) for name, v in values.items()})


FAST = facts(
    reads__max_staleness=0.0,
    reads__appears=(0.0, 1.0),
    resize__restart=10.0,
    resize__change=15.0,
    resize__back=15.0,
    durations__create=(8.0, 15.0),
    durations__resize=(6.0, 12.0),
    durations__shutdown=(2.0, 5.0),
    durations__reboot=(4.0, 9.0),
    durations__reset=(3.0, 6.0),
    durations__delete=(1.0, 3.0),
    durations__power_on=(3.0, 6.0),
    durations__power_off=(0.5, 1.5),
)
SLOW = facts(
    reads__max_staleness=20.0,
    reads__appears=(0.0, 30.0),
    durations__create=(120.0, 240.0),
    durations__resize=(60.0, 120.0),
    durations__shutdown=(20.0, 60.0),
    durations__reboot=(30.0, 90.0),
    durations__reset=(30.0, 60.0),
    durations__delete=(20.0, 60.0),
    durations__power_on=(30.0, 60.0),
    durations__power_off=(5.0, 20.0),
)


async def delays(kind, provider, known, count, seed):
    """Return the delays of one operation on VMs, each alone; None for a failure."""
    found = []
    for number in range(count):
        settings = Settings.from_facts(provider, address=0)
        state = "offline" if kind == "power_on" else "online"
        api = cloud_of(
            0 if kind == "create" else 1, settings=settings, state=state, seed=seed + number
        )
        async with Client.in_memory(api, latency=0.02, seed=seed, facts=known) as client:
            operations, _ = await run_fleet(client, api, kind, 1)
            found += [None if error else delay for _, delay, _, error in operations]
    return found


def cell(kind, provider, known, count):
    """Return the median delay, and how many verdicts were false."""
    found = on_a_virtual_clock(delays(kind, provider, known, count, 1))
    right = [delay for delay in found if delay is not None and delay >= 0]
    return statistics.median(right), len(found) - len(right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=20, help="VMs for each figure")
    count = parser.parse_args().count
    print("| | fast, by default | fast, with facts | slow, by default | slow, with facts |")
    print("|---|--:|--:|--:|--:|")
    wrong = 0
    for kind in KINDS:
        cells = []
        for provider, known in ((FAST, None), (FAST, FAST), (SLOW, None), (SLOW, SLOW)):
            median, false = cell(kind, provider, known, count)
            wrong += false if known is not None else 0
            cells.append(f"{median:.1f} s{f', {false} false' if false else ''}")
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    sys.exit(f"{wrong} false verdicts with facts" if wrong else 0)


if __name__ == "__main__":
    asyncio.set_event_loop(None)
    main()
