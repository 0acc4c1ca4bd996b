"""Trace hooks of a lent session that raise: they decide no outcome, and cause no duplicate."""

import asyncio
import logging
import types

import aiohttp
import pytest

from async_vmapi import (
    Client,
    CreateRequest,
    ImageBoot,
    InvalidState,
    OutcomeUnknown,
    Task,
    VMAPIError,
)

from .odd_server import CLOSE, OddServer, response

CREDENTIALS = {"api_key": "key", "api_secret": "planted-secret"}
CREATE = CreateRequest(name="a", cpus=1, ram=1, zone_id="z", boot=ImageBoot(os="1"))
CREATED = response({"success": True, "virtual_machine": {"id": "17"}})
COLLECTOR = types.SimpleNamespace(host="metrics", port=1, is_ssl=False, ssl=False)

HOOKS = sorted(name for name in vars(aiohttp.TraceConfig) if name.startswith("on_"))
ERRORS = {
    "KeyError": lambda: KeyError("planted-text"),
    "RuntimeError": lambda: RuntimeError("planted-text"),
    "OSError": lambda: OSError(5, "planted-text"),
    "TimeoutError": lambda: TimeoutError("planted-text"),
    # Like a hook that reports to a collector that is down.
    "ClientConnectorError": lambda: aiohttp.ClientConnectorError(COLLECTOR, OSError(111, "no")),
    "ConnectionTimeoutError": lambda: aiohttp.ConnectionTimeoutError("planted-text"),
    "ServerDisconnectedError": lambda: aiohttp.ServerDisconnectedError("planted-text"),
}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Retry without waiting."""
    monkeypatch.setattr("async_vmapi.transport.retries._FIRST_WAIT", 0.001)


def session_with(hook, error):
    """Return a session with a trace hook that always raises."""

    async def raising(*_):
        raise error()

    tracing = aiohttp.TraceConfig()
    getattr(tracing, hook).append(raising)
    return aiohttp.ClientSession(trace_configs=[tracing])


def client_of(server, session, **options):
    quick = {"max_retries": 1, "reconcile_timeout": 0.0, "seed": 1}
    return Client(server.url, **CREDENTIALS, session=session, **(quick | options))


async def result_of(call):
    """Return what a call returned or raised."""
    try:
        return await call
    except VMAPIError as error:
        return error


def creates(server):
    return [request for request in server.requests if request.method == "PUT"]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("hook", HOOKS)
class TestEveryHook:
    async def test_a_create(self, hook, error):
        """It is sent once at most, and if it was sent, there is a task or a token."""
        async with (
            OddServer(CREATED) as server,
            session_with(hook, ERRORS[error]) as session,
            client_of(server, session) as client,
        ):
            result = await result_of(client.vms.create(CREATE, unique_name=True))
            assert len(creates(server)) <= 1
            if creates(server):
                assert isinstance(result, Task | OutcomeUnknown)
            if isinstance(result, Task):
                assert result.vm_id == "17"
            elif isinstance(result, OutcomeUnknown):
                assert result.token

    async def test_a_create_without_a_response(self, hook, error):
        """A hook that raises then is no reason to send it again."""
        async with (
            OddServer(CLOSE) as server,
            session_with(hook, ERRORS[error]) as session,
            client_of(server, session) as client,
        ):
            result = await result_of(client.vms.create(CREATE, unique_name=True))
            assert len(creates(server)) <= 1
            if creates(server):
                assert isinstance(result, OutcomeUnknown)
                assert result.token


@pytest.mark.parametrize("error", ERRORS)
class TestAfterTheRequest:
    async def test_a_response_counts(self, error, caplog):
        """The hook's exception is logged once, without its text."""
        caplog.set_level(logging.ERROR, "async_vmapi")
        async with (
            OddServer(CREATED) as server,
            session_with("on_request_end", ERRORS[error]) as session,
            client_of(server, session) as client,
        ):
            for number in range(3):
                task = await client.vms.create(CREATE, unique_name=True)
                assert (task.vm_id, task.adopted) == ("17", False)
                assert len(creates(server)) == number + 1
            assert not (await client.vms.reset("17")).adopted
        (logged,) = caplog.records
        assert logged.vmapi_callback == "a hook of the aiohttp session"
        assert logged.vmapi_error == ERRORS[error]().__class__.__name__
        assert "test_hooks.py" in logged.getMessage()
        assert "planted" not in caplog.text

    async def test_a_refusal_is_raised(self, error):
        """Nothing is reconciled."""
        refusal = response({"success": False, "error": "no"}, "409 Conflict")
        async with (
            OddServer(refusal) as server,
            session_with("on_request_end", ERRORS[error]) as session,
            client_of(server, session) as client,
        ):
            result = await result_of(client.vms.create(CREATE, unique_name=True))
            assert type(result).__name__ == "Conflict"
            assert len(server.requests) == 1

    async def test_a_cancellation_is_raised(self, error):
        """Also where a hook raises during it."""
        received = asyncio.Event()

        def never_respond(_):
            received.set()
            return b""

        async with (
            OddServer(never_respond) as server,
            session_with("on_request_exception", ERRORS[error]) as session,
            client_of(server, session, max_retries=0) as client,
        ):
            listing = asyncio.create_task(client.vms.list())
            await received.wait()
            listing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listing
            assert len(server.requests) == 1

    async def test_a_failed_connection_is_raised(self, error):
        """The request was certainly not sent."""
        async with (
            session_with("on_request_exception", ERRORS[error]) as session,
            Client("http://127.0.0.1:1", **CREDENTIALS, session=session, max_retries=0) as client,
        ):
            report = await client.bulk().create([CREATE], unique_name=True)
        (outcome,) = report.failed
        assert outcome.error == "ConnectError"


class TestBeforeTheRequest:
    async def test_nothing_is_sent(self):
        """A hook that raises as a request begins prevents it, and the error says so."""
        async with (
            OddServer(CREATED) as server,
            session_with("on_request_start", ERRORS["KeyError"]) as session,
            client_of(server, session) as client,
        ):
            result = await result_of(client.vms.create(CREATE, unique_name=True))
            assert isinstance(result, InvalidState)
            assert server.requests == []
