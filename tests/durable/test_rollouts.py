"""Soaks, promotions, pauses and failure domains of a job whose coordinator is killed."""

import asyncio
from typing import ClassVar

import pytest

from async_vmapi import InvalidArgument, Ready
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable.spec import spec_of

from .virtual import Shared, killed_on_the_way, spec_for

pytestmark = pytest.mark.looptime


async def killed(run):
    run.cancel()
    await asyncio.wait({run})


def kinds(shared):
    return [event.kind for event in shared.events()]


async def until(condition):
    while not condition():  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(1)


def now():
    return asyncio.get_running_loop().time()


class TestSoak:
    async def test_a_wave_that_has_soaked_does_not_soak_again(self, make):
        """Its VMs' outcomes were reported."""
        shared = Shared()
        spec = spec_for(6, "reboot", waves=[2, "100%"], soak=100)
        run = asyncio.create_task(make(shared, spec).run())
        await until(lambda: len(shared.operations) > 2)
        await asyncio.sleep(5)
        await killed(run)
        at = now()
        outcomes = await make(shared, spec).run()
        assert {o.status for o in outcomes} == {"succeeded"}
        assert [o.wave for o in outcomes] == [1, 1, 2, 2, 2, 2]
        again = {vm_id for time, vm_id in shared.checks if time > at}
        assert again == set(spec.labels[2:])
        assert kinds(shared).count("soaking") == 2

    async def test_a_soak_that_was_cut_off_is_repeated(self, make):
        """All its time, since the VMs were not checked meanwhile."""
        shared = Shared()
        spec = spec_for(2, "reboot", soak=100)
        run = asyncio.create_task(make(shared, spec).run())
        await until(lambda: shared.checks)
        await asyncio.sleep(50)
        await killed(run)
        at = now()
        await make(shared, spec).run()
        assert now() - at >= 100
        assert kinds(shared).count("soaking") == 1

    async def test_a_vm_that_fell_stays_failed(self, make):
        """Though it is healthy again when another coordinator has the job."""
        shared = Shared()
        spec = spec_for(3, "reboot", soak=100, max_failures=3)
        run = asyncio.create_task(make(shared, spec).run())
        await until(lambda: shared.checks)
        shared.ill = {"vm-1"}
        await asyncio.sleep(30)
        await killed(run)
        shared.ill = set()
        outcomes = await make(shared, spec).run()
        assert [o.status for o in outcomes] == ["succeeded", "failed", "succeeded"]
        assert "healthy at first" in outcomes[1].reason

    async def test_a_vm_that_falls_ends_the_rollout(self, make):
        """As in a bulk call."""
        shared = Shared()
        shared.ill = {"vm-0"}
        spec = spec_for(3, "reboot", waves=[1, "100%"], soak=10)
        last = make(shared, spec)
        outcomes = await last.run()
        assert [o.status for o in outcomes] == ["failed", "not_started", "not_started"]
        assert last.stopped == "wave 1 had failures"

    @pytest.mark.parametrize("seed", range(6))
    async def test_kills_change_no_outcome(self, make, seed):
        """Whenever they come."""

        def plan():
            return spec_for(20, "reboot", waves=[1, 4, "100%"], soak=30, max_failures=8, limit=5)

        calm = Shared(seed=seed, failing={3, 9})
        calm.ill = {"vm-2", "vm-11", "vm-12"}
        expected = await make(calm, plan()).run()
        shared = Shared(seed=seed, failing={3, 9})
        shared.ill = set(calm.ill)
        outcomes, _ = await killed_on_the_way(make, shared, plan(), seed=seed, kills=9)
        assert [(o.index, o.status, o.wave, o.error) for o in outcomes] == [
            (o.index, o.status, o.wave, o.error) for o in expected
        ]
        assert sorted(e.index for e in shared.events() if e.kind == "finished") == list(range(20))


class TestPromotion:
    async def test_it_waits_until_it_is_promoted(self, make):
        """Each wave, and without limit."""
        shared = Shared()
        spec = spec_for(3, "reboot", waves=[1], promote="each")
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(10_000)
        assert len(shared.operations) == 1
        assert shared.attributes["progress"]["held"] == 1
        shared.attributes["promoted"] = 1
        await asyncio.sleep(10_000)
        assert len(shared.operations) == 2
        assert shared.attributes["progress"]["held"] == 2
        shared.attributes["promoted"] = 2
        assert len(await run) == 3
        assert kinds(shared).count("held") == 2

    async def test_a_promotion_is_not_needed_again(self, make):
        """After its coordinator was killed."""
        shared = Shared()
        spec = spec_for(3, "reboot", waves=[1, 1], promote="each")
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(100)
        shared.attributes["promoted"] = 1
        await asyncio.sleep(100)
        await killed(run)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(100)
        assert shared.attributes["progress"]["held"] == 2
        assert [e.wave for e in shared.events() if e.kind == "held"] == [1, 2]
        shared.attributes["promoted"] = 2
        assert {o.status for o in await run} == {"succeeded"}


