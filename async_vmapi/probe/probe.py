"""`Probe`: measure a provider with a few small VMs, and delete them in every case."""

import secrets
import uuid
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from typing import Final

import anyio
import attrs

from async_vmapi import validation
from async_vmapi.client import Client
from async_vmapi.errors import InvalidState, VMAPIError
from async_vmapi.facts import Facts
from async_vmapi.models.create import CreateRequest, ImageBoot
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.probe.cleaning import delete, left_over
from async_vmapi.probe.experiments import Experiments
from async_vmapi.probe.findings import Findings
from async_vmapi.probe.journal import Journal
from async_vmapi.probe.plan import PREFIX, Estimate, ProbePlan, is_probe
from async_vmapi.probe.reading import Reader
from async_vmapi.probe.recorder import Recorder

__all__ = ["Probe", "ProbeReport"]

_READS: Final = 5
_DESCRIBED: Final = 3


def _silent(_: str) -> None:
    pass


@attrs.frozen
class ProbeReport:
    """What a probe found out.

    Attributes:
        facts: What is known now.
        problems: Why some facts are not known.
        left: Ids of VMs that could not be deleted.
    """

    facts: Facts
    problems: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Probe:
    """Measures the provider of a client.

    It creates its own VMs, whose names start with ``vmapi-probe-``, and changes no others. While it
    runs, use the client for nothing else.

    Args:
        client: An open client.
        journal: File in which it notes what it is about to create, so that `left_over` finds VMs
            after a kill; it is removed when nothing is left. None for no file.
        appears: Seconds within which a new VM appears, if ever.
        report: A function that is called with a line for each step.
    """

    def __init__(
        self,
        client: Client,
        *,
        journal: "str | PathLike[str] | None" = None,
        appears: float = 70.0,
        report: Callable[[str], None] = _silent,
    ) -> None:
        self._client = client
        self._journal = Journal(journal)
        self._appears = validation.duration("appears", appears)
        self._report = report

    async def estimate(self, plan: ProbePlan) -> Estimate:
        """Return what a probe costs at most; it only reads.

        Raises:
            InvalidState: If VMs of an earlier probe are left.
            InvalidArgument: If the price is not known, or the cost is above the budget.
        """
        return self._estimate(plan, await self._client.vms.list())

    def _estimate(self, plan: ProbePlan, vms: list[VirtualMachine]) -> Estimate:
        if self._journal.exists or any(map(is_probe, vms)):
            raise InvalidState(
                "an earlier probe was interrupted: delete its VMs first, with 'async-vmapi probe "
                "--clean' or Probe.left_over"
            )
        return plan.estimate(vms)

    async def read_only(self) -> ProbeReport:
        """Find out what reads alone show; it creates nothing.

        Raises:
            VMAPIError: If the API cannot be reached.
        """
        with Recorder(self._client) as recorder:
            findings = Findings(wait_for=Experiments.wait_for, interval=1.0)
            reader = Reader(self._client, recorder, findings, interval=0.5, seed=None)
            await self._read(reader, await self._client.vms.list())
            return ProbeReport(_facts(findings, recorder))

    async def run(self, plan: ProbePlan) -> ProbeReport:
        """Create VMs, measure everything, and delete them.

        They are deleted as well if it is cancelled or fails. It takes `ProbePlan.duration` seconds,
        about.

        Raises:
            InvalidState: If VMs of an earlier probe are left.
            InvalidArgument: If the price is not known, or the cost is above the budget.
            VMAPIError: If the API cannot be reached.
        """
        vms = await self._client.vms.list()
        self._estimate(plan, vms)
        findings = Findings(wait_for=Experiments.wait_for, interval=plan.interval)
        problems: list[str] = []
        left: list[str] = []
        with Recorder(self._client) as recorder:
            reader = Reader(
                self._client, recorder, findings, interval=plan.interval, seed=plan.seed
            )
            try:
                with anyio.move_on_after(plan.time_limit) as limit:
                    await self._read(reader, vms)
                    for number in range(plan.vms):
                        full = number == plan.vms - 1
                        await self._one(plan, recorder, reader, findings, problems, full=full)
                if limit.cancelled_caught:
                    problems.append("the time limit was reached")
            finally:
                with anyio.CancelScope(shield=True):
                    left += await self._delete_all()
            return ProbeReport(_facts(findings, recorder), tuple(problems), tuple(left))

    async def left_over(self) -> list[VirtualMachine]:
        """Return the VMs that probes left behind; it only reads.

        If a probe was killed, it takes about a minute for each create that may still appear.

        Raises:
            VMAPIError: If the API cannot be reached.
        """
        return await left_over(self._client, self._journal, appears=self._appears)

    async def delete(self, vms: list[VirtualMachine]) -> list[str]:
        """Delete VMs that `left_over` returned; return the ids of those that could not be.

        Raises:
            VMAPIError: If the API cannot be reached.
        """
        left = await delete(self._client, [vm.id for vm in vms], appears=self._appears)
        left += [vm.id for vm in await self._client.vms.list() if is_probe(vm)]
        if not left:
            self._journal.remove()
        return list(dict.fromkeys(left))

    async def _read(self, reader: Reader, vms: list[VirtualMachine]) -> None:
        numeric = bool(vms) and all(vm.id.isdigit() for vm in vms)
        unknown = str(secrets.randbelow(10**9) + 10**9) if numeric else str(uuid.uuid4())
        await reader.not_found(unknown, _READS)
        for vm in vms[:_DESCRIBED]:
            await reader.describe(vm.id)
            await reader.pause()

    async def _one(
        self,
        plan: ProbePlan,
        recorder: Recorder,
        reader: Reader,
        findings: Findings,
        problems: list[str],
        *,
        full: bool,
    ) -> None:
        """Create a VM, measure, and delete it."""
        request = CreateRequest(
            name=f"{PREFIX}{secrets.token_hex(4)}",
            cpus=plan.cpus,
            ram=plan.ram,
            zone_id=plan.zone_id,
            boot=ImageBoot(os=plan.template),
        )
        vms = self._client.vms
        token = await vms.prepare("create", request, unique_name=True)
        self._journal.intend(token)
        self._report("create: sent")
        try:
            task, trace = await reader.traced(
                lambda: vms.create(request, unique_name=True, intent=token)
            )
        except VMAPIError as error:
            if not error.may_have_happened:
                self._journal.ended(token)
            problems.append(str(error))
            return
        self._journal.created(token, task.vm_id)
        experiments = Experiments(
            self._client, recorder, reader, findings, plan, self._report, task.vm_id, request.name
        )
        try:
            await experiments.created(trace)
            self._report("create: online")
            if full:
                await experiments.names()
                await experiments.refusals()
                for number in range(plan.rounds):
                    self._report(f"round {number + 1} of {plan.rounds}")
                    await experiments.reboots()
                    await experiments.resizes()
                for _ in range(plan.rounds):
                    await experiments.switches()
        except VMAPIError as error:
            problems.append(str(error))
        with suppress(VMAPIError):
            if await experiments.delete():
                self._journal.ended(token)

    async def _delete_all(self) -> list[str]:
        """Delete what is left; return what cannot be deleted."""
        found: list[str] = []
        # If the create of a cancelled call was accepted, its VM is here.
        accepted = {write.token: write.vm_id for write in self._client.unresolved}
        for token, vm_id in self._journal.open.items():
            known = vm_id or accepted.get(token)
            if known is None:
                with suppress(VMAPIError):
                    task = await self._client.reconcile(token, reconcile_timeout=self._appears)
                    known = task.vm_id
            if known is not None:
                self._journal.created(token, known)
                found.append(known)
        if found:
            self._report(f"deleting {len(found)} VM{'s' * (len(found) > 1)}")
        left = await delete(self._client, found, appears=self._appears)
        with suppress(VMAPIError):
            left += [vm.id for vm in await self._client.vms.list() if is_probe(vm)]
            if not left:
                self._journal.remove()
        return list(dict.fromkeys(left))


def _facts(findings: Findings, recorder: Recorder) -> Facts:
    if recorder.offset is not None:
        findings.offset = recorder.offset, recorder.dates
    return findings.facts(recorder.today)
