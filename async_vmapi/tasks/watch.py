"""What is known of one awaited machine: its history, and the verdict so far."""

import asyncio
import logging
import math
import weakref
from typing import Final, Literal, NamedTuple, TypeAlias

import attrs

from async_vmapi.errors import VMAPIError
from async_vmapi.models import VirtualMachine
from async_vmapi.tasks.completion import (
    Completion,
    Done,
    Evidence,
    Observation,
    Pending,
    Target,
    Verdict,
)
from async_vmapi.telemetry.hooks import OperationObserver
from async_vmapi.telemetry.logs import logger_of
from async_vmapi.transport.codec import decode_vm

__all__ = ["Condition", "TaskEvent", "Waiter", "Watch"]

_log: Final = logger_of(__name__)

_PENDING: Final = Pending()

Waiter: TypeAlias = asyncio.Future[VMAPIError | bool]
"""Is set to True for news, to False when its time has come, or to what went wrong."""


class Condition(NamedTuple):
    """What of a machine tells how an operation goes (WIRE §4)."""

    state: str
    cores: int
    ram: int


@attrs.frozen
class TaskEvent:
    """A change of a machine that a task has seen.

    Attributes:
        elapsed: Seconds since the API accepted the request.
        state: The state's word; None once the machine is gone.
        evidence: How the end is known; None for every event but a successful end.
        final: Whether this is the task's last event.
        raw: The machine as the API showed it, undecoded; None once it is gone.
    """

    elapsed: float
    state: str | None
    evidence: Evidence | None = None
    final: bool = False
    # Undecoded: most are never looked at, and a whole fleet's are kept at once.
    raw: bytes | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def vm(self) -> VirtualMachine | None:
        """The machine as it was seen then; None once it is gone.

        Raises:
            DecodingError: If the API showed it in a form that cannot be read.
        """
        return None if self.raw is None else decode_vm(self.raw)


class Watch:
    """One task's view of its VM. The poll hub reports to it by `saw` and `missed`.

    Args:
        vm_id: The VM.
        target: What was requested.
        max_staleness: Seconds by which any read may be old.
        elapsed: Seconds that had passed since the request was accepted.
        visible_at: When some read had shown the VM; None if none has.
        quiet: Whether this client changed nothing about the VM just before.
    """

    __slots__ = (
        "_completion",
        "_last",
        "_observer",
        "asked",
        "elapsed",
        "failed_looks",
        "history",
        "last_error",
        "loop",
        "readers",
        "started",
        "target",
        "verdict",
        "vm_id",
        "waiters",
    )

    def __init__(
        self,
        vm_id: str,
        target: Target,
        *,
        max_staleness: float,
        elapsed: float = 0.0,
        visible_at: float | None = None,
        quiet: bool = False,
    ) -> None:
        self.vm_id = vm_id
        self.target = target
        self.elapsed = elapsed
        self.loop = asyncio.get_running_loop()
        self.started = self.loop.time() - elapsed
        # The loop's time at which the last observation was asked.
        self.asked = -math.inf
        self.verdict: Verdict = _PENDING
        self.history: list[TaskEvent] = []
        # Those that wait for the end alone, and those that wait for every change.
        self.waiters: list[Waiter] = []
        self.readers: list[Waiter] = []
        self.failed_looks = 0
        self.last_error: str | None = None
        # Whoever can await the operation holds it; else it is no longer followed.
        self._observer: weakref.ref[OperationObserver] | None = None
        self._completion = Completion(target, max_staleness, visible_at=visible_at, quiet=quiet)
        self._last: Condition | None = None

    def move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on in another event loop: its clock counts from what is known to have passed."""
        if self.loop is not loop:
            self.loop, self.started = loop, loop.time() - self.elapsed
            self.asked = -math.inf

    @property
    def ended(self) -> bool:
        """Whether nothing more will be polled for."""
        return not isinstance(self.verdict, Pending)

    @property
    def seen(self) -> bool:
        """Whether some read has shown the VM."""
        return self._completion.visible_at is not None

    @property
    def absence_counts(self) -> bool:
        """Whether the VM can be gone: a new one that was never visible is yet to appear."""
        return self.seen or not self.target.rule.new_vm

    @property
    def left_online(self) -> bool:
        """Whether a reboot or reset was seen to have begun."""
        return self._completion.left_online

    def wake(self, problem: VMAPIError | None = None) -> None:
        """Let all awaiters go on, or fail with `problem`."""
        _wake(self.waiters, problem or True)
        _wake(self.readers, problem or True)

    def saw(self, asked: float, answered: float, seen: Condition | None, raw: bytes | None) -> bool:
        """Take one observation into account, and return whether it was.

        One that was asked before the last one, or before the request, is not.

        Args:
            asked: The loop's time when it was asked.
            answered: The loop's time when its response had arrived.
            seen: What it showed; None for absent.
            raw: The VM as it came, undecoded.
        """
        at = asked - self.started
        if self.ended or at < self.elapsed:
            return self.ended
        self.elapsed, self.asked = at, asked
        state, cores, ram = (None, 0, 0) if seen is None else seen
        observation = Observation(at, answered - self.started, state, cores, ram)
        self.verdict = self._completion.observe(observation)
        changed = seen is not None and seen != self._last
        if changed:
            self._last = seen
        if not changed and not self.ended:
            return True
        event = TaskEvent(
            elapsed=at,
            state=None if seen is None else seen.state,
            evidence=self.verdict.evidence if isinstance(self.verdict, Done) else None,
            final=self.ended,
            raw=raw,
        )
        self.history.append(event)
        self._tell(event)
        if self.ended:
            self.wake()
        else:
            _wake(self.readers, True)
        return True

    @property
    def observer(self) -> OperationObserver | None:
        """What is told what is seen; None for nothing, or if no one holds it any more."""
        return None if self._observer is None else self._observer()

    def observed_by(self, observer: OperationObserver) -> None:
        """Tell an observer what was seen so far, and what will be as long as someone holds it."""
        self._observer = weakref.ref(observer)
        for event in self.history:
            observer.seen(event.elapsed, event.state, event.evidence, end=event.final)

    def _tell(self, event: TaskEvent) -> None:
        if (observer := self.observer) is not None:
            observer.seen(event.elapsed, event.state, event.evidence, end=event.final)
        if not _log.isEnabledFor(logging.INFO if event.final else logging.DEBUG):
            return
        operation, state = self.target.operation, event.state or "gone"
        about: dict[str, object] = {
            "vmapi_operation": operation,
            "vmapi_vm_id": self.vm_id,
            "vmapi_state": state,
            "vmapi_elapsed": event.elapsed,
        }
        told = (operation, self.vm_id, state, event.elapsed)
        if not event.final:
            _log.debug("%s of %s: %s after %.1f s", *told, extra=about)
            return
        about["vmapi_evidence"] = event.evidence
        how = "failed" if event.evidence is None else f"done, {event.evidence}"
        _log.info("%s of %s: %s after %.1f s: %s", *told, how, extra=about)

    def missed(self, error: str) -> None:
        """Note a look that failed."""
        self.failed_looks += 1
        self.last_error = error


def _wake(waiters: list[Waiter], news: VMAPIError | Literal[True]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(news)
