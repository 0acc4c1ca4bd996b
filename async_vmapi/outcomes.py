"""What became of one item, from how its operation ended."""

from typing import Any

import attrs

from async_vmapi.errors import OutcomeUnknown, TaskError, TaskFailed, VMAPIError, VMVanished
from async_vmapi.jobs import Job
from async_vmapi.models import ONLINE, VirtualMachine
from async_vmapi.report import Outcome, Status
from async_vmapi.retries import may_have_happened
from async_vmapi.tasks import Task

__all__ = ["Ended", "failed", "outcome", "succeeded"]


@attrs.frozen
class Ended:
    """An operation's end.

    Attributes:
        outcome: What became of the item.
        online: Whether its machine was seen online at the end.
        untouched: Whether it is sure that nothing was done to it.
    """

    outcome: Outcome
    online: bool = False
    untouched: bool = False


def outcome(job: Job, status: Status, **known: Any) -> Outcome:
    """Return an item's outcome; what was known before stays known if nothing new is."""
    told_nothing = status == "not_started" or (status == "failed" and not known.get("token"))
    if job.before is not None and told_nothing:
        return attrs.evolve(job.before, reason=known.get("reason") or job.before.reason)
    known = {"vm_id": job.vm_id} | known
    return Outcome(index=job.index, item=job.item, status=status, source=job.source, **known)


def succeeded(job: Job, task: Task[Any] | None, value: Any, *, seconds: float, wave: int) -> Ended:
    """Return how an item ended well.

    Args:
        job: The item.
        task: Its task; None if there was none to be watched.
        value: What that returned.
        seconds: How long it took.
        wave: In which wave it was.
    """
    found = outcome(
        job,
        "succeeded",
        wave=wave,
        vm_id=task.vm_id if task else job.vm_id,
        seconds=round(seconds, 3),
        evidence=task.evidence.value if task and task.evidence else None,
        adopted=bool(task and task.adopted),
        value=value,
    )
    return Ended(found, online=isinstance(value, VirtualMachine) and value.state == ONLINE)


def failed(job: Job, task: Task[Any] | None, error: Exception, *, wave: int) -> Ended:
    """Return how an item ended with an error; see `succeeded` for the arguments."""
    if task is not None:
        # It was accepted: what is not seen to have failed may yet end well.
        unknown = not isinstance(error, TaskFailed | VMVanished)
    else:
        unknown = isinstance(error, OutcomeUnknown) or (
            isinstance(error, VMAPIError) and may_have_happened(error)
        )
    token = task.token() if task else None
    if isinstance(error, OutcomeUnknown | TaskError):
        token = error.token or token
    found = outcome(
        job,
        "unknown" if unknown else "failed",
        wave=wave,
        vm_id=task.vm_id if task else job.vm_id,
        adopted=bool(task and task.adopted),
        token=token,
        # What others say may hold anything, secrets among it.
        reason=str(error) if isinstance(error, VMAPIError) else "it raised an error of its own",
        error=type(error).__name__,
        exception=error,
    )
    return Ended(found, untouched=task is None and not unknown)
