"""Creates whose response is lost, with reads as stale and odd as is allowed."""

import asyncio
import json

import attrs
import pytest

from async_vmapi import Client, OutcomeUnknown, RateLimited
from async_vmapi.emulator import CloudAPI, Settings

pytestmark = pytest.mark.looptime

RETRY = {"unique_name": True, "on_unknown": "retry"}
OPTIONS = {"plain": {}, "unique": {"unique_name": True}, "retry": RETRY}


def now():
    return asyncio.get_running_loop().time()


def cloud(seed=1, **settings):
    return CloudAPI(seed=seed, settings=Settings(**settings))


def client_of(api, **options):
    return Client.in_memory(api, latency=0.1, seed=1, **options)


def change_responses(api, change):
    """Pass every response to a read through a function of its headers and its VMs."""
    handle = api.handle

    def changed(request, **keywords):
        response = handle(request, **keywords)
        if request.method != "GET" or response.status != 200:
            return response
        content = json.loads(response.body)
        (name,) = content.keys() - {"success"}
        headers = dict(response.headers)
        content[name] = change(headers, content[name])
        return attrs.evolve(response, headers=headers, body=json.dumps(content).encode())

    api.handle = changed


async def outcome_of(create):
    """Return the VM that a create adopted, and the candidates that it named."""
    try:
        task = await create
    except OutcomeUnknown as error:
        return None, error.candidates
    assert task.adopted
    return task.vm_id, ()


async def made_by_another(api, request, **options):
    async with Client.in_memory(api, seed=9, **options) as other:
        return (await other.vms.create(request)).vm_id


@pytest.fixture
def seeds(stride):
    return range(0, 10, 1 if stride == 1 else 3)


class TestGhosts:
    """A list still shows a VM that is deleted, or is being deleted, and its name is reused."""

    @pytest.mark.parametrize("lag", [(0, 3), (0, 10), (10, 10)], ids=str)
    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("deleted_by", ["this client", "another"])
    @pytest.mark.parametrize("going", [False, True], ids=["gone", "going"])
    async def test_the_new_vm_is_adopted_or_a_candidate(
        self, request_for, lag, options, deleted_by, going, seeds
    ):
        """The old one never is, whatever is shown when."""
        adoptions = 0
        for seed in seeds:
            api = cloud(seed, staleness=lag)
            async with client_of(api) as client, Client.in_memory(api, seed=2) as another:
                # One that this client created belongs to another create.
                deleting = client if deleted_by == "this client" else another
                old = await (await another.vms.create(request_for()))
                await asyncio.sleep(60)
                await deleting.vms.delete(old.id)
                while not going and old.id in api.cloud.vms:
                    await asyncio.sleep(0.1)
                    api.cloud.advance(now())
                api.faults.fail_next("create", "drop_after")
                create = client.vms.create(request_for(), **OPTIONS[options])
                adopted, candidates = await outcome_of(create)
            (new,) = [vm_id for vm_id in [*api.cloud.vms, *api.cloud.gone] if vm_id != old.id]
            assert adopted == new or (adopted is None and new in candidates), seed
            adoptions += adopted == new
        assert adoptions > 0.8 * len(seeds)

    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("deleted_by", ["this client", "another"])
    async def test_a_ghost_is_never_adopted(self, request_for, options, deleted_by, seeds):
        """The ghost alone proves nothing."""
        for seed in seeds:
            api = cloud(seed, staleness=(0, 10))
            async with client_of(api) as client, Client.in_memory(api, seed=2) as another:
                # One that this client created belongs to another create.
                deleting = client if deleted_by == "this client" else another
                old = await (await another.vms.create(request_for()))
                await asyncio.sleep(60)
                await deleting.vms.delete(old.id)
                await asyncio.sleep(5)
                api.faults.fail_next("create", "drop_before")
                create = client.vms.create(request_for(), **OPTIONS[options])
                if options == "retry":
                    task = await create
                    assert (task.adopted, client.requests["create"]) == (False, 2)
                else:
                    assert await outcome_of(create) == (None, ())


