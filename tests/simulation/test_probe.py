"""The probe in virtual time: it finds what is hidden, and reports nothing false."""

import asyncio

import attrs
import pytest

from async_vmapi import Client, InvalidArgument, InvalidState
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings
from async_vmapi.facts import Fact, Facts
from async_vmapi.probe import Probe
from async_vmapi.probe.journal import Journal

from .hidden import LATENCY, PLAN, Hidden

pytestmark = pytest.mark.looptime

MANY = 20
TIMED = ("create", "resize", "shutdown", "reboot", "reset", "delete", "power_on", "power_off")
KINDS = (
    *("drop_before", "drop_after", "stall", "rate_limited", "server_error", "truncated", "html"),
    *("success_false", "slow_body", "wrong_content_type", "not_found", "unknown_state"),
)


def tolerance(hidden):
    """Return how wrong a time can be: the interval of reads of one kind, and their age."""
    return 2 * 1.2 * PLAN.interval + 4 * LATENCY + hidden.lag


def true_times(hidden):
    """Return the real times of all facts that are spans, as pairs."""
    times = {f"durations.{kind}": hidden.durations(kind) for kind in TIMED}
    times["reads.appears"] = times["reads.appears_in_list"] = hidden.appearances
    spans = {name: (min(t), max(t)) for name, t in times.items() if t}
    return spans | {"reads.address": hidden.settings.address}


def false_times(hidden, facts, more=0.0):
    """Return the times that no operation took."""
    tolerated, truth = tolerance(hidden) + more, true_times(hidden)
    return {
        name: (facts[name].value, truth.get(name))
        for name in facts
        if name in ("reads.appears", "reads.appears_in_list", "reads.address")
        or name.startswith("durations.")
        if name not in truth
        or facts[name].value[0] < truth[name][0] - tolerated
        or facts[name].value[1] > truth[name][1] + tolerated
    }


def unknowable(hidden):
    """Return the durations that cannot be known: what does not show, or depends on the guest."""
    settings = hidden.settings
    found = set()
    if settings.acpi == "ignore":
        found |= {"durations.resize", "durations.shutdown", "durations.reboot"}
    if settings.early_size is not None and not settings.restart_after_resize:
        found.add("durations.resize")
    return found


async def probed(hidden, plan=PLAN, **options):
    """Run a probe of a hidden cloud."""
    async with hidden.client(**options) as client:
        return await Probe(client).run(plan)


def assert_clean(hidden):
    """No VM of the probe is left, and no other one was touched."""
    assert list(hidden.cloud.vms) == [hidden.other.id]
    assert hidden.other.id not in {found.vm_id for found in hidden.cloud.operations}
    assert hidden.other.label == "production"


def wrong(hidden, report):
    """Return what a report says that is not so, or does not say."""
    facts = report.facts
    found = {name: facts[name].value if name in facts else None for name in hidden.flags()}
    wrong = {n: (found[n], true) for n, true in hidden.flags().items() if found[n] != true}
    wrong |= false_times(hidden, facts)
    for name, span in true_times(hidden).items():
        if name not in unknowable(hidden) and name != "reads.address":
            close = pytest.approx(span, abs=tolerance(hidden))
            if name not in facts or facts[name].value != close:
                wrong[name] = facts.get(name), span
    # An age is never more than it was, and what is missed is a part of it.
    age = facts["reads.max_staleness"].value
    if not 0.8 * hidden.lag - 2 * PLAN.interval <= age <= hidden.lag:
        wrong["reads.max_staleness"] = age, hidden.lag
    if abs(facts["clock.offset"].value - hidden.offset) > 2:
        wrong["clock.offset"] = facts["clock.offset"].value, hidden.offset
    states = {"installing", "online", *hidden.settings.extra_states}
    if not states < set(facts["states.known"].value):
        wrong["states.known"] = facts["states.known"].value, states
    return wrong


