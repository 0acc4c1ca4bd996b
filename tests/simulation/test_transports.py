"""Transports of the user's own: what they may do, and what a client makes of it."""

import asyncio
import itertools
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import aiohttp
import pytest

from async_vmapi import (
    APIError,
    BadRequest,
    Client,
    ConnectError,
    DecodingError,
    HTTPTransport,
    InvalidArgument,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Response,
    TransportError,
    TransportTimeout,
)
from async_vmapi.emulator import CloudAPI, Emulator, InMemoryTransport

pytestmark = pytest.mark.looptime

CREDENTIALS = {"api_key": "planted-key", "api_secret": "planted-secret"}
PLANTED = "planted-in-a-header"


class OneThatFails:
    """A transport to a cloud that fails where it is told to.

    Args:
        cloud: Where it sends to.
        error: What it raises, made from the request's headers.
        calls: Which requests of a method fail, by their number from 0.
        carried_out: Whether they reach the cloud all the same.
    """

    def __init__(self, cloud, error, *, method="GET", calls=range(1000), carried_out=False):
        self._inner = InMemoryTransport(cloud, latency=0.02)
        self._error, self._method, self._calls = error, method, calls
        self._carried_out = carried_out
        self.sent = []

    async def send(self, method, target, headers, body):
        number = sum(one == method for one, _ in self.sent)
        self.sent.append((method, asyncio.get_running_loop().time()))
        fails = method == self._method and number in self._calls
        if fails and not self._carried_out:
            raise self._error(headers)
        response = await self._inner.send(method, target, headers, body)
        if fails:
            raise self._error(headers)
        return response

    async def close(self):
        pass

    def count(self, method):
        return sum(one == method for one, _ in self.sent)


class Returning:
    """A transport that returns the same thing to everything."""

    def __init__(self, *things):
        self._things = itertools.chain(things[:-1], itertools.repeat(things[-1]))
        self.sent = []
        self.closed = 0

    async def send(self, method, *_):
        self.sent.append((method, asyncio.get_running_loop().time()))
        return next(self._things)

    async def close(self):
        self.closed += 1


def client_of(cloud, transport, **options):
    """Return a client of a cloud by a transport."""
    return Client(
        "https://vm.example.com",
        api_key=cloud.api_key,
        api_secret=cloud.api_secret,
        **({"transport": transport, "seed": 1} | options),
    )


def planted(headers):
    return f"{PLANTED} {headers['Authorization']}"


def all_text_of(error):
    """Return everything that a log or a debugger might show of an error."""
    text = "".join(traceback.format_exception(error))
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text += f"{error!r}{vars(error)!r}"
        error = error.__cause__ or error.__context__
    return text


UNDOCUMENTED = {
    "KeyError": lambda headers: KeyError(planted(headers)),
    "RuntimeError": lambda headers: RuntimeError(planted(headers)),
    "ValueError": lambda headers: ValueError(planted(headers)),
    "OSError": lambda headers: OSError(5, planted(headers)),
    "ConnectionRefusedError": lambda headers: ConnectionRefusedError(planted(headers)),
    "TimeoutError": lambda headers: TimeoutError(planted(headers)),
    "ExceptionGroup": lambda headers: ExceptionGroup(planted(headers), [ConnectError("x")]),
    "NotFound": lambda headers: NotFound(planted(headers), status=404),
    "RateLimited": lambda headers: RateLimited(planted(headers), status=429),
    "InvalidArgument": lambda headers: InvalidArgument(planted(headers)),
}


