"""One run of a rehearsal: a bulk call on an emulated copy of the fleet, on a virtual clock."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import msgspec

from async_vmapi.bulk.executor import BulkExecutor
from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.plan import BulkEvent, BulkPlan
from async_vmapi.bulk.rehearsal import RehearsalRun, Timeline, WaveSpan
from async_vmapi.bulk.report import BulkReport
from async_vmapi.client import Client
from async_vmapi.emulator import (
    Cloud,
    CloudAPI,
    CloudOperation,
    CloudVM,
    Fault,
    FaultPlan,
    InMemoryTransport,
    Response,
    Settings,
    catalogue,
)
from async_vmapi.facts import Facts
from async_vmapi.models.create import CreateRequest, ImageBoot
from async_vmapi.models.vm import ONLINE, PublicInterface, Reference, VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.rehearsal.scenario import RehearsedVM, Scenario
from async_vmapi.rehearsal.virtual_loop import VirtualLoop

__all__ = ["run"]

_ZONE: Final = next(zone for zone in catalogue.ZONES.values() if zone["available"])
_BOOT: Final = ImageBoot(os=catalogue.TEMPLATES[0]["id"])
_TIMEOUT: Final = 30.0
_LONGEST_TIMEOUT: Final = 86_400.0
_NO_REFERENCE: Final = Reference(id="0", name="")
_SAME: Final[Mapping[str, object]] = {
    "system": {"id": "0", "name": ""},
    "cost_per_hour": 0,
    "transfer_used": 0,
    "owner": {"id": "0", "name": ""},
    "storage_volumes": [],
    "zone": {"id": "0", "name": ""},
}


def run(scenario: Scenario, seed: int, *, record: bool = False) -> RehearsalRun:
    """Run the bulk call of a scenario once; the same seed gives the same run.

    It blocks the thread, which must not be running an event loop.

    Args:
        scenario: The call and the fleet.
        seed: The random seed.
        record: Whether to record the timeline.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_Run(scenario, seed).run(record=record))


class _Metered(InMemoryTransport):
    """Counts the requests of each second."""

    def __init__(self, cloud: CloudAPI, *, latency: float, timeout: float) -> None:
        super().__init__(cloud, latency=latency, timeout=timeout)
        self.sent = Counter[int]()

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Response:
        self.sent[int(asyncio.get_running_loop().time())] += 1
        return await super().send(method, target, headers, body)


