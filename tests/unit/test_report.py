"""The report of a bulk call."""

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi import BulkReport, InvalidArgument, NotFound, Outcome

STATUSES = ["succeeded", "failed", "unknown", "not_started"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
OUTCOMES = st.builds(
    Outcome,
    index=st.just(0),
    item=TEXT,
    status=st.sampled_from(STATUSES),
    vm_id=st.none() | TEXT,
    wave=st.integers(1, 9),
    seconds=st.none() | st.floats(0, 1e6),
    evidence=st.none() | st.sampled_from(["observed", "inferred", "assumed"]),
    adopted=st.booleans(),
    token=st.none() | TEXT,
    reason=TEXT,
    error=st.none() | TEXT,
    value=st.just("a value"),
    source=st.just("a source"),
)


def report_of(*statuses, **fields):
    outcomes = tuple(
        Outcome(index=n, item=f"vm-{n}", status=status, seconds=float(n + 1))
        for n, status in enumerate(statuses)
    )
    return BulkReport(operation="shutdown", outcomes=outcomes, **fields)


class TestKinds:
    def test_each_item_is_in_exactly_one_list(self):
        """The four lists together are all items."""
        report = report_of(*STATUSES, "succeeded")
        lists = [report.succeeded, report.failed, report.unknown, report.not_started]
        assert [len(found) for found in lists] == [2, 1, 1, 1]
        assert sorted(o.index for found in lists for o in found) == [0, 1, 2, 3, 4]
        assert report.counts == {"succeeded": 2, "failed": 1, "unknown": 1, "not_started": 1}
        assert str(report) == "shutdown of 5: 2 succeeded, 1 failed, 1 unknown, 1 not started"

    def test_durations_are_those_of_successes(self):
        """And there are none where nothing succeeded."""
        report = report_of(*["succeeded"] * 100, "failed")
        assert (report.median_seconds, report.p95_seconds) == (50.5, 95.0)
        assert report_of("failed").median_seconds is None
        assert report_of("failed").p95_seconds is None
        assert str(BulkReport(operation="reset")) == "reset of 0: nothing to do"


class TestRaising:
    def test_success_and_items_not_started_raise_nothing(self):
        """There is no error to raise."""
        report_of("succeeded", "not_started").raise_on_failure()

    def test_failed_and_unknown_items_raise_a_group(self):
        """Of their own errors, or of those that JSON kept."""
        error = NotFound("no such", status=404)
        outcomes = (
            Outcome(index=0, item="a", status="failed", exception=error),
            Outcome(index=1, item="b", status="unknown", reason="who knows"),
        )
        report = BulkReport(operation="reset", outcomes=outcomes, stopped="enough")
        with pytest.raises(ExceptionGroup, match="1 failed, 1 unknown; stopped: enough") as info:
            report.raise_on_failure()
        first, second = info.value.exceptions
        assert first is error
        assert str(second) == "b: who knows"


class TestJSON:
    @given(
        st.lists(OUTCOMES, max_size=5),
        st.dictionaries(TEXT, st.none() | st.booleans() | st.integers(-(2**31), 2**31) | TEXT),
        st.booleans(),
        st.none() | TEXT,
    )
    def test_round_trip(self, outcomes, arguments, flag, stopped):
        """Everything but values, errors and items comes back."""
        report = BulkReport(
            operation="run",
            arguments=arguments,
            outcomes=tuple(attrs.evolve(o, index=n) for n, o in enumerate(outcomes)),
            dry_run=flag,
            complete=not flag,
            stopped=stopped,
            seconds=1.5,
            requests={"list": 3},
        )
        text = report.to_json()
        again = BulkReport.from_json(text)
        assert again == report
        assert again.to_json() == text
        assert all(o.value is o.source is o.exception is None for o in again.outcomes)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: "",
            lambda text: text[:-1],
            lambda text: "[" * 10_000,
            lambda text: text.replace("succeeded", "excellent"),
            lambda text: text.replace("report 1", "report 2"),
            lambda text: text.replace('"index":1', '"index":0'),
            lambda text: text.replace('"status":"failed"', '"status":"unknown"'),
            lambda text: json.dumps(json.loads(text) | {"more": 1}),
            lambda text: "\ud800",
            lambda text: None,
        ],
    )
    def test_a_damaged_report_is_refused(self, damage):
        """As a whole."""
        text = report_of("succeeded", "failed").to_json()
        with pytest.raises(InvalidArgument, match="report"):
            BulkReport.from_json(damage(text))
