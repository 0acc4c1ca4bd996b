"""How much the emulator carries: requests a second, and the list of a large fleet.

Run it with ``python benchmarks/emulator.py``. The emulator has a process of its own, so that it
is measured and not the client; the client is aiohttp with requests that were signed beforehand.
"""

import argparse
import asyncio
import json
import multiprocessing
import platform
import statistics
import time
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from async_vmapi.emulator import CloudAPI, Emulator, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.signing import Credentials, sign

KEY, SECRET = "benchmark", "benchmark-secret"


def serve(pipe, fleet):
    """Serve a fleet that is online until told to stop."""

    async def run():
        api = CloudAPI(
            settings=Settings(create=0, not_found=0, address=0), api_key=KEY, api_secret=SECRET
        )
        zone = next(iter(ZONES.values()))
        ids = [
            api.cloud.create(0, label=f"w-{n}", cores=1, ram=1024, zone=zone, template=TEMPLATES[0])
            for n in range(fleet)
        ]
        async with Emulator(api) as emulator:
            pipe.send((emulator.url, ids))
            await asyncio.to_thread(pipe.recv)

    asyncio.run(run())


async def measure(url, ids, seconds, concurrency):
    host = URL(url).authority

    def signed(path):
        headers = sign(Credentials(KEY, SECRET), "GET", host, path, b"", datetime.now(UTC))
        return URL(url + path, encoded=True), headers

    gets = [signed(f"/v2/virtual-machines/{vm_id}") for vm_id in ids[:1000]]
    count = 0
    async with aiohttp.ClientSession() as session:

        async def work(number):
            nonlocal count
            while time.perf_counter() < end:
                target, headers = gets[(number + count) % len(gets)]
                async with session.get(target, headers=headers) as response:
                    assert response.status == 200
                    await response.read()
                count += 1

        began = time.perf_counter()
        end = began + seconds
        await asyncio.gather(*(work(number) for number in range(concurrency)))
        rate = count / (time.perf_counter() - began)
        target, headers = signed("/v2/virtual-machines")
        times, size = [], 0
        for _ in range(5):
            began = time.perf_counter()
            async with session.get(target, headers=headers) as response:
                size = len(await response.read())
            times.append(time.perf_counter() - began)
    return rate, statistics.median(times), size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=50)
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there, options.fleet), daemon=True)
    server.start()
    url, ids = here.recv()
    rate, listing, size = asyncio.run(measure(url, ids, options.seconds, options.concurrency))
    here.send(None)
    server.join()
    figures = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "fleet": options.fleet,
        "gets_per_second": round(rate),
        "list_seconds": round(listing, 4),
        "list_bytes": size,
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
