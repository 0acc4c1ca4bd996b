"""1,000 VMs, from create until observed online: async_vmapi compared with its peers.

Run it with ``python benchmarks/peers.py``, on Linux, with the dependency group ``benchmarks``
installed. The modules in ``benchmarks/contenders`` describe the set-up of each contender and the
documentation it follows: once as documented, and once tuned to the same polling interval for all.
Ours also runs with a rate limit, which the others do not have.

For all contenders: each VM takes 30 to 90 s, uniformly distributed; the emulator and the contender
run in new processes each time, over HTTP without a rate limit; 1,000 creates start at once. The
contenders take turns in an order that rotates each round; figures are medians over the rounds.

The cloud's clock runs faster, so that a run takes less than a minute, and all polling intervals are
shortened by the same factor. Delays (from the actual completion in the emulator until the code that
awaits the VM continues) and wall time are in seconds of the cloud's clock, so the latency of
requests counts more than in reality.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import results

from async_vmapi.emulator import CloudAPI, Emulator, Settings

WORK = Path(__file__).with_name("contenders") / "work.py"
NAMES = {
    "ours": "async_vmapi",
    "threads": "requests, 50 threads",
    "azure_core": "azure-core",
    "google_api_core": "google-api-core",
    "botocore_waiter": "botocore's waiter",
}
COLUMNS = {
    "wall_seconds": "wall, s",
    "cpu_seconds": "CPU, s",
    "memory_megabytes": "memory, MB",
    "requests": "requests",
    "looks": "of them looks",
    "lag_p50_seconds": "delay p50, s",
    "lag_p95_seconds": "delay p95, s",
    "peak_requests": "peak in 100 ms",
    "peak_looks": "peak of looks",
}
PEAK = 0.1
RATE = 300.0
SETUPS = (("documented", "tuned"), ("documented", "tuned", "limited"))
SMALL = {"count": 20, "speed": 60.0, "runs": 1, "interval": 6.0}


def serve(pipe, seed, speed, count):
    """Serve a cloud until stopped, and then send its requests and the actual completion times."""

    async def run():
        api = CloudAPI(settings=Settings(create=(30, 90)), seed=seed, log=10_000 * count)
        async with Emulator(api, speed=speed) as emulator:
            cpu = time.process_time()
            pipe.send((emulator.url, emulator.api_key, emulator.api_secret))
            await asyncio.to_thread(pipe.recv)
            cpu = time.process_time() - cpu
            # When the cloud's clock was 0, on the clock that all processes share.
            zero = time.monotonic() - emulator.now / speed
            api.cloud.advance(emulator.now)
            ends = {
                operation.vm_id: zero + operation.finished_at / speed
                for operation in api.cloud.operations
                if operation.finished_at is not None
            }
            came = [(zero + handled.at / speed, handled.call) for handled in api.log]
            pipe.send({"ends": ends, "came": came, "cpu": cpu})

    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(run())


def peak(moments):
    """Return the maximum number of these times within 100 ms."""
    moments = sorted(moments)
    most = first = 0
    for number, moment in enumerate(moments):
        while moment - moments[first] >= PEAK:
            first += 1
        most = max(most, number - first + 1)
    return most


def percentile(values, share):
    """Return a percentile: the smallest value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def figures(cost, truth, *, count, speed):
    """Combine the observations of the contender's and the emulator's processes."""
    seen, ends = cost["seen"], truth["ends"]
    if len(seen) != count or seen.keys() != ends.keys():
        raise RuntimeError(f"{len(ends)} of {count} VMs were created, {len(seen)} of them observed")
    early = sum(seen[vm_id] < ends[vm_id] for vm_id in seen)
    if early:
        raise RuntimeError(f"{early} VMs were reported online before they were")
    lags = [(seen[vm_id] - ends[vm_id]) * speed for vm_id in seen]
    came = truth["came"]
    wall = max(seen.values()) - cost["began"]
    return {
        "wall_seconds": wall * speed,
        "cpu_seconds": cost["cpu_seconds"],
        "memory_megabytes": cost["memory_bytes"] / 2**20,
        "requests": len(came),
        "looks": sum(call != "create" for _, call in came),
        "lag_p50_seconds": percentile(lags, 0.5),
        "lag_p95_seconds": percentile(lags, 0.95),
        "peak_requests": peak([at for at, _ in came]),
        "peak_looks": peak([at for at, call in came if call != "create"]),
        "calls": dict(Counter(call for _, call in came)),
        "emulator_busy": truth["cpu"] / wall,
    }


