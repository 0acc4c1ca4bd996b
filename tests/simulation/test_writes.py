"""Writes with an unknown outcome, and writes whose callers are cancelled, in virtual time."""

import asyncio
import contextlib
import logging

import anyio
import anyio.lowlevel
import pytest

from async_vmapi import (
    APIError,
    BadRequest,
    Client,
    Conflict,
    ConnectError,
    DecodingError,
    Evidence,
    ImageBoot,
    InvalidArgument,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    ServerError,
    TransportError,
    UnresolvedWrite,
)
from async_vmapi.emulator import CloudAPI, Fault, FaultPlan, Settings

# Many cases of the same code; what it covers is measured in the other tests.
pytestmark = [pytest.mark.looptime, pytest.mark.no_cover]

WINDOW = 30.0
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
BOOT = ImageBoot(os="2268")

# What happens to a create, and whether the cloud carried it out.
LOSSES = {
    "dropped before": ({"kind": "drop_before"}, False),
    "dropped after": ({"kind": "drop_after"}, True),
    "stalled": ({"kind": "stall", "seconds": 100}, True),
    "500 before": ({"kind": "server_error"}, False),
    "500 after": ({"kind": "server_error", "after": True}, True),
    "502 before": ({"kind": "server_error", "status": 502}, False),
    "502 after": ({"kind": "server_error", "status": 502, "after": True}, True),
    "503 with a time before": ({"kind": "server_error", "status": 503, "retry_after": 2}, False),
    "504 after": ({"kind": "server_error", "status": 504, "after": True}, True),
    "truncated": ({"kind": "truncated"}, True),
    "a page": ({"kind": "html"}, True),
    "a huge body": ({"kind": "huge_body"}, True),
}


def now():
    return asyncio.get_running_loop().time()


@pytest.fixture
async def client(cloud_api):
    """A client with a `reconcile_timeout` of half a minute."""
    async with Client.in_memory(cloud_api, latency=0.1, seed=1, reconcile_timeout=WINDOW) as client:
        yield client


@pytest.fixture
def broken(cloud_api):
    """Break the next request of a call."""
    return cloud_api.faults.fail_next


def labels(api):
    return sorted(vm.label for vm in api.cloud.vms.values())


