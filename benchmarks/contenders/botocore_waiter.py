"""botocore's waiter, on aiohttp: a fixed delay, and a maximum number of attempts.

The model and the acceptors (JMESPath) are botocore's `WaiterModel`; the loop is that of
`botocore.waiter.Waiter.wait` with ``time.sleep`` replaced by an awaited sleep.

As documented: the model of EC2's ``instance_running`` in botocore's data, with a delay of 15 s and
40 attempts. Tuned: ``Delay`` of ``WaiterConfig`` is the interval, with enough attempts.
"""

import asyncio
import math

from botocore.exceptions import WaiterError
from botocore.waiter import Waiter, WaiterModel

from contenders.over_aiohttp import calls
from contenders.signed import ONLINE

DELAY, ATTEMPTS = 15.0, 40
MODEL = WaiterModel(
    {
        "version": 2,
        "waiters": {
            "VirtualMachineOnline": {
                "operation": "GetVirtualMachine",
                "delay": DELAY,
                "maxAttempts": ATTEMPTS,
                "acceptors": [
                    {
                        "expected": ONLINE,
                        "matcher": "path",
                        "state": "success",
                        "argument": "VirtualMachine.state",
                    },
                    {
                        "expected": "deleting",
                        "matcher": "path",
                        "state": "failure",
                        "argument": "VirtualMachine.state",
                    },
                    {"expected": "NotFound", "matcher": "error", "state": "retry"},
                ],
            }
        },
    }
)


class AsyncWaiter(Waiter):
    async def wait(self, *, delay, max_attempts, **arguments):
        acceptors = list(self.config.acceptors)
        response = {}
        for attempt in range(max_attempts):
            if attempt:
                await asyncio.sleep(delay)
            response = await self._operation_method(**arguments)
            matched = next((a for a in acceptors if a.matcher_func(response)), None)
            if matched is None and "Error" in response:
                raise WaiterError(self.name, "an error occurred", response)
            if matched is not None and matched.state == "success":
                return
            if matched is not None and matched.state == "failure":
                raise WaiterError(self.name, matched.explanation, response)
        raise WaiterError(self.name, "max attempts exceeded", response)


async def create_all(job):
    delay, attempts = DELAY, ATTEMPTS
    if job.interval is not None:
        delay, attempts = job.interval, math.ceil(ATTEMPTS * DELAY / job.interval)

    async with calls(job) as api:

        async def operation(vm_id):
            status, vm = await api.get(vm_id)
            if status == 404:
                return {"Error": {"Code": "NotFound"}}
            return {"VirtualMachine": vm}

        waiter = AsyncWaiter(
            "VirtualMachineOnline", MODEL.get_waiter("VirtualMachineOnline"), operation
        )

        async def create(name):
            vm_id = await api.create(name)
            await waiter.wait(delay=job.real(delay), max_attempts=attempts, vm_id=vm_id)
            job.saw(vm_id)

        await asyncio.gather(*(create(name) for name in job.names))


def run(job):
    asyncio.run(create_all(job))
