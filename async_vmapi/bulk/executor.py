"""`BulkExecutor`: one operation on many VMs, each watched to completion."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from async_vmapi import validation
from async_vmapi.bulk.domains import domains_of
from async_vmapi.bulk.fleet import Fleet, Fleets, Reconcile
from async_vmapi.bulk.hazards import Hazards
from async_vmapi.bulk.interruption import BulkInterrupted
from async_vmapi.bulk.item import BulkItem, Items, Source, Start
from async_vmapi.bulk.operations import Operations
from async_vmapi.bulk.outcomes import INTERRUPTED
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.rehearsal import Rehearsal, RehearsalRun
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.errors import InvalidState
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import running_loop
from async_vmapi.vms import VirtualMachines
from async_vmapi.writes.operations import GENERAL

__all__ = ["BulkExecutor", "BulkInterrupted"]

_log: Final = logger_of(__name__)


class BulkExecutor(Operations[BulkReport]):
    """Runs one operation on many VMs; created by ``client.bulk(...)``.

    Its methods take any iterable or async iterable of VMs or ids, consume it lazily, and return a
    `BulkReport`. If an item fails, the report says so; the call stops only if the plan's
    ``max_failures`` is exceeded. With ``min_online``, all items are taken at the start.

    If a call is cancelled, it starts nothing new, gives requests in flight ten seconds for their
    responses, stops watching, and raises the cancellation with a `BulkInterrupted` as its cause. A
    second cancellation ends it immediately.

    Args:
        vms: Sends the requests.
        plan: The plan.
        origin: The client's endpoint.
        reconcile: Reconciles a token, given the ids of VMs that cannot be its result.
        requests: Returns how many requests were sent, by call.
        connections: Maximum number of requests in flight.
        max_staleness: Maximum age of a read, in seconds.
        rehearse: Rehearses a call, given what it has to do.
    """

    def __init__(
        self,
        vms: VirtualMachines,
        plan: BulkPlan,
        *,
        origin: str,
        reconcile: Reconcile,
        requests: Callable[[], Mapping[str, int]],
        connections: int,
        max_staleness: float,
        rehearse: Callable[..., Awaitable[Rehearsal]],
    ) -> None:
        self._vms = vms
        self._connections = connections
        self._max_staleness = max_staleness
        self._rehearse = rehearse
        self._plan = plan
        self._fleets = Fleets(vms, plan, origin, reconcile)
        self._origin = origin
        self._requests = requests
        self._rollout: Rollout | None = None
        self._paused = False
        self._report: BulkReport | None = None

    @property
    def plan(self) -> BulkPlan:
        """The plan."""
        return self._plan

    @property
    def report(self) -> BulkReport | None:
        """The report of the last call, even if that was interrupted; None before the first.

        After `stream`, it has only the outcomes that were not yielded.
        """
        return self._report

    # --- control --------------------------------------------------------------------------------

    @property
    def held(self) -> int | None:
        """The wave that must be promoted before the next one starts; None if there is none now."""
        return None if self._rollout is None else self._rollout.held

    @property
    def paused(self) -> str | None:
        """Why nothing new starts until `unpause`; None if the call is not paused."""
        failures = None if self._rollout is None else self._rollout.suspended
        return failures or ("it was paused" if self._paused else None)

    def promote(self) -> None:
        """Let the wave start that waits for it, because of the plan's ``promote``.

        Raises:
            InvalidState: If none waits; see `held`.
        """
        if self._rollout is None or self._rollout.held is None:
            raise InvalidState("no wave waits to be promoted: see held, or the event 'held'")
        self._rollout.promote(self._rollout.held)

    def pause(self) -> None:
        """Start nothing new until `unpause`; operations in progress continue."""
        self._paused = True
        if self._rollout is not None:
            self._rollout.pause(True)

    def unpause(self) -> None:
        """Start items again after `pause`, or after a pause because of failures.

        After a pause because of failures, these are forgiven: the failure budget starts again.
        """
        self._paused = False
        if self._rollout is not None:
            self._rollout.pause(False)
            if self._rollout.suspended:
                self._rollout.forgive(self._rollout.failures)

    def stop(self, reason: str = "it was stopped") -> None:
        """Start nothing new in the current call; operations in progress are still watched.

        A soak ends.
        """
        if self._rollout is not None:
            self._rollout.stop(validation.text("reason", reason))

    # --- operations -----------------------------------------------------------------------------

    async def run(self, items: Items[Any], start: str | Start, **keywords: Any) -> BulkReport:
        """Run an operation or a function on many items.

        Args:
            items: The items; consumed lazily.
            start: A coroutine function that takes an item and returns a `Task`, which is then
                awaited, or a plain result. Or the name of an operation, such as ``"reboot"``.
            keywords: The operation's arguments.

        Raises:
            InvalidArgument: If an argument is wrong; nothing was sent.
            asyncio.CancelledError: If the call was cancelled; see `BulkInterrupted`.
        """
        return await self._collect(self._fleets.new(items, start, keywords))

    def stream(
        self, items: Items[Any], start: str | Start, **keywords: Any
    ) -> AsyncGenerator[Outcome, None]:
        """Do the same as `run`, and iterate over the outcomes as they arrive.

        Yielded outcomes are not kept, so memory use does not grow with the number of items. Use
        `contextlib.aclosing` to leave the iteration early; that interrupts the call like a
        cancellation.
        """
        return self._stream(self._fleets.new(items, start, keywords), [])

    async def resume(
        self,
        report: BulkReport,
        items: Sequence[Any] | None = None,
        start: Start | None = None,
    ) -> BulkReport:
        """Resume the items of a report that are unknown or not started.

        Accepted operations are watched to completion. If the outcome of a create, reboot or reset
        is unknown, it is reconciled and not sent again; other operations are idempotent and are
        sent again. An item that your own function had started stays unknown, unless the function
        had returned its task. Items that succeeded or failed are left as they are.

        The plan's percentages refer to all items of the report; its failure budget starts again.

        Args:
            report: A report of any executor, or from `BulkReport.from_json`.
            items: The same items in the same order; needed for creates and `run` if the report was
                read from JSON.
            start: The same function; needed for `run`.

        Returns:
            A report of all items, including those that were done before.

        Raises:
            InvalidArgument: If an argument is missing or does not match the report.
        """
        return await self._collect(self._fleets.rest(report, items, start))

    async def rehearse(
        self,
        items: Items[Any],
        start: str,
        *,
        runs: int = 100,
        seed: int = 1,
        hazards: Hazards | None = None,
        processes: int | None = None,
        on_run: Callable[[RehearsalRun], object] | None = None,
        **keywords: Any,
    ) -> Rehearsal:
        """Run the plan many times on an emulated copy of the fleet, and write nothing to it.

        The fleet is listed once. Each run is this same call, by a client with the same options, on
        an emulated cloud in memory that has these VMs and behaves by the client's facts; without
        facts, like the emulator by default. It is on a virtual clock, in other processes, so the
        event loop is not blocked. Probes and functions of ``check`` are replaced by a wait, and
        waves are promoted at once. A pause because of failures ends a run.

        A run is as good as its facts and hazards, which are assumed unless you measure them.

        Args:
            items: The items, as for `run`.
            start: The name of an operation, such as ``"reboot"``.
            runs: Number of runs, up to 100,000.
            seed: Random seed of the first run; each further run has the next one. To repeat a run,
                pass its ``seed`` and ``runs=1``.
            hazards: What goes wrong, and how often; the defaults are those of
                `async_vmapi.rehearsal.Hazards`.
            processes: Number of processes; by default, one for each usable core.
            on_run: Called with each `async_vmapi.rehearsal.RehearsalRun` as it ends, in the event
                loop.
            keywords: The operation's arguments.

        Raises:
            InvalidArgument: If an argument is wrong, or a VM is not in the list.
            VMAPIError: If the list cannot be read, or a process cannot be started.
        """
        fleet = self._fleets.new(items, start, keywords)
        if fleet.operation == GENERAL:
            allowed = "the name of an operation, like 'reboot': a function cannot be emulated"
            raise validation.refuse("start", start, allowed)
        source, taken = Source(fleet.items), list[BulkItem]()
        while (item := await source.take()) is not None:
            taken.append(item)
        # Those of an iterable were not checked yet.
        self._fleets.new([item.source for item in taken], start, keywords)
        return await self._rehearse(
            fleet.operation,
            fleet.arguments,
            self._plan,
            taken,
            self._vms.list,
            runs=runs,
            seed=seed,
            hazards=hazards,
            processes=processes,
            on_run=on_run,
        )

    # --- running --------------------------------------------------------------------------------

    async def _collect(self, fleet: Fleet) -> BulkReport:
        kept: list[Outcome] = []
        async with aclosing(self._stream(fleet, kept)) as outcomes:
            async for outcome in outcomes:
                kept.append(outcome)
        return cast(BulkReport, self._report)

    async def _stream(self, fleet: Fleet, kept: list[Outcome]) -> AsyncGenerator[Outcome, None]:
        if self._rollout is not None:
            raise InvalidState("this executor is running another call; create another executor")
        clock = running_loop().time
        began, sent = clock(), Counter(self._requests())
        # A function may do anything before it returns, and need few requests.
        at_once = None if fleet.operation == GENERAL else _at_once(self._connections)
        rollout = self._rollout = Rollout(
            self._plan,
            fleet.operation,
            fleet.items,
            fleet.total,
            at_once,
            wait_ready=self._wait_ready,
            max_staleness=self._max_staleness,
        )
        rollout.pause(self._paused)

        def summed_up() -> BulkReport:
            outcomes = [*fleet.done, *kept, *rollout.left()]
            return BulkReport(
                operation=fleet.operation,
                arguments=fleet.arguments,
                origin=self._origin,
                outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.index)),
                dry_run=self._plan.dry_run,
                complete=rollout.complete and fleet.complete,
                stopped=rollout.stopped,
                seconds=round(clock() - began, 3),
                requests=dict(Counter(self._requests()) - sent),
            )

        try:
            await self._arrange(rollout, fleet)
            async with aclosing(rollout.outcomes()) as outcomes:
                async for outcome in outcomes:
                    yield outcome
        except asyncio.CancelledError as cancellation:
            interrupted = BulkInterrupted(summed_up())
            if rollout.left_in_flight:
                # After a second Ctrl-C, the program may end before it reads the report.
                fields = {"vmapi_operation": fleet.operation}
                _log.warning("left with requests in flight: %s", interrupted, extra=fields)
            raise cancellation from interrupted
        finally:
            self._rollout = None
            self._report = summed_up()

    async def _wait_ready(self, vm_id: str, ready: Ready, timeout: float) -> VirtualMachine:
        return await self._vms.wait_ready(vm_id, ready, timeout=timeout)

    async def _arrange(self, rollout: Rollout, fleet: Fleet) -> None:
        """Apply ``spread_by`` and ``min_online``, which one list may be needed for."""
        spread_by, keeps_online = self._plan.spread_by, self._fleets.keeps_online(fleet.operation)
        listed: dict[str, VirtualMachine] = {}
        unknown = spread_by is not None and not all(member.has_domain for member in fleet.members)
        if keeps_online or unknown:
            # Listed once: VMs that others take down later still count as online.
            try:
                listed = {vm.id: vm for vm in await self._vms.list()}
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                rollout.give_up(INTERRUPTED if cancelled else f"cannot list the VMs: {error}")
                raise
        if spread_by is not None:
            rollout.spread(domains_of(spread_by, fleet.members, listed))
        if keeps_online:
            vm_ids = {member.index: member.vm_id for member in fleet.members}
            online = {vm.id for vm in listed.values() if vm.state == ONLINE}
            rollout.keep_online(online - fleet.uncertain, vm_ids)


def _at_once(connections: int) -> int:
    """Return how many requests keep the connections busy, including a few that wait for one."""
    return connections + max(8, connections // 4)
