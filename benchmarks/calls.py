"""The cost of one call: ``vms.get``, compared with the same request by other HTTP clients.

Run it with ``python benchmarks/calls.py`` (dependency group ``benchmarks``). It leaves
``results/calls.json`` and a picture.

The contenders:

- ours: `Client.vms.get`, which returns a `VirtualMachine` with typed fields;
- aiohttp, bytes: a `ClientSession`, signed by hand, the body as bytes;
- aiohttp, json: the same, with `json.loads`;
- httpx: an `AsyncClient`, signed by hand, the body as bytes;
- requests in 50 threads with a `Session` each, and `Response.json`;
- the same with one `Session` for all, like this API's published Python client (e24py); its pool
  keeps ten connections, so most of the 50 threads open a new one for each request.

All others keep connections alive and may have one for each concurrent call; all sign each request.
aiohttp gets a `DummyCookieJar`, like ours. The emulator runs in a separate process; its limit is
measured first, and its share is shown with each figure.

The contenders take turns in short rounds, so that other load affects all of them, and ratios are
computed within each round. This process's CPU seconds are shown with the time; they are more stable
if both cores are busy.
"""

import argparse
import asyncio
import base64
import contextlib
import gc
import hashlib
import hmac
import itertools
import json
import logging
import resource
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from urllib.parse import urlsplit

import aiohttp
import httpx
import requests
from emulator import KEY, SECRET, VMS_PATH, Served, ceiling, loop_factory
from results import draw, keep, kept

from async_vmapi import Client, Response
from async_vmapi.transport import codec

THREADS = 50
OURS = "ours, typed models"
BARE, LOADED = "aiohttp, bytes", "aiohttp, json.loads"
HTTPX = "httpx, bytes"
SYNC, SHARED = f"requests, {THREADS} threads", f"requests, {THREADS} threads, one session"
PEERS = (BARE, LOADED, HTTPX, SYNC, SHARED)
TIMEOUT = 60.0


class Signature:
    """What a user of this API writes to sign a GET (WIRE §1)."""

    def __init__(self, url):
        self.host = urlsplit(url).netloc
        self.secret = SECRET.encode()

    def headers(self, path):
        date = formatdate(usegmt=True)
        text = f"GET\n{self.host}\n{date}\n{path}\n".encode()
        signed = base64.b64encode(hmac.digest(self.secret, text, hashlib.sha256)).decode()
        return {
            "Content-Type": "application/json",
            "X-Date": date,
            "Authorization": f"{KEY}:{signed}",
        }


@contextlib.asynccontextmanager
async def ours(url, limit):
    async with Client(
        url, api_key=KEY, api_secret=SECRET, max_connections=limit, timeout=TIMEOUT
    ) as client:
        yield client.vms.get


def _session(limit):
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
    )


@contextlib.asynccontextmanager
async def aiohttp_bytes(url, limit):
    signature = Signature(url)
    async with _session(limit) as session:

        async def get(vm_id):
            path = f"{VMS_PATH}/{vm_id}"
            async with session.get(url + path, headers=signature.headers(path)) as response:
                return await response.read()

        yield get


@contextlib.asynccontextmanager
async def aiohttp_json(url, limit):
    async with aiohttp_bytes(url, limit) as get_bytes:

        async def get(vm_id):
            return json.loads(await get_bytes(vm_id))

        yield get


@contextlib.asynccontextmanager
async def httpx_bytes(url, limit):
    signature = Signature(url)
    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit)
    async with httpx.AsyncClient(limits=limits, timeout=TIMEOUT) as client:

        async def get(vm_id):
            path = f"{VMS_PATH}/{vm_id}"
            response = await client.get(url + path, headers=signature.headers(path))
            return response.content

        yield get


class Threads:
    """The contenders without an event loop."""

    def __init__(self, url, concurrency, *, shared):
        self._url = url
        self._signature = Signature(url)
        self._local = threading.local()
        self._shared = requests.Session() if shared else None
        self._workers = min(THREADS, concurrency)
        self._pool = ThreadPoolExecutor(self._workers)

    def get(self, vm_id):
        session = self._shared
        if session is None:
            if not hasattr(self._local, "session"):
                self._local.session = requests.Session()
            session = self._local.session
        path = f"{VMS_PATH}/{vm_id}"
        headers = self._signature.headers(path)
        return session.get(self._url + path, headers=headers, timeout=TIMEOUT).json()

    def run(self, ids):
        # An iterator in C, which threads can share.
        todo = iter(ids)

        def work(_):
            for vm_id in todo:
                self.get(vm_id)

        list(self._pool.map(work, range(self._workers)))

    def close(self):
        self._pool.shutdown()