def false(hidden, report):
    """Return what a report says that is not so."""
    facts, truth = report.facts, hidden.flags()
    said = {n: (facts[n].value, truth[n]) for n in truth if n in facts}
    false = {name: pair for name, pair in said.items() if pair[0] != pair[1]}
    # A read between two others may have failed.
    false |= false_times(hidden, facts, 3 * PLAN.interval)
    if "reads.max_staleness" in facts and facts["reads.max_staleness"].value > hidden.lag:
        false["reads.max_staleness"] = facts["reads.max_staleness"].value, hidden.lag
    return false


class TestHidden:
    async def test_every_fact_is_found(self, stride):
        """In twenty of twenty clouds: each yes or no, each form, each time within its tolerance."""
        found = {}
        for seed in range(0, MANY, stride):
            hidden = Hidden(seed)
            report = await probed(hidden)
            found[seed] = wrong(hidden, report)
            assert report.left == ()
            assert_clean(hidden)
        assert found == {seed: {} for seed in range(0, MANY, stride)}

    @pytest.mark.no_cover  # many cases of the same code
    async def test_with_faults_nothing_is_false(self, stride):
        """What faults hide is not known; whatever is known is true."""
        found, known, injected = {}, 0, 0
        faults = [Fault(kind=kind, probability=0.004) for kind in KINDS]
        for seed in range(0, MANY, stride):
            hidden = Hidden(seed, faults=FaultPlan(faults, seed=seed))
            report = await probed(hidden)
            found[seed] = false(hidden, report)
            known += len(report.facts)
            injected += sum(hidden.api.faults.injected.values())
            assert report.left == ()
            assert_clean(hidden)
        assert found == {seed: {} for seed in range(0, MANY, stride)}
        # Not because nothing is known, or nothing failed.
        assert known > 25 * len(found)
        assert injected > 50 * len(found)

    async def test_a_provider_that_fails_all_creates_yields_what_reads_show(self):
        """And the VM is deleted."""
        hidden = Hidden(1, fail_state="error")
        report = await probed(hidden)
        assert "is in the state 'error'" in report.problems[0]
        assert {"reads.get_shape", "reads.not_found"} < set(report.facts)
        assert "durations.create" not in report.facts
        assert "error" not in report.facts["states.known"].value
        assert_clean(hidden)

    async def test_a_name_that_is_refused_leaves_its_effect_unknown(self):
        """Of the others it is known, and so is the age of reads."""
        hidden = Hidden(3, names="lower")
        hidden.longest_name = 100
        facts = (await probed(hidden)).facts
        assert facts["names.change"].value == "lower"
        assert "names.changes" not in facts
        assert facts["reads.max_staleness"].seen == PLAN.renames - 2
        assert_clean(hidden)

    async def test_a_resize_that_changes_nothing_is_not_measured(self):
        """Where a VM cannot be made smaller, there is only one."""
        hidden = Hidden(3, early_size=None, acpi="honour", restart_after_resize=True)
        hidden.shrinks = False
        facts = (await probed(hidden)).facts
        assert facts["resize.shows_early"] == Fact(False, "measured", 1, facts["power.off"].when)
        assert facts["durations.resize"].seen == 1
        assert_clean(hidden)

    async def test_a_vm_without_an_address_is_measured_all_the_same(self):
        hidden = Hidden(3, address=1e6, early_size=None, acpi="honour")
        facts = (await probed(hidden)).facts
        assert "reads.address" not in facts
        assert {"durations.create", "durations.resize", "durations.delete"} < set(facts)

    async def test_a_vm_that_vanishes_ends_the_measurement(self):
        """What was measured before is kept."""
        hidden = Hidden(3)
        async with hidden.client() as client:
            running = asyncio.create_task(Probe(client).run(PLAN))
            await asyncio.sleep(400)
            (vm,) = (vm for vm in hidden.cloud.vms.values() if vm is not hidden.other)
            hidden.cloud.operate("delete", vm.id, asyncio.get_running_loop().time())
            report = await running
        assert report.problems == ("the VM has vanished",)
        assert {"durations.create", "reads.max_staleness"} < set(report.facts)
        assert_clean(hidden)


