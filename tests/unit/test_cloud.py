"""The emulated cloud: a state machine on a clock."""

import itertools
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.emulator import Cloud, CloudAPI, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.emulator.vm import Refused, encode

ZONE = next(iter(ZONES.values()))


def create(cloud, now=0.0, label="web-01"):
    return cloud.create(now, label=label, cores=1, ram=1024, zone=ZONE, template=TEMPLATES[0])


def state(cloud, vm_id, now):
    return msgspec.json.decode(cloud.get(vm_id, now))["state"]


def listed(cloud, now):
    return {vm["id"]: vm["state"] for vm in msgspec.json.decode(cloud.list(now))}


def states(vm):
    return [change.state for change in vm.history]


def outcomes(cloud):
    return [(operation.kind, operation.outcome) for operation in cloud.operations]


class TestPhases:
    def test_a_create(self):
        """Not found at first, then installing, then online, and the address after that."""
        cloud = Cloud(Settings(create=60, not_found=5, address=10))
        vm_id = create(cloud)
        with pytest.raises(Refused):
            cloud.get(vm_id, 4.9)
        assert listed(cloud, 4.9) == {}
        assert state(cloud, vm_id, 5) == listed(cloud, 5)[vm_id] == "installing"
        assert state(cloud, vm_id, 59.9) == "installing"
        assert state(cloud, vm_id, 60) == "online"
        assert cloud.vms[vm_id].address.encode() not in cloud.get(vm_id, 69)
        assert cloud.vms[vm_id].address.encode() in cloud.get(vm_id, 70)

    def test_nothing_changes_in_the_stale_window(self):
        """For a while after the accepted request the old values are read."""
        cloud = Cloud(Settings(create=1, not_found=0, shutdown=5, stale=3))
        vm_id = create(cloud)
        cloud.operate("shutdown", vm_id, 10, wait_for=4)
        assert state(cloud, vm_id, 17.9) == "online"
        assert state(cloud, vm_id, 18) == "offline"

    @pytest.mark.parametrize(
        ("acpi", "wait_for", "down"),
        [("honour", 4, 5), ("ignore", 2, 120), (30, 4, 30), (300, 1, 60), ("honour", 0, 0)],
    )
    def test_guests_and_acpi(self, acpi, wait_for, down):
        """A guest honours, ignores or delays ACPI; after wait_for it is turned off."""
        cloud = Cloud(Settings(create=0, not_found=0, shutdown=5, stale=0, acpi=acpi))
        vm_id = create(cloud)
        cloud.operate("shutdown", vm_id, 10, wait_for=wait_for)
        cloud.advance(1000)
        assert cloud.vms[vm_id].history[-1].at == pytest.approx(10 + down)
        assert states(cloud.vms[vm_id])[-1] == "offline"

    @pytest.mark.parametrize("restart", [True, False])
    def test_a_resize_of_a_running_vm(self, restart):
        """It shuts down, gets its size, and is started again or not."""
        cloud = Cloud(
            Settings(create=0, not_found=0, resize=30, stale=2, restart_after_resize=restart)
        )
        vm_id = create(cloud)
        cloud.operate("resize", vm_id, 10, cores=4, ram=4096, wait_for=1)
        cloud.advance(1000)
        changes = [(c.at, c.state, c.cores, c.ram) for c in cloud.vms[vm_id].history[2:]]
        expected = [(20, "offline", 1, 1024), (30, "offline", 4, 4096), (40, "online", 4, 4096)]
        assert changes == expected[: 3 if restart else 2]

    def test_a_resize_of_a_vm_that_is_off(self):
        """It stays off."""
        cloud = Cloud(Settings(create=0, not_found=0, resize=30, stale=0))
        vm_id = create(cloud)
        cloud.operate("power_off", vm_id, 1)
        cloud.operate("resize", vm_id, 50, cores=4, ram=4096, wait_for=1)
        cloud.advance(1000)
        assert (cloud.vms[vm_id].state, cloud.vms[vm_id].cores) == ("offline", 4)

    @pytest.mark.parametrize("kind", ["reboot", "reset"])
    @pytest.mark.parametrize("visible", [True, False])
    def test_reboots(self, kind, visible):
        """A reboot shows as a while offline, or not at all."""
        cloud = Cloud(Settings(create=0, not_found=0, reboot_visible=visible))
        vm_id = create(cloud)
        cloud.operate(kind, vm_id, 1)
        cloud.advance(1000)
        assert states(cloud.vms[vm_id])[2:] == (["offline", "online"] if visible else [])
        assert outcomes(cloud)[-1] == (kind, "done")

    def test_a_guest_that_ignores_acpi_never_reboots(self):
        """The cloud knows that it did not happen; a reset does happen."""
        cloud = Cloud(Settings(create=0, not_found=0, acpi="ignore"))
        vm_id = create(cloud)
        cloud.operate("reboot", vm_id, 1)
        cloud.operate("reset", vm_id, 100)
        cloud.advance(1000)
        assert outcomes(cloud)[1:] == [("reboot", "never"), ("reset", "done")]

    def test_a_delayed_reboot(self):
        """A guest that delays ACPI reboots that much later."""
        cloud = Cloud(Settings(create=0, not_found=0, stale=0, reboot=10, acpi=50))
        vm_id = create(cloud)
        cloud.operate("reboot", vm_id, 1)
        assert state(cloud, vm_id, 55.9) == "online"
        assert state(cloud, vm_id, 56) == "offline"
        assert state(cloud, vm_id, 61) == "online"

    def test_a_delete(self):
        """Deleting, and then gone from GET and list."""
        cloud = Cloud(Settings(create=0, not_found=0, stale=1, delete=10))
        vm_id = create(cloud)
        cloud.operate("delete", vm_id, 5)
        assert state(cloud, vm_id, 5.9) == "online"
        assert state(cloud, vm_id, 6) == "deleting"
        with pytest.raises(Refused):
            cloud.get(vm_id, 15)
        assert listed(cloud, 15) == {}
        assert vm_id in cloud.gone

    def test_a_failed_create(self):
        """A create can end in a failure state, after unknown states."""
        cloud = Cloud(Settings(fail_state="error", extra_states=["one", "two"]))
        vm_id = create(cloud)
        cloud.advance(1000)
        assert states(cloud.vms[vm_id]) == ["installing", "one", "two", "error"]
        assert outcomes(cloud) == [("create", "failed")]

    def test_operations_without_effect_are_skipped(self):
        """Power on of a running VM, shutdown and reboot of one that is off."""
        cloud = Cloud(Settings(create=0, not_found=0))
        vm_id = create(cloud)
        for kind in ("power_on", "power_off", "shutdown", "reboot", "power_off"):
            cloud.operate(kind, vm_id, 1, wait_for=1)
        cloud.advance(1000)
        assert [outcome for _, outcome in outcomes(cloud)[1:]] == [
            "skipped",
            "done",
            "skipped",
            "skipped",
            "skipped",
        ]


