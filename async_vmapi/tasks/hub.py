"""Wait for operations: all tasks of a client are awaited here.

The API has no events (WIRE §4), so waiting means polling, which the hub shares across all waiters.
Polling runs only while a task is awaited. It belongs to no waiter, so cancelling one waiter does
not affect the others.
"""

import asyncio
from functools import partial

from async_vmapi.errors import InvalidState, VMAPIError
from async_vmapi.tasks.changes import OwnChanges
from async_vmapi.tasks.completion import Completion, Evidence, still_online
from async_vmapi.tasks.pending import PendingTasks
from async_vmapi.tasks.poller import Poller
from async_vmapi.tasks.polls import Polls
from async_vmapi.tasks.readiness import Readiness
from async_vmapi.tasks.rules import DEFAULT_RULES, Rules, Target
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.vm_list import VMListSource
from async_vmapi.tasks.watch import Waiter, Watch
from async_vmapi.telemetry.hooks import Observer
from async_vmapi.transport.pipeline import Pipeline

__all__ = ["PollHub"]


class PollHub:
    """Polls for all tasks of a client.

    Args:
        pipeline: Sends the requests.
        vm_lists: Sends the lists.
        schedule: The intervals.
        max_staleness: Maximum age of a read, in seconds.
        rules: The rules of completion.

    Attributes:
        changes: The VMs that this client changed.
        pending: The tasks that were returned and are not complete.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        vm_lists: VMListSource,
        schedule: Schedule,
        *,
        max_staleness: float,
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        self._pipeline = pipeline
        self._vm_lists = vm_lists
        self._max_staleness = max_staleness
        self._schedule = schedule
        self._rules = rules
        self.changes = OwnChanges(max_staleness, rules.assume.appears_within)
        self._poller: Poller | None = None
        self.pending = PendingTasks()

    @property
    def origin(self) -> str:
        """The endpoint."""
        return self._pipeline.origin

    @property
    def min_interval(self) -> float:
        """Minimum seconds between two polls of the same VM."""
        return self._schedule.min_interval

    @property
    def observer(self) -> Observer | None:
        """The client's observer, if it has one."""
        return self._pipeline.observer

    def watch(
        self,
        vm_id: str,
        target: Target,
        *,
        elapsed: float = 0.0,
        visible: bool = False,
        adopted: bool = False,
        resumed: bool = False,
        completed: Evidence | None = None,
    ) -> Watch:
        """Return the watch of one operation.

        Args:
            vm_id: The VM.
            target: What was requested.
            elapsed: Seconds since the request was accepted.
            visible: Whether a read has shown the VM.
            adopted: Whether it may have been carried out before; its response was lost.
            resumed: Whether the request was accepted some time ago.
            completed: How completion of the operation is known; None if it is not complete. Then
                the VM is awaited until it is ready.
        """
        besides = target.operation if adopted else None
        quiet = not resumed and self.changes.is_quiet(vm_id, besides=besides)
        visible = visible or (not resumed and self.changes.is_visible(vm_id))
        if target.rule.is_write:
            self.changes.begin(vm_id, target)
        visible_at = elapsed if visible else None
        completion = Completion(
            target, self._max_staleness, visible_at=visible_at, quiet=quiet, rules=self._rules
        )
        readiness = None if target.ready is None else Readiness(target.ready, completed, elapsed)
        if completed is not None:
            completion = still_online(self._max_staleness, elapsed, self._rules)
        return Watch(vm_id, target, completion, elapsed, adopted, readiness)

    async def wait(
        self, watch: Watch, *, until: float | None = None, any_change: bool = False
    ) -> bool:
        """Wait for a watch to end.

        Return False if the deadline passes first. In that case the VM is polled once more, at the
        deadline or later, with a few seconds for the response.

        Args:
            watch: The watch; it has not ended.
            until: The deadline, in the loop's time; None for no deadline. If it is in the past, a
                poll sent since then suffices.
            any_change: Whether to return on any change.

        Raises:
            AuthenticationError: If the API refuses reads with these credentials.
            InvalidState: If the client is in use in another event loop, or is closed meanwhile.
        """
        self._pipeline.ensure_usable()
        loop = asyncio.get_running_loop()
        poller = self._poller_on(loop)
        waiters = watch.event_waiters if any_change else watch.waiters
        waiter: Waiter = loop.create_future()
        timer = None
        # A refresh; it is not an awaiter that times out.
        is_refresh = until is not None and until < loop.time()
        watch.refreshes += is_refresh
        if until is not None:
            # In the poller's context: a copy of the waiter's for each timer would cost memory.
            timer = poller.polls.call_at(until, poller.deadline_passed, watch, waiter, until)
        waiters.append(waiter)
        if len(watch.waiters) + len(watch.event_waiters) == 1:
            poller.join(watch)
        # Cancelled waiters get no result.
        reported: VMAPIError | bool | None = None
        try:
            result = reported = await waiter
            if is_refresh:
                await poller.probe_once(watch)
        finally:
            watch.refreshes -= is_refresh
            if timer is not None:
                timer.cancel()
            # `close` removes waiters itself.
            if waiter in waiters:
                waiters.remove(waiter)
                if not (watch.waiters or watch.event_waiters):
                    poller.leave(watch)
                    if not is_refresh:
                        _report_leaving(watch, reported)
        if isinstance(result, VMAPIError):
            raise result
        return result

    def close(self) -> None:
        """Fail every wait with `InvalidState`, and stop polling."""
        poller = self._poller
        if poller is None:
            return
        make_error = partial(InvalidState, "the client was closed while this task was awaited")
        for watch in poller.polls.watches:
            if (observer := watch.observer) is not None:
                observer.ended("closed")
        if poller.polls.loop.is_closed() or poller.polls.loop is asyncio.get_running_loop():
            self._start(poller.polls.loop)
            poller.close(make_error)
        else:
            # In the other loop, polling stops once its waiters have left.
            poller.polls.fail_all(make_error)

    def _poller_on(self, loop: asyncio.AbstractEventLoop) -> Poller:
        poller = self._poller
        if poller is not None and poller.polls.loop is loop:
            return poller
        if poller is not None and poller.polls.vms:
            raise InvalidState(
                "tasks of this client are awaited in another event loop; "
                "a client serves one loop at a time"
            )
        return self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> Poller:
        polls = Polls(self._pipeline, self._schedule, loop)
        self._poller = Poller(polls, self._vm_lists, self.changes, self.pending)
        return self._poller


def _report_leaving(watch: Watch, result: VMAPIError | bool | None) -> None:
    """Report why the last waiter left, if that was before completion."""
    if (observer := watch.observer) is None or result is True:
        return
    if isinstance(result, VMAPIError):
        observer.ended("error", result)
    else:
        observer.ended("cancelled" if result is None else "timeout")
