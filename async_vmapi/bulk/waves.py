"""`Waves`: the wave of a bulk call, and what must happen before the next one. Pure."""

import math

import attrs

from async_vmapi.bulk.domains import Domains
from async_vmapi.bulk.plan import BulkPlan, count_of, wave_sizes

__all__ = ["Progress", "Waves"]


@attrs.frozen(kw_only=True)
class Progress:
    """What was decided between waves.

    Attributes:
        promoted: The last wave that was promoted; 0 for none.
        forgiven: How many failures, the first ones, were forgiven.
    """

    promoted: int = 0
    forgiven: int = 0


class Waves:
    """Counts waves and failures.

    Args:
        plan: The plan.
        domains: The failure domains.
        progress: What was decided before.

    Attributes:
        is_empty: Whether no item of the current wave has started.
        number: The number of the current wave, from 1.
        domain: The name of its failure domain.
        progress: What was decided between waves.
        failures: How many items failed or are unknown.
    """

    def __init__(self, plan: BulkPlan, domains: Domains, progress: Progress) -> None:
        self._plan = plan
        self._domains = domains
        self._sizes = wave_sizes((), None)
        self._room: float = math.inf
        self._started = 0
        self._failures_before = 0
        self._begun = False
        self.is_empty = True
        self.number = 1
        self.domain: str = ""
        self.progress = progress
        self.failures = 0

    def __str__(self) -> str:
        canary = ", the canary" if self.is_canary else ""
        return f"wave {self.number}{canary}{f', in {self.domain}' if self.domain else ''}"

    # --- waves ----------------------------------------------------------------------------------

    def has_room(self, domain: str) -> bool:
        """Return whether an item of a domain belongs to the current wave."""
        return self._begun and domain == self.domain and self._room >= 1

    def begin(self, domain: str) -> None:
        """Begin the next wave, of a domain; an empty one does not count."""
        if not self._begun or domain != self.domain:
            self._sizes = wave_sizes(self._plan.waves or (), self._domains.total_of(domain))
            self._failures_before = self.failures
        self.number += not self.is_empty
        self._begun = self.is_empty = True
        self.domain = domain
        self._room = next(self._sizes)

    def take(self) -> None:
        """Count an item of the current wave."""
        self._room -= 1
        self._started += 1
        self.is_empty = False

    @property
    def is_canary(self) -> bool:
        """Whether the current wave is the canary, in which nothing may fail."""
        return self.number == 1 and self._plan.waves is not None

    @property
    def must_be_promoted(self) -> bool:
        """Whether the current wave must be promoted before the next one starts."""
        promote = self._plan.promote
        by_hand = promote == "each" or (promote == "manual" and self.number == 1)
        return by_hand and not self._plan.dry_run and self.progress.promoted < self.number

    def promote(self, number: int) -> None:
        """Note that a wave, and all before it, are promoted."""
        self.progress = attrs.evolve(self.progress, promoted=max(number, self.progress.promoted))

    # --- failures -------------------------------------------------------------------------------

    def forgive(self, failures: int) -> None:
        """Take the first failures, so many, out of the budget."""
        self.progress = attrs.evolve(self.progress, forgiven=max(failures, self.progress.forgiven))

    @property
    def _counted(self) -> int:
        """The failures of this domain that are not forgiven."""
        return max(0, self.failures - max(self._failures_before, self.progress.forgiven))

    def exceeded(self) -> str | None:
        """Return why no further item may start; None while failures are within the budget."""
        allowed = self._plan.max_failures
        if allowed is None or self._plan.dry_run:
            return None
        total = self._domains.total_of(self.domain)
        if self._counted <= count_of(allowed, self._started if total is None else total):
            return None
        return f"more than {allowed} failed{f' in {self.domain}' if self.domain else ''}"

    def refused(self) -> str | None:
        """Return why the next wave may not start; None if it may."""
        tolerated = self._plan.max_failures is not None and not self.is_canary
        if self._counted and not tolerated:
            return f"wave {self.number} had failures"
        return self.exceeded()
