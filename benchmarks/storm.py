"""Thousands of writes while every fifth request fails, and their outcomes.

Run it with ``python benchmarks/storm.py``: 2,000 creates, then 2,000 resizes, shutdowns and
deletes, over HTTP, for three seeds; and as a control the same with plain retries of creates. All
counts must be 0, except for duplicates in the control.
"""

import argparse
import asyncio
import json
import platform
import random
import time
from collections import Counter

import attrs

from async_vmapi import (
    APIError,
    Client,
    CreateRequest,
    ImageBoot,
    OutcomeUnknown,
    TaskError,
    VMAPIError,
)
from async_vmapi.emulator import Emulator, Fault, FaultPlan, Settings
from async_vmapi.emulator.catalogue import ZONES
from async_vmapi.transport.codec import CREATED
from async_vmapi.transport.retries import Idempotency

SHARE = 0.2
SPEED = 20.0
ZONE = next(iter(ZONES))


def faults(share=SHARE, *, stall=5.0, huge=9 * 2**20, refuse=0.05):
    """Return the faults: a quarter of them drop the connection after the request was executed."""
    others = [
        {"kind": "refuse", "seconds": refuse},
        {"kind": "drop_before"},
        {"kind": "stall", "seconds": stall},
        {"kind": "rate_limited"},
        {"kind": "rate_limited", "retry_after": 1},
        *(
            {"kind": "server_error", "status": status, "after": after}
            for status in (500, 502, 503, 504)
            for after in (False, True)
        ),
        {"kind": "server_error", "status": 503, "retry_after": 1},
        {"kind": "truncated"},
        {"kind": "html"},
        {"kind": "success_false"},
        {"kind": "slow_body", "seconds": 0.5},
        {"kind": "wrong_content_type"},
        {"kind": "close_idle"},
        {"kind": "stale_list", "seconds": 5.0},
        {"kind": "not_found"},
        {"kind": "unknown_state"},
        {"kind": "huge_body", "size": huge},
    ]
    # The first fault drawn wins, so each probability is of the remaining requests.
    weights = [(0.25, {"kind": "drop_after"}), *((0.75 / len(others), other) for other in others)]
    plan, left = [], 1.0
    for weight, fault in weights:
        plan.append(Fault(probability=share * weight / left, **fault))
        left -= share * weight
    return plan


def retry_plainly(client):
    """Retry creates on any error, as other SDKs do: the control."""

    async def send(pending, call):
        call = attrs.evolve(call, idempotency=Idempotency.IDEMPOTENT)
        return await client._pipeline.call(call, CREATED, pending.attempts)

    client._writes._send = send


