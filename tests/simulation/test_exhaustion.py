"""The completion rules against every small world: proof by exhaustion.

A world is what truly happens to a VM: what it was before the request, each change and when. All
times lie on a grid of 20 seconds, and reads may be three steps old (max_staleness is 60 s). At each
step there is a poll or none, and each poll shows the VM at any moment of the last three steps, or
of the step after where responses are slow: so every order of changes, poll times and staleness
choices is tried. The rules see only what was shown.

Worlds that show the same are walked through together, so each history of observations is judged
once, for all the worlds that could have produced it. A verdict is false if one of them contradicts
it. It is late if none of them does, and the rules wait all the same.
"""

import copy
import functools
import itertools
from collections import Counter

import attrs
import pytest

from async_vmapi.tasks.completion import Completion, Done, Evidence, Failed, Observation, Pending
from async_vmapi.tasks.rules import RULES, Target

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = pytest.mark.no_cover

STEP = 20.0
"""Seconds from one moment of the grid to the next."""
OLD = 3
"""Steps by which a read may be old in these worlds."""
MINUTE = 3
"""Steps of a minute: of `wait_for`, and of the times that the rule of resize knows."""
NEVER = 10**6


@attrs.frozen
class World:
    """What really happens: the VM is `first` before all `changes`, pairs of a step and a state.

    Attributes:
        complete: At which step the operation is complete.
        failed: At which step it is certain that it never will be.
    """

    first: object
    changes: tuple = ()
    complete: int = NEVER
    failed: int = NEVER

    def at(self, step):
        shown = self.first
        for when, what in self.changes:
            if when <= step:
                shown = what
        return shown

    def shown(self, step, latency):
        """Return all that a poll sent at a step can show."""
        return {self.at(moment) for moment in range(step - OLD, step + latency + 1)}

    def transitions(self, step):
        """Return the pairs of consecutive conditions until a step."""
        shown = [self.at(moment) for moment in range(-OLD - 1, step + 1)]
        return [(a, b) for a, b in itertools.pairwise(shown) if a != b]


def state_of(shown):
    return shown[0] if isinstance(shown, tuple) else shown


def observation(step, shown, latency):
    cores = shown[1] if isinstance(shown, tuple) else 1
    return Observation(step * STEP, (step + latency) * STEP, state_of(shown), cores, 1024)


def contradiction(rule, verdict, world, step):
    """Return why a verdict is false in a world; None if it is right there."""
    if isinstance(verdict, Failed):
        return None if world.failed <= step else "it had not failed"
    if verdict.evidence is Evidence.ASSUMED:
        return None
    if world.complete > step:
        return "it was not complete"
    if verdict.evidence is Evidence.INFERRED:
        return None
    pairs = world.transitions(step)
    if rule.cycle:
        left = [n for n, (a, b) in enumerate(pairs) if a == "online" != b]
        seen = left and any(b == "online" for _, b in pairs[left[0] :])
    elif rule.resized:
        seen = any(a[1] != b[1] == 2 for a, b in pairs)
    else:
        ends = rule.target_states or {None}
        seen = any(a not in ends and b in ends for a, b in pairs)
    return None if seen else "it claims to have seen what there was not"


def waits_by_design(rule, history, seen_from):
    """Return whether a rule waits for more than the assumption about reads forces."""
    if rule.resized:
        # No read shows whether the VM will be started again, nor, before it was seen down, whether
        # the guest is still going to shut down.
        return True
    if rule.target_states:
        return False
    # Absence must be shown over half of max_staleness.
    polls = itertools.takewhile(lambda poll: poll[1] is None, reversed(history))
    run = [step for step, _ in polls if step >= seen_from + OLD]
    return not run or run[0] - run[-1] < OLD / 2


@attrs.define
class Result:
    """The result of walking through all histories of an operation."""

    worlds: int = 0
    false: list = attrs.field(factory=list)
    late: list = attrs.field(factory=list)
    verdicts: Counter = attrs.field(factory=Counter)


