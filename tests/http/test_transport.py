"""One call over real sockets: what is sent, what is read, and what odd responses become."""

import asyncio
import gzip
import json
import logging
import math
import socket
import traceback
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from async_vmapi import (
    APIError,
    AuthenticationError,
    Client,
    ConnectError,
    CreateRequest,
    DecodingError,
    HTTPTransport,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    TransportError,
    TransportTimeout,
    VMAPIError,
)
from async_vmapi.transport import codec
from async_vmapi.transport.http import MAX_BODY

from .aioresponses_fix import FixedAioresponses
from .odd_server import CLOSE, HANG, OddServer, response

KEY = "planted-key"
SECRET = "planted-api-secret"
PASSWORD = "planted-password"
USER_DATA = "#cloud-config\npassword: planted-user-data\n"
CONSOLE_PASSWORD = "planted-console-password"
ACCOUNT_SECRET = "planted-account-secret"
CREDENTIALS = {"api_key": KEY, "api_secret": SECRET}
CREATE = {
    "name": "web-01",
    "cpus": 2,
    "ram": 2048,
    "zone_id": "z",
    "boot": ImageBoot(os="2599", password=PASSWORD, user_data=USER_DATA),
}
OK = response({"success": True})
EMPTY_LIST = response({"success": True, "virtual_machines": []})
CREATED = response({"success": True, "virtual_machine": {"id": "1729"}})


def client_of(server, **options):
    """Return a client of a server, without retries by default."""
    once = {"max_retries": 0, "reconcile_timeout": 0, "min_poll_interval": 0.001}
    return Client(getattr(server, "url", server), **CREDENTIALS, **(once | options))


async def error_of(awaitable):
    """Return the error of the package that an awaitable raises."""
    with pytest.raises(VMAPIError) as caught:
        await awaitable
    return caught.value


async def error_from(reply, call=None, **options):
    """Return the error that a call raises when a server replies like this."""
    async with OddServer(reply) as server, client_of(server, **options) as client:
        error = await error_of(call(client) if call else client.vms.list())
        assert len(sent(server)) == 1
        return error


def sent(server):
    """Return the requests that a server got, except those that reconcile a create."""
    creates = [request for request in server.requests if request.method == "PUT"]
    return creates or server.requests


