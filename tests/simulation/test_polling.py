"""Properties of polling: waits begin and end, responses come late, fail or never come.

By the public face alone: a client, its tasks, and a transport that notes what is in flight.
"""

import asyncio
import random
from collections import Counter

import attrs
import pytest

from async_vmapi import (
    AuthenticationError,
    Client,
    InvalidState,
    Response,
    TaskTimeout,
    TransportError,
)
from async_vmapi.emulator import CloudAPI, InMemoryTransport, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES

pytestmark = pytest.mark.looptime

CEILING = 15.0
LAST_POLL = 5.0
RETRY_AFTER = 30.0

# Once the cloud responds normally: what Retry-After asked for, ten times `max_poll_interval` in
# which lists are avoided because one was unreadable, and a few polls at most that far apart.
BOUND = RETRY_AFTER + 10 * CEILING + 6 * CEILING

KINDS = ["late", "lost", "busy", "forbidden", "unreadable", "unclear", "cancelled"]


def now():
    return asyncio.get_running_loop().time()


@attrs.frozen
class Trouble:
    """What requests go through from one moment to another: all, or lists or GETs alone."""

    kind: str
    begins: float
    ends: float
    calls: str
    share: float


@attrs.frozen
class Wait:
    """One waiter.

    Attributes:
        how: By `Task.wait` or `Task.events`, by `Task.wait` of a task that was resumed, or by
            `Task.refresh` again and again.
        begins: When it begins to wait.
        timeout: When its time is over, in seconds; None for never.
        cancelled: After how many seconds of waiting it is cancelled; None for never.
        pause: For how long it then stays away.
        times: How often it is cancelled before it leaves for good, or stays.
        stays: Whether it then waits to the end.
    """

    how: str
    begins: float
    timeout: float | None
    cancelled: float | None
    pause: float
    times: int
    stays: bool


class Story:
    """A story made up from a seed."""

    def __init__(self, seed):
        self.random = chance = random.Random(seed)
        self.vms = chance.choice([1, 1, 2, 10, 40])
        self.others = chance.choice([0, 0, 300, 3000])
        self.latency = chance.choice([0.02, 0.7, 3.0])
        self.closes = chance.choice([None, None, chance.uniform(0, 30)])
        self.troubles = [self.trouble() for _ in range(chance.choice([0, 1, 2, 3]))]
        everybody_leaves = chance.random() < 0.4
        # Deadlines poll, too: half of the stories have none.
        timeouts = chance.choice([[None], [None, None, 0.3, 20.0]])
        self.waits = [
            self.wait(everybody_leaves, timeouts)
            for _ in range(chance.choice([self.vms, self.vms, 2 * self.vms]))
        ]
        self.calm_at = max([90.0, *(trouble.ends for trouble in self.troubles)])

    def trouble(self):
        chance = self.random
        begins = chance.uniform(0, 40)
        lasts = chance.choice([1, 10, 60])
        calls = chance.choice(["all", "list", "get"])
        share = chance.choice([1.0, 1.0, 0.3])
        return Trouble(chance.choice(KINDS), begins, begins + lasts, calls, share)

    def wait(self, leaves, timeouts):
        chance = self.random
        return Wait(
            how=chance.choice(["wait", "wait", "resume", "events", "refresh"]),
            begins=chance.choice([0, 0, chance.uniform(0, 40)]),
            timeout=chance.choice(timeouts),
            cancelled=chance.choice([None, 0.0, 1.1, chance.uniform(0, 10)])
            if not leaves
            else chance.uniform(0, 15),
            pause=chance.choice([0, 0.2, 10]),
            times=chance.choice([1, 3, 10]),
            stays=not leaves,
        )