def walk(target, worlds, steps, *, quiet, max_staleness=OLD * STEP, latency=0, absences=1):
    """Judge every history that the worlds can show within a number of steps."""
    visible_at = 0.0 if all(world.first is not None for world in worlds) else None
    rule = attrs.evolve(RULES[target.operation], absences=absences)
    start = Completion(target, max_staleness, visible_at=visible_at, quiet=quiet, rule=rule)
    # In each step: no poll, or one that is 0 to OLD steps old.
    result = Result(worlds=len(worlds) * (OLD + latency + 2) ** steps)

    # Sets of worlds are the bits of a number, as nearly all the time would go into them.
    @functools.cache
    def showing(step):
        found = Counter()
        for bit, world in enumerate(worlds):
            for shown in world.shown(step, latency):
                found[shown] |= 1 << bit
        return found

    @functools.cache
    def incomplete(step):
        return sum(1 << bit for bit, world in enumerate(worlds) if world.complete > step)

    @functools.cache
    def contradicting(verdict, step):
        whys = [contradiction(rule, verdict, world, step) for world in worlds]
        return sum(1 << bit for bit, why in enumerate(whys) if why), whys

    known = {}

    def visit(step, judged, possible, history):
        """Return how many histories follow, and their last verdicts."""
        if step > steps:
            return Counter(pending=1)
        # Histories that leave the rules and the possible worlds the same continue in the same way.
        key = step, attrs.astuple(judged, recurse=False), possible
        if key in known:
            return known[key]
        ends = Counter(visit(step + 1, judged, possible, history))
        for shown, those in showing(step).items():
            here = possible & those
            if not here:
                continue
            after, past = copy.copy(judged), (*history, (step, shown))
            verdict = after.observe(observation(step, shown, latency))
            if isinstance(verdict, Pending):
                seen = (when + latency for when, what in past if what is not None)
                seen_from = 0 if visible_at is not None else min((*seen, MINUTE))
                complete = not here & incomplete(step + latency)
                if complete and not waits_by_design(rule, past, seen_from):
                    result.late.append((past, verdict))
                ends += visit(step + 1, after, here, past)
                continue
            ends[verdict.evidence.value if isinstance(verdict, Done) else "failed"] += 1
            wrong, whys = contradicting(verdict, step + latency)
            for bit in range(len(worlds)) if here & wrong else ():
                if here & wrong & 1 << bit:
                    result.false.append((past, verdict, worlds[bit], whys[bit]))
        known[key] = ends
        return ends

    result.verdicts = visit(1, start, (1 << len(worlds)) - 1, ())
    return result


def pasts(states, *, changed):
    """Return what a VM may have been before the request: pairs of `first` and changes."""
    yield from ((state, ()) for state in states)
    if changed == "by no client":
        return
    for before, now in itertools.permutations(states, 2):
        for when in range(1 - OLD, 1):
            yield before, ((when, now),)


def one_way(steps, end, other):
    """Return the worlds of an operation that brings a VM from one state to another."""
    worlds = []
    for first, changes in pasts((end, other), changed="by others"):
        if (changes[-1][1] if changes else first) == end:
            worlds.append(World(first, changes, complete=0))
            continue
        worlds.append(World(first, changes))
        for when in range(steps + 1):
            worlds.append(World(first, (*changes, (when, end)), complete=when))
            worlds.append(World(first, (*changes, (when, "deleting")), failed=when))
    return worlds


def creates(steps):
    """Return the worlds of a create: absent, perhaps visible, then online, failed or gone."""
    worlds = [World(None)]
    for visible in range(steps + 1):
        start = (visible, "installing")
        worlds.append(World(None, (start,)))
        for end in range(visible, steps + 1):
            worlds.append(World(None, (start, (end, "online")), complete=end))
            worlds.append(World(None, (start, (end, "error")), failed=end))
            worlds.append(World(None, (start, (end + 1, None)), failed=end + 1))
    return worlds


def cycles(steps, *, changed):
    """Return the worlds of a reboot, whether it shows or not."""
    worlds = []
    for first, changes in pasts(("online", "offline"), changed=changed):
        if (changes[-1][1] if changes else first) != "online":
            # What a reboot does then is not known.
            continue
        worlds.append(World(first, changes))
        for left in range(steps + 1):
            worlds.append(World(first, (*changes, (left, "offline"))))
            for back in range(left + 1, steps + 2):
                cycle = (left, "offline"), (back, "online")
                worlds.append(World(first, (*changes, *cycle), complete=back))
    return worlds


