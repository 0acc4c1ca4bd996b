"""What type checkers see of the public API. It is never run: mypy and pyright read it.

Wrong uses carry an ignore; `warn_unused_ignores` proves that each of them is an error.
"""

from collections.abc import Mapping
from typing import Literal, assert_type

import aiohttp

from async_vmapi import (
    APIError,
    BulkEvent,
    BulkPlan,
    BulkReport,
    CdromBoot,
    Client,
    Console,
    CreateRequest,
    DecodingError,
    Evidence,
    Explanation,
    HTTPTransport,
    ImageBoot,
    InvalidArgument,
    Operation,
    RateLimited,
    Ready,
    Region,
    Response,
    SecretRef,
    Seen,
    SSHKey,
    StorageVolume,
    Task,
    TaskError,
    TaskEvent,
    TaskTimeout,
    Template,
    Transport,
    TransportTimeout,
    VirtualMachine,
    VMAPIError,
    Zone,
)
from async_vmapi.durable import DurableFleet, DurableJob, JobStatus
from async_vmapi.emulator import CloudVM
from async_vmapi.facts import SPECS, Fact, Facts, FactSpec
from async_vmapi.testing import VMCloud, VMServer


async def make(session: aiohttp.ClientSession) -> None:
    client = Client("https://example.com", api_key="k", api_secret="s")
    assert_type(client, Client)
    Client("https://example.com", api_key="k", api_secret="s", session=session, timeout=5)
    assert_type(Client.for_region("eu", api_key="k", api_secret="s", timeout=5.0), Client)
    assert_type(
        Client.from_env(session=session, min_poll_interval=2, max_poll_interval=9.5), Client
    )
    async with Client.from_env() as entered:
        assert_type(entered, Client)
    assert_type(client.requests, Mapping[str, int])
    assert_type(await client.close(), None)

    Client("https://example.com", "k", "s")  # type: ignore[call-arg]
    Client("https://example.com", api_key="k")  # type: ignore[call-arg]
    Client(5, api_key="k", api_secret="s")  # type: ignore[arg-type]
    Client("https://example.com", api_key="k", api_secret="s", timeout="5")  # type: ignore[arg-type]
    Client.from_env(timeout="5")  # type: ignore[arg-type]
    Client.from_env(max_retries="5")  # type: ignore[arg-type]
    client.requests["list"] = 0  # type: ignore[index]


