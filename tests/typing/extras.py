"""What type checkers see of the emulator, durable jobs, telemetry and testing. It is never run."""

from datetime import datetime
from pathlib import Path
from typing import assert_type

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from async_vmapi import Client, Transport, VirtualMachine
from async_vmapi.durable import (
    DatabaseLost,
    DatabaseUnavailable,
    DurableFleet,
    DurableJob,
    JobExists,
    JobNotFound,
    JobState,
    Submission,
    UntrustedData,
    WorkerItem,
    WorkerStatus,
)
from async_vmapi.emulator import (
    Change,
    Cloud,
    CloudAPI,
    CloudOperation,
    CloudVM,
    Delivery,
    Emulator,
    Fault,
    FaultKind,
    FaultPlan,
    Handled,
    InMemoryTransport,
    Request,
    Response,
    Settings,
    deliver,
    restore,
    snapshot,
)
from async_vmapi.facts import Facts
from async_vmapi.otel import OpenTelemetry
from async_vmapi.probe import Estimate, Probe, ProbePlan, ProbeReport
from async_vmapi.rehearsal import (
    Hazards,
    Rehearsal,
    RehearsalRun,
    Spread,
    Timeline,
    WaveSpan,
)
from async_vmapi.testing import QUICK, VMCloud, VMServer


async def over_http() -> None:
    async with Emulator(settings=Settings(create=(30, 90)), speed=20, seed=1) as emulator:
        assert_type(emulator, Emulator)
        assert_type((emulator.url, emulator.api_key, emulator.api_secret), tuple[str, str, str])
        assert_type(emulator.api, CloudAPI)
        assert_type(emulator.cloud, Cloud)
    Emulator(speed="20")  # type: ignore[arg-type]


async def in_memory(path: Path, today: datetime) -> None:
    kind: FaultKind = "drop_after"
    plan = FaultPlan([Fault(kind=kind, probability=0.1)], seed=1)
    assert_type(FaultPlan.load(path), FaultPlan)
    api = CloudAPI(settings=Settings(), seed=1, faults=plan)
    api.faults.fail_next("create", "truncated")
    api.cloud.adjust("web-*", create=5)
    request = Request("GET", "/v2/regions", {}, b"")
    assert_type(api.handle(request, now=0.0, today=today), Response)
    assert_type(deliver(api, request, now=0.0, today=today), Delivery)
    assert_type(snapshot(api), dict[str, object])
    restore(api, snapshot(api))
    async with Client.in_memory(api, latency=0.1, seed=1, min_poll_interval=0.5) as client:
        assert_type(client, Client)
    transport: Transport = InMemoryTransport(api, latency=0.1, timeout=5)
    Client("https://cloud.invalid", api_key="k", api_secret="s", transport=transport)
    InMemoryTransport(cloud=5)  # type: ignore[arg-type]
    Client.in_memory(api, timeout="5")  # type: ignore[arg-type]
    api.faults.fail_next("create", "sometimes")  # type: ignore[arg-type]
    Fault(kind="sometimes")  # type: ignore[arg-type]
    Settings(create=5, resize=[20, 60], stale=0.5, acpi="ignore", extra_states=["queued"])
    Settings(create="5")  # type: ignore[arg-type]
    Settings(acpi="sometimes")  # type: ignore[arg-type]


def look_back(cloud: Cloud, api: CloudAPI) -> None:
    for vm in cloud.vms.values():
        assert_type(vm, CloudVM)
        assert_type(vm.history, list[Change])
    assert_type(cloud.operations[0], CloudOperation)
    assert_type(api.log[0], Handled)


async def durable(fleet: DurableFleet, vms: list[VirtualMachine]) -> None:
    submission = fleet.submit("night", limit=3)
    assert_type(submission, Submission)
    job = await submission.reboot(vms)
    assert_type(job, DurableJob)
    state: JobState = (await job.status()).state
    errors: list[Exception] = [DatabaseUnavailable(state), UntrustedData(state)]
    errors += [DatabaseLost(state), JobExists(state, name="x"), JobNotFound(state, name="x")]
    assert_type((await job.status()).waits_for, str | None)
    print(errors)
    assert_type(fleet.worker_status(), WorkerStatus)
    assert_type(fleet.worker_status().in_flight, tuple[WorkerItem, ...])


async def telemetry(tracers: TracerProvider, meters: MeterProvider) -> None:
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)
    Client("https://example.com", api_key="k", api_secret="s", telemetry=telemetry)
    Client.from_env(telemetry=OpenTelemetry())
    Client.in_memory(CloudAPI(), telemetry=None)
    Client.from_env(telemetry=OpenTelemetry)  # type: ignore[arg-type]
    Client.from_env(telemetry=tracers)  # type: ignore[arg-type]
    OpenTelemetry(tracer_provider=meters)  # type: ignore[arg-type]
    OpenTelemetry(tracers)  # type: ignore[call-arg]


async def probing(client: Client) -> None:
    plan = ProbePlan(zone_id="z", template="t", budget=0.5)
    probe = Probe(client, journal="cloud.toml.intent", report=print)
    assert_type(await probe.estimate(plan), Estimate)
    assert_type(await probe.run(plan), ProbeReport)
    assert_type((await probe.read_only()).facts, Facts)
    assert_type(await probe.delete(await probe.left_over()), list[str])
    ProbePlan(zone_id="z")  # type: ignore[call-arg]
    Probe(client, report=1)  # type: ignore[arg-type]


async def rehearsing(client: Client) -> None:
    hazards = Hazards(failing=0.01, warm_up=(5, 30))
    found = await client.bulk(limit=5).rehearse(["a"], "reboot", runs=10, hazards=hazards)
    assert_type(found, Rehearsal)
    assert_type(found.worst, RehearsalRun)
    assert_type(found.worst.timeline, Timeline | None)
    assert_type(found.spread("seconds"), Spread | None)
    assert_type(found.to_svg(), str)
    if found.worst.timeline is not None:
        assert_type(found.worst.timeline.waves, tuple[WaveSpan, ...])
    found.spread("duration")  # type: ignore[arg-type]
    await client.bulk().rehearse(["a"], client.vms.reboot)  # type: ignore[arg-type]
    Hazards(0.1)  # type: ignore[call-arg]


async def testing(vm_cloud: VMCloud, vm_client: Client, vm_server: VMServer) -> None:
    assert_type(QUICK, Settings)
    vm_cloud.fail_next("create", after_processing=True)
    vm_cloud.fail_next("list", "rate_limited", retry_after=2)
    vm_cloud.fail_next("list", "sometimes")  # type: ignore[arg-type]
    vm_cloud.adjust("web-*", acpi="ignore")
    assert_type(vm_cloud.add("web-01", state="offline"), CloudVM)
    assert_type(vm_cloud.vms, tuple[CloudVM, ...])
    assert_type(vm_cloud.requests["create"], int)
    await vm_client.vms.create(vm_cloud.create_request("web-02"))
    assert_type(vm_cloud.client(max_retries=0), Client)
    with VMServer(QUICK, seed=2) as server:
        assert_type(server.cloud, VMCloud)
        assert_type(server.env, dict[str, str])
    async with vm_server.client(min_poll_interval=0.1) as client:
        assert_type(client, Client)
