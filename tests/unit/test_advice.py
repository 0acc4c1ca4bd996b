"""What a refusal advises: each row is a likely mistake, and the words that lead out of it."""

import functools

import pytest

from async_vmapi import (
    BadRequest,
    BulkPlan,
    BulkReport,
    Client,
    CreateRequest,
    ImageBoot,
    InvalidArgument,
    NotFound,
    Outcome,
    Template,
    Zone,
)
from async_vmapi.durable import DurableFleet
from async_vmapi.durable.spec import spec_of
from async_vmapi.testing import VMCloud

ZONE = Zone("zone-1", "DC1", "Poznan 1", True)
TEMPLATE = Template("2268", "Ubuntu", ())
BOOT = ImageBoot(os="2268")
GOOD = {"name": "web-01", "cpus": 1, "ram": 1024, "zone_id": "z", "boot": BOOT}
CREDENTIALS = {"api_key": "key", "api_secret": "secret"}
SIZES = "like [1, '10%', '100%']"
REPORT = BulkReport(
    operation="create",
    origin="https://in-memory.invalid",
    outcomes=(Outcome(index=0, item="web-01", status="not_started"),),
)


async def nothing(item):
    """Do nothing."""


async def later():
    yield "17"


@pytest.fixture
def client():
    return VMCloud().client()


class TestNames:
    """Arguments that do not exist."""

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"cpu": 1}, "create has no argument 'cpu' (did you mean 'cpus'?)"),
            ({"cores": 1}, "'cores' (did you mean 'cpus'?)"),
            ({"memory": 1}, "'memory' (did you mean 'ram'?)"),
            ({"zone": 1, "label": 1}, "'zone_id'?), 'label' (did you mean 'name'?)"),
            ({"region": "x"}, "'region' (did you mean 'zone_id'?)"),
            ({"template": "x"}, "'template' (did you mean 'boot'?). Pass boot=ImageBoot(os=..."),
            ({"password": "planted"}, "'password' (did you mean 'boot'?). Pass boot=ImageBoot("),
            ({"uniq_name": True}, "'uniq_name' (did you mean 'unique_name'?)"),
            ({"frobnicate": 1}, "'frobnicate'; it takes name, cpus, ram, zone_id, boot, unique_"),
        ],
    )
    async def test_of_a_create(self, client, wrong, words):
        """Beside valid ones, and alone."""
        for good in (GOOD, {}):
            with pytest.raises(InvalidArgument) as info:
                await client.vms.create(**good, **wrong)
            assert words in str(info.value)
            assert "planted" not in str(info.value)
            assert info.value.argument in wrong
        assert not client.requests

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"batches": [1]}, "a plan has no argument 'batches' (did you mean 'waves'?)"),
            ({"max_failure": 1}, "'max_failure' (did you mean 'max_failures'?)"),
            ({"concurrency": 1}, "'concurrency' (did you mean 'limit'?)"),
            ({"retry": 1}, "it takes limit, max_failures, waves, min_online, check, "),
        ],
    )
    def test_of_a_plan(self, client, wrong, words):
        """Of a call and of a durable job."""
        fleet = DurableFleet("sqlite:///fleet.sqlite", VMCloud().client)
        for made in (client.bulk, functools.partial(fleet.submit, "nightly")):
            with pytest.raises(InvalidArgument) as info:
                made(**wrong)
            assert words in str(info.value)
            assert info.value.argument in wrong

    @pytest.mark.parametrize(
        ("operation", "wrong", "words"),
        [
            ("resize", {"cpus": 1, "ram": 1}, "resize has no argument 'cpus' (did you mean 'cor"),
            ("resize", {"memory": 1}, "'memory' (did you mean 'ram'?)"),
            ("shutdown", {"waitfor": 1}, "'waitfor' (did you mean 'wait_for'?)"),
            ("reboot", {"wait_for": 1}, "'wait_for'; it takes no arguments"),
        ],
    )
    async def test_of_an_operation(self, client, operation, wrong, words):
        """In memory and durably."""
        with pytest.raises(InvalidArgument) as info:
            await client.bulk().run(["17"], operation, **wrong)
        assert words in str(info.value)
        with pytest.raises(InvalidArgument) as info:
            spec_of(operation, ["17"], wrong, BulkPlan())
        assert words in str(info.value)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"retries": 1}, "Client has no option 'retries' (did you mean 'max_retries'?)"),
            ({"timeot": 1}, "'timeot' (did you mean 'timeout'?)"),
            ({"proxy": "x"}, "'proxy'; it takes transport, session, timeout"),
        ],
    )
    def test_of_a_client(self, wrong, words):
        """As a TypeError, like that of any constructor."""
        with pytest.raises(TypeError) as info:
            Client("https://a.invalid", **CREDENTIALS, **wrong)
        assert words in str(info.value)

    @pytest.mark.parametrize(
        ("kind", "wrong", "words"),
        [
            (CreateRequest, {"cpu": 1}, "unknown fields: 'cpu' (did you mean 'cpus'?)"),
            (BulkPlan, {"batches": [1]}, "unknown fields: 'batches' (did you mean 'waves'?)"),
        ],
    )
    def test_of_data(self, kind, wrong, words):
        """The field that is missing instead is not what comes first."""
        with pytest.raises(InvalidArgument) as info:
            kind.from_dict(wrong)
        assert words in str(info.value)