def free_port():
    """Return a port on which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def mocked():
    """Responses without a server."""
    with FixedAioresponses() as responses:
        yield responses


CREATE_BODY = {
    "create_vm": {
        "name": "web-01",
        "cpus": 2,
        "ram": 2048,
        "compute_zone_id": "z",
        "boot_type": "image",
        "os": "2599",
        "password": PASSWORD,
        "user_data": USER_DATA,
    }
}
CALLS = {
    "create": (
        lambda c: c.vms.create(**CREATE, unique_name=True),
        ("PUT", "/v2/virtual-machines"),
        CREATE_BODY,
    ),
    "create by a request": (
        lambda c: c.vms.create(CreateRequest(**CREATE), unique_name=True),
        ("PUT", "/v2/virtual-machines"),
        CREATE_BODY,
    ),
    "list": (lambda c: c.vms.list(), ("GET", "/v2/virtual-machines"), None),
    "get": (lambda c: c.vms.get("17"), ("GET", "/v2/virtual-machines/17"), None),
    "resize": (
        lambda c: c.vms.resize("17", cores=4, ram=8192, wait_for=0),
        ("POST", "/v2/virtual-machines/17/resize"),
        {"cores": 4, "ram": 8192, "wait_for": 0},
    ),
    "shutdown": (
        lambda c: c.vms.shutdown("17"),
        ("POST", "/v2/virtual-machines/17/shutdown"),
        {"wait_for": 4},
    ),
    "reboot": (lambda c: c.vms.reboot("17"), ("POST", "/v2/virtual-machines/17/reboot"), None),
    "reset": (lambda c: c.vms.reset("17"), ("POST", "/v2/virtual-machines/17/reset"), None),
    "console": (lambda c: c.vms.console("17"), ("POST", "/v2/virtual-machines/17/console"), None),
    "rename": (
        lambda c: c.vms.rename("17", "Łódź"),
        ("POST", "/v2/virtual-machines/17/rename"),
        {"name": "Łódź"},
    ),
    "delete": (
        lambda c: c.vms.delete("17"),
        ("DELETE", "/v2/virtual-machines/17"),
        {"deleteResources": 0},
    ),
    "delete with resources": (
        lambda c: c.vms.delete("17", delete_resources=True),
        ("DELETE", "/v2/virtual-machines/17"),
        {"deleteResources": 1},
    ),
    "power_on": (lambda c: c.vms.power_on("17"), ("POST", "/v2/virtual-machines/17/poweron"), None),
    "power_off": (
        lambda c: c.vms.power_off("17"),
        ("POST", "/v2/virtual-machines/17/poweroff"),
        None,
    ),
    "regions": (lambda c: c.regions.list(), ("GET", "/v2/regions"), None),
    "templates": (lambda c: c.templates.list(), ("GET", "/v2/templates"), None),
    "account": (lambda c: c.account.ssh_keys(), ("GET", "/v2/account"), None),
}
EVERYTHING = response(
    {
        "success": True,
        "virtual_machine": {
            "id": 17,
            "label": None,
            "cores": 1,
            "ram": 512,
            "state": "online",
            "system": {"id": 1, "name": "x"},
            "cost_per_hour": 0.02,
            "transfer_used": "0.00",
            "owner": {"id": 1, "name": "x"},
            "public_interface": {},
            "storage_volumes": [],
            "zone": {"id": 1, "name": "x"},
        },
        "virtual_machines": [],
        "console": {"host": "192.0.2.9", "port": 5901, "password": CONSOLE_PASSWORD},
        "regions": [],
        "templates": [],
        "account": {
            "id": 1,
            "api": [{"key": "k", "secret_key": ACCOUNT_SECRET}],
            "e24files": {"s3": {"secret_key": ACCOUNT_SECRET}},
            "sshkeys": [{"id": 9, "name": "laptop", "fingerprint": "aa:bb"}],
        },
    }
)


class TestRequests:
    @pytest.mark.parametrize(("call", "line", "body"), CALLS.values(), ids=CALLS.keys())
    async def test_each_call_is_sent_as_specified(self, call, line, body):
        """Method, path and body are those of WIRE §2; where there is no body none is sent."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            await call(client)
        (request,) = server.requests
        assert (request.method, request.target) == line
        assert (json.loads(request.body) if request.body else None) == body
        assert request.headers["content-type"] == "application/json"

    @pytest.mark.parametrize(("call", "line", "body"), CALLS.values(), ids=CALLS.keys())
    async def test_each_call_is_signed_for_its_host_and_port(self, call, line, body):
        """A server computes the same signature."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            await call(client)
        (request,) = server.requests
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert request.is_signed_with(KEY, SECRET)
        assert not request.is_signed_with(KEY, f"{SECRET}x")
        age = datetime.now(UTC) - parsedate_to_datetime(request.headers["x-date"])
        assert abs(age) < timedelta(minutes=1)

    async def test_requests_share_a_connection_and_are_counted_by_name(self):
        """One after the other they need one connection; the client counts them."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            assert dict(client.requests) == {}
            for _ in range(3):
                await client.vms.list()
            await client.regions.list()
            assert dict(client.requests) == {"list": 3, "regions": 1}
            with pytest.raises(TypeError):
                client.requests["list"] = 0
        assert server.connections == 1

    async def test_a_default_port_is_not_in_the_host_header(self, mocked):
        """For an endpoint without a port the bare host is signed."""
        url = "https://eu-poland-1warszawa.api.e24cloud.com/v2/virtual-machines"
        mocked.get(url, payload={"success": True, "virtual_machines": []})
        async with Client.for_region("eu-poland-1warszawa", **CREDENTIALS) as client:
            assert await client.vms.list() == []
        ((request,),) = mocked.requests.values()
        host = CIMultiDict(request.kwargs["headers"])["Host"]
        assert host == "eu-poland-1warszawa.api.e24cloud.com"

    async def test_cookies_are_not_kept(self):
        """A server's cookie is not sent back: it would be hidden state."""
        reply = response({"success": True, "virtual_machines": []}, set_cookie="a=b; Path=/")
        async with (
            OddServer(reply) as server,
            # A name, since aiohttp keeps no cookies of bare addresses.
            client_of(f"http://localhost:{server.port}") as client,
        ):
            await client.vms.list()
            await client.vms.list()
        assert "cookie" not in server.requests[1].headers


