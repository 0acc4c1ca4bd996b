"""Reboot many VMs in waves while most of them stay online; can be resumed if interrupted.

    python examples/rolling_reboot.py "web-*" --min-online 80%
    python examples/rolling_reboot.py "web-*" --resume reboot.json

The first VM is a canary. If its reboot succeeds, 10% of them follow, and then the rest, while
`--min-online` of them stay online. Ctrl-C starts no more reboots and saves a report of what was
done and what was not.
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
    """Reboot the VMs whose name matches, or resume an interrupted run.

    Args:
        client: The client.
        pattern: A name with ``*`` and ``?``.
        min_online: VMs to keep online, a number or a percentage.
        before: The report of the interrupted run.
    """
    bulk = client.bulk(
        BulkPlan(
            limit=20,
            waves=[1, "10%", "100%"],
            max_failures="5%",
            min_online=min_online,
            on_event=show,
        )
    )
    if before is not None:
        return await bulk.resume(before)
    vms = await client.vms.list()
    return await bulk.reboot([vm for vm in vms if fnmatch.fnmatch(vm.label or "", pattern)])


def show(event: BulkEvent) -> None:
    """Print the progress."""
    if event.outcome is not None:
        print(f"  {event.item}: {event.outcome.status}, {event.in_flight} in flight")
    elif event.kind == "stopped":
        print(f"stopped: {event.reason}")
    elif event.kind == "started":
        print(f"  {event.item}: rebooting, in wave {event.wave}")


def main(
    arguments: Sequence[str] | None = None, make_client: Callable[[], Client] = Client.from_env
) -> None:
    """Parse the command line, run, and always save the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pattern", help="a name with * and ?")
    parser.add_argument("--min-online", default="80%", help="VMs to keep online, like 10 or 80%%")
    parser.add_argument("--report", type=Path, default=Path("reboot.json"))
    parser.add_argument("--resume", type=Path, help="report of an interrupted run")
    options = parser.parse_args(arguments)
    min_online: str = options.min_online
    file: Path = options.resume or options.report
    before = BulkReport.from_json(file.read_text("utf-8")) if options.resume else None

    async def run() -> BulkReport:
        async with make_client() as client:
            return await reboot(
                client,
                options.pattern,
                min_online=int(min_online) if min_online.isdecimal() else min_online,
                before=before,
            )

    try:
        report = asyncio.run(run())
    except BaseException as error:
        if interrupted := BulkInterrupted.from_exception(error):  # Ctrl-C, a timeout, a task group
            file.write_text(interrupted.report.to_json(), "utf-8")
            print(f"{interrupted.report}; resume with --resume {file}")
        raise
    file.write_text(report.to_json(), "utf-8")
    print(report)
    report.raise_on_failure()


if __name__ == "__main__":
    main()
