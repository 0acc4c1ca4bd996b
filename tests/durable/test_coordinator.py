"""The coordinator of a job, killed and restarted while its items run: in virtual time."""

import asyncio
from types import SimpleNamespace

import pytest

from async_vmapi.durable.operation import CANCELLED
from async_vmapi.durable.spec import Order, decode

from .virtual import Shared, killed_on_the_way, spec_for

pytestmark = pytest.mark.looptime


class TestRestarted:
    @pytest.mark.parametrize("seed", range(6))
    async def test_every_item_is_started_once_and_reported_once(self, make, seed):
        """And never are more in flight than the limit."""
        shared, spec = Shared(seed=seed), spec_for(60, limit=7)
        outcomes, stopped = await killed_on_the_way(make, shared, spec, seed=seed)
        assert [o.item for o in outcomes] == spec.labels
        assert {o.status for o in outcomes} == {"succeeded"}
        assert (shared.most, stopped, len(shared.operations)) == (7, None, 60)

    @pytest.mark.parametrize("seed", range(6))
    async def test_items_started_before_the_budget_was_spent_are_not_lost(self, make, seed):
        """Each is reported with its own outcome, though failures are replayed first."""
        shared = Shared(seed=seed, failing={2, 5, 6, 7, 8})
        spec = spec_for(40, limit=10, max_failures=3)
        outcomes, stopped = await killed_on_the_way(make, shared, spec, seed=seed)
        started = {decode(o.text, Order).index for o in shared.operations.values()}
        assert {o.index for o in outcomes if o.status != "not_started"} == started
        assert [o.index for o in outcomes if o.status == "failed"] == [2, 5, 6, 7, 8]
        assert len(started) < 40
        assert stopped == "more than 3 failed"

    @pytest.mark.parametrize("seed", range(4))
    async def test_waves_follow_each_other(self, make, seed):
        """A wave begins when the previous one is complete, whichever worker coordinates."""
        shared, spec = Shared(seed=seed), spec_for(20, waves=[1, 4, "100%"])
        outcomes, _ = await killed_on_the_way(make, shared, spec, seed=seed)
        assert [o.wave for o in outcomes] == [1, *[2] * 4, *[3] * 15]
        order = [(e.kind, e.index) for e in shared.events()]
        assert order.index(("finished", 0)) < order.index(("started", 1))
        assert max(order.index(("finished", n)) for n in range(1, 5)) < order.index(("started", 5))

    @pytest.mark.parametrize("seed", range(4))
    async def test_the_minimum_stays_online(self, make, seed):
        """It counts the VMs online when the job began."""
        shared, spec = Shared(seed=seed), spec_for(12, "reboot", min_online=9)
        outcomes, _ = await killed_on_the_way(make, shared, spec, seed=seed, online=spec.labels)
        assert shared.most == 3
        assert {o.status for o in outcomes} == {"succeeded"}

    async def test_a_cancelled_job_stays_cancelled(self, make):
        """Started items are watched; nothing else starts."""
        shared, spec = Shared(), spec_for(30, limit=5)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(2)
        run.cancel()
        await asyncio.wait({run})
        shared.attributes["cancelled"] = True
        last = make(shared, spec)
        outcomes = await last.run()
        assert [o.status for o in outcomes] == [*["succeeded"] * 5, *["not_started"] * 25]
        assert last.stopped == CANCELLED

    async def test_a_stop_is_reported_once(self, make):
        """Though the next coordinator learns of it in an earlier wave."""
        shared, spec = Shared(), spec_for(9, waves=[1, "100%"])
        run = asyncio.create_task(make(shared, spec).run())
        # An item takes a minute at most.
        await asyncio.sleep(70)
        assert shared.events()[-1].wave == 2
        shared.attributes["cancelled"] = True
        await asyncio.sleep(2)
        run.cancel()
        await asyncio.wait({run})
        await make(shared, spec).run()
        assert [event.kind for event in shared.events()].count("stopped") == 1

    async def test_a_paused_job_stays_paused(self, make):
        """Until it is resumed."""
        shared, spec = Shared(), spec_for(10, limit=5)
        shared.attributes["paused"] = True
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(100)
        assert not shared.operations
        shared.attributes["paused"] = False
        assert len(await run) == 10


class TestCoordinator:
    async def test_it_waits_for_an_unavailable_database(self, make):
        """At any of its steps, and also at its end."""
        for outages in range(1, 8):
            shared, spec = Shared(), spec_for(6, limit=2)
            run = asyncio.create_task(make(shared, spec).run())
            for _ in range(30):
                shared.outages = outages
                await asyncio.sleep(10)
            assert {o.status for o in await run} == {"succeeded"}

    async def test_other_errors_are_raised(self, make, monkeypatch):
        """It does not wait for ever."""
        shared, spec = Shared(), spec_for(3)

        async def broken(ids):
            raise RuntimeError("a bug")

        monkeypatch.setattr(shared, "ended", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            await make(shared, spec).run()

    async def test_no_item_took_longer_than_it_was_awaited(self, make):
        """Two workers had it, and the clock of one was set in between."""
        shared, spec = Shared(seconds=1e6), spec_for(3, limit=1)
        outcomes = await make(shared, spec).run()
        assert all(5 <= outcome.seconds <= 62 for outcome in outcomes)

    async def test_an_operation_ended_from_outside_is_unknown(self, make, monkeypatch):
        """By DBOS's own tools, for instance."""
        shared, spec = Shared(), spec_for(2)
        nothing = {"input": None, "output": None, "error": None}

        async def ended(ids):
            return [SimpleNamespace(workflow_id=i, status="CANCELLED", **nothing) for i in ids]

        monkeypatch.setattr(shared, "ended", ended)
        outcomes = await make(shared, spec).run()
        assert {o.status for o in outcomes} == {"unknown"}
        assert "CANCELLED" in outcomes[0].reason

    async def test_items_in_flight_are_reported(self, make):
        """In the job's status."""
        shared, spec = Shared(), spec_for(9, limit=3)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(3)
        assert shared.attributes["progress"]["in_flight"] == 3
        await run
        assert shared.attributes["progress"]["in_flight"] == 0
        assert shared.attributes["progress"]["done"] == {"succeeded": 9}