class TestResponses:
    async def test_a_wrong_content_type_does_not_matter(self):
        """Valid JSON is read whatever its type is called."""
        reply = response({"success": True, "virtual_machines": []}, content_type="text/html")
        async with OddServer(reply) as server, client_of(server) as client:
            assert await client.vms.list() == []

    async def test_a_chunked_response_is_joined(self):
        """Chunks may be cut anywhere."""
        body = json.dumps({"success": True, "virtual_machines": [], "ż": "ż"}).encode()
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
        async with OddServer(reply) as server, client_of(server) as client:
            assert await client.vms.list() == []

    async def test_a_compressed_response_is_decompressed(self):
        """A proxy may compress."""
        body = gzip.compress(b'{"success": true, "virtual_machines": []}')
        async with (
            OddServer(response(body, content_encoding="gzip")) as server,
            client_of(server) as client,
        ):
            assert await client.vms.list() == []

    @pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"\xff", b'{"success": tru'])
    async def test_invalid_json_is_a_decoding_error(self, body):
        """The error names the call, and shows nothing of the body."""
        error = await error_from(response(body))
        assert type(error) is DecodingError
        assert (error.method, error.path) == ("GET", "/v2/virtual-machines")
        assert "<html>" not in str(error)

    @pytest.mark.parametrize("status", ["204 No Content", "200 OK"])
    async def test_an_empty_response_is_no_acceptance(self, status):
        """The response to an accepted shutdown says so."""
        error = await error_from(
            response(b"", status, content_length="0"), lambda c: c.vms.shutdown("17")
        )
        assert type(error) is DecodingError

    @pytest.mark.parametrize(
        ("reply", "kind"),
        [
            (response({"success": False, "error": "gone"}, "404 Not Found"), NotFound),
            (response({"success": False, "error": "gone"}), APIError),
            (response(b"<h1>gone</h1>", "502 Bad Gateway"), ServerError),
            (
                response({"success": False, "error": "gone"}, "401 Unauthorized"),
                AuthenticationError,
            ),
        ],
        ids=["404", "200", "502", "401"],
    )
    async def test_a_refusal_has_status_method_and_path(self, reply, kind):
        """Enough to find the call in the provider's logs."""
        error = await error_from(reply, lambda c: c.vms.get("17"))
        assert type(error) is kind
        assert error.status == int(reply.split()[1])
        assert (error.method, error.path) == ("GET", "/v2/virtual-machines/17")

    @pytest.mark.parametrize(
        ("status", "kind"),
        [("429 Too Many Requests", RateLimited), ("503 Service Unavailable", ServerError)],
    )
    async def test_retry_after_is_an_attribute_of_the_error(self, status, kind):
        """In seconds, from a date if need be, or None."""
        refused = {"success": False}
        error = await error_from(response(refused, status, retry_after="7"))
        assert type(error) is kind
        assert error.retry_after == 7.0
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        error = await error_from(response(refused, status, retry_after=later))
        assert 3500 < error.retry_after <= 3600
        assert (await error_from(response(refused, status))).retry_after is None

    async def test_an_invalid_retry_after_hides_no_refusal(self):
        """It is ignored."""
        absurd = "Mon, 23 Nov 99999999999999999999 18:00:00 GMT"
        error = await error_from(response({}, "429 Too Many Requests", retry_after=absurd))
        assert type(error) is RateLimited
        assert error.retry_after is None

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("name", ["list", "create", "delete"])
    async def test_redirects_are_not_followed(self, status, name):
        """A signature is for its host, so the target gets nothing."""
        async with OddServer(EVERYTHING) as target:
            reply = response(EVERYTHING, f"{status} Moved", location=f"{target.url}/v2/x")
            error = await error_from(reply, CALLS[name][0])
            assert type(error) is APIError
            assert error.status == status
            assert target.connections == 0

    async def test_odd_responses(self, mocked):
        """A nonstandard status, and a body that is JSON and no object."""
        url = "https://example.com/v2/virtual-machines"
        mocked.get(url, status=599, payload=["?"])
        mocked.get(url, status=200, body="null")
        mocked.get(url, exception=aiohttp.ClientPayloadError("cut"))
        async with client_of("https://example.com") as client:
            error = await error_of(client.vms.list())
            assert (type(error), error.status, error.from_api) == (ServerError, 599, False)
            assert type(await error_of(client.vms.list())) is DecodingError
            assert type(await error_of(client.vms.list())) is TransportError


class TestTarget:
    @pytest.mark.parametrize("target", ["/v2/x", "/v2/a%20b/%2F", "/v2/x?name=a%20b&page=2"])
    async def test_it_is_sent_as_it_was_signed(self, target):
        """Neither the path nor the query is changed."""
        async with OddServer() as server:
            transport = HTTPTransport(server.url)
            await transport.send("GET", target, {}, b"")
            await transport.close()
        assert server.requests[0].target == target


class TestBodyLimit:
    async def fetch(self, server, limit):
        """Return the body that a transport with a limit returns."""
        transport = HTTPTransport(server.url, max_response_size=limit)
        try:
            return (await transport.send("GET", "/v2/x", {}, b"")).body
        finally:
            await transport.close()

    @pytest.mark.parametrize(
        "framing", [b"Content-Length: 11", b"Transfer-Encoding: chunked"], ids=["whole", "chunked"]
    )
    async def test_a_body_above_the_limit_is_not_read(self, framing):
        """One byte above is refused, the limit itself is read."""
        body = b"b\r\nhello world\r\n0\r\n\r\n" if b"chunked" in framing else b"hello world"
        async with OddServer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body) as server:
            assert await self.fetch(server, 11) == b"hello world"
            with pytest.raises(DecodingError, match="larger than 10 bytes") as caught:
                await self.fetch(server, 10)
            assert (caught.value.method, caught.value.path) == ("GET", "/v2/x")

    async def test_a_small_response_that_decompresses_to_a_large_one(self):
        """It is refused: the decompressed size counts, 64 MiB by default."""
        bomb = gzip.compress(b"[" * (MAX_BODY + 1), compresslevel=1)
        assert len(bomb) < 1_000_000
        error = await error_from(response(bomb, content_encoding="gzip"))
        assert type(error) is DecodingError
        assert "larger than 67108864 bytes" in str(error)

    async def test_the_client_works_after_a_refused_body(self):
        """The connection with the rest of the body is not reused."""
        async with OddServer(response(b"x" * 10_000_000), response(b"short")) as server:
            transport = HTTPTransport(server.url, max_response_size=1000)
            with pytest.raises(DecodingError):
                await transport.send("GET", "/v2/x", {}, b"")
            assert (await transport.send("GET", "/v2/x", {}, b"")).body == b"short"
            await transport.close()
            assert server.connections == 2


