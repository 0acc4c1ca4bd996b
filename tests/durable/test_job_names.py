"""The names of jobs that shell completion reads from the database by itself."""

from async_vmapi.cli.completion.values import SOURCES, Context
from async_vmapi.durable import DurableFleet

from .fleets import client_of


async def test_names_of_jobs(database_url, lively):
    """Of all jobs, the newest first, and of nothing else in the database."""
    async with DurableFleet(database_url, client_of(lively)) as fleet:
        for name in ("night-reboot", "second"):
            await fleet.submit(name).power_off(["vm-1"])
    found = [job.value for job in SOURCES["job"](Context(database=database_url))]
    assert found == ["second", "night-reboot"]
