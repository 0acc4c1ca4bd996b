"""What type checkers see of bulk calls and their reports. It is never run."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, assert_type

from async_vmapi import (
    APIError,
    AuthenticationError,
    Autoscaler,
    BadRequest,
    BulkEvent,
    BulkExecutor,
    BulkInterrupted,
    BulkPlan,
    BulkReport,
    Client,
    Conflict,
    ConnectError,
    CreateRequest,
    InvalidState,
    IPv4Address,
    Network,
    NotFound,
    Outcome,
    OutcomeUnknown,
    PublicInterface,
    Ready,
    Reference,
    ServerError,
    Task,
    TaskError,
    TaskFailed,
    TransportError,
    TransportTimeout,
    UnresolvedWrite,
    VirtualMachine,
    VMAPIError,
    VMVanished,
)


async def many(client: Client, vms: list[VirtualMachine], requests: list[CreateRequest]) -> None:
    plan = BulkPlan(limit=5, max_failures="5%", waves=[1, "10%"], min_online=3)
    bulk = client.bulk(plan)
    assert_type(bulk, BulkExecutor)
    assert_type(client.bulk(limit=5, max_failures=2, on_event=print), BulkExecutor)
    assert_type(bulk.plan, BulkPlan)
    assert_type(client.bulk(check=Ready.ssh(), soak=60, spread_by="zone"), BulkExecutor)
    assert_type(client.bulk(check=is_up, promote="each", on_failure="pause"), BulkExecutor)
    assert_type(BulkPlan(check=is_up).check, Ready | None)
    assert_type((bulk.held, bulk.paused), tuple[int | None, str | None])
    bulk.promote()
    assert_type(bulk.report, BulkReport | None)
    assert_type(await bulk.create(requests), BulkReport)
    assert_type(await bulk.resize(vms, cores=2, ram=2048, wait_for=4), BulkReport)
    assert_type(await bulk.shutdown((vm for vm in vms), wait_for=4), BulkReport)
    assert_type(await bulk.delete(["17"], delete_resources=True), BulkReport)
    assert_type(await bulk.rename({"17": "a"}), BulkReport)
    report = await bulk.reboot(vms)
    assert_type(report.succeeded, list[Outcome])
    assert_type(report.to_json(), str)
    assert_type(BulkReport.from_json("{}"), BulkReport)
    assert_type(report.to_dict(), dict[str, Any])
    assert_type(BulkPlan.from_dict({"limit": 5}), BulkPlan)
    assert_type(VirtualMachine.from_dict(vms[0].to_dict()), VirtualMachine)
    assert_type(report.raise_on_failure(), None)
    assert_type(await bulk.resume(report), BulkReport)
    async for outcome in bulk.stream(vms, "reboot"):
        assert_type(outcome, Outcome)
        assert_type((outcome.index, outcome.vm_id), tuple[int, str | None])

    client.bulk(plan, limit=5)  # type: ignore[call-overload]
    client.bulk(limit="5")  # type: ignore[call-overload]
    client.bulk(promote="maybe")  # type: ignore[call-overload]
    BulkPlan(soak="60")  # type: ignore[arg-type]
    BulkPlan(check="ssh")  # type: ignore[arg-type]
    BulkPlan(5)  # type: ignore[call-arg]
    BulkPlan(waves=1)  # type: ignore[arg-type]
    await bulk.resize(vms, cores=2)  # type: ignore[call-arg]
    await bulk.rename(vms)  # type: ignore[arg-type]


async def is_up(vm: VirtualMachine) -> bool:
    return bool(vm.addresses)


def on_event(event: BulkEvent) -> None:
    assert_type(event.in_flight, int)
    counts: Mapping[Any, int] = event.done
    print(counts)


def interrupted(error: BaseException) -> BulkReport | None:
    found = BulkInterrupted.from_exception(error)
    assert_type(found, BulkInterrupted | None)
    return found.report if found else None


async def go_on(client: Client, error: OutcomeUnknown) -> None:
    assert_type(error.candidates, tuple[str, ...])
    assert_type(await client.reconcile(error.token), Task[VirtualMachine | None])
    assert_type(await client.reconcile("token", reconcile_timeout=5), Task[VirtualMachine | None])
    assert_type(client.pending, tuple[Task[Any], ...])
    await client.vms.reboot("17", reconcile_timeout=5)
    for write in client.unresolved:
        assert_type(write.replaces, str | None)
        assert_type(write, UnresolvedWrite)
        assert_type(write.token, str | None)
        assert_type(client.dismiss(write), None)
    client.dismiss("17")  # type: ignore[arg-type]


async def prepare(client: Client, request: CreateRequest) -> None:
    intent = await client.vms.prepare("create", request)
    assert_type(intent, str)
    await client.vms.create(request, intent=intent, maybe_sent=True)
    await client.vms.prepare("shutdown", "17")  # type: ignore[arg-type]
    await client.vms.create(request, on_unknown="again")  # type: ignore[call-overload]


def branches(
    refused: BadRequest | AuthenticationError | NotFound | Conflict | ServerError,
    lost: ConnectError | TransportTimeout,
    ended: TaskFailed | VMVanished,
    state: InvalidState,
) -> tuple[APIError, TransportError, TaskError, RuntimeError, VMAPIError]:
    """Which error is a kind of which."""
    return refused, lost, ended, state, state


def parts(vm: VirtualMachine) -> None:
    assert_type(vm.public_interface, PublicInterface)
    assert_type((vm.owner, vm.zone), tuple[Reference, Reference])
    assert_type(vm.networks, tuple[Network, ...])
    assert_type(vm.autoscaler, Autoscaler | None)
    assert_type(vm.public_interface.ipv4_addresses, tuple[IPv4Address, ...])


async def streams(client: Client) -> AsyncIterator[Outcome]:
    async def named() -> AsyncIterator[str]:
        yield "17"

    async for outcome in client.bulk().stream(named(), client.vms.power_on):
        yield outcome
