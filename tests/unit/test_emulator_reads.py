"""What the emulator's reads show where they may be stale, wrong or odd."""

import itertools
import math
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.emulator import Cloud, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.emulator.versions import Versions
from async_vmapi.emulator.vm import NotFound

ZONE = next(iter(ZONES.values()))
FIXED = Settings(create=20, not_found=5, address=10, stale=0, delete=10, power_off=2, power_on=8)


def cloud_of(seed=1, **changes):
    return Cloud(FIXED.changed(**changes), seed=seed)


def create(cloud, now=0.0, label="web-01"):
    return cloud.create(now, label=label, cores=1, ram=1024, zone=ZONE, template=TEMPLATES[0])


def place(cloud, now=0.0, label="web-01"):
    return cloud.place(now, label=label, cores=1, ram=1024, zone=ZONE, template=TEMPLATES[0])


def got(cloud, vm_id, now):
    """Return what a GET shows, or None."""
    try:
        return msgspec.json.decode(cloud.get(vm_id, now))
    except NotFound:
        return None


def listed(cloud, now):
    """Return what a list shows, by id."""
    return {vm["id"]: vm for vm in msgspec.json.decode(cloud.list(now))}


def both(cloud, vm_id, now):
    return got(cloud, vm_id, now), listed(cloud, now).get(vm_id)


def state(shown):
    return shown and shown["state"]


def value(shown):
    return shown and (shown["state"], shown["cores"], shown["ram"])


def truths(vm, low, high):
    """Return all that was true of a VM from `low` to `high`: (state, cores, ram), or None."""
    changes = [(-math.inf, None)]
    for change in vm.history:
        shown = None if change.state is None else (change.state, change.cores, change.ram)
        changes.append((max(change.at, vm.visible_at), shown))
    if vm.is_gone and vm.history[-1].at < vm.visible_at:
        return {None}
    ends = [at for at, _ in changes[1:]] + [math.inf]
    return {
        shown for (at, shown), end in zip(changes, ends, strict=True) if at <= high and end >= low
    }


