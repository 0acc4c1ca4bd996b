"""One item of a bulk call in progress: it sends the request, and awaits the task."""

import asyncio
from typing import Any, Protocol

import attrs

from async_vmapi.bulk import outcomes
from async_vmapi.bulk.health import unchecked
from async_vmapi.bulk.item import BulkItem
from async_vmapi.bulk.outcomes import Ended
from async_vmapi.errors import VMAPIError
from async_vmapi.tasks.task import Task
from async_vmapi.writes.operations import GENERAL
from async_vmapi.writes.record import WriteContext, is_task

__all__ = ["Work"]


class Host(Protocol):
    """The rollout, as an item needs it."""

    def started(self, work: "Work") -> None:
        """Note that the item's worker runs."""
        ...

    def accepted(self, work: "Work") -> None:
        """Note that the item has a task; cancel the caller if completion is not awaited."""
        ...

    async def checked(self, ended: Ended) -> Ended:
        """Return how an item ended, once its VM has passed the plan's check or has failed it."""
        ...

    def why_cut_off(self) -> str:
        """Return why an item is cancelled."""
        ...


@attrs.define(eq=False)
class Work:
    """An item in progress.

    Attributes:
        operation: The operation's name.
        item: The item.
        wave: The number of its wave, from 1.
        began: The loop's time when it started.
        was_online: Whether the VM was online then, for ``min_online``.
        running: Whether its worker runs.
        unaccepted: The timer that is set while the item counts as not accepted yet.
        task: The accepted operation.
        context: Records the writes that the item makes.
        complete: How the operation ended, while its VM is checked.
    """

    operation: str
    item: BulkItem
    wave: int
    began: float
    was_online: bool
    running: bool = False
    unaccepted: asyncio.TimerHandle | None = None
    task: Task[Any] | None = None
    context: WriteContext = attrs.field(factory=WriteContext)
    complete: Ended | None = None

    async def run(self, rollout: Host) -> Ended:
        """Run the operation to completion."""
        self.running = True
        rollout.started(self)
        item = self.item
        try:
            started = await item.begin(item.source, self.context)
            if is_task(started):
                self.task = started
                if self.operation != GENERAL:
                    # From now on, the task has all that is known.
                    self.context.last = None
                rollout.accepted(self)
                started = await started.wait()
            elif isinstance(started, Ended):
                return self._ended_remotely(started)
            self.complete = self._succeeded(self.task, started)
            return await rollout.checked(self.complete)
        except asyncio.CancelledError:
            return self.cut_off(rollout.why_cut_off())
        except Exception as error:  # noqa: BLE001 - whatever a caller's own function raises
            if self.complete is not None and isinstance(error, VMAPIError):
                return self._unchecked(self.complete, f"its check broke off: {error}", error)
            write = self.context.last
            if self.operation == GENERAL and write is not None and not write.left:
                # The function knows how this write ended; its own error decides.
                write = None
            return outcomes.failed(item, self.task, error, wave=self.wave, write=write)

    def cut_off(self, why: str) -> Ended:
        """Return what is known now, if the item is no longer awaited."""
        item, task, write = self.item, self.task, self.context.last
        general = self.operation == GENERAL
        if self.complete is not None:
            return self._unchecked(self.complete, f"{why} before its check passed")
        if task is None and write is not None and write.accepted and not general:
            task = write.task
            if task is None:
                # A rename is complete once it is accepted.
                return self._succeeded(None, None)
        if task is not None and task.done():
            try:
                return self._succeeded(task, task.result())
            except VMAPIError as ended_badly:
                return outcomes.failed(item, task, ended_badly, wave=self.wave)
        known: dict[str, Any] = {"wave": self.wave}
        if task is not None:
            known |= {"vm_id": task.vm_id, "token": task.token(), "adopted": task.adopted}
            known |= {"accepted": True}
            reason = f"it was accepted, and {why} before it was seen to complete"
            if task.operation == "wait_ready":
                reason = f"{why} before the VM was ready"
            if task.was_missing:
                reason = f"{outcomes.GONE}, and {why} before reads confirmed it"
            if task.missing:
                reason += f"; missing {', '.join(task.missing)}"
        elif write is not None and not general and (error := write.error) is not None:
            return outcomes.failed(item, None, error, wave=self.wave, write=write)
        elif write is not None and (write.outcome_unknown or (general and write.accepted)):
            known |= {"token": write.resume_token(), "vm_id": item.vm_id or write.made}
            how = (
                "accepted" if write.accepted else "sent, but it is unknown whether it was accepted"
            )
            reason = f"{why}; its {write.operation} was {how}"
        elif general and self.running:
            reason = f"{why} while it was running"
        else:
            ended = outcomes.outcome(item, "not_started", wave=self.wave, reason=why)
            return Ended(ended, untouched=True)
        return Ended(outcomes.outcome(item, "unknown", reason=reason, **known))

    def _unchecked(self, complete: Ended, why: str, error: Exception | None = None) -> Ended:
        token = None if self.task is None else self.task.token()
        return unchecked(complete, self.operation, why, token, error)

    def _ended_remotely(self, ended: Ended) -> Ended:
        item = self.item
        known = {"index": item.index, "item": item.label, "source": item.source}
        outcome = attrs.evolve(ended.outcome, wave=self.wave, domain=item.domain, **known)
        return attrs.evolve(ended, outcome=outcome)

    def _succeeded(self, task: Task[Any] | None, value: Any) -> Ended:
        seconds = asyncio.get_running_loop().time() - self.began
        return outcomes.succeeded(self.item, task, value, seconds=seconds, wave=self.wave)