@pytest.mark.parametrize("name", UNDOCUMENTED)
class TestUndocumentedExceptions:
    """Whatever a transport raises, the outcome is unknown."""

    async def test_of_a_create_that_was_carried_out(self, api, request_for, name):
        """The VM is adopted, and nothing is sent a second time."""
        transport = OneThatFails(api, UNDOCUMENTED[name], method="PUT", carried_out=True)
        async with client_of(api, transport) as client:
            task = await client.vms.create(request_for())
            assert task.adopted
            assert (await task).state == "online"
        assert transport.count("PUT") == 1
        assert len(api.cloud.vms) == 1

    async def test_of_a_create_that_was_not(self, api, request_for, name):
        """It is reconciled, then raised as `OutcomeUnknown`; nothing is sent a second time."""
        transport = OneThatFails(api, UNDOCUMENTED[name], method="PUT")
        async with client_of(api, transport, reconcile_timeout=5) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await client.vms.create(request_for())
        assert transport.count("PUT") == 1
        cause = caught.value.__cause__
        assert isinstance(cause, TransportError)
        assert f"the transport raised {name}" in str(cause)
        assert (cause.method, cause.path) == ("PUT", "/v2/virtual-machines")
        assert PLANTED not in all_text_of(caught.value)

    async def test_of_an_idempotent_write(self, api, request_for, name):
        """It is retried, and the task goes on."""
        api.cloud.adjust("*", create=1, not_found=0)
        transport = OneThatFails(
            api, UNDOCUMENTED[name], method="POST", calls=[0], carried_out=True
        )
        async with client_of(api, transport) as client:
            vm = await (await client.vms.create(request_for()))
            assert (await (await client.vms.shutdown(vm))).state == "offline"
        assert transport.count("POST") == 2

    async def test_of_a_read(self, api, name):
        """It is retried, and at last raised as a `TransportError` without the original."""
        transport = OneThatFails(api, UNDOCUMENTED[name], calls=range(2))
        async with client_of(api, transport) as client:
            assert await client.vms.list() == []
        assert transport.count("GET") == 3
        transport = OneThatFails(api, UNDOCUMENTED[name])
        async with client_of(api, transport) as client:
            with pytest.raises(TransportError) as caught:
                await client.vms.list()
            assert client.requests["list"] == 6
        error = caught.value
        assert type(error) is (TransportTimeout if name == "TimeoutError" else TransportError)
        assert f"the transport raised {name}" in str(error)
        assert PLANTED not in all_text_of(error)

    async def test_where_it_was_raised_is_told(self, api, name):
        """Whoever wrote the transport finds the line, though the text is not shown."""
        transport = OneThatFails(api, UNDOCUMENTED[name])
        async with client_of(api, transport, max_retries=0) as client:
            with pytest.raises(TransportError) as caught:
                await client.vms.list()
        (note,) = caught.value.__notes__
        assert "test_transports.py" in note
        assert "in send\n    raise self._error(headers)" in note


class TestDocumentedExceptions:
    async def test_what_was_surely_not_sent_is_sent_again(self, api, request_for):
        """A create too."""
        transport = OneThatFails(api, lambda _: ConnectError("no route"), method="PUT", calls=[0])
        async with client_of(api, transport) as client:
            task = await client.vms.create(request_for())
            assert not task.adopted
        assert transport.count("PUT") == 2
        assert len(api.cloud.vms) == 1

    @pytest.mark.parametrize("kind", [TransportError, TransportTimeout, ConnectError])
    async def test_the_call_is_added(self, api, kind):
        """A transport need not say which request it was."""
        transport = OneThatFails(api, lambda _: kind("the cable is cut"))
        async with client_of(api, transport, max_retries=0) as client:
            with pytest.raises(kind) as caught:
                await client.vms.get("17")
        assert type(caught.value) is kind
        assert str(caught.value) == "GET /v2/virtual-machines/17 got no response: the cable is cut"

    async def test_a_response_that_is_too_large_for_the_transport(self, api, request_for):
        """The outcome of a write is unknown."""
        transport = OneThatFails(
            api, lambda _: DecodingError("too large"), method="PUT", carried_out=True
        )
        async with client_of(api, transport) as client:
            assert (await client.vms.create(request_for())).adopted
        assert transport.count("PUT") == 1

    async def test_a_transport_that_cannot_be_used_now(self, api, request_for):
        """Nothing was sent, nothing is retried, and nothing has to be reconciled."""
        transport = OneThatFails(api, lambda _: InvalidState("it is closed"), method="PUT")
        async with client_of(api, transport) as client:
            with pytest.raises(InvalidState, match="it is closed"):
                await client.vms.create(request_for())
            assert client.unresolved == ()
            assert transport.count("PUT") == 1
            assert client.requests["list"] == 1

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_what_ends_the_program_passes(self, kind):
        """It is nobody's to hold up."""
        api = CloudAPI()
        client = client_of(api, OneThatFails(api, lambda _: kind()))
        with asyncio.Runner() as runner, pytest.raises(kind):
            runner.run(client.vms.list())

    async def test_cancellation_passes(self, api):
        """Also one that the transport raises by itself."""
        transport = OneThatFails(api, lambda _: asyncio.CancelledError())
        async with client_of(api, transport) as client:
            with pytest.raises(asyncio.CancelledError):
                await client.vms.list()
        assert len(transport.sent) == 1


OK = b'{"success": true, "virtual_machine": {"id": "17"}, "virtual_machines": []}'


