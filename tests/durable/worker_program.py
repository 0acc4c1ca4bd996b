"""A worker as a process: runs a database's jobs until SIGTERM."""

import asyncio
import signal
import sys

from async_vmapi import Client
from async_vmapi.durable import DurableFleet
from tests.durable.fleets import FACTS


async def main(database_url, url, api_key, api_secret):
    def client():
        return Client(
            url,
            api_key=api_key,
            api_secret=api_secret,
            min_poll_interval=0.02,
            max_staleness=0.0,
            max_poll_interval=0.2,
            reconcile_timeout=2.0,
            timeout=3.0,
            facts=FACTS,
        )

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    async with DurableFleet(
        database_url, client, polling_interval=0.05, lease_duration=2.0
    ) as fleet:
        await fleet.work(stop)


asyncio.run(main(*sys.argv[1:]))