class TestOthers:
    """Another process creates a VM of the same name and size."""

    async def test_an_older_vm_is_not_adopted(self, request_for):
        """Its disk was attached before the request was sent, so it is only a candidate."""
        api = cloud(staleness=(8, 8), not_found=0)
        async with client_of(api) as client:
            theirs = await made_by_another(api, request_for())
            await asyncio.sleep(6)
            api.faults.fail_next("create", "drop_before")
            assert await outcome_of(client.vms.create(request_for())) == (None, (theirs,))

    async def test_without_dates_another_vm_cannot_be_distinguished(self, request_for):
        """Another process created the same name and size within max_staleness before."""
        api = cloud(staleness=(8, 8), not_found=0)
        change_responses(api, lambda headers, vms: (headers.pop("Date"), vms)[1])
        async with client_of(api) as client:
            theirs = await made_by_another(api, request_for())
            await asyncio.sleep(6)
            api.faults.fail_next("create", "drop_before")
            assert await outcome_of(client.vms.create(request_for())) == (theirs, ())

    async def test_an_older_vm_prevents_the_retry(self, request_for):
        """A clock may be wrong, so a date never proves that there is no VM."""
        api = cloud(staleness=(8, 8), not_found=0)
        async with client_of(api) as client:
            theirs = await made_by_another(api, request_for())
            await asyncio.sleep(6)
            api.faults.fail_next("create", "drop_before")
            create = client.vms.create(request_for(), **RETRY)
            assert await outcome_of(create) == (None, (theirs,))
            assert client.requests["create"] == 1

    @pytest.mark.parametrize("hours", [0, 2, 5.5, 5.75])
    async def test_the_new_vm_is_adopted_or_a_candidate_beside_an_older_one(
        self, request_for, hours
    ):
        """In whatever time zone the provider's dates are."""
        api = cloud(staleness=(8, 8), not_found=0)

        def shift(_, vms):
            for vm in vms if isinstance(vms, list) else [vms]:
                for volume in vm["storage_volumes"]:
                    date, clock = volume["attach_time"].split()
                    h, m, s = map(int, clock.split(":"))
                    moved = h * 60 + m + int(hours * 60)
                    volume["attach_time"] = f"{date} {moved // 60 % 24:02}:{moved % 60:02}:{s:02}"
            return vms

        change_responses(api, shift)
        async with client_of(api) as client:
            theirs = await made_by_another(api, request_for())
            await asyncio.sleep(6)
            api.faults.fail_next("create", "drop_after")
            adopted, candidates = await outcome_of(client.vms.create(request_for()))
        (ours,) = api.cloud.vms.keys() - {theirs}
        if hours % 1:
            # Too many candidates are better than one missing.
            assert (adopted, {*candidates}) == (None, {ours, theirs})
        else:
            assert adopted == ours

    async def test_a_vm_renamed_meanwhile_is_not_adopted(self, request_for):
        """It existed before, under another name."""
        api = cloud()
        async with client_of(api) as client, Client.in_memory(api, seed=2) as other:
            old = await (await other.vms.create(request_for("db-01")))
            api.faults.fail_next("create", "drop_before")
            creating = asyncio.create_task(client.vms.create(request_for()))
            await asyncio.sleep(3)
            await other.vms.rename(old, "web-01")
            assert await outcome_of(creating) == (None, ())


CHANGED = {
    "lower": ("Web-01", "lower"),
    "strip": (" web  01 ", "strip"),
    "cut": ("web-01-of-many", 8),
    "nfc": ("cafe\u0301-01", "nfc"),
}


