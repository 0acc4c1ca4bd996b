"""Reboot many VMs, one zone after the other, in waves that stay healthy; can be resumed.

    python examples/rolling_reboot.py "web-*" --dry-run
    python examples/rolling_reboot.py "web-*" --min-online 80% --check ssh,http:8080/health
    python examples/rolling_reboot.py "web-*" --resume reboot.json

The first VM is a canary. If it passes the check after its reboot and for a minute more, 10% of its
zone follow, and then the rest, while `--min-online` of each zone stay online. Ctrl-C starts no more
reboots and saves a report of what was done and what was not.
"""

import argparse
import asyncio
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from async_vmapi import BulkEvent, BulkInterrupted, BulkPlan, BulkReport, Client, Ready


def plan_of(options: argparse.Namespace) -> BulkPlan:
    """Return the plan; all but the limit applies within each zone."""
    online: str = options.min_online
    return BulkPlan(
        limit=20,
        spread_by="zone",
        waves=[1, "10%", "100%"],
        max_failures="5%",
        min_online=int(online) if online.isdecimal() else online,
        check=Ready.parse(options.check),
        soak=options.soak,
        dry_run=options.dry_run,
        on_event=show,
    )


async def reboot(
    client: Client, pattern: str, plan: BulkPlan, *, before: BulkReport | None = None
) -> BulkReport:
    """Reboot the VMs whose name matches, or resume an interrupted run.

    Args:
        client: The client.
        pattern: A name with ``*`` and ``?``.
        plan: How.
        before: The report of the interrupted run.
    """
    bulk = client.bulk(plan)
    if before is not None:
        return await bulk.resume(before)
    vms = await client.vms.list()
    return await bulk.reboot([vm for vm in vms if fnmatch.fnmatch(vm.label or "", pattern)])


def show(event: BulkEvent) -> None:
    """Print the progress."""
    if event.outcome is not None:
        print(f"  {event.item}: {event.outcome.status}, {event.in_flight} in flight")
    elif event.kind in ("soaking", "stopped"):
        print(f"{event.kind}: {event.reason}")
    elif event.kind == "started":
        print(f"  {event.item}: rebooting, in {event.domain}, wave {event.wave}")


def main(
    arguments: Sequence[str] | None = None, make_client: Callable[[], Client] = Client.from_env
) -> None:
    """Parse the command line, run, and always save the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pattern", help="a name with * and ?")
    parser.add_argument("--min-online", default="80%", help="of each zone, like 10 or 80%%")
    parser.add_argument("--check", default="ssh", help="what each VM must do, like ssh,tcp:443")
    parser.add_argument("--soak", type=float, default=60, help="seconds to stay healthy")
    parser.add_argument("--dry-run", action="store_true", help="show the waves only")
    parser.add_argument("--report", type=Path, default=Path("reboot.json"))
    parser.add_argument("--resume", type=Path, help="report of an interrupted run")
    options = parser.parse_args(arguments)
    file: Path = options.resume or options.report
    before = BulkReport.from_json(file.read_text("utf-8")) if options.resume else None

    async def run() -> BulkReport:
        async with make_client() as client:
            return await reboot(client, options.pattern, plan_of(options), before=before)

    try:
        report = asyncio.run(run())
    except BaseException as error:
        if interrupted := BulkInterrupted.from_exception(error):  # Ctrl-C, a timeout, a task group
            file.write_text(interrupted.report.to_json(), "utf-8")
            print(f"{interrupted.report}; resume with --resume {file}")
        raise
    if report.dry_run:
        print(*(f"{outcome.item}: {outcome.reason}" for outcome in report.outcomes), sep="\n")
        return
    file.write_text(report.to_json(), "utf-8")
    print(report)
    report.raise_on_failure()


if __name__ == "__main__":
    main()
