"""Invalid arguments, each with its error; none of these calls is sent."""

import inspect
import math

import attrs
import pytest
from yarl import URL

from async_vmapi import (
    CdromBoot,
    Client,
    CreateRequest,
    ImageBoot,
    InvalidArgument,
    PublicInterface,
    Reference,
    VirtualMachine,
)

from .odd_server import OddServer

SECRET = "planted-api-secret"
PASSWORD = "planted-password"
CREDENTIALS = {"api_key": "key", "api_secret": SECRET}
BOOT = ImageBoot(os="2599", password=PASSWORD, user_data=PASSWORD)
GOOD = {"name": "web-01", "cpus": 2, "ram": 2048, "zone_id": "z", "boot": BOOT}
REQUEST = CreateRequest(**GOOD)
HUGE = 10**5000

AN_ID = "is not an id of 1 to 128 letters, digits"
A_TEXT = "is not a text that is not blank and has no control characters"
A_COUNT = "is not an integer from 1 to 2147483647"
MINUTES = "is not an integer from 0 to 2147483647"
SOME_SECONDS = "is not a number of seconds above 0"
NO_SECRET = "(its value is not shown) is not a text of at least one character"


@attrs.frozen
class Bad:
    """A call that is invalid, and its error."""

    name: str
    call: object = attrs.field(repr=False)
    argument: str
    message: str


def made(row, argument, message, /, **changes):
    """Return a row for a client that cannot be made, of its server's URL and valid arguments."""
    return Bad(
        f"Client: {row}",
        lambda client, url: Client(**{"base_url": url, **CREDENTIALS, **changes}),
        argument,
        message,
    )


def at(row, argument, message, /, **changes):
    """Return a row for a create with some invalid arguments."""
    fields = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    return Bad(
        f"create: {row}",
        lambda client, url: client.vms.create(**fields),
        argument,
        message,
    )


def on(name, call, argument, message):
    """Return a row for a call on a client."""
    return Bad(name, lambda client, url: call(client), argument, message)


def make_vm(id_):
    """Return a VM with an id that a server might have made up."""
    thing = Reference("1", "x")
    return VirtualMachine(
        id=id_,
        label=None,
        cores=1,
        ram=512,
        state="online",
        system=thing,
        cost_per_hour=0.0,
        transfer_used=0.0,
        owner=thing,
        public_interface=PublicInterface(),
        storage_volumes=(),
        zone=thing,
    )


IDS = {
    "empty": "",
    "a slash": "17/reboot",
    "dots": "..",
    "a dot": "17.5",
    "a query": "17?a=b",
    "a fragment": "17#a",
    "percent": "17%2Freboot",
    "a space": "1 7",
    "a newline at the end": "17\n",
    "another header": "17 HTTP/1.1\r\nX-Evil: 1",
    "a null": "17\0",
    "beyond ASCII": "zażółć",
    "a digit beyond ASCII": "\N{ARABIC-INDIC DIGIT ONE}7",
    "a surrogate": "\ud800",
    "too long": "1" * 129,
    "an integer": 17,
    "a bool": True,
    "None": None,
    "bytes": b"17",
    "a list": ["17", PASSWORD],
    "a VM with a slash in its id": make_vm("17/reboot"),
}
METHODS = {
    "get": lambda vms, vm: vms.get(vm),
    "resize": lambda vms, vm: vms.resize(vm, cores=1, ram=1),
    "shutdown": lambda vms, vm: vms.shutdown(vm),
    "reboot": lambda vms, vm: vms.reboot(vm),
    "reset": lambda vms, vm: vms.reset(vm),
    "power_on": lambda vms, vm: vms.power_on(vm),
    "power_off": lambda vms, vm: vms.power_off(vm),
    "console": lambda vms, vm: vms.console(vm),
    "rename": lambda vms, vm: vms.rename(vm, "web-02"),
    "delete": lambda vms, vm: vms.delete(vm),
}

