"""No frame of any error shows a secret, so no error tracker stores one."""

import asyncio
import itertools
from typing import ClassVar

import aiohttp
import attrs
import pytest

from async_vmapi import (
    CdromBoot,
    Client,
    ConnectError,
    CreateRequest,
    HTTPTransport,
    ImageBoot,
    InvalidArgument,
    NotFound,
    TransportError,
    VMAPIError,
)
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, InMemoryTransport, Settings
from async_vmapi.redaction import HiddenBytes, HiddenText, Secret
from async_vmapi.signing import Signer

from . import odd_server
from .frames import leaks
from .odd_server import CLOSE, HANG, OddServer, response

API_SECRET = "planted-api-secret/ż"
PASSWORD = 'planted-"password"'
USER_DATA = "#cloud-config\nrun: planted-user-data ü\n" + "# more\n" * 40
CONSOLE_PASSWORD = "planted-console-password"
CREDENTIALS = {"api_key": "key", "api_secret": API_SECRET}
SECRETS = (API_SECRET, PASSWORD, USER_DATA, "planted-user-data", CONSOLE_PASSWORD)
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
OURS = (__file__, odd_server.__file__)


def request(**changes):
    fields = {"name": "web-01", "cpus": 1, "ram": 1024, "zone_id": ZONE}
    boot = ImageBoot(os="2268", password=PASSWORD, user_data=USER_DATA)
    return CreateRequest(**({"boot": boot} | fields | changes))


CALLS = {
    "create": lambda c: c.vms.create(request()),
    "create of a unique name": lambda c: c.vms.create(request(), unique_name=True),
    "create by keywords": lambda c: c.vms.create(
        **{f.name: getattr(request(), f.name) for f in attrs.fields(CreateRequest)},
        unique_name=True,
    ),
    "get": lambda c: c.vms.get("17"),
    "list": lambda c: c.vms.list(),
    "console": lambda c: c.vms.console("17"),
    "reboot": lambda c: c.vms.reboot("17"),
    "shutdown": lambda c: c.vms.shutdown("17"),
    "rename": lambda c: c.vms.rename("17", "x"),
    "account": lambda c: c.account.ssh_keys(),
}


def all_of(request):
    """Return all that a request holds."""
    return {"headers": request.headers, "body": request.body.decode(), "secret": API_SECRET}