class TestStaleness:
    def test_everything_readable_is_stale(self):
        """Presence, state, size, address and name come three seconds late, in both reads."""
        cloud = cloud_of(staleness=3, resize=12)
        vm_id = create(cloud)
        address = cloud.vms[vm_id].address
        times = {
            5: lambda shown: shown is not None,
            20: lambda shown: state(shown) == "online",
            30: lambda shown: shown["public_interface"]["primary_ip_ipv4address"] == address,
            44: lambda shown: state(shown) == "offline",
            48: lambda shown: (shown["cores"], shown["ram"]) == (4, 4096),
            60: lambda shown: shown["label"] == "new",
            80: lambda shown: state(shown) == "deleting",
            90: lambda shown: shown is None,
        }
        for at, holds in times.items():
            if at == 44:
                cloud.operate("resize", vm_id, 40, cores=4, ram=4096, wait_for=4)
            if at == 60:
                cloud.rename(vm_id, "new", 60)
            if at == 80:
                cloud.operate("delete", vm_id, 80)
            assert [holds(shown) for shown in both(cloud, vm_id, at + 2.9)] == [False, False], at
            assert [holds(shown) for shown in both(cloud, vm_id, at + 3)] == [True, True], at

    def test_each_read_and_each_vm_is_stale_by_itself(self):
        """Within the span, two VMs that change at once show old and new in every mixture."""
        cloud = cloud_of(staleness=(0, 10))
        ids = [place(cloud).id, place(cloud).id]
        for vm_id in ids:
            cloud.operate("power_off", vm_id, 20)
        lists, gets = Counter(), Counter()
        for _ in range(200):
            shown = listed(cloud, 27)
            lists[tuple(state(shown[vm_id]) for vm_id in ids)] += 1
            gets[tuple(state(got(cloud, vm_id, 27)) for vm_id in ids)] += 1
        mixtures = set(itertools.product(["online", "offline"], repeat=2))
        assert set(lists) == set(gets) == mixtures
        # The change is 5 s ago, which is half the span.
        for counts in lists, gets:
            assert all(25 < count < 75 for count in counts.values())

    def test_the_list_lag_is_added(self):
        """A list shows what a list that lags showed."""
        cloud = cloud_of(staleness=3, list_lag=8, power_off=0)
        vm_id = place(cloud).id
        cloud.operate("power_off", vm_id, 20)
        shown = [
            [state(view) for view in both(cloud, vm_id, at)] for at in (22.9, 23.0, 30.9, 31.0)
        ]
        assert shown == [
            ["online", "online"],
            ["offline", "online"],
            ["offline", "online"],
            ["offline", "offline"],
        ]

    def test_some_vms_alone(self):
        """It can be set for some names, also after they changed, and be unset."""
        cloud = cloud_of(power_off=0)
        stale, fresh = place(cloud, label="old-1").id, place(cloud, label="web-1").id
        cloud.advance(10)
        cloud.adjust("old-*", staleness=5)
        for vm_id in stale, fresh:
            cloud.operate("power_off", vm_id, 20)
        shown = listed(cloud, 21)
        assert (state(shown[stale]), state(shown[fresh])) == ("online", "offline")
        assert state(got(cloud, stale, 21)) == "online"
        assert state(got(cloud, fresh, 21)) == "offline"
        cloud.adjust("*", staleness=0)
        assert state(got(cloud, stale, 21)) == state(listed(cloud, 21)[stale]) == "offline"

    def test_nothing_before_the_setting_is_shown(self):
        """The oldest value shown is the one at the time of the setting."""
        cloud = cloud_of(power_off=0)
        vm_id = place(cloud).id
        cloud.operate("power_off", vm_id, 20)
        cloud.advance(21)
        cloud.adjust("*", staleness=5)
        assert [state(view) for view in both(cloud, vm_id, 21)] == ["offline", "offline"]

    def test_the_truth_is_unchanged(self):
        """VMs, gone ones, histories and operations."""
        cloud = cloud_of(staleness=10)
        vm_id = place(cloud).id
        cloud.operate("delete", vm_id, 20)
        assert state(got(cloud, vm_id, 29)) == "online"
        assert cloud.vms[vm_id].state == "deleting"
        cloud.advance(30)
        assert vm_id in cloud.gone
        assert cloud.operations[-1].finished_at == 30
        with pytest.raises(NotFound):
            cloud.operate("delete", vm_id, 31)

    @pytest.mark.parametrize("list_lag", [0, 7])
    def test_kept_versions_are_bounded(self, list_lag):
        """Only the span's changes, and of gone VMs nothing after the span."""
        cloud = cloud_of(staleness=(0, 5), list_lag=list_lag)
        vm = place(cloud)
        place(cloud, label="other")
        for step in range(1000):
            cloud.rename(vm.id, f"name-{step}", 10 + step / 10)
        assert len(vm.views.get) <= (5 + list_lag) * 10 + 2
        cloud.list(1000)
        assert (len(vm.views.get), len(vm.views.list)) == (1, 1)
        cloud.operate("delete", vm.id, 1000)
        cloud.list(1010 + list_lag + 4.9)
        assert vm.views is not None
        cloud.list(1010 + 2 * list_lag + 5.1)
        assert vm.views is None

    def test_deleted_vms_are_forgotten_as_others_are_deleted(self):
        """Even if they are never read."""
        cloud = cloud_of(staleness=5, stale=0, delete=0)
        for step in range(100):
            cloud.operate("delete", place(cloud, step).id, step)
        assert sum(vm.views is not None for vm in cloud.gone.values()) <= 7

    def test_a_ghost_whose_settings_change(self):
        """It disappears when its staleness no longer covers it."""
        cloud = cloud_of(staleness=10, delete=0)
        vm = place(cloud)
        cloud.operate("delete", vm.id, 20)
        assert got(cloud, vm.id, 22) is not None
        cloud.adjust("*", staleness=0)
        assert both(cloud, vm.id, 22) == (None, None)
        cloud.adjust("*", staleness=10)
        assert both(cloud, vm.id, 22) == (None, None)

    kinds = st.sampled_from(
        ["resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off", "create"]
    )

    @given(
        st.lists(st.tuples(st.floats(0, 30), kinds, st.integers(0, 9)), max_size=12),
        st.integers(0, 10**6),
        st.tuples(st.floats(0, 5), st.floats(0, 10)),
        st.lists(st.floats(0, 10), max_size=3),
        st.sampled_from(["random", "in_turn", "sticky"]),
        st.floats(0, 5),
    )
    def test_nothing_older_than_the_span_nor_newer_than_now(
        self, plan, seed, span, replicas, choice, list_lag
    ):
        """Each read shows each VM as it was within the span."""
        low, more = span
        settings = Settings(
            staleness=(low, low + more),
            replicas=replicas,
            replica_choice=choice,
            list_lag=(0, list_lag),
            early_size=(0, 5),
            writes_before_visible=True,
            not_found=(0, 20),
        )
        cloud = Cloud(settings, seed=seed)
        ids = [create(cloud)]
        now = 0.0
        oldest = {False: settings.max_staleness - list_lag, True: settings.max_staleness}
        for gap, kind, which in plan:
            now += gap
            vm_id = ids[which % len(ids)]
            if kind == "create":
                ids.append(create(cloud, now))
            elif (vm := cloud.vms.get(vm_id)) is not None and not vm.deleting:
                cloud.advance(now)
                if vm_id in cloud.vms:
                    cloud.operate(kind, vm_id, now, cores=2, ram=2048, wait_for=1)
            newest = now - low - min(replicas, default=0)
            reads = {False: {vm_id: got(cloud, vm_id, now) for vm_id in ids}}
            reads[True] = listed(cloud, now)
            for by_list, shown in reads.items():
                for vm_id in ids:
                    vm = (cloud.vms | cloud.gone)[vm_id]
                    possible = truths(vm, now - oldest[by_list] - 1e-6, newest + 1e-6)
                    assert value(shown.get(vm_id)) in possible

    @given(st.lists(st.tuples(st.floats(0, 30), kinds), max_size=12), st.integers(0, 10**6))
    def test_reads_change_nothing(self, plan, seed):
        """A seeded cloud does the same however odd and however many its reads are."""
        histories = []
        odd = {"staleness": (0, 9), "replicas": (0, 4), "absence": 0.5, "repeat_ids": 0.5}
        for settings in Settings(), Settings(**odd):
            cloud = Cloud(settings, seed=seed)
            vm_id = create(cloud)
            now = 10.0
            for gap, kind in plan:
                now += gap
                cloud.advance(now)
                vm = cloud.vms.get(vm_id)
                if kind != "create" and vm is not None and vm.visible and not vm.deleting:
                    cloud.operate(kind, vm_id, now, cores=2, ram=2048, wait_for=1)
                if settings.has_odd_reads:
                    both(cloud, vm_id, now)
            cloud.advance(now + 1000)
            histories.append((cloud.vms | cloud.gone)[vm_id].history)
        assert histories[0] == histories[1]


