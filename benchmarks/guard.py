"""Detect regressions in the cost of frequent operations, without measuring time.

Run it with ``python benchmarks/guard.py``, with the package and looptime installed. It counts the
bytecode instructions executed (without the emulator's and the test loop's), the requests, and the
bytes kept or the peak of bytes. These do not depend on the computer or its load, but on the Python
version, so ``costs.json`` has them for each version. It fails if a cost is more than 20 % above;
``--update`` saves the current costs, to be committed with the change that causes them.
"""

import _weakrefset
import argparse
import asyncio
import gc
import json
import selectors
import sys
import tracemalloc
from asyncio import selector_events
from contextlib import contextmanager
from pathlib import Path

import anyio.lowlevel
import looptime

import async_vmapi.emulator
from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.emulator import CloudAPI, in_memory
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES
from async_vmapi.tasks.token import TaskToken, seal
from async_vmapi.transport import codec
from async_vmapi.transport.responses import open_envelope

FILE = Path(__file__).with_name("costs.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
MARGIN = 1.2
UNCOUNTED = (
    str(Path(async_vmapi.emulator.__file__).parent),
    # The code of the clock that jumps.
    str(Path(looptime.__file__).parent),
    selectors.__file__,
    selector_events.__file__,
    _weakrefset.__file__,
    __file__,
)
TURN = asyncio.BaseEventLoop._run_once.__code__
WATCHERS = 1_000
BULK = 100
AWAITED = 200


def uncounted(code):
    return code is TURN or code.co_filename.startswith(UNCOUNTED)


class Instructions:
    """Counts bytecode instructions as they are executed, while `counting`."""

    emulating = False

    def __init__(self):
        self.count = 0

    @contextmanager
    def counting(self):
        start, stop = (
            (self._monitor, self._unmonitor)
            if sys.version_info >= (3, 12)
            else (lambda: sys.settrace(self._called), lambda: sys.settrace(None))
        )
        # Otherwise, collections depend on previous objects.
        gc.collect()
        gc.disable()
        start()
        try:
            yield self
        finally:
            stop()
            gc.enable()

    def _called(self, frame, _event, _argument):
        if self.emulating or uncounted(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._executed

    def _executed(self, _frame, event, _argument):
        self.count += event == "opcode"
        return self._executed

    def _monitor(self):
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        monitoring.use_tool_id(tool, "async_vmapi guard")

        def executed(code, _offset):
            if uncounted(code):
                return monitoring.DISABLE
            self.count += not self.emulating
            return None

        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, executed)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)

    def _unmonitor(self):
        monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(tool)
        monitoring.restart_events()


@contextmanager
def emulator_uncounted():
    """Also exclude what the emulator calls."""
    deliver = in_memory.deliver

    def delivered(*arguments, **keywords):
        Instructions.emulating = True
        try:
            return deliver(*arguments, **keywords)
        finally:
            Instructions.emulating = False

    in_memory.deliver = delivered
    try:
        yield
    finally:
        in_memory.deliver = deliver


async def executed(work, per=1):
    """Return the instructions of an awaitable, divided by `count`."""
    with Instructions().counting() as instructions:
        await work
    return round(instructions.count / per)


def requests(count):
    zone, boot = next(iter(ZONES)), ImageBoot(os="2268")
    return [
        CreateRequest(name=f"w-{number}", cpus=1, ram=1024, zone_id=zone, boot=boot)
        for number in range(count)
    ]


def cloud_of(count):
    """Return a cloud of so many VMs that are online."""
    api = CloudAPI(seed=1)
    zone, template = next(iter(ZONES.values())), TEMPLATES[0]
    for number in range(count):
        label = f"w-{number}"
        api.cloud.create(0.0, label=label, cores=1, ram=1024, zone=zone, template=template)
    api.cloud.advance(1000.0)
    return api


def client_of(api):
    return Client.in_memory(api, latency=0.02, seed=1)


async def warm_up():
    """Trigger lazy imports and caches."""
    async with client_of(CloudAPI(seed=1)) as client:
        report = await client.bulk().create(requests(2))
        await client.vms.get(report.succeeded[0].vm_id)
        await client.vms.list()
    await anyio.lowlevel.checkpoint()


async def online(client, request):
    return await (await client.vms.create(request))


# --- scenarios ------------------------------------------------------------------------------------


async def one_get():
    api = cloud_of(1)
    (vm_id,) = api.cloud.vms
    async with client_of(api) as client:
        await client.vms.get(vm_id)
        yield "instructions", await executed(client.vms.get(vm_id))