REPLIES = {
    "404": lambda r: response({"success": False, "error": "no such VM"}, "404 Not Found"),
    "400 that repeats all": lambda r: response({"error": all_of(r)}, "400 Bad Request"),
    "200 that repeats all": lambda r: response({"success": False, "errors": [all_of(r)]}),
    "429": lambda r: response(all_of(r), "429 Too Many Requests", retry_after="0"),
    "500": lambda r: response(all_of(r), "500 Internal Server Error"),
    "redirect": lambda r: response(b"", "302 Found", location=f"/?{r.headers['authorization']}"),
    "page": lambda r: response(f"<p>{r.headers}{r.body}".encode(), "502 Bad Gateway"),
    "no JSON": lambda r: response(r.headers["authorization"].encode() + r.body),
    "another form": lambda r: response(
        {"success": "yes"}
        | {
            name: [{"password": CONSOLE_PASSWORD, **all_of(r)}]
            for name in ("virtual_machine", "virtual_machines", "console", "account")
        }
    ),
    "too large": lambda r: response({"success": True, "x": "x" * 3000, **all_of(r)}),
    "headers that repeat all": lambda r: response(
        {"error": "no"}, "400 Bad Request", x_more=r.headers["authorization"]
    ),
    "no HTTP": lambda r: (
        f"HTTP/1.1 200 OK\r\n{r.headers['authorization'].replace(':', ' ')}{PASSWORD}\r\n"
        "Connection: close\r\n\r\n"
    ).encode(),
    "a chunk that is none": lambda r: (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        f"{r.headers['authorization']}\r\n"
    ).encode(),
    "half": lambda r: b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n{",
    "nothing": CLOSE,
    "silence": HANG,
}
# The VM of a reboot whose outcome is unknown is polled for seconds, or until a poll is refused.
END_OF_POLLING = response({"success": False}, "401 Unauthorized")


def client_of(server, **options):
    given = {
        "max_retries": 0,
        "reconcile_timeout": 0.0,
        "min_poll_interval": 0.001,
        "max_response_size": 2000,
    }
    return Client(server.url, **CREDENTIALS, **(given | options))


def planted(server):
    """Return the secrets and the signatures of all requests."""
    signatures = [one.headers["authorization"].rpartition(":")[2] for one in server.requests]
    assert signatures
    return (*SECRETS, *signatures)


class TestOverHTTP:
    @pytest.mark.parametrize("reply", REPLIES)
    @pytest.mark.parametrize("call", CALLS)
    async def test_what_a_server_may_reply(self, call, reply):
        """Refusals, unreadable responses, and no response."""
        replies = [REPLIES[reply]]
        if call == "reboot":
            replies = [*replies * 2, END_OF_POLLING]
        async with OddServer(*replies) as server:
            # On a slow machine, a short timeout can expire before the request is there.
            for timeout in (0.1, 1, 10) if REPLIES[reply] is HANG else (10,):
                async with client_of(server, timeout=timeout) as client:
                    with pytest.raises(VMAPIError) as caught:
                        await CALLS[call](client)
                if server.requests:
                    break
            assert leaks(caught.value, planted(server), besides=OURS) == []

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_retried_call(self, call):
        """The errors of earlier attempts are not attached."""
        replies = [CLOSE, REPLIES["500"], REPLIES["400 that repeats all"]]
        if call == "reboot":
            replies.append(END_OF_POLLING)
        async with (
            OddServer(*replies) as server,
            client_of(server, max_retries=2, seed=1) as client,
        ):
            with pytest.raises(VMAPIError) as caught:
                await CALLS[call](client)
            assert leaks(caught.value, planted(server), besides=OURS) == []

    @pytest.mark.parametrize("call", CALLS)
    async def test_cancellation(self, call):
        """Also by the caller's own timeout."""
        async with OddServer(HANG) as server, client_of(server) as client:
            call = asyncio.ensure_future(CALLS[call](client))
            await server.requested()
            # The writes' own ten seconds.
            for task in asyncio.all_tasks():
                if task.get_name().startswith("async_vmapi"):
                    task.cancel()
            call.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await call
            assert leaks(caught.value, planted(server), besides=OURS) == []

    async def test_a_callers_timeout(self):
        """Its cause is the cancellation."""
        async with OddServer(HANG) as server, client_of(server) as client:

            async def expire(timeout):
                await server.requested()
                timeout.reschedule(0)

            async def get():
                async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as group:
                    group.create_task(expire(timeout))
                    await client.vms.get("17")

            with pytest.raises(TimeoutError) as caught:
                await get()
            assert leaks(caught.value, planted(server), besides=OURS) == []

    @pytest.mark.parametrize("call", CALLS)
    async def test_requests_that_are_not_sent(self, call):
        """No connection, or a session that cannot be used."""
        session = aiohttp.ClientSession()
        await session.close()
        for options in ({}, {"session": session}):
            async with Client(
                "http://127.0.0.1:1", **CREDENTIALS, max_retries=0, **options
            ) as client:
                with pytest.raises(VMAPIError) as caught:
                    await CALLS[call](client)
                assert leaks(caught.value, SECRETS, besides=OURS) == []

    async def test_hooks_that_raise(self):
        """aiohttp's frames are beneath theirs."""

        async def hook(*_):
            raise KeyError("hook")

        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(hook)
        async with (
            OddServer(REPLIES["404"]) as server,
            aiohttp.ClientSession(trace_configs=[tracing]) as session,
            client_of(server, session=session) as client,
        ):
            with pytest.raises(NotFound) as caught:
                await client.vms.get("17")
            assert leaks(caught.value, planted(server), besides=OURS) == []

    @pytest.mark.parametrize(
        "reply", ["half", "nothing", "too large", "a chunk that is none", "silence"]
    )
    async def test_a_wrapper_of_the_http_transport(self, reply):
        """It gets errors without aiohttp's frames."""
        headers = {"Host": "h", "Authorization": HiddenText("key:planted-signature/1")}
        async with OddServer(REPLIES[reply]) as server:
            transport = HTTPTransport(server.url, timeout=0.2, max_response_size=100)
            with pytest.raises(VMAPIError) as caught:
                await transport.send("PUT", "/v2/x", headers, HiddenBytes(PASSWORD.encode()))
            await transport.close()
        assert leaks(caught.value, (*SECRETS, "planted-signature/1"), besides=OURS) == []


class Failing:
    """A transport that raises, with its arguments as local variables."""

    def __init__(self, error):
        self._error = error

    async def send(self, method, target, headers, body):
        text = f"{headers} {body!r}"
        try:
            raise KeyError(dict(headers), bytes(body))
        except KeyError as error:
            raise self._error from error
        finally:
            del text

    async def close(self):
        pass


@pytest.mark.looptime
class TestInMemory:
    KINDS = (
        *("drop_before", "drop_after", "truncated", "html", "success_false", "refuse", "stall"),
        *("rate_limited", "server_error"),
    )

    @pytest.mark.parametrize(
        ("call", "kind"),
        [
            *itertools.product([name for name in CALLS if name != "account"], KINDS),
            ("get", "not_found"),
        ],
    )
    async def test_the_emulators_faults(self, call, kind, monkeypatch):
        """Of each kind."""
        status = {"status": 503} if kind == "server_error" else {}
        faults = FaultPlan([Fault(kind=kind, probability=1.0, **status)], seed=1)
        api = CloudAPI(settings=Settings(), seed=1, api_secret=API_SECRET, faults=faults)
        signatures, sign = [], Signer.sign

        def keep(*arguments):
            headers = sign(*arguments)
            signatures.append(headers["Authorization"].rpartition(":")[2])
            return headers

        monkeypatch.setattr(Signer, "sign", keep)
        async with Client.in_memory(
            api, latency=0.05, max_retries=1, reconcile_timeout=1
        ) as client:
            with pytest.raises(VMAPIError) as caught:
                await asyncio.wait_for(CALLS[call](client), 500)
            assert signatures
            assert leaks(caught.value, (*SECRETS, *signatures), besides=OURS) == []

    @pytest.mark.parametrize(
        "error", [KeyError("x"), ConnectError("x"), TransportError("x"), asyncio.CancelledError()]
    )
    @pytest.mark.parametrize("call", CALLS)
    async def test_transports_that_raise(self, call, error):
        """Neither their frames nor the causes of their errors are left."""
        async with Client(
            "https://vm.example.com", transport=Failing(error), **CREDENTIALS, max_retries=0
        ) as client:
            with pytest.raises((VMAPIError, asyncio.CancelledError)) as caught:
                await CALLS[call](client)
        assert leaks(caught.value, SECRETS, besides=OURS) == []
        assert caught.value is error or error.__traceback__ is not None

    async def test_transports_get_redacted_arguments(self):
        """Their frames are not ours, but the values that we pass are."""
        given = []

        class Keeping:
            async def send(self, *arguments):
                given.append(arguments)
                raise ConnectError("no")

            async def close(self):
                pass

        async with Client(
            "https://vm.example.com", transport=Keeping(), **CREDENTIALS, max_retries=0
        ) as client:
            with pytest.raises(ConnectError):
                await client.vms.create(request(), unique_name=True)
        ((_, _, headers, body),) = given
        assert b"planted-" in bytes(body)
        assert "planted" not in f"{headers!r} {body!r} {body[:80]!r}"
        assert str(headers["Authorization"]).rpartition(":")[2] not in repr(headers)


def no_surrogates(text):
    return f"{text}\ud800"


class TestConstructors:
    """The check that refuses an argument runs beneath a frame that has the other arguments."""

    ROWS: ClassVar = {
        "client": lambda: Client("ftp://x", **CREDENTIALS),
        "client, key": lambda: Client("https://x.y", api_key="a b", api_secret=API_SECRET),
        "client, secret": lambda: Client(
            "https://x.y", api_key="k", api_secret=no_surrogates(API_SECRET)
        ),
        "client, bytes": lambda: Client("https://x.y", api_key="k", api_secret=API_SECRET.encode()),
        "client, retries": lambda: Client("https://x.y", **CREDENTIALS, max_retries=-1),
        "client, session": lambda: Client("https://x.y", **CREDENTIALS, session="x"),
        "client, transport": lambda: Client("https://x.y", **CREDENTIALS, transport="x"),
        "region": lambda: Client.for_region("no region", **CREDENTIALS),
        "region, option": lambda: Client.for_region("region", **CREDENTIALS, max_retries=-1),
        "region, secret": lambda: Client.for_region("region", api_key="k", api_secret=[API_SECRET]),
        "in memory": lambda: Client.in_memory(CloudAPI(api_secret=API_SECRET), max_retries=-1),
        "transport": lambda: InMemoryTransport(CloudAPI(api_secret=API_SECRET), latency=-1),
        "boot, os": lambda: ImageBoot(os="", password=PASSWORD, user_data=USER_DATA),
        "boot, key": lambda: ImageBoot(os="1", key_id="", password=PASSWORD),
        "boot, password": lambda: ImageBoot(os="1", password=PASSWORD.encode()),
        "boot, other": lambda: ImageBoot(os="1", password=no_surrogates(PASSWORD)),
        "boot, data": lambda: ImageBoot(os="1", password=PASSWORD, user_data=[USER_DATA]),
        "boot, changed": lambda: attrs.evolve(ImageBoot(os="1", password=PASSWORD), os=""),
        "request": lambda: request(cpus=0),
    }

    @pytest.mark.parametrize("name", ROWS)
    def test_each_refusal(self, name):
        """With valid other arguments."""
        with pytest.raises(InvalidArgument) as caught:
            self.ROWS[name]()
        assert leaks(caught.value, SECRETS, besides=OURS) == []

    async def test_a_create_by_keywords(self, cloud_api):
        """A password as the wrong argument."""
        async with Client.in_memory(cloud_api) as client:
            with pytest.raises(InvalidArgument, match="Pass boot=ImageBoot") as caught:
                await client.vms.create(
                    name="a", cpus=1, ram=1, zone_id="z", boot=CdromBoot(iso="x"), password=PASSWORD
                )
        assert leaks(caught.value, SECRETS, besides=OURS) == []

    @pytest.mark.parametrize(
        "changes", [{"VMAPI_API_KEY": ""}, {"VMAPI_URL": "ftp://x"}, {"VMAPI_MAX_STALENESS": "x"}]
    )
    def test_the_environment(self, monkeypatch, changes):
        """It is read in one of our own frames."""
        good = {"VMAPI_URL": "https://x.y", "VMAPI_API_KEY": "k", "VMAPI_API_SECRET": API_SECRET}
        for name, value in (good | changes).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InvalidArgument) as caught:
            Client.from_env()
        assert leaks(caught.value, SECRETS, besides=OURS) == []


