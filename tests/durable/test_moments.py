"""A worker dies at each moment of an operation, and another one goes on: on a clock that jumps."""

import asyncio
import contextlib
import itertools
import json
import time
from types import SimpleNamespace

import pytest

from async_vmapi import Client, ImageBoot, InvalidArgument, SecretRef
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable import operation
from async_vmapi.durable.operation import CANCELLED, Operation
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.durable.spec import decode_ended, spec_of
from async_vmapi.emulator import CloudAPI, Settings

from .fleets import requests

pytestmark = pytest.mark.looptime

MOMENTS = [
    (step, when)
    for step in ("prepare", "send")
    for when in ("before", "before the record", "after")
]


class Died(BaseException):
    """The process is gone."""


class Steps:
    """Keeps what steps return, as DBOS does, and dies at a moment."""

    def __init__(self):
        self.kept = {}
        self.asked = []
        self.moment = None

    async def run_step_async(self, options, body):
        step = options["name"]
        self.asked.append(step)
        if step in self.kept:
            return self.kept[step]
        self._maybe_die(step, "before")
        result = await body()
        self._maybe_die(step, "before the record")
        self.kept[step] = result
        self._maybe_die(step, "after")
        return result

    def _maybe_die(self, *moment):
        if self.moment == moment:
            raise Died


class Host:
    """A worker, as an operation sees it."""

    def __init__(self, client, *, why=None, again=False, refused=False):
        self.refused = refused
        self.again = again
        self.unrecorded = {}
        self.lease = itertools.repeat(True)
        self.client = client
        self.secrets = SecretStore()
        self.why = why

    async def stopped(self, job):
        return self.why

    def holds_lease(self):
        return next(self.lease)

    async def lease_held(self):
        while not (held := self.holds_lease()):
            if held is None:
                raise asyncio.CancelledError
            await asyncio.sleep(1)

    async def has_begun_before(self):
        return self.again

    async def is_refused(self):
        return self.refused

    def sending(self):
        return contextlib.nullcontext()


@pytest.fixture
def steps(monkeypatch):
    steps = Steps()
    monkeypatch.setattr(operation, "DBOS", steps)
    return steps


@pytest.fixture
def api():
    return CloudAPI(settings=Settings(reboot=(20, 20), shutdown=(20, 20)), seed=1)


@pytest.fixture
async def client(api):
    async with Client.in_memory(api, latency=0.05, seed=1) as client:
        yield client


async def online(client):
    task = await client.vms.create(requests(1)[0], unique_name=True)
    return (await task).id


async def outcome_of(host, order):
    return decode_ended(await Operation(host, order).run()).read().outcome


async def die_and_go_on(steps, api, order, moment):
    """Let a worker die at a moment, and return the outcome that another one finds."""
    steps.moment = moment
    async with Client.in_memory(api, latency=0.05, seed=2) as dying:
        with contextlib.suppress(Died):
            return await outcome_of(Host(dying), order)
    steps.moment = None
    await asyncio.sleep(10)
    async with Client.in_memory(api, latency=0.05, seed=3) as other:
        return await outcome_of(Host(other, again=True), order)


def creates(api):
    return api.requests["create"]