class Recording:
    """A transport that records polls, and lets some fail."""

    def __init__(self, cloud, story):
        self.inner = InMemoryTransport(cloud, latency=story.latency)
        self.story = story
        self.in_flight = Counter()
        self.most = Counter()
        self.calls = Counter()
        self.kinds = Counter()
        # How many wait now, and since when none does.
        self.waiting = 0
        self.idle_since = 0.0

    async def send(self, method, target, headers, body):
        if method != "GET":
            return await self.inner.send(method, target, headers, body)
        assert self.waiting or now() == self.idle_since, "polled without waiters"
        call = "list" if target.endswith("machines") else "get"
        self.calls[call] += 1
        self.in_flight[target] += 1
        self.most[call] = max(self.most[call], self.in_flight[target])
        try:
            kind = self.kind(call)
            self.kinds[kind] += 1
            if kind in (None, "late"):
                response = await self.inner.send(method, target, headers, body)
                await asyncio.sleep(self.story.random.uniform(0, 9) if kind else 0)
                return response
            await asyncio.sleep(self.story.latency / 2)
            return self.fail(kind)
        finally:
            self.in_flight[target] -= 1

    def kind(self, call):
        for trouble in self.story.troubles:
            concerned = trouble.begins <= now() < trouble.ends and trouble.calls in ("all", call)
            if concerned and self.story.random.random() < trouble.share:
                return trouble.kind
        return None

    def fail(self, kind):
        if kind == "lost":
            raise TransportError("no response")
        if kind == "cancelled":
            raise asyncio.CancelledError
        return {
            "busy": Response(503, {"Retry-After": f"{RETRY_AFTER:g}"}, b""),
            "forbidden": Response(403, {}, b'{"success": false, "error": "no"}'),
            "unreadable": Response(200, {}, b'{"success": true, "virtual_machines": [7]}'),
            "unclear": Response(404, {}, b""),
        }[kind]

    async def close(self):
        pass

    def began(self):
        self.waiting += 1

    def left(self):
        self.waiting -= 1
        if not self.waiting:
            self.idle_since = now()
            asyncio.get_running_loop().call_later(0.001, self.check_idle)

    def check_idle(self):
        if not self.waiting and self.in_flight.total():
            asyncio.get_running_loop().call_exception_handler({"message": "left in flight"})


class Run:
    """Plays a story."""

    def __init__(self, story):
        self.story = story
        self.closed_at = None
        self.cloud = CloudAPI(settings=Settings(power_off=(1, 60), stale=0), seed=1)
        self.transport = Recording(self.cloud, story)
        self.client = Client(
            "https://vm.example.com",
            api_key=self.cloud.api_key,
            api_secret=self.cloud.api_secret,
            transport=self.transport,
            max_poll_interval=CEILING,
            seed=1,
        )

    async def play(self):
        story, problems = self.story, []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: problems.append(what))
        zone = next(iter(ZONES.values()))
        place = self.cloud.cloud.place
        ids = [
            place(now(), label=f"w-{n}", zone=zone, template=TEMPLATES[0], cores=1, ram=1024).id
            for n in range(story.vms + story.others)
        ]
        tasks = await asyncio.gather(*map(self.client.vms.power_off, ids[: story.vms]))
        waiters = [
            asyncio.create_task(self.wait(wait, tasks[number % story.vms]))
            for number, wait in enumerate(story.waits)
        ]
        if story.closes is not None:
            await asyncio.sleep(story.closes)
            self.closed_at = now()
            await self.client.close()
            await self.client.__aenter__()
        _, pending = await asyncio.wait(waiters, timeout=story.calm_at + BOUND)
        assert not pending, "a wait did not end"
        await asyncio.gather(*waiters)
        # For as long as any timer could run; then a waiter that returns is served.
        await asyncio.sleep(400)
        await asyncio.gather(*(self.once(task, None, "wait") for task in tasks))
        await asyncio.sleep(400)
        # A request that closing cancels may still be in flight when the next one is sent.
        assert max(self.transport.most.values()) <= (1 if story.closes is None else 2)
        assert problems == []

    async def wait(self, wait, task):
        await asyncio.sleep(wait.begins)
        if wait.how == "resume":
            task = self.client.resume(task.token())
        for _ in range(wait.times if wait.cancelled is not None else 0):
            waiting = asyncio.create_task(self.once(task, wait.timeout, wait.how))
            await asyncio.sleep(wait.cancelled)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            if not waiting.cancelled():
                waiting.result()
            await asyncio.sleep(wait.pause)
        while wait.stays and not task.done():
            await self.once(task, wait.timeout, wait.how)

    async def once(self, task, timeout, how):
        began = now()
        self.transport.began()
        try:
            if how == "events":
                async for _ in task.events():
                    pass
            elif how == "refresh":
                await task.refresh()
                await asyncio.sleep(0.7)
                return
            else:
                await task.wait(timeout=timeout)
            assert task.done()
        except TaskTimeout:
            assert timeout <= now() - began <= timeout + LAST_POLL + 0.01
        except InvalidState:
            assert now() == self.closed_at
            # It is opened again in the same moment.
            await asyncio.sleep(0)
        except AuthenticationError:
            # Not again in the same moment.
            await asyncio.sleep(0.5)
        finally:
            self.transport.left()


@pytest.mark.parametrize("first", range(0, 100, 10))
async def test_no_vm_is_forgotten_and_none_is_polled_without_waiters(first, stride):
    """Every wait ends, with one GET of a VM in flight at most, and no poll after the last one."""
    for seed in range(first, first + 10, stride):
        await Run(Story(seed)).play()
