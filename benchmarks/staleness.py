"""The cost of ``max_staleness``: delay until completion is observed, and number of requests.

Run it with ``python benchmarks/staleness.py``, with the package and looptime installed. It uses the
emulator in memory with its default durations and a virtual clock, so the figures do not depend on
the computer. Each operation runs in fleets, started within 10 s, and on single VMs, each with its
seed; with fresh reads, and with stale ones by ``Settings(staleness=)``. Delays are from the actual
completion until the awaiting code continues. A false verdict is one before the actual completion,
or a failure, as no operation fails. The command fails if a client with at least the actual
staleness has one.

``--keep`` writes the figures to ``results/staleness.json`` and the tables into
``docs/completion.md``. They are compared with the figures in that file, or with ``--before COMMIT``
with that commit's client, measured on the current emulator.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import looptime
from results import FOLDER, keep, kept

# For the current emulator with a client from before `async_vmapi.Response`.
import async_vmapi.transport.transport

if not hasattr(async_vmapi.transport.transport, "Response"):
    from async_vmapi.wire import Answer

    async_vmapi.transport.transport.Response = Answer

from async_vmapi import Client, CreateRequest, Evidence, ImageBoot, VMAPIError
from async_vmapi.client import ClientOptions
from async_vmapi.emulator import CloudAPI, Settings
from async_vmapi.emulator.catalogue import TEMPLATES, ZONES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "completion.md"
MARKERS = "<!-- staleness table -->\n", "<!-- end -->\n"

KINDS = ("create", "shutdown", "power_off", "power_on", "reboot", "reset", "resize", "delete")
UNSHOWN = "reboot, not shown"
ROWS = (*KINDS, UNSHOWN)
STALENESS = (0, 3, 10)
LIMITS = (50, 500, 10_000)
SIZES = ("count", "fleets", "alone", "bulk")
WITHIN = 10.0
LATENCY = 0.02
HAS_STALENESS = "max_staleness" in ClientOptions.__annotations__
"""Whether the client is a current one."""


# --- running operations ---------------------------------------------------------------------------


def request(number):
    return CreateRequest(
        name=f"w-{number}",
        cpus=1,
        ram=1024,
        zone_id=next(iter(ZONES)),
        boot=ImageBoot(os=TEMPLATES[0]["id"]),
    )


def cloud_of(count, *, settings=None, state="online", seed=1):
    """Return a cloud with so many existing VMs."""
    api = CloudAPI(settings=settings, seed=seed)
    zone, template = next(iter(ZONES.values())), TEMPLATES[0]
    for number in range(count):
        label = f"w-{number}"
        api.cloud.place(
            0.0, label=label, cores=1, ram=1024, zone=zone, template=template, state=state
        )
    return api


def client_of(api, max_staleness=None, **options):
    if max_staleness is not None and HAS_STALENESS:
        options["max_staleness"] = max_staleness
    return Client.in_memory(api, latency=LATENCY, **options)


async def started(client, kind, number, vm):
    if kind == "create":
        return await client.vms.create(request(number))
    if kind == "resize":
        return await client.vms.resize(vm, cores=2, ram=2048)
    return await getattr(client.vms, kind)(vm)


async def run_fleet(client, api, kind, count, seconds=WITHIN):
    """Start an operation on so many VMs within so many seconds, and await them.

    Returns the operations, each with its delay and evidence, or the error instead; and the
    requests by call.
    """
    clock = asyncio.get_running_loop().time
    vms = [None] * count if kind == "create" else await client.vms.list()
    # Exclude the effect of earlier reads.
    await asyncio.sleep(60)
    before = Counter(client.requests)
    ended = {}

    async def one(number):
        await asyncio.sleep(seconds * number / count)
        task = await started(client, kind, number, vms[number])
        error = None
        try:
            await task
        except VMAPIError as problem:
            error = type(problem).__name__
        ended[task.vm_id] = clock(), task.evidence, error

    await asyncio.gather(*(one(number) for number in range(count)))
    requests = Counter(client.requests) - before
    # Until tasks that were completed too early are really complete.
    await asyncio.sleep(1000)
    api.cloud.advance(clock())
    found = []
    for operation in api.cloud.operations:
        woke, evidence, error = ended[operation.vm_id]
        found.append((operation, woke - operation.finished_at, evidence, error))
    return found, requests


def on_a_virtual_clock(body):
    loop_class = looptime.make_event_loop_class(asyncio.SelectorEventLoop)
    with asyncio.Runner(loop_factory=loop_class) as runner:
        return runner.run(body)


async def one_run(row, count, *, max_staleness, staleness, seed):
    kind = row.partition(",")[0]
    # Without `staleness` if it is 0, to run on older emulators too.
    behaviour = {"staleness": (0, staleness)} if staleness else {}
    settings = Settings(reboot_visible=row != UNSHOWN, **behaviour)
    state = "offline" if kind == "power_on" else "online"
    api = cloud_of(0 if kind == "create" else count, settings=settings, state=state, seed=seed)
    async with client_of(api, max_staleness, seed=seed) as client:
        return await run_fleet(client, api, kind, count)


# --- figures --------------------------------------------------------------------------------------


def spread_of(delays):
    delays = sorted(delays)
    if not delays:
        return None
    return {
        "median": round(statistics.median(delays), 2),
        "p95": round(delays[int(0.95 * len(delays))], 2),
        "most": round(delays[-1], 2),
    }


def figures_of(runs):
    """Return the figures of the runs of one operation."""
    found = [entry for operations, _ in runs for entry in operations]
    requests = sum((requests for _, requests in runs), Counter())
    polls = requests["get"] + requests["list"]
    done = [(delay, evidence) for _, delay, evidence, error in found if error is None]
    return {
        "delay_seconds": spread_of([delay for delay, _ in done]),
        "delay_seconds_if_assumed": spread_of(
            [delay for delay, evidence in done if evidence is Evidence.ASSUMED]
        ),
        "polls_per_vm": round(polls / len(found), 3),
        "requests_per_vm": round(requests.total() / len(found), 3),
        "evidence": dict(sorted(Counter(str(evidence) for _, evidence in done).items())),
        "errors": dict(Counter(error for *_, error in found if error is not None)),
        "false": sum(delay < 0 for delay, _ in done) + len(found) - len(done),
    }


def measure_operation(row, options, **staleness):
    sizes = {"fleet": (options.fleets, options.count), "alone": (options.alone, 1)}
    return {
        size: figures_of(
            [
                on_a_virtual_clock(one_run(row, count, seed=seed, **staleness))
                for seed in range(runs)
            ]
        )
        for size, (runs, count) in sizes.items()
    }


async def bulk_power_off(count, limit, max_staleness):
    api = cloud_of(count)
    async with client_of(api, max_staleness, seed=1) as client:
        report = await client.bulk(limit=limit).power_off(list(api.cloud.vms))
        clock = asyncio.get_running_loop().time
        report.raise_on_failure()
        seconds, requests = clock(), sum(client.requests.values())
    last = max(operation.finished_at for operation in api.cloud.operations)
    return {
        "requests_per_vm": round(requests / count, 3),
        "seconds": round(seconds, 1),
        "seconds_after_the_last_end": round(seconds - last, 2),
    }


def measure(options):
    """Return all figures of the package that is imported."""
    # Clients from before `max_staleness` do not take it.
    given = STALENESS if HAS_STALENESS else (None,)
    real = STALENESS if hasattr(Settings(), "staleness") else (0,)
    operations = {
        row: {
            f"{'any' if max_staleness is None else max_staleness}, reads {staleness}": (
                measure_operation(row, options, max_staleness=max_staleness, staleness=staleness)
            )
            for max_staleness in given
            for staleness in real
        }
        for row in options.only
    }
    bulk = {
        limit: {
            "any" if max_staleness is None else max_staleness: on_a_virtual_clock(
                bulk_power_off(options.bulk, limit, max_staleness)
            )
            for max_staleness in given
        }
        for limit in (limit for limit in LIMITS if limit <= options.bulk)
    }
    # As if read from a file.
    figures = json.loads(json.dumps({"operations": operations, "bulk_power_off": bulk}))
    return {name: getattr(options, name) for name in SIZES} | figures


def measure_commit(commit, arguments):
    """Return the figures of another commit's client, on the current emulator."""

    def unpack(of, path, folder):
        command = ["git", "-C", str(ROOT), "archive", of, path]
        archive = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        file = Path(folder, "archive.tar")
        file.write_bytes(archive)
        with tarfile.open(file) as content:
            content.extractall(folder, filter="data")

    with tempfile.TemporaryDirectory() as folder:
        unpack(commit, "async_vmapi", folder)
        emulator = Path(folder, "async_vmapi", "emulator")
        shutil.rmtree(emulator)
        shutil.copytree(ROOT / "async_vmapi" / "emulator", emulator)
        result = subprocess.run(
            [sys.executable, __file__, "--json", *arguments],
            env=os.environ | {"PYTHONPATH": folder},
            stdout=subprocess.PIPE,
            check=True,
        )
    return {"commit": commit, **json.loads(result.stdout)}


