"""The rules that decide when an operation is done."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.completion import (
    LIST_LAG,
    RULES,
    STALE,
    Completion,
    Done,
    Evidence,
    Failed,
    Observation,
    Pending,
    Source,
    Target,
)

GET, LIST = Source.GET, Source.LIST
TARGETS = {
    "create": Target("create"),
    "resize": Target("resize", cores=4, ram=4096, wait_for=1),
    "shutdown": Target("shutdown", wait_for=4),
    "reboot": Target("reboot"),
    "reset": Target("reset"),
    "delete": Target("delete"),
    "power_on": Target("power_on"),
    "power_off": Target("power_off"),
}


def judge(operation, *looks, seen=False):
    """Return the verdict after looks given as (at, source, state) or with cores and ram."""
    completion = Completion(TARGETS[operation], seen=seen)
    verdict = Pending()
    for at, source, state, *size in looks:
        cores, ram = size or (1, 1024)
        verdict = completion.observe(Observation(at, source, state, cores, ram))
        if not isinstance(verdict, Pending):
            break
    return verdict


def done(operation, *looks, **kwargs):
    verdict = judge(operation, *looks, **kwargs)
    assert isinstance(verdict, Done), verdict
    return verdict.evidence


def is_pending(operation, *looks, **kwargs):
    return isinstance(judge(operation, *looks, **kwargs), Pending)


class TestCreate:
    @pytest.mark.parametrize("source", [GET, LIST])
    def test_online_is_the_end_and_was_observed(self, source):
        """A new machine has no older `online`, so the first sight of it is proof."""
        assert done("create", (1, source, "online")) is Evidence.OBSERVED

    def test_not_found_at_first_is_not_yet(self):
        """WIRE §5.3: a machine that was never seen is not gone."""
        assert is_pending("create", *((t, GET, None) for t in range(1, 500)))

    def test_not_found_after_it_was_seen_is_gone(self):
        """WIRE §5.3: not found at any later time is gone, once several looks agree."""
        verdict = judge("create", (1, GET, "installing"), *((t, GET, None) for t in range(2, 7)))
        assert isinstance(verdict, Failed)
        assert verdict.gone

    def test_a_list_older_than_the_machine_is_no_hint_that_it_is_gone(self):
        """A list that never showed the machine asks for no GET when it still does not."""
        assert judge("create", (1, GET, "installing"), (2, LIST, None)) == Pending()

    @pytest.mark.parametrize("state", ["offline", "installing", "migrating", "ONLINE", ""])
    def test_other_words_are_watched_on(self, state):
        """Unknown states are kept and polled on."""
        assert is_pending("create", *((t, GET, state) for t in range(1, 100)))

    def test_a_machine_seen_before_a_token_was_made_can_vanish(self):
        """A task taken up from a token knows that the machine existed."""
        verdict = judge("create", *((t, GET, None) for t in range(1, 6)), seen=True)
        assert isinstance(verdict, Failed)


class TestArriving:
    @pytest.mark.parametrize(
        ("operation", "before", "end"),
        [
            ("shutdown", "online", "offline"),
            ("power_off", "online", "offline"),
            ("power_on", "offline", "online"),
        ],
    )
    class TestEach:
        def test_a_transition_seen_by_gets_is_observed(self, operation, before, end):
            """Both sides seen by GET after the write prove the transition."""
            assert done(operation, (1, GET, before), (2, GET, end)) is Evidence.OBSERVED

        def test_the_old_value_in_the_stale_window_is_no_end(self, operation, before, end):
            """An end state read just after the write may be an old value: look again later."""
            assert judge(operation, (1, GET, end)) == Pending(
                confirm=True, look_at=STALE, list_at=STALE + LIST_LAG
            )
            assert is_pending(operation, (1, GET, end), (5, GET, end))
            assert is_pending(operation, (1, GET, end), (5, GET, before))

        def test_an_end_that_holds_is_inferred(self, operation, before, end):
            """Where the transition was missed, the end counts once nothing can be stale."""
            assert done(operation, (1, GET, end), (STALE, GET, end)) is Evidence.INFERRED

        def test_a_late_transition_seen_by_lists_is_observed(self, operation, before, end):
            """A list that cannot be older than the write shows both sides."""
            looks = (LIST_LAG, LIST, before), (LIST_LAG + 1, LIST, end)
            assert done(operation, *looks) is Evidence.OBSERVED

        def test_an_early_transition_in_lists_wants_a_get(self, operation, before, end):
            """What a list shows soon after the write may be from before it."""
            looks = (1, LIST, before), (LIST_LAG - 1, LIST, end)
            assert judge(operation, *looks) == Pending(confirm=True, list_at=2 * LIST_LAG - 1)
            assert done(operation, *looks, (LIST_LAG - 0.5, GET, end)) is Evidence.INFERRED
            assert is_pending(operation, *looks, (LIST_LAG - 0.5, GET, before))

        def test_an_unknown_word_for_one_look_is_no_other_side(self, operation, before, end):
            """Only a state that is known, or seen several times in a row, can be left."""
            looks = (1, GET, end), (3, GET, "odd"), (4, GET, end)
            assert is_pending(operation, *looks)
            assert done(operation, *looks, (STALE, GET, end)) is Evidence.INFERRED
            lasting = [(t, GET, "odd") for t in (1, 2, 3)]
            assert done(operation, *lasting, (4, GET, end)) is Evidence.OBSERVED

        def test_sources_are_judged_apart(self, operation, before, end):
            """A list that shows the end after a GET showed the other side proves nothing."""
            looks = (1, GET, before), (2, LIST, end)
            assert judge(operation, *looks) == Pending(confirm=True, list_at=2 + LIST_LAG)

        def test_where_no_get_comes_a_list_decides_so_much_later(self, operation, before, end):
            """A list shows no less than a GET that was asked by the list's lag before it."""
            looks = (1, LIST, before), (3, LIST, end)
            assert is_pending(operation, *looks, (2.9 + LIST_LAG, LIST, end))
            assert done(operation, *looks, (3 + LIST_LAG, LIST, end)) is Evidence.INFERRED

        def test_what_may_be_stale_is_so_in_a_list_for_longer(self, operation, before, end):
            """A list may show what a GET would have shown in the stale window."""
            assert is_pending(operation, (3, LIST, end), (STALE + LIST_LAG - 0.1, LIST, end))
            looks = (3, LIST, end), (STALE + LIST_LAG, LIST, end)
            assert done(operation, *looks) is Evidence.INFERRED

        @pytest.mark.parametrize("source", [GET, LIST])
        def test_the_other_side_takes_the_end_back(self, operation, before, end, source):
            """An end that a later look denies must hold anew."""
            looks = (2, LIST, "odd"), (3, LIST, end), (8, source, before), (9, LIST, end)
            assert is_pending(operation, *looks, (8.9 + LIST_LAG, LIST, end))
            assert done(operation, *looks, (9 + LIST_LAG, LIST, end)) is Evidence.INFERRED