class TestConnections:
    async def test_a_refused_connection_sent_nothing(self):
        """The error says that it is safe to send again."""
        async with client_of(f"http://127.0.0.1:{free_port()}") as client:
            error = await error_of(client.vms.create(**CREATE, unique_name=True))
        assert type(error) is ConnectError
        assert (error.method, error.path) == ("PUT", "/v2/virtual-machines")

    @pytest.mark.parametrize(
        "reply",
        [
            CLOSE,
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n",
            b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{"success": true',
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n{",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{",
            b"SSH-2.0-OpenSSH_9.6\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 two hundred\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\nConnection: close\r\n\r\n",
            response(b"no gzip", content_encoding="gzip"),
        ],
        ids=[
            *("closed before an answer", "half a head", "half a body", "half a chunk"),
            *("no chunk", "no HTTP", "no status", "huge header", "no gzip"),
        ],
    )
    @pytest.mark.parametrize("name", ["create", "list", "delete"])
    async def test_an_incomplete_response_is_no_response(self, reply, name):
        """Whatever breaks, it is one error, and the request is sent once."""
        error = await error_from(reply, CALLS[name][0])
        if name == "create":
            # It may have been carried out.
            assert (type(error), error.name) == (OutcomeUnknown, "web-01")
            error = error.__cause__
        assert type(error) is TransportError
        assert (error.method, error.path) == CALLS[name][1]
        assert SECRET not in str(error)

    @pytest.mark.parametrize(
        "reply",
        [HANG, b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"],
        ids=["nothing", "half a head", "half a body"],
    )
    async def test_a_slow_response_is_a_timeout(self, reply):
        """The time is for the whole response; the error is a `TimeoutError` too."""
        error = await error_from(reply, timeout=0.1)
        assert type(error) is TransportTimeout
        assert isinstance(error, TimeoutError)
        assert "not within 0.1 s" in str(error)

    @pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**9])
    async def test_any_long_timeout_is_accepted(self, timeout):
        """Infinity too."""
        async with OddServer(EMPTY_LIST) as server, client_of(server, timeout=timeout) as client:
            assert await client.vms.list() == []

    async def test_an_exception_while_reading_leaves_the_outcome_unknown(self, monkeypatch):
        """aiohttp raises `RuntimeError` for a session that cannot be used; this is not that."""

        def broken(*_):
            raise RuntimeError("read() called twice")

        async with OddServer(CREATED) as server, client_of(server) as client:
            monkeypatch.setattr(aiohttp.StreamReader, "read_nowait", broken)
            monkeypatch.setattr(aiohttp.StreamReader, "iter_any", broken)
            error = await error_of(client.vms.create(**CREATE, unique_name=True))
            assert sum(request.method == "PUT" for request in server.requests) == 1
        assert type(error) is OutcomeUnknown
        assert "the transport raised RuntimeError" in str(error.__cause__)

    async def test_a_cancelled_call_leaves_a_working_client(self):
        """Its connection is closed, and the next call opens another."""
        async with OddServer(HANG, EMPTY_LIST) as server, client_of(server) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.vms.list(), 0.1)
            assert await client.vms.list() == []
            assert server.connections == 2

    async def test_a_connection_closed_while_idle_is_replaced(self):
        """The next call opens another."""
        reply = response({"success": True, "virtual_machines": []}, connection="close")
        async with OddServer(reply) as server, client_of(server) as client:
            for _ in range(2):
                await client.vms.list()
                await server.drained()
        assert server.connections == 2