class TestUnknownCreates:
    @pytest.mark.parametrize("unique", [False, True], ids=["", "unique"])
    @pytest.mark.parametrize("loss", LOSSES)
    async def test_a_create_is_adopted_or_unknown_and_sent_once(
        self, client, cloud_api, broken, request_for, loss, unique
    ):
        """A VM that appeared is adopted; without one the outcome is unknown."""
        fields, carried_out = LOSSES[loss]
        broken("create", **fields)
        if carried_out:
            task = await client.vms.create(request_for(), unique_name=unique)
            assert task.adopted
            assert [task.vm_id] == list(cloud_api.cloud.vms)
            assert (await task).state == "online"
        else:
            began = now()
            with pytest.raises(OutcomeUnknown, match="'web-01'") as caught:
                await client.vms.create(request_for(), unique_name=unique)
            assert WINDOW <= now() - began <= WINDOW + 35
            error = caught.value
            assert (error.operation, error.name, error.vm_id) == ("create", "web-01", None)
            assert error.candidates == ()
            assert isinstance(error.__cause__, TransportError | ServerError)
            assert cloud_api.cloud.vms == {}
        assert client.requests["create"] == 1
        assert client.unresolved == ()

    async def test_a_create_with_a_response_is_not_reconciled(self, client, request_for):
        """Its outcome is known."""
        assert not (await client.vms.create(request_for())).adopted

    @pytest.mark.parametrize(
        ("fields", "kind", "sent"),
        [
            ({"kind": "rate_limited"}, None, 2),
            ({"kind": "rate_limited", "retry_after": 7}, None, 2),
            ({"kind": "refuse", "seconds": 1}, OutcomeUnknown, 1),
            ({"kind": "success_false"}, APIError, 1),
        ],
        ids=["429", "429 with a time", "refused while sending", "success: false"],
    )
    async def test_a_refused_create_is_not_reconciled(
        self, client, cloud_api, broken, request_for, fields, kind, sent
    ):
        """A 429 is retried; any other refusal is final."""
        broken("create", **fields)
        if kind is None:
            await client.vms.create(request_for())
        else:
            with pytest.raises(kind):
                await client.vms.create(request_for())
        assert client.requests["create"] == sent
        assert len(cloud_api.cloud.vms) == (kind is None)

    async def test_a_failed_connection_is_retried(self, client, cloud_api, broken, request_for):
        """The request was certainly not sent, so a create is retried too."""
        broken("templates", kind="refuse", seconds=3)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.templates.list(), 0.2)
        await client.vms.create(request_for(), unique_name=True)
        assert client.requests["create"] > 1
        assert cloud_api.requests["create"] == 1

    async def test_older_vms_of_the_same_name_are_not_adopted(
        self, client, cloud_api, broken, request_for
    ):
        """The ids that had the name before are known."""
        old = [(await client.vms.create(request_for())).vm_id for _ in range(3)]
        await asyncio.sleep(100)
        broken("create", "drop_after")
        task = await client.vms.create(request_for())
        assert task.adopted
        assert task.vm_id not in old
        broken("create", "drop_before")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for())
        assert caught.value.candidates == ()

    async def test_a_vm_created_a_moment_ago_is_not_adopted(self, client, broken, request_for):
        """Ids that this client received count as known, listed or not."""
        first = await client.vms.create(request_for())
        broken("create", "drop_before")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for())
        assert caught.value.candidates == ()
        assert first.vm_id

    async def test_a_vm_of_another_size_is_only_a_candidate(
        self, client, cloud_api, broken, request_for
    ):
        """Another client may have created it meanwhile."""
        broken("create", "drop_before")
        other = Client.in_memory(cloud_api, seed=2)
        making = asyncio.create_task(client.vms.create(request_for()))
        await asyncio.sleep(1)
        theirs = await other.vms.create(request_for(cpus=2))
        with pytest.raises(OutcomeUnknown, match="1 VM may be the one") as caught:
            await making
        assert caught.value.candidates == (theirs.vm_id,)
        await other.close()

    async def test_two_matching_vms_are_candidates(self, client, cloud_api, broken, request_for):
        """Neither is adopted."""
        cloud_api.cloud.adjust("*", not_found=8)
        broken("create", "drop_after")
        other = Client.in_memory(cloud_api, seed=2)
        making = asyncio.create_task(client.vms.create(request_for()))
        await asyncio.sleep(0.5)
        await other.vms.create(request_for())
        with pytest.raises(OutcomeUnknown, match="2 VMs may be the one") as caught:
            await making
        assert sorted(caught.value.candidates) == sorted(cloud_api.cloud.vms)
        await other.close()

    async def test_many_creates_of_one_name_at_once(self, client, cloud_api, request_for):
        """No VM is adopted by two of them."""
        cloud_api.faults = FaultPlan(
            [
                Fault(kind="drop_after", call="create", probability=0.3),
                Fault(kind="drop_before", call="create", probability=0.2),
            ],
            seed=3,
        )
        results = await asyncio.gather(
            *(client.vms.create(request_for()) for _ in range(60)), return_exceptions=True
        )
        ids = [task.vm_id for task in results if not isinstance(task, OutcomeUnknown)]
        assert len(set(ids)) == len(ids)
        assert set(ids) == set(cloud_api.cloud.vms)
        assert sum(isinstance(task, OutcomeUnknown) for task in results) > 5
        assert sum(getattr(task, "adopted", False) for task in results) > 5
        assert client.requests["create"] == 60

    async def test_a_vm_hidden_for_long_is_found(self, client, cloud_api, broken, request_for):
        """Queued creates appear late: the lookup lasts for `reconcile_timeout`."""
        cloud_api.cloud.adjust("*", not_found=WINDOW - 2, create=60)
        broken("create", "drop_after")
        assert (await client.vms.create(request_for())).adopted

    async def test_without_a_list_before_nothing_is_adopted(self, client, cloud_api, request_for):
        """All VMs of the name are candidates."""
        cloud_api.faults = FaultPlan(
            [
                Fault(kind="server_error", call="list", nth=tuple(range(1, 7))),
                Fault(kind="drop_after", call="create", nth=(1,)),
            ]
        )
        with pytest.raises(OutcomeUnknown, match="unknown which existed before") as caught:
            await client.vms.create(request_for())
        assert list(caught.value.candidates) == list(cloud_api.cloud.vms)

    async def test_a_create_fails_if_its_list_cannot_be_sent(self, cloud_api, broken):
        """The create could not be sent either: nothing was."""
        broken("list", "rate_limited")
        async with Client.in_memory(cloud_api, max_retries=0, seed=1) as client:
            with pytest.raises(APIError):
                await client.vms.create(name="a", cpus=1, ram=1, zone_id="z", boot=BOOT)
            assert client.requests["create"] == 0

    async def test_reconciling_costs_few_lists(self, client, cloud_api, request_for):
        """A hundred unknown creates share them."""
        cloud_api.faults = FaultPlan([Fault(kind="drop_before", call="create", probability=1)])
        results = await asyncio.gather(
            *(client.vms.create(request_for(f"w-{n}")) for n in range(100)),
            return_exceptions=True,
        )
        assert all(isinstance(result, OutcomeUnknown) for result in results)
        assert client.requests["create"] == 100
        assert client.requests["list"] <= 20

    async def test_refused_credentials_end_the_lookup(self, client, cloud_api, broken, request_for):
        """The outcome is reported as unknown at once."""
        broken("create", "drop_after")
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.12)
        cloud_api.api_secret = "changed"
        with pytest.raises(OutcomeUnknown, match="signature does not match"):
            await making
        assert now() < 5