def false_verdicts(figures):
    """Return messages on false verdicts of clients that were given the actual staleness."""
    wrong = []
    for row, by_staleness in figures["operations"].items():
        for setting, sizes in by_staleness.items():
            given, _, real = setting.partition(", reads ")
            for size, found in sizes.items():
                if given != "any" and int(given) >= int(real) and found["false"]:
                    words = f"{row}, {size}, max_staleness {given}, reads up to {real} s old"
                    wrong.append(f"{words}: {found['false']} false verdicts {found['errors']}")
    return wrong


# --- tables ---------------------------------------------------------------------------------------


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def cell(figures):
    delay = figures["delay_seconds"]
    return f"{delay['median']:.2f} / {delay['p95']:.2f} · {figures['requests_per_vm']:.2f}"


def name_of(row):
    return row.replace("_", " ")


def delays_table(figures, before, size):
    head = ["operation", "before", *(f"`max_staleness={given}`" for given in STALENESS)]
    rows = [
        [
            name_of(row),
            cell(before["operations"][row]["any, reads 0"][size]),
            *(cell(found[f"{given}, reads 0"][size]) for given in STALENESS),
        ]
        for row, found in figures["operations"].items()
    ]
    return table(head, rows)


def stale_table(figures, before):
    stale = [staleness for staleness in STALENESS if staleness]
    head = ["operation"]
    for staleness in stale:
        head += [
            f"before, reads 0 to {staleness} s old",
            f"`max_staleness={staleness}`, same reads",
        ]

    def with_false(sizes):
        false = sum(found["false"] for found in sizes.values())
        return f"{cell(sizes['fleet'])}, {false} false"

    rows = []
    for row, found in figures["operations"].items():
        line = [name_of(row)]
        for staleness in stale:
            line.append(with_false(before["operations"][row][f"any, reads {staleness}"]))
            line.append(with_false(found[f"{staleness}, reads {staleness}"]))
        rows.append(line)
    return table(head, rows)


