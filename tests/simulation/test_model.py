"""Every verdict, compared with what the cloud really did: ten thousand runs in a campaign.

Each run draws a cloud (durations, staleness of reads, replicas, guests, early sizes, flapping
absence, unknown and failing states), an operation, what others and this client do besides, and when
the VM is polled. The rules see only the responses; the cloud knows the truth.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_vmapi import (
    Client,
    CreateRequest,
    ImageBoot,
    TaskError,
    VMAPIError,
    VMVanished,
)
from async_vmapi.emulator import Cloud, CloudAPI, Response, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.emulator.vm import Refused
from async_vmapi.tasks.completion import Completion, Done, Evidence, Failed, Observation, Pending
from async_vmapi.tasks.rules import Target
from tests.virtual_time import JumpingLoop

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = pytest.mark.no_cover

ZONE = next(iter(ZONES.values()))
OPERATIONS = [
    "create",
    "resize",
    "shutdown",
    "reboot",
    "reset",
    "delete",
    "power_on",
    "power_off",
]


def draw_settings(source, old):
    """Draw a cloud whose reads are up to `old` seconds old."""
    half = old / 2
    stale = source.choice(
        [
            {"staleness": (0, old)},
            {
                "replicas": (0, old),
                "replica_choice": source.choice(["random", "in_turn", "sticky"]),
            },
            {"staleness": (0, half), "replicas": (0, half)},
            {"staleness": old},
        ]
    )
    return Settings(
        create=(2, source.choice([5, 60, 200])),
        not_found=(0, source.choice([0, 5, 20])),
        # A restart takes a minute at most, from the new size on: what the rule of resize assumes.
        resize=(5, source.choice([20, 90])),
        shutdown=(1, source.choice([5, 60])),
        power_on=(1, 40),
        power_off=(0.5, 5),
        reboot=(1, 50),
        reset=(1, 30),
        delete=(0.5, 30),
        stale=(0, source.choice([0, 3, 8])),
        acpi=source.choice(["honour", "honour", "honour", "ignore", 20]),
        restart_after_resize=source.random() < 0.7,
        early_size=source.choice([None, None, (0, 5)]),
        reboot_visible=source.random() < 0.7,
        fail_state="error" if source.random() < 0.1 else None,
        extra_states=("warming-up",) if source.random() < 0.2 else (),
        absence=source.choice([0.0, 0.0, 0.05]),
        **stale,
    )


def arguments_of(kind, source):
    if kind == "resize":
        sizes = {"cores": source.choice([1, 2]), "ram": source.choice([1024, 2048])}
        return sizes | {"wait_for": source.choice([0, 1, 2])}
    return {"wait_for": source.choice([0, 1, 2])} if kind == "shutdown" else {}


def interfere(cloud, vm_id, source, at):
    """Let another client change the VM; return whether the cloud accepted that."""
    kind = source.choice([kind for kind in OPERATIONS if kind != "create"])
    arguments = {"cores": 3, "ram": 3000, "wait_for": 1} if kind == "resize" else {}
    if kind == "shutdown":
        arguments["wait_for"] = 1
    with contextlib.suppress(Refused):
        cloud.operate(kind, vm_id, at, **arguments)
        return True
    return False


class Truth:
    """What really happened to a VM, and to the one operation that is watched.

    Args:
        old: Seconds by which reads are old at most.
        alone: Whether nothing else happened to the VM meanwhile, nor just before.
    """

    def __init__(self, cloud, vm_id, operation, *, old, alone):
        self.history = (cloud.vms.get(vm_id) or cloud.gone[vm_id]).history
        self.operation = operation
        self.old = old
        self.alone = alone

    def at(self, time):
        return [change for change in self.history if change.at <= time][-1]

    def transitions(self, time):
        """Return the pairs of consecutive conditions, as far back as reads show."""
        since = self.operation.accepted_at - self.old
        return [
            (one, two) for one, two in itertools.pairwise(self.history) if since <= two.at <= time
        ]

    def contradicts(self, kind, verdict, time):
        """Return why a verdict is false, or None."""
        current = self.at(time)
        if isinstance(verdict, Failed):
            if verdict.gone:
                return None if current.state is None else "not gone"
            return None if current.state in {"error", "deleting", None} else "not failed"
        finished = self.operation.finished_at
        ends = {"shutdown": "offline", "power_off": "offline", "power_on": "online"}
        if self.at(self.operation.accepted_at).state == ends.get(kind):
            # There was nothing to do.
            finished = self.operation.accepted_at
        if (
            self.alone
            and verdict.evidence is not Evidence.ASSUMED
            and (finished is None or finished > time)
        ):
            return "done before the cloud was"
        if verdict.evidence is not Evidence.OBSERVED:
            back = time - self.old
            wanted = {"delete": None, "shutdown": "offline", "power_off": "offline"}
            shown = [self.at(back), *(c for c in self.history if back < c.at <= time)]
            if kind == "resize":
                size = (self.operation.cores, self.operation.ram)
                return None if size in [(c.cores, c.ram) for c in shown] else "not that size"
            states = [change.state for change in shown]
            return None if wanted.get(kind, "online") in states else "not in that state"
        states = [(one.state, two.state) for one, two in self.transitions(time)]
        if kind in {"reboot", "reset"}:
            left = next((n for n, (one, _) in enumerate(states) if one == "online"), None)
            back = left is not None and any(two == "online" for _, two in states[left:])
            return None if back else "never left and came back"
        if kind == "resize":
            size = (self.operation.cores, self.operation.ram)
            became = any(
                (two.cores, two.ram) == size != (one.cores, one.ram)
                for one, two in self.transitions(time)
            )
            return None if became else "never became that size"
        end = {"delete": None, "shutdown": "offline", "power_off": "offline"}.get(kind, "online")
        return None if any(two == end != one for one, two in states) else "no such transition"


def run(seed, *, believed=1.0):
    """Play one run; return what was watched, the verdict and why it is false, if it is.

    `believed` is how much of the true staleness the rules know of.
    """
    source = random.Random(seed)
    kind = source.choice(OPERATIONS)
    old = source.choice([0.0, 3.0, 10.0])
    cloud = Cloud(draw_settings(source, old), seed=seed)
    now = 1000.0
    size = {"label": "w", "cores": 1, "ram": 1024}
    vm_id = cloud.create(0.0 if kind != "create" else now, zone=ZONE, template=TEMPLATES[0], **size)
    alone = quiet = True
    if kind != "create":
        cloud.advance(now)
        if source.random() < 0.4:
            # This client did something before, and waited until it was over: for how long is drawn.
            cloud.operate("power_off", vm_id, now)
            cloud.advance(now + 100)
            if source.random() < 0.5:
                cloud.operate("power_on", vm_id, now + 100)
                cloud.advance(now + 300)
            now = (cloud.operations[-1].finished_at or now + 300) + source.uniform(0, 2 * old)
            quiet = now - cloud.operations[-1].finished_at >= old
            cloud.advance(now)
        if source.random() < 0.2:
            # Another client changed the VM just before.
            alone = not interfere(cloud, vm_id, source, now - source.uniform(0, 10))
        arguments = arguments_of(kind, source)
        try:
            cloud.operate(kind, vm_id, now, **arguments)
        except Refused:
            return kind, None, None, alone
        target = Target(kind, **arguments)
    else:
        target = Target("create")
    operation = cloud.operations[-1]
    others = sorted(source.uniform(0, 120) for _ in range(source.choice([0, 0, 0, 1, 2])))
    listing = source.random()
    pace = source.choice([1, 3, 15])
    completion = Completion(
        target,
        believed * old,
        visible_at=None if kind == "create" else 0.0,
        quiet=quiet,
    )
    verdict, elapsed = Pending(), 0.0
    while isinstance(verdict, Pending) and elapsed < 3000:
        later = elapsed + source.uniform(0.3, pace)
        recheck = verdict.recheck_at
        if recheck is not None and recheck > elapsed and (verdict.too_early or recheck < later):
            later = recheck
        elapsed = later
        while others and others[0] <= elapsed:
            alone = not interfere(cloud, vm_id, source, now + others.pop(0)) and alone
        at = now + elapsed
        seen = None
        if source.random() >= listing:
            with contextlib.suppress(Refused):
                seen = msgspec.json.decode(cloud.get(vm_id, at))
        else:
            shown = msgspec.json.decode(cloud.list(at))
            seen = next((vm for vm in shown if vm["id"] == vm_id), None)
        condition = (None,) if seen is None else (seen["state"], seen["cores"], seen["ram"])
        verdict = completion.observe(Observation(elapsed, elapsed, *condition))
    why = None
    if not isinstance(verdict, Pending):
        truth = Truth(cloud, vm_id, operation, old=old, alone=alone)
        why = truth.contradicts(kind, verdict, now + elapsed)
    elif alone and cloud.settings.fail_state is None and operation.outcome == "done":
        why = "the end was never seen"
    return kind, verdict, why, alone


class TestRules:
    def test_no_verdict_of_random_runs_is_false(self, stride):
        """No false "done" or "observed", and no undisturbed completion is missed."""
        verdicts, false = Counter(), []
        for seed in range(0, 10_000, stride):
            kind, verdict, why, alone = run(seed)
            if why is not None:
                false.append((seed, kind, verdict, why, "alone" if alone else "with others"))
            name = verdict.evidence.value if isinstance(verdict, Done) else type(verdict).__name__
            verdicts[name] += 1
        print(dict(verdicts))
        assert false == []
        # All of them were reached, or the test proves less than it says.
        assert min(verdicts[name] for name in ("observed", "inferred", "assumed", "Failed")) > 10

    def test_assuming_fresh_reads_gives_false_verdicts(self):
        """The control: with too small a `max_staleness` the same rules are wrong."""
        false = (seed for seed in range(1000) if run(seed, believed=0.0)[2] is not None)
        assert len(list(itertools.islice(false, 10))) == 10


def unreliable(handle, source, probability):
    """Respond to some of the polls with an error, a wrong "not found", rubbish or an odd state."""
    responses = [
        Response(503, {}, b""),
        Response(200, {}, b"<html>"),
        Response(404, {}, b'{"success": false, "error": "not found"}'),
        Response(200, {}, b'{"success": true, "virtual_machines": [{}]}'),
        None,
    ]

    def respond(request, **when):
        response = handle(request, **when)
        if request.method != "GET" or source.random() >= probability:
            return response
        odd = response.body.replace(b'"state":"online"', b'"state":"migrating"')
        return source.choice(responses) or Response(response.status, {}, odd)

    return respond


def verdict_of(task, error):
    """Return a task's verdict in the words of the rules."""
    if task.evidence is not None:
        return Done(task.evidence)
    return Failed(str(error), gone=isinstance(error, VMVanished))


