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


class TestAdmin:
    PATH = "/_emulator/faults"

    @pytest.fixture
    async def ask(self):
        """Call the admin path of an emulator that has one."""
        async with Emulator(admin=True) as emulator, aiohttp.ClientSession() as session:

            async def ask(method, content=None, **options):
                async with session.request(
                    method, emulator.url + self.PATH, json=content, **options
                ) as response:
                    return response.status, await response.json()

            ask.emulator = emulator
            yield ask

    async def test_a_plan_is_set_shown_and_cleared(self, ask):
        """It is shown with its counts."""
        plan = {"seed": 1, "fault": [{"kind": "html", "probability": 0.5, "call": "get"}]}
        assert await ask("PUT", plan) == (200, {"success": True})
        assert await ask("GET") == (200, {"plan": plan, "injected": {}})
        assert await ask("DELETE") == (200, {"success": True})
        assert (await ask("GET"))[1]["plan"] == {"fault": [], "seed": 1}

    async def test_the_next_request_of_a_call(self, ask):
        """One fault for one call."""
        emulator = ask.emulator
        assert (await ask("POST", {"call": "regions", "kind": "html"}))[0] == 200
        async with Client(
            emulator.url, api_key=emulator.api_key, api_secret=emulator.api_secret, max_retries=0
        ) as client:
            with pytest.raises(DecodingError):
                await client.regions.list()
            await client.regions.list()
        assert (await ask("GET"))[1]["injected"] == {"html": 1}

    @pytest.mark.parametrize(
        ("method", "content", "status", "words"),
        [
            ("PUT", {"fault": [{"kind": "x", "probability": 1}]}, 400, "Invalid enum value 'x'"),
            ("PUT", [], 400, "Expected `object`"),
            ("POST", {"call": "get", "kind": "flood"}, 400, "flood"),
            ("POST", {"call": "get", "when": 1}, 400, "when"),
            ("POST", {}, 400, "call"),
            ("POST", [], 400, "Expected `object`"),
            ("POST", {"call": "get", "path": 5}, 400, "path"),
            ("POST", {"call": "get", "seconds": "1"}, 400, "seconds"),
            ("PATCH", None, 405, "GET, PUT, POST or DELETE"),
        ],
    )
    async def test_wrong_plans_are_refused(self, ask, method, content, status, words):
        """The response says what is wrong."""
        code, response = await ask(method, content)
        assert code == status
        assert words in response["error"]

    async def test_bodies_that_are_no_json(self, ask):
        """By their content type, or by their content."""
        assert (await ask("PUT", data=b"{}", headers={"Content-Type": "text/plain"}))[0] == 415
        json = {"Content-Type": "application/json"}
        assert (await ask("PUT", data=b"{", headers=json))[0] == 400

    async def test_only_under_a_name_of_this_host(self, ask):
        """A page in a browser may have a name that resolves to it."""
        status, response = await ask("GET", headers={"Host": "evil.example"})
        assert (status, "Host must be" in response["error"]) == (421, True)

    @pytest.mark.parametrize("method", ["PUT", "POST"])
    @pytest.mark.parametrize("opening", [b"[", b'{"fault":[', b'{"a":'])
    async def test_deeply_nested_bodies(self, ask, method, opening):
        """They are bad requests, and the cloud continues."""
        headers = {"Content-Type": "application/json"}
        for body in (opening * 100_000, opening * 20_000 + b"1"):
            status, response = await ask(method, data=body, headers=headers)
            assert (status, "error" in response) == (400, True)
        assert (await ask("GET"))[0] == 200

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
    async def test_nan_and_infinity(self, ask, number):
        """JSON does not have them."""
        body = f'{{"call": "get", "seconds": {number}}}'.encode()
        headers = {"Content-Type": "application/json"}
        assert (await ask("POST", data=body, headers=headers))[0] == 400

    async def test_the_admin_path_is_off_by_default(self, emulator):
        """It is an unknown path then, like any other."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(emulator.url + self.PATH) as response,
        ):
            assert response.status in {401, 415}