class Storm:
    """Runs a client through the storm, and compares its results with the cloud's operations."""

    def __init__(self, client, cloud, *, seed, twins=0.05):
        self.client = client
        self.cloud = cloud
        self.outcomes = Counter()
        self.wrong = Counter(
            duplicates=0, unnamed=0, false_successes=0, undocumented=0, twice_adopted=0
        )
        self.named_ids, self.named_names = set(), set()
        self.online = []
        self._random = random.Random(seed)
        self._twins = twins

    async def creates(self, count):
        await asyncio.gather(*(self._create(number) for number in range(count)))
        every = [*self.cloud.vms.values(), *self.cloud.gone.values()]
        labels = Counter(vm.label for vm in every)
        twins = labels.pop("twin", 0)
        self.wrong["duplicates"] += sum(n - 1 for n in labels.values())
        self.wrong["duplicates"] += max(0, twins - self.outcomes.pop("(twins asked for)", 0))
        self.wrong["unnamed"] += sum(
            vm.id not in self.named_ids and vm.label not in self.named_names for vm in every
        )
        return self

    async def _create(self, number):
        twin = self._random.random() < self._twins
        unique = not twin and self._random.random() < 0.5
        if twin:
            self.outcomes["(twins asked for)"] += 1
        request = CreateRequest(
            name="twin" if twin else f"storm-{number}",
            cpus=1,
            ram=1024,
            zone_id=ZONE,
            boot=ImageBoot(os="2268"),
        )
        try:
            task = await self.client.vms.create(request, unique_name=unique)
            self.wrong["twice_adopted"] += task.vm_id in self.named_ids
            self.named_ids.add(task.vm_id)
            vm = await task
        except OutcomeUnknown as error:
            self.named_ids.update(error.candidates)
            self.named_names.add(error.name)
            self.outcomes["create: unknown"] += 1
        except VMAPIError as error:
            # This error says that nothing was created, so it has no id.
            self._count("create", error)
        except Exception as error:  # noqa: BLE001 - counted as a failure
            self.wrong["undocumented"] += 1
            print("undocumented:", repr(error))
        else:
            self.outcomes["create: adopted" if task.adopted else "create: done"] += 1
            real = self.cloud.vms.get(vm.id)
            self.wrong["false_successes"] += real is None or real.state != "online"
            self.online.append(vm.id)

    async def changes(self, count):
        ids = self._random.sample(self.online, min(count, len(self.online)))
        await asyncio.gather(*(self._change(vm_id) for vm_id in ids))
        return self

    async def _change(self, vm_id):
        vms, what = self.client.vms, self._random.choice(["resize", "shutdown", "delete"])
        try:
            if what == "resize":
                task = await vms.resize(vm_id, cores=2, ram=2048, wait_for=0)
            else:
                task = await getattr(vms, what)(vm_id)
            await task
        except VMAPIError as error:
            self._count(what, error)
            return
        except Exception as error:  # noqa: BLE001 - counted as a failure
            self.wrong["undocumented"] += 1
            print("undocumented:", repr(error))
            return
        self.outcomes[f"{what}: adopted" if task.adopted else f"{what}: done"] += 1
        real = self.cloud.vms.get(vm_id)
        if what == "delete":
            self.wrong["false_successes"] += real is not None
        elif what == "shutdown":
            self.wrong["false_successes"] += real is None or real.state != "offline"
        else:
            self.wrong["false_successes"] += real is None or (real.cores, real.ram) != (2, 2048)

    def _count(self, what, error):
        kind = "refused" if isinstance(error, APIError) and error.status < 500 else "failed"
        if isinstance(error, TaskError):
            kind = "not seen done"
        self.outcomes[f"{what}: {kind} ({type(error).__name__})"] += 1

    def report(self):
        return {"wrong": dict(self.wrong), "outcomes": dict(sorted(self.outcomes.items()))}


async def over_http(count, seed, *, plainly=False, speed=SPEED, window=30.0):
    """Run a storm over HTTP, and return its report."""
    began = time.perf_counter()
    async with Emulator(settings=Settings(stale=(0, 2)), seed=seed, speed=speed) as emulator:
        emulator.api.faults = plan = FaultPlan(faults(), seed=seed)
        async with Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            timeout=3.0,
            connect_timeout=2.0,
            max_response_size=8 * 2**20,
            reconcile_timeout=window,
            # The age of the oldest list that a fault sends.
            max_staleness=5.0 / speed,
            min_poll_interval=0.1,
            max_poll_interval=1.0,
        ) as client:
            if plainly:
                retry_plainly(client)
            storm = Storm(client, emulator.cloud, seed=seed)
            await storm.creates(count)
            if not plainly:
                await storm.changes(count)
            asked = emulator.api.requests.total()
            return storm.report() | {
                "seed": seed,
                "rule": "plain retries" if plainly else "at most once",
                "requests_carried_out": asked,
                "requests_sent": sum(client.requests.values()),
                "faults": plan.injected.total(),
                "seconds": round(time.perf_counter() - began, 1),
            }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    reports = []
    for seed in range(1, options.seeds + 1):
        for plainly in (False, True):
            reports.append(asyncio.run(over_http(options.count, seed, plainly=plainly)))
            print(json.dumps(reports[-1], indent=2), flush=True)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    ours = [report for report in reports if report["rule"] == "at most once"]
    wrong = sum(sum(report["wrong"].values()) for report in ours)
    control = sum(report["wrong"]["duplicates"] for report in reports if report not in ours)
    print(f"wrong with the rule: {wrong}; duplicates without it: {control}")
    raise SystemExit(1 if wrong or not control else 0)


if __name__ == "__main__":
    main()
