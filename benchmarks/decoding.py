"""The cost of decoding a list of 10,000 VMs, and how long it blocks the event loop.

Run it with ``python benchmarks/decoding.py``, with the package and the dependency group
``benchmarks`` installed. Decoding is measured in CPU time of the process, all variants in turns, as
medians, with garbage collection on. The second part watches a fleet of 10,000 over HTTP (the server
is a separate process), while a heartbeat measures how long the event loop is blocked: in CPU time
of the thread, which other programs do not affect, and in wall time. Garbage collection is also
shown separately, as a full one visits all objects of the process.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import json
import statistics
import subprocess
import sys
import time
import typing

import attrs
import cattrs
import msgspec
import orjson
from aiohttp import web
from results import draw, keep, kept

from async_vmapi import Client
from async_vmapi.emulator import CloudAPI
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.models import vm as models
from async_vmapi.tasks.token import TaskToken, seal
from async_vmapi.transport import codec
from async_vmapi.transport.responses import open_envelope

COUNT = 10_000
HEAD, TAIL = b'{"success":true,"virtual_machines":', b"}"


def fleet(count=COUNT):
    """Return the API's list of so many VMs, as the emulator returns it."""
    cloud = CloudAPI(seed=1).cloud
    zone, template = next(iter(ZONES.values())), TEMPLATES[0]
    for number in range(count):
        label = f"web-{number:05}"
        cloud.create(0.0, label=label, cores=2, ram=2048, zone=zone, template=template)
    return HEAD + cloud.list(1000.0) + TAIL


# --- decoders -----------------------------------------------------------------------------------


@functools.cache
def twin(kind, *, plain):
    """Return a class with a model's fields but without its code.

    Args:
        kind: The model.
        plain: Whether fields that the API returns in two forms have one type only, for decoders
            that convert them; otherwise they have both, as in the model.
    """
    hints = typing.get_type_hints(kind)

    def bare(hint, name):
        arguments = typing.get_args(hint)
        if plain and hint == models.Int:  # like an Id: a number or a string
            return str if name == "id" else int
        if plain and hint == models.Float:
            return float
        if attrs.has(hint):
            return twin(hint, plain=plain)
        if typing.get_origin(hint) is tuple:
            return tuple[bare(arguments[0], name), ...]
        if type(None) in arguments:
            return bare(arguments[0], name) | None
        return hint

    fields = {
        field.name: attrs.field(
            type=bare(hints[field.name], field.name), default=field.default, kw_only=field.kw_only
        )
        for field in attrs.fields(kind)
    }
    return attrs.make_class(kind.__name__, fields, frozen=True, slots=True)


class Four(msgspec.Struct, frozen=True, gc=False):
    id: str
    state: str
    cores: int
    ram: int


def by_msgspec(kind):
    answer = msgspec.defstruct("Answer", [("success", bool), ("virtual_machines", list[kind])])
    return msgspec.json.Decoder(answer).decode


def by_cattrs():
    converter, kind = cattrs.Converter(), twin(models.VirtualMachine, plain=True)
    structure = converter.structure
    return lambda body: [structure(vm, kind) for vm in orjson.loads(body)["virtual_machines"]]


def ours(shape):
    return lambda body: open_envelope(shape, 200, body, method="GET", path="/")


def ways():
    raw = ours(codec.RAW_VMS)
    return {
        "json.loads": json.loads,
        "orjson.loads": orjson.loads,
        "orjson + cattrs' default converter": by_cattrs(),
        "msgspec alone, classes without code": by_msgspec(twin(models.VirtualMachine, plain=False)),
        "msgspec alone, the same classes": by_msgspec(models.VirtualMachine),
        "async_vmapi, models": lambda body: codec.decode_vms(raw(body)),
        "msgspec alone, four fields": by_msgspec(Four),
        "async_vmapi, four fields": ours(codec.SNAPSHOTS),
        "async_vmapi, undecoded parts": codec.raw_vms,
    }