class TestRetryingACreate:
    async def test_it_is_sent_again_where_no_vm_appeared(
        self, client, cloud_api, broken, request_for
    ):
        """Only after `reconcile_timeout`, and only if asked for."""
        broken("create", "drop_before")
        task = await client.vms.create(request_for(), unique_name=True, on_unknown="retry")
        assert now() >= WINDOW
        assert not task.adopted
        assert client.requests["create"] == 2
        assert list(cloud_api.cloud.vms) == [task.vm_id]

    async def test_a_vm_that_appeared_is_adopted(self, client, cloud_api, broken, request_for):
        """It is not created again."""
        broken("create", "drop_after")
        task = await client.vms.create(request_for(), unique_name=True, on_unknown="retry")
        assert task.adopted
        assert client.requests["create"] == 1

    @pytest.mark.parametrize("kind", ["drop_before", "success_false"])
    async def test_it_is_sent_at_most_twice(self, client, broken, request_for, kind):
        """A second attempt that is unknown or refused leaves the first one unknown."""
        broken("create", "drop_before")
        broken("create", kind)
        with pytest.raises(OutcomeUnknown):
            await client.vms.create(request_for(), unique_name=True, on_unknown="retry")
        assert client.requests["create"] == 2

    async def test_it_is_not_sent_again_without_lists(self, client, cloud_api, request_for):
        """Failed lists prove nothing."""
        cloud_api.faults = FaultPlan(
            [
                Fault(kind="drop_before", call="create", probability=1),
                Fault(kind="server_error", call="list", probability=1),
            ]
        )
        with pytest.raises(OutcomeUnknown, match=r"in 0 lists .*(500|longer)"):
            await client.vms.create(request_for(), unique_name=True, on_unknown="retry")
        assert client.requests["create"] == 1

    @pytest.mark.parametrize(
        ("options", "argument"),
        [
            ({"on_unknown": "retry"}, "on_unknown"),
            ({"on_unknown": "again", "unique_name": True}, "on_unknown"),
            ({"unique_name": 1}, "unique_name"),
        ],
    )
    async def test_wrong_options_are_refused(self, client, request_for, options, argument):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument) as caught:
            await client.vms.create(request_for(), **options)
        assert caught.value.argument == argument
        assert client.requests == {}

    async def test_a_unique_name_is_used_once_at_a_time(self, client, request_for):
        """Two creates of one unique name contradict each other."""
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0)
        for unique in (True, False):
            with pytest.raises(InvalidArgument, match="in progress"):
                await client.vms.create(request_for(), unique_name=unique)
        await making
        assert client.requests["create"] == 1


