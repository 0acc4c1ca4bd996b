"""The client and the emulator over real HTTP."""

import asyncio

import aiohttp
import anyio
import pytest
import uvloop

from async_vmapi import (
    AuthenticationError,
    BadRequest,
    CdromBoot,
    Client,
    Conflict,
    DecodingError,
    ImageBoot,
    InvalidState,
    NotFound,
)
from async_vmapi.emulator import CloudAPI, Emulator, Settings


class TestVMs:
    @pytest.mark.parametrize("shape", ["object", "list"])
    async def test_every_call_of_a_vms_life(self, client, emulator, request_for, shape):
        """With signed requests over a socket, whichever shape a GET has."""
        emulator.cloud.adjust("*", get_shape=shape)
        vms = client.vms
        vm = await (await vms.create(request_for("web-01", cpus=2, ram=2048)))
        assert (vm.label, vm.cores, vm.ram, vm.state) == ("web-01", 2, 2048, "online")
        assert vm.zone.name == "DC1/PUBLIC-1"
        assert vm.system.name == "Ubuntu 18.04"
        assert vm.system_volume.size == 40
        resized = await (await vms.resize(vm, cores=4, ram=4096))
        assert (resized.cores, resized.ram, resized.state) == (4, 4096, "online")
        assert (await (await vms.reboot(vm))).state == "online"
        assert (await (await vms.reset(vm))).state == "online"
        console = await vms.console(vm)
        assert console.host
        assert console.port > 0
        assert console.password not in repr(console)
        assert await vms.rename(vm, "db-01") is None
        renamed = await vms.get(vm)
        assert renamed.label == "db-01"
        assert renamed.addresses
        assert (await (await vms.shutdown(vm))).state == "offline"
        assert (await (await vms.power_on(vm))).state == "online"
        assert (await (await vms.power_off(vm.id))).state == "offline"
        assert await vms.list() == [await vms.get(vm)]
        await (await vms.delete(vm, delete_resources=True))
        assert await vms.list() == []
        with pytest.raises(NotFound) as caught:
            await vms.get(vm)
        assert caught.value.status == 404
        assert caught.value.method == "GET"
        assert caught.value.path.endswith(vm.id)
        assert "not found" in caught.value.message

    async def test_a_create_by_keywords(self, client, emulator, request_for):
        """A create takes the fields by name as well as in a CreateRequest."""
        request = request_for()
        task = await client.vms.create(
            name="by-keywords",
            cpus=1,
            ram=512,
            zone_id=request.zone_id,
            boot=CdromBoot(iso="a.iso"),
        )
        assert (await task).label == "by-keywords"

    async def test_secrets_reach_the_server(self, client, request_for):
        """A password, a key and user data are sent where the template takes them."""
        boot = ImageBoot(os="2268", password="hunter-2", key_id="11", user_data="#cloud-config")
        assert (await (await client.vms.create(request_for(boot=boot)))).state == "online"

    async def test_a_refused_create(self, client, request_for):
        """The error names its field without the server's words; nothing was created."""
        boot = ImageBoot(os="b7d1c9a4-52e8-4f0b-9c36-1d8e7a5f2b90", password="hunter-2")
        with pytest.raises(
            BadRequest, match=r"it mentions template, password \(check the ids"
        ) as caught:
            await client.vms.create(request_for(boot=boot))
        assert "hunter-2" not in str(caught.value)
        assert await client.vms.list() == []

    async def test_a_vm_that_is_being_deleted(self, client, emulator, request_for):
        """An operation that its state does not allow is a Conflict."""
        emulator.cloud.adjust("*", delete=1000)
        vm = await (await client.vms.create(request_for()))
        await client.vms.delete(vm)
        with pytest.raises(Conflict):
            await client.vms.reboot(vm)

    async def test_many_vms_at_once(self, client, emulator, request_for):
        """Sixty VMs are created and deleted at once, each exactly once."""
        tasks = await asyncio.gather(*(client.vms.create(request_for(f"w-{n}")) for n in range(60)))
        vms = await asyncio.gather(*tasks)
        assert {vm.label for vm in vms} == {f"w-{n}" for n in range(60)}
        await asyncio.gather(*await asyncio.gather(*(client.vms.delete(vm) for vm in vms)))
        assert emulator.cloud.vms == {}
        assert emulator.api.requests["create"] == emulator.api.requests["delete"] == 60