def decoding(body, rounds):
    found = {name: [] for name in ways()}
    for _ in range(rounds):
        for name, decode in ways().items():
            decode(body)  # do not measure building a decoder
            gc.collect()
            began = time.process_time()
            answer = decode(body)
            found[name].append(1000 * (time.process_time() - began))
            del answer
    ms = {name: round(statistics.median(times), 1) for name, times in found.items()}

    def ratio(ours, others):
        pairs = zip(found[ours], found[others], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    return {
        "cpu_ms": ms,
        "ratios": {
            "models to msgspec alone, the same classes": ratio(
                "async_vmapi, models", "msgspec alone, the same classes"
            ),
            "models to msgspec alone, classes without code": ratio(
                "async_vmapi, models", "msgspec alone, classes without code"
            ),
            "four fields to msgspec alone": ratio(
                "async_vmapi, four fields", "msgspec alone, four fields"
            ),
        },
    }


# --- how long the event loop is blocked -----------------------------------------------------------

# How many VMs the nth list shows as online.
PHASES = {
    "the first list": 0.0,
    "nothing changed": 0.0,
    "1 % ended": 0.01,
    "everything ended": 1.0,
}


def serve():
    """Serve lists of the fleet, with more and more VMs online; send the port."""
    vms = json.loads(fleet())["virtual_machines"]
    bodies = []
    for share in PHASES.values():
        for number, vm in enumerate(vms):
            vm["state"] = "online" if number < share * len(vms) else "offline"
        bodies.append(HEAD + msgspec.json.encode(vms) + TAIL)
    asked = iter([*bodies, *bodies[-1:] * 1000])

    async def answer(_):
        return web.Response(body=next(asked), content_type="application/json")

    async def run():
        app = web.Application()
        app.router.add_get("/v2/virtual-machines", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], *(vm["id"] for vm in vms), flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


class Heartbeat:
    """Measures how long the loop was blocked, by phase: CPU, wall time, garbage collection."""

    def __init__(self, phase):
        self._phase = phase
        self.held = {}

    def _note(self, what, seconds):
        nothing = dict.fromkeys(("own_cpu_ms", "gc_ms", "cpu_ms", "clock_ms"), 0.0)
        held = self.held.setdefault(self._phase(), nothing)
        held[what] = max(held[what], round(1000 * seconds, 1))

    async def beat(self):
        began = collected = 0.0

        def collecting(stage, _):
            nonlocal began, collected
            if stage == "start":
                began = time.thread_time()
            else:
                took = time.thread_time() - began
                collected += took
                self._note("gc_ms", took)

        gc.callbacks.append(collecting)
        try:
            while True:
                cpu, clock, before = time.thread_time(), time.perf_counter(), collected
                await asyncio.sleep(0.001)
                cpu = time.thread_time() - cpu
                self._note("cpu_ms", cpu)
                self._note("own_cpu_ms", cpu - (collected - before))
                self._note("clock_ms", time.perf_counter() - clock - 0.001)
        finally:
            gc.callbacks.remove(collecting)


async def watched(port, ids):
    """Await a fleet until it is online, then list it; return how long that blocked the loop."""
    origin = f"http://127.0.0.1:{port}"
    # When lists are no longer considered stale.
    tokens = [seal(TaskToken(origin, "power_on", vm=vm_id, elapsed=100.0)) for vm_id in ids]
    async with Client(origin, api_key="k", api_secret="s") as client:
        phase = ""
        phases = [*PHASES, "vms.list() to models"]
        heartbeat = Heartbeat(lambda: phase or phases[max(0, client.requests.get("list", 1) - 1)])
        tasks = [client.resume(token) for token in tokens]
        waiting = [asyncio.ensure_future(task.wait()) for task in tasks]
        await asyncio.sleep(0)  # all are waiting
        beating = asyncio.ensure_future(heartbeat.beat())
        await asyncio.wait(waiting)
        phase = phases[-1]
        await asyncio.sleep(0.05)
        await client.vms.list()
        await asyncio.sleep(0.05)
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        assert all(task.evidence == "observed" for task in tasks)
    return heartbeat.held


def holds(rounds):
    found = []
    for _ in range(rounds):
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True
        )
        try:
            port, *ids = server.stdout.readline().split()
            found.append(asyncio.run(watched(port, ids)))
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
    return {
        phase: {what: statistics.median(held[phase][what] for held in found) for what in figures}
        for phase, figures in found[0].items()
    }


def paint(figures):
    def onto(axes, colours):
        ms = figures["decoding"]["cpu_ms"]
        names = [*ms][::-1]
        bars = axes[0].barh(
            names,
            [ms[name] for name in names],
            color=[colours[0 if name.startswith("async_vmapi") else 2] for name in names],
            height=0.6,
        )
        axes[0].bar_label(bars, fmt="%.1f", padding=3)
        axes[0].set_title("10,000 machines, ms of CPU")
        holds = figures["longest_hold"]
        phases = [*holds][::-1]
        whole = axes[1].barh(
            phases,
            [holds[phase]["cpu_ms"] for phase in phases],
            color=colours[2],
            height=0.6,
            label="with garbage collection",
        )
        axes[1].bar_label(whole, fmt="%.1f", padding=3)
        axes[1].barh(
            phases,
            [holds[phase]["own_cpu_ms"] for phase in phases],
            color=colours[0],
            height=0.6,
            label="without",
        )
        axes[1].axvline(25, color=colours[1], linestyle="--")
        axes[1].legend()
        axes[1].set_title("the longest hold of the loop, ms of CPU")
        for axis in axes:
            axis.margins(x=0.15)

    draw("decoding", onto, columns=2, size=(11.0, 3.2))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--draw", action="store_true", help="only draw the saved figures")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.draw:
        paint(kept("decoding"))
        return
    body = fleet()
    figures = {
        "machines": COUNT,
        "bytes": len(body),
        "rounds": options.rounds,
        "decoding": decoding(body, options.rounds),
        "longest_hold": holds(max(5, options.rounds)),
    }
    keep("decoding", figures)
    print(json.dumps(figures, indent=2))
    paint(figures)


if __name__ == "__main__":
    main()
