"""The rules of completion as data: each operation's target states, transitions and timeout. Pure.

`async_vmapi.tasks.completion` applies them, and has the logic of reboots and resizes.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from async_vmapi.models.vm import DELETING, INSTALLING, OFFLINE, ONLINE, Operation
from async_vmapi.readiness.conditions import Ready, ready_of

__all__ = ["KNOWN_STATES", "RULES", "WAIT_READY", "Awaited", "Rule", "Target"]

# WIRE §4: "any other word can come, failure words too". These are unambiguous.
_FAILURE_WORDS: Final = frozenset({"error", "failed", "failure"})


@attrs.frozen(kw_only=True)
class Rule:
    """How an operation proceeds and completes.

    Attributes:
        target_states: States in which it is complete; empty if it completes by absence.
        intermediate_states: Known states on the way. Other states, in none of the three sets, are
            handled like these: polling continues.
        failing_states: States that rule out completion.
        new_vm: Whether the operation creates the VM: no observation can predate the request, and
            an absent VM is at first "not yet" (WIRE §5.3).
        cycle: Whether the VM has to leave ``online`` and return.
        resized: Whether the VM must have the requested cores and ram.
        is_write: Whether there is a request that changes the VM.
        absences: Consecutive observations that must show the VM absent.
        grace: Seconds after which an unobserved cycle is assumed to be complete.
        timeout: Seconds to wait by default, in addition to the operation's ``wait_for``.
    """

    target_states: frozenset[str] = frozenset()
    intermediate_states: frozenset[str] = frozenset()
    failing_states: frozenset[str] = frozenset()
    new_vm: bool = False
    cycle: bool = False
    resized: bool = False
    is_write: bool = True
    absences: int = 8
    grace: float = 0.0
    timeout: float


_LOST: Final = _FAILURE_WORDS | {DELETING}
KNOWN_STATES: Final = _LOST | {INSTALLING, ONLINE, OFFLINE}

_GOES_OFF: Final = Rule(
    target_states=frozenset({OFFLINE}),
    intermediate_states=frozenset({ONLINE}),
    failing_states=_LOST,
    timeout=600.0,
)
_COMES_BACK: Final = Rule(
    target_states=frozenset({ONLINE}),
    intermediate_states=frozenset({OFFLINE}),
    failing_states=_LOST,
    cycle=True,
    grace=60.0,
    timeout=900.0,
)

RULES: Final[Mapping[Operation, Rule]] = {
    "create": Rule(
        target_states=frozenset({ONLINE}),
        intermediate_states=frozenset({INSTALLING, OFFLINE}),
        failing_states=_LOST,
        new_vm=True,
        timeout=1800.0,
    ),
    "resize": Rule(
        target_states=frozenset({ONLINE, OFFLINE}),
        failing_states=_LOST,
        resized=True,
        timeout=1800.0,
    ),
    "shutdown": _GOES_OFF,
    "power_off": _GOES_OFF,
    "power_on": Rule(
        target_states=frozenset({ONLINE}),
        intermediate_states=frozenset({OFFLINE}),
        failing_states=_LOST,
        timeout=600.0,
    ),
    "reboot": _COMES_BACK,
    "reset": _COMES_BACK,
    # Fewer absences: a wrong "deleted" costs less than a wrong "vanished".
    "delete": Rule(
        intermediate_states=frozenset({ONLINE, OFFLINE, INSTALLING, DELETING}),
        absences=5,
        timeout=900.0,
    ),
}

WAIT_READY: Final = Rule(
    target_states=frozenset({ONLINE}),
    intermediate_states=frozenset({OFFLINE, INSTALLING}),
    failing_states=_LOST,
    is_write=False,
    timeout=600.0,
)
"""The rule of the wait for a VM to be ready, which is no operation."""


Awaited: TypeAlias = Operation | Literal["wait_ready"]
"""What a task waits for: an operation, or a VM to be ready."""


def _checked(value: Ready | None) -> Ready | None:
    return None if value is None else ready_of("ready", value)


@attrs.frozen
class Target:
    """The parts of a request that its completion depends on.

    Attributes:
        operation: The operation, or ``"wait_ready"``.
        cores: The requested number of CPUs of a resize.
        ram: The requested memory in MB of a resize.
        wait_for: Minutes that the guest has to shut down.
        was_missing: Whether a delete was refused because the VM does not exist.
        ready: What the VM must do after the operation; None for nothing.
    """

    operation: Awaited
    cores: int | None = None
    ram: int | None = None
    wait_for: int = 0
    was_missing: bool = False
    ready: Ready | None = attrs.field(default=None, converter=_checked)

    @property
    def rule(self) -> Rule:
        """The operation's rule."""
        return WAIT_READY if self.operation == "wait_ready" else RULES[self.operation]

    @property
    def timeout(self) -> float:
        """Seconds to wait by default, including the guest's ``wait_for``."""
        return self.rule.timeout + 60.0 * self.wait_for
