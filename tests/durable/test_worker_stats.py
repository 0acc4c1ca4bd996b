"""What a worker reports of its items, over HTTP."""

import pytest

from async_vmapi.durable import DurableFleet

from .fleets import at_work, client_of, requests, until

pytestmark = pytest.mark.programs


class TestLedger:
    async def test_items_in_hand_and_items_done(self, sqlite_url, lively):
        """Each running item with its VM's last state; then its outcome."""
        async with DurableFleet(sqlite_url, client_of(lively), polling_interval=0.05) as fleet:
            lively.cloud.adjust("w-*", create=1e6)
            job = await fleet.submit("make").create(requests(3))

            async def are_installing():
                found = fleet.worker_status().in_flight
                return [item.state for item in found] == ["installing"] * 3

            async with at_work(fleet):
                await until(are_installing)
                status = fleet.worker_status()
                assert {item.item for item in status.in_flight} == {"w-0000", "w-0001", "w-0002"}
                assert {item.vm_id for item in status.in_flight} == set(lively.cloud.vms)
                assert all(i.accepted and i.seconds > 0 for i in status.in_flight)
                assert {(i.job, i.operation) for i in status.in_flight} == {("make", "create")}
                assert [s.name for s in await fleet.jobs(ended=False)] == ["make"]
                for vm_id in list(lively.cloud.vms):
                    lively.cloud.operate("delete", vm_id, lively.cloud.now)
                await job.report(60)
                assert fleet.worker_status().done == {"make": {"failed": 3}}
                assert not fleet.worker_status().in_flight
                assert await fleet.jobs(ended=False) == []
                assert [s.name for s in await fleet.jobs(limit=1)] == ["make"]
