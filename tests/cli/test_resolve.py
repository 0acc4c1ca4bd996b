"""VM arguments: ids and labels."""

import pytest
import typer

from async_vmapi.cli.resolve import find_vm, find_vms


class TestResolve:
    async def test_an_id_costs_one_get(self, vm_cloud, vm_client):
        """Whatever the number of VMs is."""
        vm = vm_cloud.add("web-01")
        assert (await find_vm(vm_client, vm.id)).label == "web-01"
        assert vm_cloud.requests == {"get": 1}

    async def test_names_cost_one_list(self, vm_cloud, vm_client):
        """For all of them, with ids among them; each VM comes once, in the order given."""
        first, second, _ = (vm_cloud.add(name) for name in ("web-01", "web 02/b", "web-03"))
        found = await find_vms(vm_client, ["web 02/b", first.id, "web-01", second.id])
        assert [vm.id for vm in found] == [second.id, first.id]
        assert vm_cloud.requests == {"list": 1}

    async def test_an_id_wins_over_a_label(self, vm_cloud, vm_client):
        """Otherwise a label could make a VM unreachable."""
        vm = vm_cloud.add("web-01")
        other = vm_cloud.add(vm.id)
        assert (await find_vm(vm_client, vm.id)).id == vm.id
        assert [vm.id for vm in await find_vms(vm_client, [vm.id, other.id])] == [vm.id, other.id]

    async def test_the_id_of_a_vm_that_is_gone_is_not_taken_for_a_label(self, vm_cloud, vm_client):
        """Otherwise a repeated delete would delete another VM."""
        gone = vm_cloud.add("web-01").id
        vm_cloud.add(gone)
        await (await vm_client.vms.delete(gone))
        for names in ([gone], [gone, "web-01"]):
            with pytest.raises(typer.Exit) as caught:
                await find_vms(vm_client, names)
            assert caught.value.exit_code == 1

    async def test_an_ambiguous_name_lists_the_candidates(self, vm_cloud, vm_client, capsys):
        """With what differs between them; each can be named by its id."""
        vms = [vm_cloud.add("web-01"), vm_cloud.add("web-01", state="offline")]
        with pytest.raises(typer.Exit) as caught:
            await find_vms(vm_client, ["web-01"])
        assert caught.value.exit_code == 2
        shown = capsys.readouterr().err
        assert "2 VMs are named 'web-01', pass an id: " in shown
        assert f"{vms[0].id} (web-01, online)" in shown
        assert f"{vms[1].id} (web-01, offline)" in shown

    async def test_missing_vms_are_all_named(self, vm_cloud, vm_client, capsys):
        """The label must match exactly."""
        vm_cloud.add("web-01")
        with pytest.raises(typer.Exit) as caught:
            await find_vms(vm_client, ["web-01", "web-0", "WEB-01"])
        assert caught.value.exit_code == 1
        shown = capsys.readouterr().err
        assert "no VM has the id or name 'web-0', 'WEB-01'; 'async-vmapi vm list'" in shown
        assert "did you mean 'web-01'?" in shown
        assert await find_vms(vm_client, ["web-0"], missing_ok=True) == ["web-0"]
        with pytest.raises(typer.Exit):
            await find_vm(vm_client, "00000000-0000-0000-0000-000000000000")

    async def test_each_read_may_be_stale(self, vm_cloud, vm_client):
        """A VM that one kind of read does not show is found by the other."""
        vm = vm_cloud.add("web-01")
        vm_cloud.fail_next("get", "not_found")
        assert (await find_vm(vm_client, vm.id)).id == vm.id
        new = await vm_client.vms.create(vm_cloud.create_request("web-02"))
        await new
        vm_cloud.fail_next("list", "stale_list")
        found = await find_vms(vm_client, ["web-01", new.vm_id])
        assert [vm.label for vm in found] == ["web-01", "web-02"]