class TestWholeClient:
    @pytest.mark.looptime
    @pytest.mark.parametrize(
        ("seed", "faults", "absence"),
        [(1, 0.0, 0.0), (2, 0.0, 0.05), (3, 0.05, 0.0), (4, 0.05, 0.05)],
    )
    async def test_a_fleet_that_others_change_too(self, seed, faults, absence, stride, request_for):
        """By lists and GETs, stale and unreliable ones: no verdict is false."""
        source = random.Random(seed)
        settings = Settings(
            staleness=(0, 10), stale=(0, 8), not_found=(0, 10), absence=absence, early_size=(0, 5)
        )
        api = CloudAPI(settings=settings, seed=seed)
        cloud, loop = api.cloud, asyncio.get_running_loop()
        api.handle = unreliable(api.handle, random.Random(seed), faults)
        false, evidence = [], Counter()
        async with Client.in_memory(api, latency=0.05, seed=seed) as client:
            ids = [
                cloud.place(
                    loop.time(), label=f"w-{n}", cores=1, ram=1024, zone=ZONE, template=TEMPLATES[0]
                ).id
                for n in range(500 // stride)
            ]

            async def one(number):
                await asyncio.sleep(source.uniform(0, 300))
                kind = source.choice(OPERATIONS)
                if kind == "create":
                    task = await client.vms.create(request_for(f"new-{number}"))
                else:
                    start = getattr(client.vms, kind)
                    vm_id = ids[number % len(ids)]
                    try:
                        task = await start(vm_id, **arguments_of(kind, source))
                    except VMAPIError:  # it is being deleted, or gone
                        return
                began = loop.time()
                operation = next(
                    o
                    for o in reversed(cloud.operations)
                    if o.vm_id == task.vm_id and o.kind == kind
                )
                error = None
                try:
                    await task
                except TaskError as failure:
                    error = failure
                if not task.done():
                    evidence["timeout"] += 1
                    return
                verdict = verdict_of(task, error)
                evidence[getattr(task.evidence, "value", "failed")] += 1
                # A poll is timed by when it was sent; the cloud handles it half of 0.05 s later.
                at = began + task.history[-1].elapsed + 0.025
                truth = Truth(cloud, task.vm_id, operation, old=10.0, alone=False)
                why = truth.contradicts(kind, verdict, at)
                if why is not None:
                    false.append((kind, verdict, why))

            async def somebody():
                for _ in range(200 // stride):
                    await asyncio.sleep(source.uniform(0, 3 * stride))
                    interfere(cloud, source.choice(ids), source, loop.time())

            await asyncio.gather(somebody(), *(one(number) for number in range(1000 // stride)))
        print(dict(evidence), dict(api.requests))
        assert false == []
        assert evidence["observed"] > 200 // stride
        assert evidence["inferred"] > 100 // stride
        assert api.requests["list"] > 0
        assert api.requests["get"] > 0


SEEDS = st.integers(0, 2**31 - 1)
OLD = st.sampled_from([0.0, 3.0, 10.0])
STEPS = st.lists(
    st.tuples(st.floats(0.0, 40.0), st.sampled_from(OPERATIONS), st.integers(0, 5)),
    min_size=1,
    max_size=12,
)


class TestFleets:
    @given(
        seed=st.integers(0, 2**31 - 1), old=OLD, absence=st.sampled_from([0.0, 0.05]), steps=STEPS
    )
    @settings(
        max_examples=settings.default.max_examples // 5,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def test_any_operations_on_a_small_fleet(self, seed, old, absence, steps):
        """One after the other on each VM, as soon as the previous one is reported complete."""
        cloud_settings = draw_settings(random.Random(seed), old).changed(
            absence=absence, fail_state=None
        )

        async def main():
            loop = asyncio.get_running_loop()
            api = CloudAPI(settings=cloud_settings, seed=seed)
            cloud, false = api.cloud, []
            where = {"zone": ZONE, "template": TEMPLATES[0]}
            ids = [
                cloud.place(loop.time(), label=f"w-{n}", cores=1, ram=1024, **where).id
                for n in range(6)
            ]
            async with Client.in_memory(api, latency=0.05, seed=seed, max_staleness=old) as client:
                turns = [asyncio.Lock() for _ in range(6)]

                async def one(number, delay, kind, which):
                    await asyncio.sleep(delay)
                    async with turns[which]:
                        if kind == "create":
                            request = CreateRequest(
                                name=f"new-{number}",
                                cpus=1,
                                ram=512,
                                zone_id=ZONE["id"],
                                boot=ImageBoot(os=TEMPLATES[0]["id"]),
                            )
                            task = await client.vms.create(request, unique_name=True)
                        else:
                            arguments = arguments_of(kind, random.Random(number))
                            try:
                                task = await getattr(client.vms, kind)(ids[which], **arguments)
                            except VMAPIError:  # it is deleted
                                return
                        began, error = loop.time(), None
                        try:
                            await task
                        except TaskError as failure:
                            error = failure
                        if not task.done():
                            return
                        operation = next(
                            o
                            for o in reversed(cloud.operations)
                            if o.vm_id == task.vm_id and o.kind == kind
                        )
                        # A VM's operations are alone: none begins before the previous one is over,
                        # unless that was assumed, or timed out.
                        alone = all(
                            o.finished_at is not None and o.finished_at <= operation.accepted_at
                            for o in cloud.operations
                            if o.vm_id == task.vm_id and o is not operation
                        )
                        truth = Truth(cloud, task.vm_id, operation, old=old, alone=alone)
                        at = began + task.history[-1].elapsed + 0.025
                        if why := truth.contradicts(kind, verdict_of(task, error), at):
                            false.append((kind, task, why))

                await asyncio.gather(*(one(n, *step) for n, step in enumerate(steps)))
            return false

        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            assert runner.run(main()) == []