class TestCreate:
    @pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
    @pytest.mark.parametrize("unique", [True, False], ids=["unique", "listed"])
    async def test_it_is_sent_once_and_found_again(self, steps, api, client, moment, unique):
        """Only one that died between its intent and its sending leaves a doubt, as it must."""
        (order,) = orders("create", requests(1), unique_name=unique)
        outcome = await die_and_go_on(steps, api, order, moment)
        if moment in {("prepare", "after"), ("send", "before")}:
            assert (outcome.status, outcome.error) == ("unknown", "OutcomeUnknown")
            assert outcome.token
            assert creates(api) == 0
            return
        assert outcome.status == "succeeded"
        assert creates(api) == 1
        assert [outcome.vm_id] == list(api.cloud.vms)
        assert outcome.adopted == (moment == ("send", "before the record"))

    @pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
    async def test_with_retry_there_always_is_exactly_one(self, steps, api, client, moment):
        """After the whole window without a machine of that name it is sent."""
        (order,) = orders("create", requests(1), unique_name=True, on_unknown="retry")
        outcome = await die_and_go_on(steps, api, order, moment)
        assert outcome.status == "succeeded"
        assert creates(api) == 1
        assert [outcome.vm_id] == list(api.cloud.vms)

    async def test_a_machine_that_bore_the_name_before_is_never_taken_for_it(
        self, steps, api, client
    ):
        """The intent knows who did, from before the sending."""
        old = await online(client)
        (order,) = orders("create", requests(1))
        outcome = await die_and_go_on(steps, api, order, ("send", "before the record"))
        assert outcome.vm_id != old
        assert sorted(api.cloud.vms) == sorted([old, outcome.vm_id])

    async def test_a_worker_that_is_not_sure_of_its_lease_waits(self, steps, api, client):
        """Before the intent, before the call, and at the moment that the request sets out."""
        (order,) = orders("create", requests(1), unique_name=True)
        host = Host(client)
        host.lease = iter([False, True, False, True, False, True, True])
        assert (await outcome_of(host, order)).status == "succeeded"
        assert next(host.lease, "asked each time") == "asked each time"
        assert creates(api) == 1

    async def test_a_worker_that_others_took_for_dead_does_not_send(self, steps, api, client):
        """They may have looked already; the operation is theirs."""
        (order,) = orders("create", requests(1), unique_name=True)
        host = Host(client)
        host.lease = iter([True, True, False, None])
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(host, order)
        assert creates(api) == 0
        assert "send" not in steps.kept

    async def test_a_worker_that_others_took_for_dead_leaves_no_intent(self, steps, client):
        """Of one that nothing was sent for; whoever found it would have to doubt."""
        (order,) = orders("create", requests(1))
        host = Host(client)
        host.lease = iter([False, None])
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(host, order)
        assert not steps.kept

    async def test_what_could_not_be_recorded_is_remembered(self, steps, api, client):
        """The same worker, beginning the step again, need not look for its own machine."""
        (order,) = orders("create", requests(1))
        host = Host(client)
        steps.moment = ("send", "before the record")
        with contextlib.suppress(Died):
            await outcome_of(host, order)
        steps.moment = None
        outcome = await outcome_of(host, order)
        assert (outcome.status, outcome.adopted, creates(api)) == ("succeeded", False, 1)
        assert not host.unrecorded

    async def test_a_list_that_cannot_be_had_fails_before_anything_is_sent(
        self, steps, api, client
    ):
        """It is as sure as a refusal."""
        for _ in range(20):
            api.faults.fail_next("list", "rate_limited")
        (order,) = orders("create", requests(1))
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error, creates(api)) == ("failed", "RateLimited", 0)


class TestReboot:
    @pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
    async def test_it_is_never_sent_twice(self, steps, api, client, moment):
        """In doubt it is watched for, and else unknown."""
        vm_id = await online(client)
        (order,) = orders("reboot", [vm_id])
        outcome = await die_and_go_on(steps, api, order, moment)
        sent = moment not in {("prepare", "after"), ("send", "before")}
        assert api.requests["reboot"] == sent
        if sent:
            assert outcome.status in ("succeeded", "unknown")
        else:
            assert (outcome.status, outcome.error) == ("unknown", "OutcomeUnknown")


