"""Reboot many machines in waves, while most of them stay online; go on after an interruption.

    python examples/rolling_reboot.py "web-*" --min-online 80%
    python examples/rolling_reboot.py "web-*" --resume reboot.json

One machine goes first. If it comes back, a tenth of them follows, and then the others, never more
of them down at once than `--min-online` leaves. Ctrl-C starts no further machine and writes down
what was done and what was not.
"""

import argparse
import asyncio
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from async_vmapi import BulkEvent, BulkInterrupted, BulkPlan, BulkReport, Client


async def reboot(
    client: Client, pattern: str, *, min_online: int | str, before: BulkReport | None = None
) -> BulkReport:
    """Reboot the machines whose name fits, or what an interrupted run left of them.

    Args:
        client: The client.
        pattern: A name with ``*`` and ``?``.
        min_online: How many stay online, a number or a percentage.
        before: The report of the interrupted run.
    """
    bulk = client.bulk(
        BulkPlan(
            limit=20,
            waves=[1, "10%", "100%"],
            max_failures="5%",
            min_online=min_online,
            on_event=tell,
        )
    )
    if before is not None:
        return await bulk.resume(before)
    vms = await client.vms.list()
    return await bulk.reboot([vm for vm in vms if fnmatch.fnmatch(vm.label or "", pattern)])


def tell(event: BulkEvent) -> None:
    """Print how it goes."""
    if event.outcome is not None:
        print(f"  {event.item}: {event.outcome.status}, {event.in_flight} are under way")
    elif event.kind == "stopped":
        print(f"stopped: {event.reason}")
    elif event.kind == "started":
        print(f"  {event.item}: reboots, in wave {event.wave}")


def main(
    arguments: Sequence[str] | None = None, make_client: Callable[[], Client] = Client.from_env
) -> None:
    """Read the command line, do it, and keep the report whatever comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pattern", help="a name with * and ?")
    parser.add_argument("--min-online", default="80%", help="how many stay online")
    parser.add_argument("--report", type=Path, default=Path("reboot.json"))
    parser.add_argument("--resume", type=Path, help="a report to go on from")
    given = parser.parse_args(arguments)
    least: str = given.min_online
    kept: Path = given.resume or given.report
    before = BulkReport.from_json(kept.read_text()) if given.resume else None

    async def run() -> BulkReport:
        async with make_client() as client:
            return await reboot(
                client,
                given.pattern,
                min_online=int(least) if least.isdecimal() else least,
                before=before,
            )

    try:
        report = asyncio.run(run())
    except BaseException as error:
        if interrupted := BulkInterrupted.from_exception(error):  # Ctrl-C, a timeout, a task group
            kept.write_text(interrupted.report.to_json())
            print(f"{interrupted.report}; go on with --resume {kept}")
        raise
    kept.write_text(report.to_json())
    print(report)
    report.raise_on_failure()


if __name__ == "__main__":
    main()
