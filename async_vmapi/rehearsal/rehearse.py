"""Rehearse a bulk call: `BulkExecutor.rehearse` calls `rehearse` with the fleet as it is."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs

from async_vmapi import validation
from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.rehearsal import Rehearsal, RehearsalRun, worst_of
from async_vmapi.errors import InvalidArgument
from async_vmapi.facts import Facts
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.rehearsal.processes import Workers, usable_cores
from async_vmapi.rehearsal.scenario import NewVM, RehearsedVM, Scenario

__all__ = ["rehearse"]

_MOST_RUNS = 100_000


async def rehearse(
    operation: str,
    arguments: Mapping[str, Any],
    plan: BulkPlan,
    items: Sequence[BulkItem],
    list_vms: Callable[[], Awaitable[Sequence[VirtualMachine]]],
    *,
    origin: str,
    options: Mapping[str, Any],
    facts: Facts | None,
    runs: int,
    seed: int,
    hazards: Hazards | None,
    processes: int | None,
    on_run: Callable[[RehearsalRun], object] | None,
) -> Rehearsal:
    """Run a plan many times on an emulated copy of the fleet; see `BulkExecutor.rehearse`.

    Args:
        operation: The operation.
        arguments: Its arguments.
        plan: The plan.
        items: The items.
        list_vms: Lists the fleet.
        origin: The client's endpoint.
        options: Options of the client.
        facts: What the client knows of the provider.
        runs: Number of runs.
        seed: Seed of the first run; each further run has the next one.
        hazards: What goes wrong; None for the defaults.
        processes: Number of processes; None for one on each core.
        on_run: Called with each run, as it ends.
    """
    if validation.whole("runs", runs, minimum=1) > _MOST_RUNS:
        raise validation.refuse("runs", runs, f"an integer from 1 to {_MOST_RUNS}")
    validation.whole("seed", seed, minimum=0)
    count = usable_cores() if processes is None else processes
    validation.whole("processes", count, minimum=1)
    hazards = Hazards() if hazards is None else hazards
    if not isinstance(hazards, Hazards):
        raise validation.refuse("hazards", hazards, "a Hazards, like Hazards(failing=0.01)")
    if not items:
        raise InvalidArgument("items is empty: there is nothing to rehearse", argument="items")
    check = plan.check
    if check is not None:
        plan = attrs.evolve(plan, check=check.storable)
    plan = attrs.evolve(plan, dry_run=False, on_event=None)
    vms = await list_vms()
    scenario = Scenario(
        operation=operation,
        arguments=arguments,
        plan=plan,
        probes=check is not None and check.has_probes,
        fleet=tuple(map(RehearsedVM.of, vms)),
        items=() if operation == "create" else _ids(items, vms),
        new=tuple(_new(item.source) for item in items) if operation == "create" else (),
        facts=None if facts is None else facts.to_toml(),
        options=options,
        hazards=hazards,
    )
    async with Workers(scenario, min(count, runs)) as workers:
        found = await workers.run(range(seed, seed + runs), on_run=on_run)
        (recorded,) = await workers.run([worst_of(found).seed], record=True)
    return Rehearsal(
        operation=operation,
        arguments=arguments,
        origin=origin,
        plan=plan,
        hazards=hazards,
        vms=len(vms),
        items=len(items),
        runs=tuple(recorded if run.seed == recorded.seed else run for run in found),
    )


def _ids(items: Sequence[BulkItem], vms: Sequence[VirtualMachine]) -> tuple[str, ...]:
    listed = {vm.id for vm in vms}
    missing = [item.label for item in items if item.vm_id not in listed]
    if missing:
        raise InvalidArgument(
            f"items: no list shows {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}, so it is "
            "not known what would happen to them; leave them out",
            argument="items",
        )
    return tuple(item.vm_id for item in items if item.vm_id is not None)


def _new(request: CreateRequest) -> NewVM:
    return NewVM(name=request.name, cpus=request.cpus, ram=request.ram, zone_id=request.zone_id)
