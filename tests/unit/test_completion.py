"""The rules that decide when an operation is complete, one by one.

That none is wrong, and none waits for too long, is tests/simulation/test_exhaustion.py's.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.tasks.completion import Completion, Done, Evidence, Failed, Observation, Pending
from async_vmapi.tasks.rules import RULES, Target

D = 10.0
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
OLD, NEW = (1, 1024), (4, 4096)


def judge(operation, *polls, visible_at=0.0, quiet=True, max_staleness=D):
    """Return the verdict after polls given as (asked, state) or with cores and ram."""
    if operation == "create" and visible_at == 0.0:
        visible_at = None
    completion = Completion(TARGETS[operation], max_staleness, visible_at=visible_at, quiet=quiet)
    verdict = Pending()
    for asked, state, *size in polls:
        verdict = completion.observe(Observation(asked, asked, state, *(size or OLD)))
        if not isinstance(verdict, Pending):
            break
    return verdict


def done(operation, *polls, **known):
    verdict = judge(operation, *polls, **known)
    assert isinstance(verdict, Done), verdict
    return verdict.evidence


def is_pending(operation, *polls, **known):
    return isinstance(judge(operation, *polls, **known), Pending)


class TestCreate:
    def test_online_completes_and_was_observed(self):
        """A new VM has no older `online`, so the first one is proof, however early."""
        assert done("create", (0.1, "online")) is Evidence.OBSERVED

    def test_not_found_at_first_is_pending(self):
        """WIRE §5.3: a VM that was never seen is not gone."""
        assert is_pending("create", *((t, None) for t in range(1, 500)))

    @pytest.mark.parametrize("state", ["installing", "offline", "warming-up", ""])
    def test_other_states_are_pending(self, state):
        """Known and unknown ones."""
        assert is_pending("create", *((t, state) for t in range(1, 500)))

    def test_a_vm_that_vanishes_is_gone(self):
        """Once the VM was seen, absence that cannot be older fails the task, if it lasts."""
        polls = (1, "installing"), *((t, None) for t in range(2, 18))
        assert is_pending("create", *polls)
        verdict = judge("create", *polls, (18, None))
        assert verdict == Failed("the VM is gone", gone=True)


@pytest.mark.parametrize(
    ("operation", "before", "end"),
    [
        ("shutdown", "online", "offline"),
        ("power_off", "online", "offline"),
        ("power_on", "offline", "online"),
    ],
)
class TestOneWay:
    def test_the_target_state_within_max_staleness_may_be_old(self, operation, before, end):
        """It counts from then on, and no earlier poll is needed."""
        assert judge(operation, (1, end)) == Pending(recheck_at=D, too_early=True)
        assert done(operation, (1, end), (D, end)) is Evidence.INFERRED

    def test_both_sides_in_order_are_observed(self, operation, before, end):
        """A target state read max_staleness after the response with the other side is later."""
        assert done(operation, (1, before), (1 + D, end)) is Evidence.OBSERVED
        assert done(operation, (1.1, before), (1 + D, end)) is Evidence.INFERRED

    def test_early_reads_prove_nothing_after_this_clients_own_change(self, operation, before, end):
        """They may show what the previous operation left."""
        polls = (1, before), (1 + D, end)
        assert done(operation, *polls, quiet=False) is Evidence.INFERRED
        assert judge(operation, (1, before), quiet=False) == Pending(recheck_at=D)
        later = (D, before), (2 * D, end)
        assert done(operation, *later, quiet=False) is Evidence.OBSERVED

    def test_with_max_staleness_0_every_read_counts(self, operation, before, end):
        """The provider reads its own writes."""
        assert done(operation, (0, end), max_staleness=0) is Evidence.INFERRED
        assert done(operation, (0, before), (0.1, end), max_staleness=0) is Evidence.OBSERVED

    def test_an_unknown_state_is_the_other_side_if_it_lasts(self, operation, before, end):
        """A single one may be an error of the server's."""
        assert done(operation, (1, "odd"), (1 + D, end)) is Evidence.INFERRED
        lasting = [(t, "odd") for t in (1, 2, 3)]
        assert done(operation, *lasting, (3 + D, end)) is Evidence.OBSERVED

    def test_a_slow_response_counts_from_its_arrival(self, operation, before, end):
        """It may show the moment at which it was sent."""
        completion = Completion(TARGETS[operation], D, visible_at=0.0, quiet=True)
        completion.observe(Observation(1, 5, before))
        verdict = completion.observe(Observation(5 + D, 5 + D, end))
        assert verdict == Done(Evidence.OBSERVED)
        completion = Completion(TARGETS[operation], D, visible_at=0.0, quiet=True)
        completion.observe(Observation(1, 5, before))
        assert completion.observe(Observation(14.9, 15, end)) == Done(Evidence.INFERRED)