class TestReconcile:
    async def test_a_create_that_appears_later(self, client, cloud_api, broken, request_for):
        """The error's token is enough to find it, in another client too."""
        cloud_api.cloud.adjust("*", not_found=WINDOW + 5, create=90)
        broken("create", "drop_after")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for())
        token = caught.value.token
        with pytest.raises(InvalidArgument, match="reconcile"):
            client.resume(token)
        async with Client.in_memory(cloud_api, seed=5, reconcile_timeout=WINDOW) as other:
            task = await other.reconcile(token)
            assert task.adopted
            assert (await task).label == "web-01"
            assert other.requests["create"] == 0

    async def test_a_create_that_does_not_appear(self, client, broken, request_for):
        """It stays unknown, with the same token."""
        broken("create", "drop_before")
        with pytest.raises(OutcomeUnknown) as caught:
            await client.vms.create(request_for(), unique_name=True)
        with pytest.raises(OutcomeUnknown) as again:
            await client.reconcile(caught.value.token)
        assert again.value.token == caught.value.token
        assert again.value.__cause__ is None

    async def test_a_tasks_token(self, client, request_for):
        """`reconcile` takes tokens of any kind."""
        task = await client.vms.create(request_for())
        again = await client.reconcile(task.token())
        assert (again.vm_id, again.adopted) == (task.vm_id, False)

    async def test_a_token_says_that_a_task_was_adopted(self, client, broken, request_for):
        """The resumed task says so too."""
        broken("create", "drop_after")
        task = await client.vms.create(request_for())
        assert client.resume(task.token()).adopted

    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    async def test_a_reboot_that_begins_late(
        self, client, cloud_api, broken, request_for, operation
    ):
        """Reconciling sees it."""
        vm = await (await client.vms.create(request_for()))
        cloud_api.cloud.adjust("*", stale=45, reboot=70, reset=70)
        broken(operation, "drop_after")
        with pytest.raises(OutcomeUnknown) as caught:
            await getattr(client.vms, operation)(vm)
        task = await client.reconcile(caught.value.token)
        assert (task.operation, task.adopted) == (operation, True)
        await task
        assert task.evidence is Evidence.OBSERVED


class TestUnknownReboots:
    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    async def test_a_reboot_that_shows_is_known(
        self, client, cloud_api, broken, request_for, operation
    ):
        """It was sent once, and watched for longer than reads may be stale."""
        vm = await (await client.vms.create(request_for()))
        cloud_api.cloud.adjust("*", reboot=40, reset=40)
        broken(operation, "drop_after")
        task = await getattr(client.vms, operation)(vm)
        assert task.adopted
        assert (await task).state == "online"
        assert task.evidence is Evidence.OBSERVED
        assert client.requests[operation] == 1

    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    @pytest.mark.parametrize("operation", ["reboot", "reset"])
    async def test_a_reboot_that_does_not_show_is_unknown(
        self, client, cloud_api, broken, request_for, operation, kind
    ):
        """Neither complete nor sent again, whether it was carried out or not."""
        vm = await (await client.vms.create(request_for()))
        cloud_api.cloud.adjust("*", reboot_visible=False)
        broken(operation, kind)
        with pytest.raises(OutcomeUnknown, match=vm.id) as caught:
            await getattr(client.vms, operation)(vm)
        error = caught.value
        assert (error.operation, error.vm_id, error.name) == (operation, vm.id, None)
        assert isinstance(error.__cause__, TransportError)
        assert client.requests[operation] == 1

    async def test_a_refusal_is_final(self, client, request_for):
        """A refused reboot was not carried out."""
        with pytest.raises(NotFound):
            await client.vms.reboot("no-such-vm")

    async def test_failed_polls_leave_it_unknown(self, client, cloud_api, broken, request_for):
        """The first error is the cause."""
        vm = await (await client.vms.create(request_for()))
        broken("reboot", "drop_after")
        making = asyncio.create_task(client.vms.reboot(vm))
        await asyncio.sleep(0.07)
        cloud_api.api_secret = "changed"
        with pytest.raises(OutcomeUnknown) as caught:
            await making
        assert isinstance(caught.value.__cause__, TransportError)


REPEATABLE = {
    "shutdown": lambda vms, vm: vms.shutdown(vm),
    "resize": lambda vms, vm: vms.resize(vm, cores=2, ram=2048, wait_for=0),
    "power_off": lambda vms, vm: vms.power_off(vm),
    "delete": lambda vms, vm: vms.delete(vm),
}