class TestQueue:
    def test_operations_run_one_after_the_other(self):
        """A queued operation begins when the running one ends."""
        cloud = Cloud(Settings(create=10, not_found=0, stale=0, shutdown=5, power_on=5))
        vm_id = create(cloud)
        cloud.operate("shutdown", vm_id, 1, wait_for=4)
        cloud.operate("power_on", vm_id, 2)
        cloud.advance(100)
        spans = [(o.started_at, o.finished_at) for o in cloud.operations]
        assert spans == [(0, 10), (10, 15), (15, 20)]

    def test_a_delete_interrupts(self):
        """Queued operations are cancelled, and new ones are refused."""
        cloud = Cloud(Settings(create=0, not_found=0, stale=0, shutdown=50, delete=10))
        vm_id = create(cloud)
        cloud.operate("shutdown", vm_id, 1, wait_for=4)
        cloud.operate("power_on", vm_id, 2)
        cloud.operate("delete", vm_id, 3)
        with pytest.raises(Refused):
            cloud.operate("delete", vm_id, 4)
        cloud.advance(100)
        assert [outcome for _, outcome in outcomes(cloud)] == [
            "done",
            "cancelled",
            "cancelled",
            "done",
        ]
        assert states(cloud.gone[vm_id]) == ["installing", "online", "deleting", None]

    def test_a_rename_shows_at_once(self):
        """A rename is not queued."""
        cloud = Cloud(Settings(create=0, not_found=0))
        vm_id = create(cloud)
        cloud.rename(vm_id, "other", 1)
        assert msgspec.json.decode(cloud.get(vm_id, 1))["label"] == "other"
        assert b"other" in cloud.list(1)