class TestSendingOnce:
    """aiohttp repeats PUT and DELETE on a kept-alive connection that breaks; here it must not."""

    @pytest.fixture(params=["own", "lent"])
    async def options(self, request):
        """Options for a client's own session, or a lent one."""
        if request.param == "own":
            yield {}
        else:
            async with aiohttp.ClientSession() as session:
                yield {"session": session}

    @pytest.mark.parametrize("name", ["create", "delete", "get", "shutdown"])
    async def test_a_write_on_a_reused_connection_that_breaks_arrives_once(self, name, options):
        """A create that the server read before it disconnected is not sent again."""
        call, (method, path), _ = CALLS[name]
        async with OddServer(EMPTY_LIST, CLOSE, EVERYTHING) as server:
            async with client_of(server, **options) as client:
                await client.vms.list()
                error = await error_of(call(client))
            first, second, *looks = server.requests
            assert (second.method, second.target) == (method, path)
            assert first.connection == second.connection
            assert [look.method for look in looks] == (["GET"] if name == "create" else [])
        if name == "create":
            error = error.__cause__
        assert type(error) is TransportError
        assert (error.method, error.path) == (method, path)

    async def test_aiohttp_alone_sends_a_duplicate(self):
        """The control: without this package the duplicate does happen."""
        async with OddServer(EMPTY_LIST, CLOSE, EVERYTHING) as server:
            async with aiohttp.ClientSession() as session:
                async with session.get(server.url) as response:
                    await response.read()
                async with session.put(server.url, data=b"{}") as response:
                    await response.read()
            assert [request.method for request in server.requests] == ["GET", "PUT", "PUT"]

    async def test_middlewares_of_a_lent_session_are_not_run(self):
        """One of them could send a create again."""

        async def twice(request, handler):
            await handler(request)
            return await handler(request)

        async with (
            aiohttp.ClientSession(middlewares=[twice]) as session,
            OddServer(CREATED) as server,
        ):
            task = await client_of(server, session=session).vms.create(**CREATE, unique_name=True)
            assert task.vm_id == "1729"
            assert len(server.requests) == 1


class TestSessions:
    async def test_the_clients_own_session_is_closed_with_it(self):
        """No connection is left open."""
        async with OddServer(EMPTY_LIST) as server:
            async with client_of(server) as client:
                await client.vms.list()
            await server.drained()

    async def test_a_closed_client_opens_again_when_it_is_entered(self):
        """Closing an unused or closed client does nothing."""
        async with OddServer(EMPTY_LIST) as server:
            client = client_of(server)
            await client.close()
            for _ in range(2):
                async with client:
                    assert await client.vms.list() == []
                await client.close()
            await server.drained()
            assert server.connections == 2

    async def test_a_lent_session_is_not_closed(self):
        """The caller who opened it closes it."""
        async with OddServer(EMPTY_LIST) as server, aiohttp.ClientSession() as session:
            async with client_of(server, session=session) as client:
                assert await client.vms.list() == []
            assert not session.closed
            async with client:
                assert await client.vms.list() == []

    async def test_a_closed_lent_session_is_an_invalid_state(self):
        """The client cannot open it again."""
        async with OddServer(EMPTY_LIST) as server:
            session = aiohttp.ClientSession()
            client = client_of(server, session=session)
            await session.close()
            assert type(await error_of(client.vms.list())) is InvalidState
            assert server.connections == 0

    @pytest.mark.parametrize(
        "settings",
        [
            {"raise_for_status": True},
            {"base_url": "http://127.0.0.1:9/other/"},
            {
                "headers": {
                    "authorization": "Basic eDp5",
                    "HOST": "other.invalid",
                    "X-Date": "never",
                    "content-type": "text/plain",
                }
            },
            {"skip_auto_headers": ["Content-Type", "Host"]},
            {"cookies": {"a": "b"}},
            {"timeout": aiohttp.ClientTimeout(total=1e-9)},
            {"version": aiohttp.HttpVersion10},
            {"json_serialize": None},
        ],
        ids=lambda settings: next(iter(settings)),
    )
    async def test_a_lent_sessions_settings_do_not_matter(self, settings):
        """Requests and responses are as with the client's own session."""
        missing = response(
            gzip.compress(b'{"success": false, "error": "no such VM"}'),
            "404 Not Found",
            content_encoding="gzip",
        )
        async with OddServer(missing) as server, aiohttp.ClientSession(**settings) as session:
            client = client_of(server, session=session)
            error = await error_of(client.vms.shutdown("17"))
        assert type(error) is NotFound
        assert error.message == "no such VM"
        (request,) = server.requests
        assert request.headers["content-type"] == "application/json"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert request.is_signed_with(KEY, SECRET)

    async def test_a_lent_session_with_its_own_authorization_is_refused(self):
        """aiohttp cannot send both; the error is one of this package, raised before sending."""
        with warnings.catch_warnings(action="ignore"):  # aiohttp's, that this is deprecated
            auth = aiohttp.BasicAuth("someone", "planted-basic-password")
            session = aiohttp.ClientSession(auth=auth)
        async with OddServer(EMPTY_LIST) as server, session:
            with pytest.raises(VMAPIError) as caught:
                await client_of(server, session=session).vms.list()
            assert "planted" not in str(caught.value)
            assert server.requests == []

    async def test_a_lent_session_that_does_not_decompress_is_refused(self):
        """A proxy may compress a response, which could then not be read."""
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            with pytest.raises(InvalidArgument) as caught:
                client_of("http://127.0.0.1", session=session)
            assert caught.value.argument == "session"

    @pytest.mark.parametrize("session", ["session", 5, object(), aiohttp.ClientSession])
    def test_a_wrong_session_is_refused(self, session):
        """By the constructor, not by the first call."""
        with pytest.raises(InvalidArgument) as caught:
            client_of("http://127.0.0.1", session=session)
        assert caught.value.argument == "session"


