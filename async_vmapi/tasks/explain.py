"""Explain a task: what its polls have shown, and which rule decided. Pure.

Polls that show nothing new are folded: each entry is a change, which held until the next one.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from async_vmapi.models.serialization import Document

__all__ = ["RULE_SENTENCES", "Explanation", "Seen", "SeenBy"]

SeenBy: TypeAlias = Literal["get", "list", "probe"]
"""How something was seen: by a GET, by a list, or by a probe of readiness."""

RULE_SENTENCES: Final[Mapping[str, str]] = {
    "new": "A read showed the new VM online. A VM that did not exist before has no older online.",
    "target": "A read sent max_staleness or more after the request showed the target state.",
    "cycle": "A read showed the VM offline, and one sent max_staleness or more after it online.",
    "grace": "No read showed the VM offline until the grace period was over, so it is assumed.",
    "resized": "The VM was seen down, and max_staleness later it was online with the new size.",
    "resized-offline": "The VM was offline with the new size for as long as a restart can take.",
    "resized-running": "The VM had the new size after the time in which its guest could shut down.",
    "absent": "So many polls in a row showed the VM absent that it is gone.",
    "ready": "The operation was complete, and then the VM met all conditions.",
    "failing": "Reads showed a state from which the VM cannot reach the target, and it persisted.",
    "not-deleted": "The delete was refused because the VM was missing, but a later read showed it.",
    "offline": "The operation was complete with the VM offline, so it cannot become ready.",
}
"""What each rule says, by its name; docs/completion.md derives them."""


@attrs.frozen(kw_only=True)
class Seen(Document):
    """What a poll or a probe has shown, until the next one that showed something else.

    Attributes:
        elapsed: When it was asked, in seconds since the API accepted the request.
        by: How it was asked.
        state: The VM's state; None if it was absent.
        cores: Number of CPUs, for a resize.
        ram: Memory in MB, for a resize.
        condition: The condition of readiness that it showed to be met; None for none.
    """

    elapsed: float
    by: SeenBy
    state: str | None
    cores: int | None = None
    ram: int | None = None
    condition: str | None = None

    def __str__(self) -> str:
        size = "" if self.cores is None else f", {self.cores} cores and {self.ram} MB"
        met = "" if self.condition in (None, self.state) else f", {self.condition} met"
        how = {"get": "GET", "list": "list", "probe": "probe"}[self.by]
        return f"{self.elapsed:8.1f} s  {how:5}  {self.state or 'absent'}{size}{met}"


@attrs.frozen(kw_only=True)
class Explanation(Document):
    """Why a task is as it is; from `Task.explain`.

    Attributes:
        operation: The operation.
        vm_id: The VM's id.
        status: ``complete``, ``failed`` or ``pending``.
        evidence: How completion is known; None if it is not complete.
        rule: The name of the rule that decided, a key of ``RULE_SENTENCES``; empty while pending.
        seen: What was seen, the oldest first.
        absent_polls: How many polls showed the VM absent.
        failed_polls: How many polls failed.
        last_poll_error: The text of the last one's error.
        missing: What a task with ``ready`` still waits for.
        max_staleness: The assumed maximum age of a read, in seconds.
    """

    operation: str
    vm_id: str
    status: Literal["complete", "failed", "pending"]
    evidence: str | None = None
    rule: str = ""
    seen: tuple[Seen, ...] = ()
    absent_polls: int = 0
    failed_polls: int = 0
    last_poll_error: str | None = None
    missing: tuple[str, ...] = ()
    max_staleness: float = 0.0

    @property
    def sentence(self) -> str:
        """What the rule says; empty while the task is pending."""
        return RULE_SENTENCES.get(self.rule, "")

    def __str__(self) -> str:
        how = f", {self.evidence}" if self.evidence else ""
        lines = [f"{self.operation} of {self.vm_id}: {self.status}{how}"]
        lines += [str(seen) for seen in self.seen] or ["nothing was seen"]
        if self.absent_polls:
            lines.append(f"{_polls(self.absent_polls)} showed the VM absent")
        if self.failed_polls:
            lines.append(f"{_polls(self.failed_polls)} failed; the last: {self.last_poll_error}")
        if self.missing:
            lines.append(f"missing: {', '.join(self.missing)}")
        if self.sentence:
            lines.append(f"{self.sentence} (max_staleness: {self.max_staleness:g} s)")
        return "\n".join(lines)


def _polls(count: int) -> str:
    return f"{count} poll{'s' * (count != 1)}"
