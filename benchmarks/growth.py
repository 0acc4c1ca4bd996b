"""The cost of one operation in fleets of 100 to 100,000 VMs: CPU, memory and requests.

Run it with ``python benchmarks/growth.py``, with the package and the dependency group
``benchmarks`` installed. It uses the emulator in memory and a virtual clock, with a separate
process for each fleet: all VMs are created at once and awaited until they are online, one is read
1,000 times, and all are powered off by one bulk call without a limit. CPU time is the client's; the
emulator's is measured separately and subtracted. It is the median of rounds in separate processes.
Memory is what is kept while all creates are awaited, by tracemalloc, without the emulator's, in
another process, as tracing takes time.
"""

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import looptime
from results import draw, keep, kept

import async_vmapi.emulator
from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.emulator import CloudAPI, Settings, in_memory
from async_vmapi.emulator.catalogue import ZONES

COUNTS = (100, 1_000, 10_000, 100_000)
GETS = 1_000
# A list of 100,000 is larger than the default limit of 64 MiB.
OPTIONS = {"latency": 0.02, "seed": 1, "max_response_size": 1 << 30}
EMULATOR = str(Path(async_vmapi.emulator.__file__).parent / "*")

emulating = collecting = 0.0


def timed(deliver):
    """Return the emulator's `handle` with its CPU time added up."""

    def timed_deliver(*arguments, **keywords):
        global emulating
        began, collected = time.process_time(), collecting
        try:
            return deliver(*arguments, **keywords)
        finally:
            emulating += time.process_time() - began - (collecting - collected)

    return timed_deliver


def collect_timed():
    """Add up the CPU time of garbage collection."""
    began = 0.0

    def collected(stage, _):
        nonlocal began
        global collecting
        if stage == "start":
            began = time.process_time()
        else:
            collecting += time.process_time() - began

    gc.callbacks.append(collected)


class Cost:
    """Measures a block: CPU seconds without the emulator's, and requests.

    Garbage collection is measured separately: it visits all objects of the process, including the
    emulator's, and hardly ever runs in a small fleet.
    """

    def __init__(self, client):
        self._client = client

    def __enter__(self):
        gc.collect()
        self._requests = sum(self._client.requests.values())
        self._collecting, self._emulating = collecting, emulating
        self._began = time.process_time()
        return self

    def __exit__(self, *_):
        self.gc = collecting - self._collecting
        self.cpu = time.process_time() - self._began - (emulating - self._emulating) - self.gc
        self.requests = sum(self._client.requests.values()) - self._requests

    def per(self, count):
        return {
            "cpu_us": 1e6 * self.cpu / count,
            "gc_us": 1e6 * self.gc / count,
            "requests": self.requests / count,
        }


def requests(count):
    zone, boot = next(iter(ZONES)), ImageBoot(os="2268")
    return [
        CreateRequest(name=f"w-{number}", cpus=1, ram=1024, zone_id=zone, boot=boot)
        for number in range(count)
    ]


async def online(client, request):
    return await (await client.vms.create(request))


async def traced(count):
    """Return the bytes that each awaited create keeps."""
    wanted = requests(count + 1)
    async with Client.in_memory(CloudAPI(seed=1), **OPTIONS) as client:
        # Exclude what the first one loads.
        await online(client, wanted.pop())
        tracemalloc.start()
        creating = [asyncio.ensure_future(online(client, request)) for request in wanted]
        # By then, all are accepted and polled, and none is online.
        await asyncio.sleep(25)
        assert client.requests["create"] == count + 1
        assert not any(task.done() for task in creating)
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(False, EMULATOR), tracemalloc.Filter(False, tracemalloc.__file__)]
        )
        tracemalloc.stop()
        await asyncio.gather(*creating)
    return sum(trace.size for trace in snapshot.traces) / count