ASYNC = {OURS: ours, BARE: aiohttp_bytes, LOADED: aiohttp_json, HTTPX: httpx_bytes}


async def run_async(get, ids, concurrency):
    todo = iter(ids)

    async def work():
        for vm_id in todo:
            await get(vm_id)

    await asyncio.gather(*(work() for _ in range(concurrency)))


def machine_in(answer):
    """Return the id of the VM in any contender's result."""
    if isinstance(answer, bytes):
        answer = json.loads(answer)
    if not isinstance(answer, dict):
        return answer.id
    shown = answer["virtual_machine"]
    return (shown[0] if isinstance(shown, list) else shown)["id"]


def usage():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_stime


def measured(served, run, ids):
    """Run once, and return the cost of a call."""
    gc.collect()
    emulator = served.cpu()
    (cpu, kernel), began = usage(), time.perf_counter()
    run(ids)
    took = time.perf_counter() - began
    (cpu_end, kernel_end), count = usage(), len(ids)
    return {
        "calls": count,
        "calls_per_second": count / took,
        "wall_us": took / count * 1e6,
        "cpu_us": (cpu_end - cpu) / count * 1e6,
        "kernel_us": (kernel_end - kernel) / count * 1e6,
        "emulator_us": (served.cpu() - emulator) / count * 1e6,
        "emulator_busy": (served.cpu() - emulator) / took,
    }


def compare(served, runner, concurrency, rounds, seconds):
    """Run all contenders in turns at one concurrency; return the rounds of each."""
    stack = contextlib.AsyncExitStack()
    gets = {
        name: runner.run(stack.enter_async_context(made(served.url, concurrency)))
        for name, made in ASYNC.items()
    }
    threads = {
        SYNC: Threads(served.url, concurrency, shared=False),
        SHARED: Threads(served.url, concurrency, shared=True),
    }

    def runs(get):
        return lambda ids: runner.run(run_async(get, ids, concurrency))

    run = {name: runs(get) for name, get in gets.items()}
    run |= {name: pool.run for name, pool in threads.items()}
    for name, get in gets.items():
        assert machine_in(runner.run(_once(get, served.ids[0]))) == served.ids[0], name
    for name, pool in threads.items():
        assert machine_in(pool.get(served.ids[0])) == served.ids[0], name

    endless = itertools.cycle(served.ids)
    counts = {}
    for name, go in run.items():
        # The first run opens the connections, the second one determines the calls per round.
        for _ in range(2):
            first = measured(served, go, list(itertools.islice(endless, 2 * concurrency + 50)))
        counts[name] = max(2 * concurrency, int(first["calls_per_second"] * seconds))
    found = {name: [] for name in run}
    order = list(run)
    for _ in range(rounds):
        for name in order:
            ids = list(itertools.islice(endless, counts[name]))
            found[name].append(measured(served, run[name], ids))
        order.append(order.pop(0))
    for pool in threads.values():
        pool.close()
    runner.run(stack.aclose())
    return found


async def _once(get, vm_id):
    return await get(vm_id)


def middle(rows, field, digits=1):
    return round(statistics.median(row[field] for row in rows), digits)


def figures_of(found):
    """Summarize the rounds at one concurrency."""
    contenders = {}
    for name, rows in found.items():
        contenders[name] = {
            "calls_per_second": middle(rows, "calls_per_second", 0),
            "wall_us": middle(rows, "wall_us"),
            "cpu_us": middle(rows, "cpu_us"),
            "of_it_kernel_us": middle(rows, "kernel_us"),
            "emulator_cpu_us": middle(rows, "emulator_us"),
            "emulator_busy": middle(rows, "emulator_busy", 2),
            "calls_a_round": rows[0]["calls"],
        }
    against = {}
    for peer in PEERS:
        pairs = list(zip(found[OURS], found[peer], strict=True))
        wall = [theirs["wall_us"] / own["wall_us"] for own, theirs in pairs]
        cpu = [theirs["cpu_us"] / own["cpu_us"] for own, theirs in pairs]
        against[peer] = {
            "throughput": round(statistics.median(wall), 3),
            "throughput_quartiles": quartiles(wall),
            "cpu": round(statistics.median(cpu), 3),
            "cpu_quartiles": quartiles(cpu),
        }
    return {"contenders": contenders, "ours_times_as_good_as": against}


def quartiles(values):
    first, _, third = statistics.quantiles(values, n=4)
    return [round(first, 3), round(third, 3)]


# --- where the rest goes ----------------------------------------------------------------------


class _AtOnce:
    """A transport with a prepared response, to measure our own layers only."""

    def __init__(self, body):
        self._response = Response(200, {}, body)

    async def send(self, *_):
        return self._response

    async def close(self):
        pass


