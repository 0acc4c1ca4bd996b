"""Shared by all tests: a cloud in memory, a cloud over HTTP, and clients of them."""

import asyncio
import os

import pytest
from coverage import Coverage
from hypothesis import settings

from async_vmapi import Client, CreateRequest, ImageBoot
from async_vmapi.emulator import CloudAPI, Emulator, Settings
from tests.virtual_time import JUMPING

# Before Python 3.14 pytest-asyncio gets the current loop, which creates one that is never closed,
# unless it was set to none (pytest-dev/pytest-asyncio#724).
asyncio.set_event_loop(None)

ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
TEMPLATE = "2268"


CAMPAIGN = os.environ.get("VMAPI_CAMPAIGN") == "1"
"""Whether `nox -s campaign` runs every case of what the daily tests run a tenth of."""

# No deadlines: how long an example takes depends on what else the computer does.
settings.register_profile("daily", deadline=None)
settings.register_profile("campaign", max_examples=500, deadline=None)
settings.load_profile("campaign" if CAMPAIGN else "daily")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Let nothing measure a worker but what pytest-cov pauses for tests with `no_cover`.

    Coverage measures it as a program, too, and pytest-cov as if it started workers of its own.
    """
    while hasattr(session.config, "workerinput") and (running := Coverage.current()):
        running.stop()


def pytest_collection_modifyitems(items):
    """Let virtual time jump as soon as an event loop is idle."""
    for item in items:
        if item.get_closest_marker("looptime"):
            item.add_marker(pytest.mark.looptime(**JUMPING))


@pytest.fixture(scope="session")
def stride():
    """Run one case of so many: all in a campaign, a tenth daily."""
    return 1 if CAMPAIGN else 10


@pytest.fixture
def request_for():
    """Make the request for a VM of a given name."""

    def make(name="web-01", **changes):
        fields = {"cpus": 1, "ram": 1024, "zone_id": ZONE, "boot": ImageBoot(os=TEMPLATE)}
        return CreateRequest(name=name, **(fields | changes))

    return make


@pytest.fixture
def cloud_api():
    """A lifelike cloud in memory that accepts only what is documented."""
    return CloudAPI(settings=Settings(strict=True), seed=1)


@pytest.fixture
async def memory_client(cloud_api):
    """A client of the cloud in memory."""
    async with Client.in_memory(cloud_api, seed=1) as client:
        yield client


@pytest.fixture
async def emulator():
    """A cloud over HTTP in which everything happens at once, except what must be seen to happen.

    It accepts only what is documented.
    """
    at_once = Settings(
        create=0.02,
        not_found=0.01,
        address=0,
        resize=0.6,
        shutdown=0.1,
        power_on=0.1,
        power_off=0.1,
        reboot=0.4,
        reset=0.4,
        delete=0.1,
        stale=0,
        strict=True,
    )
    async with Emulator(settings=at_once, seed=1) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator):
    """A client of the cloud over HTTP that polls as often as things happen there."""
    async with Client(
        emulator.url,
        api_key=emulator.api_key,
        api_secret=emulator.api_secret,
        min_poll_interval=0.002,
        max_staleness=0.0,
        max_poll_interval=0.01,
    ) as client:
        yield client
