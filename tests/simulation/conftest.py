"""Shared by the simulated tests: a lifelike cloud in memory, and a client of it."""

import pytest

from async_vmapi import Client
from async_vmapi.emulator import CloudAPI


@pytest.fixture
def api():
    """A lifelike cloud."""
    return CloudAPI(seed=1)


@pytest.fixture
async def client(api):
    """A client whose requests take twenty milliseconds."""
    async with Client.in_memory(api, latency=0.02, seed=1) as client:
        yield client