async def one_create_to_online():
    api = CloudAPI(seed=1)
    first, second = requests(2)
    async with client_of(api) as client:
        await online(client, first)
        before = api.requests.total()
        yield "instructions", await executed(online(client, second))
        yield "requests", api.requests.total() - before


async def decoding_a_thousand():
    body = b'{"success":true,"virtual_machines":' + cloud_of(1000).cloud.list(1000.0) + b"}"

    def opened(shape):
        return open_envelope(shape, 200, body, method="GET", path="/")

    async def models():
        return codec.decode_vms(opened(codec.RAW_VMS))

    async def four_fields():
        return opened(codec.SNAPSHOTS)

    for name, decode in (("models", models), ("four fields", four_fields)):
        await decode()
        yield f"instructions, {name}", await executed(decode())
        tracemalloc.start()
        await decode()
        yield f"bytes at most, {name}", tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


async def a_tick_of_a_thousand_watchers():
    api = cloud_of(WATCHERS)
    async with client_of(api) as client:
        tokens = [
            seal(TaskToken(client.origin, "shutdown", vm=vm_id, elapsed=100.0))
            for vm_id in api.cloud.vms
        ]
        waiting = [asyncio.ensure_future(client.resume(token).wait()) for token in tokens]
        await asyncio.sleep(0)
        lists = client._hub._poller.lists
        # Called directly, to exclude everything else.
        lists._timer.cancel()
        for name in ("everything is new", "nothing has changed"):
            yield f"instructions, {name}", await executed(lists._poll())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def a_bulk_operation():
    api = cloud_of(BULK)
    async with client_of(api) as client:
        bulk = client.bulk(limit=BULK)
        yield "instructions", await executed(bulk.power_off(list(api.cloud.vms)), per=BULK)
        bulk.report.raise_on_failure()
        yield "requests of all", api.requests.total()


async def an_awaited_create():
    async with client_of(CloudAPI(seed=1)) as client:
        await online(client, CreateRequest(**_fields(requests(1)[0], name="first")))
        wanted = requests(AWAITED)
        gc.collect()
        tracemalloc.start()
        creating = [asyncio.ensure_future(online(client, request)) for request in wanted]
        await asyncio.sleep(20)
        gc.collect()
        others = [tracemalloc.Filter(False, f"{path}*") for path in UNCOUNTED]
        others.append(tracemalloc.Filter(False, tracemalloc.__file__))
        traces = tracemalloc.take_snapshot().filter_traces(others).traces
        tracemalloc.stop()
        yield "bytes kept", round(sum(trace.size for trace in traces) / AWAITED)
        await asyncio.gather(*creating)


def _fields(request, **changes):
    names = ("name", "cpus", "ram", "zone_id", "boot")
    return {name: getattr(request, name) for name in names} | changes


SCENARIOS = (
    one_get,
    one_create_to_online,
    decoding_a_thousand,
    a_tick_of_a_thousand_watchers,
    a_bulk_operation,
    an_awaited_create,
)


def measure(only=""):
    """Return the costs of the scenarios whose name contains `only`, by scenario and unit."""

    async def collected(scenario):
        return {what: cost async for what, cost in scenario()}

    found = {}
    for scenario in SCENARIOS:
        name = scenario.__name__.replace("_", " ")
        if only not in name:
            continue
        loop_class = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
        with emulator_uncounted(), asyncio.Runner(loop_factory=loop_class) as runner:
            runner.run(warm_up())
            costs = runner.run(collected(scenario))
        found |= {f"{name}: {what}": cost for what, cost in costs.items()}
    return found


def judge(found, known):
    """Return messages on costs that are too high or unknown."""
    wrong = []
    for name, cost in found.items():
        if name not in known:
            wrong.append(f"{name}: {cost}, and costs.json has no figure for it")
        elif cost > MARGIN * known[name]:
            more = 100 * (cost / known[name] - 1) if known[name] else 100
            wrong.append(f"{name}: {cost}, which is {more:.0f} % above {known[name]}")
    return wrong


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="save the current costs")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="only scenarios whose name contains this"
    )
    options = parser.parse_args(arguments)
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = measure(options.only)
    for name, cost in found.items():
        before = known.get(VERSION, {}).get(name)
        change = f"  ({100 * (cost / before - 1):+.1f} %)" if before else ""
        print(f"{cost:>10}  {name}{change}")
    if options.update:
        known[VERSION] = known.get(VERSION, {}) | found if options.only else found
        FILE.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
        return
    if VERSION not in known:
        sys.exit(f"costs.json has no figures for Python {VERSION}; make them with --update")
    if wrong := judge(found, known[VERSION]):
        sys.exit("too expensive:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