class TestIdempotentWrites:
    @pytest.mark.parametrize(
        "fields",
        [
            *({"kind": kind} for kind in ("drop_before", "drop_after", "html", "truncated")),
            *({"kind": "server_error", "status": s, "after": True} for s in (500, 502, 503, 504)),
        ],
        ids=lambda fields: f"{fields['kind']} {fields.get('status', '')}",
    )
    @pytest.mark.parametrize("operation", REPEATABLE)
    async def test_they_are_retried_and_succeed(
        self, client, cloud_api, broken, request_for, operation, fields
    ):
        """A refusal that the first attempt explains is no failure."""
        vm = await (await client.vms.create(request_for()))
        broken(operation, **fields)
        task = await REPEATABLE[operation](client.vms, vm)
        await task
        assert client.requests[operation] == 2
        # Only a second delete is refused by this cloud.
        carried_out = fields["kind"] in {"drop_after", "html", "truncated"} or "after" in fields
        assert task.adopted == (operation == "delete" and carried_out)

    async def test_a_rename_is_retried(self, client, cloud_api, broken, request_for):
        """The VM has its new name."""
        vm = await (await client.vms.create(request_for()))
        broken("rename", "drop_after")
        await client.vms.rename(vm, "db-01")
        assert labels(cloud_api) == ["db-01"]

    @pytest.mark.parametrize(("label", "explained"), [("db-01", True), ("other", False)])
    async def test_a_rename_that_conflicts_with_itself(
        self, client, cloud_api, broken, request_for, label, explained
    ):
        """The VM's name shows whether the first attempt explains the conflict."""
        vm = await (await client.vms.create(request_for(label)))
        broken("rename", "drop_before")
        cloud_api.cloud.vms[vm.id].deleting = True
        if explained:
            await client.vms.rename(vm, "db-01")
        else:
            with pytest.raises(Conflict):
                await client.vms.rename(vm, "db-01")

    async def test_a_conflict_of_the_first_attempt_is_raised(self, client, request_for):
        """No earlier attempt explains it."""
        vm = await (await client.vms.create(request_for()))
        await client.vms.delete(vm)
        for again in (client.vms.delete, client.vms.shutdown):
            with pytest.raises(Conflict):
                await again(vm)
        with pytest.raises(Conflict):
            await client.vms.rename(vm, "other")
        with pytest.raises(NotFound):
            await client.vms.delete("no-such-vm")

    async def test_a_missing_vm_does_not_explain_a_shutdown(self, client, broken, request_for):
        """Only a delete leads there."""
        broken("shutdown", "drop_before")
        with pytest.raises(NotFound):
            await client.vms.shutdown("no-such-vm")

    async def test_the_last_error_is_raised(self, client, cloud_api, request_for):
        """After the last retry the call has failed; it is safe to repeat."""
        vm = await (await client.vms.create(request_for()))
        cloud_api.faults = FaultPlan([Fault(kind="html", call="shutdown", probability=1)])
        with pytest.raises(DecodingError):
            await client.vms.shutdown(vm)
        assert client.requests["shutdown"] == 6


WRITES = {
    "create": lambda vms, _: vms.create(name="new", cpus=1, ram=1, zone_id=ZONE, boot=BOOT),
    "unique": lambda vms, _: vms.create(
        name="new", cpus=1, ram=1, zone_id=ZONE, boot=BOOT, unique_name=True
    ),
    "reboot": lambda vms, vm: vms.reboot(vm),
    "reset": lambda vms, vm: vms.reset(vm),
    "rename": lambda vms, vm: vms.rename(vm, "new"),
    "power_on": lambda vms, vm: vms.power_on(vm),
    **REPEATABLE,
}


def accepted(api, name):
    """Return how often the cloud carried out a write."""
    if name == "rename":
        return sum(vm.label == "new" for vm in api.cloud.vms.values())
    if name in {"create", "unique"}:
        return sum(vm.label == "new" for vm in [*api.cloud.vms.values(), *api.cloud.gone.values()])
    return sum(operation.kind == name for operation in api.cloud.operations)


async def cancelled_write(api, client, name, vm, until_cancel):
    """Cancel a write, and return what became known: its result, the notes, or None."""
    writing = asyncio.create_task(WRITES[name](client.vms, vm))
    await until_cancel()
    began = now()
    finished = writing.done()
    writing.cancel()
    try:
        await writing
    except asyncio.CancelledError as error:
        assert now() - began <= 10.1
        return False, getattr(error, "__notes__", [])
    except OutcomeUnknown:
        pass
    assert finished
    return True, []