class TestChangedNames:
    @pytest.mark.parametrize("options", OPTIONS)
    @pytest.mark.parametrize("change", CHANGED)
    async def test_a_vm_with_a_changed_name_is_a_candidate(self, request_for, change, options):
        """No second VM is ever created."""
        name, names = CHANGED[change]
        for seed in range(5):
            api = cloud(seed, names=names, staleness=(0, 10))
            async with client_of(api) as client:
                await client.vms.create(request_for("other"))
                api.faults.fail_next("create", "drop_after")
                create = client.vms.create(request_for(name), **OPTIONS[options])
                adopted, candidates = await outcome_of(create)
            (made,) = [vm.id for vm in api.cloud.vms.values() if vm.label == name]
            assert adopted is None
            assert candidates == (made,)

    async def test_a_name_cut_by_bytes(self, request_for):
        """Of characters that take more than one byte."""
        name = "żółta-łódź-01"
        api = cloud()

        def cut(_, vms):
            for vm in vms if isinstance(vms, list) else [vms]:
                vm["label"] = vm["label"].encode()[:16].decode(errors="ignore")
            return vms

        change_responses(api, cut)
        async with client_of(api) as client:
            await client.vms.create(request_for("0123456789abcdef"))
            api.faults.fail_next("create", "drop_after")
            adopted, (made,) = await outcome_of(client.vms.create(request_for(name), **RETRY))
        assert (adopted, api.cloud.vms[made].label) == (None, name)
        assert api.requests["create"] == 2

    @pytest.mark.parametrize("label", [None, ""])
    async def test_a_missing_label_matches_any_name(self, request_for, label):
        """It may be the create's VM."""
        api = cloud()

        def hide(_, vms):
            for vm in vms if isinstance(vms, list) else [vms]:
                vm["label"] = label
            return vms

        change_responses(api, hide)
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            create = client.vms.create(request_for(), **RETRY)
            assert await outcome_of(create) == (None, tuple(api.cloud.vms))

    async def test_a_name_change_seen_once_is_expected_again(self, request_for):
        """From then on, any new VM of the size prevents the retry."""
        api = cloud()

        def scramble(_, vms):
            for vm in vms if isinstance(vms, list) else [vms]:
                vm["label"] = f"srv{vm['id'][:6]}"
            return vms

        change_responses(api, scramble)
        async with client_of(api) as client:
            first = (await client.vms.create(request_for("first"))).vm_id
            await asyncio.sleep(20)
            api.faults.fail_next("create", "drop_after")
            adopted, candidates = await outcome_of(client.vms.create(request_for(), **RETRY))
        assert (adopted, candidates) == (None, tuple(api.cloud.vms.keys() - {first}))
        assert api.requests["create"] == 2

    async def test_a_rename_is_no_changed_name(self, request_for):
        """The provider shows the latest name."""
        api = cloud()
        async with client_of(api) as client, Client.in_memory(api, seed=2) as other:
            first = await (await client.vms.create(request_for("first")))
            await client.vms.rename(first, "renamed")
            api.faults.fail_next("create", "drop_before")
            creating = asyncio.create_task(client.vms.create(request_for(), **RETRY))
            await asyncio.sleep(1)
            await other.vms.create(request_for("theirs"))
            assert not (await creating).adopted

    async def test_an_ordinary_fleet_prevents_no_retry(self, request_for):
        """``vm-1`` is no cut ``vm-17`` where ``vm-10`` is shown whole."""
        api = cloud()
        async with client_of(api) as client, Client.in_memory(api, seed=2) as other:
            api.faults.fail_next("create", "drop_before")
            creating = asyncio.create_task(client.vms.create(request_for("vm-17"), **RETRY))
            await asyncio.sleep(1)
            for name in ("vm-10", "vm-1", "vm-170", "db"):
                await other.vms.create(request_for(name))
            assert not (await creating).adopted
            assert client.requests["create"] == 2


class TestProofOfAbsence:
    @pytest.mark.parametrize(("window", "sent"), [(9, 1), (12.5, 2)])
    async def test_it_takes_three_lists_that_are_late_enough(self, request_for, window, sent):
        """A `reconcile_timeout` that leaves no room for them proves nothing."""
        api = cloud()
        async with client_of(api, reconcile_timeout=window) as client:
            api.faults.fail_next("create", "drop_before")
            create = client.vms.create(request_for(), **RETRY)
            if sent == 1:
                assert await outcome_of(create) == (None, ())
            else:
                assert not (await create).adopted
            assert client.requests["create"] == sent

    async def test_one_list_after_a_clock_jump_is_no_proof(self, request_for, monkeypatch):
        """It may be wrong, and no other list was late enough."""
        api = cloud()
        loop = asyncio.get_running_loop()
        time, jumped = loop.time, 0.0
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_before")
            creating = asyncio.create_task(client.vms.create(request_for(), **RETRY))
            await asyncio.sleep(3)
            jumped = 1000.0
            monkeypatch.setattr(loop, "time", lambda: time() + jumped)
            assert await outcome_of(creating) == (None, ())
            assert client.requests["create"] == 1

    async def test_a_vm_shown_once_is_not_absent(self, request_for):
        """However often it is missing later: reads may be wrong."""
        api = cloud(not_found=0, stale=0)
        lists = []

        def flap(_, vms):
            if isinstance(vms, list):
                lists.append(now())
                return vms if len(lists) == 2 else []
            return vms

        async with client_of(api) as client:
            change_responses(api, flap)
            api.faults.fail_next("create", "drop_after")
            adopted, candidates = await outcome_of(client.vms.create(request_for(), **RETRY))
        assert len(lists) > 4
        assert (adopted, candidates) == (None, tuple(api.cloud.vms))

    async def test_without_a_list_before_similar_names_prevent_the_retry(self, request_for):
        """Whether those VMs are new is not known."""
        api = cloud(names="lower")
        async with client_of(api) as client:
            request = request_for("Web-01")
            intent = await client.vms.prepare("create", request, unique_name=True)
        async with client_of(api) as other:
            made = (await other.vms.create(request)).vm_id
            create = other.vms.create(request, intent=intent, maybe_sent=True, **RETRY)
            assert await outcome_of(create) == (None, (made,))
        async with client_of(api) as third:
            with pytest.raises(OutcomeUnknown, match="if the provider changed the name"):
                await third.reconcile(intent)
        assert api.requests["create"] == 1