class TestRepeatable:
    @pytest.mark.parametrize("when", ["before", "before the record", "after"])
    async def test_a_shutdown_may_be_sent_again(self, steps, api, client, when):
        """Twice is as once, and it succeeds whatever happens."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        outcome = await die_and_go_on(steps, api, order, ("send", when))
        assert outcome.status == "succeeded"
        assert api.requests["shutdown"] == (2 if when == "before the record" else 1)
        assert api.cloud.vms[vm_id].state == "offline"

    @pytest.mark.parametrize("taken", [0, 60], ids=["gone", "going"])
    async def test_a_delete_that_was_carried_out_meanwhile_has_succeeded(
        self, steps, api, client, taken
    ):
        """That the machine is gone, or going, comes of the first request."""
        vm_id = await online(client)
        api.cloud.adjust("*", delete=taken)
        (order,) = orders("delete", [vm_id])
        outcome = await die_and_go_on(steps, api, order, ("send", "before the record"))
        assert vm_id not in api.cloud.vms
        assert (outcome.status, outcome.adopted) == ("succeeded", True)

    @pytest.mark.parametrize(
        ("arguments", "status", "error"),
        [({}, "succeeded", None), ({"missing_ok": False}, "failed", "NotFound")],
    )
    async def test_a_delete_of_what_is_gone_already(
        self, steps, api, client, arguments, status, error
    ):
        """It succeeds and says so, unless the job was told that this is a failure."""
        (order,) = orders("delete", ["no-such-vm"], **arguments)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == (status, error)
        assert (outcome.reason == "it was gone already") is (status == "succeeded")

    async def test_a_worker_that_is_not_sure_of_its_lease_waits(self, steps, api, client):
        """Others may have ended the job by now, and somebody may have started the machine again."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        host = Host(client)
        host.lease = iter([True, False, None])
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(host, order)
        assert api.requests["shutdown"] == 0
        host.lease = iter([True, False, False, True, True])
        assert (await outcome_of(host, order)).status == "succeeded"
        assert next(host.lease, "asked each time") == "asked each time"

    async def test_what_was_carried_out_before_the_lease_was_lost_is_no_refusal(
        self, steps, api, client
    ):
        """The answer was lost; when the lease is there again, the machine is gone."""
        vm_id = await online(client)
        api.cloud.adjust("*", delete=0)
        api.faults.fail_next("delete", "drop_after")
        (order,) = orders("delete", [vm_id])
        host = Host(client)
        host.lease = iter([True, True, False, False, True, True])
        outcome = await outcome_of(host, order)
        assert (outcome.status, outcome.adopted) == ("succeeded", True)
        assert api.requests["delete"] == 2

    async def test_a_rename_ends_with_its_answer(self, steps, api, client):
        """It has nothing to be watched."""
        vm_id = await online(client)
        (order,) = orders("rename", [vm_id], names={vm_id: "new"})
        outcome = await die_and_go_on(steps, api, order, ("send", "before the record"))
        assert (outcome.status, api.cloud.vms[vm_id].label) == ("succeeded", "new")


