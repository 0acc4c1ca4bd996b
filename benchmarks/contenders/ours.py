"""async_vmapi, as its README shows for many VMs: ``client.bulk``, with all of them in flight.

As documented: the defaults, which poll at most once a second. Tuned: ``min_poll_interval`` and
``max_poll_interval`` are the interval. Limited: the defaults with ``max_requests_per_second``,
which the README says to set to the provider's limit. Retries, reconciliation and evidence are
included.
"""

import asyncio

from async_vmapi import Client, CreateRequest, ImageBoot
from contenders.signed import TEMPLATE, ZONE

FLOOR, CEILING = 1.0, 15.0


async def create_all(job):
    floor, ceiling = (job.interval, job.interval) if job.interval else (FLOOR, CEILING)
    async with Client(
        job.url,
        api_key=job.key,
        api_secret=job.secret,
        min_poll_interval=job.real(floor),
        max_poll_interval=job.real(ceiling),
        max_requests_per_second=job.rate,
    ) as client:
        requests = [
            CreateRequest(name=name, cpus=1, ram=1024, zone_id=ZONE, boot=ImageBoot(os=TEMPLATE))
            for name in job.names
        ]
        bulk = client.bulk(limit=len(requests))
        async for outcome in bulk.stream(requests, "create"):
            if outcome.status == "succeeded":
                job.saw(outcome.vm_id)


def run(job):
    asyncio.run(create_all(job))
