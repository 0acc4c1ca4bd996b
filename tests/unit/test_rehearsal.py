"""The figures, the JSON and the picture of a rehearsal."""

import json
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi import BulkPlan, InvalidArgument
from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.rehearsal import Rehearsal, RehearsalRun, Spread, Timeline, WaveSpan

SVG = "{http://www.w3.org/2000/svg}"


def run_of(seed=1, **fields):
    given = {
        "seconds": 100.0,
        "requests": 50,
        "peak_requests": 5,
        "fewest_online": 9,
        "counts": {"succeeded": 10},
    }
    return RehearsalRun(seed=seed, **(given | fields))


def rehearsal_of(*runs, **fields):
    given = {
        "operation": "reboot",
        "origin": "https://e.example",
        "plan": BulkPlan(waves=[1, "100%"]),
        "hazards": Hazards(failing=0.5),
        "vms": 12,
        "items": 10,
    }
    return Rehearsal(runs=runs, **(given | fields))


TIMELINE = Timeline(
    in_flight=((0.1, 1), (30.0, 0), (30.5, 9), (100.0, 0)),
    online=((0.0, 10), (10.0, 9), (20.0, 10), (40.0, 3), (90.0, 10)),
    failed=((95.0, 1),),
    waves=(
        WaveSpan(number=1, domain="a < b", begins=0.1, ends=30.0),
        WaveSpan(number=2, domain="a < b", begins=30.0, ends=100.0),
    ),
)


class TestFigures:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
    def test_a_spread_is_in_order_and_from_the_values(self, values):
        """Nine of ten values are at most the 90th percentile."""
        spread = Spread.of(values)
        assert (spread.least, spread.most) == (min(values), max(values))
        assert spread.least <= spread.median <= spread.most
        assert spread.p90 in values
        assert sum(value <= spread.p90 for value in values) >= 0.9 * len(values)
        assert sum(value < spread.p90 for value in values) < 0.9 * len(values)

    def test_the_median_of_an_even_number(self):
        """The mean of the two in the middle."""
        assert Spread.of([1, 2, 4, 10]).median == 3

    def test_the_worst_run(self):
        """Failures count more than items not started, and those more than time."""
        long = run_of(1, seconds=900.0)
        stopped = run_of(2, counts={"succeeded": 5, "not_started": 5}, seconds=10.0)
        failed = run_of(3, counts={"succeeded": 9, "unknown": 1}, seconds=1.0)
        assert rehearsal_of(long, stopped, failed).worst is failed
        assert rehearsal_of(long, stopped).worst is stopped
        assert rehearsal_of(long, run_of(4)).worst is long

    def test_sums_over_runs(self):
        """What stopped runs, and what failed; the most frequent first."""
        found = rehearsal_of(
            run_of(1, failures={"TaskFailed": 1}, stopped="wave 1 had failures"),
            run_of(
                2, failures={"TaskFailed": 1, "OutcomeUnknown": 5}, stopped="more than 1% failed"
            ),
            run_of(3, stopped="more than 1% failed", counts={"succeeded": 8, "failed": 2}),
        )
        assert found.failures == {"OutcomeUnknown": 5, "TaskFailed": 2}
        assert list(found.failures) == ["OutcomeUnknown", "TaskFailed"]
        assert list(found.stops.items()) == [("more than 1% failed", 2), ("wave 1 had failures", 1)]
        assert found.count("failed").most == 2
        assert found.spread("requests_per_second") == Spread(0.5, 0.5, 0.5, 0.5)
        assert str(found) == (
            "reboot of 10, 3 runs: 100 s (100 to 100); 8 to 10 succeeded; 3 runs stopped"
        )

    def test_creates_keep_nothing_online(self):
        """So that figure is absent."""
        assert rehearsal_of(run_of(fewest_online=None)).spread("fewest_online") is None


class TestJSON:
    def test_a_round_trip(self):
        """All that is in it comes back."""
        found = rehearsal_of(run_of(1), run_of(2, timeline=TIMELINE, failures={"TaskFailed": 1}))
        assert Rehearsal.from_json(found.to_json()) == found

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("[]", "is no JSON object"),
            ("{", "is no JSON object"),
            ("{}", "is not in the format"),
            ('{"format": "async_vmapi rehearsal 1"}', "missing"),
        ],
    )
    def test_what_is_no_rehearsal(self, text, why):
        """The error says why."""
        with pytest.raises(InvalidArgument, match=why):
            Rehearsal.from_json(text)

    def test_no_runs(self):
        """There would be no figure to show."""
        text = rehearsal_of(run_of()).to_json()
        content = {**json.loads(text), "runs": []}
        with pytest.raises(InvalidArgument, match="runs is empty"):
            Rehearsal.from_json(json.dumps(content))