class TestValues:
    """Values that are not valid, of arguments that exist."""

    ROWS = (
        (lambda: CreateRequest(**GOOD | {"zone_id": ZONE}), "zone_id=<Zone> is not", "pass its id"),
        (lambda: ImageBoot(os=TEMPLATE), "os=<Template> is not a text", "pass its id"),
        (lambda: CreateRequest(**GOOD | {"boot": "2268"}), "boot of type str", "ImageBoot(os=...)"),
        (lambda: BulkPlan(waves=[]), "waves is empty", SIZES),
        (lambda: BulkPlan(waves="10%"), "waves='10%' is not a sequence", SIZES),
        (lambda: BulkPlan(waves=[0.5]), "waves[0]=0.5 is not a percentage above 0%", "like 5"),
        (
            lambda: BulkPlan(max_failures="5"),
            "max_failures='5' is not",
            "or an integer of at least",
        ),
        (lambda: BulkPlan(max_failures=-1), "max_failures=-1 is not a percentage", "like '5%'"),
        (lambda: BulkPlan(min_online=0.9), "min_online=0.9 is not", "like '5%', or an integer"),
        (lambda: BulkPlan(on_event=5), "on_event=5 is not", "a function that takes a BulkEvent"),
        (lambda: Client.for_region("Warszawa", **CREDENTIALS), "region='W", "eu-poland-1warszawa"),
        (lambda: Client("warszawa", **CREDENTIALS), "https:// and a host", "for_region"),
        (lambda: Client.in_memory("cloud"), "cloud=<str> is not a CloudAPI", "VMCloud()"),
        (lambda: DurableFleet("fleet.sqlite"), "database_url is neither", "sqlite:///PATH"),
        (lambda: DurableFleet("sqlite:///x", "client"), "client='client'", "like Client.from_env"),
        (
            lambda: spec_of("create", [CreateRequest(**GOOD)] * 2, {}, BulkPlan()),
            "'web-01' is a duplicate",
            "a name of its own",
        ),
    )

    @pytest.mark.parametrize(("call", "wrong", "advice"), ROWS)
    def test_made_values(self, call, wrong, advice):
        """What is wrong, and what to write instead."""
        with pytest.raises((InvalidArgument, ValueError)) as info:
            call()
        assert wrong in str(info.value)
        assert advice in str(info.value)

    CALLS = (
        (lambda c: c.vms.get("my web server"), "vm='my web server'", "client.vms.list() has the"),
        (lambda c: c.vms.get(ZONE), "vm=<Zone> is not an id", "pass its id"),
        (lambda c: c.vms.create(GOOD), "request of type dict", "or its fields by name"),
        (lambda c: c.resume("x"), "token is damaged", "copy the whole text"),
        (lambda c: c.bulk().reboot("17"), "items='17' is not an iterable", "such as [vm]"),
        (lambda c: c.bulk().reboot(["17", "17"]), "17 is a duplicate", "each VM once"),
        (lambda c: c.bulk(BulkPlan(), limit=5), "not both", "attrs.evolve(plan, limit=5)"),
        (lambda c: c.bulk(5), "plan=5 is not a BulkPlan", "like limit=5"),
        (lambda c: c.bulk(waves=["9%"]).reboot(later()), "with a length", "such as a list"),
        (lambda c: c.bulk(min_online=1).reboot(later()), "min_online takes", "a list"),
        (lambda c: c.bulk().run(["17"], nothing, a=1), "only the item", "functools.partial"),
        (lambda c: c.bulk().run(["17"], "rename", names={"18": "a"}), "none for 17", "add its"),
        (lambda c: c.bulk().resume(REPORT), "no items of create", "in the same order"),
        (lambda c: c.bulk().resume(REPORT, []), "items has no number 0", "in the same order"),
        (
            lambda c: c.bulk().resume(REPORT, [CreateRequest(**GOOD | {"name": "web-02"})]),
            "items[0] is web-02, but web-01 in the report",
            "in the same order",
        ),
        (lambda c: c.bulk().resume(REPORT, "web-01"), "items='web-01'", "in the same order"),
        (lambda c: c.bulk().resume(BulkReport(operation="run")), "is of a function", "as start"),
        (
            lambda c: c.bulk().resume(BulkReport(operation="reboot", origin="https://b.invalid")),
            "report is of https://b.invalid, and this client is of https://in-memory.invalid",
            "use a client of that endpoint",
        ),
    )

    @pytest.mark.parametrize(("call", "wrong", "advice"), CALLS)
    async def test_calls(self, client, call, wrong, advice):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument) as info:
            await call(client)
        assert wrong in str(info.value)
        assert advice in str(info.value)
        assert not client.requests

    async def test_an_intent_of_another_create(self, client):
        """It is known only when both are there."""
        intent = await client.vms.prepare("create", CreateRequest(**GOOD), unique_name=True)
        with pytest.raises(InvalidArgument, match="does not match this create: pass the request"):
            await client.vms.create(CreateRequest(**GOOD), intent=intent)


class TestRefusedCreates:
    async def test_a_wrong_id_says_what_lists_the_right_ones(self, client):
        """The API's own words may name none, and are not shown beside a password."""
        for wrong in (
            {"zone_id": "nowhere"},
            {"boot": ImageBoot(os="1")},
            {"boot": ImageBoot(os="2268", key_id="1", password="planted")},
        ):
            with pytest.raises(BadRequest) as info:
                await client.vms.create(**GOOD | {"zone_id": VMCloud().zone_id} | wrong)
            for listed in ("client.regions.list()", "client.templates.list()", "ssh_keys()"):
                assert listed in str(info.value)
            assert "planted" not in str(info.value)

    async def test_other_refusals_do_not(self, client):
        """They are not about the catalogue."""
        with pytest.raises(NotFound) as info:
            await client.vms.get("17")
        assert "client.regions" not in str(info.value)
        assert "client.regions" not in str(BadRequest("no", status=400, method="POST", path="/"))