class TestCatalogue:
    async def test_regions_and_zones(self, client):
        """A region's zones are those in which a VM can be created."""
        regions = await client.regions.list()
        assert [region.name for region in regions] == ["Poznan", "Poznan 2", "Warszawa"]
        assert [zone.label for zone in regions[1].zones] == ["DC2/PUBLIC-1"]
        assert regions[2].zones[0].id == "0daeacdb-7b1b-f510-d44e-ec8fd457d7aa"
        assert regions[1].zones[0].available

    async def test_templates(self, client):
        """A template has what a create may carry for it."""
        templates = await client.templates.list()
        assert templates[0].supports == ("password", "sshkey", "cloudinit")
        assert [template.owner is None for template in templates] == [True, True, False]

    async def test_ssh_keys(self, client):
        """A key's id is a text, though the API shows a number."""
        assert [key.id for key in await client.account.ssh_keys()] == ["11", "12"]


class TestLifecycle:
    async def test_a_wrong_secret(self, emulator):
        """It is an authentication error."""
        async with Client(
            emulator.url, api_key=emulator.api_key, api_secret="not-the-secret"
        ) as client:
            with pytest.raises(AuthenticationError) as caught:
                await client.vms.list()
        assert caught.value.status == 401
        for what in ("VMAPI_API_KEY", "VMAPI_API_SECRET", "clock"):
            assert what in str(caught.value)
        assert "not-the-secret" not in f"{caught.value!r} {caught.value}"

    async def test_a_lent_session_stays_open(self, emulator):
        """The client closes only its own session."""
        async with aiohttp.ClientSession() as session:
            async with Client(
                emulator.url,
                api_key=emulator.api_key,
                api_secret=emulator.api_secret,
                session=session,
            ) as client:
                assert await client.vms.list() == []
            assert not session.closed

    async def test_a_body_larger_than_allowed(self, emulator):
        """`max_response_size` can be set; a larger body is not read."""
        async with Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            max_response_size=20,
        ) as client:
            with pytest.raises(DecodingError, match="larger than 20 bytes"):
                await client.vms.list()

    async def test_entered_in_one_task_and_left_in_another(self, emulator, request_for):
        """Fixtures and web frameworks do so."""
        client = Client(
            emulator.url,
            api_key=emulator.api_key,
            api_secret=emulator.api_secret,
            min_poll_interval=0.002,
            max_staleness=0.0,
            max_poll_interval=0.01,
        )
        await asyncio.create_task(client.__aenter__())
        task = await asyncio.create_task(client.vms.create(request_for()))
        with anyio.move_on_after(0.01):
            await task
        assert (await asyncio.create_task(task.wait())).state == "online"
        await asyncio.create_task(client.__aexit__(None, None, None))

    def test_one_loop_after_another(self, request_for):
        """A closed client works in the next loop, and a task is awaited there to completion."""
        settings = Settings(create=0.05, not_found=0, address=0)
        api = CloudAPI(settings=settings)
        clients = []

        async def first():
            async with Emulator(api) as emulator:
                port = emulator.url.rpartition(":")[2]
                client = Client(
                    emulator.url,
                    api_key=api.api_key,
                    api_secret=api.api_secret,
                    min_poll_interval=0.002,
                    max_staleness=0.0,
                    max_poll_interval=0.01,
                )
                clients.append(client)
                async with client:
                    return int(port), await client.vms.create(request_for())

        async def second(port, task):
            async with Emulator(api, port=port), clients[0]:
                return await task

        port, task = asyncio.run(first())
        assert asyncio.run(second(port, task)).state == "online"

    def test_another_loop_without_closing_is_an_error(self):
        """The client was not closed in the first one."""
        api = CloudAPI()
        clients = []

        async def use(*, closing):
            async with Emulator(api) as emulator:
                if not clients:
                    clients.append(
                        Client(emulator.url, api_key=api.api_key, api_secret=api.api_secret)
                    )
                try:
                    await clients[0].vms.list()
                finally:
                    if closing:
                        await clients[0].close()

        with asyncio.Runner() as one, asyncio.Runner() as two:
            one.run(use(closing=False))
            with pytest.raises(InvalidState, match="another event loop"):
                two.run(use(closing=False))
            one.run(clients[0].close())

    def test_on_uvloop(self, request_for):
        """Another event loop's implementation makes no difference."""

        async def life():
            settings = Settings(create=0.05, delete=0.05, not_found=0, stale=0)
            async with (
                Emulator(settings=settings) as emulator,
                Client(
                    emulator.url,
                    api_key=emulator.api_key,
                    api_secret=emulator.api_secret,
                    min_poll_interval=0.002,
                    max_staleness=0.0,
                    max_poll_interval=0.01,
                ) as client,
            ):
                vms = await asyncio.gather(
                    *[await client.vms.create(request_for(f"w-{n}")) for n in range(30)]
                )
                waiter = asyncio.ensure_future((await client.vms.reboot(vms[0])).wait())
                await asyncio.sleep(0.01)
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
                await asyncio.gather(*[await client.vms.delete(vm) for vm in vms])
                return await client.vms.list()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(life()) == []
