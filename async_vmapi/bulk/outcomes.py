"""What became of one item, from how its operation ended or where it was cut off."""

from typing import Any, Final

import attrs

from async_vmapi.bulk.item import GENERAL, BulkItem
from async_vmapi.bulk.report import Outcome, Status
from async_vmapi.errors import OutcomeUnknown, TaskError, TaskFailed, VMAPIError, VMVanished
from async_vmapi.models import ONLINE, VirtualMachine
from async_vmapi.tasks.task import Task
from async_vmapi.writes.record import Write

__all__ = ["INTERRUPTED", "Ended", "cut_off", "failed", "outcome", "succeeded"]

INTERRUPTED: Final = "it was interrupted"


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


def outcome(job: BulkItem, status: Status, **known: Any) -> Outcome:
    """Return an item's outcome; what was known before stays known if nothing new is."""
    before = job.before
    told_nothing = status == "not_started" or (status != "succeeded" and not known.get("token"))
    if before is not None and told_nothing:
        return attrs.evolve(before, reason=known.get("reason") or before.reason)
    known = {"vm_id": job.vm_id} | known
    return Outcome(index=job.index, item=job.item, status=status, source=job.source, **known)


def succeeded(
    job: BulkItem, task: Task[Any] | None, value: Any, *, seconds: float, wave: int
) -> Ended:
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
        reason="it was gone already" if task and task.was_missing else "",
        value=value,
    )
    return Ended(found, online=isinstance(value, VirtualMachine) and value.state == ONLINE)


def failed(
    job: BulkItem,
    task: Task[Any] | None,
    error: Exception,
    *,
    wave: int,
    write: Write | None = None,
) -> Ended:
    """Return how an item ended with an error.

    Args:
        job: The item.
        task: Its task; None if there was none to be watched.
        error: The error.
        wave: In which wave it was.
        write: The item's write, if the error need not tell all of it.
    """
    token = None
    if task is not None:
        # It was accepted: what is not seen to have failed may yet end well.
        unknown = not isinstance(error, TaskFailed | VMVanished)
        token = task.token()
    else:
        unknown = isinstance(error, VMAPIError) and error.may_have_happened
        # The last attempt may have been refused, and one before it carried out.
        if write is not None and (write.outcome_unknown or write.accepted):
            unknown, token = True, write.resume_token()
    if isinstance(error, OutcomeUnknown | TaskError):
        token = error.token or token
    found = outcome(
        job,
        "unknown" if unknown else "failed",
        wave=wave,
        vm_id=task.vm_id if task else job.vm_id or (write.made if write else None),
        adopted=bool(task and task.adopted),
        accepted=unknown and task is not None,
        token=token if unknown or task else None,
        # What others say may hold anything, secrets among it.
        reason=str(error) if isinstance(error, VMAPIError) else "it raised an error of its own",
        error=type(error).__name__,
        exception=_light(error),
    )
    return Ended(found, untouched=task is None and not unknown)


def cut_off(
    operation: str,
    job: BulkItem,
    task: Task[Any] | None,
    write: Write | None,
    *,
    wave: int,
    running: bool,
    seconds: float,
    why: str,
) -> Ended:
    """Return what is known of an operation that nobody waits for any more.

    Args:
        operation: Which.
        job: The item.
        task: Its task, if the API's answer came back.
        write: Its last write, if it made one.
        wave: In which wave it was.
        running: Whether it had begun.
        seconds: How long it had taken.
        why: Why nobody waits.
    """
    general = operation == GENERAL
    if task is None and write is not None and write.accepted and not general:
        task = write.task
        if task is None:
            # A rename has no end to be watched.
            return succeeded(job, None, None, seconds=seconds, wave=wave)
    if task is not None and task.done():
        try:
            return succeeded(job, task, task.result(), seconds=seconds, wave=wave)
        except VMAPIError as ended_badly:
            return failed(job, task, ended_badly, wave=wave)
    known: dict[str, Any] = {"wave": wave}
    if task is not None:
        known |= {"vm_id": task.vm_id, "token": task.token(), "adopted": task.adopted}
        known |= {"accepted": True}
        reason = f"it was accepted, and {why} before its end was seen"
    elif write is not None and not general and (error := write.error) is not None:
        return failed(job, None, error, wave=wave, write=write)
    elif write is not None and (write.outcome_unknown or (general and write.accepted)):
        known |= {"token": write.resume_token(), "vm_id": job.vm_id or write.made}
        how = "accepted" if write.accepted else "sent, and no answer told whether it was accepted"
        reason = f"{why}; its {write.operation} was {how}"
    elif general and running:
        reason = f"{why} in the midst of it"
    else:
        return Ended(outcome(job, "not_started", wave=wave, reason=why), untouched=True)
    return Ended(outcome(job, "unknown", reason=reason, **known))


def _light(error: Exception) -> Exception:
    """Return our own error without its traceback: that would keep alive all that it went through.

    Thousands of them are kept in a report, and they say what is to be known without it.
    """
    at: BaseException | None = error
    while isinstance(at, VMAPIError):
        at.__traceback__ = None
        at.__context__, at = None, at.__cause__
    return error