class TestCycle:
    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    class TestEach:
        @pytest.mark.parametrize("away", ["offline", "rebooting"])
        def test_leaving_online_and_coming_back_is_observed(self, operation, away):
            """The whole cycle seen by one source is proof."""
            looks = (1, GET, "online"), *((t, GET, away) for t in (5, 6, 7)), (9, GET, "online")
            assert done(operation, *looks) is Evidence.OBSERVED

        def test_an_unknown_word_for_a_look_is_no_leaving(self, operation):
            """A word that nobody knows may be a slip of the server's."""
            looks = (1, GET, "online"), (5, GET, "odd"), (9, GET, "online"), (30, GET, "online")
            assert is_pending(operation, *looks)
            assert done(operation, *looks, (60, GET, "online")) is Evidence.ASSUMED

        def test_never_leaving_online_is_assumed_after_its_time(self, operation):
            """Where nothing showed, the task says so and claims no more."""
            settle = RULES[operation].settle
            looks = [(t, GET, "online") for t in range(1, int(settle))]
            assert is_pending(operation, *looks)
            assert done(operation, *looks, (settle, GET, "online")) is Evidence.ASSUMED

        def test_one_list_alone_assumes_nothing(self, operation):
            """A list may show the machine online while it is away."""
            first = (1000, LIST, "online")
            assert judge(operation, first) == Pending(confirm=True, list_at=1000 + LIST_LAG)
            assert done(operation, first, (1000 + LIST_LAG, LIST, "online")) is Evidence.ASSUMED

        def test_a_return_that_only_lists_show_must_last(self, operation):
            """Where no GET comes to confirm it, a list decides by as much later as it may lag."""
            looks = (1, GET, "offline"), (12, LIST, "online")
            assert is_pending(operation, *looks, (11.9 + LIST_LAG, LIST, "online"))
            back = (12 + LIST_LAG, LIST, "online")
            assert done(operation, *looks, back) is Evidence.INFERRED
            assert is_pending(operation, *looks, (15, GET, "offline"), (16, LIST, "online"), back)

        def test_being_away_is_no_end(self, operation):
            """A machine that stays away is waited for."""
            looks = (1, GET, "online"), *((t, GET, "offline") for t in range(2, 900))
            assert is_pending(operation, *looks)

        def test_coming_back_without_having_been_seen_to_leave_is_inferred(self, operation):
            """If the first look found it away already, its return is no whole cycle."""
            looks = (1, GET, "offline"), (3, GET, "online")
            assert is_pending(operation, *looks)
            assert done(operation, *looks, (STALE, GET, "online")) is Evidence.INFERRED