class TestPicture:
    def picture(self, *runs, **fields):
        return ET.fromstring(rehearsal_of(*runs, **fields).to_svg())

    def test_it_shows_the_worst_run(self):
        """Its lines, its waves and its seed; texts are escaped."""
        shown = self.picture(run_of(7, timeline=TIMELINE, counts={"succeeded": 9, "failed": 1}))
        lines = [
            path.get("class").removeprefix("line ")
            for path in shown.iter(f"{SVG}path")
            if "M60" in path.get("d") and path.get("class", "").startswith("line")
        ]
        assert lines[-3:] == ["online", "in-flight", "failed"]
        texts = [text.text for text in shown.iter(f"{SVG}text")]
        assert "reboot of 10 VMs: the worst of 1 runs, seed 7, 1:40" in texts
        assert "wave 2, a < b" in texts
        assert "wave 1, a < b" in [title.text for title in shown.iter(f"{SVG}title")]

    def test_lines_start_with_the_first_number_and_end_with_the_run(self):
        """At the left all VMs are online, at the right again."""
        shown = self.picture(run_of(timeline=TIMELINE))
        (online,) = [
            p.get("d")
            for p in shown.iter(f"{SVG}path")
            if p.get("class") == "line online" and "V" in p.get("d")
        ]
        assert online.startswith("M60.0 84.0H")
        assert online.endswith("V84.0H940.0")

    @pytest.mark.parametrize("seconds", [0.0, 0.3, 59.0, 3600.0, 10_000_000.0])
    @pytest.mark.parametrize("items", [1, 3, 99_999])
    def test_any_size(self, seconds, items):
        """It has at least two and at most a few numbers at each axis, inside the picture."""
        shown = self.picture(run_of(seconds=seconds, stopped="more than 1% failed"), items=items)
        texts = list(shown.iter(f"{SVG}text"))
        for anchor in ("end", "middle"):
            numbers = [text for text in texts if text.get("text-anchor") == anchor]
            assert 1 <= len(numbers) <= 11
        assert all(0 <= float(text.get("x")) <= 960 for text in texts)

    def test_a_short_wave_has_its_number_alone(self):
        """Or nothing, if that does not fit."""
        waves = (
            WaveSpan(number=1, begins=0, ends=0.1),
            WaveSpan(number=2, begins=0.1, ends=3),
            WaveSpan(number=3, begins=3, ends=100),
        )
        timeline = Timeline(in_flight=(), online=(), failed=(), waves=waves)
        shown = self.picture(run_of(timeline=timeline))
        texts = [text.text for text in shown.iter(f"{SVG}text") if text.get("y") == "78"]
        assert texts == ["2", "wave 3"]

    @given(st.text(), st.text())
    def test_any_texts(self, domain, stopped):
        """Names of groups may have characters that XML has not; they are replaced."""
        wave = WaveSpan(number=1, domain=f"<{domain}", begins=0, ends=100)
        timeline = Timeline(in_flight=(), online=(), failed=(), waves=(wave,))
        shown = self.picture(run_of(timeline=timeline, stopped=f"&{stopped}"))
        readable = "".join(c if c.isprintable() else "\ufffd" for c in f"stopped: &{stopped}")
        assert shown.find(f"{SVG}title").text.endswith(readable)


class TestHazards:
    def test_none(self):
        """Nothing goes wrong, and durations still differ."""
        assert Hazards.none().failing == Hazards.none().lost_responses == 0
        assert Hazards.none().warm_up == Hazards().warm_up

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"failing": 1.5}, "failing=1.5 is not a share from 0 to 1"),
            ({"stalls": -0.1}, "stalls=-0.1 is not"),
            ({"unhealthy": "1%"}, "unhealthy='1%' is not"),
            ({"latency": float("inf")}, "latency=inf is not"),
            ({"warm_up": (30, 5)}, r"warm_up=<tuple> is not a pair"),
            ({"warm_up": 5}, r"warm_up=5 is not a pair"),
            ({"warm_up": (1, 2, 3)}, r"warm_up=<tuple> is not a pair"),
        ],
    )
    def test_what_is_invalid(self, fields, why):
        """The error names the argument, the value and what is allowed."""
        with pytest.raises(InvalidArgument, match=why):
            Hazards(**fields)
