"""`ApprovedPlan`: a dry run that is written down, and carried out only if nothing has changed."""

import json

import attrs
import pytest

from async_vmapi import BulkPlan, Client, InvalidArgument, Ready
from async_vmapi.bulk.approval import ApprovedPlan

pytestmark = pytest.mark.looptime

PLAN = BulkPlan(
    waves=[1, "100%"], spread_by="zone", min_online="50%", check=Ready.address(), soak=10
)


async def fleet_of(client, request_for):
    """Create four VMs in two zones."""
    regions = await client.regions.list()
    zones = [zone for region in regions for zone in region.zones if zone.available]
    requests = [request_for(f"web-{n}", zone_id=zones[n % 2].id) for n in range(4)]
    made = await client.bulk().create(requests)
    return [outcome.value for outcome in made.succeeded]


async def planned(client, vms, operation="reboot", **arguments):
    """Make a plan, as its file would have it."""
    report = await client.bulk(attrs.evolve(PLAN, dry_run=True)).run(vms, operation, **arguments)
    return ApprovedPlan.from_json(ApprovedPlan.of(report, PLAN, vms).to_json())


class TestPlan:
    async def test_it_names_waves_domains_and_the_canary(self, client, request_for):
        fleet = await fleet_of(client, request_for)
        plan = await planned(client, fleet)
        assert [vm.wave for vm in plan.vms] == [1, 3, 2, 4]
        assert len({vm.domain for vm in plan.vms}) == 2
        assert "the canary" in plan.vms[0].reason
        assert plan.plan == PLAN
        assert plan.origin == client.origin
        assert sum(client.requests[name] for name in ("reboot",) if name in client.requests) == 0

    async def test_carrying_it_out_gives_the_same_waves(self, client, request_for):
        """The dry run and the rollout agree on each VM's wave and domain."""
        fleet = await fleet_of(client, request_for)
        plan = await planned(client, fleet)
        assert not list(plan.drift(await client.vms.list()))
        report = await client.bulk(plan.plan).run(fleet, plan.operation, **plan.arguments)
        assert [(o.item, o.wave, o.domain) for o in report.succeeded] == [
            (vm.id, vm.wave, vm.domain) for vm in plan.vms
        ]

    async def test_the_hash_depends_on_everything(self, client, request_for):
        """A plan with the same content has the same hash, in any process."""
        fleet = await fleet_of(client, request_for)
        plan = await planned(client, fleet)
        assert plan.hash == (await planned(client, fleet)).hash
        others = [
            await planned(client, fleet, "reset"),
            await planned(client, fleet, "resize", cores=2, ram=2048),
            await planned(client, fleet[:3]),
            attrs.evolve(plan, origin="https://other.invalid"),
            attrs.evolve(plan, plan=attrs.evolve(PLAN, limit=1)),
        ]
        assert len({plan.hash, *(other.hash for other in others)}) == 1 + len(others)


class TestDrift:
    async def test_each_change_is_named(self, api, client, request_for):
        fleet = await fleet_of(client, request_for)
        plan = await planned(client, fleet)
        async with Client.in_memory(api, seed=2) as other:
            await (await other.vms.power_off(fleet[0]))
            await other.vms.rename(fleet[1], "db-1")
            await (await other.vms.resize(fleet[2], cores=2, ram=2048, wait_for=0))
            await (await other.vms.delete(fleet[3]))
            found = list(plan.drift(await other.vms.list()))
        assert found == [
            f"{fleet[0].id} (web-0): state online is now offline",
            f"{fleet[1].id} (web-1): label web-1 is now db-1",
            f"{fleet[2].id} (web-2): cores 1 is now 2, ram 1024 is now 2048",
            f"{fleet[3].id} (web-3) is gone",
        ]

    async def test_other_vms_are_no_drift(self, client, request_for):
        fleet = await fleet_of(client, request_for)
        plan = await planned(client, fleet[:2])
        await (await client.vms.create(request_for("db-1")))
        assert not list(plan.drift(await client.vms.list()))


class TestFile:
    async def test_a_changed_file_is_refused(self, client, request_for):
        """Whatever was changed; nothing can be smuggled into an approved plan."""
        fleet = await fleet_of(client, request_for)
        text = ApprovedPlan.of(
            await client.bulk(attrs.evolve(PLAN, dry_run=True)).reboot(fleet), PLAN, fleet
        ).to_json()
        assert ApprovedPlan.from_json(text)
        for change in (
            {"operation": "delete"},
            {"origin": "https://other.invalid"},
            {"vms": []},
            {"plan": {"limit": 500}},
        ):
            with pytest.raises(InvalidArgument, match="its hash does not fit"):
                ApprovedPlan.from_json(json.dumps(json.loads(text) | change))

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "is no JSON"),
            ("[]", "is no JSON object"),
            ("{}", "is not in the format"),
            ('{"format": "async_vmapi plan 2"}', "is not in the format"),
            ('{"format": "async_vmapi plan 1"}', "is damaged"),
        ],
    )
    def test_other_texts_are_refused(self, text, problem):
        with pytest.raises(InvalidArgument, match=problem):
            ApprovedPlan.from_json(text)

    async def test_creates_and_functions_are_refused(self, client, request_for):
        fleet = await fleet_of(client, request_for)
        plan = attrs.evolve(await planned(client, fleet), operation="create")
        with pytest.raises(InvalidArgument, match="no operation on VMs"):
            ApprovedPlan.from_json(plan.to_json())

        async def check(vm):
            return True

        function = attrs.evolve(plan, plan=BulkPlan(check=check))
        with pytest.raises(InvalidArgument, match="check holds a function"):
            function.to_json()
