"""The polls in flight on one event loop, and the backoff after failures."""

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
    """The VMs awaited on one event loop, and the requests that poll them.

    Attributes:
        pipeline: Sends the requests.
        schedule: The intervals.
        loop: The event loop.
        vms: The awaited VMs by their ids.
        read_at: The loop's time of the last read that showed a VM.
        context: The context of callbacks; polling must not inherit its first waiter's.
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
        """The awaited watches."""
        return (watch for vm in self.vms.values() for watch in vm.watches)

    def call_at(
        self, when: float, callback: Callable[[*_Args], object], *args: *_Args
    ) -> asyncio.TimerHandle:
        """Schedule a callback."""
        return self.loop.call_at(when, callback, *args, context=self.context)

    def send(self, poll: Coroutine[Any, Any, None], done: Callable[[], None]) -> asyncio.Task[None]:
        """Run a poll, and call `done` after it unless `stop` cancelled it; return its task."""
        # A copy: an eager task starts right here, and a context cannot be entered recursively.
        context = self.context.copy()
        request = self.loop.create_task(poll, name="async_vmapi poll", context=context)
        self._in_flight.add(request)
        request.add_done_callback(partial(self._ended, done), context=self.context)
        return request

    def _ended(self, done: Callable[[], None], request: asyncio.Task[None]) -> None:
        error = None if request.cancelled() else request.exception()
        if request not in self._in_flight:
            return
        self._in_flight.discard(request)
        if error is not None:
            self._fail(error)
        # If "cancel all tasks" cancelled it, polling continues for the remaining waiters.
        done()

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, AuthenticationError):
            # By the time of the next poll, the waiters have left.
            self._backoff_until = self.now + self.schedule.min_interval
            self.fail_all(lambda: copy.copy(error))
            return
        kind = type(error).__name__
        _log.error("polling broke off", exc_info=error, extra={"vmapi_error": kind})
        self.fail_all(lambda: InvalidState(f"polling broke off with {kind}; see the log"))

    def succeeded(self) -> None:
        """End the backoff: a read succeeded."""
        self._failures = 0

    def failed(self, error: VMAPIError) -> bool:
        """Back off if the server or the network failed, and return whether it did."""
        if not isinstance(error, ServerError | RateLimited | TransportError):
            return False
        if self.now >= self._backoff_until:
            self._failures += 1
            self._backoff_until = self.now + self.schedule.backoff(self._failures)
        return True

    def fail_all(self, make_error: Callable[[], VMAPIError]) -> None:
        """Fail every wait with an error, created by `make_error` for each watch."""
        for watch in self.watches:
            watch.wake(make_error())

    def stop(self) -> None:
        """Cancel the polls in flight."""
        requests, self._in_flight = self._in_flight, set()
        for request in requests:
            request.cancel()
