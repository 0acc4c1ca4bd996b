"""The rules of completion as data: each operation's target states, transitions and timeout. Pure.

`async_vmapi.tasks.completion` applies them, and has the logic of reboots and resizes.
"""

import functools
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from async_vmapi.facts.assumptions import DEFAULT, Assumptions
from async_vmapi.models.vm import DELETING, INSTALLING, OFFLINE, ONLINE, Operation
from async_vmapi.readiness.conditions import Ready, ready_of

__all__ = ["DEFAULT_RULES", "KNOWN_STATES", "RULES", "Awaited", "Rule", "Rules", "Target"]


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


Awaited: TypeAlias = Operation | Literal["wait_ready"]
"""What a task waits for: an operation, or a VM to be ready."""


@attrs.frozen(eq=False)
class Rules:
    """The rules that follow from what is assumed of a provider.

    Attributes:
        assume: What is assumed.
        writes: The rule of each operation.
        wait_ready: The rule of the wait for a VM to be ready, which is no operation.
    """

    assume: Assumptions
    writes: Mapping[Operation, Rule]
    wait_ready: Rule

    @classmethod
    def of(cls, assume: Assumptions) -> "Rules":
        """Return the rules for assumptions."""
        lost = assume.failure_states | {DELETING}
        rule = functools.partial(Rule, failing_states=lost, absences=assume.absences)
        online, offline = frozenset({ONLINE}), frozenset({OFFLINE})
        goes_off = rule(target_states=offline, intermediate_states=online, timeout=600.0)
        comes_back = rule(
            target_states=online,
            intermediate_states=offline,
            cycle=True,
            grace=assume.reboot_grace,
            timeout=900.0,
        )
        installing = frozenset({INSTALLING, OFFLINE})
        writes: dict[Operation, Rule] = {
            "create": rule(
                target_states=online, intermediate_states=installing, new_vm=True, timeout=1800.0
            ),
            "resize": rule(target_states=online | offline, resized=True, timeout=1800.0),
            "shutdown": goes_off,
            "power_off": goes_off,
            "power_on": rule(target_states=online, intermediate_states=offline, timeout=600.0),
            "reboot": comes_back,
            "reset": comes_back,
            "delete": Rule(
                intermediate_states=frozenset({ONLINE, OFFLINE, INSTALLING, DELETING}),
                absences=assume.absences_of_delete,
                timeout=900.0,
            ),
        }
        wait_ready = rule(
            target_states=online, intermediate_states=installing, is_write=False, timeout=600.0
        )
        return cls(assume, writes, wait_ready)

    def rule(self, awaited: Awaited) -> Rule:
        """Return the rule of what a task waits for."""
        return self.wait_ready if awaited == "wait_ready" else self.writes[awaited]


DEFAULT_RULES: Final = Rules.of(DEFAULT)
"""The rules that hold until facts say more."""

RULES: Final = DEFAULT_RULES.writes
"""The rule of each operation."""

KNOWN_STATES: Final = DEFAULT.known_states
"""States that are known until facts say more."""


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
        """The operation's rule, but for what facts may change: states, absences and times."""
        return DEFAULT_RULES.rule(self.operation)

    @property
    def timeout(self) -> float:
        """Seconds to wait by default, including the guest's ``wait_for``."""
        return self.rule.timeout + 60.0 * self.wait_for