class TestResponses:
    @pytest.mark.parametrize(
        ("thing", "words"),
        [
            (None, "<NoneType>, not a Response"),
            ((200, {}, OK), "<tuple>, not a Response"),
            (Response, "<type>, not a Response"),
            (Response("200", {}, OK), "status is not an integer from 200 to 999"),
            (Response(None, {}, OK), "status is not an integer from 200 to 999"),
            (Response(True, {}, OK), "status is not an integer from 200 to 999"),
            (Response(0, {}, OK), "status is not an integer from 200 to 999"),
            (Response(101, {}, OK), "status is not an integer from 200 to 999"),
            (Response(1000, {}, OK), "status is not an integer from 200 to 999"),
            (Response(200, {}, OK.decode()), "body is <str>, not bytes"),
            (Response(200, {}, None), "body is <NoneType>, not bytes"),
            (Response(200, {}, bytearray(OK)), "body is <bytearray>, not bytes"),
            (Response(200, None, OK), "headers are <NoneType>, not a mapping"),
            (Response(200, [("a", "b")], OK), "headers are <list>, not a mapping"),
            (Response(200, {}, OK + b" " * 1000), "larger than 1000 bytes"),
        ],
    )
    async def test_what_is_none(self, thing, words, request_for):
        """It cannot be read, so what became of a write is unknown; it is not sent again."""
        transport = Returning(thing)
        options = CREDENTIALS | {
            "transport": transport,
            "max_response_size": 1000,
            "reconcile_timeout": 1,
        }
        async with Client("https://vm.example.com", **options) as client:
            with pytest.raises(DecodingError) as caught:
                await client.vms.list()
            assert words in str(caught.value)
            assert caught.value.path == "/v2/virtual-machines"
            assert len(transport.sent) == 1
            with pytest.raises(OutcomeUnknown) as caught:
                await client.vms.create(request_for(), unique_name=True)
        assert isinstance(caught.value.__cause__, DecodingError)
        assert sum(method == "PUT" for method, _ in transport.sent) == 1

    async def test_the_largest_body_is_read(self):
        """One of just the size that is allowed."""
        transport = Returning(Response(200, {}, OK))
        options = CREDENTIALS | {"transport": transport, "max_response_size": len(OK)}
        async with Client("https://vm.example.com", **options) as client:
            assert await client.vms.list() == []

    @pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    async def test_the_headers_of_a_plain_dict_are_found(self, name, form):
        """Their names have no case, as in HTTP; the client holds back."""
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        headers = {"date": "x", name: "30" if form == "seconds" else date}
        transport = Returning(Response(429, headers, b""), Response(200, {}, OK))
        options = CREDENTIALS | {"transport": transport}
        async with Client("https://vm.example.com", **options) as client:
            await client.vms.list()
        (_, first), (_, second) = transport.sent
        assert 28 <= second - first <= 31

    @pytest.mark.parametrize("headers", [{"retry-after": 3}, {b"retry-after": b"3"}, {None: ""}])
    async def test_headers_that_are_no_text_say_nothing(self, headers):
        """They are passed over."""
        options = CREDENTIALS | {
            "transport": Returning(Response(429, headers, b"")),
            "max_retries": 0,
        }
        async with Client("https://vm.example.com", **options) as client:
            with pytest.raises(RateLimited) as caught:
                await client.vms.list()
        assert caught.value.retry_after is None

    async def test_what_a_transport_does_with_the_headers_does_not_matter(self):
        """The signature is found in a server's words, though the dict was emptied."""

        class Emptying:
            async def send(self, method, target, headers, body):
                words = f'{{"success": false, "error": "{headers["Authorization"]}"}}'
                headers.clear()
                return Response(400, {}, words.encode())

            async def close(self):
                pass

        async with Client("https://vm.example.com", transport=Emptying(), **CREDENTIALS) as client:
            with pytest.raises(BadRequest, match="repeats the API secret or the signature"):
                await client.vms.list()

    async def test_a_refusal_is_still_one(self, api):
        """What the API refuses comes through any transport as it is."""
        async with client_of(api, InMemoryTransport(api)) as client:
            with pytest.raises(APIError) as caught:
                await client.vms.get("nope")
        assert type(caught.value) is NotFound

    def test_what_may_be_secret_is_not_shown(self):
        """A console's password is in a body, a cookie in a header."""
        assert repr(Response(200, {"Set-Cookie": "a"}, b"planted")) == "Response(status=200)"
        with pytest.raises(AttributeError):
            Response(200, {}, b"").status = 201


class TestBudget:
    async def test_a_clock_that_jumps_does_not_take_the_first_retry(self, api):
        """The process may have been stopped while the request was in flight."""

        class Stopped(OneThatFails):
            async def send(self, *request):
                if not self.sent:
                    await asyncio.sleep(3600)
                return await super().send(*request)

        transport = Stopped(api, lambda _: TransportError("reset"), calls=[0])
        async with client_of(api, transport) as client:
            assert await client.vms.list() == []
        assert transport.count("GET") == 2


