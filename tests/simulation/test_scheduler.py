"""A bulk call's state machine, driven by random events at random times."""

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_vmapi import BulkPlan
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.bulk.states import TRANSITIONS, State
from tests.virtual_time import JumpingLoop

ITEMS = 12
EVENTS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["pause", "unpause", "stop", "leave"])),
    max_size=10,
    unique_by=lambda event: event[0],
)
RANK = {
    **dict.fromkeys([State.RUNNING, State.PAUSED, State.SUSPENDED], 0),
    State.STOPPING: 1,
    State.INTERRUPTED: 2,
    State.CLOSED: 3,
}


async def play(events, durations, limit):
    """Run a bulk call, apply the events, and return its events with the state at each."""
    seen = []

    async def start(seconds):
        await asyncio.sleep(seconds)

    def jobs():
        for index, seconds in enumerate(durations):
            yield BulkItem(index, str(index), lambda *_, seconds=seconds: start(seconds))

    plan = BulkPlan(limit=limit, on_event=lambda event: seen.append((event, rollout.state)))
    rollout = Rollout(plan, "run", jobs(), len(durations))
    taken = []

    async def iterate():
        async with aclosing(rollout.outcomes()) as outcomes:
            async for outcome in outcomes:
                taken.append(outcome)

    iterating = asyncio.create_task(iterate())
    began = asyncio.get_running_loop().time()
    states = [rollout.state]
    for when, kind in sorted(events, key=lambda event: event[0]):
        await asyncio.sleep(began + when + 0.5 - asyncio.get_running_loop().time())
        match kind:
            case "pause" | "unpause":
                rollout.pause(kind == "pause")
            case "stop":
                rollout.stop("enough")
            case "leave":
                iterating.cancel()
                await asyncio.wait({iterating})
        states.append(rollout.state)
    rollout.pause(False)
    await asyncio.wait({iterating})
    return rollout, seen, states, [*taken, *rollout.left()]


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 8), max_size=ITEMS), st.integers(1, 5))
def test_random_events_follow_the_table(events, durations, limit):
    """No transition leads backwards, nothing starts but in RUNNING, and no item is lost."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        rollout, seen, states, outcomes = runner.run(play(events, durations, limit))
    ranks = [RANK[state] for state in (*states, rollout.state)]
    assert ranks == sorted(ranks)
    assert rollout.state is State.CLOSED
    for event, state in seen:
        assert state is not State.CLOSED
        if event.kind == "started":
            assert state is State.RUNNING
    assert sorted(outcome.index for outcome in outcomes) == [*range(len(durations))]
    if rollout.stopped is None:
        assert {outcome.status for outcome in outcomes} <= {"succeeded"}


@pytest.mark.parametrize("state", State)
def test_the_transition_table_is_complete(state):
    """Every state has its transitions, none leads back, and each is reached."""
    assert all(RANK[after] >= RANK[state] for after in TRANSITIONS[state])
    assert state is State.RUNNING or any(state in after for after in TRANSITIONS.values())