class TestVersions:
    def test_the_version_of_a_moment(self):
        """The latest one that is not after the moment; the first one before."""
        versions = Versions(None)
        for at, content in ((1.0, b"a"), (2.0, b"b"), (2.0, b"c"), (5.0, None)):
            versions.add(at, content)
        moments = (-9, 0.9, 1, 1.9, 2, 4.9, 5, 99)
        assert [versions.at(moment) for moment in moments] == [
            None,
            None,
            b"a",
            b"a",
            b"c",
            b"c",
            None,
            None,
        ]
        assert versions.since == 5

    def test_old_versions_are_dropped(self):
        """Those over before the oldest moment; not those still valid then."""
        versions = Versions(b"a")
        versions.add(1.0, b"b")
        versions.add(9.0, b"c")
        lengths = []
        for oldest in (0.9, 1, 8.9, 9, 99):
            versions.prune(oldest)
            lengths.append(len(versions))
        assert lengths == [3, 2, 2, 1, 1]
        assert versions.at(0) == versions.at(99) == b"c"


class TestReplicas:
    def test_a_whole_response_is_of_one_replica(self):
        """All VMs of a list are equally stale."""
        cloud = cloud_of(replicas=(0, 10), power_off=0)
        ids = [place(cloud).id for _ in range(10)]
        for vm_id in ids:
            cloud.operate("power_off", vm_id, 20)
        seen = Counter()
        for _ in range(100):
            (shown,) = {state(vm) for vm in listed(cloud, 25).values()}
            seen[shown] += 1
        assert set(seen) == {"online", "offline"}
        assert 30 < seen["online"] < 70
        assert set(map(state, listed(cloud, 30).values())) == {"offline"}

    def test_gets_at_random(self):
        """Each GET goes to a random replica."""
        cloud = cloud_of(replicas=(0, 10), power_off=0)
        vm_id = place(cloud).id
        cloud.operate("power_off", vm_id, 20)
        seen = Counter(state(got(cloud, vm_id, 25)) for _ in range(100))
        assert 30 < seen["online"] < 70

    def test_in_turn(self):
        """Each read goes to the next one, GETs and lists alike."""
        cloud = cloud_of(replicas=(0, 5, 10), replica_choice="in_turn", power_off=0)
        vm_id = place(cloud).id
        cloud.operate("power_off", vm_id, 20)
        shown = [state(got(cloud, vm_id, 27)) for _ in range(4)]
        shown += [state(listed(cloud, 27)[vm_id]) for _ in range(3)]
        assert shown == ["offline", "offline", "online"] * 2 + ["offline"]

    def test_sticky(self):
        """A VM's GETs stay on one replica, and lists on the last."""
        cloud = cloud_of(replicas=(0, 10), replica_choice="sticky", power_off=0)
        ids = [place(cloud).id for _ in range(100)]
        for vm_id in ids:
            cloud.operate("power_off", vm_id, 20)
        shown = [{state(got(cloud, vm_id, 25)) for _ in range(3)} for vm_id in ids]
        assert all(len(states) == 1 for states in shown)
        assert 30 < shown.count({"online"}) < 70
        for _ in range(3):
            assert set(map(state, listed(cloud, 25).values())) == {"online"}

    def test_staleness_is_added(self):
        """Both add up."""
        cloud = cloud_of(replicas=(4,), staleness=3, power_off=0)
        vm_id = place(cloud).id
        cloud.operate("power_off", vm_id, 20)
        assert [state(view) for view in both(cloud, vm_id, 26.9)] == ["online"] * 2
        assert [state(view) for view in both(cloud, vm_id, 27)] == ["offline"] * 2

    def test_replicas_of_some_vms(self):
        """The others of the same list are current."""
        cloud = cloud_of(power_off=0)
        cloud.adjust("old-*", replicas=(10,))
        ids = [place(cloud, label=label).id for label in ("old-1", "web-1")]
        for vm_id in ids:
            cloud.operate("power_off", vm_id, 20)
        shown = listed(cloud, 25)
        assert [state(shown[vm_id]) for vm_id in ids] == ["online", "offline"]