ROWS = [
    made("a URL of another type", "base_url", "of type int", base_url=5),
    made("a URL object", "base_url", "of type URL", base_url=URL("https://example.com")),
    made("no scheme", "base_url", "does not start with https://", base_url="example.com"),
    made("no host", "base_url", "does not start with https://", base_url="https://"),
    made("another scheme", "base_url", "does not start with https://", base_url="ftp://a.invalid"),
    made("a path", "base_url", "more than scheme, host and port", base_url="https://a.invalid/v2"),
    made("a query", "base_url", "more than scheme", base_url="https://a.invalid?a=b"),
    made("plain http", "base_url", "allowed only for loopback hosts", base_url="http://a.invalid"),
    made("a bad port", "base_url", "is not a URL", base_url="https://a.invalid:99999"),
    made(
        "a password in the URL",
        "base_url",
        "has a user name or a password",
        base_url=f"https://user:{PASSWORD}@a.invalid",
    ),
    made(
        "a password in a URL without a scheme",
        "base_url",
        "base_url has a user name or a password",
        base_url=f"user:{PASSWORD}@a.invalid",
    ),
    made("a key with a colon", "api_key", "without spaces and colons", api_key="a:b"),
    made("a key with a space", "api_key", "without spaces and colons", api_key="a b"),
    made("a key beyond ASCII", "api_key", "must be ASCII", api_key="klucz-ż"),
    made("a key with another header", "api_key", A_TEXT, api_key="a\r\nX-Evil: 1"),
    made("an empty key", "api_key", A_TEXT, api_key=""),
    made("no key", "api_key", A_TEXT, api_key=None),
    made("an empty secret", "api_secret", NO_SECRET, api_secret=""),
    made("no secret", "api_secret", NO_SECRET, api_secret=None),
    made("a secret of bytes", "api_secret", NO_SECRET, api_secret=SECRET.encode()),
    made("a surrogate in the secret", "api_secret", NO_SECRET, api_secret=f"{SECRET}\ud800"),
    made("no time", "timeout", SOME_SECONDS, timeout=0),
    made("less than no time", "timeout", SOME_SECONDS, timeout=-1.5),
    made("no number for a time", "timeout", SOME_SECONDS, timeout=math.nan),
    made("a text for a time", "timeout", SOME_SECONDS, timeout="30"),
    made("a bool for a time", "timeout", SOME_SECONDS, timeout=True),
    made("a time beyond numbers", "timeout", SOME_SECONDS, timeout=HUGE),
    made("no poll floor", "min_poll_interval", SOME_SECONDS, min_poll_interval=0),
    made(
        "a ceiling below the floor",
        "max_poll_interval",
        "is less than min_poll_interval",
        max_poll_interval=0.5,
    ),
    made("no session", "session", "is not an aiohttp.ClientSession", session="session"),
    Bad(
        "for_region: capitals",
        lambda client, url: Client.for_region("EU-Poland", **CREDENTIALS),
        "region",
        "is not a name of lower-case letters",
    ),
    Bad(
        "for_region: another host",
        lambda client, url: Client.for_region("a.invalid/", **CREDENTIALS),
        "region",
        "is not a name of lower-case letters",
    ),
    Bad(
        "for_region: a container",
        lambda client, url: Client.for_region([PASSWORD], **CREDENTIALS),
        "region",
        "is not a name of lower-case letters",
    ),
    *(
        on(f"get: {name}", lambda client, id_=id_: client.vms.get(id_), "vm", AN_ID)
        for name, id_ in IDS.items()
    ),
    *(
        on(
            f"{name}: an id with a slash",
            lambda client, call=call: call(client.vms, "17/../18"),
            "vm",
            AN_ID,
        )
        for name, call in METHODS.items()
    ),
    at("an empty name", "name", A_TEXT, name=""),
    at("a blank name", "name", A_TEXT, name=" \u00a0"),
    at("a name of two lines", "name", A_TEXT, name="web\n01"),
    at("a surrogate in the name", "name", A_TEXT, name="\udcff"),
    at("no text for a name", "name", A_TEXT, name=5),
    at("no cpus", "cpus", A_COUNT, cpus=0),
    at("less than no cpus", "cpus", A_COUNT, cpus=-1),
    at("True cpus", "cpus", A_COUNT, cpus=True),
    at("a float of cpus", "cpus", A_COUNT, cpus=1.0),
    at("a text of cpus", "cpus", A_COUNT, cpus="2"),
    at("too many cpus", "cpus", A_COUNT, cpus=2**31),
    at("more cpus than can be printed", "cpus", A_COUNT, cpus=HUGE),
    at("no ram", "ram", A_COUNT, ram=0),
    at("None for ram", "ram", A_COUNT, ram=None),
    at("an empty zone", "zone_id", A_TEXT, zone_id=""),
    at("a zone that is a number", "zone_id", A_TEXT, zone_id=1),
    at("boot as a dict", "boot", "is not an ImageBoot or a CdromBoot", boot={"os": PASSWORD}),
    at("boot as a text", "boot", "is not an ImageBoot or a CdromBoot", boot="image"),
    at("None for boot", "boot", "is not an ImageBoot or a CdromBoot", boot=None),
    at("no name", "name", "create needs name, or a CreateRequest", name=...),
    at("no ram and no boot", "ram", "create needs ram, boot, or", ram=..., boot=...),
    on("create: nothing", lambda c: c.vms.create(), "name", "needs name, cpus, ram, zone_id, boot"),
    on("create: None", lambda c: c.vms.create(None), "name", "or a CreateRequest"),
    on("create: a dict", lambda c: c.vms.create(GOOD), "request", "of type dict is not a Create"),
    on("create: both", lambda c: c.vms.create(REQUEST, name="a"), "request", "not both"),
    on("ImageBoot: empty os", lambda c: ImageBoot(os=""), "os", A_TEXT),
    on("ImageBoot: os as a number", lambda c: ImageBoot(os=2599), "os", A_TEXT),
    on(
        "ImageBoot: empty password", lambda c: ImageBoot(os="1", password=""), "password", NO_SECRET
    ),
    on(
        "ImageBoot: a password of bytes",
        lambda c: ImageBoot(os="1", password=PASSWORD.encode()),
        "password",
        NO_SECRET,
    ),
    on(
        "ImageBoot: a surrogate in user data",
        lambda c: ImageBoot(os="1", user_data=f"{PASSWORD}\ud800"),
        "user_data",
        NO_SECRET,
    ),
    on("ImageBoot: key_id as a number", lambda c: ImageBoot(os="1", key_id=9), "key_id", A_TEXT),
    on("CdromBoot: empty iso", lambda c: CdromBoot(iso=" "), "iso", A_TEXT),
    on("resize: no cores", lambda c: c.vms.resize("17", cores=0, ram=1), "cores", A_COUNT),
    on("resize: a float of ram", lambda c: c.vms.resize("17", cores=1, ram=0.5), "ram", A_COUNT),
    on(
        "resize: wait_for -1",
        lambda c: c.vms.resize("17", cores=1, ram=1, wait_for=-1),
        "wait_for",
        MINUTES,
    ),
    *(
        on(
            f"shutdown: wait_for {name}",
            lambda c, value=value: c.vms.shutdown("17", wait_for=value),
            "wait_for",
            MINUTES,
        )
        for name, value in {
            "-1": -1,
            "None": None,
            "1.5": 1.5,
            "a bool": False,
            "a text": "4",
            "infinite": math.inf,
            "huge": HUGE,
        }.items()
    ),
    on("rename: empty", lambda c: c.vms.rename("17", ""), "name", A_TEXT),
    on("rename: a tab", lambda c: c.vms.rename("17", "a\tb"), "name", A_TEXT),
    on("rename: None", lambda c: c.vms.rename("17", None), "name", A_TEXT),
    *(
        on(
            f"delete: delete_resources {value!r}",
            lambda c, value=value: c.vms.delete("17", delete_resources=value),
            "delete_resources",
            "is not True or False",
        )
        for value in (1, 0, "no", None)
    ),
    on("resume: no token", lambda c: c.resume(""), "token", ""),
    on("resume: another type", lambda c: c.resume(None), "token", ""),
]


