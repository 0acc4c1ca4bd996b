"""Selection and presentation: the pure parts of the command line."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from async_vmapi import BulkReport, Outcome
from async_vmapi.cli.outcomes import show_outcome, show_report
from async_vmapi.cli.output import printable
from async_vmapi.cli.progress import duration
from async_vmapi.cli.requests import names_of
from async_vmapi.cli.selection import Selection
from async_vmapi.errors import InvalidArgument
from async_vmapi.transport.codec import decode_vm


def make_vm(vm_id="1", label="web-01", state="online", zone="DC1", groups=("db",)):
    import msgspec

    return decode_vm(
        msgspec.json.encode(
            {
                "id": vm_id,
                "label": label,
                "cores": 1,
                "ram": 512,
                "state": state,
                "system": {"id": "1", "name": "Debian"},
                "cost_per_hour": 0.02,
                "transfer_used": "0.00",
                "owner": {"id": "1", "name": "me"},
                "public_interface": {},
                "storage_volumes": [],
                "zone": {"id": f"{zone}-id", "name": zone},
                "groups": [{"id": f"{group}-id", "name": group} for group in groups],
            }
        )
    )


class TestSelection:
    @pytest.mark.parametrize(
        ("selection", "meant"),
        [
            ({}, True),
            ({"labels": ["web-*"]}, True),
            ({"labels": ["WEB-*"]}, False),
            ({"labels": ["db-*", "web-0[1-3]"]}, True),
            ({"groups": ["db"]}, True),
            ({"groups": ["db-id"]}, True),
            ({"groups": ["web"]}, False),
            ({"zones": ["DC1"]}, True),
            ({"zones": ["DC2", "DC1-id"]}, True),
            ({"zones": ["DC2"]}, False),
            ({"states": ["offline", "online"]}, True),
            ({"states": ["offline"]}, False),
            ({"labels": ["web-*"], "states": ["offline"]}, False),
            ({"ids": ["1"]}, True),
            ({"ids": []}, False),
            ({"ids": ["1"], "groups": ["web"]}, False),
        ],
    )
    def test_all_conditions_hold_together(self, selection, meant):
        """Each by any of its values."""
        assert Selection(**selection).matches(make_vm()) is meant

    def test_a_vm_without_a_label_matches_only_the_pattern_for_all(self):
        """There is no label to compare."""
        assert not Selection(labels=["web-*"]).matches(make_vm(label=None))
        assert Selection(labels=["*"]).matches(make_vm(label=None))

    def test_conditions_that_no_vm_meets(self):
        """They may be misspelt, so what the VMs have is shown."""
        vms = [make_vm("1", "a"), make_vm("2", "b")]
        good = Selection(zones=["DC1", "DC1-id"], groups=["db"], states=["offline"])
        assert good.unmatched(vms) == []
        wrong = Selection(zones=["DC1", "DC9"], groups=["web"], states=["onlin"])
        assert wrong.unmatched(vms) == [
            "no VM has group 'web'; the VMs have: db",
            "no VM has zone 'DC9'; the VMs have: DC1",
            "no VM has state 'onlin'; the VMs have: online",
        ]
        assert Selection(zones=["DC9"]).unmatched([]) == [
            "no VM has zone 'DC9'; the VMs have: none"
        ]

    def test_unknown_ids(self):
        """They are listed once each, in the given order; VMs keep that order too."""
        vms = [make_vm("1", "b"), make_vm("2", "a"), make_vm("3", None)]
        meant, missing = Selection(ids=["x", "1", "2", "y", "x"]).of(vms)
        assert [vm.id for vm in meant] == ["1", "2"]
        assert missing == ["x", "y"]


class TestWords:
    @given(st.text())
    def test_text_cannot_control_the_terminal(self, text):
        """Other people's labels are shown without control characters."""
        shown = printable(text)
        assert shown.isprintable()
        shown.encode()
        if text.isprintable():
            assert shown == text

    @pytest.mark.parametrize(
        ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (36061, "10:01:01")]
    )
    def test_durations(self, seconds, shown):
        """As on a clock."""
        assert duration(seconds) == shown

    def test_names(self):
        """A pattern's number counts up from the first."""
        assert names_of("web-{:04}", 3, 9) == ["web-0009", "web-0010", "web-0011"]
        assert names_of("one", 1, 0) == ["one"]
        with pytest.raises(InvalidArgument):
            names_of("{.x}", 1, 0)


class TestReports:
    def show(self, function, *arguments):
        console = Console(file=io.StringIO(), width=300, highlight=False, markup=False)
        function(console, *arguments)
        return console.file.getvalue()

    def test_long_reports(self):
        """Failures beyond twenty are counted; every token is shown."""
        outcomes = [
            Outcome(index=n, item=f"f{n}", status="failed", reason="\x1b[2J[red]no[/red]")
            for n in range(25)
        ]
        outcomes += [
            Outcome(index=25 + n, item=f"u{n}", status="unknown", token=f"token-{n}")
            for n in range(25)
        ]
        report = BulkReport(operation="reset", outcomes=tuple(outcomes), requests={"get": 2})
        shown = self.show(show_report, report, {"f0": "web-01"})
        assert "web-01 (f0): \\x1b[2J[red]no[/red]" in shown
        assert "and 5 more" in shown
        assert all(f"token-{n}\n" in shown for n in range(25))
        assert "took 0.0 s and 2 requests: 2 get" in shown

    def test_deletes_of_missing_vms(self):
        """They have succeeded, and are counted separately."""
        known = {"status": "succeeded", "seconds": 2.0, "evidence": "inferred"}
        outcomes = (
            Outcome(index=0, item="a", reason="it was gone already", **known),
            Outcome(index=1, item="b", **known),
        )
        shown = self.show(show_report, BulkReport(operation="delete", outcomes=outcomes), {})
        assert "delete of 2: 2 succeeded" in shown
        assert "2 inferred, 1 already gone, median 2.0 s" in shown
        shown = self.show(show_outcome, "delete", "a", outcomes[0])
        assert "succeeded, inferred in 2.0 s\n  it was gone already" in shown

    def test_evidence_of_successes(self):
        """The report says how completion is known, and which responses were lost."""
        outcomes = (
            Outcome(index=0, item="a", status="succeeded", seconds=2.0, evidence="observed"),
            Outcome(index=1, item="b", status="succeeded", seconds=4.0, adopted=True),
            Outcome(index=2, item="c", status="not_started", reason="enough"),
        )
        report = BulkReport(operation="create", outcomes=outcomes, stopped="enough")
        shown = self.show(show_report, report, {})
        assert "1 observed, 1 adopted, median 3.0 s, 95 % within 4.0 s" in shown
        assert "not started\n  c: enough" in shown
        assert "succeeded in 4.0 s" in self.show(show_outcome, "create", "b", outcomes[1])
