"""aiohttp's exceptions are never raised raw, and permanent errors are not retried."""

import asyncio
import contextlib
import inspect
import json
import os
import ssl
import subprocess
import sys
import types
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from async_vmapi import (
    Client,
    ConnectError,
    CreateRequest,
    HTTPTransport,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    OutcomeUnknown,
    ServerError,
    TransportError,
    TransportTimeout,
    VMAPIError,
)
from async_vmapi.transport import http
from async_vmapi.transport.responses import MAX_REFUSAL

from .odd_server import OddServer, response

CREDENTIALS = {"api_key": "key", "api_secret": "planted-secret"}
EMPTY_LIST = response({"success": True, "virtual_machines": []})
CERTIFICATE = Path(__file__).with_name("other.example.pem")
"""A certificate for a host of that name, signed by itself, and its key, which is no secret."""

REFUSED = ConnectionRefusedError(111, "planted is what the system says")
KEY = types.SimpleNamespace(host="127.0.0.1", port=1, is_ssl=True, ssl=True)
INFO = aiohttp.RequestInfo(
    URL("http://u:planted@h/"), "GET", CIMultiDictProxy(CIMultiDict({"Authorization": "planted"}))
)
OF_A_RESPONSE = {"request_info": INFO, "history": (), "status": 407, "message": "planted"}
LOST, CONNECT, LATE = (TransportError, None), (ConnectError, False), (TransportTimeout, None)
NEVER = (ConnectError, True)


def certificate_error():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "Hostname mismatch"
    return error


def ssl_error(reason):
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    return error


# Each class: what is raised, as what it is reported, and for a connection whether for good.
TABLE = {
    "ClientError": (lambda: aiohttp.ClientError("planted"), LOST),
    "ClientConnectionError": (lambda: aiohttp.ClientConnectionError("planted"), LOST),
    "ClientConnectionResetError": (lambda: aiohttp.ClientConnectionResetError("planted"), LOST),
    "ClientOSError": (lambda: aiohttp.ClientOSError(104, "reset"), LOST),
    "ClientConnectorError": (lambda: aiohttp.ClientConnectorError(KEY, OSError(1, "x")), CONNECT),
    "ClientProxyConnectionError": (
        lambda: aiohttp.ClientProxyConnectionError(KEY, OSError(1, "x")),
        CONNECT,
    ),
    "ClientConnectorDNSError": (
        lambda: aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "unknown name")),
        CONNECT,
    ),
    "UnixClientConnectorError": (
        lambda: client_exceptions.UnixClientConnectorError("/x", KEY, OSError(1, "x")),
        CONNECT,
    ),
    "ClientSSLError": (lambda: aiohttp.ClientSSLError(KEY, ssl_error("EOF")), CONNECT),
    "ClientConnectorSSLError": (
        lambda: aiohttp.ClientConnectorSSLError(KEY, ssl_error("WRONG_VERSION_NUMBER")),
        NEVER,
    ),
    "ClientConnectorCertificateError": (
        lambda: aiohttp.ClientConnectorCertificateError(KEY, certificate_error()),
        NEVER,
    ),
    "ServerFingerprintMismatch": (
        lambda: aiohttp.ServerFingerprintMismatch(b"a", b"b", "127.0.0.1", 1),
        NEVER,
    ),
    "ConnectionTimeoutError": (lambda: aiohttp.ConnectionTimeoutError("planted"), CONNECT),
    "SocketTimeoutError": (lambda: aiohttp.SocketTimeoutError("planted"), LATE),
    "ServerTimeoutError": (lambda: aiohttp.ServerTimeoutError("planted"), LATE),
    "ServerConnectionError": (lambda: aiohttp.ServerConnectionError("planted"), LOST),
    "ServerDisconnectedError": (lambda: aiohttp.ServerDisconnectedError("planted"), LOST),
    "ClientResponseError": (lambda: aiohttp.ClientResponseError(**OF_A_RESPONSE), LOST),
    "ClientHttpProxyError": (lambda: aiohttp.ClientHttpProxyError(**OF_A_RESPONSE), NEVER),
    "WSServerHandshakeError": (lambda: aiohttp.WSServerHandshakeError(**OF_A_RESPONSE), LOST),
    "ContentTypeError": (lambda: aiohttp.ContentTypeError(**OF_A_RESPONSE), LOST),
    "TooManyRedirects": (lambda: aiohttp.TooManyRedirects(INFO, ()), LOST),
    "ClientPayloadError": (lambda: aiohttp.ClientPayloadError("planted"), LOST),
    "UploadAbortedError": (lambda: aiohttp.UploadAbortedError("planted"), LOST),
    "InvalidURL": (lambda: aiohttp.InvalidURL("http://u:planted@h"), NEVER),
    "InvalidUrlClientError": (lambda: aiohttp.InvalidUrlClientError("planted"), NEVER),
    "RedirectClientError": (lambda: aiohttp.RedirectClientError("planted"), LOST),
    "NonHttpUrlClientError": (lambda: aiohttp.NonHttpUrlClientError("planted"), NEVER),
    "InvalidUrlRedirectClientError": (
        lambda: aiohttp.InvalidUrlRedirectClientError("planted"),
        NEVER,
    ),
    "NonHttpUrlRedirectClientError": (
        lambda: aiohttp.NonHttpUrlRedirectClientError("planted"),
        NEVER,
    ),
    "WSMessageTypeError": (lambda: aiohttp.WSMessageTypeError("planted"), LOST),
    "HttpProcessingError": (
        lambda: http_exceptions.HttpProcessingError(code=400, message="planted"),
        LOST,
    ),
    **{
        kind.__name__: ((lambda kind=kind: kind("planted")), LOST)
        for kind in (
            *(http_exceptions.BadHttpMessage, http_exceptions.HttpBadRequest),
            *(http_exceptions.PayloadEncodingError, http_exceptions.ContentEncodingError),
            *(http_exceptions.TransferEncodingError, http_exceptions.ContentLengthError),
            *(http_exceptions.DecompressSizeError, http_exceptions.InvalidHeader),
            *(http_exceptions.BadStatusLine, http_exceptions.BadHttpMethod),
            http_exceptions.InvalidURLError,
        )
    },
    "LineTooLong": (lambda: http_exceptions.LineTooLong(b"planted", 1), LOST),
}