class TestEventLoops:
    def test_a_closed_client_can_be_used_in_the_next_loop(self):
        """One client serves one loop after another."""

        async def use(client, port):
            async with OddServer(EMPTY_LIST, port=port) as server, client:
                assert await client.vms.list() == []
            return server.port

        port = free_port()
        client = client_of(f"http://127.0.0.1:{port}")
        for _ in range(2):
            assert asyncio.run(use(client, port)) == port

    def test_an_open_client_is_an_invalid_state_in_another_loop(self):
        """Its connections belong to the first; once closed there it works in the second."""

        async def use(client, port):
            async with OddServer(EMPTY_LIST, port=port):
                return await client.vms.list()

        port = free_port()
        client = client_of(f"http://127.0.0.1:{port}")
        with asyncio.Runner() as first, asyncio.Runner() as second:
            assert first.run(use(client, port)) == []
            with pytest.raises(InvalidState, match="another event loop"):
                second.run(use(client, port))
            first.run(client.close())
            with pytest.raises(InvalidState, match="closed"):
                second.run(use(client, port))
            second.run(client.__aenter__())
            assert second.run(use(client, port)) == []
            second.run(client.close())

    def test_a_session_of_another_loop_is_an_invalid_state(self):
        """A lent session belongs to its own loop."""

        async def use(client, port):
            async with OddServer(EMPTY_LIST, port=port):
                return await client.vms.list()

        async def lend():
            return aiohttp.ClientSession()

        port = free_port()
        with asyncio.Runner() as first, asyncio.Runner() as second:
            session = first.run(lend())
            try:
                with pytest.raises(InvalidState):
                    second.run(use(client_of(f"http://127.0.0.1:{port}", session=session), port))
            finally:
                first.run(session.close())

    async def test_a_client_may_be_left_in_another_task_than_it_was_entered(self):
        """Fixtures and web frameworks do that."""
        async with OddServer(EMPTY_LIST) as server:
            client = client_of(server)
            await asyncio.create_task(client.__aenter__())
            assert await asyncio.create_task(client.vms.list()) == []
            await asyncio.create_task(client.__aexit__(None, None, None))
            await server.drained()


class TestBaseURL:
    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://example.com", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("https://example.com:8443", "https://example.com:8443"),
            ("https://example.com:443", "https://example.com"),
            ("HTTPS://EXAMPLE.com", "https://example.com"),
            ("http://127.0.0.1:8024", "http://127.0.0.1:8024"),
            ("http://127.8.9.10", "http://127.8.9.10"),
            ("http://localhost:1", "http://localhost:1"),
            ("http://[::1]:8024", "http://[::1]:8024"),
        ],
    )
    def test_an_origin_is_accepted(self, url, origin):
        """https for every host, plain http for loopback ones; the client shows its endpoint."""
        assert repr(Client(url, **CREDENTIALS)) == f"<Client of {origin}>"

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (None, "of type NoneType"),
            (URL("https://example.com"), "of type URL"),
            (b"https://example.com", "of type bytes"),
            ("", "https:// and a host"),
            ("example.com", "https:// and a host"),
            ("//example.com", "https:// and a host"),
            ("https://", "https:// and a host"),
            ("https:///v2", "https:// and a host"),
            ("ftp://example.com", "https:// and a host"),
            ("file:///etc/passwd", "https:// and a host"),
            ("https://example.com/v2", "more than scheme, host and port"),
            ("https://example.com/?a=b", "more than scheme, host and port"),
            ("https://example.com/#a", "more than scheme, host and port"),
            ("http://example.com", "plain http"),
            ("http://10.0.0.1", "plain http"),
            ("http://0.0.0.0", "plain http"),
            ("http://localhost.example.com", "plain http"),
            ("http://127.0.0.1.example.com", "plain http"),
            ("https://example.com:99999", "not a URL"),
            ("https://example.com:port", "not a URL"),
            ("https://[::1", "not a URL"),
            ("https://exa mple.com", "base_url"),
            ("https://exam%ple.com", "base_url"),
            ("https://user:planted@example.com", "user name or a password"),
            ("https://:planted@example.com", "user name or a password"),
            ("http://planted@127.0.0.1", "user name or a password"),
            ("user:planted@example.com", "base_url"),
            ("user:planted@example.com:8024", "base_url"),
        ],
    )
    def test_other_urls_are_refused(self, url, words):
        """The message says why, and repeats no password of the URL."""
        with pytest.raises(InvalidArgument, match="base_url") as caught:
            Client(url, **CREDENTIALS)
        assert caught.value.argument == "base_url"
        assert words in str(caught.value)
        assert "planted" not in str(caught.value)
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize(
        "region", ["", "EU", "eu.poland", "eu/", "eu:1@x", "-eu", "eu-", "a" * 64, "ż", None, 5]
    )
    def test_a_region_that_is_no_host_name_is_refused(self, region):
        """A region cannot lead to another host."""
        with pytest.raises(InvalidArgument) as caught:
            Client.for_region(region, **CREDENTIALS)
        assert caught.value.argument == "region"

    def test_a_region_is_its_own_endpoint(self):
        """The host contains the region's name; options are passed on."""
        client = Client.for_region(
            "eu-poland-1poznan2", **CREDENTIALS, timeout=5, min_poll_interval=2
        )
        assert repr(client) == "<Client of https://eu-poland-1poznan2.api.e24cloud.com>"
        with pytest.raises(InvalidArgument, match="timeout"):
            Client.for_region("eu-poland-1poznan2", **CREDENTIALS, timeout=0)

    def test_the_longest_interval_is_not_below_the_shortest(self):
        """`max_poll_interval` and `min_poll_interval`."""
        with pytest.raises(
            InvalidArgument, match="max_poll_interval=1 is less than min_poll_interval=2"
        ):
            client_of("https://example.com", min_poll_interval=2, max_poll_interval=1)


