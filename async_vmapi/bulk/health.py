"""Health checks of a bulk call: of each VM after its operation, and during its wave's soak."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, TypeAlias

import attrs

from async_vmapi.bulk.outcomes import Ended, light
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Outcome
from async_vmapi.errors import InvalidState, TaskError, TaskTimeout, VMAPIError
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.readiness.prober import MOST_AT_ONCE
from async_vmapi.writes.operations import GENERAL

__all__ = ["Soak", "Soaking", "WaitReady", "checked", "cut_short", "unchecked"]

WaitReady: TypeAlias = Callable[[str, Ready, float], Awaitable[VirtualMachine]]
"""Waits until a VM is ready, for at most a number of seconds, like ``client.vms.wait_ready``."""

_TOLERANCE: Final = 15.0
"""Seconds within which a check must pass during a soak, in addition to the reads' staleness: reads
can still show a VM as it was before its operation was complete."""

_SHORTEST: Final = 5.0
_LONGEST: Final = 30.0


def _unhealthy(outcome: Outcome, reason: str, error: VMAPIError) -> Ended:
    failed = attrs.evolve(
        outcome,
        status="failed",
        reason=reason,
        error=type(error).__name__,
        exception=light(error),
        seconds=None,
        evidence=None,
        value=None,
    )
    return Ended(failed)


def _complete(operation: str) -> str:
    return "the function has returned" if operation == GENERAL else f"the {operation} is complete"


async def checked(ended: Ended, operation: str, plan: BulkPlan, wait_ready: WaitReady) -> Ended:
    """Return how an item ended, once its VM has passed the plan's check or has failed it.

    Args:
        ended: How its operation ended.
        operation: The operation's name.
        plan: The plan.
        wait_ready: Waits for the check.

    Raises:
        VMAPIError: If the check was broken off, as by a closed client, so that nothing is known
            about the VM; see `unchecked`.
    """
    outcome = ended.outcome
    if outcome.status != "succeeded" or not (plan.check or plan.soak):
        return ended
    if outcome.vm_id is None:
        reason = "it returned neither a Task nor a VirtualMachine, so its VM cannot be checked"
        return _unhealthy(outcome, reason, InvalidState(reason))
    if plan.check is None:
        return ended
    try:
        vm = await wait_ready(outcome.vm_id, plan.check, plan.check_timeout)
    except TaskError as error:
        reason = f"{_complete(operation)}, but the VM is not healthy: {error}"
        return _unhealthy(outcome, reason, error)
    value: Any = vm if isinstance(outcome.value, VirtualMachine) else outcome.value
    return Ended(attrs.evolve(outcome, value=value), online=True)


def unchecked(
    ended: Ended, operation: str, why: str, token: str | None, error: Exception | None = None
) -> Ended:
    """Return how an item ended whose check is no longer awaited.

    Args:
        ended: How its operation ended.
        operation: The operation's name.
        why: Why the check is no longer awaited.
        token: The task's token, with which the check can be repeated.
        error: The error that broke it off, if one did.
    """
    unknown = attrs.evolve(
        ended.outcome,
        status="unknown",
        reason=f"{_complete(operation)}, but {why}",
        token=token,
        accepted=token is not None,
        seconds=None,
        evidence=None,
        value=None,
        error=None if error is None else type(error).__name__,
        exception=None if error is None else light(error),
    )
    return Ended(unknown)


def cut_short(ended: Ended, why: str) -> Ended:
    """Return how an item ended that succeeded, but has not soaked to the end."""
    reason = f"its soak was cut short: {why}"
    return attrs.evolve(ended, outcome=attrs.evolve(ended.outcome, reason=reason))


@attrs.define(eq=False)
class Soaking:
    """The soak of a wave.

    Attributes:
        plan: The plan.
        wait_ready: Waits until a VM is healthy.
        max_staleness: Maximum age of a read, in seconds.
        began: The loop's time at which it began.
        slots: Limits the VMs that are probed at once: what waits for its turn is not late.
    """

    plan: BulkPlan
    wait_ready: WaitReady
    max_staleness: float
    began: float = attrs.field(init=False, factory=lambda: asyncio.get_running_loop().time())
    slots: AbstractAsyncContextManager[object] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        probes = self.plan.check is not None and self.plan.check.has_probes
        self.slots = asyncio.Semaphore(MOST_AT_ONCE) if probes else nullcontext()


@attrs.define(eq=False)
class Soak:
    """The soak of one VM; the rollout runs it like an item.

    Attributes:
        ended: How the item has ended so far.
        wave: The soak of its wave.
    """

    ended: Ended
    wave: Soaking

    async def run(self) -> Ended:
        """Check the VM repeatedly until the soak ends; the last check starts at its end.

        All VMs are checked at the same times, so that polls are shared.
        """
        wave, clock = self.wave, asyncio.get_running_loop().time
        plan, began = wave.plan, wave.began
        ready, tolerance = plan.check or Ready(), wave.max_staleness + _TOLERANCE
        interval = min(max(plan.soak / 10, _SHORTEST), _LONGEST)
        at, end, seen = began, began + plan.soak, began
        while True:
            # A check that took long leaves some out.
            at = min(at + interval * max(1, math.ceil((clock() - at) / interval)), end)
            await asyncio.sleep(at - clock())
            try:
                async with wave.slots:
                    await wave.wait_ready(self._vm_id, ready, tolerance)
            except TaskTimeout as error:
                # Without a single response, nothing is known about the VM.
                if error.history or clock() - seen > plan.check_timeout:
                    return self._fallen(at, error, "not")
                continue
            except TaskError as error:
                return self._fallen(at, error, "not")
            except VMAPIError as error:
                return self._fallen(at, error, "it could not be checked")
            seen = clock()
            if at >= end:
                return self.ended

    @property
    def _vm_id(self) -> str:
        return self.ended.outcome.vm_id or ""

    def _fallen(self, at: float, error: VMAPIError, but: str) -> Ended:
        later = f"{at - self.wave.began:.0f} s later"
        return _unhealthy(
            self.ended.outcome, f"it was healthy at first, but {but} {later}: {error}", error
        )

    def cut_off(self, why: str) -> Ended:
        """Return what is known now, if the soak does not go on."""
        return cut_short(self.ended, why)