async def carried_out(call, client, url):
    """Run a call to its end, whether it is awaitable or not."""
    result = call(client, url)
    return await result if inspect.isawaitable(result) else result


class TestBadInputs:
    @pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
    async def test_each_gets_its_error_and_is_not_sent(self, row):
        """The error names the argument, says what is allowed and shows no secret."""
        async with (
            OddServer() as server,
            Client(server.url, **CREDENTIALS) as client,
        ):
            with pytest.raises(InvalidArgument) as caught:
                await carried_out(row.call, client, server.url)
            assert dict(client.requests) == {}
        assert server.connections == 0
        error = caught.value
        assert error.argument == row.argument
        assert row.message in str(error)
        assert len(str(error)) < 300
        assert isinstance(error, ValueError)
        assert error.__cause__ is None
        for planted in (SECRET, PASSWORD):
            assert planted not in f"{error} {error!r} {vars(error)} {error.__context__!r}"

    def test_there_are_fifty_different_ones_at_least(self):
        """The table does not shrink by accident."""
        assert len({row.name for row in ROWS}) == len(ROWS) >= 50

    async def test_the_valid_ones_are_sent(self):
        """The arguments that the table does not vary are valid."""
        async with (
            OddServer() as server,
            Client(server.url, **CREDENTIALS) as client,
        ):
            for name in ("resize", "shutdown", "reboot", "reset", "power_on", "power_off"):
                assert (await METHODS[name](client.vms, make_vm("17"))).vm_id == "17"
            await client.vms.rename("17", "web-02")
            await client.vms.delete("17")
        assert len(server.requests) == 8
