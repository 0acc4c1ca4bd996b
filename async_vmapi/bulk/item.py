"""The items of a bulk call: check the arguments, and create a `BulkItem` for each item given."""

from collections import Counter
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import attrs

from async_vmapi import validation
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Outcome
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.writes.operations import GENERAL, OPERATIONS, operation_spec
from async_vmapi.writes.record import FUNCTION, WriteContext

__all__ = [
    "SAME_ITEMS",
    "Begin",
    "BulkItem",
    "Items",
    "Source",
    "Start",
    "bulk_item",
    "bulk_items",
    "check_arguments",
    "check_items",
    "check_plan",
    "item_to_reconcile",
    "item_to_retry",
    "label_of",
    "labels_of",
    "new_name",
    "run_function",
]

T = TypeVar("T")

SAME_ITEMS: Final = "the items of the reported call, in the same order"

Items: TypeAlias = Iterable[T] | AsyncIterable[T]
"""An iterable or async iterable."""

Start: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Starts an operation on an item, and returns a `Task` or a plain result."""

Begin: TypeAlias = Callable[[Any, WriteContext], Awaitable[Any]]
"""The same, with the context for its writes."""


@attrs.frozen
class BulkItem:
    """One item, and how to start it.

    Attributes:
        index: The item's number, from 0.
        label: The VM's id, the name of a VM to create, or the index for a caller's function.
        begin: Starts the operation on `source`, with a context for its writes.
        vm_id: The VM's id, if known.
        source: The item as given.
        before: The outcome of an earlier call that left it unknown.
        watched: Whether that call sent the request, so that it is reconciled and watched now.
        begun: Whether an earlier process started the item; then only its result is awaited, and
            nothing holds it back.
        domain: Its failure domain; empty without ``spread_by``.
    """

    index: int
    label: str
    # Shared by all items, which take less memory than one function for each.
    begin: Begin
    vm_id: str | None = None
    source: Any = None
    before: Outcome | None = None
    watched: bool = False
    begun: bool = False
    domain: str = ""


class Source:
    """The items of a bulk call, taken one by one.

    Args:
        items: The items.

    Attributes:
        waiting: Whether the next item is awaited.
        exhausted: Whether all items were taken.
    """

    def __init__(self, items: Iterator[BulkItem] | AsyncIterator[BulkItem]) -> None:
        self._items = items
        self._current: BulkItem | None = None
        self.waiting = False
        self.exhausted = False

    async def take(self) -> BulkItem | None:
        """Return the next item; None after the last."""
        if isinstance(self._items, Iterator):
            self._current = next(self._items, None)
        else:
            self.waiting = True
            try:
                self._current = await anext(self._items, None)
            finally:
                self.waiting = False
        self.exhausted = self._current is None
        return self._current

    def used(self) -> None:
        """Note that the item taken last has started, or was reported."""
        self._current = None

    def rest(self, *, known: bool) -> Iterator[BulkItem]:
        """Iterate over the items that were not used.

        Args:
            known: Whether their number is known; otherwise, none but the current one is taken.
        """
        if self._current is not None:
            yield self._current
        if known and isinstance(self._items, Iterator):
            yield from self._items
            self.exhausted = True

    def sort(self, domains: Mapping[int, str], order: Sequence[int]) -> None:
        """Take the items in an order of their numbers, each with its failure domain."""
        items = {item.index: item for item in cast("Iterator[BulkItem]", self._items)}
        self._items = (
            attrs.evolve(items[index], domain=domains[index]) for index in order if index in items
        )


def check_arguments(operation: str, keywords: dict[str, Any]) -> None:
    """Check an operation's arguments, which apply to all items.

    Raises:
        InvalidArgument: If one of them is wrong, unknown or missing.
    """
    spec = OPERATIONS[operation]
    known = spec.arguments
    if unknown := [name for name in keywords if name not in known]:
        raise InvalidArgument(
            f"{operation} has no argument {validation.unknown(unknown, known)}",
            argument=unknown[0],
        )
    for name in sorted(spec.required - keywords.keys()):
        raise InvalidArgument(f"{operation} needs {name}", argument=name)
    for name, value in keywords.items():
        known[name](name, value)
    if keywords.get("on_unknown") == "retry" and not keywords.get("unique_name"):
        raise InvalidArgument("on_unknown='retry' needs unique_name=True", argument="on_unknown")


def check_plan(plan: BulkPlan, operation: str) -> None:
    """Check that a plan fits an operation.

    Raises:
        InvalidArgument: If not.
    """
    if plan.min_online is not None and operation == GENERAL:
        raise InvalidArgument(
            "min_online needs an operation given by its name: the effects of a function are "
            "unknown",
            argument="min_online",
        )
    for name, given in (("check", plan.check is not None), ("soak", plan.soak > 0)):
        if given and operation_spec(operation).stays_down:
            raise InvalidArgument(
                f"{name} needs VMs that are online afterwards, and {operation} takes them offline",
                argument=name,
            )
    if plan.spread_by == "group" and operation == "create":
        raise InvalidArgument(
            "spread_by='group' needs VMs that exist: a create has no group, but a zone",
            argument="spread_by",
        )


def check_items(items: Any) -> None:
    """Check that items can be iterated over, and are not a single text.

    Raises:
        InvalidArgument: If not.
    """
    iterable = isinstance(items, Iterable | AsyncIterable)
    fits = iterable and not isinstance(items, str | bytes | Mapping)
    if not fits:
        allowed = "an iterable of VMs, ids or requests, such as [vm]"
        raise validation.refuse("items", cast(object, items), allowed)


def label_of(operation: str, item: Any) -> str:
    """Return the label of an item in a report: a VM's id, or the name of a VM to create.

    Raises:
        InvalidArgument: If the item is not what the operation takes.
    """
    if operation == "create":
        if not isinstance(item, CreateRequest):
            raise validation.refuse("item", item, "a CreateRequest")
        return item.name
    return validation.identifier("vm", item.id if isinstance(item, VirtualMachine) else item)


def labels_of(operation: str, items: Sequence[Any]) -> list[str]:
    """Check a sequence of items, and return their labels.

    Raises:
        InvalidArgument: If an item is not what the operation takes, or is a duplicate.
    """
    if operation == GENERAL:
        return []
    labels = [label_of(operation, item) for item in items]
    if operation != "create" and len(set(labels)) < len(labels):
        duplicate = next(label for label, count in Counter(labels).items() if count > 1)
        raise InvalidArgument(f"{duplicate} is a duplicate: pass each VM once", argument="items")
    return labels


def new_name(names: Mapping[str, str], vm: Any) -> str:
    """Return the new name of a VM.

    Raises:
        InvalidArgument: If it has none.
    """
    label = label_of("rename", vm)
    if label in names:
        return names[label]
    raise InvalidArgument(
        f"names has none for {label}: add its new name, or leave the VM out", argument="names"
    )


def bulk_item(operation: str, index: int, source: Any, begin: Begin) -> BulkItem:
    """Return the `BulkItem` of an item as given; an invalid one fails when it starts."""
    if operation == GENERAL:
        return BulkItem(index, str(index), begin, source=source)
    try:
        label = label_of(operation, source)
    except InvalidArgument as error:
        # Taken from an iterable while other items are in progress.
        return BulkItem(index, str(index), partial(_raise, error), source=source)
    vm_id = None if operation == "create" else label
    return BulkItem(index, label, begin, vm_id, source)


def item_to_reconcile(outcome: Outcome, reconcile: Callable[[], Awaitable[Any]]) -> BulkItem:
    """Return the item that reconciles an outcome which an earlier call left unknown."""
    return BulkItem(
        outcome.index,
        outcome.item,
        lambda _, __: reconcile(),
        outcome.vm_id,
        outcome.source,
        before=outcome,
        watched=True,
    )


async def _raise(error: Exception, *_: object) -> None:
    raise error


async def run_function(function: Start, item: Any, context: WriteContext) -> Any:
    """Run a caller's own function on an item, and record its writes."""
    FUNCTION.set(context)
    return await function(item)