def client_of(server, **options):
    once = {"max_retries": 0, "reconcile_timeout": 0, "min_poll_interval": 0.001}
    url = server if isinstance(server, str) else server.url
    return Client(url, **CREDENTIALS, **(once | options))


def request_of(raised):
    """Return a class of requests that raise when they are sent, once connected."""

    class Request(aiohttp.ClientRequest):
        async def send(self, conn):
            raise raised

    return Request


async def error_of(awaitable):
    with pytest.raises(VMAPIError) as caught:
        await awaitable
    return caught.value


class TestTable:
    def test_all_classes_are_in_it(self):
        """No class of a new aiohttp is untested."""
        found = {
            name
            for module in (client_exceptions, http_exceptions)
            for name, kind in vars(module).items()
            if inspect.isclass(kind)
            and issubclass(kind, Exception)
            and kind.__module__ == module.__name__
        }
        assert found == set(TABLE)

    @pytest.mark.parametrize("name", TABLE)
    async def test_the_error_of_each_class(self, name):
        """It has nothing that a server, a proxy or an address may have put into it."""
        make, (kind, permanent) = TABLE[name]
        request_class = request_of(make())
        async with (
            OddServer() as server,
            aiohttp.ClientSession(request_class=request_class) as session,
            client_of(server, session=session) as client,
        ):
            error = await error_of(client.vms.get("17"))
            assert type(error) is kind
            assert (error.method, error.path) == ("GET", "/v2/virtual-machines/17")
            assert getattr(error, "permanent", None) is permanent
            assert "planted" not in f"{error} {error!r} {vars(error)}"
            assert error.__cause__ is error.__context__ is None
            assert server.requests == []

    @pytest.mark.parametrize("name", TABLE)
    async def test_a_create_fails_only_if_it_was_certainly_not_sent(self, name):
        """In every other case it is unknown."""
        make, (kind, _) = TABLE[name]
        request_class = request_of(make())
        create = CreateRequest(name="a", cpus=1, ram=1, zone_id="z", boot=ImageBoot(os="1"))
        async with (
            OddServer() as server,
            aiohttp.ClientSession(request_class=request_class) as session,
            client_of(server, session=session) as client,
        ):
            error = await error_of(client.vms.create(create, unique_name=True))
        assert type(error) is (ConnectError if kind is ConnectError else OutcomeUnknown)


