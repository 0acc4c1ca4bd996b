"""A worker dies at each moment of an operation, and another one continues: in virtual time."""

import asyncio
import contextlib
import itertools
import json
import time
from types import SimpleNamespace

import pytest

from async_vmapi import Client, ImageBoot, InvalidArgument, Ready, SecretRef
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.durable import operation
from async_vmapi.durable.operation import CANCELLED, Operation
from async_vmapi.durable.secrets import SecretStore
from async_vmapi.durable.spec import decode, spec_of
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
    """Records what steps return, as DBOS does, and dies at a moment."""

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
        self.leases = self.access = self

    async def stopped(self, job):
        return self.why

    def holds(self):
        return next(self.lease)

    async def wait_until_held(self):
        while not (held := self.holds()):
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
    return decode(await Operation(host, order).run(), Ended).outcome


async def die_and_recover(steps, api, order, moment):
    """Let a worker die at a moment, and return the outcome that another one reaches."""
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
        """Only death between intent and request leaves the outcome unknown, as it must."""
        (order,) = orders("create", requests(1), unique_name=unique)
        outcome = await die_and_recover(steps, api, order, moment)
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
    async def test_with_on_unknown_retry_there_is_exactly_one(self, steps, api, client, moment):
        """It is sent again after `reconcile_timeout` without a VM of that name."""
        (order,) = orders("create", requests(1), unique_name=True, on_unknown="retry")
        outcome = await die_and_recover(steps, api, order, moment)
        assert outcome.status == "succeeded"
        assert creates(api) == 1
        assert [outcome.vm_id] == list(api.cloud.vms)

    async def test_an_older_vm_of_the_name_is_never_adopted(self, steps, api, client):
        """The intent has its id, from before the request."""
        old = await online(client)
        (order,) = orders("create", requests(1))
        outcome = await die_and_recover(steps, api, order, ("send", "before the record"))
        assert outcome.vm_id != old
        assert sorted(api.cloud.vms) == sorted([old, outcome.vm_id])

    async def test_a_worker_that_is_not_sure_of_its_lease_waits(self, steps, api, client):
        """Before the intent, before the call, and before the request is sent."""
        (order,) = orders("create", requests(1), unique_name=True)
        host = Host(client)
        host.lease = iter([False, True, False, True, False, True, True])
        assert (await outcome_of(host, order)).status == "succeeded"
        assert next(host.lease, "asked each time") == "asked each time"
        assert creates(api) == 1

    async def test_an_expired_worker_does_not_send(self, steps, api, client):
        """Another worker may have reconciled already, and owns the operation."""
        (order,) = orders("create", requests(1), unique_name=True)
        host = Host(client)
        host.lease = iter([True, True, False, None])
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(host, order)
        assert creates(api) == 0
        assert "send" not in steps.kept

    async def test_an_expired_worker_records_no_intent(self, steps, client):
        """Without a request, the intent would make the outcome unknown."""
        (order,) = orders("create", requests(1))
        host = Host(client)
        host.lease = iter([False, None])
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(host, order)
        assert not steps.kept

    async def test_an_unrecorded_result_is_remembered(self, steps, api, client):
        """The same worker, repeating the step, need not search for its own VM."""
        (order,) = orders("create", requests(1))
        host = Host(client)
        steps.moment = ("send", "before the record")
        with contextlib.suppress(Died):
            await outcome_of(host, order)
        steps.moment = None
        outcome = await outcome_of(host, order)
        assert (outcome.status, outcome.adopted, creates(api)) == ("succeeded", False, 1)
        assert not host.unrecorded

    async def test_an_unavailable_list_fails_before_anything_is_sent(self, steps, api, client):
        """It is as certain as a refusal."""
        for _ in range(20):
            api.faults.fail_next("list", "rate_limited")
        (order,) = orders("create", requests(1))
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error, creates(api)) == ("failed", "RateLimited", 0)


class TestReboot:
    @pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
    async def test_it_is_never_sent_again(self, steps, api, client, moment):
        """With an unknown outcome it is watched for, and stays unknown if nothing shows."""
        vm_id = await online(client)
        (order,) = orders("reboot", [vm_id])
        outcome = await die_and_recover(steps, api, order, moment)
        sent = moment not in {("prepare", "after"), ("send", "before")}
        assert api.requests["reboot"] == sent
        if sent:
            assert outcome.status in ("succeeded", "unknown")
        else:
            assert (outcome.status, outcome.error) == ("unknown", "OutcomeUnknown")