class _Run:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed
        # One for each purpose: from the same seed, they would agree with each other.
        sources = random.Random(seed)  # noqa: S311 - not for secrets
        for_cloud, for_faults, self._for_client, own = (sources.getrandbits(31) for _ in range(4))
        self._random = random.Random(own)  # noqa: S311
        facts = scenario.facts
        settings = Settings() if facts is None else Settings.from_facts(Facts.from_toml(facts))
        self._api = CloudAPI(
            Cloud(settings, seed=for_cloud, encode=_encode),
            faults=FaultPlan(_faults(scenario.hazards), seed=for_faults),
        )
        # The zones of the account, so that creates are spread over them.
        self._api.zones = {vm.zone_id: {**_ZONE, "id": vm.zone_id} for vm in scenario.new}
        self._decided = set[str]()
        self._api.cloud.observer = self._decide
        # The ids of the real VMs, and the emulated ones in their order.
        self._vms = {vm.id: self._place(vm) for vm in scenario.fleet}
        self._before = frozenset(vm.id for vm in self._vms.values())
        self._unhealthy = set[str]()
        self._warm_at = dict[tuple[str, float], float]()
        self._events: list[tuple[float, BulkEvent]] = []
        self._bulk: BulkExecutor | None = None
        self._paused: str | None = None

    # --- the fleet -----------------------------------------------------------------------------

    def _place(self, vm: RehearsedVM) -> CloudVM:
        return self._api.cloud.place(
            0.0,
            label=vm.label or "",
            cores=vm.cores,
            ram=vm.ram,
            zone=_ZONE,
            template=None,
            state=vm.state,
        )

    def _decide(self, vm: CloudVM, _: float) -> None:
        """Draw what goes wrong with a VM, as soon as it exists."""
        if vm.id in self._decided:
            return
        self._decided.add(vm.id)
        hazards, fate = self._scenario.hazards, dict[str, object]()
        if self._random.random() < hazards.failing:
            fate["fail_state"] = "error"
        if self._random.random() < hazards.ignoring_acpi:
            fate["acpi"] = "ignore"
        if fate:
            vm.settings = vm.settings.changed(**fate)

    def _items(self) -> Sequence[Any]:
        if self._scenario.operation == "create":
            return [
                CreateRequest(
                    name=vm.name, cpus=vm.cpus, ram=vm.ram, zone_id=vm.zone_id, boot=_BOOT
                )
                for vm in self._scenario.new
            ]
        known = {vm.id: vm for vm in self._scenario.fleet}
        return [_model(known[vm_id], self._vms[vm_id].id) for vm_id in self._scenario.items]

    def _arguments(self) -> dict[str, Any]:
        arguments = dict(self._scenario.arguments)
        if names := arguments.get("names"):
            arguments["names"] = {
                self._vms[vm_id].id: names[vm_id] for vm_id in self._scenario.items
            }
        return arguments

    # --- health --------------------------------------------------------------------------------

    async def _is_healthy(self, vm: VirtualMachine) -> bool:
        """Stand in for the plan's probes and functions: pass some time after the VM is online."""
        since = self._api.cloud.vms[vm.id].history[-1].at
        if (vm.id, since) not in self._warm_at:
            if self._random.random() < self._scenario.hazards.unhealthy:
                self._unhealthy.add(vm.id)
            warm_up = self._random.uniform(*self._scenario.hazards.warm_up)
            self._warm_at[vm.id, since] = since + warm_up
        passed = asyncio.get_running_loop().time() >= self._warm_at[vm.id, since]
        return passed and vm.id not in self._unhealthy

    # --- the call ------------------------------------------------------------------------------

    def _plan(self, *, record: bool) -> BulkPlan:
        plan, given = self._scenario.plan, dict[str, Any]()
        if self._scenario.probes:
            given["check"] = Ready.check(self._is_healthy)
        if record or plan.promote != "auto" or plan.on_failure == "pause":
            given["on_event"] = self._note
        return attrs.evolve(plan, dry_run=False, **given)

    def _note(self, event: BulkEvent) -> None:
        loop = asyncio.get_running_loop()
        self._events.append((loop.time(), event))
        if self._bulk is None:  # pragma: no cover - events come only while it runs
            return
        if event.kind == "held":
            loop.call_soon(self._bulk.promote)
        elif event.kind == "paused":
            self._paused = event.reason
            loop.call_soon(self._bulk.stop)

    async def run(self, *, record: bool) -> RehearsalRun:
        scenario = self._scenario
        options = dict(scenario.options)
        timeout = min(options.pop("timeout", _TIMEOUT), _LONGEST_TIMEOUT)
        transport = _Metered(self._api, latency=scenario.hazards.latency, timeout=timeout)
        async with Client(
            "https://in-memory.invalid",
            api_key=self._api.api_key,
            api_secret=self._api.api_secret,
            transport=transport,
            seed=self._for_client,
            facts=None if scenario.facts is None else Facts.from_toml(scenario.facts),
            **options,
        ) as client:
            items = self._items()
            self._bulk = client.bulk(self._plan(record=record))
            report = await self._bulk.run(items, scenario.operation, **self._arguments())
        online = self._online() if scenario.operation != "create" else ()
        return RehearsalRun(
            seed=self._seed,
            seconds=report.seconds,
            requests=sum(report.requests.values()),
            peak_requests=max(transport.sent.values(), default=0),
            fewest_online=min((count for _, count in online), default=None),
            counts=Counter(outcome.status for outcome in report.outcomes),
            failures=_failures(report),
            assumed=sum(outcome.evidence == "assumed" for outcome in report.outcomes),
            stopped=self._paused or report.stopped,
            timeline=self._timeline() if record else None,
        )

    # --- what happened -------------------------------------------------------------------------

    def _online(self) -> tuple[tuple[float, int], ...]:
        """Return how many VMs of the call were online, over time."""
        cloud = self._api.cloud
        if self._scenario.operation == "create":
            vms = {vm.id: vm for vm in cloud.vms.values() if vm.id not in self._before}
        else:
            vms = {vm.id: vm for vm in (self._vms[vm_id] for vm_id in self._scenario.items)}
        changes = Counter[float]({0.0: 0})
        for operation in cloud.operations:
            if operation.vm_id in vms and _is_hidden(operation, vms[operation.vm_id]):
                began, ended = operation.started_at or 0.0, operation.finished_at or 0.0
                changes[(began + ended) / 2] -= 1
                changes[ended] += 1
        for vm in vms.values():
            was = False
            for change in vm.history:
                if (now := change.state == ONLINE) is not was:
                    changes[change.at] += 1 if now else -1
                    was = now
        return _summed(sorted(changes.items()))

    def _timeline(self) -> Timeline:
        in_flight, failed = Counter[float](), Counter[float]()
        spans: dict[tuple[int, str], list[float]] = {}
        for at, event in self._events:
            if event.kind == "started":
                in_flight[at] += 1
            elif event.outcome is not None:
                in_flight[at] -= event.outcome.status != "not_started"
                failed[at] += event.outcome.status in ("failed", "unknown")
            else:
                continue
            spans.setdefault((event.wave, event.domain), []).append(at)
        return Timeline(
            in_flight=_summed(sorted(in_flight.items())),
            online=self._online(),
            failed=_summed(sorted(failed.items())),
            waves=tuple(
                WaveSpan(number=number, domain=domain, begins=min(times), ends=max(times))
                for (number, domain), times in spans.items()
            ),
        )


