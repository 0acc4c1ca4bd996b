"""The stored form of a durable job: its spec, items and events, without secrets. Pure."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import attrs
import msgspec

from async_vmapi import validation
from async_vmapi.bulk.item import check_arguments, check_plan, labels_of
from async_vmapi.bulk.plan import BulkEvent, BulkPlan
from async_vmapi.durable.rows import UntrustedData
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.create import CreateRequest
from async_vmapi.models.serialization import Document, structure, unstructure
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.writes.operations import OPERATIONS, operation_spec

__all__ = [
    "STREAM",
    "EventReader",
    "Order",
    "Spec",
    "decode",
    "encode",
    "same_but_items",
    "spec_of",
]

T = TypeVar("T")

STREAM: Final = "events"
"""The name of a job's stream of events."""

_FORMAT: Final = "async_vmapi durable job 1"


@attrs.frozen
class Spec(Document):
    """A job's operation, arguments, plan and items.

    Attributes:
        items: The VMs' ids, or the requests of a create.
    """

    format: str
    operation: str
    arguments: dict[str, Any]
    plan: BulkPlan
    items: list[str | CreateRequest]

    @property
    def labels(self) -> list[str]:
        """The items' labels in a report."""
        return [_label_of(item) for item in self.items]

    @property
    def keeps_online(self) -> bool:
        """Whether ``min_online`` applies."""
        lowers = operation_spec(self.operation).lowers and not self.plan.dry_run
        return self.plan.min_online is not None and lowers

    def order(self, job: str, index: int) -> "Order":
        """Return the order for one item."""
        item, keywords = self.items[index], self.arguments
        if isinstance(item, str) and self.operation == "rename":
            keywords = {"name": self.arguments["names"][item]}
        plan = BulkPlan(check=self.plan.check, check_timeout=self.plan.check_timeout)
        return Order(job, index, self.operation, keywords, item, plan)


@attrs.frozen
class Order(Document):
    """The operation on one item of a job.

    Attributes:
        plan: What the job's plan says about one item: its check.
    """

    job: str
    index: int
    operation: str
    arguments: dict[str, Any]
    item: str | CreateRequest
    plan: BulkPlan = attrs.field(factory=BulkPlan)

    @property
    def label(self) -> str:
        """The item's label in a report."""
        return _label_of(self.item)


def _label_of(item: str | CreateRequest) -> str:
    return item if isinstance(item, str) else item.name


def encode(value: Document | Sequence[Document]) -> str:
    """Return a value's canonical text: equal values have equal texts."""
    return msgspec.json.encode(unstructure(value), order="sorted").decode()


def decode(text: object, kind: type[T]) -> T:
    """Return the value of a text from `encode`.

    Raises:
        UntrustedData: If it is not one.
    """
    try:
        return structure(msgspec.json.decode(str(text)), kind)
    except (msgspec.DecodeError, RecursionError, InvalidArgument) as error:
        raise UntrustedData(f"a stored {kind.__name__} cannot be decoded: {error}") from None


def same_but_items(one: Spec, other: Spec) -> bool:
    """Return whether two jobs are the same except for their items."""

    def rest(spec: Spec) -> Spec:
        # A rename's new names belong to its items.
        keywords = {name: value for name, value in spec.arguments.items() if name != "names"}
        return attrs.evolve(spec, arguments=keywords, items=[])

    return encode(rest(one)) == encode(rest(other))


def spec_of(
    operation: object, items: Sequence[Any], keywords: Mapping[str, Any], plan: BulkPlan
) -> Spec:
    """Return the checked spec of a job.

    Raises:
        InvalidArgument: If an argument is wrong, cannot be stored, or is a plain secret.
    """
    if not isinstance(operation, str) or operation not in OPERATIONS:
        known = ", ".join(sorted(OPERATIONS))
        raise InvalidArgument(
            f"a durable job does one of {known}: a function cannot be stored", argument="start"
        )
    if plan.on_event is not None:
        raise InvalidArgument(
            "on_event cannot be stored: iterate over the job's events()", argument="on_event"
        )
    if plan.check is not None and plan.check.has_functions:
        raise InvalidArgument(
            "check holds a function, which cannot be stored: use conditions like Ready.ssh()",
            argument="check",
        )
    given = dict(keywords)
    check_arguments(operation, given)
    check_plan(plan, operation)
    labels = labels_of(operation, items)
    if len(set(labels)) < len(labels):
        duplicate = next(label for label, count in Counter(labels).items() if count > 1)
        raise InvalidArgument(
            f"{duplicate!r} is a duplicate: give each request a name of its own, by which workers "
            "can identify its VM if an outcome is unknown",
            argument="items",
        )
    if operation == "rename":
        given["names"] = dict(given["names"])
    return Spec(_FORMAT, operation, given, plan, [_stored(item) for item in items])


def _stored(item: Any) -> str | CreateRequest:
    if isinstance(item, CreateRequest):
        try:
            item.boot.to_dict()
        except InvalidArgument as error:
            raise InvalidArgument(f"{item.name!r}: {error}", argument=error.argument) from None
        return item
    return item.id if isinstance(item, VirtualMachine) else validation.identifier("vm", item)


class EventReader:
    """Reads serialized events, without duplicates.

    A worker that resumes a job repeats it from the start, and writes its events again.
    """

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def read(self, text: str) -> Iterator[BulkEvent]:
        """Iterate over the new events in a text."""
        for event in decode(text, list[BulkEvent]):
            key: Hashable = (event.kind, event.index)
            if event.kind in ("soaking", "held"):
                key = (event.kind, event.wave)
            elif event.kind == "paused":
                key = (event.kind, event.done.get("failed", 0) + event.done.get("unknown", 0))
            if key not in self._seen:
                self._seen.add(key)
                yield event