OLD, NEW = (1, 1024), (4, 4096)


class TestResize:
    def test_the_way_of_a_running_machine(self):
        """Online, down, and online again with the new size, is observed at once."""
        looks = (1, GET, "online", *OLD), (9, GET, "offline", *OLD), (20, GET, "offline", *NEW)
        assert is_pending("resize", *looks)
        assert done("resize", *looks, (25, GET, "online", *NEW)) is Evidence.OBSERVED

    def test_offline_may_be_a_passing_place(self):
        """A machine that was online must stay offline for a while to count as left so."""
        looks = (1, GET, "online", *OLD), (20, GET, "offline", *NEW)
        assert is_pending("resize", *looks, (79, GET, "offline", *NEW))
        assert done("resize", *looks, (80, GET, "offline", *NEW)) is Evidence.OBSERVED

    def test_a_new_size_without_having_been_down_must_last(self):
        """The new size may show before the machine goes down."""
        looks = (1, GET, "online", *OLD), (2, GET, "online", *NEW)
        assert is_pending("resize", *looks, (10, GET, "online", *NEW))
        assert done("resize", *looks, (22, GET, "online", *NEW)) is Evidence.OBSERVED

    def test_a_resize_to_the_size_it_has_waits_as_long_as_one_may_take(self):
        """Without a change to see, only the time tells: wait_for and a minute."""
        looks = [(t, GET, "online", *NEW) for t in range(1, 120)]
        assert is_pending("resize", *looks)
        assert done("resize", *looks, (120, GET, "online", *NEW)) is Evidence.INFERRED

    def test_half_of_the_new_size_is_not_the_end(self):
        """Both cores and ram must be as wanted."""
        assert is_pending("resize", (1, GET, "online", *OLD), (500, GET, "online", 4, 1024))

    def test_a_passing_state_starts_the_hold_anew(self):
        """An unknown state with the new size is on the way, not the end."""
        looks = (1, GET, "online", *OLD), (20, GET, "offline", *NEW), (50, GET, "moving", *NEW)
        assert is_pending("resize", *looks, (90, GET, "offline", *NEW))

    def test_where_no_get_comes_the_new_size_must_hold_in_lists_for_longer(self):
        """A list decides as much later than a GET as it may lag behind one."""
        looks = (1, LIST, "online", *OLD), (2, LIST, "online", *NEW)
        assert is_pending("resize", *looks, (31.9, LIST, "online", *NEW))
        assert done("resize", *looks, (32, LIST, "online", *NEW)) is Evidence.INFERRED


class TestDelete:
    def test_gone_from_a_list_is_a_hint_until_a_get_agrees(self):
        """Absence in a list asks for one GET."""
        looks = (1, LIST, "deleting"), (5, LIST, None)
        assert judge("delete", *looks) == Pending(confirm=True)
        assert done("delete", *looks, (5.1, GET, None)) is Evidence.OBSERVED

    def test_one_not_found_is_not_believed(self):
        """A single wrong "not found" for a machine that exists is no end."""
        assert is_pending("delete", (1, GET, "deleting"), (2, GET, None))
        assert is_pending("delete", (1, GET, None), (2, GET, "deleting"), (3, GET, None))

    def test_four_not_founds_in_a_row_are(self):
        """Where no list is asked, GETs must agree among themselves."""
        looks = [(t, GET, None) for t in (2, 3, 4, 5)]
        assert is_pending("delete", (1, GET, "deleting"), *looks[:3])
        assert done("delete", (1, GET, "deleting"), *looks) is Evidence.OBSERVED
        assert done("delete", *looks) is Evidence.INFERRED

    @pytest.mark.parametrize("state", ["online", "offline", "deleting", "error", "odd"])
    def test_no_state_is_an_end(self, state):
        """Only absence ends a deletion."""
        assert is_pending("delete", *((t, GET, state) for t in range(1, 900)))


