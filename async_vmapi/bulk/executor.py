"""`BulkExecutor`: one operation on many VMs, each watched to completion."""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from contextlib import aclosing
from functools import partial
from typing import Any, Final, cast

import attrs

from async_vmapi import validation
from async_vmapi.bulk.interruption import BulkInterrupted
from async_vmapi.bulk.item import (
    SAME_ITEMS,
    Begin,
    BulkItem,
    Items,
    Start,
    bulk_items,
    check_arguments,
    check_items,
    item_to_reconcile,
    item_to_retry,
    labels_of,
    new_name,
    run_function,
)
from async_vmapi.bulk.operations import Operations
from async_vmapi.bulk.outcomes import INTERRUPTED
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.errors import InvalidArgument, InvalidState
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import running_loop
from async_vmapi.vms import VirtualMachines, bound
from async_vmapi.writes.operations import GENERAL, OPERATIONS, operation_spec
from async_vmapi.writes.record import WriteContext

__all__ = ["BulkExecutor", "BulkInterrupted"]

_log: Final = logger_of(__name__)


@attrs.frozen(kw_only=True)
class _Fleet:
    """What a bulk call has to do.

    Attributes:
        operation: The operation's name.
        arguments: Its arguments.
        items: The items to start.
        total: The number of items, for percentages; None if unknown.
        done: Outcomes from an earlier call.
        complete: Whether the earlier call took all its items.
        given: All VM ids, for ``min_online``.
        uncertain: The VMs that an earlier call took down, or may have: a list may still show them
            online.
    """

    operation: str
    arguments: dict[str, Any]
    items: Iterator[BulkItem] | AsyncIterator[BulkItem]
    total: int | None
    done: tuple[Outcome, ...] = ()
    complete: bool = True
    given: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()


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
    """

    def __init__(
        self,
        vms: VirtualMachines,
        plan: BulkPlan,
        *,
        origin: str,
        reconcile: Callable[[str, frozenset[str]], Awaitable[Task[VirtualMachine | None]]],
        requests: Callable[[], Mapping[str, int]],
        connections: int,
    ) -> None:
        self._vms = vms
        self._connections = connections
        self._plan = plan
        self._origin = origin
        self._reconcile = reconcile
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

    def pause(self) -> None:
        """Start nothing new until `unpause`; operations in progress continue."""
        self._paused = True
        if self._rollout is not None:
            self._rollout.pause(True)

    def unpause(self) -> None:
        """Start items again after `pause`."""
        self._paused = False
        if self._rollout is not None:
            self._rollout.pause(False)

    def stop(self, reason: str = "it was stopped") -> None:
        """Start nothing new in the current call; operations in progress are still watched."""
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
        return await self._collect(self._fleet(items, start, keywords))

    def stream(
        self, items: Items[Any], start: str | Start, **keywords: Any
    ) -> AsyncGenerator[Outcome, None]:
        """Do the same as `run`, and iterate over the outcomes as they arrive.

        Yielded outcomes are not kept, so memory use does not grow with the number of items. Use
        `contextlib.aclosing` to leave the iteration early; that interrupts the call like a
        cancellation.
        """
        return self._stream(self._fleet(items, start, keywords), [])

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
        return await self._collect(self._rest(report, items, start))

    # --- the items ------------------------------------------------------------------------------

    def _fleet(self, items: Items[Any], start: str | Start, keywords: dict[str, Any]) -> _Fleet:
        operation, begin = self._starter(start, keywords)
        check_items(items)
        given = items
        if isinstance(given, Collection):
            # A copy: the caller may modify its list meanwhile.
            given = tuple(given)
        elif self._keeps_online(operation):
            if isinstance(given, AsyncIterable):
                raise InvalidArgument("min_online takes a list of items", argument="items")
            given = tuple(given)
        total = len(given) if isinstance(given, Sized) else None
        if total is None and any(isinstance(wave, str) for wave in self._plan.waves or ()):
            raise InvalidArgument(
                "percentage waves need items with a length, such as a list", argument="waves"
            )
        labels = labels_of(operation, given) if isinstance(given, tuple) else []
        if operation == "rename":
            for label in labels:
                new_name(keywords["names"], label)
        return _Fleet(
            operation=operation,
            arguments=keywords,
            items=bulk_items(operation, given, begin),
            total=total,
            given=frozenset(labels),
        )

    def _keeps_online(self, operation: str) -> bool:
        if self._plan.min_online is not None and operation == GENERAL:
            raise InvalidArgument(
                "min_online needs an operation given by its name: the effects of a function are "
                "unknown",
                argument="min_online",
            )
        return self._plan.min_online is not None and operation_spec(operation).lowers

    def _starter(self, start: str | Start, keywords: dict[str, Any]) -> tuple[str, Begin]:
        if callable(start):
            if keywords:
                raise InvalidArgument(
                    "a function gets only the item: bind other arguments by functools.partial",
                    argument=min(keywords),
                )
            return GENERAL, partial(run_function, start)
        if start not in OPERATIONS:
            raise validation.refuse("start", start, f"a function, or one of {sorted(OPERATIONS)}")
        check_arguments(start, keywords)
        return start, partial(self._begin, start, OPERATIONS[start].bulk_defaults | keywords)

    async def _begin(
        self, operation: str, keywords: dict[str, Any], item: Any, context: WriteContext
    ) -> Any:
        if operation == "rename":
            keywords = {"name": new_name(keywords["names"], item)}
        method: Start = getattr(bound(self._vms, context), operation)
        return await method(item, **keywords)

    def _rest(self, report: BulkReport, items: Sequence[Any] | None, start: Start | None) -> _Fleet:
        if not isinstance(report, BulkReport):
            raise validation.refuse("report", cast(object, report), "a BulkReport")
        if report.origin and report.origin != self._origin:
            raise InvalidArgument(
                f"report is of {report.origin}, and this client is of {self._origin}: use a client "
                "of that endpoint",
                argument="report",
            )
        if isinstance(items, str) or not isinstance(items, Sequence | None):
            raise validation.refuse("items", cast(object, items), f"a sequence of {SAME_ITEMS}")
        operation, keywords = report.operation, dict(report.arguments)
        if operation != GENERAL:
            _, begin = self._starter(operation, keywords)
        elif callable(start):
            begin = partial(run_function, start)
        else:
            raise InvalidArgument("report is of a function: pass it as start", argument="start")
        self._keeps_online(operation)  # raises before anything starts
        created = frozenset(outcome.vm_id for outcome in report.outcomes if outcome.vm_id)
        done: list[Outcome] = []
        rest: list[BulkItem] = []
        for outcome in report.outcomes:
            unknown = outcome.status == "unknown"
            if unknown and outcome.token and _is_watched(operation, outcome):
                others = created - {outcome.vm_id or ""}
                reconcile = partial(self._reconcile, outcome.token, others)
                rest.append(item_to_reconcile(outcome, reconcile))
            elif outcome.status == "not_started" or (
                unknown and operation_spec(operation).idempotent
            ):
                rest.append(item_to_retry(operation, outcome, items, begin))
            else:
                done.append(outcome)
        return _Fleet(
            operation=operation,
            arguments=keywords,
            items=iter(rest),
            total=len(report.outcomes),
            done=tuple(done),
            complete=report.complete,
            given=frozenset(outcome.item for outcome in report.outcomes),
            uncertain=frozenset(
                outcome.vm_id or ""
                for outcome in report.outcomes
                if outcome.status == "unknown"
                or (outcome.status == "succeeded" and operation_spec(operation).stays_down)
            ),
        )

    # --- running --------------------------------------------------------------------------------

    async def _collect(self, fleet: _Fleet) -> BulkReport:
        kept: list[Outcome] = []
        async with aclosing(self._stream(fleet, kept)) as outcomes:
            async for outcome in outcomes:
                kept.append(outcome)
        return cast(BulkReport, self._report)

    async def _stream(self, fleet: _Fleet, kept: list[Outcome]) -> AsyncGenerator[Outcome, None]:
        if self._rollout is not None:
            raise InvalidState("this executor is running another call; create another executor")
        clock = running_loop().time
        began, sent = clock(), Counter(self._requests())
        # A function may do anything before it returns, and need few requests.
        at_once = None if fleet.operation == GENERAL else _at_once(self._connections)
        rollout = self._rollout = Rollout(
            self._plan, fleet.operation, fleet.items, fleet.total, at_once
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
            if self._keeps_online(fleet.operation):
                await self._count_online(rollout, fleet)
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

    async def _count_online(self, rollout: Rollout, fleet: _Fleet) -> None:
        # Listed once: VMs that others take down later still count as online.
        try:
            vms = await self._vms.list()
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            rollout.give_up(INTERRUPTED if cancelled else f"cannot list the online VMs: {error}")
            raise
        given = fleet.given - fleet.uncertain
        online = {vm.id for vm in vms if vm.state == ONLINE and vm.id in given}
        rollout.keep_online(online, len(fleet.given))


def _at_once(connections: int) -> int:
    """Return how many requests keep the connections busy, including a few that wait for one."""
    return connections + max(8, connections // 4)


def _is_watched(operation: str, outcome: Outcome) -> bool:
    """Return whether an unknown outcome is reconciled instead of started again."""
    if operation == GENERAL:
        # The token of one write says nothing about the function's other writes.
        return outcome.accepted
    return outcome.accepted or not operation_spec(operation).idempotent