class TestAbsence:
    @pytest.mark.parametrize("changes", [{}, {"staleness": 2}])
    def test_its_rate(self, changes):
        """Reads show a VM as absent at about that rate; each VM separately."""
        cloud = cloud_of(absence=0.05, **changes)
        ids = [place(cloud).id for _ in range(20)]
        gets = sum(got(cloud, vm_id, 50) is None for vm_id in ids for _ in range(100))
        counts = Counter(len(listed(cloud, 50)) for _ in range(100))
        lists = sum((20 - count) * number for count, number in counts.items())
        assert 60 < gets < 140
        assert 60 < lists < 140
        assert len(counts) > 2

    def test_a_missing_vm_stays_absent(self):
        """No VM is invented."""
        cloud = cloud_of(absence=0.5)
        vm_id = create(cloud)
        assert {both(cloud, vm_id, 4) for _ in range(20)} == {(None, None)}

    def test_writes_do_not_flap(self):
        """They go to the VM itself."""
        cloud = cloud_of(absence=1)
        vm_id = place(cloud).id
        assert both(cloud, vm_id, 1) == (None, None)
        cloud.operate("power_off", vm_id, 1)
        cloud.advance(10)
        assert cloud.vms[vm_id].state == "offline"


class TestRepeatedIds:
    def test_a_list_shows_some_vms_twice(self):
        """The second time at the end; a GET shows the VM once."""
        cloud = cloud_of(repeat_ids=0.2)
        ids = [place(cloud).id for _ in range(20)]
        sizes = Counter()
        for _ in range(100):
            shown = msgspec.json.decode(cloud.list(1))
            assert [vm["id"] for vm in shown[:20]] == ids
            assert set(Counter(vm["id"] for vm in shown).values()) <= {1, 2}
            sizes[len(shown) - 20] += 1
        assert 300 < sum(count * number for count, number in sizes.items()) < 500
        assert isinstance(got(cloud, ids[0], 1), dict)


