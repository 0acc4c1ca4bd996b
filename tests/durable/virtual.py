"""A database and workers of durable jobs in virtual time, for tests of coordinators."""

import asyncio
import random
from types import SimpleNamespace

from sqlalchemy import exc

from async_vmapi.bulk.outcomes import Ended
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Outcome
from async_vmapi.durable.spec import EventReader, Order, decode, encode, spec_of
from async_vmapi.errors import VMVanished


class Shared:
    """The database, and workers that dequeue items."""

    def __init__(self, *, seed=0, failing=(), seconds=None):
        self._seconds = seconds
        self.checks = []
        self.ill = set()
        self.expired = False
        self.attributes = {}
        self.operations = {}
        self.in_flight = self.most = 0
        self.stream = []
        self.outages = 0
        self._draw = random.Random(seed)
        self._failing = failing
        self._tasks = set()

    def _maybe_fail(self):
        if self.outages:
            self.outages -= 1
            raise exc.OperationalError("SELECT 1", {}, Exception("server closed the connection"))

    async def find(self, workflow_id):
        self._maybe_fail()
        return SimpleNamespace(attributes=self.attributes)

    async def note(self, workflow_id, **attributes):
        self._maybe_fail()
        self.attributes |= attributes

    async def operations_of(self, name):
        self._maybe_fail()
        return [(decode(o.text, Order).index, o) for o in self.operations.values()]

    async def ended(self, ids):
        self._maybe_fail()
        return [self.operations[i] for i in ids if self.operations[i].status == "SUCCESS"]

    async def enqueue(self, queue, workflow, orders):
        self._maybe_fail()
        for workflow_id, text in orders:
            assert workflow_id not in self.operations, "it was started twice"
            self.operations[workflow_id] = taken = SimpleNamespace(
                workflow_id=workflow_id,
                status="PENDING",
                text=text,
                input=None,
                output=None,
                error=None,
            )
            self._tasks.add(asyncio.create_task(self._work(taken)))

    async def _work(self, taken):
        order = decode(taken.text, Order)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(self._draw.uniform(5, 60))
        self.in_flight -= 1
        status = "failed" if order.index in self._failing else "succeeded"
        known = {"index": order.index, "item": order.label, "vm_id": order.label}
        found = Outcome(status=status, seconds=self._seconds, **known)
        ended = Ended(found, online=order.operation == "reboot" and status == "succeeded")
        taken.output, taken.status = encode(ended), "SUCCESS"

    async def write_stream_async(self, key, text):
        self._maybe_fail()
        if self.expired:
            raise RuntimeError("the workflow has another owner")
        self.stream.append(text)

    async def stream_of(self, workflow_id, key):
        self._maybe_fail()
        return list(self.stream)

    async def wait_ready(self, vm_id, ready, timeout):
        """Check a VM during a soak."""
        self.checks.append((asyncio.get_running_loop().time(), vm_id))
        if vm_id in self.ill:
            raise VMVanished("it is gone", vm_id=vm_id, operation="wait_ready")

    def events(self):
        reader = EventReader()
        return [event for text in self.stream for event in reader.read(text)]


def spec_for(count, operation="shutdown", **plan):
    return spec_of(operation, [f"vm-{n}" for n in range(count)], {}, BulkPlan(**plan))


async def killed_on_the_way(make, shared, spec, *, seed, online=None, domains=None, kills=6):
    """Run a job whose coordinator is killed repeatedly, and return its end."""
    draw = random.Random(seed)
    for _ in range(kills):
        one = make(shared, spec, online, domains)
        run = asyncio.create_task(one.run())
        await asyncio.wait({run}, timeout=draw.uniform(0.1, 40))
        if run.done():
            return run.result(), one.stopped
        run.cancel()
        await asyncio.wait({run})
        await asyncio.sleep(draw.uniform(0, 20))
    last = make(shared, spec, online, domains)
    return await last.run(), last.stopped