class TestIdempotent:
    @pytest.mark.parametrize("when", ["before", "before the record", "after"])
    async def test_a_shutdown_may_be_sent_again(self, steps, api, client, when):
        """It is idempotent, and succeeds whatever happens."""
        vm_id = await online(client)
        (order,) = orders("shutdown", [vm_id], wait_for=1)
        outcome = await die_and_recover(steps, api, order, ("send", when))
        assert outcome.status == "succeeded"
        assert api.requests["shutdown"] == (2 if when == "before the record" else 1)
        assert api.cloud.vms[vm_id].state == "offline"

    @pytest.mark.parametrize("taken", [0, 60], ids=["gone", "going"])
    async def test_a_delete_that_was_carried_out_meanwhile_has_succeeded(
        self, steps, api, client, taken
    ):
        """The first request explains that the VM is gone, or going."""
        vm_id = await online(client)
        api.cloud.adjust("*", delete=taken)
        (order,) = orders("delete", [vm_id])
        outcome = await die_and_recover(steps, api, order, ("send", "before the record"))
        assert vm_id not in api.cloud.vms
        assert (outcome.status, outcome.adopted) == ("succeeded", True)

    @pytest.mark.parametrize(
        ("arguments", "status", "error"),
        [({}, "succeeded", None), ({"missing_ok": False}, "failed", "NotFound")],
    )
    async def test_a_delete_of_a_missing_vm(self, steps, api, client, arguments, status, error):
        """It succeeds and says so, unless `missing_ok` is off."""
        (order,) = orders("delete", ["no-such-vm"], **arguments)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == (status, error)
        assert (outcome.reason == "it was gone already") is (status == "succeeded")

    async def test_a_worker_that_is_not_sure_of_its_lease_waits(self, steps, api, client):
        """Others may have ended the job by now, and a user may have started the VM again."""
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

    async def test_a_write_before_the_lease_was_lost_explains_the_refusal(self, steps, api, client):
        """The response was lost; when the lease is back, the VM is gone."""
        vm_id = await online(client)
        api.cloud.adjust("*", delete=0)
        api.faults.fail_next("delete", "drop_after")
        (order,) = orders("delete", [vm_id])
        host = Host(client)
        host.lease = iter([True, True, False, False, True, True])
        outcome = await outcome_of(host, order)
        assert (outcome.status, outcome.adopted) == ("succeeded", True)
        assert api.requests["delete"] == 2

    async def test_a_rename_completes_with_its_response(self, steps, api, client):
        """There is nothing to watch."""
        vm_id = await online(client)
        (order,) = orders("rename", [vm_id], names={vm_id: "new"})
        outcome = await die_and_recover(steps, api, order, ("send", "before the record"))
        assert (outcome.status, api.cloud.vms[vm_id].label) == ("succeeded", "new")


class TestCheck:
    """The VM's address, which comes late, is awaited after its operation."""

    @pytest.fixture
    def api(self):
        settings = Settings(reboot=(20, 20), create=(20, 20), address=(60, 60))
        return CloudAPI(settings=settings, seed=1)

    @pytest.fixture
    def order(self):
        (order,) = orders("create", requests(1), plan=BulkPlan(check=Ready.address()))
        return order

    async def test_it_is_awaited(self, steps, api, client, order):
        outcome = await outcome_of(Host(client), order)
        assert outcome.status == "succeeded"
        assert (await client.vms.get(outcome.vm_id)).addresses
        assert steps.asked == ["prepare", "send", "watch"]

    async def test_without_a_check_nothing_more_is_stored(self, steps, api, client):
        (order,) = orders("create", requests(1))
        assert order.plan == BulkPlan()
        await outcome_of(Host(client), order)
        assert steps.asked == ["prepare", "send"]

    async def test_a_worker_that_takes_over_repeats_only_the_check(self, steps, api, client, order):
        """The completion that was seen is stored."""
        run = asyncio.create_task(outcome_of(Host(client), order))
        await asyncio.sleep(40)
        run.cancel()
        await asyncio.wait({run})
        before = steps.kept["watch"]
        async with Client.in_memory(api, latency=0.05, seed=3) as other:
            outcome = await outcome_of(Host(other, again=True), order)
            assert (await other.vms.get(outcome.vm_id)).addresses
        assert (outcome.status, outcome.evidence) == ("succeeded", "observed")
        assert steps.kept["watch"] == before
        assert creates(api) == 1

    async def test_a_vm_that_does_not_pass_has_failed(self, steps, client):
        """Its operation was complete."""
        plan = BulkPlan(check=Ready.address(), check_timeout=30)
        (order,) = orders("create", requests(1), plan=plan)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == ("failed", "TaskTimeout")
        assert "the create is complete, but the VM is not healthy" in outcome.reason
        assert "missing address" in outcome.reason

    async def test_a_refused_worker_leaves_the_check_to_others(self, steps, api, client, order):
        """The VM is not unhealthy."""
        run = asyncio.create_task(outcome_of(Host(client, refused=True), order))
        await asyncio.sleep(40)
        secret, api.api_secret = api.api_secret, "another"
        with pytest.raises(asyncio.CancelledError):
            await run
        api.api_secret = secret
        assert (await outcome_of(Host(client, again=True), order)).status == "succeeded"