class TestNames:
    @pytest.mark.parametrize(
        ("names", "given", "shown"),
        [
            ("verbatim", " Web  01 ", " Web  01 "),
            ("lower", "Web-ŻÓŁW", "web-żółw"),
            ("strip", " Web  01\t", "Web 01"),
            ("nfc", "caf\u0065\u0301", "caf\u00e9"),
            (5, "web-01", "web-0"),
            (50, "web-01", "web-01"),
        ],
    )
    def test_names_in_reads(self, names, given, shown):
        """Of a create and of a rename; the cloud itself keeps the given name."""
        cloud = cloud_of(names=names, not_found=0)
        vm_id = create(cloud, label=given)
        renamed = place(cloud, label="other").id
        cloud.rename(renamed, given, 1)
        for one in vm_id, renamed:
            assert [view["label"] for view in both(cloud, one, 1)] == [shown, shown]
            assert cloud.vms[one].label == given

    def test_a_change_of_the_setting(self):
        """It shows at once."""
        cloud = cloud_of()
        vm_id = place(cloud, label="Web-01").id
        assert got(cloud, vm_id, 1)["label"] == "Web-01"
        cloud.adjust("Web-*", names="lower")
        assert [view["label"] for view in both(cloud, vm_id, 1)] == ["web-01"] * 2


class TestEarlySize:
    def changes(self, early_size, *, wait_for=4, before=(), **settings):
        cloud = cloud_of(early_size=early_size, resize=30, stale=2, **settings)
        vm = place(cloud)
        for kind in before:
            cloud.operate(kind, vm.id, 9)
        cloud.operate("resize", vm.id, 10, cores=4, ram=4096, wait_for=wait_for)
        cloud.advance(1000)
        assert cloud.operations[-1].outcome == "done"
        return [(change.at, change.state, change.cores) for change in vm.history[1:]]

    def test_before_the_guest_goes_down(self):
        """The new size shows in `online`, long before a guest that delays ACPI is down."""
        assert self.changes(3, acpi=120) == [
            (13, "online", 4),
            (132, "offline", 4),
            (152, "online", 4),
        ]

    @pytest.mark.parametrize(
        ("early_size", "sized_at"), [(None, 30), (0, 10), (1, 11), (15, 25), (90, 30)]
    )
    def test_when_it_shows(self, early_size, sized_at):
        """So many seconds after the request, or when the resize is carried out."""
        changes = self.changes(early_size)
        assert min(at for at, _, cores in changes if cores == 4) == sized_at
        assert [(at, state) for at, state, _ in changes if at != sized_at or at == 30] == [
            (20, "offline"),
            *([(30, "offline")] if sized_at == 30 else []),
            (40, "online"),
        ]

    def test_a_queued_resize(self):
        """Not before it begins."""
        changes = self.changes(0, before=["power_off"])
        assert changes == [(11, "offline", 1), (11, "offline", 4)]

    def test_a_resize_that_a_delete_ends(self):
        """Its size no longer comes."""
        cloud = cloud_of(early_size=5, delete=100)
        vm = place(cloud)
        cloud.operate("resize", vm.id, 10, cores=4, ram=4096, wait_for=4)
        cloud.operate("delete", vm.id, 12)
        cloud.advance(1000)
        assert vm.cores == 1

    def test_it_is_drawn_only_if_it_is_set(self):
        """Another resize of the same seed takes as long as before."""

        def history(**changes):
            cloud = Cloud(Settings(**changes), seed=3)
            vm = place(cloud)
            cloud.operate("resize", vm.id, 10, cores=4, ram=4096, wait_for=4)
            cloud.operate("reboot", vm.id, 11)
            cloud.advance(1000)
            return vm.history

        assert history() == history(early_size=None) != history(early_size=(0, 5))


