"""Create an item's `Outcome` from its operation's result or error."""

from typing import Any, Final

import attrs

from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.errors import OutcomeUnknown, TaskError, TaskFailed, VMAPIError, VMVanished
from async_vmapi.models.serialization import Document
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.tasks.task import Task
from async_vmapi.writes.record import Write

__all__ = ["GONE", "INTERRUPTED", "Ended", "failed", "light", "outcome", "succeeded"]

GONE: Final = "it was gone already"
INTERRUPTED: Final = "it was interrupted"


@attrs.frozen
class Ended(Document):
    """The result of an item.

    Attributes:
        outcome: The item's outcome.
        online: Whether its VM was last seen online.
        untouched: Whether it is certain that nothing was done to it.
        final: Whether an earlier rollout has reported this outcome, so that the VM does not soak.
    """

    outcome: Outcome
    online: bool = False
    untouched: bool = False
    final: bool = False


def outcome(item: BulkItem, status: Status, **known: Any) -> Outcome:
    """Return an item's outcome; it keeps an earlier call's outcome if there is nothing new."""
    before = item.before
    nothing_new = status == "not_started" or (status != "succeeded" and not known.get("token"))
    if before is not None and nothing_new:
        return attrs.evolve(before, reason=known.get("reason") or before.reason)
    known = {"vm_id": item.vm_id, "domain": item.domain} | known
    return Outcome(index=item.index, item=item.label, status=status, source=item.source, **known)


def succeeded(
    item: BulkItem, task: Task[Any] | None, value: Any, *, seconds: float, wave: int
) -> Ended:
    """Return the result of an item that succeeded.

    Args:
        item: The item.
        task: Its task; None if it had none.
        value: What the task returned.
        seconds: The duration.
        wave: The number of its wave.
    """
    found = outcome(
        item,
        "succeeded",
        wave=wave,
        vm_id=task.vm_id if task else item.vm_id or _id_of(value),
        seconds=round(seconds, 3),
        evidence=task.evidence.value if task and task.evidence else None,
        adopted=bool(task and task.adopted),
        reason=GONE if task and task.was_missing else "",
        explanation=task.explain() if task else None,
        value=value,
    )
    return Ended(found, online=isinstance(value, VirtualMachine) and value.state == ONLINE)


def _id_of(value: object) -> str | None:
    return value.id if isinstance(value, VirtualMachine) else None


def failed(
    item: BulkItem,
    task: Task[Any] | None,
    error: Exception,
    *,
    wave: int,
    write: Write | None = None,
) -> Ended:
    """Return the result of an item that ended with an error.

    Args:
        item: The item.
        task: Its task; None if it had none.
        error: The error.
        wave: The number of its wave.
        write: The item's write, if the error may not cover all its attempts.
    """
    token = None
    if task is not None:
        # It was accepted: unless it was seen to fail, it may still succeed.
        unknown = not isinstance(error, TaskFailed | VMVanished)
        token = task.token()
    else:
        unknown = isinstance(error, VMAPIError) and error.may_have_happened
        # The last attempt may have been refused after an earlier one was carried out.
        if write is not None and (write.outcome_unknown or write.accepted):
            unknown, token = True, write.resume_token()
    if isinstance(error, OutcomeUnknown | TaskError):
        token = error.token or token
    found = outcome(
        item,
        "unknown" if unknown else "failed",
        wave=wave,
        vm_id=task.vm_id if task else item.vm_id or (write.made if write else None),
        adopted=bool(task and task.adopted),
        accepted=unknown and task is not None,
        token=token if unknown or task else None,
        # The text of other exceptions may contain secrets.
        reason=str(error) if isinstance(error, VMAPIError) else "it raised an exception",
        error=type(error).__name__,
        explanation=task.explain() if task else None,
        exception=light(error),
    )
    return Ended(found, untouched=task is None and not unknown)


def light(error: Exception) -> Exception:
    """Remove the traceback of this package's errors, which would keep all its frames in memory.

    A report may hold thousands of errors, and their text suffices.
    """
    at: BaseException | None = error
    while isinstance(at, VMAPIError):
        at.__traceback__ = None
        at.__context__, at = None, at.__cause__
    return error