class TestPlan:
    async def test_the_price_is_of_a_vm_of_that_size(self, request_for):
        """Else the user's; without any, or above the budget, nothing is created."""
        api = CloudAPI(settings=Settings(), seed=1)
        async with Client.in_memory(api, seed=1) as client:
            await (await client.vms.create(request_for(cpus=2, ram=1024)))
            (price,) = {vm.cost_per_hour for vm in await client.vms.list()}
            probe = Probe(client)
            same = attrs.evolve(PLAN, cpus=2, ram=1024, price=None)
            assert (await probe.estimate(same)).price == price
            estimate = await probe.estimate(PLAN)
            # Two hours of two VMs that have one core more.
            assert (estimate.price, estimate.cost) == (0.02, pytest.approx(0.16))
            for plan, argument in (
                (attrs.evolve(PLAN, price=None), "price"),
                (attrs.evolve(PLAN, budget=0.15), "budget"),
            ):
                for call in (probe.estimate, probe.run):
                    with pytest.raises(InvalidArgument) as caught:
                        await call(plan)
                    assert caught.value.argument == argument
        assert api.requests["create"] == 1

    async def test_it_takes_no_more_than_its_limit(self):
        """Then it deletes its VMs, and returns what is known."""
        hidden = Hidden(0)
        began = asyncio.get_running_loop().time()
        report = await probed(hidden, attrs.evolve(PLAN, time_limit=300))
        assert "the time limit was reached" in report.problems
        assert asyncio.get_running_loop().time() - began < 300 + 120
        assert_clean(hidden)

    async def test_the_rate_is_gentle(self):
        """Two reads in a second, and no more VMs than one at a time."""
        hidden = Hidden(0)
        began = asyncio.get_running_loop().time()
        async with hidden.client() as client:
            await Probe(client).run(PLAN)
            seconds = asyncio.get_running_loop().time() - began
            assert sum(client.requests.values()) < 2.4 * seconds
        creates = [o for o in hidden.cloud.operations if o.kind == "create"]
        first, _ = (o for o in hidden.cloud.operations if o.kind == "delete")
        assert first.finished_at <= creates[1].accepted_at

    def test_invalid_values_are_refused(self):
        for name, value in (("cpus", 0), ("interval", 0), ("budget", -1), ("time_limit", "1")):
            with pytest.raises(InvalidArgument, match=name):
                attrs.evolve(PLAN, **{name: value})


class TestReadOnly:
    async def test_it_creates_nothing(self):
        """It finds the forms, from VMs that exist."""
        hidden = Hidden(3)
        async with hidden.client() as client:
            report = await Probe(client).read_only()
            assert set(client.requests) == {"get", "list"}
        assert set(report.facts) == {
            *("reads.get_shape", "reads.not_found", "reads.new_fields", "reads.ids"),
            "clock.offset",
        }
        flags = hidden.flags()
        assert all(fact.value == flags.get(n, fact.value) for n, fact in report.facts.items())

    async def test_the_file_has_no_secret_id_or_address(self):
        """Of this account or its VMs."""
        hidden = Hidden(4)
        report = await probed(hidden)
        text = report.facts.to_toml()
        assert dict(Facts.from_toml(text)) == dict(report.facts)
        for vm in (*hidden.cloud.gone.values(), hidden.other):
            for secret in (vm.id, vm.address, vm.label):
                assert secret not in text
        assert hidden.api.api_key not in text
        assert hidden.api.api_secret not in text
        assert all(fact.seen and fact.when for fact in report.facts.values())
        # It depends on the guest, and would decide when a reboot that does not show is assumed.
        assert "reboot.grace" not in report.facts