def false_table(figures, before):
    """Return false verdicts of all operations, by the client's and the actual staleness."""

    def count(found, given, real):
        return sum(
            size["false"]
            for by_staleness in found["operations"].values()
            for size in by_staleness[f"{given}, reads {real}"].values()
        )

    head = ["reads", "before", *(f"`max_staleness={given}`" for given in STALENESS)]
    rows = [
        [
            f"0 to {real} s old" if real else "fresh",
            count(before, "any", real),
            *(count(figures, given, real) for given in STALENESS),
        ]
        for real in STALENESS
    ]
    return table(head, rows)


def evidence_table(figures, before):
    words = [str(evidence) for evidence in Evidence]
    head = ["operation", "before", *(f"`max_staleness={given}`" for given in STALENESS)]

    def counts(found):
        return " / ".join(str(found["fleet"]["evidence"].get(word, 0)) for word in words)

    rows = [
        [
            name_of(row),
            counts(before["operations"][row]["any, reads 0"]),
            *(counts(found[f"{given}, reads 0"]) for given in STALENESS),
        ]
        for row, found in figures["operations"].items()
    ]
    return table(head, rows)


def bulk_table(figures, before):
    head = ["`limit`", "before", *(f"`max_staleness={given}`" for given in STALENESS)]

    def counts(found):
        return f"{found['requests_per_vm']:.2f} in {found['seconds']:.0f} s"

    rows = [
        [
            f"{int(limit):,}",
            counts(before["bulk_power_off"][limit]["any"]),
            *(counts(found[str(given)]) for given in STALENESS),
        ]
        for limit, found in figures["bulk_power_off"].items()
    ]
    return table(head, rows)


