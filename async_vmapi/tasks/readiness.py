"""`Readiness`: the progress of a VM from completion of its operation to being ready. Pure.

========== ======================================== ============================================
phase      meaning                                  left by
========== ======================================== ============================================
operation  the operation is not complete            complete and online → address or probes;
                                                    complete and offline → failed
address    a condition is the VM's address, which   a poll shows one → probes
           polls show
probes     probes check the next condition, while   the last condition is met → ready
           polls show the VM online
ready      all conditions were met                  (final)
failed     polls show that the VM is gone or lost   (final)
========== ======================================== ============================================
"""

import attrs

from async_vmapi.errors import DecodingError
from async_vmapi.models.vm import ONLINE, VirtualMachine
from async_vmapi.readiness.conditions import Address, Condition, Ready
from async_vmapi.tasks.completion import Done, Evidence, Failed, Observation, Pending, Verdict
from async_vmapi.transport.codec import decode_vm

__all__ = ["Readiness"]


@attrs.define(eq=False)
class Readiness:
    """The progress of one task.

    Args:
        ready: The conditions.
        evidence: How completion of the operation is known; None while it is not complete.

    Attributes:
        complete_at: Seconds from the request to the poll that showed completion.
        is_online: Whether the last poll showed the VM online.
        raw: The VM as last seen, undecoded.
        reason: Why the next condition is not met; empty if unknown.
    """

    ready: Ready
    evidence: Evidence | None = None
    complete_at: float = 0.0
    is_online: bool = False
    raw: bytes | None = None
    reason: str = ""
    _met: int = 0

    @property
    def next_condition(self) -> Condition | None:
        """The next condition that is not met; None if all are."""
        conditions = self.ready.conditions
        return conditions[self._met] if self._met < len(conditions) else None

    @property
    def last_name(self) -> str:
        """The name of the last condition."""
        conditions = self.ready.conditions
        return str(conditions[-1]) if conditions else ONLINE

    @property
    def needs_address(self) -> bool:
        """Whether the next condition is the address, which polls show."""
        return isinstance(self.next_condition, Address)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what is not met yet."""
        rest = tuple(map(str, self.ready.conditions[self._met :]))
        return rest if self.evidence is not None and self.is_online else (ONLINE, *rest)

    def met(self) -> Done | None:
        """Note that the next condition is met, and return the verdict if it was the last one."""
        self._met += 1
        self.reason = ""
        return self.verdict()

    def verdict(self) -> Done | None:
        """Return the verdict if the VM is ready."""
        ready = self.evidence is not None and self.is_online and self.next_condition is None
        return Done(self.evidence, "ready") if ready and self.evidence is not None else None

    def judge(
        self, verdict: Verdict, observation: Observation, raw: bytes | None
    ) -> tuple[Verdict, list[str]]:
        """Return the verdict after a poll, and what it showed to be met.

        Args:
            verdict: The verdict on the operation; once that is complete, on the VM being online.
            observation: The poll's result.
            raw: The VM, undecoded.
        """
        met: list[str] = []
        self.is_online = isinstance(verdict, Done) and observation.state == ONLINE
        if isinstance(verdict, Failed):
            return verdict, met
        if raw is not None:
            self.raw = raw
        if isinstance(verdict, Done) and self.evidence is None:
            self.evidence, self.complete_at = verdict.evidence, observation.sent_at
            if not self.is_online:
                reason = f"complete, but the VM is {observation.state!r}, so it cannot become ready"
                hint = "power it on, then call wait_ready"
                return Failed(f"{reason}: {hint}", rule="offline"), met
            met.append(ONLINE)
        if not self.is_online:
            return verdict if isinstance(verdict, Pending) else Pending(), met
        if self.needs_address and self._has_address():
            met.append(str(self.next_condition))
            self.met()
        return self.verdict() or Pending(), met

    def _has_address(self) -> bool:
        try:
            found = self.raw is not None and bool(decode_vm(self.raw).addresses)
        except DecodingError as error:
            self.reason = str(error)
            return False
        self.reason = "" if found else "the VM has none yet"
        return found

    def vm(self) -> VirtualMachine:
        """Return the VM as last seen."""
        return decode_vm(self.raw or b"")