class TestInterrupted:
    @pytest.mark.parametrize("after", [0.01, 1, 30, 100, 150, 400, 700])
    async def test_a_cancelled_probe_deletes_its_vms(self, tmp_path, after):
        """Whenever it is cancelled, and with its journal."""
        hidden, journal = Hidden(0), tmp_path / "intent"
        async with hidden.client() as client:
            running = asyncio.create_task(Probe(client, journal=journal).run(PLAN))
            await asyncio.sleep(after)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert_clean(hidden)
        assert not journal.exists()

    async def test_a_lost_create_is_found_and_deleted(self, tmp_path):
        """Also if it was cancelled while its outcome was unknown."""
        hidden, journal = Hidden(0), tmp_path / "intent"
        hidden.api.faults.fail_next("create", "stall")
        async with hidden.client() as client:
            running = asyncio.create_task(Probe(client, journal=journal).run(PLAN))
            await asyncio.sleep(15)
            assert len(hidden.cloud.vms) == 2
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert_clean(hidden)
        assert not journal.exists()

    async def test_what_a_kill_leaves_is_cleaned(self, tmp_path):
        """By its journal, whatever its name is now; and a new probe refuses to start before."""
        hidden, journal = Hidden(0), tmp_path / "intent"
        async with hidden.client() as client:
            running = asyncio.create_task(Probe(client, journal=journal).run(PLAN))
            await asyncio.sleep(250)
            kept = journal.read_text()
            (vm,) = (vm for vm in hidden.cloud.vms.values() if vm is not hidden.other)
            # A kill runs no clean-up.
            running.cancel()
            await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert vm.id in hidden.cloud.vms
            journal.write_text(kept + '{"token": "cut o')
            hidden.cloud.rename(vm.id, "renamed", asyncio.get_running_loop().time())
            probe = Probe(client, journal=journal)
            with pytest.raises(InvalidState, match="probe --clean"):
                await probe.run(PLAN)
            left = await probe.left_over()
            assert [found.id for found in left] == [vm.id]
            assert await probe.delete(left) == []
        assert_clean(hidden)
        assert not journal.exists()

    async def test_a_create_in_flight_at_a_kill_is_reconciled(self, tmp_path, request_for):
        """Its VM is found when it appears; and if none does, nothing is left."""
        for was_sent in (True, False):
            hidden, journal = Hidden(0), tmp_path / f"intent {was_sent}"
            async with hidden.client() as client:
                request = request_for("vmapi-probe-x")
                token = await client.vms.prepare("create", request, unique_name=True)
                Journal(journal).intend(token)
                if was_sent:
                    await client.vms.create(request, unique_name=True, intent=token)
                probe = Probe(client, journal=journal)
                left = await probe.left_over()
                assert [vm.label for vm in left] == ["vmapi-probe-x"] * was_sent
                assert await probe.delete(left) == []
            assert_clean(hidden)
            assert not journal.exists()

    async def test_a_vm_that_cannot_be_deleted_is_named(self, tmp_path):
        """And is found by its journal afterwards."""
        refused = Fault(kind="success_false", call="delete", probability=1.0)
        hidden, journal = Hidden(0, faults=FaultPlan([refused])), tmp_path / "intent"
        async with hidden.client() as client:
            probe = Probe(client, journal=journal)
            report = await probe.run(attrs.evolve(PLAN, vms=1, rounds=1))
            (vm,) = (vm for vm in hidden.cloud.vms.values() if vm is not hidden.other)
            assert report.left == (vm.id,)
            assert vm.id in journal.read_text()
            left = await probe.left_over()
            assert await probe.delete(left) == [vm.id]
            hidden.api.faults.clear()
            assert await probe.delete(left) == []
        assert_clean(hidden)
        assert not journal.exists()

    async def test_vms_are_found_by_their_names(self, tmp_path):
        """In whatever case, without a journal; others are not."""
        hidden = Hidden(0)
        zone = hidden.other.zone
        names = ["vmapi-probe-1", "VMAPI-Probe-2", "my-vmapi-probe-3", "vmapi"]
        for name in names:
            now = asyncio.get_running_loop().time()
            hidden.cloud.place(now, label=name, cores=1, ram=512, zone=zone, template=None)
        async with hidden.client() as client:
            with pytest.raises(InvalidState):
                await Probe(client).estimate(PLAN)
            left = await Probe(client).left_over()
            assert {vm.label.casefold() for vm in left} == {"vmapi-probe-1", "vmapi-probe-2"}
            assert await Probe(client).delete(left) == []
        assert {vm.label for vm in hidden.cloud.vms.values()} == {"production", *names[2:]}
