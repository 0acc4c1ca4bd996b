"""The capacity of the emulator: requests per second, and the list of a large fleet.

Run it with ``python benchmarks/emulator.py``. The emulator runs in a separate process, to measure
it without the client. The load comes from plain sockets with requests signed in advance, from as
many processes as necessary. Other benchmarks use ``Served`` and ``ceiling``.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

from results import machine

from async_vmapi.emulator import Emulator, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.signing import Credentials, sign

KEY, SECRET = "benchmark", "benchmark-secret"
VMS_PATH = "/v2/virtual-machines"
SIGNED_AGAIN = 300.0
"""Seconds after which requests are signed again; the emulator rejects them after 15 minutes."""


def loop_factory(name):
    """Return the event loop factory of asyncio or of uvloop."""
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return None


def serve(pipe, fleet, loop="asyncio", **options):
    """Serve a fleet that is online until stopped; send the process's CPU seconds on request."""

    async def run():
        settings = Settings(create=0, not_found=0, address=0)
        emulator = Emulator(settings=settings, api_key=KEY, api_secret=SECRET, **options)
        cloud, zone = emulator.cloud, next(iter(ZONES.values()))
        ids = [
            cloud.create(0, label=f"w-{n}", cores=1, ram=1024, zone=zone, template=TEMPLATES[0])
            for n in range(fleet)
        ]
        async with emulator:
            pipe.send((emulator.url, ids))
            while await asyncio.to_thread(pipe.recv) is not None:
                pipe.send(time.process_time())

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(run())


class Served:
    """The emulator in a separate process, as a context manager.

    Attributes:
        url: Its base URL.
        ids: The ids of the VMs.
    """

    def __init__(self, fleet, loop="asyncio", **options):
        # A process that is forked after threads or event loops were started may hang.
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(
            target=serve, args=(there, fleet, loop), kwargs=options, daemon=True
        )

    def __enter__(self):
        self._process.start()
        self.url, self.ids = self._pipe.recv()
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(10)
        self._process.kill()

    def cpu(self):
        """Return the CPU seconds that its process has used."""
        self._pipe.send("cpu")
        return self._pipe.recv()


def request_bytes(url, path, method="GET", body=b""):
    """Return a signed request as bytes, with the headers that aiohttp would send."""
    host = urlsplit(url).netloc
    headers = sign(Credentials(KEY, SECRET), method, host, path, body, datetime.now(UTC))
    headers |= {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "User-Agent": "load"}
    if body:
        headers["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def read_bytes(url, vm_id):
    """Return a GET."""
    return request_bytes(url, f"{VMS_PATH}/{vm_id}")


def write_bytes(url, vm_id):
    """Return a rename, a write that starts no operation."""
    return request_bytes(url, f"{VMS_PATH}/{vm_id}/rename", "POST", b'{"name":"w-new"}')


def load(url, ids, seconds, connections, depth, request_of=read_bytes):
    """Send requests as fast as responses come: so many at once on each of so many connections.

    All VMs are alike, so all responses have the same size and need not be parsed.
    """
    address = (urlsplit(url).hostname, urlsplit(url).port)
    sockets = [socket.create_connection(address, timeout=30) for _ in range(connections)]
    requests, made = [], float("-inf")
    count, size, at = 0, 0, 0
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        if now > made + SIGNED_AGAIN:
            requests, made = [request_of(url, vm_id) for vm_id in ids[:500]], now
            if not size:
                sockets[0].sendall(requests[0])
                answer = sockets[0].recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
                size = len(answer)
        for connection in sockets:
            at = (at + depth) % (len(requests) - depth)
            connection.sendall(b"".join(requests[at : at + depth]))
        for connection in sockets:
            left = size * depth
            while left > 0:
                got = connection.recv(left)
                assert got, "the emulator closed a connection"
                left -= len(got)
        count += connections * depth
    rate = count / (time.perf_counter() - began)
    for connection in sockets:
        connection.close()
    return rate


def ceiling(served, seconds=2.0, rounds=5, request_of=read_bytes):
    """Return the maximum load of the emulator, and its cost of a request.

    ``kept_alive`` has one request in flight on each of 50 connections, ``pipelined`` sixteen.
    """
    found = {}
    for name, depth in (("kept_alive", 1), ("pipelined", 16)):
        load(served.url, served.ids, 0.2, 50, depth, request_of)
        rates, costs = [], []
        for _ in range(rounds):
            cpu, began = served.cpu(), time.perf_counter()
            rates.append(load(served.url, served.ids, seconds, 50, depth, request_of))
            took = time.perf_counter() - began
            costs.append((served.cpu() - cpu) / (rates[-1] * took))
        found[name] = {
            "requests_per_second": round(statistics.median(rates)),
            "cpu_us_per_request": round(statistics.median(costs) * 1e6, 1),
            "least_cpu_us_per_request": round(min(costs) * 1e6, 1),
        }
    return found


def listing(served):
    """Return the seconds and bytes of a list of all VMs."""
    times, size = [], 0
    host = urlsplit(served.url)
    for _ in range(5):
        with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
            request = request_bytes(served.url, VMS_PATH).replace(
                b"User-Agent", b"Connection: close\r\nUser-Agent"
            )
            began = time.perf_counter()
            connection.sendall(request)
            size = 0
            while got := connection.recv(1 << 20):
                size += len(got)
            times.append(time.perf_counter() - began)
    return statistics.median(times), size


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--state", action="store_true", help="keep the cloud in a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = f"{folder}/cloud.db" if options.state else None
        measure(options, state)


def measure(options, state):
    """Print the figures of an emulator."""
    with Served(options.fleet, options.loop, state=state) as served:
        figures = {
            "machine": machine(),
            "loop": options.loop,
            "fleet": options.fleet,
            "state": options.state,
            "ceiling": ceiling(served, options.seconds),
            "writes": ceiling(served, options.seconds, request_of=write_bytes),
        }
        seconds, size = listing(served)
        figures |= {"list_seconds": round(seconds, 4), "list_bytes": size}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
