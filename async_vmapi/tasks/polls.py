"""The polls in flight on one event loop, and how failures hold them back."""

import asyncio
import contextvars
import copy
import math
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final, TypeVarTuple

import attrs

from async_vmapi.errors import (
    AuthenticationError,
    InvalidState,
    RateLimited,
    ServerError,
    TransportError,
    VMAPIError,
)
from async_vmapi.tasks.polled_vm import PolledVM
from async_vmapi.tasks.schedule import Schedule
from async_vmapi.tasks.watch import Watch
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.pipeline import Pipeline

__all__ = ["Polls"]

_Args = TypeVarTuple("_Args")

_log: Final = logger_of(__name__)


@attrs.define(eq=False)
class Polls:
    """The VMs that are awaited on one event loop, and the requests that ask for them.

    Attributes:
        pipeline: Sends the requests.
        schedule: The intervals.
        loop: The event loop.
        vms: The awaited VMs by their ids.
        read_at: The loop's time when a read last showed anything but an absence.
        context: What callbacks run in: polling is no part of what its first waiter does.
    """

    pipeline: Pipeline
    schedule: Schedule
    loop: asyncio.AbstractEventLoop
    vms: dict[str, PolledVM] = attrs.field(factory=dict[str, PolledVM])
    read_at: float = -math.inf
    context: contextvars.Context = attrs.field(factory=contextvars.Context)
    _failures: int = 0
    _backoff_until: float = -math.inf
    _in_flight: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])

    @property
    def now(self) -> float:
        """The loop's time."""
        return self.loop.time()

    @property
    def hold_until(self) -> float:
        """The loop's time before which no poll is sent."""
        return max(self._backoff_until, self.pipeline.held_until)

    @property
    def watches(self) -> Iterator[Watch]:
        """What is awaited."""
        return (watch for vm in self.vms.values() for watch in vm.watches)

    def call_at(
        self, when: float, callback: Callable[[*_Args], object], *args: *_Args
    ) -> asyncio.TimerHandle:
        """Set a timer."""
        return self.loop.call_at(when, callback, *args, context=self.context)

    def send(self, poll: Coroutine[Any, Any, None], done: Callable[[], None]) -> None:
        """Run a poll, and call `done` after it, unless `stop` has let go of it."""
        # A copy: an eager task begins here, and a context cannot be entered twice.
        context = self.context.copy()
        request = self.loop.create_task(poll, name="async_vmapi poll", context=context)
        self._in_flight.add(request)
        request.add_done_callback(partial(self._ended, done), context=self.context)

    def _ended(self, done: Callable[[], None], request: asyncio.Task[None]) -> None:
        error = None if request.cancelled() else request.exception()
        if request not in self._in_flight:
            return
        self._in_flight.discard(request)
        if error is not None:
            self._broke_off(error)
        # If "cancel all tasks" cancelled it, polling goes on for waiters that stay.
        done()

    def _broke_off(self, error: BaseException) -> None:
        if isinstance(error, AuthenticationError):
            # The waiters have left by the time that the next poll would come.
            self._backoff_until = self.now + self.schedule.floor
            self.release(lambda: copy.copy(error))
            return
        kind = type(error).__name__
        _log.error("polling broke off", exc_info=error, extra={"vmapi_error": kind})
        self.release(lambda: InvalidState(f"polling broke off with {kind}; see the log"))

    def succeeded(self) -> None:
        """Note that the API can be read."""
        self._failures = 0

    def failed(self, error: VMAPIError) -> bool:
        """Hold back if the server or the network fails, and return whether that is so."""
        if not isinstance(error, ServerError | RateLimited | TransportError):
            return False
        if self.now >= self._backoff_until:
            self._failures += 1
            self._backoff_until = self.now + self.schedule.after_failures(self._failures)
        return True

    def release(self, problem: Callable[[], VMAPIError]) -> None:
        """End every wait with an error, made by `problem` for each watch."""
        for watch in self.watches:
            watch.wake(problem())

    def stop(self) -> None:
        """Cancel what is in flight."""
        requests, self._in_flight = self._in_flight, set()
        for request in requests:
            request.cancel()