class TestAdopting:
    async def test_a_list_that_shows_a_vm_twice(self, request_for):
        """It is one VM."""
        api = cloud(repeat_ids=1.0)
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            assert await outcome_of(client.vms.create(request_for())) == (*api.cloud.vms, ())

    @pytest.mark.parametrize(("unique", "at"), [(False, 10), (True, 20)])
    async def test_adoption_takes_a_read_that_is_late_enough(self, request_for, unique, at):
        """Without the earlier VMs, one that is just being deleted must show it."""
        api = cloud(not_found=0)
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            began = now()
            await client.vms.create(request_for(), unique_name=unique)
            assert at <= now() - began < at + 1

    async def test_with_max_staleness_0_adoption_is_immediate(self, request_for):
        """The provider reads its own writes."""
        api = cloud(not_found=0)
        async with client_of(api, max_staleness=0) as client:
            api.faults.fail_next("create", "drop_after")
            began = now()
            assert (await client.vms.create(request_for(), unique_name=True)).adopted
            assert now() - began < 1

    async def test_a_vm_that_no_get_shows_is_adopted(self, request_for):
        """Two lists are enough."""
        api = cloud(not_found=0)
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            for _ in range(6):
                api.faults.fail_next("get", "server_error")
            assert await outcome_of(client.vms.create(request_for())) == (*api.cloud.vms, ())

    async def test_a_vm_that_a_get_denies_is_a_candidate(self, request_for):
        """It is not adopted."""
        api = cloud(not_found=0)
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            for _ in range(20):
                api.faults.fail_next("get", "not_found")
            create = client.vms.create(request_for())
            assert await outcome_of(create) == (None, tuple(api.cloud.vms))

    async def test_a_clock_that_jumps_over_the_timeout(self, request_for, monkeypatch):
        """One more list is fetched before the lookup gives up."""
        api = cloud(not_found=5)
        loop = asyncio.get_running_loop()
        time, jumped = loop.time, 0.0
        async with client_of(api) as client:
            api.faults.fail_next("create", "drop_after")
            creating = asyncio.create_task(client.vms.create(request_for()))
            await asyncio.sleep(3)
            jumped = 1000.0
            monkeypatch.setattr(loop, "time", lambda: time() + jumped)
            assert await outcome_of(creating) == (*api.cloud.vms, ())
            assert now() < 1005


class TestDeleting:
    @pytest.mark.parametrize("form", ["json", "bare", "html", "gone", "success_false"])
    async def test_a_retried_delete_that_finds_no_vm_is_accepted(self, request_for, form):
        """Whatever the refusal: the first attempt explains it, and the task watches."""
        api = cloud(delete=0, stale=0, not_found_form=form)
        async with client_of(api) as client:
            vm = await (await client.vms.create(request_for()))
            api.faults.fail_next("delete", "drop_after")
            task = await client.vms.delete(vm)
            assert (task.adopted, client.requests["delete"]) == (True, 2)
            await task

    async def test_a_refused_delete_leaves_its_vm_a_candidate(self, request_for):
        """The delete was certainly not carried out."""
        api = cloud()
        client, other = client_of(api, max_retries=0), Client.in_memory(api, seed=2)
        async with client, other:
            api.faults.fail_next("create", "drop_before")
            creating = asyncio.create_task(client.vms.create(request_for("web-01", cpus=2)))
            await asyncio.sleep(10)
            theirs = await other.vms.create(request_for())
            await asyncio.sleep(5)
            api.faults.fail_next("delete", "rate_limited")
            with pytest.raises(RateLimited):
                await client.vms.delete(theirs.vm_id)
            assert await outcome_of(creating) == (None, (theirs.vm_id,))

    async def test_a_refusal_with_200_explains_no_other_write(self, request_for):
        """It may have any reason."""
        api = cloud()
        async with client_of(api) as client:
            vm = await (await client.vms.create(request_for()))
            api.faults.fail_next("shutdown", "drop_before")
            api.faults.fail_next("shutdown", "success_false")
            with pytest.raises(Exception, match="not now"):
                await client.vms.shutdown(vm)
