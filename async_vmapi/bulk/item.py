"""What a bulk call is to do to each item: checks of what is given, and a `BulkItem` for each."""

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
from async_vmapi.bulk.report import Outcome
from async_vmapi.errors import InvalidArgument
from async_vmapi.models import CreateRequest, VirtualMachine

__all__ = [
    "DEFAULTS",
    "GENERAL",
    "LOWERING",
    "OPERATIONS",
    "REPEATABLE",
    "STAYS_DOWN",
    "BulkItem",
    "Items",
    "Start",
    "check_arguments",
    "item_again",
    "job_again",
    "job_for",
    "jobs_for",
    "label_of",
    "labels_of",
]

T = TypeVar("T")

GENERAL: Final = "run"
"""The operation of a caller's own function, of which nobody knows what it does."""

STAYS_DOWN: Final = frozenset({"shutdown", "power_off", "delete"})
"""The operations that take a machine off ``online`` for good."""

LOWERING: Final = STAYS_DOWN | {"reboot", "reset", "resize"}
"""The operations that take a machine off ``online``, if only for a while."""

REPEATABLE: Final = STAYS_DOWN | {"resize", "power_on", "rename"}
"""The operations that name their target state: idempotent in effect (WIRE §5.5)."""

DEFAULTS: Final[dict[str, dict[str, Any]]] = {"delete": {"missing_ok": True}}
"""Arguments that have another default where an operation is for many VMs."""

Items: TypeAlias = Iterable[T] | AsyncIterable[T]
"""Anything to iterate over, with or without ``await``."""

Start: TypeAlias = Callable[[Any], Awaitable[Any]]
"""What begins an operation on an item, and returns a `Task` or a plain result."""


@attrs.frozen
class BulkItem:
    """One item, and how to start it.

    Attributes:
        before: What was known of it after an earlier call that left it unknown.
        watched: Whether it was sent then, and is looked for and watched now.
        begun: Whether it was started already, by a process that is gone; then it only is to be
            told of its end, and nothing holds it back.
    """

    index: int
    item: str
    start: Callable[[], Awaitable[Any]]
    vm_id: str | None = None
    source: Any = None
    before: Outcome | None = None
    watched: bool = False
    begun: bool = False


def check_arguments(operation: str, keywords: dict[str, Any]) -> None:
    """Check an operation's arguments, which are the same for all items.

    Raises:
        InvalidArgument: If one of them is wrong, unknown or missing.
    """
    known, needed = OPERATIONS[operation]
    for name in keywords:
        if name not in known:
            takes = ", ".join(sorted(known)) or "no arguments"
            raise InvalidArgument(f"{operation} takes {takes}, not {name}", argument=name)
    for name in sorted(needed - keywords.keys()):
        raise InvalidArgument(f"{operation} needs {name}", argument=name)
    for name, value in keywords.items():
        known[name](name, value)
    if keywords.get("on_unknown") == "retry" and not keywords.get("unique_name"):
        raise InvalidArgument("on_unknown='retry' takes unique_name=True", argument="on_unknown")


def label_of(operation: str, item: Any) -> str:
    """Return by what a report names an item: a machine's id, or the name of one to be created.

    Raises:
        InvalidArgument: If the item is not what the operation takes.
    """
    if operation == "create":
        if not isinstance(item, CreateRequest):
            raise validation.refuse("item", item, "a CreateRequest")
        return item.name
    return validation.identifier("vm", item.id if isinstance(item, VirtualMachine) else item)


def labels_of(operation: str, items: Sequence[Any]) -> list[str]:
    """Check items that are at hand, and return their labels.

    Raises:
        InvalidArgument: If one is not what the operation takes, or is there twice.
    """
    if operation == GENERAL:
        return []
    labels = [label_of(operation, item) for item in items]
    if operation != "create" and len(set(labels)) < len(labels):
        twice = next(label for label, count in Counter(labels).items() if count > 1)
        raise InvalidArgument(f"{twice} is among the items more than once", argument="items")
    return labels


