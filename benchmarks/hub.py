"""The cost of polling: requests and delays, and the poller's work in a tick.

Run it with ``python benchmarks/hub.py``, with the package and looptime installed. Requests and
delays are counted on a virtual clock; the last part measures CPU time.
"""

import asyncio
import json
import platform
import statistics
import time

from staleness import client_of, on_a_virtual_clock, request, run_fleet, spread_of

from async_vmapi.emulator import CloudAPI
from async_vmapi.tasks.vm_list import ListResult
from async_vmapi.transport.codec import SNAPSHOTS
from async_vmapi.transport.responses import open_envelope


async def rollout(floor, count=1000):
    """Create VMs, and return the cost and the delay until their completion was observed."""
    api = CloudAPI(seed=1)
    async with client_of(api, min_poll_interval=floor, seed=1) as client:
        found, sent = await run_fleet(client, api, "create", count)
    delays = spread_of([delay for _, delay, _, _ in found])
    requests = sent.total() - count
    alone = sum(int((o.finished_at - o.accepted_at) / floor) + 1 for o, *_ in found)
    return {
        "floor_seconds": floor,
        "requests_beyond_the_creates": requests,
        "requests_of_a_loop_per_task": alone,
        "median_delay_seconds": delays["median"],
        "p95_delay_seconds": delays["p95"],
        "requests_times_median_delay": round(requests * delays["median"], 1),
    }


async def tick(count):
    """Return the CPU milliseconds of a tick without decoding, by how much has changed."""
    api = CloudAPI()
    async with client_of(api) as client:
        template = (await client.vms.create(request(0))).token()
        tasks = [client.resume(template) for _ in range(count)]
        for number, task in enumerate(tasks):
            task._watch.vm_id = f"vm-{number}"
        waiting = [asyncio.ensure_future(task.wait()) for task in tasks]
        await asyncio.sleep(0)
        lists = client._hub._poller.lists
        state = [
            {"id": f"vm-{n}", "state": "installing", "cores": 1, "ram": 1} for n in range(count)
        ]

        async def measure(at):
            body = json.dumps({"success": True, "virtual_machines": state}).encode()
            vms, _ = open_envelope(SNAPSHOTS, 200, body, method="GET", path="/")
            lists.active = True
            began = time.process_time()
            await lists._compare(ListResult(at, at, vms, body))
            return 1000 * (time.process_time() - began)

        now = asyncio.get_running_loop().time()
        first = await measure(now + 1)
        same = statistics.median([await measure(now + 2 + n) for n in range(5)])
        for n in range(0, count, 100):
            state[n]["cores"] = 2
        few = await measure(now + 10)
        for waiter in waiting:
            waiter.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    return {
        "tasks": count,
        "nothing_changed_ms": round(same, 1),
        "one_percent_changed_ms": round(few, 1),
        "everything_changed_ms": round(first, 1),
    }


def main():
    rollouts = [on_a_virtual_clock(rollout(floor)) for floor in (0.5, 1.0, 2.0, 5.0)]
    with asyncio.Runner() as runner:
        ticks = [runner.run(tick(count)) for count in (1_000, 10_000, 100_000)]
    figures = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "a_thousand_creates": rollouts,
        "a_tick_beyond_decoding": ticks,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
