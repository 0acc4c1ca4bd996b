"""A worker's items in progress and finished, for its status."""

import asyncio
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import attrs

from async_vmapi.bulk.report import Status
from async_vmapi.durable.operation import Operation
from async_vmapi.durable.spec import Order
from async_vmapi.models.serialization import Serializable

__all__ = ["WorkerItem", "WorkerStats", "WorkerStatus"]


@attrs.frozen(kw_only=True)
class WorkerItem(Serializable):
    """An item in progress on a worker.

    Attributes:
        job: The job's name.
        operation: The operation, for instance ``"shutdown"``.
        item: The VM's id, or the name of a VM to create.
        vm_id: The VM's id, if known.
        seconds: How long this worker has had the item.
        accepted: Whether this worker knows that the API accepted the request.
        state: The VM's state as last seen by this worker; None if it has not seen the VM yet.
    """

    job: str
    operation: str
    item: str
    vm_id: str | None
    seconds: float
    accepted: bool
    state: str | None


@attrs.frozen(kw_only=True)
class WorkerStatus(Serializable):
    """The items of a worker.

    Attributes:
        in_flight: The items in progress, the longest-running first.
        done: For each job, the number of items that this worker finished, by status.
    """

    in_flight: tuple[WorkerItem, ...]
    done: Mapping[str, Mapping[Status, int]]


class WorkerStats:
    """Records the items of this process's worker."""

    def __init__(self) -> None:
        self._in_flight: dict[Operation, tuple[Order, float]] = {}
        self._done: dict[str, Counter[Status]] = {}

    @contextmanager
    def holding(self, order: Order, operation: Operation) -> Generator[None]:
        """Record an item as in progress."""
        self._in_flight[operation] = (order, asyncio.get_running_loop().time())
        try:
            yield
        finally:
            del self._in_flight[operation]

    def ended(self, job: str, status: Status) -> None:
        """Record that an item has ended on this worker."""
        self._done.setdefault(job, Counter())[status] += 1

    def status(self) -> WorkerStatus:
        """Return the current status."""
        now = asyncio.get_running_loop().time()
        return WorkerStatus(
            in_flight=tuple(
                _item(order, operation, now - began)
                for operation, (order, began) in self._in_flight.items()
            ),
            done={job: dict(counts) for job, counts in self._done.items()},
        )


def _item(order: Order, operation: Operation, seconds: float) -> WorkerItem:
    task = operation.task
    history = () if task is None else task.history
    return WorkerItem(
        job=order.job,
        operation=order.operation,
        item=order.label,
        vm_id=None if task is None else task.vm_id,
        seconds=seconds,
        accepted=task is not None,
        state=next((event.state for event in reversed(history) if event.state), None),
    )