class TestPause:
    SPEC: ClassVar = {"max_failures": 1, "limit": 1, "on_failure": "pause"}

    async def test_failures_pause_it(self, make):
        """Until they are forgiven; then the budget starts again."""
        shared, spec = Shared(failing={0, 1, 2, 3}), spec_for(6, "reboot", **self.SPEC)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(1000)
        assert shared.attributes["progress"]["suspended"] == "more than 1 failed"
        assert len(shared.operations) == 2
        shared.attributes["forgiven"] = 2
        await asyncio.sleep(1000)
        assert len(shared.operations) == 4
        shared.attributes["forgiven"] = 4
        outcomes = await run
        assert [o.status for o in outcomes] == [*["failed"] * 4, *["succeeded"] * 2]
        assert kinds(shared).count("paused") == 2

    async def test_forgiven_failures_do_not_pause_the_next_coordinator(self, make):
        """It counts them again."""
        shared, spec = Shared(failing={0, 1}), spec_for(6, "reboot", **self.SPEC)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(1000)
        shared.attributes["forgiven"] = 2
        await asyncio.sleep(30)
        await killed(run)
        outcomes = await make(shared, spec).run()
        assert [o.status for o in outcomes] == [*["failed"] * 2, *["succeeded"] * 4]
        assert kinds(shared).count("paused") == 1

    async def test_a_pause_outlives_its_coordinator(self, make):
        """And is reported once."""
        shared, spec = Shared(failing={0, 1}), spec_for(6, "reboot", **self.SPEC)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(1000)
        await killed(run)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(1000)
        assert len(shared.operations) == 2
        assert shared.attributes["progress"]["suspended"] == "more than 1 failed"
        assert kinds(shared).count("paused") == 1
        await killed(run)

    async def test_an_expired_coordinator_overwrites_no_progress(self, make):
        """Also if it has no event to report."""
        shared, spec = Shared(failing={0, 1}), spec_for(6, "reboot", **self.SPEC)
        run = asyncio.create_task(make(shared, spec).run())
        await asyncio.sleep(1000)
        shared.expired = True
        shared.attributes |= {"forgiven": 2, "paused": True, "progress": "of another"}
        await asyncio.wait({run}, timeout=100)
        assert shared.attributes["progress"] == "of another"
        assert "another owner" in str(run.exception())


class TestDomains:
    @pytest.mark.parametrize("seed", range(4))
    async def test_one_domain_follows_the_other(self, make, seed):
        """With waves and a minimum of its own, whichever worker coordinates."""
        shared = Shared(seed=seed)
        spec = spec_for(8, "reboot", waves=[1, "100%"], spread_by="zone", min_online="50%")
        domains = ["a", "b"] * 4
        for_all = {"online": spec.labels, "domains": domains}
        outcomes, _ = await killed_on_the_way(make, shared, spec, seed=seed, **for_all)
        assert [o.domain for o in outcomes] == domains
        assert [o.wave for o in outcomes] == [1, 3, 2, 4, 2, 4, 2, 4]
        assert shared.most <= 2
        order = [(e.kind, e.index) for e in shared.events()]
        last_of_a = max(order.index(("finished", n)) for n in (0, 2, 4, 6))
        assert last_of_a < min(order.index(("started", n)) for n in (1, 3, 5, 7))


class TestSpec:
    async def test_a_function_cannot_be_stored(self):
        """It is refused before anything is."""

        async def healthy(vm):
            return True

        plan = BulkPlan(check=Ready.ssh() & Ready.check(healthy))
        with pytest.raises(InvalidArgument, match="check holds a function"):
            spec_of("reboot", ["a"], {}, plan)

    @pytest.mark.parametrize(
        ("operation", "plan"),
        [
            ("shutdown", BulkPlan(check=Ready.ssh())),
            ("delete", BulkPlan(soak=5)),
            ("create", BulkPlan(spread_by="group")),
        ],
    )
    async def test_a_plan_that_does_not_fit_is_refused(self, operation, plan):
        """As in a bulk call."""
        with pytest.raises(InvalidArgument):
            spec_of(operation, [], {}, plan)
