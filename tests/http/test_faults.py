"""The emulator's faults over real HTTP."""

import asyncio
import contextlib

import aiohttp
import pytest
import yarl

from async_vmapi import (
    APIError,
    Client,
    ConnectError,
    DecodingError,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    TransportError,
    TransportTimeout,
)
from async_vmapi.emulator import CloudAPI, Emulator, Fault, FaultPlan

# What each does to a call, as seen by a client.
FAULTS = {
    "refuse": ({"seconds": 0.05}, TransportError),
    "drop_before": ({}, TransportError),
    "drop_after": ({}, TransportError),
    "stall": ({"seconds": 5}, TransportTimeout),
    "rate_limited": ({"retry_after": 0}, RateLimited),
    "server_error": ({"status": 503}, ServerError),
    "truncated": ({}, TransportError),
    "html": ({}, DecodingError),
    "success_false": ({}, APIError),
    "slow_body": ({"seconds": 0.1}, None),
    "wrong_content_type": ({}, None),
    "close_idle": ({}, None),
    "stale_list": ({}, None),
    "unknown_state": ({}, None),
    "huge_body": ({"size": 200_000}, DecodingError),
}


@pytest.fixture
async def client(emulator):
    """A client without retries, neither its own nor, on a lent session, aiohttp's of reads."""
    async with (
        aiohttp.ClientSession() as session,
        Client(
            emulator.url,
            session=session,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            timeout=0.5,
            max_response_size=100_000,
            max_retries=0,
            reconcile_timeout=0,
            min_poll_interval=0.01,
            max_staleness=0.0,
        ) as client,
    ):
        yield client


async def listening(emulator):
    """Wait until the emulator accepts connections again."""
    url = yarl.URL(emulator.url)
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection(url.host, url.port)
            writer.close()
            return
        await asyncio.sleep(0.01)


class TestFaults:
    @pytest.mark.parametrize("kind", FAULTS)
    async def test_each_kind(self, emulator, client, kind):
        """A call that is hit ends like this; the next one is normal."""
        fields, error = FAULTS[kind]
        emulator.api.faults.fail_next("list", kind, **fields)
        if error is None:
            assert await client.vms.list() == []
        else:
            with pytest.raises(error) as caught:
                await client.vms.list()
            assert type(caught.value) is error
        # Its connection may be gone, and whether that was noticed is chance.
        for _ in range(2):
            if kind == "refuse":
                await listening(emulator)
            try:
                assert await client.vms.list() == []
            except TransportError:
                assert kind == "close_idle"
            else:
                break
        assert emulator.api.faults.injected == {kind: 1}

    async def test_a_connection_is_really_refused(self, emulator, client):
        """For a while no server listens; then the same port responds again."""
        emulator.api.faults.fail_next("list", "refuse", seconds=1.5)
        with pytest.raises(TransportError):
            await client.vms.list()
        with pytest.raises(ConnectError):
            await client.vms.list()
        await listening(emulator)
        assert await client.vms.list() == []

    async def test_a_vm_reported_as_absent(self, emulator, client, request_for):
        """The next read shows it."""
        vm = await (await client.vms.create(request_for()))
        emulator.api.faults.fail_next("get", "not_found")
        with pytest.raises(NotFound):
            await client.vms.get(vm)
        assert (await client.vms.get(vm)).id == vm.id

    @pytest.mark.parametrize(("kind", "made"), [("drop_before", 0), ("drop_after", 1)])
    async def test_before_and_after_processing(self, emulator, client, request_for, kind, made):
        """The difference is in the cloud."""
        emulator.api.faults.fail_next("create", kind)
        # Its one lookup may come before the VM is visible.
        with contextlib.suppress(OutcomeUnknown):
            assert (await client.vms.create(request_for())).adopted
        assert len(emulator.cloud.vms) == made

    @pytest.mark.parametrize("kind", ["refuse", "stall", "slow_body"])
    async def test_closing_during_a_fault(self, kind):
        """Nothing is left open or logged."""
        plan = FaultPlan([Fault(kind=kind, probability=1, seconds=30)])
        async with (
            Emulator(faults=plan) as emulator,
            Client(
                emulator.url,
                api_key=emulator.api_key,
                api_secret=emulator.api_secret,
                max_retries=0,
            ) as client,
        ):
            calling = asyncio.create_task(client.regions.list())
            await asyncio.sleep(0.1)
            calling.cancel()
            await asyncio.wait({calling})

    def test_faults_are_for_a_new_cloud(self):
        """An existing one has its own."""
        with pytest.raises(ValueError, match="faults are for a new API"):
            Emulator(CloudAPI(), faults=FaultPlan())