class TestUnsent:
    """An exception before a request is sent means that nothing was sent, and the error says so."""

    @pytest.mark.parametrize(
        "error", [KeyError("planted"), ValueError("planted"), RuntimeError("x"), TypeError("x")]
    )
    async def test_a_hook_that_raises_before_the_request(self, error):
        """A bulk item has failed, and can be repeated."""

        async def hook(*_):
            raise error

        tracing = aiohttp.TraceConfig()
        tracing.on_request_start.append(hook)
        async with (
            OddServer() as server,
            aiohttp.ClientSession(trace_configs=[tracing]) as session,
            client_of(server, session=session) as client,
        ):
            caught = await error_of(client.vms.get("17"))
            assert type(caught) is InvalidState
            assert "nothing was sent" in str(caught)
            assert "planted" not in str(caught)
            report = await client.bulk().reset(["17"])
            assert len(report.failed) == 1
            assert not report.unknown
            assert server.requests == []

    @pytest.mark.parametrize("headers", [None, {"Authorization": "Basic eDp5"}])
    async def test_netrc(self, monkeypatch, tmp_path, headers):
        """A host that is in it gets our signature; with another default header it is refused."""
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password planted-password\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with (
            OddServer(EMPTY_LIST) as server,
            aiohttp.ClientSession(trust_env=True, headers=headers) as session,
            client_of(server, session=session) as client,
        ):
            if headers is None:
                assert await client.vms.list() == []
                (request,) = server.requests
                assert request.is_signed_with("key", "planted-secret")
                return
            error = await error_of(client.vms.list())
            assert type(error) is InvalidState
            assert "default headers and .netrc" in str(error)
            assert server.requests == []


@contextlib.asynccontextmanager
async def tls_server():
    """A server with a certificate for another host; yields port and connections."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    connections = []
    loop = asyncio.get_running_loop()
    # Handshakes fail, and asyncio logs them.
    loop.set_exception_handler(lambda *_: None)

    async def accept(reader, writer):
        connections.append(writer)
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.start_tls(context)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], connections


def trusting():
    """Return a connector that trusts the certificate, of whatever host it is."""
    return aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=CERTIFICATE))


class TestPermanent:
    """Permanent errors are raised at once, with the client's default retries."""

    @pytest.mark.parametrize(
        ("connector", "words"),
        [(lambda: None, "self.signed certificate"), (trusting, "not valid for '?127.0.0.1")],
        ids=["untrusted", "of another host"],
    )
    async def test_an_invalid_certificate(self, connector, words):
        """The error says what is wrong with it."""
        async with (
            tls_server() as (port, connections),
            aiohttp.ClientSession(connector=connector()) as session,
            client_of(f"https://127.0.0.1:{port}", session=session, max_retries=5) as client,
        ):
            with pytest.raises(ConnectError, match=words) as caught:
                await client.vms.list()
            assert caught.value.permanent
            assert f"the certificate of 127.0.0.1:{port} is not valid" in str(caught.value)
            assert len(connections) == 1

    async def test_a_port_without_tls(self):
        """A server of plain http."""
        connections = []

        async def refuse(reader, writer):
            connections.append(writer)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with (
            await asyncio.start_server(refuse, "127.0.0.1", 0) as server,
            client_of(
                f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", max_retries=5
            ) as client,
        ):
            error = await error_of(client.vms.list())
            assert type(error) is ConnectError
            assert error.permanent
            assert len(connections) == 1

    @pytest.mark.parametrize(("status", "attempts"), [(407, 1), (403, 1), (503, 2), (429, 2)])
    async def test_a_proxy_that_refuses(self, status, attempts):
        """Nothing was sent; whether a retry helps depends on the status."""
        refusal = response(b"planted", f"{status} planted", connection="close")
        async with (
            OddServer(refusal) as proxy,
            aiohttp.ClientSession(proxy=proxy.url) as session,
            client_of("https://vm.example", session=session, max_retries=1, seed=1) as client,
        ):
            error = await error_of(client.vms.list())
            assert type(error) is ConnectError
            assert "planted" not in str(error)
            assert f"status {status}" in str(error)
            assert {request.method for request in proxy.requests} == {"CONNECT"}
            assert len(proxy.requests) == attempts

    @pytest.mark.parametrize(
        "host", ["a..b", "a" * 64, f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 63}", ".a", "1.2.3"]
    )
    def test_a_host_that_is_no_valid_name(self, host):
        """It is refused before any lookup."""
        with pytest.raises(InvalidArgument, match="base_url"):
            client_of(f"https://{host}")

    @pytest.mark.parametrize("host", ["a.b.", "a" * 63, "a_b.c-d"])
    def test_odd_host_names_are_accepted(self, host):
        """They exist."""
        assert host in client_of(f"https://{host}").origin