def _is_hidden(operation: CloudOperation, vm: CloudVM) -> bool:
    """Return whether an operation took a VM offline without a change of its state."""
    restarted = operation.kind in ("reboot", "reset") and operation.outcome in ("done", "failed")
    return restarted and not vm.settings.reboot_visible


def _encode(vm: CloudVM) -> bytes:
    """Return a VM with the documented fields alone, and little in them: lists take most time."""
    return msgspec.json.encode(
        {
            "id": vm.id,
            "state": vm.state,
            "cores": vm.cores,
            "ram": vm.ram,
            "label": vm.label,
            "public_interface": {"primary_ip_ipv4address": vm.address} if vm.has_address else {},
            **_SAME,
        }
    )


def _model(vm: RehearsedVM, vm_id: str) -> VirtualMachine:
    return VirtualMachine(
        id=vm_id,
        label=vm.label,
        cores=vm.cores,
        ram=vm.ram,
        state=vm.state,
        system=_NO_REFERENCE,
        cost_per_hour=0.0,
        transfer_used=0.0,
        owner=_NO_REFERENCE,
        public_interface=PublicInterface(),
        storage_volumes=(),
        zone=vm.zone,
        groups=vm.groups,
    )


def _faults(hazards: Hazards) -> list[Fault]:
    kinds: dict[str, dict[str, Any]] = {
        "lost_requests": {"kind": "drop_before"},
        "lost_responses": {"kind": "drop_after"},
        "server_errors": {"kind": "server_error", "status": 502},
        "rate_limited": {"kind": "rate_limited", "retry_after": 5},
        "stalls": {"kind": "stall"},
    }
    shares = {name: getattr(hazards, name) for name in kinds}
    return [Fault(probability=share, **kinds[name]) for name, share in shares.items() if share]


def _failures(report: BulkReport) -> dict[str, int]:
    missed = Counter(outcome.error or "" for outcome in (*report.failed, *report.unknown))
    return {kind or "unknown": count for kind, count in missed.most_common()}


def _summed(changes: Iterable[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    total, steps = 0, list[tuple[float, int]]()
    for at, change in changes:
        total += change
        steps.append((round(at, 3), total))
    return tuple(steps)
