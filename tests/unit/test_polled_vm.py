"""The states of a watched VM's polling, and when it is polled next."""

import asyncio
import itertools
import math
import re

import pytest

from async_vmapi.tasks import polled_vm
from async_vmapi.tasks.completion import Completion, Pending
from async_vmapi.tasks.polled_vm import NEVER_LISTED, TRANSITIONS, PolledVM, State
from async_vmapi.tasks.rules import Target
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.watch import Watch
from async_vmapi.transport.codec import VMSnapshot

pytestmark = pytest.mark.looptime

LISTED, PLANNED, QUEUED, IN_FLIGHT, ABANDONED, LEFT = State
WAITED = [LISTED, PLANNED, QUEUED]


class Timer:
    def __init__(self):
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def schedule():
    return Schedule(min_interval=1.0, max_interval=15.0, seed=0)


def watch(verdict=None, operation="power_on"):
    """Return a watch, made in this moment, that has reached a verdict."""
    target = Target(operation)
    made = Watch("vm-1", target, Completion(target, 10.0))
    if verdict is not None:
        made.verdict = verdict
    return made


def awaited(*watches, state=LISTED):
    """Return a VM in some state, with a timer as if one was set for its GET."""
    return PolledVM("vm-1", state, watches, timer=Timer(), due=7.0)


def documented():
    """Return the transitions of the docstring's table, and of the sentence below it."""
    _, _, table, rest = re.split(r"(?m)^=+ =+ =+$\n?", polled_vm.__doc__)
    found, texts, state = set(), {}, None
    for line in table.splitlines():
        state = line[:10].strip() or state
        texts[state] = f"{texts.get(state, '')} {line[57:]}"
    for name, text in texts.items():
        for targets in re.findall(r"→ ([A-Z_]+(?: or [A-Z_]+)*)", text):
            found |= {(State[name], State[target]) for target in targets.split(" or ")}
    assert "In the first three states, the VM becomes LEFT when its last waiter leaves" in rest
    return found | {(state, LEFT) for state in list(State)[:3]}


class TestTransitions:
    def test_the_table_is_documented(self):
        """All transitions, and no others."""
        assert documented() == {(a, b) for a, following in TRANSITIONS.items() for b in following}

    @pytest.mark.parametrize(("state", "following"), list(itertools.product(State, repeat=2)))
    def test_other_transitions_are_refused(self, state, following):
        """A transition cancels the timer; a wrong one changes nothing."""
        vm = awaited(state=state)
        timer = vm.timer
        if following is state or following in TRANSITIONS[state]:
            vm.move_to(following)
            assert (vm.state, vm.timer, vm.due) == (following, None, math.inf)
            assert timer.cancelled
        else:
            with pytest.raises(RuntimeError, match=f"vm-1 is {state.name}"):
                vm.move_to(following)
            assert (vm.state, vm.timer, vm.due) == (state, timer, 7.0)
            assert not timer.cancelled

    @pytest.mark.parametrize(
        ("state", "after"), [*((state, LEFT) for state in WAITED), (IN_FLIGHT, ABANDONED)]
    )
    async def test_the_last_waiter_leaves(self, state, after):
        """Before the last one nothing changes."""
        first, second = watch(), watch()
        vm = awaited(first, second, state=state)
        vm.leave(first)
        assert (vm.state, vm.watches, vm.due) == (state, (second,), 7.0)
        vm.expired.append((1.0, asyncio.get_running_loop().create_future()))
        vm.leave(second)
        assert (vm.state, vm.watches, vm.timer, vm.expired) == (after, (), None, [])

    @pytest.mark.parametrize(
        ("state", "after"), [*((s, s) for s in (*WAITED, IN_FLIGHT)), (ABANDONED, IN_FLIGHT)]
    )
    async def test_a_waiter_joins(self, state, after):
        """What the last list showed is new to it."""
        joined = watch()
        vm = PolledVM("vm-1", state, last_listed=None)
        vm.join(joined)
        assert (vm.state, vm.watches, vm.last_listed) == (after, (joined,), NEVER_LISTED)

    @pytest.mark.parametrize("list_mode", [True, False])
    @pytest.mark.parametrize("state", list(State))
    async def test_the_mode_decides_how_it_is_polled(self, schedule, state, list_mode):
        """From each state that allows it."""
        vm = awaited(watch(), state=state)
        after = LISTED if list_mode else PLANNED
        if after is not state and after not in TRANSITIONS[state]:
            with pytest.raises(RuntimeError):
                vm.plan(0.0, schedule, list_mode=list_mode)
            return
        vm.plan(0.0, schedule, list_mode=list_mode)
        assert vm.state is after
        assert (vm.due == math.inf) is list_mode