class TestRefusals:
    @pytest.mark.parametrize("status", ["503 Service Unavailable", "404 Not Found"])
    async def test_a_large_refusal_is_not_read_completely(self, status):
        """Its status, its headers and the first 64 kB are enough; the connection is closed."""
        body = b'{"success":false,"errors":[' + b'"x",' * 2**20
        async with OddServer(response(body, status, retry_after="0"), EMPTY_LIST) as server:
            transport = HTTPTransport(server.url, max_response_size=100)
            refusal = await transport.send("GET", "/v2/x", {}, b"")
            assert len(refusal.body) == MAX_REFUSAL + 1
            await transport.close()
            async with client_of(server) as client:
                assert await client.vms.list() == []

    async def test_retry_after_of_a_large_refusal_is_honoured(self):
        """It would be lost if a body that is too large was an error."""
        reply = response(b"x" * 10**6, "503 Service Unavailable", retry_after="7")
        async with OddServer(reply) as server, client_of(server, max_response_size=1000) as client:
            error = await error_of(client.vms.list())
        assert type(error) is ServerError
        assert error.retry_after == 7


FORK = """
import asyncio, os, sys
from async_vmapi import Client, InvalidState

async def use(client):
    return await client.vms.list()

async def main(client):
    await use(client)
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)
        try:
            asyncio.new_event_loop().run_until_complete(use(client))
        except InvalidState as error:
            os.write(1, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    await use(client)
    await client.close()

asyncio.run(main(Client(sys.argv[1], api_key="key", api_secret="secret")))
"""


JITTER = """
import asyncio, json, logging, os, socket
from async_vmapi import Client, ConnectError

with socket.create_server(("127.0.0.1", 0)) as unused:
    url = f"http://127.0.0.1:{unused.getsockname()[1]}"
clients = [Client(url, api_key="k", api_secret="s", max_retries=1, seed=n) for n in (None, 1)]
delays = []

class Noting(logging.Handler):
    def emit(self, record):
        if (delay := getattr(record, "vmapi_retry_delay", None)) is not None:
            delays.append(delay)

logging.getLogger("async_vmapi").addHandler(Noting())
logging.getLogger("async_vmapi").setLevel(logging.INFO)

async def refused(client):
    async with client:
        try:
            await client.vms.list()
        except ConnectError:
            pass

child = os.fork()
for client in clients:
    asyncio.run(refused(client))
if child:
    os.waitpid(child, 0)
os.write(1, (json.dumps(delays) + "\\n").encode())
os._exit(0)
"""


class TestFork:
    async def test_a_client_that_was_used_before(self, monkeypatch):
        """Its connections are the parent's: they are neither used nor closed."""
        async with OddServer(EMPTY_LIST) as server:
            transport = HTTPTransport(server.url)
            request = ("GET", "/v2/x", {}, b"")
            await transport.send(*request)
            with monkeypatch.context() as patch:
                patch.setattr(http, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1))
                for _ in range(2):
                    with pytest.raises(InvalidState, match="before the process forked"):
                        await transport.send(*request)
                    await transport.close()
            await transport.send(*request)
            assert server.connections == 1
            await transport.close()

    async def test_a_session_that_was_lent_before(self, monkeypatch):
        """It was open already."""
        async with OddServer(EMPTY_LIST) as server, aiohttp.ClientSession() as session:
            client = client_of(server, session=session)
            monkeypatch.setattr(http, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1))
            with pytest.raises(InvalidState, match="before the process forked"):
                await client.vms.list()

    async def test_a_client_that_was_not_used_before(self, monkeypatch):
        """It works like a new one."""
        async with OddServer(EMPTY_LIST) as server:
            client = client_of(server)
            monkeypatch.setattr(http, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1))
            assert await client.vms.list() == []
            await client.close()

    @pytest.mark.programs
    async def test_a_real_fork(self):
        """The parent continues to use its connection."""
        async with OddServer(EMPTY_LIST) as server:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-W", "ignore", "-c", FORK, server.url],
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            assert "before the process forked" in done.stdout
            assert server.connections == 1
            assert len(server.requests) == 2

    @pytest.mark.programs
    def test_processes_have_different_jitter(self):
        """Their random numbers have no state that a fork copies, unless a seed was given."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", JITTER],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        (child, child_seeded), (parent, parent_seeded) = map(json.loads, done.stdout.splitlines())
        assert child != parent
        assert child_seeded == parent_seeded