ENVIRONMENT = {
    "VMAPI_URL": "https://example.com",
    "VMAPI_REGION": "",
    "VMAPI_API_KEY": KEY,
    "VMAPI_API_SECRET": SECRET,
}


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        """Return a function that sets the variables; unless called, all but the region are set."""

        def change(**changes):
            for name, value in (ENVIRONMENT | changes).items():
                if value is None:
                    monkeypatch.delenv(name, raising=False)
                else:
                    monkeypatch.setenv(name, value)

        change()
        return change

    def test_a_url_is_enough(self):
        """Options are passed on."""
        assert repr(Client.from_env(timeout=5)) == "<Client of https://example.com>"
        with pytest.raises(InvalidArgument, match="timeout"):
            Client.from_env(timeout=0)

    def test_a_region_is_enough(self, environment):
        """The endpoint is the provider's."""
        environment(VMAPI_URL=None, VMAPI_REGION="eu-poland-1poznan")
        assert repr(Client.from_env()) == "<Client of https://eu-poland-1poznan.api.e24cloud.com>"

    async def test_key_and_secret_are_read(self, environment):
        """Requests are signed with them."""
        async with OddServer(EMPTY_LIST) as server:
            environment(VMAPI_URL=server.url)
            async with Client.from_env() as client:
                await client.vms.list()
        assert server.requests[0].is_signed_with(KEY, SECRET)

    @pytest.mark.parametrize("absent", [None, ""], ids=["unset", "empty"])
    @pytest.mark.parametrize(
        ("variable", "named"),
        [
            ("VMAPI_API_KEY", "VMAPI_API_KEY"),
            ("VMAPI_API_SECRET", "VMAPI_API_SECRET"),
            ("VMAPI_URL", "VMAPI_URL or VMAPI_REGION"),
        ],
    )
    def test_a_missing_variable_is_named(self, environment, variable, named, absent):
        """An empty one counts as missing."""
        environment(**{variable: absent})
        with pytest.raises(InvalidArgument) as caught:
            Client.from_env()
        assert str(caught.value) == f"not set in the environment: {named}"
        assert caught.value.argument == named

    def test_all_missing_variables_are_named_at_once(self, environment):
        """In one error."""
        environment(**dict.fromkeys(ENVIRONMENT))
        with pytest.raises(InvalidArgument) as caught:
            Client.from_env()
        for name in ENVIRONMENT:
            assert name in str(caught.value)

    def test_url_and_region_together_are_refused(self, environment):
        """Neither takes precedence."""
        environment(VMAPI_REGION="eu-poland-1poznan")
        with pytest.raises(InvalidArgument, match="both set") as caught:
            Client.from_env()
        assert caught.value.argument == "VMAPI_URL"

    @pytest.mark.parametrize(
        ("changes", "argument"),
        [
            ({"VMAPI_URL": "http://example.com"}, "base_url"),
            ({"VMAPI_URL": None, "VMAPI_REGION": "EU"}, "region"),
            ({"VMAPI_API_KEY": "a:b"}, "api_key"),
            ({"VMAPI_URL": f"https://{KEY}:{SECRET}@example.com"}, "base_url"),
        ],
    )
    def test_a_wrong_variable_is_refused(self, environment, changes, argument):
        """By the same rules as an argument, and without showing a secret."""
        environment(**changes)
        with pytest.raises(InvalidArgument) as caught:
            Client.from_env()
        assert caught.value.argument == argument
        assert SECRET not in str(caught.value)


def repeated(request):
    """Return all that a request carried, as a server might repeat it in its words."""
    words = [f"{name}: {value}" for name, value in request.headers.items()]
    sent = json.loads(request.body) if request.body else None
    return {"headers": words, "sent": sent, "seen with": f"secret {SECRET}"}