@pytest.mark.parametrize("operation", ["reboot", "reset"])
class TestCycle:
    @pytest.mark.parametrize("away", ["offline", "rebooting"])
    def test_leaving_online_and_coming_back_is_observed(self, operation, away):
        """Online, surely away after it and after the request, and online after that."""
        polls = (1, "online"), *((t, away) for t in (9, 10, 11)), (11 + D, "online")
        assert done(operation, *polls) is Evidence.OBSERVED

    def test_a_return_may_be_older_than_being_away(self, operation):
        """The first that cannot be is enough: later reads of being away may be old themselves."""
        polls = (1, "online"), (12, "offline"), (13, "online")
        assert judge(operation, *polls) == Pending(recheck_at=12 + D, too_early=True)
        assert is_pending(operation, *polls, (21.9, "online"))
        assert done(operation, *polls, (21, "offline"), (22, "online")) is Evidence.OBSERVED

    def test_being_away_early_is_inferred_where_nothing_else_explains_it(self, operation):
        """Another client may have started the VM just before; this one had not."""
        polls = (1, "online"), (5, "offline"), (8, "online")
        assert is_pending(operation, *polls, (14.9, "online"))
        assert done(operation, *polls, (5 + D, "online")) is Evidence.INFERRED

    def test_being_away_early_means_nothing_after_a_change_by_this_client(self, operation):
        """A reboot right after a power on still reads `offline`."""
        polls = (1, "online"), (5, "offline"), (8, "online"), (59, "online")
        assert is_pending(operation, *polls, quiet=False)
        assert done(operation, *polls, (60, "online"), quiet=False) is Evidence.ASSUMED

    def test_never_leaving_online_is_assumed_after_the_grace_period(self, operation):
        """The evidence says that nothing was seen."""
        grace = RULES[operation].grace
        assert is_pending(operation, *((t, "online") for t in range(1, int(grace))))
        assert done(operation, (grace, "online")) is Evidence.ASSUMED

    def test_an_unknown_state_in_one_poll_is_no_leaving(self, operation):
        """It may be an error of the server's."""
        polls = (1, "online"), (12, "odd"), (30, "online"), (59, "online")
        assert is_pending(operation, *polls)
        assert done(operation, *polls, (60, "online")) is Evidence.ASSUMED

    def test_being_away_is_pending(self, operation):
        """The VM's return is awaited."""
        assert is_pending(operation, (1, "online"), *((t, "offline") for t in range(2, 900)))

    def test_coming_back_without_having_been_online_is_inferred(self, operation):
        """If it was away all along, its return is no whole cycle."""
        polls = (1, "offline"), (D, "offline")
        assert done(operation, *polls, (2 * D, "online")) is Evidence.INFERRED