class TestRefused:
    """The API lets this worker do nothing any more; the item is for others."""

    @pytest.mark.parametrize("operation", ["create", "reboot", "shutdown", "delete", "resize"])
    async def test_nothing_is_recorded_and_another_one_begins(
        self, steps, api, client, operation, monkeypatch
    ):
        """Whatever it is: nothing was sent that counts, and so nothing is unknown."""
        items = requests(1) if operation == "create" else [await online(client)]
        keywords = {"cores": 2, "ram": 2048} if operation == "resize" else {}
        (order,) = orders(operation, items, **keywords)
        secret, api.api_secret = api.api_secret, "another"
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(Host(client, refused=True), order)
        api.api_secret = secret
        assert api.cloud.operations == [] or operation != "create"
        outcome = await outcome_of(Host(client, again=True), order)
        assert (outcome.status, outcome.adopted) == ("succeeded", False)

    async def test_between_the_intent_and_the_write(self, steps, api, client):
        """The intent is used up: the next one records its own, and there is one VM."""
        (order,) = orders("create", requests(1), unique_name=True)
        api.cloud.adjust("*", quota=0)
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(Host(client, refused=True), order)
        api.cloud.adjust("*", quota=99)
        outcome = await outcome_of(Host(client, again=True), order)
        assert (outcome.status, outcome.adopted, len(api.cloud.vms)) == ("succeeded", False, 1)
        assert [*dict.fromkeys(steps.asked)] == ["prepare", "send", "prepare 2", "send 2"]

    async def test_while_it_watches(self, steps, api, client):
        """The operation goes on, and whoever is let in watches it."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        host = Host(client, refused=True)
        watching = asyncio.create_task(outcome_of(host, order))
        await asyncio.sleep(1)
        secret, api.api_secret = api.api_secret, "another"
        with pytest.raises(asyncio.CancelledError):
            await watching
        api.api_secret = secret
        assert (await outcome_of(Host(client, again=True), order)).status == "succeeded"
        assert api.requests["shutdown"] == 1

    async def test_a_refusal_of_one_call_is_the_items(self, steps, api, client):
        """A quota, say: the API still lets this worker in."""
        api.cloud.adjust("*", quota=0)
        (order,) = orders("create", requests(1))
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == ("failed", "AuthenticationError")


class TestDurations:
    @pytest.mark.parametrize("step", [-3600, 1200])
    async def test_the_wall_may_be_set(self, steps, api, client, monkeypatch, step):
        """What one process began and ended took what it took."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        now = time.time()
        walls = iter([now])
        monkeypatch.setattr(
            operation, "time", SimpleNamespace(time=lambda: next(walls, now + step))
        )
        outcome = await outcome_of(Host(client), order)
        assert 20 <= outcome.seconds < 60

    async def test_another_process_took_part(self, steps, api, client, monkeypatch):
        """It is at least as long as this one had it."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        steps.moment = ("send", "after")
        with contextlib.suppress(Died):
            await outcome_of(Host(client), order)
        steps.moment = None
        now = time.time()
        monkeypatch.setattr(operation, "time", SimpleNamespace(time=lambda: now - 3600))
        outcome = await outcome_of(Host(client, again=True), order)
        assert 20 <= outcome.seconds < 60


class TestEnds:
    @pytest.mark.parametrize("why", [CANCELLED, "more than 5% failed"])
    async def test_an_item_of_a_job_that_is_stopped_is_not_started(self, steps, api, client, why):
        """Also if it was in the queue already, when the job was cancelled or its budget spent."""
        for order in (*orders("create", requests(1)), *orders("shutdown", ["x"])):
            steps.kept.clear()
            outcome = await outcome_of(Host(client, why=why), order)
            assert (outcome.status, outcome.reason) == ("not_started", why)
        assert not api.requests["create"] + api.requests["shutdown"]

    async def test_another_endpoints_token_leaves_it_unknown(self, steps, api, client):
        """A worker set up for another region must not say that the create failed."""
        (order,) = orders("create", requests(1), unique_name=True)
        with contextlib.suppress(Died):
            steps.moment = ("prepare", "after")
            await Operation(Host(client), order).run()
        steps.moment = None
        steps.kept["prepare"] = steps.kept["prepare"].replace("in-memory", "elsewhere")
        outcome = await outcome_of(Host(client), order)
        assert outcome.status == "unknown"
        assert outcome.token

    async def test_a_bug_in_the_looking_leaves_the_token(self, steps, api, client, monkeypatch):
        """Whatever is raised, the machine may be there."""
        (order,) = orders("create", requests(1))
        with contextlib.suppress(Died):
            steps.moment = ("send", "before the record")
            await Operation(Host(client), order).run()
        steps.moment = None

        async def broken(token):
            raise RuntimeError("a bug")

        monkeypatch.setattr(client, "reconcile", broken)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == ("unknown", "OutcomeUnknown")
        assert "RuntimeError" in outcome.reason
        assert outcome.token == json.loads(steps.kept["prepare"])["token"]

    async def test_a_secret_that_is_missing_is_a_failure(self, steps, api, client):
        """And nothing was sent."""
        boot = ImageBoot(os="2268", password=SecretRef("env:VMAPI_SECRET_NOT_SET"))
        (order,) = orders("create", requests(1, boot=boot), unique_name=True)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error, creates(api)) == ("failed", "InvalidArgument", 0)

    @pytest.mark.parametrize("found", [None, "", b"bytes", 7])
    async def test_a_function_that_returns_no_text_fails(self, found):
        """Without it a machine would come to be that nobody can enter; the error tells no value."""
        boot = ImageBoot(os="2268", password=SecretRef("vault:root"))
        with pytest.raises(InvalidArgument, match=r"vault:root.* returned no text") as missing:
            await SecretStore(lambda name: found).resolved(requests(1, boot=boot)[0])
        assert not found or str(found) not in str(missing.value)

    async def test_a_function_that_never_returns_fails(self):
        """Else the item, and its job, would never end."""

        async def vault(name):
            await asyncio.Event().wait()

        boot = ImageBoot(os="2268", user_data=SecretRef("vault:boot"))
        with pytest.raises(InvalidArgument, match=r"vault:boot.* raised TimeoutError"):
            await SecretStore(vault).resolved(requests(1, boot=boot)[0])


def orders(name, items, **keywords):
    """Return what a worker is told to do to each item."""
    spec = spec_of(name, items, keywords, BulkPlan())
    return [spec.order("job", index) for index in range(len(items))]
