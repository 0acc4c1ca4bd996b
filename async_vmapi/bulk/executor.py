"""`BulkExecutor`: one operation on many machines, so many at once, to the seen end of each."""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
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
from async_vmapi.bulk.item import (
    DEFAULTS,
    GENERAL,
    LOWERING,
    OPERATIONS,
    REPEATABLE,
    STAYS_DOWN,
    BulkItem,
    Items,
    Start,
    check_arguments,
    item_again,
    job_again,
    job_for,
    jobs_for,
    label_of,
    labels_of,
)
from async_vmapi.bulk.operations import Operations
from async_vmapi.bulk.outcomes import INTERRUPTED
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.bulk.scheduler import Rollout
from async_vmapi.errors import InvalidArgument, InvalidState, VMAPIError
from async_vmapi.models import ONLINE, VirtualMachine
from async_vmapi.tasks.task import Task
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import running_loop
from async_vmapi.vms import VirtualMachines, VMOrId

__all__ = ["BulkExecutor", "BulkInterrupted"]

_log: Final = logger_of(__name__)


class BulkInterrupted(VMAPIError):
    """A bulk call was cancelled; `report` tells what became of every item.

    Cancellation goes on its way as what it is, so that timeouts, task groups and Ctrl-C work as
    ever. This is the ``__cause__`` of the `asyncio.CancelledError`; `from_exception` finds it from
    there, or from the `TimeoutError`, `KeyboardInterrupt` or group that came of it. Where it is
    lost on the way, as in a task group whose other task failed, `BulkExecutor.report` is the same
    report.

    Attributes:
        report: Of the kind `BulkReport`; what was in flight is in its ``unknown``, with tokens.
    """

    def __init__(self, report: BulkReport) -> None:
        tokens = "".join(f"\n  {outcome.token}" for outcome in report.unknown if outcome.token)
        super().__init__(f"{report}{'; tokens to go on with:' if tokens else ''}{tokens}")
        self.report = report

    @staticmethod
    def from_exception(error: BaseException) -> "BulkInterrupted | None":
        """Return the interruption behind an error; None if there is none."""
        seen: set[int] = set()
        waiting: list[BaseException | None] = [error]
        while waiting:
            at = waiting.pop()
            if at is None or id(at) in seen:
                continue
            if isinstance(at, BulkInterrupted):
                return at
            seen.add(id(at))
            waiting += [at.__context__, at.__cause__]
            if isinstance(at, BaseExceptionGroup):
                waiting += cast("BaseExceptionGroup[BaseException]", at).exceptions
        return None


@attrs.frozen(kw_only=True)
class _Fleet:
    """What a bulk call is about.

    Attributes:
        total: How many items there are in all, for shares; None if nobody knows.
        done: What is known from an earlier call.
        complete: Whether nothing had been left off by it.
        given: All machines' ids, where so many of them are to stay online.
        uncertain: Those that an earlier call took down, or may have: no list is believed there.
    """

    operation: str
    arguments: dict[str, Any]
    jobs: Iterator[BulkItem] | AsyncIterator[BulkItem]
    total: int | None
    done: tuple[Outcome, ...] = ()
    complete: bool = True
    given: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()


