"""What a bulk call has to do: its items, checked, or those that a report left over."""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Sequence,
    Sized,
)
from functools import partial
from typing import Any, TypeAlias, cast

import attrs

from async_vmapi import validation
from async_vmapi.bulk.domains import Member
from async_vmapi.bulk.item import (
    SAME_ITEMS,
    Begin,
    BulkItem,
    Items,
    Start,
    bulk_items,
    check_arguments,
    check_items,
    check_plan,
    item_to_reconcile,
    item_to_retry,
    label_of,
    labels_of,
    new_name,
    run_function,
)
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import BulkReport, Outcome
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.tasks.task import Task
from async_vmapi.vms import VirtualMachines, bound
from async_vmapi.writes.operations import GENERAL, OPERATIONS, operation_spec
from async_vmapi.writes.record import WriteContext

__all__ = ["Fleet", "Fleets", "Reconcile"]

Reconcile: TypeAlias = Callable[[str, frozenset[str]], Awaitable[Task[VirtualMachine | None]]]


@attrs.frozen(kw_only=True)
class Fleet:
    """What a bulk call has to do.

    Attributes:
        operation: The operation's name.
        arguments: Its arguments.
        items: The items to start.
        total: The number of items, for percentages; None if unknown.
        done: Outcomes from an earlier call.
        complete: Whether the earlier call took all its items.
        members: All items, for ``spread_by`` and ``min_online``.
        uncertain: The VMs that an earlier call took down, or may have: a list may still show them
            online.
    """

    operation: str
    arguments: dict[str, Any]
    items: Iterator[BulkItem] | AsyncIterator[BulkItem]
    total: int | None
    done: tuple[Outcome, ...] = ()
    complete: bool = True
    members: tuple[Member, ...] = ()
    uncertain: frozenset[str] = frozenset()


class Fleets:
    """Checks what is passed to a bulk call, and returns what it has to do.

    Args:
        vms: Sends the requests.
        plan: The plan.
        origin: The client's endpoint.
        reconcile: Reconciles a token, given the ids of VMs that cannot be its result.
    """

    def __init__(
        self, vms: VirtualMachines, plan: BulkPlan, origin: str, reconcile: Reconcile
    ) -> None:
        self._vms = vms
        self._plan = plan
        self._origin = origin
        self._reconcile = reconcile

    def new(self, items: Items[Any], start: str | Start, keywords: dict[str, Any]) -> Fleet:
        """Return the work of a new call.

        Raises:
            InvalidArgument: If an argument is wrong.
        """
        operation, begin = self._starter(start, keywords)
        check_items(items)
        plan, given = self._plan, items
        if isinstance(given, Collection):
            # A copy: the caller may modify its list meanwhile.
            given = tuple(given)
        elif plan.spread_by is not None or self.keeps_online(operation):
            name = "spread_by" if plan.spread_by else "min_online"
            if isinstance(given, AsyncIterable):
                raise InvalidArgument(f"{name} takes a list of items", argument="items")
            given = tuple(given)
        total = len(given) if isinstance(given, Sized) else None
        if total is None and any(isinstance(wave, str) for wave in plan.waves or ()):
            raise InvalidArgument(
                "percentage waves need items with a length, such as a list", argument="waves"
            )
        if total is None and plan.soak and plan.waves is None:
            raise InvalidArgument(
                "soak needs waves, or items with a length, such as a list", argument="soak"
            )
        labels = labels_of(operation, given) if isinstance(given, tuple) else []
        if operation == "rename":
            for label in labels:
                new_name(keywords["names"], label)
        members: list[Member] = []
        if isinstance(given, tuple) and (plan.spread_by or self.keeps_online(operation)):
            sources: tuple[Any, ...] = given
            members = [self._member(operation, n, source) for n, source in enumerate(sources)]
        return Fleet(
            operation=operation,
            arguments=keywords,
            items=bulk_items(operation, given, begin),
            total=total,
            members=tuple(members),
        )

    def _member(self, operation: str, index: int, source: Any) -> Member:
        if operation != GENERAL:
            return Member(index, label_of(operation, source), source)
        if isinstance(source, VirtualMachine):
            return Member(index, source.id, source)
        raise InvalidArgument(
            "spread_by needs VMs as items: those of a function may be anything", argument="items"
        )

    def keeps_online(self, operation: str) -> bool:
        """Return whether ``min_online`` applies."""
        return self._plan.min_online is not None and operation_spec(operation).lowers

    def _starter(self, start: str | Start, keywords: dict[str, Any]) -> tuple[str, Begin]:
        if callable(start):
            if keywords:
                raise InvalidArgument(
                    "a function gets only the item: bind other arguments by functools.partial",
                    argument=min(keywords),
                )
            check_plan(self._plan, GENERAL)
            return GENERAL, partial(run_function, start)
        if start not in OPERATIONS:
            raise validation.refuse("start", start, f"a function, or one of {sorted(OPERATIONS)}")
        check_arguments(start, keywords)
        check_plan(self._plan, start)
        return start, partial(self._begin, start, OPERATIONS[start].bulk_defaults | keywords)

    async def _begin(
        self, operation: str, keywords: dict[str, Any], item: Any, context: WriteContext
    ) -> Any:
        if operation == "rename":
            keywords = {"name": new_name(keywords["names"], item)}
        method: Start = getattr(bound(self._vms, context), operation)
        return await method(item, **keywords)

    def rest(self, report: BulkReport, items: Sequence[Any] | None, start: Start | None) -> Fleet:
        """Return what is left of a reported call.

        Raises:
            InvalidArgument: If an argument is missing or does not match the report.
        """
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
        if operation == GENERAL and not callable(start):
            raise InvalidArgument("report is of a function: pass it as start", argument="start")
        _, begin = self._starter(
            start if operation == GENERAL and callable(start) else operation, keywords
        )
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
        return Fleet(
            operation=operation,
            arguments=keywords,
            items=iter(rest),
            total=len(report.outcomes),
            done=tuple(done),
            complete=report.complete,
            members=tuple(_member_of(outcome, items) for outcome in report.outcomes),
            uncertain=frozenset(
                outcome.vm_id or ""
                for outcome in report.outcomes
                if outcome.status == "unknown"
                or (outcome.status == "succeeded" and operation_spec(operation).stays_down)
                # Its operation was carried out, and a list may show an unhealthy VM online.
                or (outcome.status == "failed" and outcome.explanation is not None)
            ),
        )


def _member_of(outcome: Outcome, items: Sequence[Any] | None) -> Member:
    index = outcome.index
    source = outcome.source if items is None or index >= len(items) else items[index]
    return Member(index, outcome.vm_id or outcome.item, source, outcome.domain)


def _is_watched(operation: str, outcome: Outcome) -> bool:
    """Return whether an unknown outcome is reconciled instead of started again."""
    if operation == GENERAL:
        # The token of one write says nothing about the function's other writes.
        return outcome.accepted
    return outcome.accepted or not operation_spec(operation).idempotent
