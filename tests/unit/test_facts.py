"""Facts about a provider: the file, the margin, and the default ones."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi import InvalidArgument
from async_vmapi.emulator import Emulator, Settings
from async_vmapi.facts import SPECS, Fact, Facts
from async_vmapi.facts.assumptions import DEFAULT, assumptions_of

SECONDS = st.floats(0, 1e6)
WORD = st.text(min_size=1, max_size=20)
VALUES = {
    "seconds": SECONDS,
    "span": st.tuples(SECONDS, SECONDS).map(lambda pair: tuple(sorted(pair))),
    "offset": st.floats(-1e6, 1e6),
    "stages": st.lists(
        st.tuples(WORD, SECONDS, SECONDS).map(lambda s: (s[0], *sorted(s[1:]))), max_size=3
    ).map(tuple),
    "count": st.integers(1, 1000),
    "flag": st.booleans(),
    "words": st.lists(WORD, max_size=5).map(tuple),
}


@st.composite
def some_facts(draw):
    """Any facts that a file can have."""
    names = draw(st.sets(st.sampled_from(sorted(SPECS))))
    found = {}
    for name in names:
        spec = SPECS[name]
        values = st.sampled_from(spec.allowed) if spec.allowed else VALUES[spec.kind]
        when = draw(st.none() | st.dates().map(str))
        source = draw(st.sampled_from(["measured", "assumed", "WIRE §4"]))
        found[name] = Fact(draw(values), source, draw(st.integers(0, 100)), when)
    return Facts(found)


def measured(**values):
    """Facts that were measured ten times."""
    return Facts({name.replace("__", "."): Fact(v, "measured", 10) for name, v in values.items()})


class TestFile:
    @given(some_facts())
    def test_facts_survive_their_file(self, facts):
        """What is written reads back as the same."""
        assert dict(Facts.from_toml(facts.to_toml())) == dict(facts)

    def test_the_default_ones_have_a_source(self):
        """A section of docs/wire.md, or that it is assumed."""
        assert {fact.source for fact in Facts.default().values()} == {
            "WIRE §2",
            "WIRE §4",
            "assumed",
        }
        assert not any(fact.is_measured for fact in Facts.default().values())

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "has format None"),
            ('format = "async_vmapi facts 2"', "has format 'async_vmapi facts 2'"),
            ("format =", "is not TOML"),
            ("[reads]\nmax_stalenes = { value = 1 }", "did you mean 'reads.max_staleness'"),
            ("[reads]\nmax_staleness = 3", "has reads.max_staleness wrong: Expected `object`"),
            ("[reads]\nmax_staleness = { value = -1 }", "not a number of seconds, 0 or more"),
            ("[reads]\nmax_staleness = { value = 1, sen = 1 }", "unknown field `sen`"),
            ("[reads]\nmax_staleness = { value = 1, seen = -1 }", "`int` >= 0"),
            ("[reads]\nmax_staleness = { value = 1, when = 1 }", "Expected `date | null`"),
            ('[reads]\nget_shape = { value = "tuple" }', "is not one of list, object"),
            ("[reads]\nappears = { value = [3, 1] }", "is not a pair of seconds"),
            ("[reads]\nappears = { value = [3] }", "is not a pair of seconds"),
            ("[states]\nknown = { value = [1] }", "is not a list of words"),
            ('[states]\ncreate = { value = [["online", 2, 1]] }', "is not a list of states with"),
            ('[clock]\noffset = { value = "1" }', "is not a number of seconds"),
            ("[states]\nknown = { value = 1 }", "is not a list of words"),
            ("[states]\nunknown_polls = { value = true }", "is not an integer of at least 1"),
            ("[reboot]\nshows = { value = 1 }", "is not true or false"),
            ("x = 1", "outside of a section"),
            (f"[absence]\npolls = {{ value = {'9' * 5000} }}", "is not TOML: Exceeds the limit"),
            (f"[absence]\npolls = {{ value = 0x{'f' * 5000} }}", "a number of thousands of digits"),
            (f"[absence]\npolls = {{ value = 1, seen = 0x{'f' * 5000} }}", "Expected `int` <= "),
            (f"[absence]\npolls = {{ value = {'[' * 5000} }}", "is not TOML: maximum recursion"),
            (f'[absence]\npolls = {{ value = "{"x" * 5000}" }}', "xxx..., which is not an integer"),
        ],
    )
    def test_what_is_wrong_is_named(self, text, problem):
        """With the place, and what is allowed."""
        head = "" if "format" in text or not text else 'format = "async_vmapi facts 1"\n'
        with pytest.raises(InvalidArgument) as caught:
            Facts.from_toml(head + text, name="cloud.toml")
        assert "facts: cloud.toml" in str(caught.value)
        assert problem in str(caught.value)

    def test_a_date_of_toml_is_one(self):
        text = (
            'format = "async_vmapi facts 1"\n[reads]\n'
            'go_back = { value = true, source = "measured", seen = 1, when = 2026-11-30 }'
        )
        assert Facts.from_toml(text)["reads.go_back"].when == "2026-11-30"

    def test_files_that_cannot_be_read(self, tmp_path):
        binary = tmp_path / "cloud.toml"
        binary.write_bytes(b"\xff")
        wrong = [(tmp_path / "no", "No such file"), (binary, "not UTF-8"), ("a\0b", "null byte")]
        for path, why in wrong:
            with pytest.raises(InvalidArgument, match=why):
                Facts.of(path)
        with pytest.raises(InvalidArgument, match="the path of a file"):
            Facts.of(7)

    def test_two_files_are_compared(self):
        one = measured(reads__max_staleness=3.0, reboot__shows=True)
        two = measured(reads__max_staleness=4.0, reboot__shows=True, resize__restarts=False)
        assert set(one.diff(two)) == {"reads.max_staleness", "resize.restarts"}
        assert not one.diff(one)
        assert repr(one) == "<Facts of facts: 2, 2 measured>"


class TestAssumptions:
    def test_the_default_ones(self):
        """The numbers that docs/completion.md derives its rules from."""
        assert attrs.asdict(DEFAULT) == {
            "max_staleness": 10.0,
            "appears_within": 60.0,
            "known_states": {
                *("installing", "online", "offline", "deleting", "error", "failed", "failure")
            },
            "failure_states": {"error", "failed", "failure"},
            "failure_hold": 5.0,
            "unknown_polls": 3,
            "absences": 8,
            "absences_of_delete": 5,
            "reboot_grace": 60.0,
            "resize_restart": 60.0,
            "resize_change": 120.0,
            "resize_back": 60.0,
            "durations": {},
        }

    @given(some_facts())
    def test_a_measured_time_is_never_undercut(self, facts):
        """And what was assumed is taken as it is."""
        assumed = assumptions_of(facts)
        for name, value in (
            ("reads.max_staleness", assumed.max_staleness),
            ("resize.restart", assumed.resize_restart),
            ("resize.change", assumed.resize_change),
            ("resize.back", assumed.resize_back),
            ("reboot.grace", assumed.reboot_grace),
            ("states.failure_hold", assumed.failure_hold),
            ("reads.appears_within", assumed.appears_within),
        ):
            if name in facts:
                assert value >= facts[name].value
                assert facts[name].is_measured or value == facts[name].value
        for name in ("reads.appears", "reads.appears_in_list"):
            if name in facts and "reads.appears_within" not in facts:
                assert assumed.appears_within > facts[name].value[1]
        assert assumed.known_states >= {"installing", "online", "offline", "deleting"}

    def test_the_margin(self):
        """Twice what was measured, and a little more for ages of reads and new VMs."""
        assumed = assumptions_of(measured(reads__max_staleness=2.0, reads__appears=(0.0, 7.0)))
        assert assumed.max_staleness == 5.0
        assert assumed.appears_within == 24.0
        slow = measured(reads__appears=(0.0, 7.0), reads__appears_in_list=(1.0, 9.0))
        assert assumptions_of(slow).appears_within == 28.0

    def test_durations_count_once_seen_often_enough(self):
        few = Facts({"durations.create": Fact((20.0, 30.0), "measured", 4)})
        often = Facts({"durations.create": Fact((20.0, 30.0), "measured", 5)})
        assert assumptions_of(few).durations == {}
        assert assumptions_of(often).durations == {"create": (5, 20.0, 30.0)}


class TestSettings:
    def test_an_emulator_behaves_as_measured(self, tmp_path):
        facts = measured(
            reads__max_staleness=3.0,
            reads__appears=(1.0, 2.0),
            reads__address=(4.0, 5.0),
            reads__get_shape="object",
            reads__not_found="bare",
            names__change="lower",
            reboot__shows=False,
            resize__restarts=False,
            resize__shows_early=True,
            durations__create=(20.0, 45.0),
            durations__power_on=(1.0, 2.0),
        )
        path = tmp_path / "cloud.toml"
        path.write_text(facts.to_toml(), "utf-8")
        settings = Settings.from_facts(path, power_on=9)
        assert settings == Settings(
            staleness=(0, 3),
            not_found=(1, 2),
            address=(4, 5),
            get_shape="object",
            not_found_form="bare",
            names="lower",
            reboot_visible=False,
            restart_after_resize=False,
            early_size=(0, 5),
            create=(20, 45),
            power_on=9,
        )
        assert Emulator(facts=path).api.cloud.settings_for("x") == Settings.from_facts(path)
        with pytest.raises(ValueError, match="facts or settings"):
            Emulator(facts=path, settings=settings)

    def test_names_are_cut_as_measured(self):
        """Whatever else is known of them."""
        facts = measured(names__change="verbatim", names__cut_at=64)
        assert Settings.from_facts(facts).names == 64

    def test_no_facts_change_nothing(self):
        assert Settings.from_facts(Facts({})) == Settings()
