"""The plan of a bulk call."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi import BulkPlan, InvalidArgument, Ready
from async_vmapi.bulk.plan import count_of, wave_sizes


class TestBulkPlan:
    @pytest.mark.parametrize(
        ("fields", "argument"),
        [
            ({"limit": 0}, "limit"),
            ({"limit": "5"}, "limit"),
            ({"limit": True}, "limit"),
            ({"max_failures": -1}, "max_failures"),
            ({"max_failures": "101%"}, "max_failures"),
            ({"max_failures": "5"}, "max_failures"),
            ({"max_failures": "-1%"}, "max_failures"),
            ({"max_failures": 0.5}, "max_failures"),
            ({"min_online": "x%"}, "min_online"),
            ({"waves": []}, "waves"),
            ({"waves": "10%"}, "waves"),
            ({"waves": 5}, "waves"),
            ({"waves": [1, 0]}, "waves[1]"),
            ({"waves": ["0%"]}, "waves[0]"),
            ({"dry_run": 1}, "dry_run"),
            ({"check": "ssh"}, "check"),
            ({"check": lambda vm: True}, "check"),
            ({"check_timeout": 0}, "check_timeout"),
            ({"check_timeout": math.inf}, "check_timeout"),
            ({"soak": -1}, "soak"),
            ({"soak": math.inf}, "soak"),
            ({"soak": "60"}, "soak"),
            ({"promote": "no", "waves": [1]}, "promote"),
            ({"spread_by": "host"}, "spread_by"),
            ({"on_failure": "go"}, "on_failure"),
            ({"on_event": 1}, "on_event"),
        ],
    )
    def test_wrong_fields_are_refused(self, fields, argument):
        """The error names the field and what is allowed."""
        with pytest.raises(InvalidArgument) as info:
            BulkPlan(**fields)
        assert info.value.argument == argument
        assert str(info.value).startswith(argument)
        assert "like" in str(info.value) or "is not" in str(info.value)

    def test_valid_fields(self):
        """Numbers and percentages, and any sequence of them."""
        plan = BulkPlan(max_failures="0.5%", waves=[1, "10%", "100%"], min_online=0)
        assert plan.waves == (1, "10%", "100%")

    @pytest.mark.parametrize("promote", ["manual", "each"])
    def test_one_wave_is_not_promoted(self, promote):
        """A call without waves would never wait."""
        with pytest.raises(InvalidArgument, match="promote needs waves") as info:
            BulkPlan(promote=promote)
        assert info.value.argument == "promote"
        assert BulkPlan(promote=promote, waves=[1]).promote == promote
        assert BulkPlan(promote=promote, spread_by="zone").promote == promote

    def test_a_check_is_a_readiness_or_a_function(self):
        """Either is a `Ready` in the plan."""

        async def is_up(vm):
            return True

        assert BulkPlan(check=Ready.ssh()).check == Ready.ssh()
        assert str(BulkPlan(check=is_up).check).startswith("check:")

    def test_a_check_is_stored_as_its_text(self):
        """A function cannot be."""

        async def is_up(vm):
            return True

        plan = BulkPlan(check=Ready.ssh() & Ready.http("/health"))
        assert plan.to_dict()["check"] == "address,ssh:22,http:80/health"
        assert BulkPlan.from_dict(plan.to_dict()) == plan
        with pytest.raises(InvalidArgument, match="check holds a function") as info:
            BulkPlan(check=is_up).to_dict()
        assert info.value.argument == "check"
        with pytest.raises(InvalidArgument):
            BulkPlan.from_dict({"limit": 1, "check": "ping"})


class TestShares:
    @pytest.mark.parametrize(
        ("share", "total", "down", "up"),
        [
            (7, 3, 7, 7),
            ("5%", 100, 5, 5),
            ("5%", 99, 4, 5),
            ("0%", 100, 0, 0),
            ("100%", 7, 7, 7),
            ("0.1%", 3000, 3, 3),
            ("0.7%", 1000, 7, 7),
            ("33.333333%", 3, 0, 1),
        ],
    )
    def test_counts_of_percentages_are_exact(self, share, total, down, up):
        """Not in binary fractions."""
        assert count_of(share, total) == down
        assert count_of(share, total, up=True) == up

    @given(st.integers(0, 100), st.integers(0, 100_000))
    def test_rounding(self, percent, total):
        """Rounded down and up, a percentage is close to the true value."""
        exact = percent * total / 100
        assert count_of(f"{percent}%", total) == math.floor(exact + 1e-9)
        assert count_of(f"{percent}%", total, up=True) == math.ceil(exact - 1e-9)

    @pytest.mark.parametrize(
        ("waves", "total", "sizes"),
        [
            ((), 10, [math.inf] * 3),
            ((1,), 10, [1, 1, 1]),
            ((1, "10%", "100%"), 50, [1, 5, 50]),
            (("1%",), 5, [1, 1, 1]),
            ((2, 3), None, [2, 3, 3]),
        ],
    )
    def test_the_last_wave_size_is_repeated(self, waves, total, sizes):
        """Until all items are in a wave."""
        assert list(itertools.islice(wave_sizes(waves, total), 3)) == sizes
