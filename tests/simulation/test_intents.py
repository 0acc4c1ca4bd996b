"""Tokens of writes that are prepared: kept before they are sent."""

import pytest

from async_vmapi import Client, ImageBoot, InvalidArgument, OutcomeUnknown, SecretRef

pytestmark = pytest.mark.looptime


class TestPrepare:
    async def test_a_create_is_found_by_its_intent(self, client, api, request_for):
        """By another client, from the token alone."""
        request = request_for("web-01")
        intent = await client.vms.prepare("create", request)
        task = await client.vms.create(request, intent=intent)
        assert api.requests["list"] == 1, "the list of the intent is the create's"
        async with Client.in_memory(api, seed=2) as other:
            found = await other.reconcile(intent)
            assert (found.vm_id, found.adopted) == (task.vm_id, True)

    async def test_a_create_that_was_not_sent_stays_unknown(self, client, api, request_for):
        """Reconciling does not send it."""
        intent = await client.vms.prepare("create", request_for(), unique_name=True)
        with pytest.raises(OutcomeUnknown):
            await client.reconcile(intent)
        assert api.requests["create"] == 0

    async def test_a_create_that_may_have_been_sent_is_reconciled_first(
        self, client, api, request_for
    ):
        """It is sent only if no VM is found, and if retrying is allowed."""
        request = request_for("web-01")
        options = {"unique_name": True, "on_unknown": "retry", "maybe_sent": True}
        intent = await client.vms.prepare("create", request, unique_name=True)
        first = await client.vms.create(request, intent=intent, **options)
        second = await client.vms.create(request, intent=intent, **options)
        assert (first.adopted, second.adopted) == (False, True)
        assert first.vm_id == second.vm_id
        assert api.requests["create"] == 1

    async def test_an_intent_belongs_to_its_own_create(self, client, request_for):
        """Another name, size or option needs another intent."""
        intent = await client.vms.prepare("create", request_for("web-01"))
        for request, unique in (
            (request_for("web-02"), False),
            (request_for("web-01", ram=2048), False),
            (request_for("web-01"), True),
        ):
            with pytest.raises(InvalidArgument, match="does not match this create"):
                await client.vms.create(request, unique_name=unique, intent=intent)
        reboot = await client.vms.prepare("reboot", "some-id")
        with pytest.raises(InvalidArgument, match="does not match this create"):
            await client.vms.create(request_for(), intent=reboot)

    async def test_wrong_arguments_are_refused(self, client, request_for):
        """Nothing is sent."""
        with pytest.raises(InvalidArgument, match="a CreateRequest"):
            await client.vms.prepare("create", "some-id")
        with pytest.raises(InvalidArgument, match="a VM or its id"):
            await client.vms.prepare("reset", request_for())
        with pytest.raises(InvalidArgument, match="'create', 'reboot' or 'reset'"):
            await client.vms.prepare("delete", "some-id")
        with pytest.raises(InvalidArgument, match="maybe_sent requires an intent"):
            await client.vms.create(request_for(), maybe_sent=True)


class TestSecretRef:
    async def test_a_plain_create_takes_no_secret_ref(self, client, api, request_for):
        """It would be sent as the password itself."""
        boot = ImageBoot(os="2268", password=SecretRef("env:ROOT_PASSWORD"))
        with pytest.raises(InvalidArgument, match="password is a SecretRef") as refused:
            await client.vms.create(request_for(boot=boot))
        assert refused.value.argument == "password"
        assert api.requests["create"] == 0

    @pytest.mark.parametrize("name", ["", " ", 7])
    def test_the_name_of_a_secret_ref_is_a_text(self, name):
        """It is not blank."""
        with pytest.raises(InvalidArgument):
            SecretRef(name)