def job_for(operation: str, index: int, item: Any, begin: Start) -> BulkItem:
    """Return what is to be done to an item; if it is a wrong one, to fail."""
    if operation == GENERAL:
        return BulkItem(index, str(index), partial(begin, item), source=item)
    try:
        label = label_of(operation, item)
    except InvalidArgument as error:
        # It was taken from an iterable, when others were under way already.
        return BulkItem(index, str(index), partial(_raise, error), source=item)
    vm_id = None if operation == "create" else label
    return BulkItem(index, label, partial(begin, item), vm_id, item)


def job_again(outcome: Outcome, reconcile: Callable[[], Awaitable[Any]]) -> BulkItem:
    """Return the job of looking for what an earlier call left unknown."""
    return BulkItem(
        outcome.index,
        outcome.item,
        reconcile,
        outcome.vm_id,
        outcome.source,
        before=outcome,
        watched=True,
    )


async def _raise(error: Exception) -> None:
    raise error


def jobs_for(
    operation: str, items: Items[Any], begin: Start
) -> Iterator[BulkItem] | AsyncIterator[BulkItem]:
    """Iterate over what is to be done to each item, as they are."""
    if isinstance(items, AsyncIterable):
        return _jobs_later(operation, items, begin)
    return (job_for(operation, index, item, begin) for index, item in enumerate(items))


async def _jobs_later(
    operation: str, items: AsyncIterable[Any], begin: Start
) -> AsyncIterator[BulkItem]:
    index = 0
    async for item in items:
        yield job_for(operation, index, item, begin)
        index += 1


def item_again(operation: str, outcome: Outcome, items: Sequence[Any] | None) -> Any:
    """Return the item of an earlier outcome, for another attempt.

    Raises:
        InvalidArgument: If it is not known any more, nor handed in.
    """
    if items is not None:
        if outcome.index < len(items):
            return items[outcome.index]
        raise InvalidArgument(f"items has no number {outcome.index}", argument="items")
    if outcome.source is not None:
        return outcome.source
    if operation in (GENERAL, "create") or outcome.vm_id is None:
        raise InvalidArgument(
            "a report read from JSON has no requests and no items: hand them in", argument="items"
        )
    return outcome.vm_id


def _wait_for(name: str, value: object) -> None:
    validation.whole(name, value, minimum=0)


def _size(name: str, value: object) -> None:
    validation.whole(name, value, minimum=1)


def _on_doubt(name: str, value: object) -> None:
    if value not in ("raise", "retry"):
        raise validation.refuse(name, value, "'raise' or 'retry'")


def _names(name: str, value: Mapping[Any, Any]) -> None:
    if not isinstance(value, Mapping):
        raise validation.refuse(name, cast(object, value), "a mapping of ids to new names")
    for vm_id, new in value.items():
        validation.identifier(name, vm_id)
        validation.text(f"{name}[{vm_id!r}]", new)


_Checks: TypeAlias = dict[str, Callable[[str, Any], object]]

OPERATIONS: Final[dict[str, tuple[_Checks, frozenset[str]]]] = {
    "create": ({"unique_name": validation.boolean, "on_unknown": _on_doubt}, frozenset()),
    "resize": (
        {"cores": _size, "ram": _size, "wait_for": _wait_for},
        frozenset({"cores", "ram"}),
    ),
    "shutdown": ({"wait_for": _wait_for}, frozenset()),
    "delete": (
        {"delete_resources": validation.boolean, "missing_ok": validation.boolean},
        frozenset(),
    ),
    "rename": ({"names": _names}, frozenset({"names"})),
    "reboot": ({}, frozenset()),
    "reset": ({}, frozenset()),
    "power_on": ({}, frozenset()),
    "power_off": ({}, frozenset()),
}
