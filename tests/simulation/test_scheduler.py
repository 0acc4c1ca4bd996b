"""A bulk call's state machine, driven by random events at random times."""

import asyncio
import itertools
from contextlib import aclosing

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from async_vmapi import BulkPlan, TaskTimeout
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.bulk.plan import wave_sizes
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.bulk.states import TRANSITIONS, State
from async_vmapi.bulk.waves import Progress
from tests.virtual_time import JumpingLoop

ITEMS = 12
KINDS = ["pause", "unpause", "promote", "forgive", "stop", "leave"]
EVENTS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(KINDS)),
    max_size=10,
    unique_by=lambda event: event[0],
)
PLANS = st.builds(
    BulkPlan,
    limit=st.integers(1, 5),
    waves=st.lists(st.sampled_from([1, 2, "50%"]), min_size=1, max_size=2),
    max_failures=st.none() | st.integers(0, 3),
    soak=st.sampled_from([0, 0, 7]),
    promote=st.sampled_from(["auto", "manual", "each"]),
    on_failure=st.sampled_from(["stop", "pause"]),
)
RANK = {
    **dict.fromkeys([State.RUNNING, State.PAUSED, State.SUSPENDED], 0),
    State.STOPPING: 1,
    State.INTERRUPTED: 2,
    State.CLOSED: 3,
}


@attrs.frozen
class VM:
    """An item: how long its operation takes, and how it ends."""

    seconds: int
    ends: str


VMS = st.lists(
    st.builds(VM, st.integers(0, 8), st.sampled_from(["well"] * 5 + ["fails", "falls over"])),
    max_size=ITEMS,
)


def now():
    return asyncio.get_running_loop().time()


@attrs.define
class Play:
    """A rollout, and what happened in it.

    Attributes:
        seen: Each event with its time, the state, and the waves promoted until then.
        states: The state after each event that was applied.
    """

    plan: BulkPlan
    vms: list[VM]
    progress: Progress = attrs.field(factory=Progress)
    earlier: list = attrs.field(factory=list)
    seen: list = attrs.field(factory=list)
    states: list = attrs.field(factory=list)
    taken: list = attrs.field(factory=list)
    rollout: Rollout = None

    def items(self):
        for index, vm in enumerate(self.vms):
            yield BulkItem(
                index,
                str(index),
                lambda *_, index=index, vm=vm: self.start(index, vm),
                str(index),
                begun=bool(self.earlier),
            )

    async def start(self, index, vm):
        if self.earlier:
            return Ended(self.earlier[index], final=True)
        await asyncio.sleep(vm.seconds)
        if vm.ends == "fails":
            raise LookupError
        return None

    async def wait_ready(self, vm_id, ready, timeout):
        if self.vms[int(vm_id)].ends == "falls over":
            raise TaskTimeout("gone", history=((0.0, "offline"),))

    def note(self, event):
        self.seen.append((now(), event, self.rollout.state, self.rollout.progress.promoted))

    async def iterate(self):
        async with aclosing(self.rollout.outcomes()) as outcomes:
            async for outcome in outcomes:
                self.taken.append(outcome)

    async def run(self, events):
        """Apply the events; after the last, do whatever the rollout waits for."""
        rollout = self.rollout = Rollout(
            attrs.evolve(self.plan, on_event=self.note),
            "run",
            self.items(),
            len(self.vms),
            wait_ready=self.wait_ready,
        )
        rollout.promote(self.progress.promoted)
        rollout.forgive(self.progress.forgiven)
        self.states = [rollout.state]
        iterating = asyncio.create_task(self.iterate())
        began = now()
        for when, kind in sorted(events, key=lambda event: event[0]):
            await asyncio.sleep(began + when + 0.5 - now())
            match kind:
                case "pause" | "unpause":
                    rollout.pause(kind == "pause")
                case "promote":
                    rollout.promote(rollout.held or 0)
                case "forgive":
                    rollout.forgive(rollout.failures)
                case "stop":
                    rollout.stop("enough")
                case "leave":
                    iterating.cancel()
                    await asyncio.wait({iterating})
            self.states.append(rollout.state)
        rollout.pause(False)
        while not iterating.done():
            await asyncio.wait({iterating}, timeout=1000)
            if iterating.done():
                break
            # It waits for one of these, or would have ended.
            assert rollout.held or rollout.suspended
            rollout.promote(rollout.held or 0)
            rollout.forgive(rollout.failures)
        self.states.append(rollout.state)

    @property
    def outcomes(self):
        return sorted([*self.taken, *self.rollout.left()], key=lambda outcome: outcome.index)


def play(plan, vms, events=(), **fields):
    """Run a rollout in virtual time, and return what happened."""
    played = Play(plan, vms, **fields)
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(played.run(events))
    return played