class TestCancellation:
    # Many cases of the same code; what it covers is measured in the other tests.
    @pytest.mark.no_cover
    @pytest.mark.parametrize("fault", [None, "drop_before", "drop_after", "rate_limited", "html"])
    @pytest.mark.parametrize("name", WRITES)
    async def test_at_every_await_point(self, request_for, name, fault, stride):
        """Whatever the cloud did is returned, noted on the cancellation, or unresolved."""
        apart = 0.25 if stride == 1 else 1.3
        steps, finished = 0, False
        while not finished:
            api = CloudAPI(seed=1, settings=Settings(not_found=0))
            async with Client.in_memory(api, latency=0, seed=1, reconcile_timeout=5) as client:
                vm = await (await client.vms.create(request_for()))
                if fault is not None:
                    api.faults.fail_next({"unique": "create"}.get(name, name), fault)

                async def pass_steps(steps=steps):
                    for _ in range(steps % 40):
                        await asyncio.sleep(0)
                    # The later ones are waits for a time.
                    if steps >= 40:
                        await asyncio.sleep((steps - 40) * apart)

                finished, notes = await cancelled_write(api, client, name, vm, pass_steps)
                self.check(api, client, name, finished=finished, notes=notes)
                for write in client.unresolved:
                    if write.token is None:
                        client.dismiss(write)
                    else:
                        with contextlib.suppress(OutcomeUnknown):
                            await client.reconcile(write.token)
            steps += 1
            await asyncio.sleep(0.01)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert accepted(api, name) <= 2
            if name in {"create", "unique", "reboot", "reset"}:
                assert accepted(api, name) <= 1
        assert steps > 3

    @staticmethod
    def check(api, client, name, *, finished, notes):
        if finished or not accepted(api, name):
            return
        kept = client.unresolved
        if name in {"create", "unique"}:
            (write,) = kept
            (vm_id,) = [vm.id for vm in api.cloud.vms.values() if vm.label == "new"]
            assert write.name == "new"
            assert write.vm_id in {None, vm_id}
            assert "see client.unresolved" in notes[0]
        else:
            # All these name their VM, so it is known if it is reported at all.
            assert kept or any("was accepted" in note for note in notes)

    @pytest.mark.parametrize("at", [0.02 * n for n in range(1, 30)])
    @pytest.mark.parametrize("stall", [0, 4, 100])
    async def test_at_any_time_of_a_slow_create(self, cloud_api, broken, at, stall):
        """The response is awaited, for ten seconds at most."""
        async with Client.in_memory(cloud_api, latency=0.2, seed=1) as client:
            if stall:
                broken("create", "stall", seconds=stall)

            async def wait():
                await asyncio.sleep(at)

            finished, _ = await cancelled_write(cloud_api, client, "create", None, wait)
            if not finished and cloud_api.cloud.vms:
                (write,) = client.unresolved
                (vm_id,) = cloud_api.cloud.vms
                task = await client.reconcile(write.token)
                assert task.vm_id == vm_id
                # A lookup is not certain before `max_staleness` has passed, which is longer than a
                # cancellation waits.
                assert write.vm_id == (None if stall else vm_id)
            assert client.unresolved == ()

    @pytest.mark.parametrize("how", ["anyio", "timeout", "wait_for", "group"])
    async def test_every_way_to_cancel(self, client, cloud_api, request_for, how):
        """Timeouts, scopes and groups get their cancellation, and the VM is not lost."""
        create = client.vms.create(request_for(), unique_name=True)
        if how == "anyio":
            with anyio.move_on_after(0.07) as scope:
                await create
            assert scope.cancelled_caught
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.07):
                    await create
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(create, 0.07)
        else:

            async def a_group_that_fails():
                async with asyncio.TaskGroup() as group:
                    group.create_task(create)
                    await asyncio.sleep(0.07)
                    raise ValueError

            with pytest.raises(ExceptionGroup):
                await a_group_that_fails()
        assert 0.09 < now() < 0.2
        (write,) = client.unresolved
        assert [write.vm_id] == list(cloud_api.cloud.vms)
        assert "accepted as" in write.reason
        client.resume(write.token)
        assert client.unresolved == ()

    async def test_repeated_cancellation(self, client, cloud_api, request_for):
        """It shortens no wait, and loses nothing."""
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        for _ in range(3):
            making.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await making
        assert [write.vm_id for write in client.unresolved] == list(cloud_api.cloud.vms)

    async def test_all_tasks_cancelled(self, client, cloud_api, request_for):
        """The inner ones too: the outcome is unknown, and kept as unresolved."""
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        (write,) = client.unresolved
        assert (write.name, write.vm_id) == ("web-01", None)
        assert (await client.reconcile(write.token)).vm_id in cloud_api.cloud.vms

    async def test_a_refused_write_is_not_kept(self, client, broken, request_for):
        """It was certainly not carried out."""
        broken("create", "success_false")
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert client.unresolved == ()


