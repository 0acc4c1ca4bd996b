"""What a probe concludes from responses as they came, without a network."""

import json

import pytest

from async_vmapi.emulator import Cloud
from async_vmapi.facts import Fact, Facts
from async_vmapi.probe.drift import drift
from async_vmapi.probe.fields import id_types, new_fields
from async_vmapi.probe.findings import Findings
from async_vmapi.probe.journal import Journal
from async_vmapi.probe.recorder import Exchange
from async_vmapi.probe.samples import Sample, Seen, Trace, Words, form_of, sample_of


def vm_json(**changes):
    """A VM as the emulator describes it."""
    cloud = Cloud(seed=1)
    zone = {"id": "z", "label": "DC1", "name": "x", "available": True}
    vm = cloud.place(0.0, label="web", cores=1, ram=512, zone=zone, template=None)
    return json.loads(cloud.get(vm.id, 0.0)) | changes


def exchange(status=200, content=None, *, html=False, took=0.1):
    """A response to a read."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Exchange("GET", "/v2/virtual-machines/x", 10.0, 10.0 + took, status, html, body)


def trace(*states, interval=1.0, accepted=True):
    """A trace of states, read by GET and by list in turn; None where no VM is shown."""
    found = Trace(0.0, 0.1, accepted, interval, Words())
    for number, state in enumerate(states, 1):
        if state != "-":
            vm = None if state is None else Seen("a", state, 1, 512, True)
            by = "get" if number % 2 else "list"
            found.add(Sample(by, number * interval - 0.1, number * interval, vm))
    return found


class TestFields:
    def test_fields_that_the_models_lack_are_named(self):
        """At any depth, and nothing that could be an id or an address."""
        vm = vm_json(sla="gold", **{"10.0.0.1": 1, "b8f7a0c2-1": 2, "x" * 60: 3})
        vm["zone"]["city"] = "Warsaw"
        vm["storage_volumes"][0]["iops"] = 5
        assert new_fields(vm) == {"systemName", "sla", "zone.city", "storage_volumes.iops"}
        assert new_fields([vm]) == new_fields(vm)
        assert new_fields(None) == set()

    def test_types_of_ids(self):
        assert id_types({"id": 7}) == {"integer"}
        assert id_types([{"id": "7"}, {"id": 7}, {}, "x"]) == {"string", "integer", "other"}


class TestForms:
    @pytest.mark.parametrize(
        ("response", "form"),
        [
            (exchange(404, {"success": False}), "json"),
            (exchange(404, b""), "bare"),
            (exchange(404, b"<h1>Not here</h1>"), "html"),
            (exchange(404, b"Not here", html=True), "html"),
            (exchange(404, b"Not here"), None),
            (exchange(410, b""), "gone"),
            (exchange(200, {"success": False}), "success_false"),
            (exchange(200, {"success": True}), None),
            (exchange(500, {"success": False}), None),
            (exchange(200, b"\xff"), None),
        ],
    )
    def test_of_a_not_found(self, response, form):
        assert form_of(response) == form

    def test_an_id_may_be_an_integer_and_a_number_a_string(self):
        """In a GET of either shape, and in a list."""
        vm = {"id": 7, "label": None, "state": "online", "cores": "1", "ram": 512}
        seen = Seen(None, "online", 1, 512, False)
        for by, content in (
            ("get", {"virtual_machine": vm}),
            ("get", {"virtual_machine": [vm]}),
            ("list", {"virtual_machines": [vm | {"id": 8}, vm]}),
        ):
            assert sample_of(exchange(200, content), by, "7", 1.0, None).vm == seen
        none = {"virtual_machines": []}
        assert sample_of(exchange(200, none), "list", "7", 1.0, None).vm is None

    @pytest.mark.parametrize(
        ("response", "by"),
        [
            (exchange(200, {"virtual_machine": {"id": 7}}), "get"),
            (exchange(200, {"virtual_machine": []}), "get"),
            (exchange(200, {"virtual_machine": {"id": 8, "state": "x", "cores": 1}}), "get"),
            (exchange(200, {"success": False}), "get"),
            (exchange(404, b""), "list"),
            (exchange(503, b""), "get"),
            (exchange(200, {"virtual_machines": []}, took=2.0), "list"),
        ],
    )
    def test_a_read_that_shows_nothing_is_not_used(self, response, by):
        """Faults, and responses that took too long to say when they were true."""
        assert sample_of(response, by, "7", 1.0, None) is None


class TestTimes:
    def test_the_time_of_a_change(self):
        """From the request to the first read that shows it."""
        found = trace("online", "online", "offline", "offline")
        assert found.after(found.first(lambda vm: vm.state == "offline")) == 3.0

    def test_it_is_not_known_after_a_gap(self):
        """It may have changed at any time in it; and one read before it may be wrong."""
        states = ["online"] * 3 + ["-"] * 6
        found = trace(*states, "offline")
        assert found.after(found.first(lambda vm: vm.state == "offline")) is None
        assert trace(*states, None, "online").after(Sample("get", 10.9, 11.0, None)) is None

    def test_it_is_not_known_if_the_write_was_sent_again(self):
        found = trace("online", "offline", accepted=False)
        assert found.after(found.first(lambda vm: vm.state == "offline")) is None

    def test_a_word_counts_if_it_is_seen_five_times_in_a_row(self):
        """A word that is seen once may be a fault."""
        once = trace("online", "odd", "online", "odd", "online")
        assert [s.vm.state for s in once.samples] == ["online"] * 3
        often = trace("online", *["resizing"] * 5)
        assert often.first(lambda vm: vm.state == "resizing").received == 2.0

    def test_old_reads_mix_with_new_ones(self):
        """A VM is back after the last read that shows it offline, if none is missing then."""

        def back(*states):
            found = trace(*states)
            down = found.last(lambda vm: vm.state == "offline")
            return found.after(found.first_after(down, lambda vm: vm.state == "online"))

        assert back("online", "offline", "online", "offline", "online", "online") == 5.0
        assert back("offline", "online", "-", "-", "-", "-", "online", "online") is None

    def test_few_reads_prove_nothing(self):
        """A state holds if reads by GET and by list have shown it without long gaps."""
        assert trace(*["online"] * 9).holds(6, lambda vm: vm.state == "online")
        for states in (["online"], ["online", *["-"] * 7, "online"], ["online", "-"] * 6):
            assert not trace(*states).holds(6, lambda vm: vm.state == "online")


class TestFindings:
    def facts(self, **flags):
        findings = Findings(wait_for=1, interval=0.5)
        for name, values in flags.items():
            for value in values:
                findings.vote(name.replace("__", "."), value)
        facts = findings.facts("2026-11-30")
        return {name: fact.value for name, fact in facts.items()}

    def test_rounds_that_disagree_prove_nothing(self):
        """But what was seen once is possible."""
        assert self.facts(resize__restarts=[True, False]) == {}
        assert self.facts(resize__restarts=[True, None, True]) == {"resize.restarts": True}
        assert self.facts(reset__shows=[False, True]) == {"reset.shows": True}

    def test_a_silent_reboot_may_have_been_ignored(self):
        """Unless the guest is known to obey ACPI."""
        assert self.facts(reboot__shows=[False]) == {}
        findings = Findings(wait_for=1, interval=0.5)
        findings.vote("reboot.shows", value=False)
        down = trace("online", "offline", "offline")
        findings.switch("shutdown", down, "online", "offline", acpi=True)
        assert findings.facts("2026-11-30")["reboot.shows"].value is False

    def test_a_size_that_shows_before_the_vm_is_down_is_early(self):
        """Unless the resize was sent twice, and so carried out again."""
        new = (2, 512)
        for accepted, expected in ((True, True), (False, None)):
            found = trace("online", accepted=accepted)
            for number, state in enumerate(["online"] * 3 + ["offline"] * 9 + ["online"] * 9, 2):
                by = "get" if number % 2 else "list"
                seen = Seen("a", state, *new, True)
                found.add(Sample(by, number - 0.1, float(number), seen))
            findings = Findings(wait_for=1, interval=1.0)
            findings.resize(found, new, is_back=True)
            facts = findings.facts("2026-11-30")
            early = facts.get("resize.shows_early")
            assert (early and early.value) is expected
            assert facts["resize.restarts"].value is True


class TestDrift:
    @pytest.mark.parametrize(
        ("name", "one", "two", "changed"),
        [
            ("durations.create", (20.0, 30.0), (21.5, 37.0), False),
            ("durations.create", (20.0, 30.0), (20.0, 45.0), True),
            ("reads.max_staleness", 0.0, 1.9, False),
            ("reads.max_staleness", 0.0, 3.0, True),
            ("states.create", (("online", 1.0, 2.0),), (("online", 1.0, 3.0),), False),
            ("states.create", (("online", 1.0, 2.0),), (("booting", 1.0, 2.0),), True),
            ("states.create", (("online", 1.0, 2.0),), (), True),
            ("reboot.shows", True, False, True),
            ("absence.polls", 8, 9, True),
            ("clock.offset", 1.0, 300.0, False),
        ],
    )
    def test_times_scatter_and_the_rest_does_not(self, name, one, two, changed):
        before, after = (Facts({name: Fact(value, "measured", 3)}) for value in (one, two))
        assert set(drift(before, after)) == ({name} if changed else set())
        assert set(drift(before, Facts({}))) == (set() if name == "clock.offset" else {name})


class TestJournal:
    def test_it_knows_what_may_exist(self, tmp_path):
        """Also if its last line is cut off, or no file is kept."""
        path = tmp_path / "intent"
        journal = Journal(path)
        assert not journal.exists
        for token in ("a", "b", "c"):
            journal.intend(token)
        journal.created("a", "id-a")
        journal.created("b", "id-b")
        journal.ended("b")
        path.write_text(path.read_text() + '{"token": "d')
        assert Journal(path).open == {"a": "id-a", "c": None}
        Journal(path).created("c", "id-c")
        assert Journal(path).open == {"a": "id-a", "c": "id-c"}
        assert Journal(path).exists
        Journal(path).remove()
        assert not path.exists()
        none = Journal(None)
        none.intend("a")
        assert (none.open, none.exists) == ({"a": None}, False)
        none.remove()