@settings(deadline=None)
@given(EVENTS, VMS, PLANS)
def test_random_events_follow_the_table(events, vms, plan):
    """No transition leads backwards, nothing starts but in RUNNING, and no item is lost."""
    played = play(plan, vms, events)
    ranks = [RANK[state] for state in played.states]
    assert ranks == sorted(ranks)
    assert played.rollout.state is State.CLOSED
    for _, event, state, _ in played.seen:
        assert state is not State.CLOSED
        if event.kind == "started":
            assert state is State.RUNNING
    outcomes = played.outcomes
    assert [outcome.index for outcome in outcomes] == [*range(len(vms))]
    if played.rollout.stopped is None:
        expected = {"well": "succeeded", "fails": "unknown", "falls over": "failed"}
        for outcome, vm in zip(outcomes, vms, strict=True):
            if vm.ends != "falls over" or plan.soak:
                assert outcome.status in (expected[vm.ends], "failed")
    assert sum(played.rollout.counts.values()) == len(vms)


@settings(deadline=None)
@given(EVENTS, VMS, PLANS)
def test_a_wave_starts_only_after_the_previous_one(events, vms, plan):
    """All its items have finished, soaked if they are to, and it is promoted if it must be."""
    played = play(plan, vms, events)
    sizes = wave_sizes(plan.waves, len(vms))
    waves = list(
        itertools.chain.from_iterable(
            [n] * int(size) for n, size in zip(range(1, len(vms) + 2), sizes, strict=False)
        )
    )
    soaked_at = {}
    for at, event, _, promoted in played.seen:
        if event.kind == "soaking":
            soaked_at[event.wave] = at + plan.soak
        if event.kind != "started":
            continue
        assert event.wave == waves[event.index]
        before = [n for n in range(len(vms)) if waves[n] < event.wave]
        finished = {e.index for t, e, _, _ in played.seen if e.kind == "finished" and t <= at}
        assert set(before) <= finished
        # A soak ends early if no VM is left.
        soaked = [n for n in before if vms[n].ends == "well"]
        assert all(at >= soaked_at.get(waves[n], 0) for n in soaked)
        if plan.promote == "each":
            assert promoted >= event.wave - 1
        elif plan.promote == "manual" and event.wave > 1:
            assert promoted >= 1


# The last item has started when the second one fails; the repetition must not pause before it.
@example(
    [VM(0, "well")] * 7 + [VM(0, "fails"), VM(1, "fails"), VM(0, "well")],
    BulkPlan(limit=2, waves=["50%"], max_failures=1, on_failure="pause"),
)
@settings(deadline=None)
@given(VMS, PLANS)
def test_a_repeated_rollout_waits_for_nothing_again(vms, plan):
    """With what was decided and reported, it is not held or paused, soaks nothing, and ends so."""
    first = play(plan, vms)
    again = play(plan, vms, progress=first.rollout.progress, earlier=first.outcomes)
    assert not {event.kind for _, event, _, _ in again.seen} & {"held", "paused", "soaking"}
    assert [o.status for o in again.outcomes] == [o.status for o in first.outcomes]
    assert max((at for at, *_ in again.seen), default=0) == 0


def test_failures_after_the_forgiven_ones_count():
    """A pause by three failures of five ends by `forgive(2)` only until the next one."""
    plan = BulkPlan(limit=1, max_failures=1, on_failure="pause")
    played = play(plan, [VM(1, "fails")] * 6, progress=Progress(forgiven=2))
    paused = [event.done for _, event, _, _ in played.seen if event.kind == "paused"]
    assert [done["failed"] for done in paused] == [4]


def test_progress_shows_what_was_decided_between_waves():
    """So that it can be decided before another rollout starts."""
    plan = BulkPlan(waves=[1], promote="each", soak=7, on_failure="pause")
    played = play(plan, [VM(1, "well"), VM(1, "fails"), VM(1, "well")])
    assert played.rollout.progress == Progress(promoted=2, forgiven=1)


@pytest.mark.looptime
async def test_only_forgiveness_ends_a_pause_because_of_failures():
    """A pause by hand is another one; and unseen failures are not forgiven."""
    played = Play(BulkPlan(limit=5, max_failures=1, on_failure="pause"), [VM(1, "fails")] * 6)
    running = asyncio.create_task(played.run([]))
    await asyncio.sleep(10)
    rollout = played.rollout
    assert (rollout.suspended, rollout.failures) == ("more than 1 failed", 5)
    for paused in (True, False):
        rollout.pause(paused)
        assert rollout.suspended
    rollout.forgive(2)
    assert rollout.suspended
    assert rollout.progress.forgiven == 2
    rollout.forgive(2)
    rollout.forgive(4)
    assert rollout.suspended is None
    await running
    assert len(played.outcomes) == 6


@pytest.mark.parametrize("state", State)
def test_the_transition_table_is_complete(state):
    """Every state has its transitions, none leads back, and each is reached."""
    assert all(RANK[after] >= RANK[state] for after in TRANSITIONS[state])
    assert state is State.RUNNING or any(state in after for after in TRANSITIONS.values())