class TestPlan:
    """`now` is 100 s after the requests, so that the interval of a GET is 12.5 to 15 s."""

    @pytest.mark.parametrize(
        ("verdicts", "due", "recheck_at", "waiting"),
        [
            ([Pending()], (12.5, 15), math.inf, False),
            # The same observation counts from a moment on: then, or by the interval.
            ([Pending(105.0)], (5, 5.01), 5, False),
            ([Pending(150.0)], (12.5, 15), 50, False),
            # Nothing earlier can complete it.
            ([Pending(150.0, too_early=True)], (50, 50.01), 50, True),
            # Never twice within the least interval, even if it counts now.
            ([Pending(99.0)], (1, 1), -1, False),
            ([Pending(99.0, too_early=True)], (1, 1), -1, True),
            # Several: the earliest; it waits if all do.
            ([Pending(150.0, too_early=True), Pending()], (12.5, 15), 50, False),
            (
                [Pending(150.0, too_early=True), Pending(120.0, too_early=True)],
                (20, 20.01),
                20,
                True,
            ),
        ],
    )
    async def test_when_it_is_polled_next(self, schedule, verdicts, due, recheck_at, waiting):
        """By the times of the verdicts, in seconds from now."""
        vm = awaited(*map(watch, verdicts))
        now = asyncio.get_running_loop().time() + 100
        vm.plan(now, schedule, list_mode=False)
        least, most = due
        assert least <= vm.due - now <= most
        assert vm.recheck_at - now == pytest.approx(recheck_at, abs=0.01)
        assert vm.too_early is waiting
        vm.plan(now, schedule, list_mode=True)
        assert (vm.due, vm.too_early) == (math.inf, waiting)
        assert vm.recheck_at - now == pytest.approx(recheck_at, abs=0.01)

    async def test_failures_delay_the_poll(self, schedule):
        """Longer each time, up to `max_poll_interval`."""
        vm, dues = awaited(watch(Pending(1.0))), []
        now = asyncio.get_running_loop().time()
        for vm.failures in range(6):
            vm.plan(now, schedule, list_mode=False)
            dues.append(vm.due - now)
        assert dues == sorted(dues)
        assert 12 < dues[-1] <= 15

    async def test_the_poll_is_not_delayed_beyond_the_latest_time(self, schedule):
        """Where a GET was planned already."""
        vm = awaited(watch())
        now = asyncio.get_running_loop().time() + 100
        vm.plan(now, schedule, list_mode=False, latest=now + 3)
        assert vm.due == now + 3

    async def test_a_completed_watch_is_not_polled(self, schedule):
        """Its waiters are about to leave."""
        ended = watch()
        at = ended.started + 20
        ended.observe(at, at, VMSnapshot("vm-1", "online", 1, 1024), b"")
        assert ended.ended
        vm = awaited(ended)
        vm.plan(at, schedule, list_mode=False)
        assert (vm.state, vm.due) == (PLANNED, math.inf)


class TestLastPolls:
    async def test_the_poll_after_the_deadline_is_the_last(self):
        """Other waiters have one more to come, and those that left none."""
        waiters = [asyncio.get_running_loop().create_future() for _ in range(3)]
        vm = PolledVM("vm-1")
        vm.expired += zip([5.0, 6.0, 7.0], waiters, strict=True)
        waiters[2].cancel()
        assert vm.release_expired(5.5)
        assert [waiter.done() for waiter in waiters] == [True, False, True]
        assert waiters[0].result() is False
        assert vm.expired == [(6.0, waiters[1])]
        assert not vm.release_expired(6.0)
        assert waiters[1].result() is False
