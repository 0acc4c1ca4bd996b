"""The cost of a bulk call: its duration compared with the ideal one, and its memory.

Run it with ``python benchmarks/bulk.py``, with the package and looptime installed. It uses the
emulator in memory and a virtual clock. The first part creates 1,000 VMs, 30 to 90 s each, with a
limit of 100, and compares the duration with a greedy schedule that sees every completion at once.
The second part creates 100,000 VMs from a generator with a limit of 500, deletes each when it is
online, and traces the memory kept by the package, without the emulator's.
"""

import argparse
import asyncio
import gc
import heapq
import json
import platform
import time
import tracemalloc
from pathlib import Path

import looptime

import async_vmapi.emulator
from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.emulator.catalogue import ZONES

EMULATOR = str(Path(async_vmapi.emulator.__file__).parent / "*")


def requests(count):
    for number in range(count):
        yield CreateRequest(
            name=f"w-{number}",
            cpus=1,
            ram=1024,
            zone_id=next(iter(ZONES)),
            boot=ImageBoot(os="2268"),
        )


async def makespan(count=1000, limit=100):
    api = CloudAPI(settings=Settings(create=(30, 90)), seed=1)
    async with Client.in_memory(api, latency=0.02, min_poll_interval=1, seed=1) as client:
        report = await client.bulk(limit=limit).create(requests(count), unique_name=True)
    report.raise_on_failure()
    slots = [0.0] * limit
    for operation in sorted(api.cloud.operations, key=lambda operation: operation.accepted_at):
        free = heapq.heappop(slots)
        heapq.heappush(slots, free + operation.finished_at - operation.accepted_at)
    return {
        "seconds": round(report.seconds, 1),
        "ideal_seconds": round(max(slots), 1),
        "ratio": round(report.seconds / max(slots), 3),
        "requests_beyond_the_creates": sum(report.requests.values()) - count,
    }


def kept():
    gc.collect()
    traces = tracemalloc.take_snapshot().filter_traces(
        [
            tracemalloc.Filter(False, EMULATOR),
            tracemalloc.Filter(False, tracemalloc.__file__),
        ]
    )
    return sum(trace.size for trace in traces.traces)


async def memory(count, limit=500):
    api = CloudAPI(settings=Settings(create=(3, 9), not_found=0), seed=1)
    taken = []
    async with Client.in_memory(api, min_poll_interval=1, seed=1) as client:
        ended = 0
        async for outcome in client.bulk(limit=limit).stream(
            requests(count), "create", unique_name=True
        ):
            assert outcome.status == "succeeded", outcome
            await client.vms.delete(outcome.vm_id)
            ended += 1
            # Exclude what the emulator keeps.
            api.cloud.gone.clear()
            api.cloud.operations.clear()
            if ended % (count // 10) == 0:
                taken.append(kept())
    return {
        "creates": count,
        "limit": limit,
        "kilobytes_after_each_tenth": [round(size / 1024) for size in taken],
    }


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--count", type=int, default=100_000, help="creates of the second part")
    count = arguments.parse_args().count
    loop_class = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
    with asyncio.Runner(loop_factory=loop_class) as runner:
        spans = runner.run(makespan())
    tracemalloc.start()
    began = time.perf_counter()
    with asyncio.Runner(loop_factory=loop_class) as runner:
        memories = runner.run(memory(count))
    figures = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "makespan": spans,
        "memory": memories | {"real_seconds": round(time.perf_counter() - began, 1)},
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