class TestResize:
    def test_a_running_vm(self):
        """Online, down, and online again with the new size, is observed."""
        polls = (1, "online", *OLD), (11, "offline", *OLD), (20, "offline", *NEW)
        assert is_pending("resize", *polls, (20.9, "online", *NEW))
        assert done("resize", *polls, (11 + D, "online", *NEW)) is Evidence.OBSERVED

    def test_a_new_size_before_the_vm_was_down_is_pending(self):
        """A guest that ignores ACPI goes down when its time is over."""
        polls = (1, "online", *OLD), (3, "online", *NEW)
        end = 60 + 60 + D
        assert judge("resize", *polls, (D, "online", *NEW)) == Pending(recheck_at=end)
        assert done("resize", *polls, (end, "online", *NEW)) is Evidence.OBSERVED
        down = (70, "offline", *NEW)
        assert is_pending("resize", *polls, down, (79, "online", *NEW))
        assert done("resize", *polls, down, (80, "online", *NEW)) is Evidence.OBSERVED

    def test_offline_must_last_as_long_as_a_restart_may_take(self):
        """A minute where the size was seen to change while the VM was down."""
        polls = (1, "online", *OLD), (11, "offline", *OLD), (20, "offline", *NEW)
        assert is_pending("resize", *polls, (80 + D - 0.1, "offline", *NEW))
        assert done("resize", *polls, (80 + D, "offline", *NEW)) is Evidence.OBSERVED

    def test_offline_must_last_longer_where_the_size_shows_nothing(self):
        """A VM that goes down with the new size may have the whole change before it."""
        polls = (1, "online", *OLD), (3, "online", *NEW), (20, "offline", *NEW)
        assert is_pending("resize", *polls, (140 + D - 0.1, "offline", *NEW))
        assert done("resize", *polls, (140 + D, "offline", *NEW)) is Evidence.OBSERVED

    def test_a_resize_to_the_same_size_lasts_as_long_as_one_may_take(self):
        """Without a visible change only the time decides: wait_for, a minute, max_staleness."""
        polls = [(t, "online", *NEW) for t in range(1, 130)]
        assert is_pending("resize", *polls)
        assert done("resize", *polls, (130, "online", *NEW)) is Evidence.INFERRED

    def test_half_of_the_new_size_is_pending(self):
        """Both cores and ram must be as requested."""
        assert is_pending("resize", (1, "online", *OLD), (500, "online", 4, 1024))

    def test_being_down_early_means_nothing_after_a_change_by_this_client(self):
        """A resize right after a power on still reads `offline`."""
        polls = (1, "offline", *OLD), (12, "online", *NEW)
        assert done("resize", *polls) is Evidence.INFERRED
        assert is_pending("resize", *polls, (129, "online", *NEW), quiet=False)

    def test_a_passing_state_restarts_the_hold(self):
        """An unknown state with the new size is pending."""
        polls = (11, "offline", *OLD), (20, "offline", *NEW), (50, "moving", *NEW)
        assert is_pending("resize", *polls, (51, "offline", *NEW), (100, "offline", *NEW))


class TestDelete:
    def test_absence_must_last(self):
        """Five absences in a row, over half of max_staleness: one response decides nothing."""
        polls = (1, "deleting"), *((t, None) for t in (11, 12, 13, 14))
        assert is_pending("delete", *polls)
        assert done("delete", *polls, (16, None)) is Evidence.OBSERVED
        assert is_pending("delete", *polls, (15.9, None))
        assert is_pending("delete", *polls, (14.5, "deleting"), (16, None), (17, None))

    def test_absence_counts_from_max_staleness_after_presence(self):
        """An earlier absence may be from before the VM was visible."""
        early = [(t, None) for t in range(2, 11)]
        polls = (1, "online"), *early
        assert judge("delete", *polls, visible_at=None) == Pending(recheck_at=11, too_early=True)
        later = [(t, None) for t in range(11, 16)]
        assert is_pending("delete", *polls, *later, visible_at=None)
        assert done("delete", *polls, *later, (16, None), visible_at=None) is Evidence.OBSERVED

    def test_a_vm_that_was_visible_before_need_not_be_seen_again(self):
        """Its absence is then inferred."""
        polls = [(t, None) for t in (10, 11, 12, 13, 15)]
        assert done("delete", *polls) is Evidence.INFERRED

    def test_a_vm_that_was_never_visible_may_still_appear(self):
        """For a minute and max_staleness."""
        polls = [(t, None) for t in range(1, 75)]
        assert is_pending("delete", *polls, visible_at=None)
        assert done("delete", *polls, (75, None), visible_at=None) is Evidence.INFERRED
        appeared = [(t, None) for t in range(1, 15)] + [(15, "online")]
        gone = [(t, None) for t in range(25, 30)]
        assert is_pending("delete", *appeared, *gone, visible_at=None)
        assert done("delete", *appeared, *gone, (30, None), visible_at=None) is Evidence.OBSERVED

    @pytest.mark.parametrize("state", ["online", "offline", "deleting", "error", "odd"])
    def test_no_state_completes_a_delete(self, state):
        """Only absence does."""
        assert is_pending("delete", *((t, state) for t in range(1, 900)))