class TestTheTest:
    def test_it_finds_a_secret(self):
        """In variables, containers, attributes and causes, cut or escaped."""

        class Holder:
            pass

        Holder.__module__ = "async_vmapi.made_up"
        holder = Holder()
        holder.inner = [{"deep": (USER_DATA,)}]
        things = [PASSWORD, [PASSWORD], {"a": {PASSWORD}}, {PASSWORD: 1}, PASSWORD.encode(), holder]
        for thing, hung in itertools.product(things, (False, True)):

            def fail(thing=thing):
                raise KeyError(len(str(thing)))

            def hang(fail=fail):
                try:
                    fail()
                except KeyError:
                    raise ValueError from None

            with pytest.raises(ValueError if hung else KeyError) as caught:
                hang() if hung else fail()
            assert leaks(caught.value, SECRETS, besides=()) != []

    def test_hidden_values_work(self):
        """They compare, hash and copy like their content, and are text where needed."""
        assert Secret("x") == Secret("x") != Secret("y")
        assert len({Secret("x"), Secret("x")}) == 1
        assert HiddenText("abc")[0] == "a"
        assert f"{HiddenText('abc')}" == "abc"
        assert HiddenBytes(b"abc")[0] == 97
        assert f"{Secret('abc')} {Secret('abc')!r}" == "<secret> <secret>"
        assert ImageBoot(os="1", password="x") == ImageBoot(os="1", password="x")
        assert ImageBoot(os="1", password="x").password == "x"