class TestListLag:
    def test_a_list_shows_old_values(self):
        """Also of a VM that is gone."""
        cloud = Cloud(Settings(create=0, not_found=0, address=0, stale=0, delete=0, list_lag=8))
        vm_id = create(cloud)
        assert (state(cloud, vm_id, 1), listed(cloud, 1)) == ("online", {})
        assert listed(cloud, 8) == {vm_id: "online"}
        cloud.operate("delete", vm_id, 20)
        assert listed(cloud, 27) == {vm_id: "online"}
        assert listed(cloud, 28.1) == {}

    def test_a_lag_applies_to_the_past(self):
        """The list continues to show what was true, even if nothing was read before."""
        cloud = Cloud(Settings(create=0, not_found=0, address=0, stale=0, power_off=1))
        vm_id = create(cloud)
        cloud.advance(5)
        cloud.adjust(vm_id, list_lag=8)
        cloud.operate("power_off", vm_id, 10)
        assert (state(cloud, vm_id, 12), listed(cloud, 12)) == ("offline", {vm_id: "online"})
        assert listed(cloud, 19) == {vm_id: "offline"}

    def test_a_lag_that_ends_as_another_change_comes(self):
        """A change delayed to a moment does not come after that moment's own change."""
        cloud = Cloud(Settings(create=0, not_found=0, address=15, stale=0, power_off=5))
        vm_id = create(cloud)
        cloud.adjust(vm_id, list_lag=5)
        cloud.operate("power_off", vm_id, 5)
        cloud.advance(10)
        cloud.adjust(vm_id, list_lag=0)
        assert cloud.list(15) == b"[" + cloud.get(vm_id, 15) + b"]"
        assert cloud.vms[vm_id].address.encode() in cloud.list(15)

    def test_a_clock_that_starts_below_zero(self):
        """The clock's origin is arbitrary."""
        cloud = Cloud(Settings(create=10, not_found=0, address=0, stale=0))
        vm_id = create(cloud, now=-100)
        assert listed(cloud, -95) == {vm_id: "installing"}
        assert listed(cloud, -90) == {vm_id: "online"}

    @given(st.lists(st.floats(0.1, 20), min_size=1, max_size=20), st.integers(0, 10**6))
    def test_a_list_never_goes_back(self, steps, seed):
        """However the lag is drawn, the list passes through what was true, in order."""
        cloud = Cloud(Settings(not_found=0, list_lag=(0, 9), delete=(5, 9)), seed=seed)
        vm_id = create(cloud)
        now, places = 0.0, []
        kinds = ["power_off", "power_on", "reboot", "delete"]
        for step in steps:
            now += step
            shown = listed(cloud, now).get(vm_id)
            history = states((cloud.vms | cloud.gone)[vm_id])
            if shown is not None:
                start = places[-1] if places else 0
                places.append(history.index(shown, start))
            if kinds and len(places) % 3 == 2 and vm_id in cloud.vms:
                cloud.operate(kinds.pop(0), vm_id, now)


class TestAdjust:
    def test_an_encoded_vm_is_updated(self):
        """A VM's new shape shows at once, and in the list after its lag."""
        cloud = Cloud(Settings(create=0, not_found=0, address=0, stale=0))
        vm_id = create(cloud)
        cloud.list(1)
        cloud.adjust(vm_id, sparse=True)
        assert cloud.get(vm_id, 1) == encode(cloud.vms[vm_id])
        assert cloud.list(1) == b"[" + encode(cloud.vms[vm_id]) + b"]"

    def test_by_name_and_by_id(self):
        """Settings change for existing VMs and for later ones."""
        cloud = Cloud()
        vm_id = create(cloud)
        cloud.adjust(vm_id, acpi="ignore")
        cloud.adjust("db-*", create=5)
        other = create(cloud, label="db-1")
        assert cloud.vms[vm_id].settings.acpi == "ignore"
        assert cloud.vms[other].settings.create == (5, 5)
        assert cloud.vms[other].settings.acpi == "honour"

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"create": -1}, ValueError),
            ({"create": (5, 1)}, ValueError),
            ({"create": (1, 2, 3)}, ValueError),
            ({"create": float("inf")}, ValueError),
            ({"create": "soon"}, TypeError),
            ({"create": True}, TypeError),
            ({"create": float("nan")}, ValueError),
            ({"quota": -1}, ValueError),
            ({"quota": True}, ValueError),
            ({"quota": "5"}, ValueError),
            ({"fail_state": ""}, ValueError),
            ({"fail_state": 5}, ValueError),
            ({"extra_states": "configuring"}, TypeError),
            ({"extra_states": 5}, TypeError),
            ({"extra_states": ["one", ""]}, ValueError),
            ({"restart_after_resize": "no"}, TypeError),
            ({"sparse": 1}, TypeError),
            ({"acpi": "maybe"}, ValueError),
            ({"acpi": -1}, ValueError),
            ({"acpi": True}, ValueError),
            ({"get_shape": "tuple"}, ValueError),
            ({"unknown": 1}, TypeError),
        ],
    )
    def test_wrong_settings_are_refused(self, changes, error):
        """When they are made."""
        with pytest.raises(error):
            Cloud().adjust("*", **changes)


KINDS = ["resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off"]
plans = st.lists(st.tuples(st.floats(0, 60), st.sampled_from(KINDS)), max_size=12)