class Recorder:
    """A plain class is a transport, whatever its arguments are named."""

    async def send(self, verb: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        return Response(200, {"X-Seen": verb + path}, body)

    async def close(self) -> None:
        pass


class Blocking:
    """A transport must be async."""

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        return Response(status=200, headers=headers, body=body)

    def close(self) -> None:
        pass


async def send(session: aiohttp.ClientSession) -> None:
    http = HTTPTransport("https://example.com", session=session, timeout=5, max_response_size=1000)
    for transport in (http, Recorder()):
        Client("https://example.com", api_key="k", api_secret="s", transport=transport)
    chosen: Transport = Recorder()
    response = await chosen.send("GET", "/v2/regions", {}, b"")
    assert_type(response, Response)
    assert_type((response.status, response.body), tuple[int, bytes])
    assert_type(response.headers, Mapping[str, str])
    Client.from_env(transport=chosen, max_staleness=0, seed=1)

    Client("https://example.com", api_key="k", api_secret="s", transport=Blocking())  # type: ignore[arg-type]
    Client.from_env(transport=Recorder)  # type: ignore[arg-type]
    response.status = 201  # type: ignore[misc]
    Response(200, None, b"")  # type: ignore[arg-type]
    HTTPTransport("https://example.com", max_retries=1)  # type: ignore[call-arg]


class MyClient(Client):
    """Constructors return the class that they are called on."""


async def make_mine() -> None:
    assert_type(MyClient.from_env(), MyClient)
    async with MyClient.for_region("eu", api_key="k", api_secret="s") as client:
        assert_type(client, MyClient)


async def create(client: Client, request: CreateRequest) -> None:
    boot = ImageBoot(os="1", password="p", key_id="9", user_data="#cloud-config")
    task = await client.vms.create(name="a", cpus=1, ram=512, zone_id="z", boot=boot)
    assert_type(task, Task[VirtualMachine])
    assert_type(await task, VirtualMachine)
    assert_type(await client.vms.create(request), Task[VirtualMachine])
    CreateRequest(name="a", cpus=1, ram=512, zone_id="z", boot=CdromBoot(iso="debian.iso"))

    await client.vms.create()  # type: ignore[call-overload]
    await client.vms.create(request, name="a")  # type: ignore[call-overload]
    await client.vms.create(name="a", cpus=1, ram=1, zone_id="z")  # type: ignore[call-overload]
    await client.vms.create(name="a", cpus="1", ram=1, zone_id="z", boot=boot)  # type: ignore[call-overload]
    await client.vms.create("a", 1, 512, "z", boot)  # type: ignore[call-overload]
    CreateRequest(name="a", cpus=1, ram=512, zone_id="z", boot="1")  # type: ignore[arg-type]
    ImageBoot("1")  # type: ignore[call-arg]
    ImageBoot(os="1", iso="debian.iso")  # type: ignore[call-arg]
    ImageBoot(os="1", key_id=9)  # type: ignore[arg-type]
    CdromBoot(iso="debian.iso", password="p")  # type: ignore[call-arg]
    request.cpus = 2  # type: ignore[misc]


async def operate(client: Client, vm: VirtualMachine) -> None:
    for which in (vm, "17"):
        assert_type(await client.vms.get(which), VirtualMachine)
        assert_type(await client.vms.resize(which, cores=1, ram=512), Task[VirtualMachine])
        assert_type(await client.vms.shutdown(which, wait_for=0), Task[VirtualMachine])
        assert_type(await client.vms.reboot(which), Task[VirtualMachine])
        assert_type(await client.vms.reset(which), Task[VirtualMachine])
        assert_type(await client.vms.power_on(which), Task[VirtualMachine])
        assert_type(await client.vms.power_off(which), Task[VirtualMachine])
        assert_type(await client.vms.console(which), Console)
        assert_type(await client.vms.rename(which, "b"), None)
        deletion = await client.vms.delete(which, delete_resources=True)
        assert_type(deletion, Task[None])
        assert_type(await deletion.wait(), None)
        assert_type(await client.vms.list(), list[VirtualMachine])

    await client.vms.get(17)  # type: ignore[arg-type]
    await client.vms.resize("17", 1, 512)  # type: ignore[call-arg]
    await client.vms.resize("17", cores=1)  # type: ignore[call-arg]
    await client.vms.shutdown("17", wait_for=None)  # type: ignore[arg-type]
    await client.vms.shutdown("17", 4)  # type: ignore[call-arg]
    await client.vms.rename("17")  # type: ignore[call-arg]
    await client.vms.delete("17", True)  # type: ignore[call-arg]
    await client.vms.reboot("17", wait_for=4)  # type: ignore[call-arg]
    (await client.vms.get("17")).wait()  # type: ignore[attr-defined]
    print((await client.vms.reboot("17")).state)  # type: ignore[attr-defined]


async def ready(client: Client) -> None:
    async def healthy(vm: VirtualMachine) -> bool:
        return vm.state == "online"

    both = Ready.ssh() & Ready.http("/health", 204, port=8080) & Ready.tcp(443)
    assert_type(both & Ready.check(healthy, timeout=5) & Ready.parse("ssh"), Ready)
    assert_type(await client.vms.reboot("17", ready=both), Task[VirtualMachine])
    assert_type(await client.vms.wait_ready("17", both, timeout=None), VirtualMachine)
    await client.vms.shutdown("17", ready=both)  # type: ignore[call-arg]
    Ready.check(len)  # type: ignore[arg-type]


async def wait(client: Client, task: Task[VirtualMachine]) -> None:
    assert_type(task.vm_id, str)
    assert_type(task.operation, Operation | Literal["wait_ready"])
    assert_type(task.done(), bool)
    assert_type(task.explain(), Explanation)
    assert_type(task.explain().seen, tuple[Seen, ...])
    assert_type(task.result(), VirtualMachine)
    assert_type(task.last_seen, VirtualMachine | None)
    assert_type(task.evidence, Evidence | None)
    assert_type(task.history, tuple[TaskEvent, ...])
    assert_type(await task.wait(timeout=600), VirtualMachine)
    assert_type(await task.wait(None), VirtualMachine)
    async for event in task.events():
        assert_type(event, TaskEvent)
        assert_type(event.elapsed, float)
    token = task.token()
    assert_type(token, str)
    assert_type(client.resume(token), Task[VirtualMachine | None])
    deleted = await client.vms.delete("17", missing_ok=True)
    assert_type(deleted, Task[None])
    assert_type(deleted.was_missing, bool)

    # A task of a VM is one of perhaps a VM, not the other way round.
    wider: Task[VirtualMachine | None] = task
    narrower: Task[VirtualMachine] = wider  # type: ignore[assignment]
    await narrower.wait(timeout="600")  # type: ignore[arg-type]
    task.vm_id = "18"  # type: ignore[misc]
    client.resume(task)  # type: ignore[arg-type]


async def look(client: Client, vm: VirtualMachine) -> None:
    assert_type(vm.id, str)
    assert_type(vm.label, str | None)
    assert_type(vm.cores, int)
    assert_type(vm.ram, int)
    assert_type(vm.state, str)
    assert_type(vm.adm, bool | None)
    assert_type(vm.cost_per_hour, float)
    assert_type(vm.transfer_used, float)
    assert_type(vm.addresses, tuple[str, ...])
    assert_type(vm.system_volume, StorageVolume | None)
    assert_type(vm.zone.name, str)
    regions = await client.regions.list()
    assert_type(regions, list[Region])
    assert_type(regions[0].zones, tuple[Zone, ...])
    templates = await client.templates.list()
    assert_type(templates, list[Template])
    assert_type(templates[0].supports, tuple[str, ...])
    assert_type(await client.account.ssh_keys(), list[SSHKey])
    console = await client.vms.console(vm)
    assert_type((console.host, console.port, console.password), tuple[str, int, str])

    vm.state = "offline"  # type: ignore[misc]
    print(vm.system_volume.size)  # type: ignore[union-attr]


def explain(error: VMAPIError) -> None:
    match error:
        case RateLimited():
            assert_type(error.retry_after, float | None)
        case APIError():
            assert_type((error.status, error.from_api), tuple[int, bool])
            assert_type((error.message, error.method, error.path), tuple[str, str, str])
        case DecodingError():
            assert_type(error.where, str)
        case InvalidArgument():
            assert_type(error.argument, str)
        case TaskError():
            assert_type(error.history, tuple[tuple[float, str | None], ...])
            assert_type(error.last_state, str | None)
            assert_type((error.vm_id, error.token), tuple[str, str])
        case _:
            pass
    print(error.status)  # type: ignore[attr-defined]


def catch(timeout: TaskTimeout | TransportTimeout, argument: InvalidArgument) -> None:
    builtin: TimeoutError = timeout
    assert_type(str(builtin), str)
    value: ValueError = argument
    assert_type(str(value), str)


async def use_as_operation() -> Operation:
    operation: Operation = "explode"  # type: ignore[assignment]
    return operation


async def durable(vms: list[VirtualMachine], request: CreateRequest) -> None:
    """A durable job reads as a bulk call does."""
    async with DurableFleet(
        "sqlite:///fleet.sqlite", secrets=lambda name: name, secret_names=["X"]
    ) as fleet:
        job = await fleet.submit("night", BulkPlan(limit=3)).shutdown(vms, wait_for=4)
        assert_type(job, DurableJob)
        await fleet.submit("night", BulkPlan(limit=3), attach=True).shutdown(vms)
        await fleet.submit("night", limit=3, attach=True).shutdown(vms)
        assert_type(await fleet.submit("make", max_failures="5%").create([request]), DurableJob)
        assert_type(await job.status(), JobStatus)
        assert_type(await job.report(timeout=60), BulkReport)
        async for event in job.events():
            assert_type(event, BulkEvent)
        assert_type(await fleet.jobs(), list[JobStatus])
        fleet.submit("night", BulkPlan(), limit=3)  # type: ignore[call-overload]
        await fleet.submit("night").shutdown(vms, wait=4)  # type: ignore[call-arg]
    assert_type(ImageBoot(os="x", password=SecretRef("env:X")).password, str | SecretRef | None)


async def in_tests(vm_cloud: VMCloud, vm_server: VMServer) -> None:
    """The fixtures of users' own tests are typed by what they hand out."""
    assert_type(vm_cloud.vms, tuple[CloudVM, ...])
    assert_type(vm_cloud.vm("web-01").state, str)
    assert_type(vm_cloud.requests["create"], int)
    assert_type(vm_cloud.client(max_retries=0), Client)
    vm_cloud.fail_next("create", after_processing=True)
    vm_cloud.fail_next("create", "explode")  # type: ignore[arg-type]
    vm_cloud.client(seed="x")  # type: ignore[arg-type]
    assert_type(vm_server.cloud, VMCloud)
    assert_type(vm_server.env, dict[str, str])
    async with vm_server.client(timeout=5) as client:
        assert_type(client, Client)


def about_facts() -> None:
    facts = Facts.of("cloud.toml").over(Facts.default())
    assert_type(facts["reads.max_staleness"], Fact)
    assert_type(SPECS["reads.max_staleness"], FactSpec)
    assert_type(facts.diff(Facts.default()), dict[str, tuple[Fact | None, Fact | None]])
    Client("https://vm.invalid", api_key="k", api_secret="s", facts=facts)
    Client("https://vm.invalid", api_key="k", api_secret="s", facts=7)  # type: ignore[arg-type]