def measure(contender, *, count, speed, interval, seed, rate=None):
    """Run one contender once, and return its figures."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there, seed, speed, count), daemon=True)
    server.start()
    try:
        url, key, secret = here.recv()
        asked = {
            "contender": contender,
            "url": url,
            "key": key,
            "secret": secret,
            "count": count,
            "interval": interval,
            "speed": speed,
            "rate": rate,
        }
        done = subprocess.run(
            [sys.executable, str(WORK)],
            input=json.dumps(asked) + "\n",
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
        )
        here.send(None)
        truth = here.recv()
    finally:
        server.terminate()
        server.join()
    return figures(json.loads(done.stdout), truth, count=count, speed=speed)


def medians(taken):
    """Return the median and the spread of every figure."""
    result = {}
    for name in (*COLUMNS, "emulator_busy"):
        values = [run[name] for run in taken]
        result[name] = round(statistics.median(values), 2)
        result[f"{name}_range"] = [round(min(values), 2), round(max(values), 2)]
    return result | {"calls_of_the_last_run": taken[-1]["calls"]}


def compare(*, contenders, count, speed, runs, interval):
    """Run all contenders in turns, and return the medians by contender and set-up."""
    setups = [(name, how) for name in contenders for how in SETUPS[name == "ours"]]
    taken = {setup: [] for setup in setups}
    for run in range(runs):
        turn = run % len(setups)
        for name, how in setups[turn:] + setups[:turn]:
            got = measure(
                name,
                count=count,
                speed=speed,
                interval=interval if how == "tuned" else None,
                seed=run + 1,
                rate=RATE if how == "limited" else None,
            )
            taken[name, how].append(got)
            short = {column: round(got[column], 2) for column in (*COLUMNS, "emulator_busy")}
            print(run + 1, name, how, short, file=sys.stderr, flush=True)
    return [{"contender": name, "setup": how, **medians(taken[name, how])} for name, how in setups]


def first_in(rows):
    """Return the best row of every column, and by which factor it is better."""
    result = {}
    for column in COLUMNS:
        ours = [row for row in rows if row["contender"] == "ours"]
        others = [row for row in rows if row["contender"] != "ours"]
        if ours and others:
            best = min(others, key=lambda row: row[column])
            result[column] = {
                "ours": ours[0][column],
                "next": best[column],
                "of": best["contender"],
                "factor": round(best[column] / max(ours[0][column], 1e-9), 2),
            }
    return result


def table(rows):
    """Return the medians as a table in Markdown."""
    lines = [
        "| " + " | ".join(["", *COLUMNS.values()]) + " |",
        "|---" + "|--:" * len(COLUMNS) + "|",
    ]
    for row in rows:
        cells = [f"{row[column]:,.6g}" for column in COLUMNS]
        lines.append(f"| {NAMES[row['contender']]}, {row['setup']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def paint(rows):
    """Return a function that draws polls against delay."""

    def draw(axes, colours):
        (axis,) = axes
        for colour, name in zip(colours, NAMES, strict=False):
            own = [r for r in rows if r["contender"] == name and r["setup"] != "limited"]
            if not own:
                continue
            across = [row["lag_p50_seconds"] for row in own]
            up = [row["looks"] for row in own]
            axis.plot(across, up, color=colour, linewidth=1, alpha=0.5)
            for row, x, y in zip(own, across, up, strict=True):
                hollow = colour if row["setup"] == "tuned" else "none"
                axis.plot(
                    x,
                    y,
                    "o",
                    markersize=8,
                    color=colour,
                    markerfacecolor=hollow,
                    label=NAMES[name] if row["setup"] == "tuned" else None,
                )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("median delay until an end is seen, s (hollow: as documented)")
        axis.set_ylabel("requests beyond the creates")
        axis.grid(alpha=0.5)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw


def show(rows):
    """Draw the picture, and print the table."""
    results.draw("peers", paint(rows), size=(8.0, 3.6))
    print(table(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="number of VMs")
    parser.add_argument("--runs", type=int, default=5, help="number of rounds, for medians")
    parser.add_argument("--speed", type=float, default=4.0, help="of the cloud's clock")
    parser.add_argument("--interval", type=float, default=10.0, help="of the tuned, cloud seconds")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--draw", action="store_true", help="only draw the saved figures")
    parser.add_argument("--small", action="store_true", help="a few VMs; save nothing")
    options = parser.parse_args()
    wanted = {name: getattr(options, name) for name in SMALL}
    if options.small:
        wanted = SMALL
    if options.draw:
        show(results.kept("peers")["rows"])
        return
    rows = compare(contenders=options.only, **wanted)
    documented = [row for row in rows if row["setup"] == "documented"]
    tuned = [row for row in rows if row["setup"] == "tuned"]
    result = {
        **wanted,
        "rows": rows,
        "as_documented": first_in(documented),
        "at_one_interval": first_in(tuned),
    }
    if not options.small and options.only == list(NAMES):
        results.keep("peers", result)
        show(rows)
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