class TestRefused:
    """The API refuses this worker's key; the item is left to others."""

    @pytest.mark.parametrize("operation", ["create", "reboot", "shutdown", "delete", "resize"])
    async def test_nothing_is_recorded_and_another_worker_begins(
        self, steps, api, client, operation, monkeypatch
    ):
        """Whatever the operation: nothing effective was sent, so nothing is unknown."""
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
        """The intent is used up: the next worker records its own, and there is one VM."""
        (order,) = orders("create", requests(1), unique_name=True)
        api.cloud.adjust("*", quota=0)
        with pytest.raises(asyncio.CancelledError):
            await outcome_of(Host(client, refused=True), order)
        api.cloud.adjust("*", quota=99)
        outcome = await outcome_of(Host(client, again=True), order)
        assert (outcome.status, outcome.adopted, len(api.cloud.vms)) == ("succeeded", False, 1)
        assert [*dict.fromkeys(steps.asked)] == ["prepare", "send", "prepare 2", "send 2"]

    async def test_while_it_watches(self, steps, api, client):
        """The operation continues, and a worker with a valid key watches it."""
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

    async def test_a_refusal_of_one_call_fails_the_item(self, steps, api, client):
        """A quota, say: the worker's key is still valid."""
        api.cloud.adjust("*", quota=0)
        (order,) = orders("create", requests(1))
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error) == ("failed", "AuthenticationError")


class TestDurations:
    @pytest.mark.parametrize("step", [-3600, 1200])
    async def test_the_wall_clock_may_be_set(self, steps, api, client, monkeypatch, step):
        """An item within one process has the duration of its event loop."""
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
        """The duration is at least this process's own part."""
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


class TestOutcomes:
    @pytest.mark.parametrize("why", [CANCELLED, "more than 5% failed"])
    async def test_an_item_of_a_stopped_job_is_not_started(self, steps, api, client, why):
        """Even if it was queued when the job was cancelled or its budget spent."""
        for order in (*orders("create", requests(1)), *orders("shutdown", ["x"])):
            steps.kept.clear()
            outcome = await outcome_of(Host(client, why=why), order)
            assert (outcome.status, outcome.reason) == ("not_started", why)
        assert not api.requests["create"] + api.requests["shutdown"]

    async def test_a_token_of_another_endpoint_leaves_it_unknown(self, steps, api, client):
        """A worker set up for another region must not report the create as failed."""
        (order,) = orders("create", requests(1), unique_name=True)
        with contextlib.suppress(Died):
            steps.moment = ("prepare", "after")
            await Operation(Host(client), order).run()
        steps.moment = None
        steps.kept["prepare"] = steps.kept["prepare"].replace("in-memory", "elsewhere")
        outcome = await outcome_of(Host(client), order)
        assert outcome.status == "unknown"
        assert outcome.token

    async def test_a_bug_in_reconciling_leaves_the_token(self, steps, api, client, monkeypatch):
        """Whatever is raised, the VM may exist."""
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

    async def test_a_missing_secret_is_a_failure(self, steps, api, client):
        """Nothing was sent."""
        boot = ImageBoot(os="2268", password=SecretRef("env:VMAPI_SECRET_NOT_SET"))
        (order,) = orders("create", requests(1, boot=boot), unique_name=True)
        outcome = await outcome_of(Host(client), order)
        assert (outcome.status, outcome.error, creates(api)) == ("failed", "InvalidArgument", 0)

    @pytest.mark.parametrize("found", [None, "", b"bytes", 7])
    async def test_a_function_that_returns_no_text_fails(self, found):
        """The VM would have no usable password; the error shows no value."""
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


def orders(name, items, *, plan=BulkPlan(), **keywords):  # noqa: B008 - frozen
    """Return a worker's instructions for each item."""
    spec = spec_of(name, items, keywords, plan)
    return [spec.order("job", index) for index in range(len(items))]
