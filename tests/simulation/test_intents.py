"""Tokens of writes that are about to be made, for who keeps them before they are sent."""

import pytest

from async_vmapi import Client, ImageBoot, InvalidArgument, OutcomeUnknown, SecretRef

pytestmark = pytest.mark.looptime


class TestIntend:
    async def test_a_create_that_was_sent_is_found_by_its_intent(self, client, api, request_for):
        """By another client, which was told nothing else."""
        request = request_for("web-01")
        intent = await client.vms.prepare("create", request)
        task = await client.vms.create(request, intent=intent)
        assert api.requests["list"] == 1, "the list of the intent is the create's"
        async with Client.in_memory(api, seed=2) as other:
            found = await other.reconcile(intent)
            assert (found.vm_id, found.adopted) == (task.vm_id, True)

    async def test_one_that_was_not_sent_is_unknown(self, client, api, request_for):
        """And is not sent by looking."""
        intent = await client.vms.prepare("create", request_for(), unique_name=True)
        with pytest.raises(OutcomeUnknown):
            await client.reconcile(intent)
        assert api.requests["create"] == 0

    async def test_one_that_was_perhaps_sent_is_looked_for_first(self, client, api, request_for):
        """And is sent if it is not there, and that is allowed."""
        request = request_for("web-01")
        options = {"unique_name": True, "on_unknown": "retry", "maybe_sent": True}
        intent = await client.vms.prepare("create", request, unique_name=True)
        first = await client.vms.create(request, intent=intent, **options)
        second = await client.vms.create(request, intent=intent, **options)
        assert (first.adopted, second.adopted) == (False, True)
        assert first.vm_id == second.vm_id
        assert api.requests["create"] == 1

    async def test_an_intent_is_for_its_own_create(self, client, request_for):
        """Another name, size or promise has another."""
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
        """Before anything is asked."""
        with pytest.raises(InvalidArgument, match="a CreateRequest"):
            await client.vms.prepare("create", "some-id")
        with pytest.raises(InvalidArgument, match="a VM or its id"):
            await client.vms.prepare("reset", request_for())
        with pytest.raises(InvalidArgument, match="'create', 'reboot' or 'reset'"):
            await client.vms.prepare("delete", "some-id")
        with pytest.raises(InvalidArgument, match="maybe_sent requires an intent"):
            await client.vms.create(request_for(), maybe_sent=True)


class TestSecretRef:
    async def test_a_plain_create_does_not_take_one(self, client, api, request_for):
        """It would be sent as the password itself."""
        boot = ImageBoot(os="2268", password=SecretRef("env:ROOT_PASSWORD"))
        with pytest.raises(InvalidArgument, match="password is a SecretRef") as refused:
            await client.vms.create(request_for(boot=boot))
        assert refused.value.argument == "password"
        assert api.requests["create"] == 0

    @pytest.mark.parametrize("name", ["", " ", 7])
    def test_its_name_is_a_text(self, name):
        """That is not blank."""
        with pytest.raises(InvalidArgument):
            SecretRef(name)