def bulk_items(
    operation: str, items: Items[Any], begin: Begin
) -> Iterator[BulkItem] | AsyncIterator[BulkItem]:
    """Iterate lazily over the `BulkItem` of each item given."""
    if isinstance(items, AsyncIterable):
        return _async_bulk_items(operation, items, begin)
    return (bulk_item(operation, index, source, begin) for index, source in enumerate(items))


async def _async_bulk_items(
    operation: str, items: AsyncIterable[Any], begin: Begin
) -> AsyncIterator[BulkItem]:
    index = 0
    async for source in items:
        yield bulk_item(operation, index, source, begin)
        index += 1


def item_to_retry(
    operation: str, outcome: Outcome, items: Sequence[Any] | None, begin: Begin
) -> BulkItem:
    """Return the item of an earlier outcome, for another attempt.

    Raises:
        InvalidArgument: If the item as given is missing, or does not match the outcome.
    """
    item = bulk_item(operation, outcome.index, _source_of(operation, outcome, items), begin)
    if item.label != outcome.item:
        raise InvalidArgument(
            f"items[{outcome.index}] is {item.label}, but {outcome.item} in the report: pass "
            f"{SAME_ITEMS}",
            argument="items",
        )
    return attrs.evolve(item, before=outcome if outcome.status == "unknown" else None)


def _source_of(operation: str, outcome: Outcome, items: Sequence[Any] | None) -> Any:
    if items is not None:
        if outcome.index < len(items):
            return items[outcome.index]
        raise InvalidArgument(
            f"items has no number {outcome.index}: pass {SAME_ITEMS}", argument="items"
        )
    if outcome.source is not None:
        return outcome.source
    if operation in (GENERAL, "create") or outcome.vm_id is None:
        raise InvalidArgument(
            f"a report read from JSON has no items of {operation}: pass {SAME_ITEMS}",
            argument="items",
        )
    return outcome.vm_id
