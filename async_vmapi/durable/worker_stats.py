"""What a worker has in hand and has done, to be shown while it works."""

import asyncio
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import attrs

from async_vmapi.bulk.report import Status
from async_vmapi.durable.operation import Operation
from async_vmapi.durable.spec import Order

__all__ = ["WorkerItem", "WorkerStats", "WorkerStatus"]


@attrs.frozen(kw_only=True)
class WorkerItem:
    """An item that a worker has in hand.

    Attributes:
        job: The job's name.
        operation: Which, for instance ``"shutdown"``.
        item: On what: a machine's id, or the name of one to be created.
        vm_id: The machine's id, where it is known.
        seconds: For how long this worker has had it.
        accepted: Whether this worker knows that the API accepted the request.
        state: As what this worker last saw the machine; None if it has not seen it yet.
    """

    job: str
    operation: str
    item: str
    vm_id: str | None
    seconds: float
    accepted: bool
    state: str | None


@attrs.frozen(kw_only=True)
class WorkerStatus:
    """What a worker is doing now, and has done.

    Attributes:
        in_flight: What it has in hand, the longest first.
        done: For each job how many items ended here, by what became of them.
    """

    in_flight: tuple[WorkerItem, ...]
    done: Mapping[str, Mapping[Status, int]]


class WorkerStats:
    """Keeps what the operations of this process's worker tell of themselves."""

    def __init__(self) -> None:
        self._in_hand: dict[Operation, tuple[Order, float]] = {}
        self._done: dict[str, Counter[Status]] = {}

    @contextmanager
    def holding(self, order: Order, operation: Operation) -> Generator[None]:
        """Have an item in hand."""
        self._in_hand[operation] = (order, asyncio.get_running_loop().time())
        try:
            yield
        finally:
            del self._in_hand[operation]

    def ended(self, job: str, status: Status) -> None:
        """Note that an item has ended here."""
        self._done.setdefault(job, Counter())[status] += 1

    def status(self) -> WorkerStatus:
        """Return how it is now."""
        now = asyncio.get_running_loop().time()
        return WorkerStatus(
            in_flight=tuple(
                _item(order, operation, now - began)
                for operation, (order, began) in self._in_hand.items()
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