class TestProperties:
    @given(plans, st.integers(0, 10**6), st.integers(1, 40))
    def test_small_and_large_steps_give_the_same_history(self, plan, seed, parts):
        """What happens does not depend on how often it is read."""
        histories = []
        for often in (1, parts):
            cloud = Cloud(seed=seed)
            vm_id = create(cloud)
            now = 10.0
            cloud.advance(now)
            for gap, kind in plan:
                for part in range(1, often + 1):
                    cloud.advance(now + gap * part / often)
                now += gap
                if vm_id in cloud.vms and not cloud.vms[vm_id].deleting:
                    cloud.operate(kind, vm_id, now, cores=2, ram=2048, wait_for=1)
            cloud.advance(now + 10_000)
            vm = (cloud.vms | cloud.gone)[vm_id]
            times = [change.at for change in vm.history]
            assert times == sorted(times)
            assert all(o.outcome is not None for o in cloud.operations)
            histories.append((vm.history, outcomes(cloud)))
        assert histories[0] == histories[1]

    @given(plans, st.integers(0, 10**6))
    def test_operations_of_a_vm_do_not_overlap(self, plan, seed):
        """Each begins when the previous one has ended."""
        cloud = Cloud(seed=seed)
        vm_id = create(cloud)
        now = 10.0
        for gap, kind in plan:
            now += gap
            cloud.advance(now)
            if vm_id in cloud.vms and not cloud.vms[vm_id].deleting:
                cloud.operate(kind, vm_id, now, cores=2, ram=2048, wait_for=1)
        cloud.advance(now + 10_000)
        ran = [o for o in cloud.operations if o.started_at is not None]
        for one, two in itertools.pairwise(ran):
            assert one.finished_at <= two.started_at

    @given(plans, st.integers(0, 10**6))
    def test_get_and_list_agree_without_lag(self, plan, seed):
        """Cached encodings are current."""
        cloud = Cloud(Settings(address=0), seed=seed)
        ids = [create(cloud, label=f"w-{n}") for n in range(3)]
        now = 10.0
        for place, (gap, kind) in enumerate(plan):
            now += gap
            vm_id = ids[place % 3]
            cloud.advance(now)
            if vm_id in cloud.vms and not cloud.vms[vm_id].deleting:
                cloud.operate(kind, vm_id, now, cores=2, ram=2048, wait_for=1)
            shown = msgspec.json.decode(cloud.list(now))
            for vm in shown:
                assert msgspec.json.decode(cloud.get(vm["id"], now)) == vm
                true = cloud.vms[vm["id"]]
                assert (vm["state"], vm["cores"], vm["ram"]) == (true.state, true.cores, true.ram)
            assert len(shown) == sum(vm.visible for vm in cloud.vms.values())

    @given(plans, st.integers(0, 10**6), st.booleans())
    def test_cached_encodings_are_current(self, plan, seed, sparse):
        """Every read returns the VM as it is at that time, byte for byte."""
        cloud = Cloud(seed=seed)
        ids = [create(cloud, label=f"w-{n}") for n in range(3)]
        now = 10.0
        for place, (gap, kind) in enumerate(plan):
            now += gap
            cloud.advance(now)
            vm = cloud.vms.get(ids[place % 3])
            if vm is not None and not vm.deleting:
                cloud.operate(kind, vm.id, now, cores=2, ram=2048, wait_for=1)
            if sparse and place == 2:
                cloud.adjust("w-1", sparse=True)
            fresh = [encode(vm) for vm in cloud.vms.values() if vm.visible]
            shown = msgspec.json.decode(cloud.list(now), type=list[msgspec.Raw])
            assert sorted(map(bytes, shown)) == sorted(fresh)
            for vm in cloud.vms.values():
                if vm.visible:
                    assert cloud.get(vm.id, now) == encode(vm)

    def test_the_latest_time_is_known(self):
        """The cloud keeps the latest time that it was given."""
        cloud = Cloud()
        assert cloud.now == 0
        cloud.advance(-5)
        assert cloud.now == -5
        cloud.advance(7)
        cloud.advance(3)
        assert cloud.now == 7

    def test_a_seed_repeats_everything(self):
        """Two clouds of one seed are the same, ids included."""
        one, two = (Cloud(seed=5, epoch=datetime(2026, 1, 1, tzinfo=UTC)) for _ in range(2))
        for cloud in (one, two):
            for n in range(5):
                create(cloud, now=n)
        assert one.list(40) == two.list(40)


class TestAPI:
    def test_settings_are_for_a_new_cloud(self):
        """An existing cloud has its own settings."""
        with pytest.raises(ValueError, match="new cloud"):
            CloudAPI(Cloud(), seed=1)

    def test_credentials_are_generated_and_hidden(self):
        """Every cloud has its own secret, which shows nowhere."""
        one, two = CloudAPI(), CloudAPI()
        assert one.api_secret != two.api_secret
        assert one.api_secret not in repr(one)