def resizes(wait_for, *, changed):
    """Return the worlds of a resize, within the longest times that the rule assumes."""
    old, new = 1, 2
    worlds = []
    for first, past in pasts(("online", "offline"), changed=changed):
        for before in (old, new):
            start = (first, before)
            changes = tuple((when, (state, before)) for when, state in past)
            if (past[-1][1] if past else first) == "offline":
                worlds += [
                    World(start, (*changes, (when, ("offline", new))), complete=when)
                    for when in range(3)
                ]
                continue
            for down, size in itertools.product(
                range(MINUTE * wait_for + 1), range(MINUTE * (wait_for + 1))
            ):
                if size >= down + MINUTE:
                    continue
                path = _down_and_resized(before, down, size)
                over = path[-1][0]
                worlds.append(World(start, (*changes, *path), complete=over))
                for up in range(over + 1, down + MINUTE + 1):
                    back = (up, ("online", new))
                    worlds.append(World(start, (*changes, *path, back), complete=up))
    return worlds


def _down_and_resized(before, down, size):
    if size < down:
        # The new size shows early.
        return (size, ("online", 2)), (down, ("offline", 2))
    if size == down:
        return ((down, ("offline", 2)),)
    return (down, ("offline", before)), (size, ("offline", 2))


def deletes(steps, *, hidden):
    """Return the worlds of a delete; of a `hidden` VM, which appears after the request."""
    if not hidden:
        ends = [World("online", ((gone, None),), complete=gone) for gone in range(steps + 1)]
        return [World("online"), *ends]
    worlds = []
    for visible in range(1, MINUTE + 1):
        shown = (visible, "online")
        worlds.append(World(None, (shown,)))
        worlds += [
            World(None, (shown, (gone, None)), complete=gone)
            for gone in range(visible + 1, steps + 1)
        ]
    return worlds


ENDS = {
    "shutdown": ("offline", "online"),
    "power_off": ("offline", "online"),
    "power_on": ("online", "offline"),
}
NEW = {"cores": 2, "ram": 1024}


def case(name, worlds, steps, changed="by no client", **target):
    """Return one case; `changed` names who may have changed the VM just before."""
    quiet = changed != "by this client"
    what = f"{name} {target or ''} of a VM changed {changed}"
    return pytest.param(Target(name, **target), worlds, steps, quiet, id=what)


CASES = [
    # What others did just before the request cannot be known, and is irrelevant here.
    *(
        case(name, one_way(8, *ends), 8, changed)
        for name, ends in ENDS.items()
        for changed in ("by others", "by this client")
    ),
    pytest.param(Target("create"), creates(7), 7, False, id="create"),
    pytest.param(Target("delete"), deletes(8, hidden=False), 8, True, id="delete of a visible VM"),
    pytest.param(Target("delete"), deletes(10, hidden=True), 10, True, id="delete of a hidden VM"),
    *(
        case(name, cycles(11, changed=changed), 11, changed)
        for name in ("reboot", "reset")
        for changed in ("by no client", "by this client")
    ),
    *(
        case("resize", resizes(wait_for, changed=changed), 9, changed, **NEW, wait_for=wait_for)
        for wait_for in (0, 1)
        for changed in ("by no client", "by this client")
    ),
]


class TestEveryWorld:
    @pytest.mark.parametrize("latency", [0, 1])
    @pytest.mark.parametrize(("target", "worlds", "steps", "quiet"), CASES)
    def test_no_verdict_is_false_or_late(self, target, worlds, steps, quiet, latency, request):
        """Whatever the order of changes, polls and staleness."""
        result = walk(target, worlds, steps, quiet=quiet, latency=latency)
        print(
            f"{request.node.callspec.id}: {result.worlds:,} worlds, {dict(result.verdicts)} "
            f"of {result.verdicts.total():,} histories"
        )
        assert result.false == []
        assert result.late == []
        # Only slow responses about a VM that was just changed leave no reboot to be observed.
        done = result.verdicts["observed"] + result.verdicts["inferred"]
        assert done > 50

    @pytest.mark.parametrize(
        ("target", "worlds", "steps", "quiet"),
        # A VM that was visible all along can look absent only once it is gone.
        [case for case in CASES if case.id != "delete of a visible VM"],
    )
    def test_assuming_fresh_reads_gives_false_verdicts(self, target, worlds, steps, quiet):
        """The control: with too small a `max_staleness` the same rules are wrong."""
        assert walk(target, worlds, min(steps, 8), quiet=quiet, max_staleness=0.0).false
