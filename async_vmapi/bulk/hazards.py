"""`Hazards`: what goes wrong in the runs of a rehearsal, and how often. Pure."""

from typing import Any, Final, cast

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.serialization import Document

__all__ = ["Hazards"]

_SHARES: Final = (
    "lost_requests",
    "lost_responses",
    "server_errors",
    "rate_limited",
    "stalls",
    "failing",
    "ignoring_acpi",
    "unhealthy",
)


@attrs.frozen(kw_only=True)
class Hazards(Document):
    """What goes wrong in the runs of a rehearsal, drawn for each request and each VM.

    The defaults are assumed, as no fact says how often something fails: give your own. Durations
    and the age of reads are not among them; they come from the client's facts.

    Args:
        lost_requests: Share of requests whose connection breaks before they are carried out.
        lost_responses: Share of requests that are carried out, and whose response is lost.
        server_errors: Share of requests that get a 502 and are not carried out.
        rate_limited: Share of requests that get a 429 with ``Retry-After: 5``.
        stalls: Share of requests that are carried out, and whose connection hangs for a minute.
        failing: Share of VMs on which an operation that would end ``online`` fails, with the state
            ``error``.
        ignoring_acpi: Share of VMs whose guest ignores ACPI (WIRE §4).
        unhealthy: Share of VMs that never pass the plan's check.
        warm_up: Seconds, from and to, from being online until a check passes.
        latency: Seconds from a request to its response.

    Raises:
        InvalidArgument: If a value is invalid.
    """

    lost_requests: float = 0.002
    lost_responses: float = 0.002
    server_errors: float = 0.005
    rate_limited: float = 0.002
    stalls: float = 0.0005
    failing: float = 0.002
    ignoring_acpi: float = 0.01
    unhealthy: float = 0.005
    warm_up: tuple[float, float] = (5.0, 30.0)
    latency: float = 0.05

    def __attrs_post_init__(self) -> None:
        for name in _SHARES:
            if validation.number(name, getattr(self, name), least=0.0) > 1:
                raise validation.refuse(name, getattr(self, name), "a share from 0 to 1")
        validation.duration("latency", self.latency)
        warm_up: object = self.warm_up
        if not isinstance(warm_up, tuple) or len(cast("tuple[object]", warm_up)) != 2:
            raise _no_pair(warm_up)
        shortest, longest = (validation.duration("warm_up", end) for end in self.warm_up)
        if shortest > longest:
            raise _no_pair(warm_up)

    @classmethod
    def none(cls) -> "Hazards":
        """Return hazards with which nothing goes wrong: only durations differ between runs."""
        shares: dict[str, Any] = dict.fromkeys(_SHARES, 0.0)
        return cls(**shares)


def _no_pair(value: object) -> InvalidArgument:
    return validation.refuse("warm_up", value, "a pair of seconds, like (5, 30), in this order")