ODD = {
    "400 that repeats all": lambda r: response(
        {"success": False, "error": repeated(r)}, "400 Bad Request"
    ),
    "200 that repeats all": lambda r: response({"success": False, "errors": [repeated(r)]}),
    "500 that repeats all": lambda r: response(
        {"message": repeated(r)}, "500 Internal Server Error"
    ),
    "401 that repeats the signature": lambda r: response(
        {"success": False, "error": f"bad signature {r.headers['authorization']}"},
        "401 Unauthorized",
    ),
    "a page that repeats all": lambda r: response(
        f"<pre>{r.headers} {r.body}</pre>".encode(), "502 Bad Gateway"
    ),
    "JSON that ends early": lambda r: response(b'{"success": true, "got": ' + r.body),
    "JSON of another form": lambda r: response(
        {
            "success": True,
            **{
                name: {PASSWORD: [USER_DATA, SECRET], "password": [CONSOLE_PASSWORD]}
                for name in ("virtual_machine", "virtual_machines", "console", "account")
            },
        }
    ),
    "a redirect that repeats all": lambda r: response(
        r.body, "302 Found", location=f"/?signature={r.headers['authorization']}"
    ),
    "a head that makes no sense": lambda r: (
        f"HTTP/1.1 200 OK\r\n{r.headers['authorization']}{PASSWORD}\r\nConnection: close\r\n\r\n"
    ).encode(),
    "half an answer": lambda r: (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n" + r.body
    ),
    "no answer": CLOSE,
    "silence": HANG,
}


class TestSecrets:
    """No secret is in any `repr`, log line or exception, whatever the server does."""

    PLANTED = (SECRET, PASSWORD, "planted-user-data", CONSOLE_PASSWORD, ACCOUNT_SECRET)

    @staticmethod
    def everything_of(error):
        """Return all that can be read from an error and what is attached to it."""
        seen, todo = [], [error]
        while todo:
            current = todo.pop()
            if current is not None and current not in seen:
                seen.append(current)
                todo += [current.__cause__, current.__context__]
        shown = "".join(traceback.format_exception(error))
        return shown + "".join(f"{e} {e!r} {e.args!r} {vars(e)!r}" for e in seen)

    @pytest.fixture
    def logged(self, caplog):
        """All that is logged at any level, by any logger."""
        caplog.set_level(logging.DEBUG)
        return caplog

    def hold(self, text, logged, server):
        """Fail if a text or the log holds a planted secret, or a signature that was sent."""
        assert "async_vmapi" in logged.text
        text += logged.text + "".join(repr(vars(record)) for record in logged.records)
        signatures = [request.headers["authorization"] for request in server.requests]
        parts = [signature.rpartition(":")[2] for signature in signatures]
        for planted in (*self.PLANTED, *signatures, *parts):
            assert planted not in text

    @pytest.mark.parametrize("name", CALLS)
    async def test_successful_calls_show_none(self, name, logged):
        """Neither the client nor what it returns nor the log holds one."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            result = await CALLS[name][0](client)
            shown = f"{client!r} {client.vms!r} {result!r} {result} {client.requests}"
        self.hold(shown, logged, server)

    async def test_the_console_password_can_be_used(self):
        """It is hidden, and not lost."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            assert (await client.vms.console("17")).password == CONSOLE_PASSWORD

    async def test_the_accounts_own_secrets_are_not_kept(self):
        """What the call returns has none of them."""
        async with OddServer(EVERYTHING) as server, client_of(server) as client:
            (key,) = await client.account.ssh_keys()
        assert ACCOUNT_SECRET not in repr([key, codec.SSH_KEYS])

    @pytest.mark.parametrize("odd", ODD)
    @pytest.mark.parametrize("name", ["create", "console", "account", "get"])
    async def test_failed_calls_show_none(self, name, odd, logged):
        """Not in the error, not in its causes, not in the log."""
        timeout = 0.1 if ODD[odd] is HANG else 5
        async with OddServer(ODD[odd]) as server, client_of(server, timeout=timeout) as client:
            error = await error_of(CALLS[name][0](client))
        assert len(sent(server)) == 1
        self.hold(self.everything_of(error), logged, server)

    async def test_an_error_that_repeats_the_body_as_text_shows_none(self, logged):
        """A server may put the request's own JSON, with its escapes, into its words."""

        def repeat(request):
            return response({"success": False, "error": request.body.decode()}, "400 Bad Request")

        async with OddServer(repeat) as server, client_of(server) as client:
            error = await error_of(client.vms.create(**CREATE))
        self.hold(self.everything_of(error), logged, server)

    async def test_a_failed_connection_shows_none(self, logged):
        """Nothing was sent, and nothing is shown."""
        async with client_of(f"http://127.0.0.1:{free_port()}") as client:
            error = await error_of(client.vms.create(**CREATE))
        shown = self.everything_of(error) + logged.text
        assert not [planted for planted in self.PLANTED if planted in shown]
