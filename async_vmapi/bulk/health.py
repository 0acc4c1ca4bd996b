"""Health checks of a bulk call: of each VM after its operation, and during its wave's soak."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from async_vmapi.bulk.outcomes import Ended, light
from async_vmapi.bulk.plan import BulkPlan
from async_vmapi.bulk.report import Outcome
from async_vmapi.errors import InvalidState, TaskTimeout, VMAPIError
from async_vmapi.models.vm import VirtualMachine
from async_vmapi.readiness.conditions import Ready
from async_vmapi.writes.operations import GENERAL

__all__ = ["Soak", "WaitReady", "checked", "cut_short", "unchecked"]

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
    except VMAPIError as error:
        reason = f"{_complete(operation)}, but the VM is not healthy: {error}"
        return _unhealthy(outcome, reason, error)
    value: Any = vm if isinstance(outcome.value, VirtualMachine) else outcome.value
    return Ended(attrs.evolve(outcome, value=value), online=True)


def unchecked(ended: Ended, operation: str, why: str, token: str | None) -> Ended:
    """Return how an item ended whose check is no longer awaited.

    Args:
        ended: How its operation ended.
        operation: The operation's name.
        why: Why the check is no longer awaited.
        token: The task's token, with which the check can be repeated.
    """
    unknown = attrs.evolve(
        ended.outcome,
        status="unknown",
        reason=f"{_complete(operation)}, but {why} before its check passed",
        token=token,
        accepted=token is not None,
        seconds=None,
        evidence=None,
        value=None,
    )
    return Ended(unknown)


def cut_short(ended: Ended, why: str) -> Ended:
    """Return how an item ended that succeeded, but has not soaked to the end."""
    reason = f"its soak was cut short: {why}"
    return attrs.evolve(ended, outcome=attrs.evolve(ended.outcome, reason=reason))


@attrs.define(eq=False)
class Soak:
    """The soak of one VM; the rollout runs it like an item.

    Attributes:
        ended: How the item has ended so far.
        plan: The plan.
        wait_ready: Waits until the VM is healthy.
        began: The loop's time at which the wave's soak began.
        max_staleness: Maximum age of a read, in seconds.
    """

    ended: Ended
    plan: BulkPlan
    wait_ready: WaitReady
    began: float
    max_staleness: float

    async def run(self) -> Ended:
        """Check the VM repeatedly until the soak ends; the last check starts at its end.

        All VMs are checked at the same times, so that polls are shared.
        """
        plan, clock = self.plan, asyncio.get_running_loop().time
        ready, tolerance = plan.check or Ready(), self.max_staleness + _TOLERANCE
        interval = min(max(plan.soak / 10, _SHORTEST), _LONGEST)
        at, end, seen = self.began, self.began + plan.soak, self.began
        while True:
            # A check that took long leaves some out.
            at = min(at + interval * max(1, math.ceil((clock() - at) / interval)), end)
            await asyncio.sleep(at - clock())
            try:
                await self.wait_ready(self._vm_id, ready, tolerance)
            except TaskTimeout as error:
                # Without a single response, nothing is known about the VM.
                if error.history or clock() - seen > plan.check_timeout:
                    return self._fallen(at, error)
                continue
            except VMAPIError as error:
                return self._fallen(at, error)
            seen = clock()
            if at >= end:
                return self.ended

    @property
    def _vm_id(self) -> str:
        return self.ended.outcome.vm_id or ""

    def _fallen(self, at: float, error: VMAPIError) -> Ended:
        reason = f"it was healthy at first, but not {at - self.began:.0f} s later: {error}"
        return _unhealthy(self.ended.outcome, reason, error)

    def cut_off(self, why: str) -> Ended:
        """Return what is known now, if the soak does not go on."""
        return cut_short(self.ended, why)