class TestLife:
    async def test_it_is_closed_with_the_client(self):
        """And is used again where the client is."""
        transport = Returning(Response(200, {}, OK))
        client = Client("https://vm.example.com", transport=transport, **CREDENTIALS)
        for number in (1, 2):
            async with client:
                assert await client.vms.list() == []
            assert transport.closed == number

    async def test_one_around_another(self, api, request_for):
        """A wrapper is a transport like any other."""

        class Recorder:
            def __init__(self, inner):
                self.inner, self.lines = inner, []

            async def send(self, *request):
                response = await self.inner.send(*request)
                self.lines.append((*request[:2], response.status))
                return response

            async def close(self):
                await self.inner.close()

        recorder = Recorder(InMemoryTransport(api))
        async with client_of(api, recorder) as client:
            await client.vms.create(request_for(), unique_name=True)
        assert recorder.lines == [("PUT", "/v2/virtual-machines", 200)]


class TestArguments:
    @pytest.mark.parametrize(
        "options", [{"timeout": 30.0}, {"connect_timeout": 10}, {"session": object()}]
    )
    def test_what_is_for_http_is_refused_with_a_transport(self, api, options):
        """It would have no effect there."""
        (name,) = options
        with pytest.raises(InvalidArgument, match="a transport is given") as caught:
            client_of(api, InMemoryTransport(api), **options)
        assert caught.value.argument == name
        with pytest.raises(InvalidArgument, match="a transport is given"):
            Client.in_memory(api, **options)

    def test_what_says_nothing_is_not_refused(self, api):
        """None is as good as not given."""
        client_of(api, InMemoryTransport(api), session=None, timeout=None, connect_timeout=None)
        client_of(api, None, session=None, timeout=None, connect_timeout=None)

    @pytest.mark.parametrize("thing", [5, "https", object(), InMemoryTransport, aiohttp])
    def test_what_is_no_transport_is_refused(self, api, thing):
        """At once, and not by the first request."""
        with pytest.raises(InvalidArgument) as caught:
            client_of(api, thing)
        assert caught.value.argument == "transport"

    def test_in_memory_brings_its_own(self, api):
        """Two transports cannot be meant."""
        with pytest.raises(InvalidArgument) as caught:
            Client.in_memory(api, transport=InMemoryTransport(api))
        assert caught.value.argument == "transport"

    @pytest.mark.parametrize(
        ("argument", "options"),
        [
            ("latency", {"latency": -1}),
            ("latency", {"latency": float("inf")}),
            ("timeout", {"timeout": float("nan")}),
        ],
    )
    def test_of_the_transport_in_memory(self, api, argument, options):
        """Times are finite, and not below 0."""
        with pytest.raises(InvalidArgument) as caught:
            InMemoryTransport(api, **options)
        assert caught.value.argument == argument

    @pytest.mark.parametrize("cloud", [None, CloudAPI, Emulator()])
    def test_a_cloud_is_a_cloud(self, cloud):
        """The emulator over HTTP is the likely mistake."""
        with pytest.raises(InvalidArgument, match="is not a CloudAPI"):
            Client.in_memory(cloud)

    def test_the_http_transport_checks_its_own(self):
        """It can be made by itself."""
        with pytest.raises(InvalidArgument, match="connect_timeout"):
            HTTPTransport("https://vm.example.com", connect_timeout=0)
        shown = repr(HTTPTransport("https://vm.example.com:8443"))
        assert shown == "<HTTPTransport to https://vm.example.com:8443>"

    def test_the_environment_and_regions_take_a_transport(self, monkeypatch):
        """As any other option."""
        for name, value in (("REGION", "eu"), ("API_KEY", "k"), ("API_SECRET", "s")):
            monkeypatch.setenv(f"VMAPI_{name}", value)
        monkeypatch.delenv("VMAPI_URL", raising=False)
        transport = Returning(Response(200, {}, OK))

        async def use():
            async with Client.from_env(transport=transport) as client:
                return await client.vms.list()

        assert asyncio.run(use()) == []
        assert len(transport.sent) == 1


class TestSeed:
    async def test_waits_are_repeatable(self, api):
        """The same seed draws the same jitter, another one another."""
        waits = []
        for seed in (1, 1, 2):
            transport = OneThatFails(api, lambda _: TransportError("x"))
            async with client_of(api, transport, seed=seed) as client:
                with pytest.raises(TransportError):
                    await client.vms.list()
            times = [at for _, at in transport.sent]
            waits.append([round(b - a, 4) for a, b in itertools.pairwise(times)])
        assert waits[0] == waits[1] != waits[2]