class TestWritesBeforeVisible:
    def test_refused_by_default(self):
        """A VM that is not visible does not exist for the API."""
        cloud = cloud_of()
        vm_id = create(cloud)
        with pytest.raises(NotFound):
            cloud.operate("delete", vm_id, 1)

    @pytest.mark.parametrize("staleness", [0, 1e-9])
    def test_a_delete(self, staleness):
        """The VM still becomes visible at its time, until it is gone."""
        cloud = cloud_of(not_found=15, delete=30, writes_before_visible=True, staleness=staleness)
        vm_id = create(cloud)
        cloud.operate("delete", vm_id, 0.5)
        shown = [
            [state(view) for view in both(cloud, vm_id, at)] for at in (0.5, 14.9, 15.1, 30.4, 30.6)
        ]
        assert shown == [[None] * 2, [None] * 2, ["deleting"] * 2, ["deleting"] * 2, [None] * 2]
        assert vm_id in cloud.gone
        assert [o.outcome for o in cloud.operations] == ["cancelled", "done"]

    def test_a_delete_that_is_over_first(self):
        """The VM is never shown."""
        cloud = cloud_of(not_found=15, delete=5, writes_before_visible=True)
        vm_id = create(cloud)
        cloud.operate("delete", vm_id, 0.5)
        assert {both(cloud, vm_id, at) for at in range(1, 40)} == {(None, None)}
        assert not cloud.gone[vm_id].visible

    def test_other_writes(self):
        """A rename shows from the first read on; an operation waits for the create to end."""
        cloud = cloud_of(not_found=15, writes_before_visible=True)
        vm_id = create(cloud)
        cloud.rename(vm_id, "new", 1)
        cloud.operate("power_off", vm_id, 1)
        assert both(cloud, vm_id, 1) == (None, None)
        assert got(cloud, vm_id, 15)["label"] == "new"
        assert [state(view) for view in both(cloud, vm_id, 21)] == ["online"] * 2
        assert [state(view) for view in both(cloud, vm_id, 22)] == ["offline"] * 2