async def _layers(url, vm_id):
    """Return the minimum CPU microseconds of each part of a call, without the HTTP client."""
    async with aiohttp_bytes(url, 1) as get:
        body = await get(vm_id)
    async with Client(url, api_key=KEY, api_secret=SECRET) as client:
        pipeline = client._pipeline
        pipeline._transport = _AtOnce(body)
        signature, path = Signature(url), f"{VMS_PATH}/{vm_id}"

        async def gate():
            passed = pipeline._pace.gate()
            passed.try_enter()
            passed.leave()

        async def sign():
            pipeline._signer.sign("GET", path, b"", time.time())

        async def sign_by_hand():
            signature.headers(path)

        async def decode():
            codec.VM.decode(body)

        async def loads():
            json.loads(body)

        async def nothing():
            pass

        parts = {
            "all of ours but HTTP": lambda: client.vms.get(vm_id),
            "of it decoding into typed models": decode,
            "of it signing": sign,
            "of it the way through the gate": gate,
            "for comparison: signing by hand": sign_by_hand,
            "for comparison: json.loads": loads,
        }
        empty = await _least(nothing)
        return {name: round(await _least(part) - empty, 2) for name, part in parts.items()}


async def _least(part, calls=400, rounds=80):
    found = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(calls):
            await part()
        found.append((time.process_time() - began) / calls * 1e6)
    return min(found)


# --- output -----------------------------------------------------------------------------------


def paint(figures):
    shown = {
        OURS: "ours, typed models",
        BARE: "aiohttp by hand, bytes",
        LOADED: "aiohttp by hand, json",
        HTTPX: "httpx by hand, bytes",
        SYNC: f"requests, {THREADS} threads",
        SHARED: "the same, one session",
    }
    levels = list(figures["concurrency"])

    def painted(axes, colours):
        rates, costs = axes
        for place, name in enumerate(shown):
            colour = colours[place]
            values = [
                1e6 / figures["concurrency"][level]["contenders"][name]["cpu_us"]
                for level in levels
            ]
            spots = [at + (place - 2.5) * 0.14 for at in range(len(levels))]
            rates.bar(spots, values, width=0.13, color=colour, label=shown[name])
        rates.set_xticks(range(len(levels)), levels)
        rates.set_xlabel("calls at once")
        rates.set_title("calls a CPU second")
        rates.grid(axis="y")
        rates.set_axisbelow(True)
        at_fifty = figures["concurrency"].get("50") or figures["concurrency"][levels[-1]]
        names = list(shown)[::-1]
        values = [at_fifty["contenders"][name]["cpu_us"] for name in names]
        bars = costs.barh(
            [shown[name] for name in names], values, color=colours[: len(names)][::-1]
        )
        costs.bar_label(bars, fmt="%.0f", padding=3)
        costs.set_title("CPU µs a call, 50 at once")
        costs.margins(x=0.2)
        costs.tick_params(axis="y", length=0)
        costs.set_xticks([])
        costs.spines["bottom"].set_visible(False)

    draw("calls", painted, columns=2, size=(9.6, 3.4))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--rounds", type=int, default=15, help="at least 5")
    parser.add_argument("--seconds", type=float, default=0.4, help="of a contender's round")
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--emulator-loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--draw", action="store_true", help="only draw the saved figures")
    parser.add_argument("--dry-run", action="store_true", help="save and draw nothing")
    options = parser.parse_args()
    # Expected: the pool is too small for the threads.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if options.draw:
        paint(kept("calls"))
        return
    if options.rounds < 5:
        parser.error("medians are of at least five rounds")
    figures = {
        "what": "vms.get; medians of interleaved rounds, ratios within each round",
        "loop": options.loop,
        "emulator_loop": options.emulator_loop,
        "rounds": options.rounds,
        "versions": {m.__name__: m.__version__ for m in (aiohttp, httpx, requests)},
    }
    with (
        Served(500, options.emulator_loop) as served,
        asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner,
    ):
        figures["emulator_ceiling"] = ceiling(served, seconds=1.0)
        print(json.dumps(figures, indent=2), flush=True)
        figures["layers_cpu_us"] = runner.run(_layers(served.url, served.ids[0]))
        print(json.dumps(figures["layers_cpu_us"], indent=2), flush=True)
        levels = figures["concurrency"] = {}
        for concurrency in options.concurrency:
            found = compare(served, runner, concurrency, options.rounds, options.seconds)
            levels[str(concurrency)] = figures_of(found)
            print(concurrency, json.dumps(levels[str(concurrency)], indent=2), flush=True)
    if not options.dry_run:
        print(keep("calls", figures))
        paint(figures)


if __name__ == "__main__":
    main()