class BulkExecutor(Operations[BulkReport]):
    """Does one operation to many machines; made by ``client.bulk(...)``.

    Its methods take any iterable or async iterable of machines or ids, one after the other as
    there is room for them, and return a `BulkReport`. A failure of one item is in the report and
    stops nothing but by the plan's ``max_failures``. With ``min_online`` all items
    are taken at once.

    Cancelling a call starts nothing new, gives requests that are on the wire ten seconds to be
    answered, stops watching, and raises the cancellation, with a `BulkInterrupted` behind it.
    Cancelling once more leaves at once.

    Args:
        vms: Whose machines.
        plan: How to go about it.
        origin: The endpoint that they are at.
        reconcile: Finds out what became of a token, which is none of the machines handed in.
        requests: Tells how many requests were sent.
        connections: How many can be on the wire at once.
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
        """How it goes about it."""
        return self._plan

    @property
    def report(self) -> BulkReport | None:
        """What became of the last call, an interrupted one too; None before the first.

        Of `stream`, it holds what was not handed out.
        """
        return self._report

    # --- control --------------------------------------------------------------------------------

    def pause(self) -> None:
        """Start nothing new until `unpause`; what is in flight goes on."""
        self._paused = True
        if self._rollout is not None:
            self._rollout.pause(True)

    def unpause(self) -> None:
        """End a `pause`."""
        self._paused = False
        if self._rollout is not None:
            self._rollout.pause(False)

    def stop(self, reason: str = "it was stopped") -> None:
        """Start nothing new in the call under way; what is in flight is watched to its end."""
        if self._rollout is not None:
            self._rollout.stop(validation.text("reason", reason))

    # --- operations -----------------------------------------------------------------------------

    async def run(self, items: Items[Any], start: str | Start, **keywords: Any) -> BulkReport:
        """Do anything to many items.

        Args:
            items: What it is done to; taken one by one as there is room.
            start: A coroutine function that takes an item and returns a `Task`, which is then
                awaited, or a plain result. Or the name of one of the operations above.
            keywords: The operation's arguments.

        Raises:
            InvalidArgument: If an argument is wrong; nothing was sent then.
            asyncio.CancelledError: If it was cancelled; see `BulkInterrupted`.
        """
        return await self._collect(self._fleet(items, start, keywords))

    def stream(
        self, items: Items[Any], start: str | Start, **keywords: Any
    ) -> AsyncGenerator[Outcome, None]:
        """Do the same as `run`, and iterate over the outcomes as they come.

        Nothing is kept of an outcome that was handed out, so the items may be any number. Leave
        the iteration early within `contextlib.aclosing`; that interrupts, as cancelling does.
        """
        return self._stream(self._fleet(items, start, keywords), [])

    async def resume(
        self,
        report: BulkReport,
        items: Sequence[Any] | None = None,
        start: Start | None = None,
    ) -> BulkReport:
        """Go on with what a report has as unknown or not started.

        What was accepted is watched to its end. A create, reboot or reset in doubt is looked for,
        and not sent again; another operation in doubt names its end, and so is. What a function
        of your own had begun stays unknown, unless it had returned its task. What succeeded or
        failed is not touched.

        The plan's shares are of all items of the report, and its budget begins anew.

        Args:
            report: Of this executor or another, or from `BulkReport.from_json`.
            items: The same items as then, in the same order: for creates and `run`, where the
                report was read from JSON.
            start: The same function as then, of a `run`.

        Returns:
            A report of all items, those that were done before among them.

        Raises:
            InvalidArgument: If what it takes is missing or does not fit.
        """
        return await self._collect(self._rest(report, items, start))

    # --- what is to be done ---------------------------------------------------------------------

    def _fleet(self, items: Items[Any], start: str | Start, keywords: dict[str, Any]) -> _Fleet:
        operation, begin = self._starter(start, keywords)
        if isinstance(items, str | bytes | Mapping) or not isinstance(
            items, Iterable | AsyncIterable
        ):
            raise validation.refuse(
                "items", cast(object, items), "an iterable of machines, ids or requests"
            )
        given = items
        if isinstance(given, Collection):
            # As they are now: a caller may go on changing its list.
            given = tuple(given)
        elif self._keeps_online(operation):
            if isinstance(given, AsyncIterable):
                raise InvalidArgument("min_online takes items that are at hand", argument="items")
            given = tuple(given)
        total = len(given) if isinstance(given, Sized) else None
        self._plan.require_length(total)
        labels = labels_of(operation, given) if isinstance(given, tuple) else []
        if operation == "rename" and (extra := set(labels) - keywords["names"].keys()):
            raise InvalidArgument(f"names has none for {min(extra)}", argument="names")
        return _Fleet(
            operation=operation,
            arguments=keywords,
            jobs=jobs_for(operation, given, begin),
            total=total,
            given=frozenset(labels),
        )

    def _keeps_online(self, operation: str) -> bool:
        if self._plan.min_online is not None and operation == GENERAL:
            raise InvalidArgument(
                "min_online takes an operation by its name: what a function does is not known",
                argument="min_online",
            )
        return self._plan.min_online is not None and operation in LOWERING

    def _starter(self, start: str | Start, keywords: dict[str, Any]) -> tuple[str, Start]:
        if callable(start):
            if keywords:
                raise InvalidArgument("a function takes the item alone", argument=min(keywords))
            return GENERAL, start
        if start not in OPERATIONS:
            raise validation.refuse("start", start, f"a function, or one of {sorted(OPERATIONS)}")
        check_arguments(start, keywords)
        method: Start = getattr(self._vms, start)
        if start == "rename":
            return start, partial(self._rename, keywords["names"])
        return start, partial(method, **DEFAULTS.get(start, {}) | keywords)

    async def _rename(self, names: Mapping[str, str], vm: VMOrId) -> None:
        name = names.get(label_of("rename", vm))
        if name is None:
            raise InvalidArgument(f"names has none for {label_of('rename', vm)}", argument="names")
        await self._vms.rename(vm, name)

    def _rest(self, report: BulkReport, items: Sequence[Any] | None, start: Start | None) -> _Fleet:
        if not isinstance(report, BulkReport):
            raise validation.refuse("report", cast(object, report), "a BulkReport")
        if report.origin and report.origin != self._origin:
            raise InvalidArgument(
                f"report is of {report.origin}, and this client talks to {self._origin}",
                argument="report",
            )
        if items is not None and not isinstance(items, Sequence):
            raise validation.refuse("items", cast(object, items), "the sequence of then")
        operation, keywords = report.operation, dict(report.arguments)
        if operation != GENERAL:
            _, begin = self._starter(operation, keywords)
        elif callable(start):
            begin = start
        else:
            raise InvalidArgument("the report is of a run: hand its function in", argument="start")
        self._keeps_online(operation)  # refuses what it cannot keep, before anything is begun
        made = frozenset(outcome.vm_id for outcome in report.outcomes if outcome.vm_id)
        done: list[Outcome] = []
        jobs: list[BulkItem] = []
        for outcome in report.outcomes:
            unknown = outcome.status == "unknown"
            if unknown and outcome.token and _is_watched(operation, outcome):
                again = partial(self._reconcile, outcome.token, made - {outcome.vm_id or ""})
                job = job_again(outcome, again)
            elif outcome.status == "not_started" or (unknown and operation in REPEATABLE):
                item = item_again(operation, outcome, items)
                job = job_for(operation, outcome.index, item, begin)
                if job.item != outcome.item:
                    raise InvalidArgument(
                        f"items[{outcome.index}] is {job.item}, but {outcome.item} in the report",
                        argument="items",
                    )
                job = attrs.evolve(job, before=outcome if unknown else None)
            else:
                done.append(outcome)
                continue
            jobs.append(job)
        return _Fleet(
            operation=operation,
            arguments=keywords,
            jobs=iter(jobs),
            total=len(report.outcomes),
            done=tuple(done),
            complete=report.complete,
            given=frozenset(outcome.item for outcome in report.outcomes),
            uncertain=frozenset(
                outcome.vm_id or ""
                for outcome in report.outcomes
                if outcome.status == "unknown"
                or (outcome.status == "succeeded" and operation in STAYS_DOWN)
            ),
        )

    # --- doing it -------------------------------------------------------------------------------

    async def _collect(self, fleet: _Fleet) -> BulkReport:
        kept: list[Outcome] = []
        async with aclosing(self._stream(fleet, kept)) as outcomes:
            async for outcome in outcomes:
                kept.append(outcome)
        return cast(BulkReport, self._report)

    async def _stream(self, fleet: _Fleet, kept: list[Outcome]) -> AsyncGenerator[Outcome, None]:
        if self._rollout is not None:
            raise InvalidState("this executor is at work on another call; make one more")
        clock = running_loop().time
        began, sent = clock(), Counter(self._requests())
        # What a function does before it returns is not known, nor how much of it is requests.
        at_once = None if fleet.operation == GENERAL else _at_once(self._connections)
        rollout = self._rollout = Rollout(
            self._plan, fleet.operation, fleet.jobs, fleet.total, at_once
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
            if rollout.in_the_air:
                # Who leaves at once, by a second Ctrl-C, may never come to read the report.
                about = {"vmapi_operation": fleet.operation}
                _log.warning("left with requests on the wire: %s", interrupted, extra=about)
            raise cancellation from interrupted
        finally:
            self._rollout = None
            self._report = summed_up()

    async def _count_online(self, rollout: Rollout, fleet: _Fleet) -> None:
        # One look; what goes down later by others' doing is not ours to know.
        try:
            machines = await self._vms.list()
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            rollout.give_up(INTERRUPTED if cancelled else f"who is online is not known: {error}")
            raise
        given = fleet.given - fleet.uncertain
        online = {vm.id for vm in machines if vm.state == ONLINE and vm.id in given}
        rollout.keep_online(online, len(fleet.given))


def _at_once(connections: int) -> int:
    """Return how many requests keep the wire busy, those that take the next turns included."""
    return connections + max(8, connections // 4)


def _is_watched(operation: str, outcome: Outcome) -> bool:
    """Return whether an unknown outcome is looked for, and not started again."""
    if operation == GENERAL:
        # A token of one of its writes tells nothing of the function's others.
        return outcome.accepted
    return outcome.accepted or operation not in REPEATABLE