class TestSettings:
    def test_the_default_reads_draw_no_random_numbers(self):
        """Nor is anything kept for them."""
        cloud, unread = Cloud(seed=1), Cloud(seed=1)
        vm_id = create(cloud)
        assert create(unread) == vm_id
        for now in range(100):
            both(cloud, vm_id, now)
        assert cloud.vms[vm_id].views is None
        assert cloud.list(100) is cloud.list(100)
        for one in cloud, unread:
            one.advance(100)
            one.adjust("*", absence=0.5)
        reads = [[got(one, vm_id, now) for now in range(101, 150)] for one in (cloud, unread)]
        assert reads[0] == reads[1]
        assert None in reads[0]

    def test_a_seed_repeats_odd_reads(self):
        """Also the random numbers drawn for them."""

        def reads(seed):
            cloud = cloud_of(seed, staleness=(0, 10), absence=0.3, replicas=(0, 3), repeat_ids=0.3)
            ids = [create(cloud, label=f"w-{n}") for n in range(5)]
            for now in range(40):
                yield cloud.list(now), [got(cloud, vm_id, now) for vm_id in ids]

        # The ids come from the same seed, so more than the ids differs.
        assert list(reads(1)) == list(reads(1)) != list(reads(2))

    def test_hostile(self):
        """As bad as a client must expect; other settings can be added."""
        settings = Settings.hostile()
        assert settings.max_staleness == 10
        assert settings.has_odd_reads
        assert settings.absence == 0
        other = Settings.hostile(3, absence=0.1, repeat_ids=0, create=5, replicas=(0, 2))
        assert (other.staleness, other.absence, other.repeat_ids) == ((0, 3), 0.1, 0)
        assert (other.create, other.max_staleness) == ((5, 5), 5)
        with pytest.raises(ValueError, match="staleness must be finite, 0 or more"):
            Settings.hostile(-1)
        with pytest.raises(TypeError, match="speed"):
            Settings.hostile(speed=1)

    @pytest.mark.parametrize(
        ("changes", "odd"),
        [
            ({}, False),
            ({"list_lag": 5}, False),
            ({"staleness": (0, 0)}, False),
            ({"replicas": (0, 0.0)}, False),
            ({"staleness": (0, 1)}, True),
            ({"replicas": [0, 1]}, True),
            ({"absence": 0.1}, True),
            ({"repeat_ids": 1}, True),
        ],
    )
    def test_settings_that_make_reads_odd(self, changes, odd):
        """The others cost nothing."""
        assert Settings(**changes).has_odd_reads is odd

    @pytest.mark.parametrize(
        ("changes", "error", "words"),
        [
            ({"staleness": -1}, ValueError, "staleness must be finite, 0 or more.*-1"),
            ({"staleness": (1, 2, 3)}, ValueError, "staleness is a pair of seconds"),
            ({"staleness": "long"}, TypeError, "staleness is a number of seconds.*'long'"),
            ({"replicas": 5}, TypeError, "replicas is a sequence of seconds, not 5"),
            ({"replicas": "5"}, TypeError, "replicas is a sequence of seconds, not '5'"),
            ({"replicas": (0, None)}, TypeError, "replicas .* None is not a number"),
            (
                {"replicas": (0, -1)},
                ValueError,
                "replicas must be finite seconds, 0 or more, not -1",
            ),
            ({"replicas": (math.nan,)}, ValueError, "replicas .*nan"),
            ({"replica_choice": "fixed"}, ValueError, "replica_choice.*sticky.*'fixed'"),
            ({"absence": 1.1}, ValueError, "absence is a probability from 0 to 1, not 1.1"),
            ({"absence": math.nan}, ValueError, "absence .*nan"),
            ({"absence": True}, TypeError, "absence is a probability from 0 to 1, not True"),
            ({"repeat_ids": "often"}, TypeError, "repeat_ids .*'often'"),
            ({"not_found_form": "xml"}, ValueError, "not_found_form.*success_false.*'xml'"),
            ({"names": "upper"}, ValueError, "names is 'verbatim', 'lower'.*not 'upper'"),
            ({"names": 0}, ValueError, "names .*number of characters, 1 or more, not 0"),
            ({"names": True}, ValueError, "names .*not True"),
            ({"early_size": (3, 1)}, ValueError, "early_size must be .* ascending"),
            ({"early_size": "soon"}, TypeError, "early_size .*'soon'"),
            ({"writes_before_visible": 1}, TypeError, "writes_before_visible is true or false"),
        ],
    )
    def test_wrong_settings_are_refused(self, changes, error, words):
        """The text names the setting, the value and what is allowed."""
        with pytest.raises(error, match=words):
            Settings(**changes)
        with pytest.raises(error, match=words):
            Cloud().adjust("*", **changes)