def tables(figures, before):
    count, fleets, alone, bulk = (figures[name] for name in SIZES)
    operations = len(figures["operations"]) * (fleets * count + alone)
    return f"""\
`python benchmarks/staleness.py --keep` measured this (x86_64, 2 cores, Python 3.11). The clock is
virtual, so the figures do not depend on the hardware. "Before" is commit `{before["commit"]}`,
without this model of reads. A cell has the delay in seconds from the true completion until the
waiter resumes, median / 95 %, and the requests for each VM, including the write.

{count} VMs, started within 10 s, with fresh reads, {fleets} fleets:

{delays_table(figures, before, "fleet")}
One VM alone, with fresh reads, {alone} runs:

{delays_table(figures, before, "alone")}
The same fleets with stale reads. False verdicts are those before the true completion, and failures,
since no operation fails; for the fleets and the single VMs:

{stale_table(figures, before)}
False verdicts of all these operations, of {operations:,} in each cell. They are possible only if
reads are older than the client's `max_staleness`:

{false_table(figures, before)}
Evidence in the fleets with fresh reads, observed / inferred / assumed:

{evidence_table(figures, before)}
A bulk power off of {bulk:,} VMs, requests for each VM and the duration:

{bulk_table(figures, before)}"""


def write_into_page(text):
    page = PAGE.read_text()
    (above, rest), end = page.split(MARKERS[0]), MARKERS[1]
    PAGE.write_text(f"{above}{MARKERS[0]}\n{text}\n{end}{rest.partition(end)[2]}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500, help="VMs of a fleet")
    parser.add_argument("--fleets", type=int, default=5, help="runs of a fleet")
    parser.add_argument("--alone", type=int, default=200, help="runs of a VM alone")
    parser.add_argument("--bulk", type=int, default=10_000, help="VMs of the bulk power off")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="OPERATION")
    parser.add_argument("--before", metavar="COMMIT", help="also measure this commit's client")
    parser.add_argument("--json", action="store_true", help="print figures instead of tables")
    parser.add_argument("--keep", action="store_true", help="save the figures and the tables")
    parser.add_argument(
        "--draw", action="store_true", help="only write the tables of the saved figures"
    )
    options = parser.parse_args()
    if options.draw:
        write_into_page(tables(kept("staleness")["now"], kept("staleness")["before"]))
        return
    before = None
    if options.before:
        same = [f"--{name}={getattr(options, name)}" for name in SIZES]
        before = measure_commit(options.before, [*same, "--only", *options.only])
    elif (FOLDER / "staleness.json").exists():
        before = kept("staleness")["before"]
    figures = measure(options)
    if options.json or before is None:
        print(json.dumps(figures, indent=2))
    else:
        print(tables(figures, before))
    if options.keep and before is not None:
        keep("staleness", {"now": figures, "before": before})
        write_into_page(tables(figures, before))
    if wrong := false_verdicts(figures):
        sys.exit("false verdicts:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