async def measured(count):
    wanted = requests(count)
    api = CloudAPI(settings=Settings(create=(30, 90)), seed=1)
    async with Client.in_memory(api, **OPTIONS) as client:
        with Cost(client) as created:
            await asyncio.gather(*(online(client, request) for request in wanted))
            # Until the loop has removed what is left, such as cancelled timers.
            await asyncio.sleep(3600)
        ids = list(api.cloud.vms)
        with Cost(client) as got:
            for _ in range(GETS):
                await client.vms.get(ids[count // 2])
        with Cost(client) as powered_off:
            report = await client.bulk(limit=count).power_off(ids)
            await asyncio.sleep(3600)
        report.raise_on_failure()
    return {
        "create to online": created.per(count),
        "get": got.per(GETS),
        "power off, in bulk": powered_off.per(count),
    }


def in_a_process(what, count):
    result = subprocess.run(
        [sys.executable, __file__, f"--{what}", str(count)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


def measure(counts, rounds):
    found = {}
    for _ in range(rounds):
        for count in counts:
            for operation, cost in in_a_process("measured", count).items():
                found.setdefault(operation, {}).setdefault(count, []).append(cost)
    medians = {
        operation: {
            count: {
                part: round(statistics.median(cost[part] for cost in costs), digits)
                for part, digits in (("cpu_us", 1), ("gc_us", 1), ("requests", 4))
            }
            for count, costs in by_count.items()
        }
        for operation, by_count in found.items()
    }
    kept_bytes = {count: round(in_a_process("traced", count)) for count in counts}
    figures = {"rounds": rounds, "operations": medians, "bytes_per_awaited_create": kept_bytes}
    figures["largest_to_smallest"] = {
        **{
            f"{operation}, CPU": round(costs[counts[-1]]["cpu_us"] / costs[counts[0]]["cpu_us"], 2)
            for operation, costs in medians.items()
        },
        "create to online, bytes": round(kept_bytes[counts[-1]] / kept_bytes[counts[0]], 2),
    }
    return figures


def paint(figures):
    operations, kept_bytes = figures["operations"], figures["bytes_per_awaited_create"]

    def onto(axes, colours):
        for axis, title, lines in (
            (
                axes[0],
                "CPU µs per operation (dashed: garbage)",
                {n: (c, "cpu_us") for n, c in operations.items()},
            ),
            (
                axes[1],
                "requests per operation",
                {n: (c, "requests") for n, c in operations.items()},
            ),
            (axes[2], "bytes per awaited create", {"create to online": (kept_bytes, None)}),
        ):
            for colour, (name, (values, field)) in zip(colours, lines.items(), strict=False):
                counts = [int(count) for count in values]
                costs = [value[field] if field else value for value in values.values()]
                axis.loglog(counts, costs, marker="o", color=colour, label=name)
                if field == "cpu_us":
                    garbage = [value["gc_us"] or None for value in values.values()]
                    axis.loglog(counts, garbage, linestyle="--", color=colour)
            axis.set_title(title)
            axis.set_xlabel("VMs")
            axis.grid(visible=True, alpha=0.6)
        low = min(kept_bytes.values())
        axes[2].set_ylim(low / 10, low * 10)
        axes[0].set_ylim(bottom=1)
        axes[1].legend()

    draw("growth", onto, columns=3, size=(11.0, 3.2))


def run(body):
    loop_class = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
    with asyncio.Runner(loop_factory=loop_class) as runner:
        print(json.dumps(runner.run(body)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=COUNTS[-1], help="the largest fleet")
    parser.add_argument("--draw", action="store_true", help="only draw the saved figures")
    parser.add_argument("--measured", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--traced", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        in_memory.deliver = timed(in_memory.deliver)
        collect_timed()
        run(measured(options.measured))
    elif options.traced:
        run(traced(options.traced))
    elif options.draw:
        paint(kept("growth"))
    else:
        counts = [count for count in COUNTS if count <= options.most]
        figures = measure(counts, options.rounds)
        keep("growth", figures)
        print(json.dumps(figures, indent=2))
        paint(figures)


if __name__ == "__main__":
    main()