class TestFailures:
    WATCHED = sorted(set(TARGETS) - {"delete"})

    @pytest.mark.parametrize("operation", WATCHED)
    @pytest.mark.parametrize("state", ["error", "failed", "deleting"])
    def test_a_failure_state_that_lasts_fails(self, operation, state):
        """For five seconds: reads that are max_staleness apart and more show two moments."""
        believed = 1 + 5 + D
        polls = [(t, state) for t in range(1, int(believed))]
        assert is_pending(operation, *polls)
        verdict = judge(operation, *polls, (believed, state))
        assert verdict == Failed(f"the VM is {state!r}")

    @pytest.mark.parametrize("operation", WATCHED)
    def test_a_failure_state_that_passes_does_not_fail(self, operation):
        """One odd state between others."""
        assert is_pending(operation, (19, "error"), (30, "odd"), (31, "error"), (45, "error"))

    @pytest.mark.parametrize("operation", sorted(set(TARGETS) - {"create", "delete"}))
    def test_a_vm_missing_after_the_request_is_gone(self, operation):
        """The API accepted the request, so the VM existed."""
        polls = [(t, None) for t in range(10, 18)]
        assert is_pending(operation, *polls[:-1])
        assert judge(operation, *polls) == Failed("the VM is gone", gone=True)
        # One response that shows it restarts the count.
        assert is_pending(operation, *polls[:-1], (16.5, "odd"), polls[-1])


class TestTimeouts:
    def test_the_default_includes_the_guests_time(self):
        """A shutdown that gives the guest ten minutes has a longer timeout."""
        assert Target("shutdown", wait_for=10).timeout > 10 * 60
        assert Target("shutdown", wait_for=10).timeout > Target("shutdown", wait_for=4).timeout


STATES = ["online", "offline", "installing", "deleting", "error", "migrating", None]
histories = st.lists(
    st.tuples(
        st.floats(0.1, 30.0),
        st.sampled_from(STATES),
        st.sampled_from([OLD, NEW]),
    ),
    max_size=25,
)


class TestAnyHistory:
    @given(
        st.sampled_from(sorted(TARGETS)), histories, st.booleans(), st.sampled_from([0.0, 3.0, D])
    )
    def test_completion_needs_a_current_observation(self, operation, history, quiet, old):
        """In any history, done means that the last poll showed the target state."""
        completion = Completion(TARGETS[operation], old, visible_at=0.0, quiet=quiet)
        rule = RULES[operation]
        at, seen = 0.0, []
        for step, state, size in history:
            at += step
            verdict = completion.observe(Observation(at, at, state, *size))
            seen.append((at, state, size))
            if isinstance(verdict, Pending):
                if verdict.recheck_at is None:
                    assert not verdict.too_early
                continue
            if isinstance(verdict, Failed):
                assert state is None if verdict.gone else state in rule.failing_states
                break
            assert at >= old or rule.new_vm
            assert state in (rule.target_states or {None})
            if operation == "resize":
                assert size == NEW
            if verdict.evidence is Evidence.OBSERVED and operation not in {"create", "delete"}:
                others = [
                    asked
                    for asked, shown, shown_size in seen
                    if shown not in rule.target_states or shown_size != NEW
                ]
                assert others[0] + old <= at
            break

    @given(st.sampled_from(sorted(TARGETS)), st.sampled_from(STATES[:-1]), st.booleans())
    def test_a_recheck_is_requested_only_where_it_counts(self, operation, state, quiet):
        """Polled at each recheck time, an unchanged VM needs no more polls."""
        completion = Completion(TARGETS[operation], D, visible_at=0.0, quiet=quiet)
        at, polls = 1.0, 0
        while True:
            verdict = completion.observe(Observation(at, at, state, *NEW))
            polls += 1
            assert polls < 10
            if not isinstance(verdict, Pending) or verdict.recheck_at is None:
                break
            at = max(at + 1.0, verdict.recheck_at)
