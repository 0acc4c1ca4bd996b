"""A small storm of writes and faults; the large one is ``benchmarks/storm.py``."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from async_vmapi import Client
from async_vmapi.emulator import CloudAPI, Emulator, FaultPlan, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def storms():
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("storm", ROOT / "benchmarks" / "storm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def in_memory(storms, count, seed, *, plainly=False):
    """Return the report of a storm without sockets."""
    plan = FaultPlan(storms.faults(stall=40.0, huge=100 * 2**20, refuse=0.2), seed=seed)
    api = CloudAPI(settings=Settings(stale=(0, 2)), seed=seed, faults=plan)
    async with Client.in_memory(api, latency=0.05, seed=seed, reconcile_timeout=30) as client:
        if plainly:
            storms.retry_plainly(client)
        storm = storms.Storm(client, api.cloud, seed=seed)
        await storm.creates(count)
        await storm.changes(count)
        return storm.report() | {"unresolved": len(client.unresolved)}


class TestStorm:
    @pytest.mark.looptime
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_nothing_is_lost_or_duplicated(self, storms, seed):
        """Under all faults: no duplicate, no unreported VM, no false success."""
        report = await in_memory(storms, 400, seed)
        print(report)
        assert set(report["wrong"].values()) == {0}
        assert report["unresolved"] == 0
        outcomes = report["outcomes"]
        assert outcomes["create: adopted"] > 10
        assert outcomes["create: done"] > 250
        assert outcomes["create: unknown"] > 5

    @pytest.mark.looptime
    async def test_plain_retries_create_duplicates(self, storms):
        """The control: without the rule for creates the same storm creates duplicates."""
        report = await in_memory(storms, 400, 1, plainly=True)
        assert report["wrong"]["duplicates"] > 10

    async def test_over_http(self, storms):
        """The same over sockets, where connections really break."""
        settings = Settings(create=(1, 3), not_found=(0, 0.2), stale=0, shutdown=1, delete=1)
        async with Emulator(settings=settings, seed=3, speed=10) as emulator:
            plan = FaultPlan(storms.faults(stall=1.0, huge=2 * 2**20), seed=3)
            emulator.api.faults = plan
            async with Client(
                emulator.url,
                api_key=emulator.api_key,
                api_secret=emulator.api_secret,
                timeout=0.5,
                max_response_size=2**20,
                reconcile_timeout=2.0,
                # The oldest list that a fault repeats, at ten times the speed.
                max_staleness=0.5,
                min_poll_interval=0.05,
                max_poll_interval=0.2,
            ) as client:
                storm = storms.Storm(client, emulator.cloud, seed=3)
                await asyncio.wait_for(storm.creates(100), 60)
            report = storm.report()
        print(report, plan.injected)
        assert set(report["wrong"].values()) == {0}
        assert plan.injected.total() > 20
        assert report["outcomes"]["create: adopted"] > 2