class TestClosing:
    @pytest.fixture
    def logged(self, caplog):
        caplog.set_level(logging.WARNING, logger="async_vmapi")
        return caplog

    async def test_unresolved_writes_are_logged(self, client, cloud_api, request_for, logged):
        """A warning names each."""
        for number in range(25):
            request = request_for(f"w-{number}")
            making = asyncio.create_task(client.vms.create(request, unique_name=True))
            await asyncio.sleep(0.06)
            making.cancel()
            await asyncio.wait({making})
        await client.close()
        assert "closed with 25 writes unresolved: create of " in logged.text
        assert "create of 'w-3': it was accepted as" in logged.text
        assert "and 5 more" in logged.text

    async def test_dismissed_writes_are_not_logged(self, client, request_for, logged):
        """A client without unresolved writes is closed silently."""
        await client.vms.create(request_for())
        await client.close()
        assert logged.text == ""

    async def test_a_write_in_flight_is_completed_first(self, client, cloud_api, request_for):
        """Its caller gets the task."""
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        await client.close()
        assert (await making).vm_id in cloud_api.cloud.vms

    async def test_a_queued_write_raises_invalid_state(self, client, request_for):
        """It waits for the list, so nothing was sent."""
        making = asyncio.create_task(client.vms.create(request_for()))
        await asyncio.sleep(0.06)
        await client.close()
        with pytest.raises(InvalidState, match="before the request was sent"):
            await making

    @pytest.mark.parametrize("operation", ["create", "reboot"])
    async def test_reconciling_stops(self, client, cloud_api, broken, request_for, operation):
        """Its caller gets `OutcomeUnknown`."""
        vm = await (await client.vms.create(request_for()))
        broken(operation, "drop_before")
        making = asyncio.create_task(
            client.vms.reboot(vm)
            if operation == "reboot"
            else client.vms.create(request_for("new"), unique_name=True)
        )
        await asyncio.sleep(5)
        began = now()
        await client.close()
        with pytest.raises(OutcomeUnknown):
            await making
        assert now() - began < 2

    async def test_a_missing_response_is_not_awaited_for_long(
        self, client, broken, request_for, logged
    ):
        """Ten seconds; then the write is unresolved, and its caller gets the error."""
        broken("create", "stall", seconds=25)
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        began = now()
        await client.close()
        assert now() - began == pytest.approx(10, abs=0.1)
        with pytest.raises(InvalidState, match=r"see client\.unresolved"):
            await making
        assert "'web-01'" in str(client.unresolved) or "web-01" in logged.text

    @pytest.mark.parametrize("how", ["anyio", "asyncio"])
    async def test_a_cancelled_close_waits_for_requests_in_flight(
        self, client, cloud_api, request_for, how
    ):
        """Then it is cancelled."""
        making = asyncio.create_task(client.vms.create(request_for(), unique_name=True))
        await asyncio.sleep(0.06)
        if how == "anyio":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await client.close()
                await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
        else:
            closing = asyncio.create_task(client.close())
            await asyncio.sleep(0.01)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
        assert (await making).vm_id in cloud_api.cloud.vms

    async def test_dismissing_a_foreign_write_is_refused(self, client):
        """Only listed writes can be dismissed."""
        with pytest.raises(InvalidArgument):
            client.dismiss(UnresolvedWrite("create", "a", None, "why"))

    async def test_a_client_may_be_used_again(self, client, broken, request_for):
        """Closing stops the lookups of past creates, not of future ones."""
        await client.close()
        broken("create", "drop_after")
        async with client:
            assert (await client.vms.create(request_for())).adopted

    async def test_a_bad_request_is_raised_unchanged(self, client, request_for):
        """It is a refusal by the API."""
        with pytest.raises(BadRequest):
            await client.vms.create(request_for(zone_id="nowhere"))

    async def test_a_client_that_cannot_connect_raises(self, client, broken):
        """After its last attempt."""
        broken("templates", "refuse", seconds=1000)
        with pytest.raises(ConnectError):
            await client.templates.list()
