"""google-api-core's `AsyncFuture`, on aiohttp: polling by `AsyncRetry`.

By its documentation ("Futures", "Retry in AsyncIO"), a subclass implements ``done``, and an
`AsyncRetry` polls it, with a predicate that retries while it is not done.

As documented: the `DEFAULT_RETRY` of that module, which sleeps from 0 up to 1, 2, 4 ... 60 s,
uniformly distributed. Tuned: from 0 to 1.5 intervals each time, so that the mean delay is half an
interval, as with a fixed interval.
"""

import asyncio

from google.api_core.future.async_future import RETRY_PREDICATE, AsyncFuture
from google.api_core.retry_async import AsyncRetry

from contenders.over_aiohttp import calls
from contenders.signed import ONLINE

INITIAL, MAXIMUM, MULTIPLIER = 1.0, 60.0, 2.0


class Creation(AsyncFuture):
    def __init__(self, api, vm_id, retry):
        super().__init__(retry=retry)
        self._api = api
        self._vm_id = vm_id

    # Like AsyncOperation's, it is called without arguments.
    async def done(self, retry=None):  # noqa: ARG002 - the base's signature
        status, vm = await self._api.get(self._vm_id)
        if status == 404 or vm["state"] != ONLINE:
            return False
        self.set_result(vm)
        return True

    def cancel(self):
        raise NotImplementedError

    def cancelled(self):
        return False


async def create(job, api, name, retry):
    creation = Creation(api, await api.create(name), retry)
    vm = await creation.result()
    job.saw(vm["id"])


async def create_all(job):
    if job.interval is None:
        sleeps = (job.real(INITIAL), job.real(MAXIMUM), MULTIPLIER)
    else:
        sleeps = (job.real(1.5 * job.interval), job.real(1.5 * job.interval), 1.0)
    initial, maximum, multiplier = sleeps
    retry = AsyncRetry(
        predicate=RETRY_PREDICATE, initial=initial, maximum=maximum, multiplier=multiplier
    )
    async with calls(job) as api:
        await asyncio.gather(*(create(job, api, name, retry) for name in job.names))


def run(job):
    asyncio.run(create_all(job))