class TestFailing:
    WATCHED = sorted(set(TARGETS) - {"delete"})

    @pytest.mark.parametrize("operation", WATCHED)
    @pytest.mark.parametrize("state", ["error", "failed", "deleting"])
    def test_a_failing_state_that_lasts_is_believed(self, operation, state):
        """A failing state must be seen by GETs for a while, and later than anything stale."""
        looks = [(t, GET, state) for t in range(1, int(STALE))]
        assert is_pending(operation, *looks)
        verdict = judge(operation, *looks, (STALE, GET, state))
        assert isinstance(verdict, Failed)
        assert state in verdict.reason
        assert not verdict.gone

    @pytest.mark.parametrize("operation", WATCHED)
    def test_a_failing_state_that_passes_is_not(self, operation):
        """One odd word between others ends nothing."""
        assert is_pending(operation, (19, GET, "error"), (20, GET, "odd"), (30, GET, "error"))

    @pytest.mark.parametrize("operation", WATCHED)
    def test_a_list_alone_fails_nothing(self, operation):
        """A failing state in a list asks for a GET."""
        assert judge(operation, (50, LIST, "error"), (80, LIST, "error")) == Pending(confirm=True)

    @pytest.mark.parametrize("operation", sorted(set(TARGETS) - {"create", "delete"}))
    def test_a_machine_that_is_not_there_after_the_write_is_gone(self, operation):
        """The API accepted the request, so the machine was there."""
        looks = [(t, GET, None) for t in range(1, 6)]
        assert is_pending(operation, *looks[:4])
        verdict = judge(operation, *looks)
        assert isinstance(verdict, Failed)
        assert verdict.gone


class TestTimeouts:
    def test_the_default_covers_what_the_guest_is_given(self):
        """A shutdown that waits ten minutes for the guest is waited for longer than that."""
        assert Target("shutdown", wait_for=10).timeout > 10 * 60
        assert Target("shutdown", wait_for=10).timeout > Target("shutdown", wait_for=4).timeout


STATES = ["online", "offline", "installing", "deleting", "error", "migrating", None]
histories = st.lists(
    st.tuples(
        st.floats(0.1, 30.0),
        st.sampled_from([GET, LIST]),
        st.sampled_from(STATES),
        st.sampled_from([OLD, NEW]),
    ),
    max_size=25,
)


class TestAnyHistory:
    @given(st.sampled_from(sorted(TARGETS)), histories)
    def test_an_end_is_only_claimed_on_what_was_just_seen(self, operation, history):
        """Whatever was seen, done means that the last look showed the end, and agrees with it."""
        completion = Completion(TARGETS[operation])
        rule = RULES[operation]
        at, seen_states, looks = 0.0, [], []
        for step, source, state, size in history:
            at += step
            verdict = completion.observe(Observation(at, source, state, *size))
            seen_states.append((source, state, size))
            looks.append((at, state))
            if isinstance(verdict, Pending):
                continue
            if isinstance(verdict, Failed):
                assert state is None if verdict.gone else state in rule.failing
                assert source is GET or any(s is GET and x is None for s, x, _ in seen_states)
                break
            if operation == "delete":
                assert state is None
                assert any(s is GET and x is None for s, x, _ in seen_states)
            else:
                assert state in rule.expected
            if operation == "resize":
                assert size == NEW
            if verdict.evidence is Evidence.OBSERVED and operation not in {"create", "delete"}:
                same = [(x, z) for s, x, z in seen_states[:-1] if s is source]
                assert any(x not in rule.expected or z != NEW for x, z in same)
            if verdict.evidence is not Evidence.OBSERVED and state is not None and source is LIST:
                # It was shown for so long that a GET at its beginning would have been enough.
                lasting = itertools.takewhile(
                    lambda look: look[1] in rule.expected | {None}, reversed(looks)
                )
                assert at - [when for when, _ in lasting][-1] >= LIST_LAG
            break
